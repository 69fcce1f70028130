"""Differentially private SGD as the papers write it, an example at a time, with one fault or with none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ppml.accounting.events import MechanismEvent
from ppml.accounting.plan import poisson_plan
from ppml.learning.loss import example_losses


@dataclass
class Naive:
    """A learner whose every part a test can replace.

    Parameters
    ----------
    draw : callable
        Step, number of records, rate, generator -> positions of the sample.
    clip : callable
        Gradient, clipping norm, whether there is noise -> what is added.
    noise : callable
        Step, shape, generator -> noise of standard deviation 1.
    strength : callable
        Size of the sample -> factor on the noise.
    divisor : callable
        Size of the sample, expected size -> what the noisy sum is divided by.
    release : callable
        Noisy sum, clipping norm -> what goes on to be divided.
    skip : callable
        Size of the sample -> whether the step is left out.
    """

    settings: Any
    noise_multiplier: float
    max_grad_norm: float
    on_release: Any
    draw: Callable = field(default=lambda step, n, rate, rng: (torch.rand(n, generator=rng) < rate).nonzero().flatten())
    clip: Callable = field(default=lambda gradient, norm, noisy: gradient * min(1.0, norm / float(gradient.norm())))
    noise: Callable = field(default=lambda step, count, rng: torch.randn(count, generator=rng))
    strength: Callable = field(default=lambda size: 1.0)
    divisor: Callable = field(default=lambda size, expected: expected)
    release: Callable = field(default=lambda total, norm: total)
    skip: Callable = field(default=lambda size: False)

    def fit(self, model, records, *, span, rng, after_epoch=None):
        rate, steps = poisson_plan(len(records), self.settings.batch_size)
        steps *= self.settings.epochs
        coins, noises = rng.child("coins").torch(), rng.child("noises").torch()
        parameters = list(model.parameters())
        count = sum(parameter.numel() for parameter in parameters)
        done = 0
        for step in range(steps):
            sample = self.draw(step, len(records), rate, coins)
            if self.skip(len(sample)):
                continue
            labels, total = records.labels[sample], torch.zeros(count)
            for image, label in zip(records.images[sample], labels, strict=True):
                loss = example_losses(model(image[None]), label[None]).sum()
                gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])
                total += self.clip(gradient, self.max_grad_norm, self.noise_multiplier > 0)
            deviation = self.noise_multiplier * self.max_grad_norm * self.strength(len(sample))
            total = self.release(total + deviation * self.noise(step, count, noises), self.max_grad_norm)
            total /= self.divisor(len(sample), rate * len(records))
            self.on_release(total.split([parameter.numel() for parameter in parameters]))
            done += 1
        return (MechanismEvent(rate, self.noise_multiplier, done, self.max_grad_norm),)
