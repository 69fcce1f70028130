"""Stage predict: the predictions of an arm's models for the whole evaluation file."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save

from ppml.io.atomic import write_bytes
from ppml.jobs.job import Job
from ppml.learning.evaluation import logits
from ppml.models.registry import build_model
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples


def run(job: Job) -> None:
    """Write log-probabilities, float32 ``(models, n, classes)``, and labels, int64 ``(n,)``.

    The specification holds model and device.
    """
    contract, device = read_contract(job.inputs["about"]), job.spec["device"]
    test = read_examples(job.inputs["test"], contract, device)
    model = build_model(job.spec["model"], contract, torch.Generator()).to(device)
    tensors = load_file(job.inputs["model"])
    predictions = []
    for number in sorted({int(name.split(".", 1)[0]) for name in tensors}):
        prefix = f"{number}."
        model.load_state_dict(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
        predictions.append(logits(model, test.inputs).log_softmax(dim=1).cpu())
    content = {"log_probabilities": torch.stack(predictions), "labels": test.labels.cpu()}
    write_bytes(job.outputs["predictions"], save(content))
