"""Differentially private SGD with true Poisson sampling and fast exact clipping."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent, compose
from ppml.accounting.schedule import poisson_schedule
from ppml.data.examples import Examples
from ppml.learning.batch_independence import check_batch_independence
from ppml.learning.clipping import BookKeeping
from ppml.learning.gradient_correction import NO_CORRECTION, GradientCorrection
from ppml.learning.learner import AfterEpoch, OnRelease, Settings, TrainingDiverged, no_op
from ppml.learning.loop import run_epochs
from ppml.learning.loss import per_example_losses
from ppml.learning.noise import NoiseSource, build_noise_source
from ppml.learning.poisson import PoissonSampler, Sampling, build_sampler, describe_sampling
from ppml.learning.private_optimizer import PrivateOptimizer
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness


class DpSgdLearner:
    """Clipped per-example gradients, Gaussian noise, Poisson sampling.

    The guarantee is per example. One clipped gradient has norm at most ``max_grad_norm``. The sum of a step gets noise
    of standard deviation ``noise_multiplier`` times its sensitivity to one example, and is divided by the public
    expected batch size. The sensitivity is ``max_grad_norm`` with the margin for float32
    (:data:`~ppml.learning.clipping.CLIPPING_MARGIN`) and for the rounding to the noise grid
    (:mod:`ppml.learning.noise`). An example whose gradient is not finite contributes 0, without a message.

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
        samples from the operating system and cannot be repeated.
    on_release : callable
        Called once per step with the complete release of the mechanism, for an auditor.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        noise_source: str = "seeded",
        on_release: OnRelease = no_op,
    ) -> None:
        self.settings = settings
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self.noise_source = noise_source
        self.on_release = on_release

    def fit(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        window: TrainingWindow,
        rng: Randomness,
        after_epoch: AfterEpoch = no_op,
        correction: GradientCorrection = NO_CORRECTION,
        affordable_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place and return the executed steps, counted where the noise is added.

        Raises
        ------
        TrainingDiverged
            A weight is not finite after a step; only the noisy weights are checked.
        UnsupportedLayer
            A layer has no per-example clipping, or the model mixes examples.
        """
        settings = self.settings
        check_batch_independence(model, examples.inputs)
        rate, steps = poisson_schedule(len(examples), settings.batch_size)
        executed: list[MechanismEvent] = []
        # Convolutions on a CPU are about twice as fast in this memory format.
        model.to(memory_format=torch.channels_last)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sampler = self._sampler(examples, rate, steps, rng)
        optimizer = self._optimizer(
            trained, rate * len(examples), rng, executed, describe_sampling(sampler), correction
        )
        try:
            with BookKeeping(model) as bookkeeping:
                run_epochs(
                    model,
                    examples,
                    settings,
                    batches=lambda: (torch.as_tensor(sample, dtype=torch.int64) for sample in sampler),
                    steps=steps,
                    step=lambda images, labels: _private_step(model, bookkeeping, optimizer, images, labels),
                    groups=optimizer.param_groups,
                    window=window,
                    rng=rng,
                    after_epoch=after_epoch,
                    private=True,
                    affordable_steps=affordable_steps,
                )
        except TrainingDiverged as error:
            error.events = compose(executed)
            raise
        finally:
            _clear_gradients(optimizer)
            model.to(memory_format=torch.contiguous_format)
        return compose(executed)

    def _sampler(self, examples: Examples, rate: float, steps: int, rng: Randomness) -> PoissonSampler:
        return build_sampler(examples, rate, steps, self.noise_source, rng.child("sampling"))

    def _optimizer(
        self,
        parameters: list[nn.Parameter],
        expected_batch_size: float,
        rng: Randomness,
        executed: list[MechanismEvent],
        drawn: Sampling,
        correction: GradientCorrection,
    ) -> PrivateOptimizer:
        optimizer = PrivateOptimizer(
            torch.optim.SGD(parameters, lr=self.settings.learning_rate, momentum=self.settings.momentum, fused=True),
            noise=self._noise(rng),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=expected_batch_size,
        )

        def record_step(step: PrivateOptimizer) -> None:
            noise = step.noise.source
            executed.append(
                MechanismEvent(
                    drawn.rate, step.noise_multiplier, 1, step.max_grad_norm, drawn.kind, noise, drawn.source_or(noise)
                )
            )
            self.on_release([parameter.grad for parameter in step.params])
            correction.add_to_gradients(step.params)

        optimizer.attach_step_hook(record_step)
        return optimizer

    def _noise(self, rng: Randomness) -> NoiseSource:
        return build_noise_source(self.noise_source, rng.child("noise"))


def _private_step(
    model: nn.Module, bookkeeping: BookKeeping, optimizer: PrivateOptimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Do one noisy step on a possibly empty sample; return no loss, since losses have no noise."""
    optimizer.zero_grad()
    # An empty sample is one empty chunk and still gets noise: a missing step would reveal that it was empty.
    chunks = list(
        zip(images.split(bookkeeping.examples_per_pass), labels.split(bookkeeping.examples_per_pass), strict=True)
    )
    for number, (part, truth) in enumerate(chunks, start=1):
        bookkeeping.clipped_gradient_sum(
            partial(per_example_losses, model, part, truth), len(part), optimizer.max_grad_norm
        )
        # Opacus adds up the clipped sums of all chunks; the last chunk triggers noise and step.
        optimizer.signal_skip_step(do_skip=number < len(chunks))
        optimizer.step()


def _clear_gradients(optimizer: PrivateOptimizer) -> None:
    """Remove Opacus' attributes from the parameters: a pickled parameter would include the last gradient."""
    optimizer.zero_grad()
    for parameter in optimizer.params:
        vars(parameter).clear()
