"""Stage predict: the predictions of an arm's models for the whole evaluation file."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from ppml.config.models import MODELS
from ppml.io.atomic import read_json, write_bytes
from ppml.jobs.job import Job
from ppml.learning.evaluation import logits
from ppml.models.registry import build_model
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples
from ppml.stages.model_file import read_models


def run(job: Job) -> None:
    """Write the predictions that tables and metrics need.

    The file has ``predicted``, the class of each example, ``(models, n_test_all)``; ``true_log_probabilities``, float32
    ``(models, n_test)``, for the loss on the first examples; ``labels``, ``(n_test_all,)``; and, for two classes,
    ``scores``, float32 ``(models, n_test_all)``: the log-probability of the second class less that of the first one.
    The specification holds model and device.
    """
    contract, device = read_contract(job.inputs["about"]), job.spec["device"]
    n_test = read_json(job.inputs["about"])["n_test"]
    test = read_examples(job.inputs["test"], contract, device)
    labels = test.labels.cpu().numpy()
    is_reference = MODELS[job.spec["model"]].is_reference
    model = None if is_reference else build_model(job.spec["model"], contract, torch.Generator()).to(device)
    predicted, of_truth, scores = [], [], []
    for weights in read_models(job.inputs["model"]):
        if model is None:
            log_probabilities: NDArray[np.float32] = weights["log_probabilities"].numpy()
        else:
            model.load_state_dict(weights)
            log_probabilities = logits(model, test.inputs).log_softmax(dim=1).cpu().numpy()
        predicted.append(log_probabilities.argmax(axis=1))
        of_truth.append(log_probabilities[np.arange(n_test), labels[:n_test]])
        scores.append(log_probabilities[:, 1] - log_probabilities[:, 0])
    kind = np.min_scalar_type(len(contract.classes) - 1)
    content = {
        "predicted": np.stack(predicted).astype(kind),
        "true_log_probabilities": np.stack(of_truth),
        "labels": labels.astype(kind),
        **({"scores": np.stack(scores)} if len(contract.classes) == 2 else {}),
    }
    write_bytes(job.outputs["predictions"], save(content))
