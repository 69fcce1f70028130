"""White-box audit of the private training of an arm: what it releases of made-up records, and with how much noise.

Differential privacy holds for every data set, so the auditor chooses the records: made up, with gradients far above the
clipping norm. The auditor sees everything that the training releases, each step of it, and learns the coins of the
samples afterwards (arXiv 2302.07956). The training is the one that makes the results: its momentum, its schedule, its
budget, its clients and its server, in process. From a release the auditor subtracts the sum of the clipped gradients of
the sample at the weights that the model had, computed an example at a time. What is left is noise, which must have the
claimed size in the directions of the records' gradients, however the model moves.

Along a direction with noise of deviation s a step is ``C / s``-GDP at best (arXiv 1905.02383). The mean of the variance
over directions is at least the least of them, so that the measured noise bounds epsilon from below.

A passed audit is no proof: it tries one data set and small samples of the code that trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppml.accounting.events import MechanismEvent
from ppml.auditing.audited_arm import Scaled, scale, scaled_limits
from ppml.auditing.observation import Watcher
from ppml.auditing.reference_gradients import Reference
from ppml.auditing.releases import Claim, Listener, OwnersNoise
from ppml.auditing.statistics import coins, same_again
from ppml.config.arm import Arm
from ppml.config.technique import Centralized, ClientLevel, ExampleLevel, Federated
from ppml.data.examples import Examples
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import train

if TYPE_CHECKING:
    from ppml.federation.simulation_grid import Tap

NOISELESS = 12
"""Releases without noise, which show what a record adds."""


@dataclass(frozen=True)
class Measurement:
    """What the audit of one arm measured; :mod:`ppml.auditing.verdict` judges it.

    Parameters
    ----------
    noise_multiplier, max_grad_norm : float
        Claimed, of the first owner.
    estimate : float
        Noise multiplier in the directions of records: deviation of the noise over the norm of what one record adds.
    releases : int
        Noisy steps, or sums, that were looked at.
    measurements : int
        Directions along which noise was measured, over all releases.
    parameters : int
        Weights of the model.
    canary_norm : float
        Largest norm of a record's gradient (of a client's change) before clipping, in the noiseless releases.
    contribution : float
        Norm of what one record adds to the sum, measured without noise; at most ``max_grad_norm`` if it is clipped.
    deviation : float
        Largest distance of a noiseless release from the sum of clipped gradients, over the clipping norm, a record.
    drawn, coins : int
        How many coins drew a record, and how many there were.
    accounted : tuple of str
        What the account of the training gets wrong, in words: steps, noise, rate, clipping norm, or where draws came
        from; and what is sent besides.
    p_values : mapping of str to float
        See :data:`ppml.auditing.verdict.CHECKS`.
    """

    noise_multiplier: float
    max_grad_norm: float
    estimate: float
    releases: int
    measurements: int
    parameters: int
    canary_norm: float
    contribution: float
    deviation: float
    drawn: int
    coins: int
    accounted: tuple[str, ...]
    p_values: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Audited:
    """What is audited.

    Parameters
    ----------
    arm : Arm
        A private arm, as it trains.
    sizes : tuple of int
        The number of records of each owner in its training.
    noise_multipliers : tuple of float
        The noise of each owner, or of the sum, once for each.
    limits : tuple of int or None
        How many steps the budget of each owner allows; None without budgets.
    planned : tuple of int
        How many steps are planned for each owner.
    classes : int
        Number of classes.
    images : torch.Tensor or None
        What the model is trained on, shape ``(n, ...)``: features of images, of which as many are taken as are needed.
        None: images are made up.
    device : str
        Where the model is trained.
    """

    arm: Arm
    sizes: tuple[int, ...]
    noise_multipliers: tuple[float, ...]
    limits: tuple[int, ...] | None
    planned: tuple[int, ...]
    classes: int
    images: torch.Tensor | None = None
    device: str = "cpu"


def audit(audited: Audited, *, releases: int, rng: Randomness) -> Measurement:
    """Measure what the training of an arm releases.

    Parameters
    ----------
    releases : int
        Noisy steps, or sums, that are looked at, at least.
    rng : Randomness
        What everything is drawn from, except secure noise.
    """
    quiet = _run(audited, NOISELESS, rng.child("noiseless"), noise=0.0)
    loud = _run(audited, releases, rng.child("claimed"), noise=1.0)
    noise, added = loud.noise, quiet.added
    if noise is None or not noise.along:
        raise RuntimeError("the training released nothing: nothing can be audited")
    arm = audited.arm
    assert isinstance(arm.privacy, ExampleLevel | ClientLevel)
    norm = loud.claim.norm
    p_values = {**noise.p_values(), "coins": coins(loud.coins)}
    if arm.privacy.noise_source == "secure":
        p_values["secure"] = _repeated(loud, _run(audited, releases, rng.child("claimed"), noise=1.0))
    flips = [one.steps for one in loud.coins.values() if one.drawn]
    return Measurement(
        noise_multiplier=audited.noise_multipliers[0],
        max_grad_norm=norm,
        estimate=audited.noise_multipliers[0] * noise.ratio() * norm / added.contribution,
        releases=noise.releases,
        measurements=len(noise.along),
        parameters=noise.values,
        canary_norm=max(added.norms),
        contribution=added.contribution,
        deviation=added.deviation,
        drawn=sum(int(one.sum()) for one in flips),
        coins=sum(one.size for one in flips),
        accounted=tuple(dict.fromkeys([*quiet.faults, *loud.faults])),
        p_values=p_values,
    )


@dataclass(frozen=True)
class _Found:
    """What one training showed."""

    claim: Claim
    listener: Listener
    faults: tuple[str, ...]

    @property
    def noise(self) -> Any:
        return self.listener.noise

    @property
    def added(self) -> Any:
        return self.listener.added

    @property
    def coins(self) -> Any:
        return self.listener.coins


def _run(audited: Audited, releases: int, rng: Randomness, *, noise: float) -> _Found:
    """Train the arm on made-up records, with ``noise`` times the claimed noise, and listen."""
    scaled = scale(audited.arm, audited.sizes, releases)
    owned = made_up(scaled, audited, rng.child("records"))
    multipliers = tuple(noise * value for value in audited.noise_multipliers[: len(scaled.sizes)])
    claim = Claim(scaled, multipliers)
    limits = scaled_limits(audited.limits, audited.planned, scaled)
    if not noise and isinstance(scaled.arm.topology, Centralized):
        # A whole epoch of a large model takes long, and the first steps show what a record adds.
        limits = [min(releases, limit or releases) for limit in limits]
    listener, taps = _listener(claim, owned, audited.classes)
    with Watcher(owned, listener.step) as watcher:
        listener.watcher = watcher
        outcome = train(
            scaled.arm,
            owned,
            multipliers,
            _one(owned[0]),
            classes=audited.classes,
            rng=rng,
            report=lambda row: None,
            data=("audit",),
            affordable_steps=[limit for limit in limits if limit is not None] or None,
            taps=taps,
        )
    due = [steps if limit is None else min(steps, limit) for steps, limit in zip(scaled.steps, limits, strict=True)]
    faults = account_faults(outcome.events, listener.counted(), due, claim)
    return _Found(claim, listener, (*listener.faults, *faults))


def _one(records: Examples) -> Examples:
    """Return a record to evaluate on, which is one image, and not several copies of it."""
    images = records.images[:1]
    return Examples(images[:, 0] if images.dim() == 3 else images, records.labels[:1])


def _listener(claim: Claim, owned: Sequence[Examples], classes: int) -> tuple[Listener, tuple[Tap, ...]]:
    """Return what listens to a training, by where its noise is, and the taps that tell it of messages."""
    arm, images = claim.scaled.arm, owned[0].images
    model = build_model(arm.model, classes, torch.Generator(), images.shape[-1]).to(images.device)
    reference = Reference(model, owned)
    match arm.topology:
        case Federated():
            from ppml.auditing.federated_releases import federated_listener
            from ppml.federation.observer import observing

            shapes = tuple(parameter.numel() for parameter in model.parameters())
            listener = federated_listener(claim, reference, shapes)
            return listener, (observing(listener),)
    return OwnersNoise(claim, reference), ()


def made_up(scaled: Scaled, audited: Audited, rng: Randomness) -> list[Examples]:
    """Return the records of each owner: random pixels, or the first of what is given, each with a random label."""
    count, draws = sum(scaled.sizes), rng.numpy()
    taken = torch.from_numpy(draws.standard_normal((count, 1, 28, 28), dtype=np.float32))
    if audited.images is not None:
        taken = audited.images[:count]
    if len(taken) < count:
        raise ValueError(f"an audit needs {count} records, got {len(taken)}")
    labels = torch.from_numpy(draws.integers(0, audited.classes, count))
    parts = zip(taken.split(scaled.sizes), labels.split(scaled.sizes), strict=True)
    return [Examples(own, truth).to(audited.device) for own, truth in parts]


def account_faults(
    events: Sequence[Sequence[MechanismEvent]], counted: Sequence[int], due: Sequence[int], claim: Claim
) -> list[str]:
    """Return what an account gets wrong, in words, each kind of fault once.

    Parameters
    ----------
    events : sequence
        What the training accounts for, of each owner.
    counted : sequence of int
        How many releases the auditor saw of each owner's records.
    due : sequence of int
        How many there should be.
    claim : Claim
        What is claimed.
    """
    found: dict[str, str] = {}
    for owner, own in enumerate(events):
        steps = sum(event.steps for event in own)
        if counted[owner] != due[owner]:
            found.setdefault("due", f"owner {owner} takes {counted[owner]} steps, planned are {due[owner]}")
        if steps != counted[owner]:
            found.setdefault("steps", f"owner {owner} takes {counted[owner]} steps, {steps} are accounted for")
        for event in own:
            for what, fault in _event_faults(event, claim, owner):
                found.setdefault(what, fault)
    return list(found.values())


def _event_faults(event: MechanismEvent, claim: Claim, owner: int) -> list[tuple[str, str]]:
    """Return what an event states that is not claimed."""
    source = claim.privacy.noise_source
    stated = {
        "noise multiplier": (event.noise_multiplier, claim.noise_multipliers[owner]),
        "sample rate": (event.sample_rate, claim.scaled.rates[owner]),
        "clipping norm": (event.max_grad_norm, claim.norm),
    }
    wrong = [
        (what, f"accounts for {what} {value:.6g}, claimed is {claimed:.6g}")
        for what, (value, claimed) in stated.items()
        if not np.isclose(value, claimed, rtol=1e-9)
    ]
    if event.sampler != "poisson":
        wrong.append(("sampler", f"samples by {event.sampler}, claimed is poisson"))
    for what, drew in (("noise", event.noise_source), ("samples", event.sampling_source)):
        if drew != source:
            wrong.append((f"source of {what}", f"{what} drawn from {drew!r}, configured is {source!r}"))
    return wrong


def _repeated(first: _Found, second: _Found) -> float:
    """Return the p-value of two trainings with one seed: what the operating system draws does not come again."""
    before, after = (coins_of(found) for found in (first, second))
    if any(
        len(own) and own.shape == again.shape and (own == again).all() for own, again in zip(before, after, strict=True)
    ):
        return 0.0
    return same_again(first.noise.sketches(), second.noise.sketches())


def coins_of(found: _Found) -> list[Any]:
    """Return the draws of owners that sample."""
    return [one.steps for one in found.coins.values() if one.drawn and one.rate < 1]
