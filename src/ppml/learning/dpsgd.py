"""Differentially private stochastic gradient descent with true Poisson sampling and fast exact clipping."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent, compose
from ppml.accounting.schedule import poisson_plan
from ppml.data.examples import Examples
from ppml.learning.batch_independence import refuse_mixing
from ppml.learning.clipping import BookKeeping
from ppml.learning.gradient_correction import NO_PULL, Pull
from ppml.learning.learner import AfterEpoch, OnRelease, Settings, TrainingDiverged, ignore_epoch, ignore_release
from ppml.learning.loop import walk
from ppml.learning.loss import losses_of
from ppml.learning.noise import NoiseSource, noise_from
from ppml.learning.poisson import PoissonSampler, Sampling, build_sampler, sampling
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.learning.training_window import Span
from ppml.randomness import Randomness


class DpSgdLearner:
    """Clipped per-example gradients, Gaussian noise, Poisson sampling.

    Each example is protected: one clipped gradient has norm at most ``max_grad_norm``, the sum carries noise of
    standard deviation ``noise_multiplier`` times the most that one example moves it, and is divided by the public
    expected batch size. That most is ``max_grad_norm`` with the margin for float32
    (:data:`~ppml.learning.clipping.CLIPPING_MARGIN`) and the rounding to the grid of the noise
    (:mod:`ppml.learning.noise`). An example whose gradient is not finite contributes 0, and nothing tells of it.

    Parameters
    ----------
    settings : Settings
        Epochs, expected batch size and learning rate.
    noise_multiplier : float
        At least 0; 0 gives clipping without privacy.
    max_grad_norm : float
        The clipping norm.
    noise_source : {"seeded", "secure"}
        ``seeded`` repeats bit for bit, and a reader of the seed can subtract the noise; ``secure`` draws noise and
        sampling from the operating system and cannot be repeated.
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
            A weight is not finite after a step: the noisy weights alone decide.
        UnsupportedLayer
            A gradient cannot be clipped for each example, or the model mixes examples.
        """
        settings = self.settings
        refuse_mixing(model, records.images)
        rate, steps = poisson_plan(len(records), settings.batch_size)
        executed: list[MechanismEvent] = []
        # Convolutions on a CPU are about twice as fast in this order.
        model.to(memory_format=torch.channels_last)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sampler = self._sampler(records, rate, steps, rng)
        optimizer = self._optimizer(trained, rate * len(records), rng, executed, sampling(sampler), pull)
        try:
            with BookKeeping(model) as keeping:
                walk(
                    model,
                    records,
                    settings,
                    batches=lambda: (torch.as_tensor(sample, dtype=torch.int64) for sample in sampler),
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

    def _sampler(self, records: Examples, rate: float, steps: int, rng: Randomness) -> PoissonSampler:
        return build_sampler(records, rate, steps, self.noise_source, rng.child("sampling"))

    def _optimizer(
        self,
        parameters: list[nn.Parameter],
        expected_batch_size: float,
        rng: Randomness,
        executed: list[MechanismEvent],
        drawn: Sampling,
        pull: Pull,
    ) -> PrivateOptimizer:
        optimizer = PrivateOptimizer(
            torch.optim.SGD(parameters, lr=self.settings.learning_rate, momentum=self.settings.momentum, fused=True),
            noise=self._noise(rng),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=expected_batch_size,
        )

        def record(step: PrivateOptimizer) -> None:
            noise = step.noise.source
            executed.append(
                MechanismEvent(
                    drawn.rate, step.noise_multiplier, 1, step.max_grad_norm, drawn.kind, noise, drawn.or_of(noise)
                )
            )
            self.on_release([parameter.grad for parameter in step.params])
            pull.adjust(step.params)

        optimizer.attach_step_hook(record)
        return optimizer

    def _noise(self, rng: Randomness) -> NoiseSource:
        return noise_from(self.noise_source, rng.child("noise"))


def _private_step(
    model: nn.Module, keeping: BookKeeping, optimizer: PrivateOptimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Do one noisy step on a sample that may be empty, and keep its losses to itself: no noise covers them."""
    optimizer.zero_grad()
    # An empty sample is one empty piece and still adds noise: leaving the step out would tell that it was empty.
    pieces = list(zip(images.split(keeping.examples_at_once), labels.split(keeping.examples_at_once), strict=True))
    for number, (part, truth) in enumerate(pieces, start=1):
        keeping.sum_clipped(partial(losses_of, model, part, truth), len(part), optimizer.max_grad_norm)
        # Opacus adds up the clipped sums of all pieces; noise and step come with the last.
        optimizer.signal_skip_step(do_skip=number < len(pieces))
        optimizer.step()


def _forget(optimizer: PrivateOptimizer) -> None:
    """Remove what Opacus leaves on the parameters: a pickled one would carry the last gradient."""
    optimizer.zero_grad()
    for parameter in optimizer.params:
        vars(parameter).clear()
