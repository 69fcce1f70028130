"""Differentially private stochastic gradient descent with true Poisson sampling and fast exact clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn

from ppml.accounting.events import MechanismEvent, compose
from ppml.accounting.plan import poisson_plan
from ppml.data.examples import Examples
from ppml.learning.clipped_sum import losses_of
from ppml.learning.clipping import BookKeeping
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged, ignore_epoch
from ppml.learning.loop import walk
from ppml.learning.noise import NoiseSource, SecureNoise, SeededNoise, system_uniform
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.learning.pull import NO_PULL, Pull
from ppml.learning.schedule import Span
from ppml.randomness import Randomness

OnRelease = Callable[[Sequence[torch.Tensor]], None]
"""Gets the noisy gradient of a step, one tensor a parameter, divided by the expected batch size: what SGD gets."""


def ignore_release(gradients: Sequence[torch.Tensor]) -> None:
    """Do nothing with what the mechanism releases."""


class SecureSampler(UniformWithReplacementSampler):  # type: ignore[misc]  # Opacus has no types
    """Poisson sampling from the operating system's entropy.

    A seeded torch generator would not do: it keeps 32 bits of its seed, few enough to try them all.
    """

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of each step's sample."""
        for _ in range(self.steps):
            yield np.flatnonzero(system_uniform(self.num_samples) < self.sample_rate).tolist()


def sampling(sampler: object) -> tuple[str, float]:
    """Return how ``sampler`` draws and at which rate: a step is stated with what drew its sample, not with the plan.

    What is not known to be Poisson sampling has its own name, for which no amplification is claimed, and the rate 1.
    """
    if type(sampler) in (UniformWithReplacementSampler, SecureSampler):
        return "poisson", sampler.sample_rate  # type: ignore[attr-defined]
    return type(sampler).__name__, 1.0


class DpSgdLearner:
    """Clipped per-example gradients, Gaussian noise, Poisson sampling.

    Each example is protected: one clipped gradient has norm at most ``max_grad_norm``, the sum carries noise of
    standard deviation ``noise_multiplier * max_grad_norm``, and is divided by the public expected batch size.

    Parameters
    ----------
    settings : Settings
        Epochs, expected batch size and learning rate.
    noise_multiplier : float
        At least 0; 0 gives clipping without privacy.
    max_grad_norm : float
        The clipping norm.
    noise_source : {"seeded", "secure"}
        ``seeded`` repeats bit for bit, and who knows the seed, or tries its 2^32 states, can subtract the noise;
        ``secure`` draws noise and sampling from the operating system and cannot be repeated.
    on_release : callable
        Called once a step with all that leaves the mechanism, for an auditor.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        noise_source: str = "seeded",
        on_release: OnRelease = ignore_release,
    ) -> None:
        self.settings = settings
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self.noise_source = noise_source
        self.on_release = on_release

    def fit(
        self,
        model: nn.Module,
        records: Examples,
        *,
        span: Span,
        rng: Randomness,
        after_epoch: AfterEpoch = ignore_epoch,
        pull: Pull = NO_PULL,
        most_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place and return the steps that were executed, counted where the noise is added.

        Raises
        ------
        TrainingDiverged
            The loss is not finite.
        """
        settings = self.settings
        rate, steps = poisson_plan(len(records), settings.batch_size)
        executed: list[MechanismEvent] = []
        # Convolutions on a CPU are about twice as fast in this order.
        model.to(memory_format=torch.channels_last)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sampler = self._sampler(len(records), rate, steps, rng)
        optimizer = self._optimizer(trained, rate * len(records), rng, executed, sampling(sampler), pull)
        try:
            with BookKeeping(model) as keeping:
                walk(
                    model,
                    records,
                    settings,
                    batches=lambda: (torch.tensor(sample, dtype=torch.int64) for sample in sampler),
                    steps=steps,
                    step=lambda images, labels: _private_step(model, keeping, optimizer, images, labels),
                    groups=optimizer.param_groups,
                    span=span,
                    rng=rng,
                    after_epoch=after_epoch,
                    private=True,
                    most_steps=most_steps,
                )
        except TrainingDiverged as error:
            error.events = compose(executed)
            raise
        finally:
            _forget(optimizer)
            model.to(memory_format=torch.contiguous_format)
        return compose(executed)

    def _sampler(self, records: int, rate: float, steps: int, rng: Randomness) -> UniformWithReplacementSampler:
        if self.noise_source == "secure":
            return SecureSampler(num_samples=records, sample_rate=rate, steps=steps)
        return UniformWithReplacementSampler(
            num_samples=records, sample_rate=rate, steps=steps, generator=rng.child("sampling").torch()
        )

    def _optimizer(
        self,
        parameters: list[nn.Parameter],
        expected_batch_size: float,
        rng: Randomness,
        executed: list[MechanismEvent],
        drawn: tuple[str, float],
        pull: Pull,
    ) -> PrivateOptimizer:
        kind, rate = drawn
        optimizer = PrivateOptimizer(
            torch.optim.SGD(parameters, lr=self.settings.learning_rate, momentum=self.settings.momentum, fused=True),
            noise=self._noise(rng, parameters[0].device),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=expected_batch_size,
        )

        def record(step: PrivateOptimizer) -> None:
            executed.append(MechanismEvent(rate, step.noise_multiplier, 1, step.max_grad_norm, kind))
            self.on_release([parameter.grad for parameter in step.params])
            pull.adjust(step.params)

        optimizer.attach_step_hook(record)
        return optimizer

    def _noise(self, rng: Randomness, device: torch.device) -> NoiseSource:
        if self.noise_source == "secure":
            return SecureNoise()
        return SeededNoise(rng.child("noise").torch(device))


def _private_step(
    model: nn.Module, keeping: BookKeeping, optimizer: PrivateOptimizer, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Do one noisy step on a sample that may be empty; return the sum of its losses."""
    optimizer.zero_grad()
    # An empty sample is one empty piece and still adds noise: leaving the step out would tell that it was empty.
    pieces = list(zip(images.split(keeping.examples_at_once), labels.split(keeping.examples_at_once), strict=True))
    total = 0.0
    for number, (part, truth) in enumerate(pieces, start=1):
        losses = keeping.sum_clipped(partial(losses_of, model, part, truth), len(part), optimizer.max_grad_norm)
        # Opacus adds up the clipped sums of all pieces; noise and step come with the last.
        optimizer.signal_skip_step(do_skip=number < len(pieces))
        optimizer.step()
        total += float(losses.sum())
    return total


def _forget(optimizer: PrivateOptimizer) -> None:
    """Remove what Opacus leaves on the parameters: a pickled one would carry the last gradient."""
    optimizer.zero_grad()
    for parameter in optimizer.params:
        vars(parameter).clear()
