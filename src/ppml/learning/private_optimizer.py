"""Opacus' optimiser for clipped gradient sums, with noise on a grid."""

from __future__ import annotations

from typing import Any

from opacus.optimizers import DPOptimizerFastGradientClipping
from torch.optim import Optimizer

from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.noise import NoiseGrid, NoiseSource, add_grid_noise, noise_grid


class PrivateOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # Opacus has no types
    """Adds up clipped sums, adds noise once, divides by the expected batch size, and steps.

    The step has the order of Opacus: ``accumulate``, ``add_noise``, ``scale_grad``, the step hook, the step of
    ``optimizer``.

    Parameters
    ----------
    optimizer : Optimizer
        Receives the noisy gradient.
    noise : NoiseSource
        Source of the noise.
    **settings
        ``noise_multiplier``, ``max_grad_norm`` and ``expected_batch_size`` of Opacus.
    """

    def __init__(self, optimizer: Optimizer, *, noise: NoiseSource, **settings: Any) -> None:
        super().__init__(optimizer, **settings)
        self.noise = noise

    @property
    def grid(self) -> NoiseGrid | None:
        """The grid of all sums and the noise on it; None for noise multiplier 0, which gives no privacy."""
        if self.noise_multiplier == 0:
            return None
        # In float32 one example may change a clipped sum by slightly more than the clipping norm.
        bound = self.max_grad_norm * (1.0 + CLIPPING_MARGIN)
        return noise_grid(self.noise_multiplier, bound, sum(parameter.numel() for parameter in self.params))

    def accumulate(self) -> None:
        """Add the clipped sums in ``grad`` to earlier sums, in float64; a single sum stays as it is."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = parameter.grad
            else:
                parameter.summed_grad = parameter.summed_grad.double().add_(parameter.grad)
            parameter.grad = None

    def add_noise(self) -> None:
        """Replace the sums by noisy gradients, divided by the expected batch size; keep no noiseless sum in memory."""
        grid = self.grid
        for parameter in self.params:
            total, parameter.summed_grad = parameter.summed_grad, None
            if grid is None:
                parameter.grad = total.div_(self.expected_batch_size).to(parameter.dtype)
            else:
                parameter.grad = add_grid_noise(total, self.noise, grid, self.expected_batch_size, parameter.dtype)

    def scale_grad(self) -> None:
        """Do nothing: ``add_noise`` includes the division."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Delete gradients instead of writing zeros."""
        super().zero_grad(set_to_none)
