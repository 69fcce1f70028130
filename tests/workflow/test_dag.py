"""The results of the whole workflow on the smoke configuration, and their repetition with the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from ppml.results.tidy_files import TIDY_FILES
from tests.documents.test_columns import documented_columns
from tests.workflow.project import DATASET, MIRROR, Project

ARTIFACTS, REPORTS = "build/smoke/artifacts", "build/smoke/reports"
REPEATED = ("dp", "local", "fl_dirichlet", "fl_dp_he", "encrypted", "table_dp")
"""Arms with a repeated run: each topology, privacy, aggregation and inference, and a table."""
REPEATED_FOLDERS = ("data/subsets", "artifacts/partitions", "reports")
RECORD_COLUMNS = [
    *["arm", "dataset", "model", "parameters", "topology", "privacy_unit", "noise", "noise_source", "aggregation"],
    *["clients", "partition", "seed", "n_train", "n_test", "accuracy", "accuracy_all", "loss", "epsilon", "delta"],
    *["accountant", "neighbouring", "noise_multiplier", "sample_rate", "steps", "device", "config_digest"],
    "data_digest",
]
COST_COLUMNS = ["arm", "seed", "seconds", "training_memory_mb", "bytes_up", "bytes_down", "expansion"]


@pytest.fixture(scope="module")
def smoke(publisher: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return results that one core has made again in part; a test restores each file that it changes."""
    project = publisher.copy(tmp_path_factory.mktemp("smoke") / "project")
    runs = project.folder / "artifacts/runs"
    for folder in (*(runs / arm / "seed1" for arm in REPEATED), *map(project.folder.joinpath, REPEATED_FOLDERS)):
        shutil.rmtree(folder)
    (runs / "fl_dp_he/seed0/audit.json").unlink()
    project.complete(cores=1)
    return project


@pytest.fixture(scope="module")
def records(smoke: Project) -> pd.DataFrame:
    return pd.read_csv(smoke.folder / "reports" / "records.csv")


def test_tidy_files_have_row_for_every_run(records: pd.DataFrame, smoke: Project) -> None:
    assert set(RECORD_COLUMNS) <= set(records.columns)
    assert len(records) == 15 * 2
    assert not records.duplicated(["arm", "seed"]).any()
    costs = pd.read_csv(smoke.folder / "reports" / "costs.csv")
    assert set(COST_COLUMNS) <= set(costs.columns)
    assert (costs["seconds"] > 0).all()
    assert costs["training_memory_mb"].between(0.1, 500).all()
    history = pd.read_csv(smoke.folder / "reports" / "history.csv")
    assert set(history["unit"]) == {"epoch", "round"}
    private = records.loc[records["privacy_unit"] == "example", "arm"].unique()
    for name in TIDY_FILES:
        columns = set(pd.read_csv(smoke.folder / "reports" / f"{name}.csv", nrows=0).columns)
        documented, first_cells = documented_columns(name)
        assert {column for column in columns if not column.startswith("label_")} <= documented, name
        assert first_cells <= columns, name
    # The training loss is a statistic of private examples without noise.
    assert history.loc[history["arm"].isin(private), "train_loss"].isna().all()


def test_every_arm_learns(records: pd.DataFrame) -> None:
    mean = records.groupby("arm")["accuracy_all"].mean()
    assert mean["centralized"] > 0.75
    assert mean["dp"] > 0.5
    if DATASET == "mnist":
        # On scikit-learn's digits the noise of these few steps costs too little for so few images.
        assert mean["centralized"] > mean["dp"]
    assert mean["fl"] > mean["fl_dp"] > 0.2
    assert min(mean["table"], mean["table_reference"]) > 0.94 and mean["table_dp"] > 0.85
    assert min(mean["colour"], mean["colour_dp"]) > 0.9
    balanced = records.groupby("arm")["balanced_accuracy"].mean()
    assert (balanced <= mean + 0.05).all() and records.loc[records["arm"] == "table", "auc"].min() > 0.98


def test_epsilon_is_at_most_target_and_close_to_it(records: pd.DataFrame) -> None:
    private = records[records["privacy_unit"] == "example"]
    assert len(private) == 5 * 2
    assert private["epsilon"].between(7.9, 8.0).all()
    assert private["accountant"].isin(["prv", "pld"]).all()
    assert records.loc[records["privacy_unit"] == "none", "epsilon"].isna().all()


@pytest.mark.parametrize(("plain", "encrypted"), [("fl", "fl_he"), ("fl_dp", "fl_dp_he")])
def test_encryption_changes_no_bit_of_model(smoke: Project, plain: str, encrypted: str) -> None:
    for seed in (0, 1):
        runs = smoke.folder / "artifacts" / "runs"
        expected = (runs / plain / f"seed{seed}" / "model.safetensors").read_bytes()
        found = (runs / encrypted / f"seed{seed}" / "model.safetensors").read_bytes()
        assert found == expected


def test_predictions_cover_whole_official_test_set(smoke: Project, records: pd.DataFrame) -> None:
    path = smoke.folder / "artifacts" / "runs" / "local" / "seed0" / "predictions.safetensors"
    predictions = load_file(path)
    sizes = {name: values.shape[-1] for name, values in predictions.items()}
    assert sizes == {
        "predicted": (n_all := records["n_test_all"].iloc[0]),
        "true_log_probabilities": records["n_test"].iloc[0],
        "labels": n_all,
    }
    assert len(predictions["predicted"]) == len(predictions["true_log_probabilities"]) == 4


def test_encrypted_updates_cost_bytes(smoke: Project) -> None:
    costs = pd.read_csv(smoke.folder / "reports" / "costs.csv").groupby("arm")["expansion"].mean()
    assert costs["fl"] == pytest.approx(1.0, abs=0.001)
    # Seven ciphertexts of 4,096 values, of which 2,566 are padding.
    assert 3.8 < costs["fl_he"] < 4.4


def test_encrypted_predictions_are_collected_and_tabulated(smoke: Project) -> None:
    reports = smoke.folder / "reports"
    rows = pd.read_csv(reports / "inferences.csv")
    assert list(rows["arm"]) == ["encrypted", "encrypted"] and list(rows["seed"]) == [0, 1]
    assert (rows["images"] == 500).all() and (rows["right"] == rows["plain_right"]).all()
    assert (rows["right"] > 250).all()
    assert (rows["error"] < rows["bound"]).all()
    table = (reports / "tables/inference-inference.md").read_text()
    assert "Without circuit privacy" in table and "| Logistic + ML, encrypted prediction | 2 | 500 |" in table


def test_every_table_and_figure_exists(smoke: Project) -> None:
    reports = smoke.folder / "reports"
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
    for name in (*figures, "claims-loss", "claims-size", "table-confusion", "colour-predictions"):
        assert (reports / "figures" / f"{name}.svg").stat().st_size > 10_000
        assert (reports / "figures" / f"{name}.png").stat().st_size > 10_000


def test_audit_shows_most_of_epsilon_of_every_private_arm(smoke: Project, records: pd.DataFrame) -> None:
    audits = pd.read_csv(smoke.folder / "reports" / "audits.csv")
    private = records[(records["privacy_unit"] != "none") & (records["seed"] == 0)].set_index("arm")
    claims = private["noise_multiplier"]
    assert list(audits["arm"]) == list(claims.index)
    assert (audits["noise_multiplier"] == claims.loc[audits["arm"]].to_numpy()).all()
    assert audits["noise_multiplier"].between(audits["low"], audits["high"]).all()
    published = private.loc[audits["arm"], "epsilon"].to_numpy()
    assert (audits["epsilon"] == published).all()
    assert audits["epsilon_low"].between(0.8 * published, published).all()
    assert (audits["canary_norm"] > 5 * audits["max_grad_norm"]).all()
    assert audits["held"].all()


def test_second_run_changes_no_file(smoke: Project) -> None:
    def times() -> dict[Path, int]:
        folders = [smoke.folder / name for name in ("data", "artifacts", "reports", "logs")]
        return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = times()
    status, output = smoke.run()
    assert status == 0 and "nothing to be done" in output
    assert times() == before


def test_deleted_figure_runs_one_job(smoke: Project) -> None:
    figure = smoke.folder / "reports" / "figures" / "techniques-cost.svg"
    content = figure.read_bytes()
    figure.unlink()
    output = smoke.complete()
    assert figure.read_bytes() == content
    assert "train" not in output
    assert "figure_cost" in output


def test_no_result_contains_absolute_path(smoke: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The common parent of the original project and its copy.
    needle = str(tmp_path_factory.getbasetemp().parent).encode()
    for folder in (smoke.folder / "artifacts", smoke.folder / "reports"):
        for path in folder.rglob("*"):
            assert not path.is_file() or needle not in path.read_bytes(), path


def test_repetition_on_one_core_gives_same_bytes(smoke: Project, publisher: Project) -> None:
    folders = ("data/subsets", "artifacts", "reports")
    reference = publisher.reproducible_files(*folders)
    assert len(reference) > 150
    assert smoke.reproducible_files(*folders) == reference


def test_fallback_is_announced_and_has_own_folders(tmp_path: Path) -> None:
    output = Project(tmp_path).without_data().keep_arms("centralized").complete()
    assert output.count("FALLBACK DATA") == 1
    assert not (tmp_path / ARTIFACTS).exists()
    assert not (tmp_path / REPORTS).exists()
    records = pd.read_csv(tmp_path / f"{REPORTS}-digits" / "records.csv")
    assert set(records["dataset"]) == {"digits"}
    assert (records["accuracy_all"] > 0.6).all()
    table = (tmp_path / f"{REPORTS}-digits" / "tables" / "techniques-summary.md").read_text()
    assert "FALLBACK" in table


@pytest.mark.skipif(not MIRROR.exists(), reason="the local mirror is missing")
def test_mirror_provides_mnist(records: pd.DataFrame) -> None:
    assert set(records["dataset"]) == {"mnist", "breast_cancer", "photo_patches"}
    assert set(records.loc[records["dataset"] == "mnist", "n_test_all"]) == {10_000}
