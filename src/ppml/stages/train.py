"""Stage train: one training of an arm, with one seed."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

import torch
from safetensors.torch import save

from ppml.accounting.schedule import mechanism_schedules
from ppml.config.arm import Arm
from ppml.config.models import MODELS
from ppml.errors import UserError
from ppml.federation.server_state import RoundFailed
from ppml.io.atomic import read_json, write_bytes, write_json, write_text
from ppml.io.canonical_json import canonical
from ppml.io.digests import file_sha256
from ppml.jobs.job import Job
from ppml.learning.learner import TrainingDiverged
from ppml.learning.result import HistoryRow
from ppml.reference_training import train_reference
from ppml.stages.about import read_contract
from ppml.stages.checkpoint_file import CheckpointFile, CostMeter
from ppml.stages.example_files import read_examples, split_by_owner
from ppml.stages.model_file import write_models
from ppml.stages.seeds import public_data, seed_randomness
from ppml.training import train


def run(job: Job) -> None:
    """Train, and write model.safetensors, config.json, history.csv, events.json and cost.json.

    The specification holds arm, dataset, root_seed and device. A federated training keeps a checkpoint after each round
    beside the model. An interrupted training goes on from it, if the digest of code and pins, and all inputs, are the
    same.
    """
    spec, inputs, outputs = job.spec, job.inputs, job.outputs
    about = read_json(inputs["about"])
    contract = read_contract(inputs["about"])
    arm = Arm.model_validate(spec["arm"])
    examples, test = (read_examples(inputs[name], contract, spec["device"]) for name in ("train", "test"))
    paper_test = test.select(torch.arange(about["n_test"], device=test.labels.device))
    owned = split_by_owner(examples, inputs.get("partition"))
    calibrated = read_json(inputs["noise"]) if "noise" in inputs else {}
    noise = calibrated.get("noise_multipliers", [None] * len(owned))
    affordable_steps = calibrated.get("affordable_steps")

    def report(row: HistoryRow) -> None:
        unit = "round" if hasattr(arm.topology, "rounds") else "epoch"
        print(f"{unit} {row.step}: loss {row.loss:.4f}, accuracy {row.accuracy:.4f}", flush=True)

    meter = CostMeter()
    checkpoint = CheckpointFile(outputs["model"].with_name("checkpoint.safetensors"), _identity(job), meter)
    last_good = outputs["model"].with_name("last-good.safetensors")
    try:
        if MODELS[arm.model].is_reference:
            classes = len(contract.classes)
            outcome = train_reference(arm, job.seed, examples, test, classes, about["n_test"], report)
        else:
            outcome = train(
                arm,
                owned,
                noise,
                paper_test,
                contract=contract,
                rng=seed_randomness(spec["root_seed"], job.seed),
                data=public_data(about, inputs.get("partition")),
                report=report,
                affordable_steps=affordable_steps,
                checkpoint=checkpoint,
            )
    except TrainingDiverged as error:
        kept = keep_last_good(error, last_good)
        raise UserError(f"training: {error}{kept}; lower training.learning_rate of this arm") from None
    except RoundFailed as error:
        raise UserError(f"training: {error}") from None
    cost = meter.read()

    write_models(outputs["model"], outcome.models)
    write_text(outputs["history"], _table(HistoryRow, outcome.history))
    schedules = mechanism_schedules(arm, [len(own) for own in owned])
    planned = [schedule.steps if "noise" in inputs else 0 for schedule in schedules]
    events = [[event.to_json() for event in own] for own in outcome.events]
    complete = _complete(outcome.history, len(owned), getattr(arm.topology, "rounds", None))
    write_json(
        outputs["events"],
        {"owners": events, "planned_steps": planned, "complete": complete, "mechanism": outcome.release},
    )
    _report_spent_budgets(affordable_steps or [], planned)
    write_json(outputs["config"], {**spec, "seed": job.seed, "data": about})
    write_json(
        outputs["cost"],
        {
            "seconds": round(cost["seconds"], 3),
            "cpu_seconds": round(cost["cpu_seconds"], 3),
            "training_memory_mb": round(cost["training_memory_mb"], 1),
            "bytes_up": outcome.bytes_up,
            "bytes_down": outcome.bytes_down,
        },
    )
    last_good.unlink(missing_ok=True)
    # Last: a process that is killed before this line writes the same outputs again.
    checkpoint.discard()


def _report_spent_budgets(affordable_steps: Sequence[int], planned: Sequence[int]) -> None:
    """Print a line for each owner whose privacy budget ends its training early."""
    for owner, (steps, wanted) in enumerate(zip(affordable_steps, planned, strict=False)):
        if steps < wanted:
            whose = f" of client {owner}" if len(planned) > 1 else ""
            print(f"privacy.budget{whose} is spent: step {steps + 1} of {wanted} was refused", flush=True)


def _complete(history: Sequence[HistoryRow], clients: int, rounds: int | None) -> bool:
    """Tell whether every client took part in every round."""
    return rounds is None or (len(history) == rounds and all(row.clients == clients for row in history))


def keep_last_good(error: TrainingDiverged, path: Path) -> str:
    """Write the last finite model of a training that diverged, if it has one; return the end of the error message.

    A federated training has none: the models of clients are private, and its checkpoint has the rounds before.
    """
    if error.model is None:
        return ""
    write_bytes(path, save({name: value.contiguous().cpu() for name, value in error.model.state_dict().items()}))
    return f", and this model is in {path}"


def _identity(job: Job) -> str:
    """Return the digest of everything that the bits of the outputs depend on."""
    content = {
        "spec": job.spec,
        "seed": job.seed,
        "digest": job.digest,
        "files": {name: file_sha256(path) for name, path in job.inputs.items()},
    }
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _table(kind: type, rows: Sequence[object]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows([astuple(row) for row in rows])  # type: ignore[call-overload]
    return text.getvalue()
