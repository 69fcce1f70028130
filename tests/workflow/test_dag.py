"""The whole workflow on the smoke configuration: what it makes, and that it makes the same bytes however it is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from tests.workflow.kills import identity
from tests.workflow.project import DATASET, MIRROR, Project

ARTIFACTS, REPORTS = "build/smoke/artifacts", "build/smoke/reports"
RECORD_COLUMNS = [
    *["arm", "dataset", "model", "parameters", "topology", "privacy_unit", "noise", "noise_source", "aggregation"],
    *["clients", "partition", "seed", "n_train", "n_test", "accuracy", "accuracy_all", "loss", "epsilon", "delta"],
    *["accountant", "neighbouring", "noise_multiplier", "sample_rate", "steps", "device", "config_digest"],
    "data_digest",
]
COST_COLUMNS = ["arm", "seed", "seconds", "peak_memory_mb", "bytes_up", "bytes_down", "expansion"]


@pytest.fixture(scope="module")
def records(first: Project) -> pd.DataFrame:
    return pd.read_csv(first.made("reports") / "records.csv")


def test_every_arm_and_seed_has_a_record_with_the_columns_that_others_read(
    records: pd.DataFrame, first: Project
) -> None:
    assert set(RECORD_COLUMNS) <= set(records.columns)
    assert len(records) == 10 * 2
    assert not records.duplicated(["arm", "seed"]).any()
    costs = pd.read_csv(first.made("reports") / "costs.csv")
    assert set(COST_COLUMNS) <= set(costs.columns)
    assert (costs["seconds"] > 0).all()
    assert (costs["peak_memory_mb"] > 50).all()
    history = pd.read_csv(first.made("reports") / "history.csv")
    assert set(history["unit"]) == {"epoch", "round"}
    private = records.loc[records["privacy_unit"] == "example", "arm"].unique()
    # A training loss of private records is a statistic that no noise covers.
    assert history.loc[history["arm"].isin(private), "train_loss"].isna().all()


def test_every_arm_learns(records: pd.DataFrame) -> None:
    mean = records.groupby("arm")["accuracy_all"].mean()
    assert mean["centralized"] > 0.75
    assert mean["dp"] > 0.5
    if DATASET == "mnist":
        # On scikit-learn's digits the noise of this few steps costs nothing that so few images would show.
        assert mean["centralized"] > mean["dp"]
    assert mean["fl"] > mean["fl_dp"] > 0.2


def test_epsilon_is_at_most_the_target_and_close_to_it(records: pd.DataFrame) -> None:
    private = records[records["privacy_unit"] == "example"]
    assert len(private) == 3 * 2
    assert private["epsilon"].between(7.9, 8.0).all()
    assert private["accountant"].isin(["prv", "pld"]).all()
    assert records.loc[records["privacy_unit"] == "none", "epsilon"].isna().all()


@pytest.mark.parametrize(("plain", "encrypted"), [("fl", "fl_he"), ("fl_dp", "fl_dp_he")])
def test_encryption_changes_no_bit_of_the_model(first: Project, plain: str, encrypted: str) -> None:
    for seed in (0, 1):
        runs = first.made("artifacts") / "runs"
        ours = (runs / plain / f"seed{seed}" / "model.safetensors").read_bytes()
        theirs = (runs / encrypted / f"seed{seed}" / "model.safetensors").read_bytes()
        assert ours == theirs


def test_predictions_cover_the_whole_official_test_set(first: Project, records: pd.DataFrame) -> None:
    path = first.made("artifacts") / "runs" / "local" / "seed0" / "predictions.safetensors"
    predictions = load_file(path)
    models, images, classes = predictions["log_probabilities"].shape
    assert (models, images, classes) == (4, records["n_test_all"].iloc[0], 10)


def test_encrypted_updates_cost_bytes(first: Project) -> None:
    costs = pd.read_csv(first.made("reports") / "costs.csv").groupby("arm")["expansion"].mean()
    assert costs["fl"] == pytest.approx(1.0, abs=0.001)
    # Seven ciphertexts of 4,096 values, of which 2,566 are there to fill up.
    assert 3.8 < costs["fl_he"] < 4.4


def test_every_table_and_figure_is_there(first: Project) -> None:
    reports = first.made("reports")
    tables = {path.name for path in (reports / "tables").iterdir()}
    shown = ("techniques-summary", "techniques-published", "claims-claims", "audit-audit")
    assert tables >= {f"{name}.{suffix}" for name in shown for suffix in ("md", "csv", "tex", "html")}
    figures = (
        "techniques-history",
        "techniques-privacy_utility",
        "techniques-cost",
        "partitions-labels",
        "audit-audit",
    )
    for name in (*figures, "claims-loss", "claims-size"):
        assert (reports / "figures" / f"{name}.svg").stat().st_size > 10_000
        assert (reports / "figures" / f"{name}.png").stat().st_size > 10_000


def test_the_training_of_every_private_arm_is_audited_and_shows_most_of_its_epsilon(
    first: Project, records: pd.DataFrame
) -> None:
    audits = pd.read_csv(first.made("reports") / "audits.csv")
    private = records[(records["privacy_unit"] != "none") & (records["seed"] == 0)].set_index("arm")
    claims = private["noise_multiplier"]
    assert list(audits["arm"]) == list(claims.index)
    assert (audits["noise_multiplier"] == claims.loc[audits["arm"]].to_numpy()).all()
    assert audits["noise_multiplier"].between(audits["low"], audits["high"]).all()
    published = private.loc[audits["arm"], "epsilon"].to_numpy()
    assert (audits["epsilon"] == published).all()
    assert audits["epsilon_low"].between(0.8 * published, published).all()
    assert (audits["canary_norm"] > 10 * audits["max_grad_norm"]).all()
    assert audits["held"].all()


def test_a_second_run_does_nothing(first: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in (first.folder / "build").rglob("*") if path.is_file()}
    status, output = first.run()
    assert status == 0
    assert "nothing to be done" in output
    assert before == {path: path.stat().st_mtime_ns for path in (first.folder / "build").rglob("*") if path.is_file()}


def test_a_deleted_figure_costs_one_figure(first: Project) -> None:
    figure = first.made("reports") / "figures" / "techniques-cost.svg"
    content = figure.read_bytes()
    figure.unlink()
    status, output = first.run()
    assert status == 0, output
    assert figure.read_bytes() == content
    assert "train" not in output
    assert "figure_cost" in output


def test_nothing_names_a_place_on_this_machine(first: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    # Above the folder that the project was made in, and this copy of it.
    needle = str(tmp_path_factory.getbasetemp().parent).encode()
    for folder in (first.made("artifacts"), first.made("reports")):
        for path in folder.rglob("*"):
            assert not path.is_file() or needle not in path.read_bytes(), path


def test_a_repeat_on_one_core_in_another_folder_gives_the_same_bytes(first: Project, author: Project) -> None:
    if DATASET != "mnist":
        pytest.skip("the captions of the fallback say that it is one")
    reference = {path.removeprefix("build/smoke/"): sha256 for path, sha256 in identity(first).items()}
    assert len(reference) > 150
    assert identity(author, "data/subsets", "artifacts", "reports") == reference


@pytest.fixture
def without_data(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path, mirror=None)
    text = (tmp_path / "config/smoke.yaml").read_text()
    text = text.replace("data: {dataset: mnist,", "data: {mirrors: [], download: false, dataset: mnist,")
    (tmp_path / "config/smoke.yaml").write_text(text)
    yield project


def test_without_a_source_the_fallback_is_loud_and_lies_apart(without_data: Project) -> None:
    status, output = without_data.run()
    assert status == 0, output
    assert output.count("FALLBACK DATA") == 1
    assert not (without_data.folder / ARTIFACTS).exists()
    assert not (without_data.folder / REPORTS).exists()
    records = pd.read_csv(without_data.folder / f"{REPORTS}-digits" / "records.csv")
    assert set(records["dataset"]) == {"digits"}
    assert records.loc[records["arm"] == "centralized", "accuracy_all"].mean() > 0.6
    table = (without_data.folder / f"{REPORTS}-digits" / "tables" / "techniques-summary.md").read_text()
    assert "FALLBACK" in table


@pytest.mark.skipif(not MIRROR.exists(), reason="the local mirror is not there")
def test_with_the_mirror_the_data_are_mnist(records: pd.DataFrame) -> None:
    assert set(records["dataset"]) == {"mnist"}
    assert set(records["n_test_all"]) == {10_000}
