"""Opacus' optimiser for gradients that are clipped already, with noise in steps of a grid."""

from __future__ import annotations

from typing import Any

from opacus.optimizers import DPOptimizerFastGradientClipping
from torch.optim import Optimizer

from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.noise import NoiseGrid, NoiseSource, noise_grid, with_noise


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

    @property
    def grid(self) -> NoiseGrid | None:
        """The grid of all sums together, and the noise on it; None for noise multiplier 0: there is no privacy then."""
        if self.noise_multiplier == 0:
            return None
        # In float32 a clipped sum may move by a little more than the clipping norm.
        bound = self.max_grad_norm * (1.0 + CLIPPING_MARGIN)
        return noise_grid(self.noise_multiplier, bound, sum(parameter.numel() for parameter in self.params))

    def accumulate(self) -> None:
        """Add the clipped sums in ``grad`` to those of earlier pieces, in float64; the first becomes the sum itself."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = parameter.grad
            else:
                parameter.summed_grad = parameter.summed_grad.double().add_(parameter.grad)
            parameter.grad = None

    def add_noise(self) -> None:
        """Turn the sums into noisy gradients, so that no sum without noise is left; divide on the way."""
        grid = self.grid
        for parameter in self.params:
            total, parameter.summed_grad = parameter.summed_grad, None
            if grid is None:
                parameter.grad = total.div_(self.expected_batch_size).to(parameter.dtype)
            else:
                parameter.grad = with_noise(total, self.noise, grid, self.expected_batch_size, parameter.dtype)

    def scale_grad(self) -> None:
        """Do nothing: ``add_noise`` has divided already."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients instead of writing zeros."""
        super().zero_grad(set_to_none)
