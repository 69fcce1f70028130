"""The values of a mechanism, as a path of randomness that identifies a private training.

Noise that two releases share can cancel: from two models of the same examples with noise of deviations a and b,
``(a W_b - b W_a) / (a - b)`` is free of noise. So the path of all noise and samples contains every value on which the
released model depends. It omits the aggregation only: every aggregation adds the same updates, and the release has the
same bits.

The path contains values and no names of configuration keys, so a renamed key changes no draw. The codes below are part
of the path and never change.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from torch import nn

from ppml.accounting.schedule import mechanism_schedules
from ppml.config.arm import Arm, TrainingSpec
from ppml.config.technique import (
    Centralized,
    ClientLevel,
    ExampleLevel,
    Federated,
    Independent,
    NoCorrection,
    NoPrivacy,
    ProximalTerm,
    Scaffold,
    ServerAdam,
    ServerSgd,
)
from ppml.config.transforms import Binned, Patches, Scattering

Value = str | int | float

EXAMPLE, CLIENT = 1, 2
"""Codes of the unit of privacy."""

LOCAL, CENTRAL, DISTRIBUTED = 1, 2, 3
"""Codes of local, central and distributed noise."""

LAYER_NAMES = {"MaxPool2x2": "MaxOfFour"}
"""Class of a layer -> its name in the path, if the class was renamed: a renamed class changes no draw."""


def mechanism_values(
    arm: Arm,
    sizes: Sequence[int],
    noise_multipliers: Sequence[float | None],
    affordable_steps: Sequence[int | None],
    model: nn.Module,
) -> tuple[Value, ...]:
    """Return the values that identify the mechanism of a private ``arm`` among all mechanisms on the same examples.

    Parameters
    ----------
    arm : Arm
        A private arm.
    sizes : sequence of int
        The number of examples of each owner.
    noise_multipliers : sequence of float or None
        The noise multiplier of each owner, or that of the sum, repeated for each owner.
    affordable_steps : sequence of int or None
        The number of steps that the privacy budget of each owner allows; None without one.
    model : nn.Module
        The trained model: its layers and the shapes of its parameters count, its weights do not.

    Returns
    -------
    tuple
        Numbers, and names of layers. Each group begins with its length, so different mechanisms have different paths.
    """
    schedules = mechanism_schedules(arm, sizes)
    groups: list[Sequence[Value]] = [
        _privacy(arm.privacy),
        [float(noise or 0.0) for noise in noise_multipliers],
        list(sizes),
        [value for schedule in schedules for value in (schedule.sample_rate, schedule.steps)],
        [-1 if steps is None else steps for steps in affordable_steps],
        # The grid of the updates determines their last bits, under every aggregation.
        [float(arm.aggregation.clip), arm.aggregation.fractional_bits],
        _training(arm.training),
        _topology(arm.topology),
        _transforms(arm.transforms),
        [_layer_name(layer) for layer in model.modules()],
        [size for parameter in model.parameters() for size in (parameter.dim(), *parameter.shape)],
    ]
    return tuple(value for group in groups for value in (len(group), *group))


def release_name(path: Sequence[Value], *, repeats: bool) -> str:
    """Return the name of a release: two releases with equal names are the same model.

    Parameters
    ----------
    path : sequence
        Seed, data and values of the mechanism.
    repeats : bool
        Whether the noise comes from a seed. With noise from the operating system, each run is a separate release.
    """
    if not repeats:
        return secrets.token_hex(8)
    return hashlib.sha256(repr(tuple(path)).encode()).hexdigest()[:16]


def _privacy(privacy: NoPrivacy | ExampleLevel | ClientLevel) -> list[Value]:
    codes = {"local": LOCAL, "central": CENTRAL, "distributed": DISTRIBUTED}
    match privacy:
        case ExampleLevel():
            unit, norm = EXAMPLE, privacy.max_grad_norm
        case ClientLevel():
            unit, norm = CLIENT, privacy.max_update_norm
        case _:
            raise ValueError("an arm without privacy has no mechanism")
    adder = codes[privacy.noise]
    # The numbers of colluding clients and of dropouts determine the noise of each client in distributed DP only.
    distributed = [privacy.max_colluding, privacy.max_dropouts] if adder == DISTRIBUTED else [0, 0]
    return [unit, adder, float(norm), *distributed]


def _training(training: TrainingSpec) -> list[Value]:
    limits = training.deformation
    return [
        training.epochs,
        0 if training.batch_size == "all" else training.batch_size,
        float(training.learning_rate),
        float(training.momentum),
        {"linear": 1, "constant": 2}[training.learning_rate_schedule],
        training.shift,
        *(float(value) for value in (limits.rotation, limits.shear, limits.scale, limits.shift)),
    ]


def _topology(topology: Centralized | Independent | Federated) -> list[Value]:
    match topology:
        case Federated():
            return [
                3,
                topology.rounds,
                {"examples": 1, "uniform": 2}[topology.weighting],
                float(topology.participation),
                float(topology.dropout_rate),
                topology.min_clients,
                *_server_optimizer(topology.server),
                *_correction(topology.correction),
            ]
        case Independent():
            return [2]
    return [1]


def _server_optimizer(server: ServerSgd | ServerAdam) -> list[Value]:
    match server:
        case ServerAdam():
            return [2, float(server.learning_rate), float(server.beta1), float(server.beta2), float(server.tau)]
    return [1, float(server.learning_rate), float(server.momentum)]


def _correction(correction: NoCorrection | ProximalTerm | Scaffold) -> list[Value]:
    match correction:
        case ProximalTerm():
            return [2, float(correction.mu)]
        case Scaffold():
            return [3]
    return [1]


def _transforms(transforms: Sequence[Scattering | Patches | Binned]) -> list[Value]:
    """Return the values of all transforms; a chain begins with its negative length, unlike a single transform."""
    groups = [_transform(transform) for transform in transforms]
    if len(groups) <= 1:
        return [value for group in groups for value in group]
    return [-len(groups), *(value for group in groups for value in (len(group), *group))]


def _transform(transform: Scattering | Patches | Binned) -> list[Value]:
    if isinstance(transform, Binned):
        return [0, transform.bins]
    limits = (transform.rotation, transform.shear, transform.scale, transform.shift)
    counts = (transform.components, transform.strokes, transform.copies, transform.views)
    prior = {"strokes": 0, "dead_leaves": 1, "none": 2}[transform.prior]
    # Later keys have values only where they are used.
    later = [prior, 1] if transform.mirror else [prior] if prior else []
    # A negative number is no count of components, and -1 no length of a chain.
    kind = [-1, transform.patches, transform.size, transform.grid] if isinstance(transform, Patches) else []
    return [*kind, *counts, float(transform.regularization), *(float(value) for value in limits), *later]


def _layer_name(layer: nn.Module) -> str:
    name = type(layer).__name__
    return LAYER_NAMES.get(name, name)
