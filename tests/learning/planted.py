"""Private learners with one fault each. A test of a claim that lets one of them pass tests nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler

from ppml.accounting.events import MechanismEvent
from ppml.learning.dpsgd import DpSgdLearner


class FaultyOptimizer(DpSgdLearner):
    """Lets a subclass wrap the optimiser that the real learner builds."""

    def _optimizer(self, *arguments):
        optimizer = super()._optimizer(*arguments)
        self.plant(optimizer)
        return optimizer

    def plant(self, optimizer: DPOptimizer) -> None:
        raise NotImplementedError


def with_attribute(optimizer: DPOptimizer, method: str, attribute: str, value: Callable[[DPOptimizer], float]) -> None:
    """Make ``optimizer.method`` see another value of ``optimizer.attribute``."""
    original = getattr(optimizer, method)

    def faulty() -> None:
        true = getattr(optimizer, attribute)
        setattr(optimizer, attribute, value(optimizer))
        original()
        setattr(optimizer, attribute, true)

    setattr(optimizer, method, faulty)


class HalfNoise(FaultyOptimizer):
    """Adds half the noise that it states."""

    def plant(self, optimizer):
        with_attribute(optimizer, "add_noise", "noise_multiplier", lambda one: one.noise_multiplier / 2)


class SameNoiseEachStep(FaultyOptimizer):
    """Draws the noise of every step from the same seed, so that differences of steps have none."""

    def plant(self, optimizer):
        with_attribute(optimizer, "add_noise", "generator", lambda one: torch.Generator().manual_seed(1))


class NoClipping(FaultyOptimizer):
    """Sums gradients as they are."""

    def plant(self, optimizer):
        with_attribute(optimizer, "clip_and_accumulate", "max_grad_norm", lambda one: math.inf)


class ActualBatchSize(FaultyOptimizer):
    """Divides by the size of the sample, which is private."""

    def plant(self, optimizer):
        with_attribute(
            optimizer, "scale_grad", "expected_batch_size", lambda one: max(1, len(one.params[0].grad_sample))
        )


class ShuffledBatches(DpSgdLearner):
    """Fixed batches of a shuffled order, accounted for as Poisson samples."""

    def _sampler(self, records, rate, steps, rng):
        order = torch.randperm(records, generator=rng.child("sampling").torch())
        return [part.tolist() for part in torch.tensor_split(order, steps)]


class SkipsEmpty(DpSgdLearner):
    """Leaves out steps whose sample is empty."""

    def _sampler(self, *arguments) -> Iterable[list[int]]:
        return [index for index in super()._sampler(*arguments) if index]


class InvertedRate(DpSgdLearner):
    """Takes as many steps as Opacus' default, which loses one at some sizes."""

    def _sampler(self, records, rate, steps, rng):
        return UniformWithReplacementSampler(
            num_samples=records, sample_rate=rate, generator=rng.child("sampling").torch()
        )


class StatesOneStepLess(DpSgdLearner):
    """States one step less than it does."""

    def fit(self, *arguments, **settings):
        event, *others = super().fit(*arguments, **settings)
        less = MechanismEvent(event.sample_rate, event.noise_multiplier, event.steps - 1, event.max_grad_norm)
        return (less, *others)


class TellsLoss(DpSgdLearner):
    """Releases a training loss of private records."""

    def fit(self, model, records, *, after_epoch, **settings):
        return super().fit(model, records, after_epoch=lambda epoch, loss: after_epoch(epoch, 0.5), **settings)


class SeededSampling(DpSgdLearner):
    """Draws secure noise on samples from a seeded generator."""

    def _sampler(self, records, rate, steps, rng):
        return UniformWithReplacementSampler(
            num_samples=records, sample_rate=rate, steps=steps, generator=torch.Generator().manual_seed(1)
        )
