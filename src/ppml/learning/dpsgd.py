"""Differentially private stochastic gradient descent, by Opacus, with true Poisson sampling."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn

from ppml.accounting.events import MechanismEvent, compose
from ppml.accounting.plan import poisson_plan
from ppml.data.examples import Examples
from ppml.learning.learner import AfterEpoch, Settings, ignore_epoch
from ppml.learning.loop import walk
from ppml.learning.loss import example_losses
from ppml.learning.schedule import Span
from ppml.randomness import Randomness

GRADIENTS_AT_ONCE = 128
"""Per-example gradients held at a time: a sample of 1,000 in one piece takes half as long again, and more memory."""


OnRelease = Callable[[Sequence[torch.Tensor]], None]
"""Gets the noisy gradient of a step, one tensor a parameter, divided by the expected batch size: what SGD gets."""


def ignore_release(gradients: Sequence[torch.Tensor]) -> None:
    """Do nothing with what the mechanism releases."""


class SecureNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimiser with noise from the operating system instead of a seeded generator.

    Four draws are summed and halved, as Opacus' secure mode does, against attacks on floating-point noise
    (arXiv 2107.10138).
    """

    def add_noise(self) -> None:
        """Add noise of standard deviation ``noise_multiplier * max_grad_norm`` to the clipped sums."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            draws = [system_normal(parameter.summed_grad.shape) for _ in range(4)]
            noise = torch.stack(draws).sum(dim=0) / 2 * std
            # Added in float64 and rounded once, so that the sum's last bits do not tell the noise's.
            total = parameter.summed_grad.double() + noise.to(parameter.device)
            parameter.grad = total.to(parameter.dtype).view_as(parameter)


class SecureSampler(UniformWithReplacementSampler):  # type: ignore[misc]  # Opacus has no types
    """Poisson sampling from the operating system's entropy.

    A seeded torch generator would not do: it keeps 32 bits of its seed, few enough to try them all.
    """

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of each step's sample."""
        for _ in range(self.steps):
            yield np.flatnonzero(system_uniform(self.num_samples) < self.sample_rate).tolist()


def system_uniform(count: int) -> NDArray[np.float64]:
    """Return values in (0, 1), shape ``(count,)``, from the operating system's entropy."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def system_normal(shape: torch.Size) -> torch.Tensor:
    """Return standard normal values, float64, made from the operating system's entropy by Box and Muller."""
    uniform = system_uniform(2 * math.prod(shape)).reshape(2, -1)
    normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * np.pi * uniform[1])
    return torch.from_numpy(normal).reshape(shape)


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
    affordable_steps : int or None
        Training stops after so many steps of :meth:`fit`: what a privacy budget allows. None: all steps.
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
        affordable_steps: int | None = None,
        on_release: OnRelease = ignore_release,
    ) -> None:
        self.settings = settings
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self.noise_source = noise_source
        self.affordable_steps = affordable_steps
        self.on_release = on_release

    def fit(
        self,
        model: nn.Module,
        records: Examples,
        *,
        span: Span,
        rng: Randomness,
        after_epoch: AfterEpoch = ignore_epoch,
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
        # Opacus 1.6 returns wrong per-example gradients for a convolution in channels-last order: weights here, images
        # in _private_step.
        wrapped = GradSampleModule(model.to(memory_format=torch.contiguous_format))
        optimizer = self._optimizer(wrapped, rate * len(records), rng, executed, rate)
        sampler = self._sampler(len(records), rate, steps, rng)
        try:
            walk(
                wrapped,
                records,
                settings,
                batches=lambda: (torch.tensor(sample, dtype=torch.int64) for sample in sampler),
                steps=steps,
                step=lambda images, labels: _private_step(wrapped, optimizer, images, labels),
                groups=optimizer.param_groups,
                span=span,
                rng=rng,
                after_epoch=after_epoch,
                private=True,
                most_steps=self.affordable_steps,
            )
        finally:
            _forget(wrapped, optimizer)
        return compose(executed)

    def _sampler(self, records: int, rate: float, steps: int, rng: Randomness) -> UniformWithReplacementSampler:
        if self.noise_source == "secure":
            return SecureSampler(num_samples=records, sample_rate=rate, steps=steps)
        return UniformWithReplacementSampler(
            num_samples=records, sample_rate=rate, steps=steps, generator=rng.child("sampling").torch()
        )

    def _optimizer(
        self,
        model: GradSampleModule,
        expected_batch_size: float,
        rng: Randomness,
        executed: list[MechanismEvent],
        rate: float,
    ) -> DPOptimizer:
        kind: Callable[..., DPOptimizer] = SecureNoiseOptimizer if self.noise_source == "secure" else DPOptimizer
        device = next(model.parameters()).device
        optimizer = kind(
            torch.optim.SGD(model.parameters(), lr=self.settings.learning_rate, momentum=self.settings.momentum),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=expected_batch_size,
            generator=rng.child("noise").torch(device),
        )

        def record(step: DPOptimizer) -> None:
            executed.append(MechanismEvent(rate, step.noise_multiplier, 1, step.max_grad_norm))
            self.on_release([parameter.grad for parameter in step.params])

        optimizer.attach_step_hook(record)
        return optimizer


def _private_step(model: GradSampleModule, optimizer: DPOptimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Do one noisy step on a sample that may be empty; return the sum of its losses."""
    optimizer.zero_grad()
    if len(images) == 0:
        # An empty sample still adds noise: leaving the step out would tell that it was empty.
        for parameter in optimizer.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.step()
        return 0.0
    chunks = list(zip(images.split(GRADIENTS_AT_ONCE), labels.split(GRADIENTS_AT_ONCE), strict=True))
    total = 0.0
    for number, (part, truth) in enumerate(chunks, start=1):
        # Opacus adds up the clipped sums of all chunks; noise and step come with the last.
        optimizer.signal_skip_step(do_skip=number < len(chunks))
        # A copy, because `contiguous` leaves the strides of an image of one channel as they are.
        loss = example_losses(model(part.clone(memory_format=torch.contiguous_format)), truth).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += float(loss.detach()) * len(part)
    return total


def _forget(model: GradSampleModule, optimizer: DPOptimizer) -> None:
    """Unwrap ``model`` and remove what Opacus leaves on it: a pickled parameter carries the last sum without noise."""
    optimizer.zero_grad(set_to_none=True)
    model.to_standard_module()
    for parameter in optimizer.params:
        vars(parameter).clear()
    for module in model.modules():
        vars(module).pop("activations", None)
