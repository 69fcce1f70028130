"""What the auditor sees of a training: PyTorch tells, not the code that is audited.

A hook on every module sees the records of a sample as they enter the model, and hooks on every optimiser see the
weights before and after a step. Both are PyTorch's own. So the auditor learns the coins of each step, and what the step
released: from the difference of the weights follows the velocity, and from that of two velocities the noisy gradient.
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
class Step:
    """One step of an optimiser; its vectors are overwritten by the next one.

    Parameters
    ----------
    before, after : torch.Tensor
        The weights around it, float32, shape ``(parameters,)``.
    release : torch.Tensor
        The gradient that the weights were moved along, without the momentum of earlier steps: what the step released.
    rounding : float
        Norm by which ``release`` may be off, since weights are float32.
    drawn : tuple of int
        The records that have entered the model since the step before, ascending.
    fresh : bool
        Whether it is the first step of an optimiser.
    shapes : tuple of int
        The size of each parameter tensor.
    """

    before: torch.Tensor
    after: torch.Tensor
    release: torch.Tensor
    rounding: float
    drawn: tuple[int, ...]
    fresh: bool
    shapes: tuple[int, ...]


OnStep = Callable[[Step], None]


class Watcher:
    """Sees the samples and the steps of a training, while entered as a context.

    Parameters
    ----------
    records : sequence of Examples
        The records of each owner, no two of them equal; they are numbered through.
    on_step : callable
        Gets each step of stochastic gradient descent.
    """

    def __init__(self, records: Sequence[Examples], on_step: OnStep) -> None:
        images = [image for own in records for image in own.images]
        self._numbers: Mapping[bytes, int] = {bytes_of(image): number for number, image in enumerate(images)}
        if len(self._numbers) != len(images):
            raise ValueError("two records of an audit are equal")
        self._shape = images[0].shape
        self._on_step = on_step
        self._seen: set[int] = set()
        self._before: torch.Tensor | None = None
        self._last: tuple[Optimizer, torch.Tensor, torch.Tensor] | None = None
        self._paused = False
        self._buffers: list[torch.Tensor] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Watcher:
        """Begin to watch."""
        self._hooks = [
            register_module_forward_pre_hook(self._enters),
            register_optimizer_step_pre_hook(self._begins),
            register_optimizer_step_post_hook(self._ends),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End watching."""
        for hook in self._hooks:
            hook.remove()
        self._last = self._before = None

    def drawn(self) -> tuple[int, ...]:
        """Return the records that have entered the model since this was asked last, ascending."""
        found = tuple(sorted(self._seen))
        self._seen.clear()
        return found

    def _enters(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        images = inputs[0] if inputs else None
        if self._paused or not module.training or not torch.is_grad_enabled() or not isinstance(images, torch.Tensor):
            return
        # What a gradient is asked for with respect to is a trial of the model, and no sample.
        if images.requires_grad or images.shape[1:] != self._shape:
            return
        found = (self._numbers.get(bytes_of(image)) for image in images)
        self._seen.update(number for number in found if number is not None)

    def _begins(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._paused and type(optimizer) is torch.optim.SGD:
            known = self._last is not None and self._last[0] is optimizer
            self._before = self._last[1] if known and self._last else self._flat(optimizer, 0)

    def _ends(self, optimizer: Optimizer, *_: Any) -> None:
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
        # Half of the last place of both weights, at worst; once more for the velocity of the step before.
        rounding = 2.0**-23 * float(before.norm() + after.norm()) / rate * (1 + momentum)
        # The weights before, and the velocity before, are of use no more.
        spare = self._last[2] if self._last is not None else torch.empty_like(velocity)
        self._buffers = [after, before, spare, release]
        self._last = optimizer, after, velocity
        parameters = parameters_of(optimizer)
        shapes = tuple(parameter.numel() for parameter in parameters)
        with self.away():
            self._on_step(Step(before, after, release, rounding, self.drawn(), fresh, shapes))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Do not watch for a while: the auditor computes gradients of its own."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def _flat(self, optimizer: Optimizer, place: int) -> torch.Tensor:
        """Return the weights as one vector, in the memory of the buffer at ``place``.

        To give memory back and to ask for it again takes longer than a step on a few records.
        """
        parameters = parameters_of(optimizer)
        size = sum(parameter.numel() for parameter in parameters)
        if not self._buffers or self._buffers[0].numel() != size:
            self._buffers = [torch.empty(size, device=parameters[0].device) for _ in range(4)]
            self._last = None
        return torch.cat([parameter.detach().reshape(-1) for parameter in parameters], out=self._buffers[place])


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return what an optimiser trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def bytes_of(image: torch.Tensor) -> bytes:
    """Return the values of one record, whatever their order in memory."""
    return image.detach().cpu().contiguous().numpy().tobytes()
