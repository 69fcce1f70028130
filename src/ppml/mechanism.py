"""What tells one private training from another: the values of its mechanism, as a path of randomness.

Two releases that carry the same noise can be combined so that the noise cancels: from two models of the same records
with noise of deviations a and b, ``(a W_b - b W_a) / (a - b)`` is free of noise. So noise and samples are drawn below a
path that differs wherever anything differs that the released model depends on. The aggregation alone is left out: it
adds the same updates by other means, and the release is one and the same, bit for bit.

The path is made of values, never of the names that the configuration has for them: a key that is renamed changes no
draw. The codes below are part of the path, so that they are never reordered.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from torch import nn

from ppml.accounting.schedule import plans
from ppml.config.arm import Arm, TrainingSpec
from ppml.config.features import NoFeatures, Scattering
from ppml.config.technique import (
    Centralized,
    ClientLevel,
    ExampleLevel,
    Federated,
    LocalOnly,
    NoCorrection,
    NoPrivacy,
    ProximalTerm,
    Scaffold,
    ServerAdam,
    ServerSgd,
)

Value = str | int | float

EXAMPLE, CLIENT = 1, 2
"""Codes of the unit of privacy."""

OWNER, SERVER, SHARES = 1, 2, 3
"""Codes of the party that adds the noise."""


def mechanism_values(
    arm: Arm,
    sizes: Sequence[int],
    noise_multipliers: Sequence[float | None],
    limits: Sequence[int | None],
    model: nn.Module,
) -> tuple[Value, ...]:
    """Return the values that tell the mechanism of a private ``arm`` from any other on the same records.

    Parameters
    ----------
    arm : Arm
        Its privacy is not none.
    sizes : sequence of int
        The number of records of each owner.
    noise_multipliers : sequence of float or None
        The noise of each owner, or of the sum, once for each.
    limits : sequence of int or None
        The number of steps that the privacy budget of each owner allows; None without one.
    model : nn.Module
        The model that is trained: its layers and the shapes of its parameters count, its weights do not.

    Returns
    -------
    tuple
        Numbers, and names of layers. Each group begins with its length, so that two mechanisms never have one path.
    """
    planned = plans(arm, sizes)
    groups: list[Sequence[Value]] = [
        _privacy(arm.privacy),
        [float(noise or 0.0) for noise in noise_multipliers],
        list(sizes),
        [value for plan in planned for value in (plan.sample_rate, plan.steps)],
        [-1 if limit is None else limit for limit in limits],
        # The grid that updates are rounded to decides their last bits, whatever adds them.
        [float(arm.aggregation.clip), arm.aggregation.fractional_bits],
        _training(arm.training),
        _topology(arm.topology),
        _features(arm.features),
        [type(layer).__name__ for layer in model.modules()],
        [size for parameter in model.parameters() for size in (parameter.dim(), *parameter.shape)],
    ]
    return tuple(value for group in groups for value in (len(group), *group))


def release_name(path: Sequence[Value], *, repeats: bool) -> str:
    """Return the name of a release: two releases with one name are one and the same model.

    Parameters
    ----------
    path : sequence
        Seed, data and values of the mechanism.
    repeats : bool
        Whether the noise comes from a seed. Noise from the operating system makes each run a release of its own.
    """
    if not repeats:
        return secrets.token_hex(8)
    return hashlib.sha256(repr(tuple(path)).encode()).hexdigest()[:16]


def _privacy(privacy: NoPrivacy | ExampleLevel | ClientLevel) -> list[Value]:
    adders = {"owner": OWNER, "server": SERVER, "shares": SHARES}
    match privacy:
        case ExampleLevel():
            unit, norm = EXAMPLE, privacy.max_grad_norm
        case ClientLevel():
            unit, norm = CLIENT, privacy.max_update_norm
        case _:
            raise ValueError("an arm without privacy has no mechanism")
    adder = adders[privacy.noise_by]
    # Colluders and dropouts decide the size of each share; elsewhere they are without meaning.
    shared = [privacy.colluders, privacy.dropouts] if adder == SHARES else [0, 0]
    return [unit, adder, float(norm), *shared]


def _training(training: TrainingSpec) -> list[Value]:
    far = training.deformation
    return [
        training.epochs,
        0 if training.batch_size == "all" else training.batch_size,
        float(training.learning_rate),
        float(training.momentum),
        {"linear": 1, "constant": 2}[training.decay],
        training.shift,
        *(float(value) for value in (far.rotation, far.shear, far.scale, far.shift)),
    ]


def _topology(topology: Centralized | LocalOnly | Federated) -> list[Value]:
    match topology:
        case Federated():
            return [
                3,
                topology.rounds,
                {"examples": 1, "uniform": 2}[topology.weighting],
                float(topology.participation),
                float(topology.failures),
                topology.least_answers,
                *_server_step(topology.server),
                *_correction(topology.correction),
            ]
        case LocalOnly():
            return [2]
    return [1]


def _server_step(server: ServerSgd | ServerAdam) -> list[Value]:
    match server:
        case ServerAdam():
            return [2, float(server.learning_rate), float(server.beta1), float(server.beta2), float(server.adaptivity)]
    return [1, float(server.learning_rate), float(server.momentum)]


def _correction(correction: NoCorrection | ProximalTerm | Scaffold) -> list[Value]:
    match correction:
        case ProximalTerm():
            return [2, float(correction.strength)]
        case Scaffold():
            return [3]
    return [1]


def _features(features: NoFeatures | Scattering) -> list[Value]:
    match features:
        case Scattering() as given:
            far = (given.rotation, given.shear, given.scale, given.shift)
            counts = (given.components, given.strokes, given.copies, given.views)
            return [*counts, float(given.regularization), *(float(value) for value in far)]
    return []
