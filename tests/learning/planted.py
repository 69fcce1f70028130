"""Private learners with one fault each. Every check must fail for the fault that it covers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from unittest import mock

import numpy as np
import torch

from ppml.accounting.events import MechanismEvent
from ppml.learning import dpsgd
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.clipping.gradient_factors import PerExampleGradient
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.noise import SeededNoise
from ppml.learning.poisson import SeededSampler
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.randomness import Randomness


class FaultyOptimizer(DpSgdLearner):
    """Lets a subclass change the optimiser of the real learner."""

    def _optimizer(self, *arguments):
        optimizer = super()._optimizer(*arguments)
        self.plant(optimizer)
        return optimizer

    def plant(self, optimizer: PrivateOptimizer) -> None:
        raise NotImplementedError


def with_attribute(
    optimizer: PrivateOptimizer, method: str, attribute: str, value: Callable[[PrivateOptimizer], float]
) -> None:
    """Run ``optimizer.method`` with another value of ``optimizer.attribute``."""
    original = getattr(optimizer, method)

    def faulty() -> None:
        true = getattr(optimizer, attribute)
        setattr(optimizer, attribute, value(optimizer))
        original()
        setattr(optimizer, attribute, true)

    setattr(optimizer, method, faulty)


class HalfNoise(FaultyOptimizer):
    """Adds half of the stated noise."""

    def plant(self, optimizer):
        with_attribute(optimizer, "add_noise", "noise_multiplier", lambda one: one.noise_multiplier / 2)


class SameNoiseEachStep(FaultyOptimizer):
    """Draws the noise of every step from the same seed, so that differences of steps have none."""

    def plant(self, optimizer):
        with_attribute(optimizer, "add_noise", "noise", lambda one: SeededNoise(np.random.default_rng(1)))


class NoClipping(DpSgdLearner):
    """Sums gradients without clipping."""

    def fit(self, *arguments, **settings):
        with mock.patch.object(bookkeeping, "clipping_factors", unclipped):
            return super().fit(*arguments, **settings)


def unclipped(parts: Sequence[PerExampleGradient], max_grad_norm: float) -> torch.Tensor:
    """Return factors of 1."""
    return torch.ones_like(parts[0].squared_norms())


class ActualBatchSize(DpSgdLearner):
    """Divides by the private size of the sample."""

    def fit(self, *arguments, **settings):
        def faulty(model, keeping, optimizer, images, labels):
            optimizer.expected_batch_size = max(1, len(images))
            return true(model, keeping, optimizer, images, labels)

        true = dpsgd._private_step
        with mock.patch.object(dpsgd, "_private_step", faulty):
            return super().fit(*arguments, **settings)


class ShuffledBatches(DpSgdLearner):
    """Fixed batches of a shuffled order, stated as Poisson samples."""

    def _sampler(self, examples, rate, steps, rng):
        order = torch.randperm(len(examples), generator=rng.child("sampling").torch())
        return [part.tolist() for part in torch.tensor_split(order, steps)]


class SkipsEmpty(DpSgdLearner):
    """Skips steps with an empty sample."""

    def _sampler(self, *arguments) -> Iterable[torch.Tensor]:
        return [index for index in super()._sampler(*arguments) if len(index)]


class InvertedRate(DpSgdLearner):
    """Takes as many steps as Opacus' default, which loses one at some sizes."""

    def _sampler(self, examples, rate, steps, rng):
        return SeededSampler(examples, rate, int(1 / rate), rng.child("sampling"))


class StatesOneStepLess(DpSgdLearner):
    """States one step less than executed."""

    def fit(self, *arguments, **settings):
        event, *others = super().fit(*arguments, **settings)
        less = MechanismEvent(event.sample_rate, event.noise_multiplier, event.steps - 1, event.max_grad_norm)
        return (less, *others)


class ReleasesLoss(DpSgdLearner):
    """Releases a training loss of private examples."""

    def fit(self, model, examples, *, after_epoch, **settings):
        return super().fit(model, examples, after_epoch=lambda epoch, loss: after_epoch(epoch, 0.5), **settings)


class SeededSampling(DpSgdLearner):
    """Draws samples from a seeded generator under secure noise."""

    def _sampler(self, examples, rate, steps, rng):
        return SeededSampler(examples, rate, steps, Randomness(1))
