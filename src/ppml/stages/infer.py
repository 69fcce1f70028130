"""Rule infer: what a server without a key predicts of encrypted images, and how near it is to the plain prediction."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ppml.io.atomic import read_json, write_json

IMAGE = (1, 28, 28)


def main(argv: Sequence[str] | None = None) -> None:
    """Write inference.json, what repeats, and inference-cost.json, what is measured.

    ``--spec`` holds model, dataset, images and singly.

    Raises
    ------
    UserError
        An encrypted prediction is not what the bound of its error allows; nothing is written then.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--about", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--output-cost", type=Path, required=True)
    arguments = parser.parse_args(argv)

    import torch
    from safetensors.torch import load_file

    from ppml.encrypted_inference.evaluation import try_network
    from ppml.encrypted_inference.network import network_of
    from ppml.encrypted_inference.server import start_server
    from ppml.models.registry import build_model
    from ppml.stages.example_files import read_examples

    torch.set_num_threads(1)
    spec = arguments.spec
    model = build_model(spec["model"], read_json(arguments.about)["classes"], torch.Generator())
    # A run's models are numbered; this is the only one.
    model.load_state_dict({name.removeprefix("0."): value for name, value in load_file(arguments.model).items()})
    assert isinstance(model, torch.nn.Sequential)
    network = network_of(model, IMAGE)
    # Before there is an image in memory: the server is a copy of this process.
    line, stop = start_server(network)
    try:
        test = read_examples(arguments.test, spec["dataset"])
        count = len(test) if spec["images"] == "all" else min(spec["images"], len(test))
        images = test.images[:count].flatten(1).double().numpy()
        trial, measured = try_network(
            network,
            line,
            images,
            test.labels[:count].numpy(),
            singly=spec["singly"],
            say=_said(time.perf_counter),
        )
    finally:
        stop()
    write_json(arguments.output, asdict(trial))
    write_json(arguments.output_cost, asdict(measured))


def _said(clock: Callable[[], float]) -> Callable[[str], None]:
    started = clock()
    return lambda text: print(f"{clock() - started:.0f} s: {text}", flush=True)
