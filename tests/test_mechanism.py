"""Different privacy, different noise: the path that a private training draws from."""

from __future__ import annotations

from typing import Any

import pytest

from ppml.config.arm import Arm
from ppml.mechanism import mechanism_values, release_name
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import draws_of

SIZES = (40, 25, 60)
EXAMPLE = {"kind": "example", "noise_multiplier": 2.0, "max_grad_norm": 0.1}
SHARED = {**EXAMPLE, "noise_by": "shares"}
CLIENT = {"kind": "client", "noise_multiplier": 2.0}
CENTRAL: dict[str, Any] = {"privacy": EXAMPLE}
FEDERATED: dict[str, Any] = {
    "topology": {"kind": "federated", "partition": "one", "rounds": 3},
    "privacy": EXAMPLE,
    "training": {"epochs": 1, "batch_size": 10},
}
BY_SHARES = {**FEDERATED, "privacy": SHARED, "aggregation": {"kind": "ckks"}}
BY_CLIENT = {**FEDERATED, "privacy": CLIENT, "topology": {**FEDERATED["topology"], "weighting": "uniform"}}


def laid_over(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it, section by section."""
    return {
        **base,
        **{key: {**base.get(key, {}), **value} if isinstance(value, dict) else value for key, value in change.items()},
    }


def path(
    arm: dict[str, Any], sizes=SIZES, noise: float = 2.0, limit: int | None = None, seed: int = 0, data=("digits", 125)
) -> tuple[Any, ...]:
    """Return the path that a training of ``arm`` draws from."""
    spec = Arm.model_validate(arm)
    features = 20 if spec.features.kind == "scattering" else 28
    model = build_model(spec.model, 10, Randomness(0).torch(), features)
    given = spec, sizes, [noise] * len(sizes), [limit] * len(sizes), model
    return draws_of(*given, Randomness(1).child("seed", seed), data)[0].path


OTHERS = {
    "noise": (CENTRAL, {}, {"noise": 2.0000001}),
    "seed": (CENTRAL, {}, {"seed": 1}),
    "records": (CENTRAL, {}, {"data": ("digits", 126)}),
    "sizes": (FEDERATED, {}, {"sizes": (40, 26, 59)}),
    "clients": (FEDERATED, {}, {"sizes": (40, 25)}),
    "budget": (CENTRAL, {}, {"limit": 7}),
    "clipping norm": (CENTRAL, {"privacy": {"max_grad_norm": 0.2}}, {}),
    "batch": (CENTRAL, {"training": {"batch_size": 32}}, {}),
    "epochs": (CENTRAL, {"training": {"epochs": 11}}, {}),
    "learning rate": (CENTRAL, {"training": {"learning_rate": 0.05}}, {}),
    "momentum": (CENTRAL, {"training": {"momentum": 0.5}}, {}),
    "decay": (CENTRAL, {"training": {"decay": "constant"}}, {}),
    "shift": (CENTRAL, {"training": {"shift": 1}}, {}),
    "deformation": (CENTRAL, {"training": {"deformation": {"rotation": 5.0}}}, {}),
    "model": (CENTRAL, {"model": "logistic"}, {}),
    "topology": (CENTRAL, {"topology": {"kind": "local", "partition": "one"}}, {}),
    "rounds": (FEDERATED, {"topology": {"rounds": 4}}, {}),
    "server momentum": (FEDERATED, {"topology": {"server": {"kind": "sgd", "momentum": 0.5}}}, {}),
    "server Adam": (FEDERATED, {"topology": {"server": {"kind": "adam"}}}, {}),
    "correction": (FEDERATED, {"topology": {"correction": {"kind": "proximal"}}}, {}),
    "SCAFFOLD": (FEDERATED, {"topology": {"correction": {"kind": "scaffold"}}}, {}),
    "weighting": (FEDERATED, {"topology": {"weighting": "uniform"}}, {}),
    "participation": (FEDERATED, {"topology": {"participation": 0.5}}, {}),
    "grid": (FEDERATED, {"aggregation": {"kind": "plaintext", "fractional_bits": 19}}, {}),
    "range": (FEDERATED, {"aggregation": {"kind": "plaintext", "clip": 4.0}}, {}),
    "party that adds noise": (BY_SHARES, {"privacy": {"noise_by": "owner"}}, {}),
    "colluders": (BY_SHARES, {"privacy": {"colluders": 2}}, {}),
    "dropouts": (BY_SHARES, {"privacy": {"dropouts": 1}}, {}),
    "unit": (BY_CLIENT, {"privacy": {"kind": "example"}}, {}),
    "norm of an update": (BY_CLIENT, {"privacy": {"max_update_norm": 0.5}}, {}),
    "copies": (
        {**CENTRAL, "features": {"kind": "scattering", "components": 19}, "model": "linear"},
        {"features": {"copies": 4}},
        {},
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_mechanism_that_differs_anywhere_draws_other_noise(other):
    base, change, values = OTHERS[other]
    assert path(laid_over(base, change), **values) != path(base)


SAME = {
    "label": (CENTRAL, {"label": "another name"}),
    "accountant": (CENTRAL, {"privacy": {"accountant": "rdp"}}),
    "delta": (CENTRAL, {"privacy": {"delta": 1e-6}}),
    # What the noise is calibrated to is a statement; the noise that is found for it is the mechanism.
    "target": (CENTRAL, {"privacy": {"epsilon": 1.0, "noise_multiplier": None}}),
    "name of the partition": (FEDERATED, {"topology": {"partition": "another"}}),
    "CKKS": (FEDERATED, {"aggregation": {"kind": "ckks"}}),
    "masks": (FEDERATED, {"aggregation": {"kind": "masking"}}),
    "shares": (BY_SHARES, {"aggregation": {"kind": "shares"}}),
    "BFV": (BY_SHARES, {"aggregation": {"kind": "bfv"}}),
    "colluders without shares": (FEDERATED, {"privacy": {"colluders": 2}}),
}


@pytest.mark.parametrize("same", SAME)
def test_a_name_a_statement_or_the_aggregation_changes_no_draw(same):
    base, change = SAME[same]
    changed = laid_over(base, change)
    if same in ("shares", "BFV"):
        changed["aggregation"] = change["aggregation"]
    assert path(changed) == path(base)


def test_no_word_of_the_configuration_is_part_of_the_path():
    words = {
        value for arm in (CENTRAL, FEDERATED, BY_SHARES, BY_CLIENT) for value in path(arm) if isinstance(value, str)
    }
    assert words <= {"seed", "mechanism", "digits", "Sequential", "Conv2d", "Tanh", "MaxPool", "Flatten", "Linear"} | {
        name for name in words if name[:1].isupper()
    }


def test_groups_of_values_cannot_be_taken_for_each_other():
    arm = Arm.model_validate(FEDERATED)
    model = build_model("logistic", 10, Randomness(0).torch(), 28)
    one, other = (
        mechanism_values(arm, sizes, [1.0] * len(sizes), [None] * len(sizes), model) for sizes in ((2, 3), (2, 3, 3))
    )
    assert one != other[: len(one)]


def test_an_arm_without_privacy_draws_from_its_seed_alone():
    arm = Arm.model_validate({})
    model = build_model("logistic", 10, Randomness(0).torch(), 28)
    assert draws_of(arm, [4], [None], [None], model, Randomness(1), ("digits",)) == (Randomness(1), None)


def test_releases_of_one_name_are_those_that_a_seed_repeats():
    assert release_name(("a", 1), repeats=True) == release_name(("a", 1), repeats=True)
    assert release_name(("a", 1), repeats=True) != release_name(("a", 2), repeats=True)
    assert release_name(("a", 1), repeats=False) != release_name(("a", 1), repeats=False), (
        "secure noise is new each time"
    )
