"""Rule train: one arm, one seed."""

from __future__ import annotations

import argparse
import csv
import io
import json
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.records.files import read_json, write_bytes, write_json, write_text
from ppml.stages.runner import run


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write config.json, model.safetensors, history.csv, events.json and cost.json.

    ``--spec`` holds arm, dataset, root_seed and device.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, required=True)
    for name in ("train", "test", "about"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--partition", type=Path)
    parser.add_argument("--noise", type=Path)
    for name in ("config", "model", "history", "events", "cost"):
        parser.add_argument(f"--output-{name}", type=Path, required=True)
    arguments = parser.parse_args(argv)

    import torch
    from safetensors.torch import save

    from ppml.learning.learner import TrainingDiverged
    from ppml.learning.outcome import HistoryRow
    from ppml.randomness import Randomness
    from ppml.stages.storage import owned_by, read_examples
    from ppml.techniques import train

    torch.set_num_threads(1)
    # Opacus' hooks need no gradient of the images.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.use_deterministic_algorithms(True, warn_only=True)
    spec, about = arguments.spec, read_json(arguments.about)
    arm = Arm.model_validate(spec["arm"])
    records = read_examples(arguments.train, spec["dataset"], spec["device"])
    test = read_examples(arguments.test, spec["dataset"], spec["device"])
    paper_test = test.select(torch.arange(about["n_test"], device=test.labels.device))
    owned = owned_by(records, arguments.partition)
    noise = read_json(arguments.noise)["noise_multipliers"] if arguments.noise else [None] * len(owned)

    def report(row: HistoryRow) -> None:
        unit = "round" if hasattr(arm.topology, "rounds") else "epoch"
        print(f"{unit} {row.step}: loss {row.loss:.4f}, accuracy {row.accuracy:.4f}", flush=True)

    started, started_cpu = time.perf_counter(), time.process_time()
    rng = Randomness(spec["root_seed"]).child("seed", arguments.seed)
    try:
        outcome = train(arm, owned, noise, paper_test, classes=about["classes"], rng=rng, report=report)
    except TrainingDiverged as error:
        raise UserError(f"training: {error}; lower training.learning_rate of this arm") from None
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu

    weights = {
        f"{number}.{name}": value.contiguous().cpu()
        for number, model in enumerate(outcome.models)
        for name, value in model.state_dict().items()
    }
    write_bytes(arguments.output_model, save(weights))
    write_text(arguments.output_history, _table(HistoryRow, outcome.history))
    write_json(arguments.output_events, {"owners": [[event.to_json() for event in own] for own in outcome.events]})
    write_json(arguments.output_config, {**spec, "seed": arguments.seed, "data": about})
    write_json(
        arguments.output_cost,
        {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "peak_memory_mb": round(_peak_memory_mb(), 1),
            "bytes_up": outcome.bytes_up,
            "bytes_down": outcome.bytes_down,
        },
    )


def _table(kind: type, rows: Sequence[object]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows([astuple(row) for row in rows])  # type: ignore[call-overload]
    return text.getvalue()


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)


if __name__ == "__main__":
    run(main)
