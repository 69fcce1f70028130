"""Stage infer: predictions of a server without a key for encrypted images, compared with the plain predictions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from ppml.encrypted_inference.evaluation import evaluate_encrypted
from ppml.encrypted_inference.network import extract_polynomial_network
from ppml.encrypted_inference.server import start_inference_server
from ppml.io.atomic import write_json
from ppml.jobs.job import Job
from ppml.models.registry import build_model
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples
from ppml.stages.model_file import read_models


def run(job: Job) -> None:
    """Write inference.json, which repeats, and inference-cost.json, which is measured.

    The specification holds model, images and single_images.

    Raises
    ------
    UserError
        An encrypted prediction exceeds the bound of its error; nothing is written then.
    """
    spec, contract = job.spec, read_contract(job.inputs["about"])
    model = build_model(spec["model"], contract, torch.Generator())
    (weights,) = read_models(job.inputs["model"])
    model.load_state_dict(weights)
    assert isinstance(model, torch.nn.Sequential)
    network = extract_polynomial_network(model, contract.shape)
    # The server is a fork of this process: it starts before an image is in memory.
    connection, stop = start_inference_server(network)
    try:
        test = read_examples(job.inputs["test"], contract)
        count = len(test) if spec["images"] == "all" else min(spec["images"], len(test))
        result, cost = evaluate_encrypted(
            network,
            connection,
            test.inputs[:count].flatten(1).double().numpy(),
            test.labels[:count].numpy(),
            single_images=spec["single_images"],
            report=_print_after(time.perf_counter),
        )
    finally:
        stop()
    write_json(job.outputs["result"], asdict(result))
    write_json(job.outputs["cost"], asdict(cost))


def _print_after(clock: Callable[[], float]) -> Callable[[str], None]:
    """Return a function that prints a line with the seconds since now."""
    started = clock()
    return lambda text: print(f"{clock() - started:.0f} s: {text}", flush=True)
