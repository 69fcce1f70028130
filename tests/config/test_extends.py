import pytest

from ppml.config.load import deep_merge, load_config, parse_config, resolve_extends
from ppml.config.technique import Ckks, Independent, NoPrivacy, Plaintext
from ppml.errors import UserError

from .small import FEDERATED, PRIVATE, refusal, small


def arms(**entries):
    return parse_config(small(arms=entries), "my.yaml").arms


def test_keys_of_an_arm_replace_keys_of_its_base_one_by_one():
    found = arms(
        base={"training": {"epochs": 3, "learning_rate": 0.5}}, top={"extends": "base", "training": {"epochs": 4}}
    )
    assert (found["top"].training.epochs, found["top"].training.learning_rate) == (4, 0.5)
    assert (found["base"].training.epochs, found["base"].training.learning_rate) == (3, 0.5)


def test_section_whose_kind_changes_is_replaced_whole():
    found = arms(
        base={"topology": FEDERATED, "aggregation": {"kind": "plaintext", "clip": 2.0}},
        ckks={"extends": "base", "aggregation": {"kind": "ckks"}},
        local={
            "extends": "base",
            "aggregation": {"kind": "plaintext"},
            "topology": {"kind": "independent", "partition": "iid8"},
        },
    )
    assert found["ckks"].aggregation == Ckks()
    assert found["ckks"].topology == found["base"].topology
    assert found["local"].topology == Independent(partition="iid8")
    assert found["local"].aggregation == Plaintext(clip=2.0)


def test_kind_need_not_be_repeated_to_change_one_key():
    assert (
        arms(base={"privacy": PRIVATE}, top={"extends": "base", "privacy": {"epsilon": 9.0}})["top"].privacy.epsilon
        == 9
    )
    assert (
        arms(base={"privacy": PRIVATE}, top={"extends": "base", "privacy": {"kind": "none"}})["top"].privacy
        == NoPrivacy()
    )


def test_null_undoes_an_inherited_key():
    own = {"epsilon": None, "noise_multiplier": 4.0}
    assert arms(base={"privacy": PRIVATE}, top={"extends": "base", "privacy": own})["top"].privacy.noise_multiplier == 4


def test_label_is_not_inherited():
    found = arms(base={"label": "Base"}, plain={"extends": "base"}, own={"extends": "base", "label": "Own"})
    assert [found[name].label for name in ("base", "plain", "own")] == ["Base", None, "Own"]


def test_training_is_not_inherited_by_a_reference():
    base = {"dataset": "breast_cancer", "model": "mlp", "training": {"epochs": 3}}
    forest = {"extends": "base", "model": "random_forest"}
    found = arms(base=base, forest=forest, other={"extends": "forest"}, mlp={"extends": "forest", "model": "mlp"})
    assert [found[name].training.epochs for name in ("base", "forest", "other", "mlp")] == [3, 10, 10, 10]


def test_training_stated_by_a_reference_is_refused_where_it_stands():
    forest = {"dataset": "breast_cancer", "model": "random_forest", "training": {"learning_rate": 0.1}}
    message = refusal(small(arms={"forest": forest, "heir": {"extends": "forest"}}))
    assert message.startswith("arms.forest.training.learning_rate: got 0.1, which model 'random_forest' does not read")
    own = {"extends": "base", "model": "hist_gradient_boosting", "training": {"epochs": 10}}
    base = {"dataset": "breast_cancer", "model": "mlp", "training": {"batch_size": 8}}
    assert refusal(small(arms={"base": base, "own": own})).startswith("arms.own.training.epochs: got 10, which")


def test_arm_may_extend_an_arm_that_extends_another_in_any_order():
    found = arms(
        last={"extends": "middle", "training": {"shift": 1}},
        middle={"extends": "first", "training": {"momentum": 0.5}},
        first={"training": {"epochs": 3}},
    )["last"].training
    assert (found.epochs, found.momentum, found.shift) == (3, 0.5, 1)


def test_resolved_arm_has_no_extends():
    assert arms(base={}, top={"extends": "base"})["top"].extends is None
    assert arms(base={}, top={"extends": None})["top"] == arms(base={})["base"]


def test_lists_are_replaced_whole():
    assert deep_merge({"seeds": [0, 1, 2]}, {"seeds": [7]}) == {"seeds": [7]}


def test_merge_changes_neither_of_its_arguments():
    base, top = {"a": {"x": 1}}, {"a": {"y": 2}}
    assert deep_merge(base, top) == {"a": {"x": 1, "y": 2}}
    assert (base, top) == ({"a": {"x": 1}}, {"a": {"y": 2}})


@pytest.mark.parametrize(
    ("entries", "circle"),
    [
        ({"a": {"extends": "a"}}, "a -> a"),
        ({"a": {"extends": "b"}, "b": {"extends": "c"}, "c": {"extends": "a"}}, "a -> b -> c -> a"),
    ],
)
def test_circle_is_refused_with_its_arms(entries, circle):
    message = refusal(small(arms=entries))
    assert message.endswith(f"extends: a circle: {circle}")


def test_unknown_base_is_refused_with_a_suggestion():
    message = refusal(small(arms={"fl": {}, "top": {"extends": "fll"}}))
    assert message == "arms.top.extends: unknown arm 'fll'; did you mean 'fl'? allowed: fl, top"


TYPO = {"training": {"lerning_rate": 0.1}}


@pytest.mark.parametrize(
    ("entries", "start", "mention"),
    [
        # Inheriting arms come before and after the arm with the key.
        (
            {"c": {"extends": "b"}, "b": {"extends": "a", "label": "B"}, "a": TYPO, "d": {"extends": "a"}, "e": {}},
            "arms.a.training: unknown key 'lerning_rate'",
            "(3 more arms by extends)",
        ),
        ({"b": {"extends": "a"}, "a": {"model": "mlpp"}}, "arms.a.model: unknown model 'mlpp'", "(1 more arm"),
        ({"b": {"extends": "a"}, "a": {"privacy": {"kind": "exmple"}}}, "arms.a.privacy.kind: got", "(1 more arm"),
        ({"b": {"extends": "a"}, "a": {"aggregation": {"kind": "ckks"}}}, "arms.a: aggregation 'ckks'", "(1 more arm"),
        ({"b": TYPO, "c": TYPO, "d": {"extends": "c"}}, "arms.b.training: unknown key", "arms.c (1 more arm"),
        # A check of the whole configuration also names the arm with the key.
        (
            {"b": {"extends": "a"}, "a": {"topology": {**FEDERATED, "partition": "iid9"}}},
            "arms.a.topology.partition: unknown partition 'iid9'; did you mean 'iid8'?",
            "",
        ),
        ({"b": {"extends": "a"}, "a": {"seeds": [1, 1]}}, "arms.a.seeds: [1, 1] names a seed twice", ""),
    ],
)
def test_inherited_error_is_one_line_of_the_arm_with_its_key(entries, start, mention):
    message = refusal(small(arms=entries))
    assert message.startswith(start) and mention in message


def test_different_errors_of_related_arms_have_separate_lines():
    with pytest.raises(UserError) as caught:
        parse_config(small(arms={"a": TYPO, "b": {"extends": "a", "model": "mlpp"}, "c": {"modle": "mlp"}}), "my.yaml")
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert keys == ["arms.a.training", "arms.b.model", "arms.c"]


@pytest.mark.parametrize("base", [3, ["fl"], {"fl": 1}])
def test_base_that_is_no_name_is_refused(base):
    message = refusal(small(arms={"fl": {}, "top": {"extends": base}}))
    assert message == f"arms.top.extends: got {base!r}; expected the name of an arm"


def test_base_without_keys_and_values_is_refused():
    assert refusal(small(arms={"base": 3, "top": {"extends": "base"}})) == "arms.base: got 3; expected keys and values"


def test_default_configuration_resolves_to_the_same_text_twice(root):
    path = root / "config" / "default.yaml"
    assert load_config(path).model_dump_json() == load_config(path).model_dump_json()


def test_missing_arms_are_refused_by_the_models():
    assert resolve_extends({"seed": 1}, "my.yaml") == {"seed": 1}
    with pytest.raises(UserError, match=r"^my\.yaml: arms: is missing$"):
        parse_config({"seed": 1}, "my.yaml")


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_file_changes_its_base_and_extending_arms_follow(tmp_path):
    write(
        tmp_path,
        base="{seed: 5, data: {train: 50}, arms: {a: {label: A}, b: {extends: a, training: {epochs: 2}}}}",
        middle="{extends: base.yaml, data: {test: 7}}",
        top="{extends: middle.yaml, seeds: [3], arms: {a: {training: {shift: 1, epochs: 9}}}}",
    )
    config = load_config(tmp_path / "top.yaml")
    assert (config.seed, config.seeds, config.data.train, config.data.test) == (5, (3,), 50, 7)
    assert (config.arms["a"].label, config.arms["a"].training.epochs) == ("A", 9)
    assert (config.arms["b"].training.shift, config.arms["b"].training.epochs) == (1, 2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "{extends: top.yaml}"}, "top.yaml: extends: a circle: top.yaml -> top.yaml"),
        (
            {"top": "{extends: a.yaml}", "a": "{extends: b.yaml}", "b": "{extends: a.yaml}"},
            "b.yaml: extends: a circle: a.yaml -> b.yaml -> a.yaml",
        ),
        (
            {"top": "{extends: topp.yaml}"},
            "top.yaml: extends: {folder}/topp.yaml: does not exist; did you mean {folder}/top.yaml?",
        ),
        ({"top": "{extends: a.yaml}", "a": "[1]"}, "a.yaml: expected keys and values at the top level, got list"),
        (
            {"top": "{extends: 3, arms: {a: {}}}"},
            "top.yaml: extends: got 3; input should be a valid string (write text that is a number in quotes)",
        ),
    ],
)
def test_unusable_base_file_is_one_message(files, message, tmp_path):
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, **files) / "top.yaml")
    assert str(caught.value) == f"{tmp_path}/{message}".replace("{folder}", str(tmp_path))
