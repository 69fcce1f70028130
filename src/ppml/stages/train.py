"""Stage train: one training of an arm, with one seed."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ppml.accounting.schedule import mechanism_schedules
from ppml.config.arm import Arm
from ppml.config.models import MODELS
from ppml.contract import DataContract
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.federation.server_state import RoundFailed
from ppml.io.atomic import read_json, write_bytes, write_json, write_text
from ppml.io.canonical_json import canonical
from ppml.io.digests import file_sha256
from ppml.jobs.job import Job
from ppml.learning.learner import TrainingDiverged
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.reference_training import train_reference
from ppml.stages.about import read_contract
from ppml.stages.checkpoint_file import CheckpointFile, CostMeter
from ppml.stages.example_files import read_examples, split_by_owner
from ppml.stages.model_file import write_models
from ppml.stages.seeds import public_data, seed_randomness
from ppml.training import train


@dataclass(frozen=True)
class _Data:
    """The examples of a training.

    Parameters
    ----------
    about : dict
        The content of about.json.
    contract : DataContract
        The contract of the inputs.
    examples, test : Examples
        All training examples, and all evaluation examples.
    first_test : Examples
        The first evaluation examples, which the history is measured on.
    owned : sequence of Examples
        The training examples of each owner; one owner if centralized.
    """

    about: dict[str, Any]
    contract: DataContract
    examples: Examples
    test: Examples
    first_test: Examples
    owned: Sequence[Examples]


def run(job: Job) -> None:
    """Train, and write model.safetensors, config.json, history.csv, events.json and cost.json.

    The specification holds arm, dataset, root_seed and device. A federated training keeps a checkpoint after each round
    beside the model. An interrupted training goes on from it, if the digest of code and pins, and all inputs, are the
    same.
    """
    arm, data = Arm.model_validate(job.spec["arm"]), _read_data(job)
    calibrated = read_json(job.inputs["noise"]) if "noise" in job.inputs else {}
    model_path = job.outputs["model"]
    last_good = model_path.with_name("last-good.safetensors")
    # After the examples: their memory is no memory of the training.
    meter = CostMeter()
    checkpoint = CheckpointFile(model_path.with_name("checkpoint.safetensors"), _identity(job), meter)
    try:
        result = _train(job, arm, data, calibrated, checkpoint)
    except TrainingDiverged as error:
        kept = keep_last_good(error, last_good)
        raise UserError(f"training: {error}{kept}; lower training.learning_rate of this arm") from None
    except RoundFailed as error:
        raise UserError(f"training: {error}") from None
    cost = meter.read()
    planned = _planned_steps(arm, data.owned) if "noise" in job.inputs else [0] * len(data.owned)
    _write_outputs(job, arm, data.about, result, planned, cost)
    _report_spent_budgets(calibrated.get("affordable_steps") or [], planned)
    last_good.unlink(missing_ok=True)
    # Last: a process that is killed before this line writes the same outputs again.
    checkpoint.discard()


def _read_data(job: Job) -> _Data:
    """Return the examples of a job."""
    about, contract = read_json(job.inputs["about"]), read_contract(job.inputs["about"])
    examples, test = (read_examples(job.inputs[name], contract, job.spec["device"]) for name in ("train", "test"))
    first_test = test.select(torch.arange(about["n_test"], device=test.labels.device))
    owned = split_by_owner(examples, job.inputs.get("partition"))
    return _Data(about, contract, examples, test, first_test, owned)


def _train(
    job: Job, arm: Arm, data: _Data, calibrated: Mapping[str, Any], checkpoint: CheckpointFile
) -> TrainingResult:
    """Train the arm on the examples, with the noise and the affordable steps of the stage calibrate."""

    def report(row: HistoryRow) -> None:
        unit = "round" if hasattr(arm.topology, "rounds") else "epoch"
        print(f"{unit} {row.step}: loss {row.loss:.4f}, accuracy {row.accuracy:.4f}", flush=True)

    if MODELS[arm.model].is_reference:
        classes, shown = len(data.contract.classes), data.about["n_test"]
        return train_reference(arm, job.seed, data.examples, data.test, classes, shown, report)
    return train(
        arm,
        data.owned,
        calibrated.get("noise_multipliers", [None] * len(data.owned)),
        data.first_test,
        contract=data.contract,
        rng=seed_randomness(job.spec["root_seed"], job.seed),
        data=public_data(data.about, job.inputs.get("partition")),
        report=report,
        affordable_steps=calibrated.get("affordable_steps"),
        checkpoint=checkpoint,
    )


def _planned_steps(arm: Arm, owned: Sequence[Examples]) -> list[int]:
    """Return the number of private steps that are planned for each owner."""
    return [schedule.steps for schedule in mechanism_schedules(arm, [len(own) for own in owned])]


def _write_outputs(
    job: Job,
    arm: Arm,
    about: Mapping[str, Any],
    result: TrainingResult,
    planned: Sequence[int],
    cost: Mapping[str, float],
) -> None:
    """Write the files of a finished training."""
    outputs = job.outputs
    write_models(outputs["model"], result.models)
    write_text(outputs["history"], _table(HistoryRow, result.history))
    write_json(
        outputs["events"],
        {
            "owners": [[event.to_json() for event in own] for own in result.events],
            "planned_steps": planned,
            "complete": _complete(result.history, len(planned), getattr(arm.topology, "rounds", None)),
            "mechanism": result.release,
        },
    )
    write_json(outputs["config"], {**job.spec, "seed": job.seed, "data": about})
    write_json(
        outputs["cost"],
        {
            "seconds": round(cost["seconds"], 3),
            "cpu_seconds": round(cost["cpu_seconds"], 3),
            "training_memory_mb": round(cost["training_memory_mb"], 1),
            "bytes_up": result.bytes_up,
            "bytes_down": result.bytes_down,
        },
    )


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
