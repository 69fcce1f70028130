from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ppml.learning.evaluation import evaluate, logits, score

from .digits import cnn, digits


def test_score_is_cross_entropy_and_accuracy():
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]])
    labels = torch.tensor([0, 1, 1, 1])
    loss, accuracy = score(outputs, labels)
    chosen = torch.log_softmax(outputs, dim=1)[torch.arange(4), labels]
    assert loss == pytest.approx(-chosen.mean().item())
    assert accuracy == 0.75


def test_evaluate_agrees_with_torch():
    model, (_, test) = cnn(), digits()
    loss, accuracy = evaluate(model, test)
    with torch.no_grad():
        outputs = model(test.inputs)
    assert loss == pytest.approx(functional.cross_entropy(outputs, test.labels).item(), rel=1e-6)
    assert accuracy == pytest.approx((outputs.argmax(1) == test.labels).float().mean().item())


def test_logits_keep_image_order_for_any_batch_size():
    model, (_, test) = cnn(), digits()
    together = logits(model, test.inputs)
    assert together.shape == (360, 10)
    assert torch.allclose(logits(model, test.inputs, batch_size=7), together, atol=1e-5)


def test_evaluation_preserves_weights_and_keeps_no_graph():
    model = cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs = logits(model, digits()[1].inputs[:10])
    assert not outputs.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
