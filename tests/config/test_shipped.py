import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from ppml.config.datasets import DATASETS
from ppml.config.load import load_config, merge_layers, read_layers, resolve_extends
from ppml.config.schema import schema_text
from ppml.pipeline.plan import Plan

CONFIG = Path(__file__).parents[2] / "config"
TUNING = tuple(sorted(path.stem for path in CONFIG.glob("tune*.yaml")))
NAMES = ("default", "smoke", "federation", *TUNING, "adult", "best", "clients", "fashion", "inference", "full")
# full.yaml is for larger machines; a checkout may be without it.
SHIPPED = [CONFIG / f"{name}.yaml" for name in NAMES if name != "full" or (CONFIG / "full.yaml").exists()]

each_file = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


def kinds(path):
    arms = load_config(path).arms.values()
    sections = ("topology", "privacy", "aggregation", "inference")
    return {(section, getattr(arm, section).kind) for arm in arms for section in sections}


@each_file
def test_shipped_file_loads_without_a_warning(path):
    config = load_config(path)
    assert config.arms
    assert config.warnings() == []


@each_file
def test_shipped_file_is_valid_by_the_schema_once_extends_is_resolved(path):
    content = resolve_extends(merge_layers(read_layers(path)), path.name)
    jsonschema.validate(content, json.loads(schema_text()))


@each_file
def test_shipped_file_names_its_schema_for_editors(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


@each_file
def test_shipped_file_has_no_key_twice(path):
    def keys_of(node):
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value]
            assert len(names) == len(set(names)), f"{path.name}, line {node.start_mark.line + 1}: {names}"
        for child in node.value if isinstance(node.value, list) else []:
            for part in child if isinstance(child, tuple) else (child,):
                keys_of(part)

    keys_of(yaml.compose(path.read_text(encoding="utf-8")))


@each_file
def test_compared_rows_are_published(path):
    published = yaml.safe_load((CONFIG / "published.yaml").read_text(encoding="utf-8"))
    experiments = load_config(path).experiments.values()
    rows = [row for one in experiments for row in (*(row.published for row in one.compare), *one.published)]
    assert set(rows) <= set(published)


def test_schema_file_is_generated_from_the_models():
    assert (CONFIG / "schema.json").read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_files_do_not_share_artifacts_or_reports():
    folders = [load_config(path).folders for path in SHIPPED]
    for key in ("artifacts", "reports"):
        places = [getattr(one, key) for one in folders]
        assert len(set(places)) == len(places)


def test_small_configurations_cover_kinds_and_reports_of_default():
    default, tested = CONFIG / "default.yaml", [CONFIG / "smoke.yaml", CONFIG / "federation.yaml"]
    assert kinds(default) <= set.union(*map(kinds, tested))
    for key in ("tables", "figures"):
        default_has, *tests_have = [
            {kind for experiment in load_config(path).experiments.values() for kind in getattr(experiment, key)}
            for path in (default, *tested)
        ]
        assert default_has <= set.union(*tests_have)


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.stem not in TUNING], ids=lambda path: path.stem)
def test_every_published_private_arm_is_audited(path):
    config = load_config(path)
    private = {name for name, arm in config.arms.items() if arm.privacy.kind != "none"}
    shown = {arm for one in config.experiments.values() if "audit" in one.tables for arm in one.arms}
    assert private == set(config.audited()) == shown
    assert all(("audit" in one.tables) == ("audit" in one.figures) for one in config.experiments.values())


def test_tuning_is_found():
    assert {"tune", "tune-features", "tune-views", "tune-anonymizer", "tune-inference"} <= set(TUNING)


@pytest.mark.parametrize("name", TUNING)
def test_tuning_reads_no_test_image_and_never_the_fallback(name):
    data = load_config(CONFIG / f"{name}.yaml").data
    assert (data.evaluate_on, data.fallback) == ("holdout", None)


@pytest.mark.parametrize("name", TUNING)
def test_subset_rule_of_tuning_gets_no_test_file(name):
    plan = Plan(load_config(CONFIG / f"{name}.yaml"), None)
    for dataset in plan.datasets():
        assert list(plan.raw_inputs(dataset)) == [file.name for file in DATASETS[dataset].files_of("train")]
    plan = Plan(load_config(CONFIG / "default.yaml"), None)
    assert list(plan.raw_inputs("mnist")) == list(DATASETS["mnist"].file_names)


@pytest.mark.parametrize("file", TUNING)
def test_private_arms_are_tuned_on_another_data_set_than_shown(file):
    _, _, name = file.partition("-")
    shown = load_config(CONFIG / f"{name if name in NAMES else 'default'}.yaml")
    tune = load_config(CONFIG / f"{file}.yaml")
    private = [name for name, arm in tune.arms.items() if arm.privacy.kind != "none"]
    assert shown.data.dataset not in {tune.dataset_of(name) for name in private}


def test_every_arm_of_default_is_shown_somewhere():
    default = load_config(CONFIG / "default.yaml")
    shown = {name for experiment in default.experiments.values() for name in experiment.arms}
    assert shown == set(default.arms)
