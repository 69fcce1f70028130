"""Labelled examples in memory."""

import torch

from ppml.data.examples import Examples


def test_selection_keeps_inputs_with_their_labels():
    labels = torch.arange(10)
    examples = Examples(labels.float()[:, None, None, None].expand(10, 1, 2, 2), labels)
    chosen = examples.select(torch.tensor([7, 2]))
    assert len(chosen) == 2
    assert chosen.labels.tolist() == chosen.inputs[:, 0, 0, 0].tolist() == [7, 2]
