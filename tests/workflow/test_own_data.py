"""A user's own files pass the workflow by one entry of the configuration: a table with sites, pictures in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.pipeline.plan import Plan
from ppml.pipeline.stages import STAGE

from .test_synthetic_data import configuration, run_all

PRIVATE = {"kind": "example", "epsilon": 4.0, "delta": 1e-3, "max_grad_norm": 1.0}
TRAINING = {"epochs": 8, "batch_size": 30, "learning_rate": 0.1}


def write_table(folder: Path) -> Path:
    """Write the tumours of scikit-learn with sites and patients, semicolons and decimal commas."""
    frame = load_breast_cancer(as_frame=True).frame.iloc[:, [0, 1, 2, 3, 30]]
    frame["target"] = frame["target"].map({0: "malignant", 1: "benign"})
    frame["site"] = [("north", "south", "west")[row % 3] for row in range(len(frame))]
    frame["patient"] = [f"p{row // 2}" for row in range(len(frame))]
    path = folder / "tumours of 2024.csv"
    frame.to_csv(path, index=False, sep=";", decimal=",")
    return path


def table_entry(path: Path, **changes: Any) -> dict[str, Any]:
    ranges = {"mean radius": 30, "mean texture": 40, "mean perimeter": 200, "mean area": 2600}
    return {
        "kind": "csv",
        "files": [str(path)],
        "delimiter": ";",
        "decimal": ",",
        "split": {"kind": "group", "column": "patient", "folds": 4},
        "columns": {
            **{name: {"role": "feature", "low": 0, "high": high} for name, high in ranges.items()},
            "target": {"role": "label", "values": ["malignant", "benign"]},
            "site": {"role": "site", "values": ["north", "south", "west"]},
            "patient": {"role": ["unit", "identifier"]},
        },
        **changes,
    }


def test_table_of_a_user_passes_all_stages(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    base = {"model": "mlp", "training": TRAINING}
    arms = {
        "boosting": {"model": "hist_gradient_boosting"},
        "centralized": base,
        "dp": {**base, "privacy": PRIVATE},
        "linear": {"model": "linear", "transforms": [{"kind": "binned", "bins": 6}], "training": TRAINING},
        "fl": {**base, "topology": {"kind": "federated", "partition": "sites", "rounds": 4}},
        "encrypted": {
            "model": "logistic",
            "training": {**TRAINING, "learning_rate": 0.02},
            "inference": {"kind": "ckks", "images": 20, "single_images": 1},
        },
    }
    tables, figures = ["summary", "classes", "threats"], ["labels", "confusion", "privacy_utility"]
    shown = {"title": "Tumours", "metric": "auc", "arms": [*arms], "tables": tables, "figures": figures}
    config = configuration(
        tmp_path,
        {"tumours": table_entry(path)},
        arms=arms,
        partitions={"sites": {"kind": "natural", "by": "site"}},
        audit={"kind": "canary", "steps": 32},
        experiments={"tumours": shown},
    )
    plan = Plan(config, None)
    run_all(plan)
    records = pd.read_csv(plan.paths.tidy("records")).set_index("arm")
    assert records["auc"].min() > 0.9 and records["accuracy_all"].min() > 0.8
    assert set(records["data_kind"]) == {"table"} and records.loc["fl", "clients"] == 3
    assert pd.isna(records.loc["boosting", "parameters"]) and (records["largest_unit"] == 2).all()
    clients = pd.read_csv(plan.paths.tidy("clients"))
    assert [*clients.loc[clients["arm"] == "fl", "name"]] == ["north", "south", "west"]
    about = read_json(plan.paths.subset("tumours")["about"])
    assert "units_across_split" not in about and about["identity"] and str(path) not in str(about)
    summary = Path(plan.paths.table("tumours", "summary")["md"]).read_text()
    assert "Area under the ROC curve" in summary and "up to 2 training rows" in summary and "image" not in summary


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"decimal": "."}, ["row 2", "mean radius", "17,99", "decimal"]),
        ({"delimiter": ","}, ["tumours of 2024.csv", "delimiter: ';'"]),
        ({"columns": {"site": {"role": "site", "values": ["north", "south"]}}}, ["row 4", "site", "'west'"]),
        ({"columns": {"ward": {"role": "ignored"}, "mean radius": {"role": "ignored"}}}, []),
    ],
)
def test_bad_entry_is_one_line_before_training(changes: dict[str, Any], pieces: list[str], tmp_path: Path) -> None:
    path = write_table(tmp_path)
    entry = table_entry(path)
    entry["columns"] = {**entry["columns"], **changes.pop("columns", {})}
    plan = Plan(configuration(tmp_path, {"tumours": {**entry, **changes}}), None)
    if not pieces:
        run_all(plan, STAGE["subset"])
        return
    with pytest.raises(UserError) as caught:
        run_all(plan, STAGE["subset"])
    assert all(piece in str(caught.value) for piece in ("tumours", *pieces)) and "\n" not in str(caught.value)


def test_scale_of_private_rows_is_refused_under_privacy(tmp_path: Path) -> None:
    entry = table_entry(write_table(tmp_path))
    entry["columns"]["mean radius"] = {"role": "feature", "scale": "fitted"}
    public = configuration(tmp_path, {"tumours": entry}, arms={"a": {"model": "mlp"}})
    run_all(Plan(public, None), STAGE["subset"])
    about = read_json(Plan(public, None).paths.subset("tumours")["about"])
    assert about["contract"]["mean"][0] == pytest.approx(14, abs=1) and about["contract"]["mean"][1] == 0
    with pytest.raises(UserError, match=r"fitted in column 'mean radius'.*no epsilon counts"):
        configuration(tmp_path, {"tumours": entry}, arms={"a": {"model": "mlp", "privacy": PRIVATE}})


def test_client_without_rows_is_named(tmp_path: Path) -> None:
    entry = table_entry(write_table(tmp_path))
    entry["columns"]["site"] = {"role": "site", "values": ["north", "south", "west", "east"]}
    arms = {"a": {"model": "mlp", "topology": {"kind": "federated", "partition": "sites", "rounds": 1}}}

    def plan_with(**natural: Any) -> Plan:
        partitions = {"sites": {"kind": "natural", "by": "site", **natural}}
        return Plan(configuration(tmp_path, {"tumours": entry}, arms=arms, partitions=partitions), None)

    with pytest.raises(UserError, match=r"partitions\.sites: groups: 'east' has no example"):
        run_all(plan_with(), STAGE["subset"], STAGE["partition"])
    chosen = plan_with(groups=["west", "north"])
    jobs = run_all(chosen, STAGE["subset"], STAGE["partition"])
    assert read_json(jobs[-1].output_files()[0])["names"] == ["north", "west"]
    with pytest.raises(UserError, match="by: got 'ward'; allowed: site"):
        plan_with(by="ward")


def write_pictures(folder: Path, count: int = 12) -> Path:
    """Write digits of scikit-learn as coloured pictures, a folder for each of three classes."""
    digits = load_digits()
    for label, name in enumerate(("zero", "one", "two")):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:count]):
            grey = (image * 15).astype(np.uint8)
            Image.fromarray(np.stack([grey, grey // 2, 255 - grey], axis=2)).save(folder / name / f"{number}.png")
    return folder


def test_folder_of_a_user_is_decoded_again_only_if_it_changes(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures of mine")
    entry = {
        **{"kind": "folder", "folder": str(folder), "shape": [3, 16, 16], "resize": [16, 16]},
        **{"classes": ["zero", "one", "two"], "split": {"kind": "stratified", "test": 0.25}},
    }
    arms = {"cnn": {"model": "tanh_cnn", "training": {"epochs": 30, "batch_size": 9, "learning_rate": 0.05}}}
    shown = {"title": "Pictures", "arms": ["cnn"], "tables": ["summary"], "figures": ["predictions", "confusion"]}
    config = configuration(tmp_path, {"digits3": entry}, arms=arms, experiments={"pictures": shown})
    plan = Plan(config, None)
    run_all(plan)
    records = pd.read_csv(plan.paths.tidy("records"))
    assert (records["n_train"][0], records["n_test_all"][0]) == (27, 9) and records["accuracy_all"][0] > 0.6
    (decode,) = plan.jobs(STAGE["decode"])
    (again,) = Plan(config, None).jobs(STAGE["decode"])
    assert again.spec == decode.spec and str(folder) not in decode.spec
    (folder / "one" / "0.png").unlink()
    (changed,) = Plan(config, None).jobs(STAGE["decode"])
    assert changed.spec != decode.spec


def test_fallback_replaces_only_published_data(tmp_path: Path) -> None:
    given = yaml.safe_load(Path("config/smoke.yaml").read_text())
    config = configuration(tmp_path, {"tumours": table_entry(write_table(tmp_path))})
    assert config.used_dataset("a", "digits") == "tumours"
    from ppml.config.load import parse_config

    smoke = parse_config(given, "smoke.yaml")
    used = {smoke.used_dataset(arm, "digits") for arm in smoke.arms}
    assert used == {"digits", "breast_cancer", "photo_patches"}
    default = parse_config(yaml.safe_load(Path("config/default.yaml").read_text()), "default.yaml")
    assert default.used_dataset("adult_mlp", "digits") == "breast_cancer"
