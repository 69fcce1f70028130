"""The training of a reference model: a library trains it by its own rule, without privacy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ppml.config.arm import Arm
from ppml.data.examples import Examples
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.models.registry import build_reference


class ReferenceAnswers(nn.Module):
    """The answers of a reference model for the evaluation examples, in place of its weights.

    A reference is a number to compare with. No format of its library can be read safely from a stranger, so the file of
    the run has its answers alone.

    Parameters
    ----------
    log_probabilities : float32 array, shape ``(n, classes)``
        The logarithm of the probability of each class for each evaluation example.
    """

    def __init__(self, log_probabilities: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("log_probabilities", torch.from_numpy(log_probabilities))


def train_reference(
    arm: Arm, seed: int, train: Examples, test: Examples, classes: int, shown: int, report: Callable[[HistoryRow], None]
) -> TrainingResult:
    """Train the reference model of an arm, and answer the evaluation examples.

    Parameters
    ----------
    arm : Arm
        The arm.
    seed : int
        The seed of the library.
    train, test : Examples
        The training examples, and all evaluation examples.
    classes : int
        The number of classes.
    shown : int
        The number of evaluation examples, the first ones, that the history is measured on.
    report : callable
        Takes the only row of the history.
    """
    model = build_reference(arm.model, seed)
    model.fit(train.inputs.cpu().numpy(), train.labels.cpu().numpy())
    answers = model.log_probabilities(test.inputs.cpu().numpy(), classes)
    found, labels = torch.from_numpy(answers[:shown]), test.labels[:shown].cpu()
    accuracy = float((found.argmax(dim=1) == labels).double().mean())
    row = HistoryRow(1, None, float(functional.nll_loss(found, labels)), accuracy)
    report(row)
    return TrainingResult([ReferenceAnswers(answers)], [row], [()])
