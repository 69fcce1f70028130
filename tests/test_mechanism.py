"""Different mechanisms draw different noise: the path of the randomness of a private training."""

from __future__ import annotations

from typing import Any

import pytest

from ppml.config.arm import Arm
from ppml.contract import DataContract
from ppml.mechanism import mechanism_values, release_name
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import draws_of

CONTRACT = DataContract(shape=(1, 28, 28), classes=10)
SIZES = (40, 25, 60)
SCATTERING = {"kind": "scattering", "components": 19}
EXAMPLE = {"kind": "example", "noise_multiplier": 2.0, "max_grad_norm": 0.1}
DISTRIBUTED_NOISE = {**EXAMPLE, "noise": "distributed"}
CLIENT = {"kind": "client", "noise_multiplier": 2.0}
CENTRAL: dict[str, Any] = {"privacy": EXAMPLE}
FEDERATED: dict[str, Any] = {
    "topology": {"kind": "federated", "partition": "one", "rounds": 3},
    "privacy": EXAMPLE,
    "training": {"epochs": 1, "batch_size": 10},
}
DISTRIBUTED = {**FEDERATED, "privacy": DISTRIBUTED_NOISE, "aggregation": {"kind": "ckks"}}
CLIENT_LEVEL = {**FEDERATED, "privacy": CLIENT, "topology": {**FEDERATED["topology"], "weighting": "uniform"}}


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``change``, merged section by section."""
    return {
        **base,
        **{key: {**base.get(key, {}), **value} if isinstance(value, dict) else value for key, value in change.items()},
    }


def path(
    arm: dict[str, Any],
    sizes=SIZES,
    noise: float = 2.0,
    affordable: int | None = None,
    seed: int = 0,
    data=("digits", 125),
) -> tuple[Any, ...]:
    """Return the path of the randomness of a training of ``arm``."""
    spec = Arm.model_validate(arm)
    contract = CONTRACT.features(spec.transforms[0].components + 1) if spec.transforms else CONTRACT
    model = build_model(spec.model, contract, Randomness(0).torch())
    given = spec, sizes, [noise] * len(sizes), [affordable] * len(sizes), model
    return draws_of(*given, Randomness(1).child("seed", seed), data)[0].path


OTHERS = {
    "noise": (CENTRAL, {}, {"noise": 2.0000001}),
    "seed": (CENTRAL, {}, {"seed": 1}),
    "records": (CENTRAL, {}, {"data": ("digits", 126)}),
    "sizes": (FEDERATED, {}, {"sizes": (40, 26, 59)}),
    "clients": (FEDERATED, {}, {"sizes": (40, 25)}),
    "budget": (CENTRAL, {}, {"affordable": 7}),
    "clipping norm": (CENTRAL, {"privacy": {"max_grad_norm": 0.2}}, {}),
    "batch": (CENTRAL, {"training": {"batch_size": 32}}, {}),
    "epochs": (CENTRAL, {"training": {"epochs": 11}}, {}),
    "learning rate": (CENTRAL, {"training": {"learning_rate": 0.05}}, {}),
    "momentum": (CENTRAL, {"training": {"momentum": 0.5}}, {}),
    "decay": (CENTRAL, {"training": {"learning_rate_schedule": "constant"}}, {}),
    "shift": (CENTRAL, {"training": {"shift": 1}}, {}),
    "deformation": (CENTRAL, {"training": {"deformation": {"rotation": 5.0}}}, {}),
    "model": (CENTRAL, {"model": "logistic"}, {}),
    "topology": (CENTRAL, {"topology": {"kind": "independent", "partition": "one"}}, {}),
    "rounds": (FEDERATED, {"topology": {"rounds": 4}}, {}),
    "server momentum": (FEDERATED, {"topology": {"server": {"kind": "sgd", "momentum": 0.5}}}, {}),
    "server Adam": (FEDERATED, {"topology": {"server": {"kind": "adam"}}}, {}),
    "correction": (FEDERATED, {"topology": {"correction": {"kind": "proximal"}}}, {}),
    "SCAFFOLD": (FEDERATED, {"topology": {"correction": {"kind": "scaffold"}}}, {}),
    "weighting": (FEDERATED, {"topology": {"weighting": "uniform"}}, {}),
    "participation": (FEDERATED, {"topology": {"participation": 0.5}}, {}),
    "grid": (FEDERATED, {"aggregation": {"kind": "plaintext", "fractional_bits": 19}}, {}),
    "range": (FEDERATED, {"aggregation": {"kind": "plaintext", "clip": 4.0}}, {}),
    "party that adds noise": (DISTRIBUTED, {"privacy": {"noise": "local"}}, {}),
    "colluders": (DISTRIBUTED, {"privacy": {"max_colluding": 2}}, {}),
    "dropouts": (DISTRIBUTED, {"privacy": {"max_dropouts": 1}}, {}),
    "unit": (CLIENT_LEVEL, {"privacy": {"kind": "example"}}, {}),
    "norm of an update": (CLIENT_LEVEL, {"privacy": {"max_update_norm": 0.5}}, {}),
    "copies": (
        {**CENTRAL, "transforms": [SCATTERING], "model": "linear"},
        {"transforms": [{**SCATTERING, "copies": 4}]},
        {},
    ),
    "mirror": (
        {**CENTRAL, "transforms": [SCATTERING], "model": "linear"},
        {"transforms": [{**SCATTERING, "mirror": True}]},
        {},
    ),
    "mirror in place of another prior": (
        {**CENTRAL, "transforms": [{**SCATTERING, "prior": "dead_leaves"}], "model": "linear"},
        {"transforms": [{**SCATTERING, "mirror": True}]},
        {},
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_different_mechanisms_draw_different_noise(other):
    base, change, values = OTHERS[other]
    assert path(merge(base, change), **values) != path(base)


SAME = {
    "label": (CENTRAL, {"label": "another name"}),
    "accountant": (CENTRAL, {"privacy": {"accountant": "rdp"}}),
    "delta": (CENTRAL, {"privacy": {"delta": 1e-6}}),
    # The target epsilon is a statement; the calibrated noise is the mechanism.
    "target": (CENTRAL, {"privacy": {"epsilon": 1.0, "noise_multiplier": None}}),
    "name of the partition": (FEDERATED, {"topology": {"partition": "another"}}),
    "CKKS": (FEDERATED, {"aggregation": {"kind": "ckks"}}),
    "masks": (FEDERATED, {"aggregation": {"kind": "masking"}}),
    "shares": (DISTRIBUTED, {"aggregation": {"kind": "secret_sharing"}}),
    "BFV": (DISTRIBUTED, {"aggregation": {"kind": "bfv"}}),
    "colluders without shares": (FEDERATED, {"privacy": {"max_colluding": 2}}),
}


@pytest.mark.parametrize("same", SAME)
def test_names_statements_and_the_aggregation_change_no_draw(same):
    base, change = SAME[same]
    changed = merge(base, change)
    if same in ("shares", "BFV"):
        changed["aggregation"] = change["aggregation"]
    assert path(changed) == path(base)


def test_path_contains_no_word_of_the_configuration():
    words = {
        value
        for arm in (CENTRAL, FEDERATED, DISTRIBUTED, CLIENT_LEVEL)
        for value in path(arm)
        if isinstance(value, str)
    }
    assert words <= {"seed", "mechanism", "digits", "Sequential", "Conv2d", "Tanh", "MaxPool", "Flatten", "Linear"} | {
        name for name in words if name[:1].isupper()
    }


def test_renamed_layer_class_keeps_its_name_in_the_path():
    assert "MaxOfFour" in path(CENTRAL) and "MaxPool2x2" not in path(CENTRAL)


def test_groups_of_values_are_prefix_free():
    arm = Arm.model_validate(FEDERATED)
    model = build_model("logistic", CONTRACT, Randomness(0).torch())
    one, other = (
        mechanism_values(arm, sizes, [1.0] * len(sizes), [None] * len(sizes), model) for sizes in ((2, 3), (2, 3, 3))
    )
    assert one != other[: len(one)]


def test_arm_without_privacy_draws_from_its_seed_only():
    arm = Arm.model_validate({})
    model = build_model("logistic", CONTRACT, Randomness(0).torch())
    assert draws_of(arm, [4], [None], [None], model, Randomness(1), ("digits",)) == (Randomness(1), None)


def test_release_names_repeat_only_for_seeded_noise():
    assert release_name(("a", 1), repeats=True) == release_name(("a", 1), repeats=True)
    assert release_name(("a", 1), repeats=True) != release_name(("a", 2), repeats=True)
    assert release_name(("a", 1), repeats=False) != release_name(("a", 1), repeats=False), (
        "each secure training has a new name"
    )
