"""White-box audit of differentially private SGD: what its steps release of a canary, and with how much noise.

Differential privacy holds for every data set and every model, so the auditor chooses both: the records are copies of
one canary whose gradient is far longer than the clipping norm, each of which enters a step by a coin flip, and the
learning rate is 0, so that every step is the same experiment. The auditor sees what each step releases and learns the
coins afterwards (arXiv 2302.07956). What a step releases, times the expected batch size, must be the clipped gradient
as often as the canary was drawn, plus fresh Gaussian noise of the claimed size, whatever was drawn.

A passed audit is no proof: it tests one data set, one model and small samples of the code that trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.accounting.plan import poisson_plan
from ppml.data.examples import Examples
from ppml.learning.learner import LocalLearner, Settings
from ppml.learning.loss import example_losses
from ppml.learning.schedule import Span
from ppml.randomness import Randomness

COPIES = 4
"""Copies of the canary. Several, so that a fault which depends on the size of the sample shows."""

EXPECTED = 2
"""The expected batch size: each copy enters a step with probability 1/2. Not 1: dividing by it must show."""

FAR_ABOVE = 10.0
"""Times the clipping norm that the canary's gradient must at least have."""

NOISELESS_STEPS = 24

OnRelease = Callable[[Sequence[torch.Tensor]], None]
BuildLearner = Callable[[Settings, float, OnRelease], LocalLearner]
"""Settings, noise multiplier and who gets the releases -> the learner that is audited."""


@dataclass(frozen=True)
class Canary:
    """A record, and a model on which its gradient is far above the clipping norm.

    Parameters
    ----------
    record : torch.Tensor
        float32, of the shape of one input of the model.
    label : int
        The one that the model thinks least likely.
    norm : float
        Norm of the record's gradient before clipping.
    """

    record: torch.Tensor
    label: int
    norm: float


@dataclass(frozen=True)
class Measurement:
    """What the audit of one learner measured; :mod:`ppml.attacks.verdict` judges it.

    Parameters
    ----------
    noise_multiplier, max_grad_norm : float
        Claimed.
    estimate : float
        Noise multiplier in the direction of the canary: standard deviation of the noise over the norm of what one
        canary adds. With Gaussian noise a step is ``1 / estimate``-GDP (arXiv 1905.02383), and no better.
    control : float
        The same where the learner was given half of the claimed noise multiplier: the audit must tell them apart.
    steps : int
        Steps behind each of the two.
    parameters : int
        Weights of the model.
    canary_norm : float
        Norm of the canary's gradient before clipping.
    contribution : float
        Norm of what one canary adds to the sum, measured without noise; at most ``max_grad_norm`` if it is clipped.
    deviation : float
        Largest distance, over ``contribution``, of a noiseless step from the sum of what the drawn copies add.
    draws : tuple of int
        How many steps drew 0, 1, ... copies.
    resolution : float
        How far rounding to a grid may move a noiseless step, over ``contribution``; 0 where nothing is rounded.
    executed : bool
        Whether exactly these steps were released and stated for accounting, empty samples included.
    p_values : mapping of str to float
        Of what must hold besides the size of the noise: ``coins`` (each copy enters each step independently with
        probability 1/2), ``tensors`` (each parameter tensor has noise of the claimed size), ``samples`` (so has each
        size of the sample), ``shape`` (it is Gaussian), ``repeats`` (no step's noise tells another's).
    """

    noise_multiplier: float
    max_grad_norm: float
    estimate: float
    control: float
    steps: int
    parameters: int
    canary_norm: float
    contribution: float
    deviation: float
    draws: tuple[int, ...]
    executed: bool
    p_values: Mapping[str, float]
    resolution: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain values."""
        return asdict(self)


def craft_canary(
    model: nn.Module, shape: Sequence[int], max_grad_norm: float, rng: Randomness, device: str = "cpu"
) -> Canary:
    """Return a made-up record whose gradient is :data:`FAR_ABOVE` the clipping norm, scaling ``model`` where need be.

    Parameters
    ----------
    model : nn.Module
        Its last weight matrix is changed in place where the gradient of a record alone does not get long enough.
    shape : sequence of int
        Of one input of the model.
    max_grad_norm : float
        The clipping norm.

    Raises
    ------
    ValueError
        No scale gives a gradient that is long enough.
    """
    base = torch.randn(*shape, generator=rng.child("canary").torch()).to(device)
    last = [parameter for parameter in model.parameters() if parameter.dim() > 1][-1]
    weights = last.detach().clone()
    for factor in (2.0**power for power in range(20)):
        # A normalising layer undoes the scale of a record, a saturated one that of the weights before it.
        for of_record, of_weights in ((factor, 1.0), (1.0, factor), (factor, factor)):
            with torch.no_grad():
                last.copy_(weights * of_weights)
            label, norm = _worst(model, base * of_record)
            if norm >= FAR_ABOVE * max_grad_norm:
                return Canary(base * of_record, label, norm)
    raise ValueError(f"found no record whose gradient is {FAR_ABOVE:g} times max_grad_norm {max_grad_norm} long")


def _worst(model: nn.Module, record: torch.Tensor) -> tuple[int, float]:
    """Return the label that the model thinks least likely, and the norm of the record's gradient with it."""
    outputs = model(record[None])
    label = outputs.detach().flatten(0, -2).mean(dim=0).argmin()
    gradients = torch.autograd.grad(example_losses(outputs, label[None]).sum(), list(model.parameters()))
    return int(label), math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


def audit(
    build: BuildLearner,
    model: nn.Module,
    canary: Canary,
    *,
    noise_multiplier: float,
    max_grad_norm: float,
    steps: int,
    rng: Randomness,
    step_of_grid: float = 0.0,
) -> Measurement:
    """Measure what the learner that ``build`` returns releases of ``canary``.

    Parameters
    ----------
    model : nn.Module
        The one that ``canary`` was made for; it does not learn.
    noise_multiplier, max_grad_norm : float
        What is claimed.
    steps : int
        Steps that the estimate is made from, even; the more, the narrower its interval.
    step_of_grid : float
        What each value that a client contributes is rounded to a multiple of; 0 where nothing is rounded.

    Raises
    ------
    RuntimeError
        The learner read its records in a way that does not tell which were drawn, or drew none without noise.
    """
    bench = _Bench(build, model, canary)
    added = _Contribution(bench)
    bench.run(0.0, NOISELESS_STEPS, rng.child("noiseless"), added.listen)
    if added.vector is None:
        raise RuntimeError(f"no copy of the canary was drawn in {NOISELESS_STEPS} steps: nothing can be audited")
    # On a grid a record may change the sum by half a step more in each value, to which the noise is calibrated.
    sensitivity = max_grad_norm + math.sqrt(added.vector.numel()) * step_of_grid
    claimed = _Noise(bench, added.vector, noise_multiplier * sensitivity)
    events = bench.run(noise_multiplier, steps, rng.child("claimed"), claimed.listen)
    half = _Noise(bench, added.vector, noise_multiplier / 2 * sensitivity)
    bench.run(noise_multiplier / 2, steps, rng.child("half"), half.listen)
    rate, _ = poisson_plan(COPIES, EXPECTED)
    stated = events == (MechanismEvent(rate, noise_multiplier, steps, max_grad_norm),)
    contribution = float(added.vector.double().norm())
    return Measurement(
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        estimate=claimed.along_canary() / contribution,
        control=half.along_canary() / contribution,
        steps=steps,
        parameters=added.vector.numel(),
        canary_norm=canary.norm,
        contribution=contribution,
        deviation=added.deviation / contribution,
        draws=tuple(np.bincount(claimed.counts, minlength=COPIES + 1).tolist()),
        executed=stated and len(claimed.counts) == steps,
        p_values=claimed.p_values(),
        # Each copy may be at another client, which rounds for itself: half a step in each value.
        resolution=COPIES * math.sqrt(added.vector.numel()) * step_of_grid / 2 / contribution,
    )


class _Labels(torch.Tensor):
    """Labels that note which positions are read: whatever samples, it must read the labels of its sample."""

    drawn: list[torch.Tensor]

    def __getitem__(self, index: Any) -> torch.Tensor:
        self.drawn.append(torch.as_tensor(index).flatten())
        return self.as_subclass(torch.Tensor)[index]


class _Bench:
    """Runs learners on copies of the canary and knows, at each release, how many of them it is made from."""

    def __init__(self, build: BuildLearner, model: nn.Module, canary: Canary) -> None:
        self._build, self._model = build, model
        self._labels = torch.full((COPIES,), canary.label, device=canary.record.device).as_subclass(_Labels)
        self._labels.drawn = []
        copies = canary.record.expand(COPIES, *canary.record.shape).contiguous()
        self._records = Examples(copies, self._labels)

    def run(
        self, noise_multiplier: float, steps: int, rng: Randomness, on_release: OnRelease
    ) -> tuple[MechanismEvent, ...]:
        """Let a learner take ``steps`` steps at learning rate 0."""
        _, an_epoch = poisson_plan(COPIES, EXPECTED)
        settings = Settings(steps // an_epoch, EXPECTED, learning_rate=0.0, momentum=0.0, decay="constant")
        self._labels.drawn.clear()
        learner = self._build(settings, noise_multiplier, on_release)
        return learner.fit(self._model, self._records, span=Span(), rng=rng)

    def drawn(self) -> NDArray[np.int64]:
        """Return how often each copy was drawn since the last release, shape ``(COPIES,)``."""
        if not self._labels.drawn:
            raise RuntimeError("a step was released without that labels were read: its sample is not known")
        positions = torch.cat(self._labels.drawn).cpu().numpy()
        self._labels.drawn.clear()
        return np.bincount(positions, minlength=COPIES)


def _flat(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return what a step adds up, noise included, as one vector: the release times the public expected batch size."""
    return torch.cat([gradient.detach().reshape(-1) for gradient in gradients]) * EXPECTED


class _Contribution:
    """Learns from noiseless releases what one copy of the canary adds."""

    def __init__(self, bench: _Bench) -> None:
        self._bench = bench
        self.vector: torch.Tensor | None = None
        self.deviation = 0.0

    def listen(self, gradients: Sequence[torch.Tensor]) -> None:
        count, total = int(self._bench.drawn().sum()), _flat(gradients)
        if self.vector is None and count:
            self.vector = total / count
        expected = count * self.vector if self.vector is not None else torch.zeros_like(total)
        self.deviation = max(self.deviation, float((total - expected).double().norm()))


class _Noise:
    """Adds up statistics of the noise, which is what is left of a release without the copies that were drawn.

    Parameters
    ----------
    contribution : torch.Tensor
        What one copy adds, shape ``(parameters,)``.
    deviation : float
        The claimed standard deviation of the noise.
    """

    def __init__(self, bench: _Bench, contribution: torch.Tensor, deviation: float) -> None:
        self._bench, self._contribution, self._deviation = bench, contribution, deviation
        self._direction = contribution / contribution.norm()
        self._drawn: list[NDArray[np.int64]] = []
        self._along: list[float] = []
        self._squares: list[list[float]] = []
        self._fourth = 0.0
        self._sizes: list[int] = []
        self._first: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._with_first: list[float] = []
        self._with_last: list[float] = []

    def listen(self, gradients: Sequence[torch.Tensor]) -> None:
        self._drawn.append(self._bench.drawn())
        noise = (_flat(gradients) - int(self._drawn[-1].sum()) * self._contribution) / self._deviation
        self._along.append(float(noise @ self._direction))
        self._sizes = [gradient.numel() for gradient in gradients]
        squares = noise.square()
        self._squares.append([float(part.sum(dtype=torch.float64)) for part in squares.split(self._sizes)])
        self._fourth += float(squares.square_().sum(dtype=torch.float64))
        if self._first is None or self._last is None:
            self._first = noise
        else:
            self._with_first.append(float(noise @ self._first))
            self._with_last.append(float(noise @ self._last))
        self._last = noise

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many copies each step drew, shape ``(steps,)``."""
        counts: NDArray[np.int64] = np.array(self._drawn).sum(axis=1)
        return counts

    def along_canary(self) -> float:
        """Return the standard deviation in the direction of the canary, whose mean is known to be 0."""
        return self._deviation * float(np.sqrt(np.mean(np.square(self._along))))

    def p_values(self) -> dict[str, float]:
        """Return the p-values of :class:`Measurement`."""
        squares, counts, sizes = np.array(self._squares), self.counts, np.array(self._sizes)
        groups = [(squares[counts == count].sum(), sizes.sum() * np.sum(counts == count)) for count in set(counts)]
        steps, values = len(counts), len(counts) * int(sizes.sum())
        total = squares.sum()
        fourth = self._fourth * values / total**2 if total else 0.0
        return {
            "coins": _coins(np.array(self._drawn)),
            "tensors": smallest([_size(own, steps * size) for own, size in zip(squares.sum(0), sizes, strict=True)]),
            "samples": smallest([_size(own, size) for own, size in groups]),
            "shape": _normal((fourth - 3) / math.sqrt(24 / values)),
            "repeats": smallest([self._lag(total / steps), self._echo(squares.sum(1))]),
        }

    def _lag(self, square: float) -> float:
        """Compare each step's noise with the one before."""
        return _normal(_ratio(sum(self._with_last), square) * math.sqrt(sum(self._sizes) / len(self._with_last)))

    def _echo(self, squares: NDArray[np.float64]) -> float:
        """Compare the noise of each step with that of the first, which every period finds."""
        scales = np.sqrt(squares[0] * squares[1:])
        pairs = zip(self._with_first, scales, strict=True)
        likest = max(abs(_ratio(product, float(scale))) for product, scale in pairs)
        return min(1.0, len(scales) * _normal(likest * math.sqrt(sum(self._sizes))))


def smallest(p_values: Sequence[float]) -> float:
    """Return one p-value for all of ``p_values`` together, by Bonferroni's inequality."""
    return min(1.0, len(p_values) * min(p_values))


def _ratio(value: float, scale: float) -> float:
    """Return ``value / scale``; of vectors that are zero, 1: they are equal."""
    return value / scale if scale else 1.0


def _size(square: float, degrees: int) -> float:
    """Return the two-sided p-value of a sum of ``degrees`` squares of standard normal values."""
    return float(min(1.0, 2 * min(stats.chi2.cdf(square, degrees), stats.chi2.sf(square, degrees))))


def _normal(value: float) -> float:
    return float(2 * stats.norm.sf(abs(value)))


def _coins(drawn: NDArray[np.int64]) -> float:
    """Compare draws, shape ``(steps, COPIES)``, with fair coins.

    How often each copy was drawn, how often a step drew few, half or many, and whether one step tells the next.
    """
    counts, steps = drawn.sum(axis=1), len(drawn)
    each = [float(stats.binomtest(int(own), steps, 0.5).pvalue) for own in np.minimum(drawn.sum(axis=0), steps)]
    chances = stats.binom.pmf(np.arange(COPIES + 1), COPIES, 0.5)
    seen = np.bincount(counts, minlength=COPIES + 1)
    half = COPIES // 2
    shares = [np.array([part[:half].sum(), part[half], part[half + 1 :].sum()]) for part in (seen, chances)]
    centred = counts - COPIES / 2
    lag = float(centred[1:] @ centred[:-1]) / (COPIES / 4 * math.sqrt(steps - 1))
    return smallest([smallest(each), float(stats.chisquare(shares[0], shares[1] * steps).pvalue), _normal(lag)])
