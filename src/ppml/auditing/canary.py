"""White-box audit of the private training of an arm: the releases of synthetic examples, and their noise.

Differential privacy holds for every data set, so the auditor chooses the examples: synthetic ones, whose gradients have
many times the clipping norm. The auditor observes each release of the training, and the sample of each step (arXiv
2302.07956). The audited training is that of the results, with its momentum, schedule, budget, clients and server, in
one process. From each release the auditor subtracts the sum of the clipped gradients of the sample at the weights of
the model, computed one example at a time. The difference is noise. It must have the claimed deviation in the directions
of the examples' gradients, for any path of the model.

Along a direction with noise of deviation s, a step is ``C / s``-GDP at best (arXiv 1905.02383). The mean variance over
directions is at least the least variance, so the measured noise bounds epsilon from below.

A passed audit is no proof: it covers one data set and small samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppml.accounting.events import MechanismEvent
from ppml.auditing.audited_arm import ReducedArm, reduce_arm, reduced_affordable_steps
from ppml.auditing.observation import TrainingObserver
from ppml.auditing.reference_gradients import ReferenceGradients
from ppml.auditing.releases import Claim, ReleaseCollector, StepReleases
from ppml.auditing.statistics import inclusion_test, repeat_test
from ppml.config.arm import Arm
from ppml.config.technique import Centralized, ClientLevel, ExampleLevel, Federated
from ppml.contract import DataContract
from ppml.data.examples import Examples
from ppml.randomness import Randomness
from ppml.training import build_initial_model, train

if TYPE_CHECKING:
    from ppml.federation.simulation_grid import MessageObserver

NOISELESS_RELEASES = 12
"""Number of releases without noise, which measure the contributions of examples."""


@dataclass(frozen=True)
class Measurement:
    """The measurements of the audit of one arm; :mod:`ppml.auditing.verdict` evaluates them.

    Parameters
    ----------
    noise_multiplier, max_grad_norm : float
        Claimed values of the first owner.
    estimate : float
        Noise multiplier in directions of examples: deviation of the noise over the norm of one example's contribution.
    releases : int
        Number of measured noisy steps or sums.
    measurements : int
        Number of measured directions, over all releases.
    parameters : int
        Number of weights of the model.
    canary_norm : float
        Largest norm of an example's gradient (of a client's update) before clipping, in the noiseless releases.
    contribution : float
        Norm of one example's contribution to the sum, measured without noise; at most ``max_grad_norm`` if clipped.
    deviation : float
        Largest distance of a noiseless release from the sum of clipped gradients, per example and clipping norm.
    drawn, coins : int
        Number of inclusions of examples in samples, and number of their trials.
    accounted : tuple of str
        Errors of the accounted mechanism, as sentences: steps, noise, rate, clipping norm, or sources of randomness;
        and unaccounted messages.
    p_values : mapping of str to float
        The p-values of :data:`ppml.auditing.verdict.CHECKS`.
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
class AuditTarget:
    """The audited training.

    Parameters
    ----------
    arm : Arm
        A private arm.
    sizes : tuple of int
        The number of examples of each owner.
    noise_multipliers : tuple of float
        The noise multiplier of each owner, or that of the sum, repeated for each owner.
    affordable_steps : tuple of int or None
        The number of steps that the budget of each owner allows; None without budgets.
    planned : tuple of int
        The number of planned steps of each owner.
    contract : DataContract
        The contract of the inputs.
    drawn_shape : tuple of int
        The shape of one example before transforms.
    inputs : torch.Tensor or None
        Transformed inputs, ``(n, ..., *contract.shape)``; the audit takes the first ones. None: random inputs.
    device : str
        The device of the training.
    """

    arm: Arm
    sizes: tuple[int, ...]
    noise_multipliers: tuple[float, ...]
    affordable_steps: tuple[int, ...] | None
    planned: tuple[int, ...]
    contract: DataContract
    drawn_shape: tuple[int, ...]
    inputs: torch.Tensor | None = None
    device: str = "cpu"


def audit(target: AuditTarget, *, releases: int, rng: Randomness) -> Measurement:
    """Measure the releases of the training of an arm.

    Parameters
    ----------
    releases : int
        Smallest number of measured noisy steps or sums.
    rng : Randomness
        The randomness of all draws, except secure noise.
    """
    noiseless = _run(target, NOISELESS_RELEASES, rng.child("noiseless"), noise=0.0)
    claimed = _run(target, releases, rng.child("claimed"), noise=1.0)
    noise, added = claimed.collector.noise, noiseless.collector.contributions
    if noise is None or not noise.along:
        raise RuntimeError("the training has no release, so the audit has no measurement")
    arm = target.arm
    assert isinstance(arm.privacy, ExampleLevel | ClientLevel)
    norm, inclusions = claimed.claim.norm, claimed.collector.inclusions
    p_values = {**noise.p_values(), "coins": inclusion_test(inclusions)}
    if arm.privacy.noise_source == "secure":
        p_values["secure"] = _seed_repetition_test(claimed, _run(target, releases, rng.child("claimed"), noise=1.0))
    samples = [one.matrix for one in inclusions.values() if one.rows]
    return Measurement(
        noise_multiplier=target.noise_multipliers[0],
        max_grad_norm=norm,
        estimate=target.noise_multipliers[0] * noise.ratio() * norm / added.contribution,
        releases=noise.releases,
        measurements=len(noise.along),
        parameters=noise.values,
        canary_norm=max(added.norms),
        contribution=added.contribution,
        deviation=added.deviation,
        drawn=sum(int(one.sum()) for one in samples),
        coins=sum(one.size for one in samples),
        accounted=tuple(dict.fromkeys([*noiseless.violations, *claimed.violations])),
        p_values=p_values,
    )


@dataclass(frozen=True)
class _ObservedTraining:
    """The observations of one training."""

    claim: Claim
    collector: ReleaseCollector
    violations: tuple[str, ...]


def _run(target: AuditTarget, releases: int, rng: Randomness, *, noise: float) -> _ObservedTraining:
    """Train the arm on synthetic examples, with ``noise`` times the claimed noise, and observe the training."""
    reduced = reduce_arm(target.arm, target.sizes, releases)
    owned = synthetic_examples(reduced, target, rng.child("records"))
    multipliers = tuple(noise * value for value in target.noise_multipliers[: len(reduced.sizes)])
    claim = Claim(reduced, multipliers)
    affordable_steps = reduced_affordable_steps(target.affordable_steps, target.planned, reduced)
    if not noise and isinstance(reduced.arm.topology, Centralized):
        # The first steps suffice: a whole epoch of a large model takes long.
        affordable_steps = [min(releases, affordable or releases) for affordable in affordable_steps]
    collector, observers = _build_collector(claim, owned, target.contract, rng)
    with TrainingObserver(owned, collector.step) as observer:
        collector.observer = observer
        result = train(
            reduced.arm,
            owned,
            multipliers,
            _first_example(owned[0]),
            contract=target.contract,
            rng=rng,
            report=lambda row: None,
            data=("audit",),
            affordable_steps=[affordable for affordable in affordable_steps if affordable is not None] or None,
            observers=observers,
        )
    planned = [
        steps if affordable is None else min(steps, affordable)
        for steps, affordable in zip(reduced.steps, affordable_steps, strict=True)
    ]
    violations = account_violations(result.events, collector.release_counts(), planned, claim)
    return _ObservedTraining(claim, collector, (*collector.violations, *violations))


def _first_example(examples: Examples) -> Examples:
    """Return one example for the evaluation, with a single view."""
    inputs = examples.inputs[:1]
    return Examples(inputs[:, 0] if inputs.dim() == 3 else inputs, examples.labels[:1])


def _build_collector(
    claim: Claim, owned: Sequence[Examples], contract: DataContract, rng: Randomness
) -> tuple[ReleaseCollector, tuple[MessageObserver, ...]]:
    """Return the collector of the noisy releases of a training, and the observers of its messages."""
    arm = claim.reduced.arm
    model = build_initial_model(arm, contract, rng, owned[0].inputs.device)
    reference = ReferenceGradients(model, owned)
    match arm.topology:
        case Federated():
            from ppml.auditing.federated_releases import federated_collector
            from ppml.federation.observer import observe_messages

            shapes = tuple(parameter.numel() for parameter in model.parameters())
            collector = federated_collector(claim, reference, shapes)
            return collector, (observe_messages(collector),)
    return StepReleases(claim, reference), ()


def synthetic_examples(reduced: ReducedArm, target: AuditTarget, rng: Randomness) -> list[Examples]:
    """Return the examples of each owner: random pixels, or the first given inputs, with random labels."""
    count, draws = sum(reduced.sizes), rng.numpy()
    # Labels follow the draws of untransformed inputs: an arm with transforms has the labels of an arm without.
    taken = torch.from_numpy(draws.standard_normal((count, *target.drawn_shape), dtype=np.float32))
    if target.inputs is not None:
        taken = target.inputs[:count]
    if len(taken) < count:
        raise ValueError(f"an audit needs {count} examples, got {len(taken)}")
    labels = torch.from_numpy(draws.integers(0, len(target.contract.classes), count))
    parts = zip(taken.split(reduced.sizes), labels.split(reduced.sizes), strict=True)
    return [Examples(own, truth).to(target.device) for own, truth in parts]


def account_violations(
    events: Sequence[Sequence[MechanismEvent]], observed: Sequence[int], planned: Sequence[int], claim: Claim
) -> list[str]:
    """Return the errors of the accounted mechanism, as sentences, one for each kind.

    Parameters
    ----------
    events : sequence
        The accounted events of each owner.
    observed : sequence of int
        Number of observed releases of each owner's examples.
    planned : sequence of int
        Number of planned releases of each owner's examples.
    claim : Claim
        The claimed mechanism.
    """
    found: dict[str, str] = {}
    for owner, own in enumerate(events):
        steps = sum(event.steps for event in own)
        if observed[owner] != planned[owner]:
            found.setdefault("due", f"owner {owner} takes {observed[owner]} steps, planned are {planned[owner]}")
        if steps != observed[owner]:
            found.setdefault("steps", f"owner {owner} takes {observed[owner]} steps, {steps} are accounted for")
        for event in own:
            for kind, sentence in _event_violations(event, claim, owner):
                found.setdefault(kind, sentence)
    return list(found.values())


def _event_violations(event: MechanismEvent, claim: Claim, owner: int) -> list[tuple[str, str]]:
    """Return the differences of an accounted event from the claim, each as a kind and a sentence."""
    source = claim.privacy.noise_source
    values = {
        "noise multiplier": (event.noise_multiplier, claim.noise_multipliers[owner]),
        "sample rate": (event.sample_rate, claim.reduced.rates[owner]),
        "clipping norm": (event.max_grad_norm, claim.norm),
    }
    wrong = [
        (kind, f"accounts for {kind} {value:.6g}, claimed is {claimed:.6g}")
        for kind, (value, claimed) in values.items()
        if not np.isclose(value, claimed, rtol=1e-9)
    ]
    if event.sampler != "poisson":
        wrong.append(("sampler", f"samples by {event.sampler}, claimed is poisson"))
    for kind, used in (("noise", event.noise_source), ("samples", event.sampling_source)):
        if used != source:
            wrong.append((f"source of {kind}", f"{kind} drawn from {used!r}, configured is {source!r}"))
    return wrong


def _seed_repetition_test(first: _ObservedTraining, second: _ObservedTraining) -> float:
    """Return the p-value of two trainings with one seed: draws of the operating system must not repeat."""
    before, after = (_sampled_inclusions(training) for training in (first, second))
    if any(
        len(own) and own.shape == again.shape and (own == again).all() for own, again in zip(before, after, strict=True)
    ):
        return 0.0
    assert first.collector.noise is not None and second.collector.noise is not None
    return repeat_test(first.collector.noise.sketches(), second.collector.noise.sketches())


def _sampled_inclusions(training: _ObservedTraining) -> list[NDArray[np.bool_]]:
    """Return the inclusions of the owners with a sample rate below 1."""
    return [one.matrix for one in training.collector.inclusions.values() if one.rows and one.rate < 1]
