"""The auditor's view of a training, by hooks of PyTorch and independent of the audited code.

A hook on every module observes the examples of a sample at the input of the model. Hooks on every optimiser observe the
weights before and after a step. The auditor derives the sample and the release of each step: the difference of the
weights gives the velocity, and the difference of two velocities the noisy gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ppml.data.examples import Examples


@dataclass(frozen=True)
class ObservedStep:
    """One observed step of an optimiser; the next step overwrites its vectors.

    Parameters
    ----------
    before, after : torch.Tensor
        The weights before and after the step, float32, shape ``(parameters,)``.
    release : torch.Tensor
        The release of the step: the noisy gradient, without the momentum of earlier steps.
    rounding : float
        Largest error of ``release``, as a norm, since weights are float32.
    sample : tuple of int
        The numbers of the examples that entered the model since the previous step, ascending.
    fresh : bool
        Whether it is the first step of an optimiser.
    shapes : tuple of int
        The size of each parameter tensor.
    """

    before: torch.Tensor
    after: torch.Tensor
    release: torch.Tensor
    rounding: float
    sample: tuple[int, ...]
    fresh: bool
    shapes: tuple[int, ...]


OnStep = Callable[[ObservedStep], None]


class TrainingObserver:
    """Context manager that observes the samples and the steps of a training.

    Parameters
    ----------
    owned : sequence of Examples
        The examples of each owner, all different; their numbers run over all owners.
    on_step : callable
        Callback for each step of stochastic gradient descent.
    """

    def __init__(self, owned: Sequence[Examples], on_step: OnStep) -> None:
        images = [image for own in owned for image in own.inputs]
        self._numbers: Mapping[bytes, int] = {example_bytes(image): number for number, image in enumerate(images)}
        if len(self._numbers) != len(images):
            raise ValueError("two examples of an audit are equal")
        self._shape = images[0].shape
        self._on_step = on_step
        self._seen: set[int] = set()
        self._before: torch.Tensor | None = None
        self._last: tuple[Optimizer, torch.Tensor, torch.Tensor] | None = None
        self._paused = False
        self._buffers: list[torch.Tensor] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> TrainingObserver:
        """Register the hooks."""
        self._hooks = [
            register_module_forward_pre_hook(self._before_forward),
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._last = self._before = None

    def take_sample(self) -> tuple[int, ...]:
        """Return the numbers of the examples that entered the model since the previous call, ascending."""
        found = tuple(sorted(self._seen))
        self._seen.clear()
        return found

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        images = inputs[0] if inputs else None
        if self._paused or not module.training or not torch.is_grad_enabled() or not isinstance(images, torch.Tensor):
            return
        # An input that requires a gradient belongs to a check of the model, not to a sample.
        if images.requires_grad or images.shape[1:] != self._shape:
            return
        found = (self._numbers.get(example_bytes(image)) for image in images)
        self._seen.update(number for number in found if number is not None)

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._paused and type(optimizer) is torch.optim.SGD:
            known = self._last is not None and self._last[0] is optimizer
            self._before = self._last[1] if known and self._last else self._flat(optimizer, 0)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._paused or type(optimizer) is not torch.optim.SGD or self._before is None:
            return
        (group,) = optimizer.param_groups
        fresh = self._last is None or self._last[0] is not optimizer
        rate, momentum = float(group["lr"]), float(group["momentum"])
        before, after = self._before, self._flat(optimizer, 1)
        velocity, release = self._buffers[2], self._buffers[3]
        torch.sub(before, after, out=velocity).div_(rate)
        release.copy_(velocity)
        if not fresh and momentum and self._last is not None:
            release.sub_(self._last[2], alpha=momentum)
        # At most half a unit in the last place of both weights; momentum adds that of the previous velocity.
        rounding = 2.0**-23 * float(before.norm() + after.norm()) / rate * (1 + momentum)
        # The previous weights and velocity are no longer needed: their memory is reused.
        spare = self._last[2] if self._last is not None else torch.empty_like(velocity)
        self._buffers = [after, before, spare, release]
        self._last = optimizer, after, velocity
        parameters = parameters_of(optimizer)
        shapes = tuple(parameter.numel() for parameter in parameters)
        with self.paused():
            self._on_step(ObservedStep(before, after, release, rounding, self.take_sample(), fresh, shapes))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the observation, for gradients that the auditor computes."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def _flat(self, optimizer: Optimizer, place: int) -> torch.Tensor:
        """Return the weights as one vector, in the buffer at ``place``.

        A new allocation takes longer than a step on a few examples.
        """
        parameters = parameters_of(optimizer)
        size = sum(parameter.numel() for parameter in parameters)
        if not self._buffers or self._buffers[0].numel() != size:
            self._buffers = [torch.empty(size, device=parameters[0].device) for _ in range(4)]
            self._last = None
        return torch.cat([parameter.detach().reshape(-1) for parameter in parameters], out=self._buffers[place])


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the trained parameters of an optimiser."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def example_bytes(image: torch.Tensor) -> bytes:
    """Return the values of one example as bytes, independent of their order in memory."""
    return image.detach().cpu().contiguous().numpy().tobytes()
