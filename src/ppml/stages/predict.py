"""Rule predict: what an arm's models say of the whole evaluation file, for every seed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ppml.io.atomic import read_json, write_bytes


def main(argv: Sequence[str] | None = None) -> None:
    """Write log-probabilities, float32 ``(models, n, classes)``, and labels, int64 ``(n,)``.

    ``--spec`` holds model, dataset and device.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--about", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)

    import torch
    from safetensors.torch import load_file, save

    from ppml.learning.evaluation import logits
    from ppml.models.registry import build_model
    from ppml.stages.example_files import read_examples

    torch.set_num_threads(1)
    spec = arguments.spec
    test = read_examples(arguments.test, spec["dataset"], spec["device"])
    classes, features = read_json(arguments.about)["classes"], test.images.shape[-1]
    model = build_model(spec["model"], classes, torch.Generator(), features).to(spec["device"])
    tensors = load_file(arguments.model)
    said = []
    for number in sorted({int(name.split(".", 1)[0]) for name in tensors}):
        prefix = f"{number}."
        model.load_state_dict(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
        said.append(logits(model, test.images).log_softmax(dim=1).cpu())
    write_bytes(arguments.output, save({"log_probabilities": torch.stack(said), "labels": test.labels.cpu()}))
