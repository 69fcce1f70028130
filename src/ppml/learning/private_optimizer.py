"""Opacus' optimiser for gradients that are clipped already, without passes over the parameters that can be spared."""

from __future__ import annotations

from typing import Any

from opacus.optimizers import DPOptimizerFastGradientClipping
from torch.optim import Optimizer

from ppml.learning.noise import NoiseSource


class PrivateOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # Opacus has no types
    """Adds up clipped sums, adds noise once, divides by the expected batch size, and steps.

    What a step does and in which order is Opacus': ``accumulate``, ``add_noise``, ``scale_grad``, the step hook, and
    the step of ``optimizer``.

    Parameters
    ----------
    optimizer : Optimizer
        Gets the noisy gradient.
    noise : NoiseSource
        Where the noise comes from.
    **settings
        ``noise_multiplier``, ``max_grad_norm`` and ``expected_batch_size``, as Opacus has them.
    """

    def __init__(self, optimizer: Optimizer, *, noise: NoiseSource, **settings: Any) -> None:
        super().__init__(optimizer, **settings)
        self.noise = noise

    def accumulate(self) -> None:
        """Add the clipped sums in ``grad`` to those of earlier pieces; the first becomes the sum itself."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad, parameter.grad = parameter.grad, None
            else:
                parameter.summed_grad.add_(parameter.grad)

    def add_noise(self) -> None:
        """Turn the sums into noisy gradients in place, so that no sum without noise is left; divide on the way."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            parameter.grad, parameter.summed_grad = parameter.summed_grad, None
            self.noise.add(parameter.grad, deviation, self.expected_batch_size)

    def scale_grad(self) -> None:
        """Do nothing: ``add_noise`` has divided while the values were in the cache."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients instead of writing zeros."""
        super().zero_grad(set_to_none)
