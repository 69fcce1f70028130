"""The configuration from --configfile and --config, as the plan gets it from Snakemake."""

import pytest
import yaml
from snakemake.cli import parse_config as parse_command_line
from snakemake.utils import update_config

from ppml.errors import UserError
from ppml.pipeline.plan import Plan


@pytest.fixture
def check(root, tmp_path, monkeypatch):
    """Return a function from files and --config entries to the plan."""
    monkeypatch.chdir(root)
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)
    places = ", ".join(f"{key}: {tmp_path / key}" for key in ("data", "artifacts", "reports", "logs"))
    apart = (f"folders={{{places}}}", "data={dataset: digits}")

    def call(*entries, files=()):
        given = {}
        for file in files:
            update_config(given, yaml.safe_load(file.read_text(encoding="utf-8")))
        update_config(given, parse_command_line([*apart, *entries]))
        return Plan.check(given, [str(file) for file in files])

    return call


def test_entries_change_the_default_configuration(check):
    config = check("seed=7", "data={dataset: digits, train: 1200}").config
    assert (config.seed, config.data.train, config.data.test) == (7, 1200, 2000)
    assert "fl_dp_he" in config.arms


@pytest.mark.parametrize(
    ("entry", "key", "value"),
    [
        ("seeds=[0, 1]", "seeds", (0, 1)),
        ("data={dataset: digits, train: 1200, download: false, fallback: null}", "data.train", 1200),
        ("data={dataset: digits, download: false}", "data.download", False),
        ("data={dataset: digits, fallback: null}", "data.fallback", None),
        ("data={dataset: digits, mirrors: [a, b]}", "data.mirrors", ("a", "b")),
        ("arms={fl: {training: {learning_rate: 0.5}}}", "arms.fl.training.learning_rate", 0.5),
        ("arms={fl: {label: 'ML: 8'}}", "arms.fl.label", "ML: 8"),
    ],
)
def test_braces_are_read_as_in_a_file(entry, key, value, check):
    found = check(entry).config
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def test_text_that_looks_like_a_number_stays_text_in_a_file(check, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("arms: {a: {label: '8'}}\n", encoding="utf-8")
    assert check(files=[path]).config.arms["a"].label == "8"


def test_file_replaces_the_default_and_later_files_change_it(check, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("{seed: 5, seeds: [0, 1], arms: {a: {training: {epochs: 3}}}}\n", encoding="utf-8")
    second.write_text("{seeds: [9], arms: {a: {training: {shift: 2}}}}\n", encoding="utf-8")
    config = check("arms={a: {training: {batch_size: 8}}}", files=[first, second]).config
    assert (config.seed, config.seeds, list(config.arms)) == (5, (9,), ["a"])
    training = config.arms["a"].training
    assert (training.epochs, training.shift, training.batch_size) == (3, 2, 8)


def test_extending_arm_follows_a_change_of_its_base(check):
    arms = check("arms={fl: {training: {epochs: 3}}}").config.arms
    assert arms["fl"].training.epochs == arms["fl_he"].training.epochs == 3


def test_extending_file_changes_its_base(check, tmp_path):
    (tmp_path / "base.yaml").write_text("{seed: 5, arms: {a: {training: {epochs: 3}}}}\n", encoding="utf-8")
    top = tmp_path / "top.yaml"
    top.write_text("{extends: base.yaml, arms: {a: {training: {shift: 2}}}}\n", encoding="utf-8")
    config = check("arms={a: {training: {batch_size: 8}}}", files=[top]).config
    training = config.arms["a"].training
    assert (config.seed, training.epochs, training.shift, training.batch_size) == (5, 3, 2, 8)


def test_error_names_the_file_and_the_key(check, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("{arms: {a: {}}}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check("seeds=[x]", files=[path])
    assert str(caught.value) == "--config: seeds.0: got 'x'; input should be a valid integer"
    with pytest.raises(UserError, match=r"^--config: seed: got -1; "):
        check("seed=-1")


def test_error_names_the_file_of_the_key_among_several_files(check, tmp_path):
    texts = {
        "base": "{arms: {a: {}}, seed: -1}",
        "first": "{extends: base.yaml, seeds: [0]}",
        "second": "{device: gpu}",
    }
    files = {name: tmp_path / f"{name}.yaml" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check(files=[files["first"], files["second"]])
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(files["base"]), str(files["second"])]


def test_new_kind_in_a_later_file_replaces_the_section(check, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("{arms: {a: {privacy: {kind: example, epsilon: 2.0}}}}\n", encoding="utf-8")
    second.write_text("{arms: {a: {privacy: {kind: none}}}}\n", encoding="utf-8")
    assert check(files=[first, second]).config.arms["a"].privacy.kind == "none"
    assert check("arms={a: {privacy: {kind: none}}}", files=[first]).config.arms["a"].privacy.kind == "none"


@pytest.mark.parametrize(
    ("key", "rows"), [("compare", "[{published: private-ai/4/fl_dp, arm: a}]"), ("published", "[private-ai/4/fl_dp]")]
)
def test_unknown_published_row_is_refused(check, tmp_path, key, rows):
    path = tmp_path / "my.yaml"
    path.write_text(
        f"{{arms: {{a: {{}}}}, experiments: {{e: {{title: T, arms: [a], {key}: {rows}}}}}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(
        UserError,
        match=rf"^experiments\.e\.{key}: unknown published row 'private-ai/4/fl_dp'; did you mean 'private-ai/4/fl-dp'",
    ):
        check(files=[path])


def test_fallback_has_separate_folders_and_a_warning(check, tmp_path):
    plan = check("data={dataset: kmnist, mirrors: [], download: false}")
    assert plan.fallback == "digits"
    assert plan.paths.artifacts == f"{tmp_path}/artifacts-digits"
    assert plan.paths.reports == f"{tmp_path}/reports-digits"
    assert plan.notices()[0].startswith("FALLBACK DATA: ")
    assert check().notices() == []


def test_large_delta_is_a_warning_before_the_first_job(check):
    lines = check("arms={dp_0.563: {privacy: {delta: 0.001}}}").notices()
    assert lines[0].startswith("warning: arms.dp_0.563.privacy.delta: 0.001 is not below 1/n for n = 10000 examples")


def test_training_does_not_depend_on_name_and_label(check, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("{arms: {a: {label: A}, b: {label: B}, c: {training: {epochs: 2}}}}\n", encoding="utf-8")
    one = check(files=[path])
    assert one.arm_spec("a") == one.arm_spec("b") != one.arm_spec("c")


def test_calibration_does_not_depend_on_learning_rate_and_aggregation(check):
    one = check(
        "arms={other: {extends: fl_dp, training: {learning_rate: 1.0}}, more: {extends: fl_dp, training: {epochs: 9}}}"
    )
    assert one.calibrate_spec("fl_dp") == one.calibrate_spec("fl_dp_he") == one.calibrate_spec("other")
    assert one.calibrate_spec("more") != one.calibrate_spec("fl_dp")


def test_arm_may_have_its_own_seeds(check):
    plan = check("seeds=[0, 1]", "arms={dp: {seeds: [0, 1, 2]}, fl: {seeds: [5]}}")
    seeds = {arm: [seed for other, seed in plan.runs if other == arm] for arm in ("centralized", "dp", "fl")}
    assert seeds == {"centralized": [0, 1], "dp": [0, 1, 2], "fl": [5]}
    outputs = {file for job in plan.jobs() for file in job.output_files()}
    assert plan.paths.run("fl", 5, "record.json") in outputs
    assert plan.partition_of({"arm": "fl", "seed": "5"})["partition"] in outputs
    assert plan.paths.run("fl", 0, "record.json") not in outputs
