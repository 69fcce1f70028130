"""Rule train: one arm, one seed."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_bytes, write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ppml.federation.checkpoint import Progress
    from ppml.learning.learner import TrainingDiverged
    from ppml.learning.result import HistoryRow


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write config.json, model.safetensors, history.csv, events.json and cost.json.

    ``--spec`` holds arm, dataset, root_seed and device. ``--progress`` is where a federated training is kept after each
    round; one that was interrupted goes on from there, if ``--stamp``, the digest of the code and pins that train, and
    everything else that it was given are the same.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, required=True)
    for name in ("train", "test", "about"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--partition", type=Path)
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--stamp", required=True)
    for name in ("config", "model", "history", "events", "cost"):
        parser.add_argument(f"--output-{name}", type=Path, required=True)
    arguments = parser.parse_args(argv)

    import torch
    from safetensors.torch import save

    from ppml.accounting.schedule import plans
    from ppml.federation.server_state import RoundFailed
    from ppml.learning.determinism import repeat_to_the_bit
    from ppml.learning.learner import TrainingDiverged
    from ppml.learning.result import HistoryRow
    from ppml.stages.example_files import owned_by, read_examples
    from ppml.stages.seeds import public_data, seed_randomness
    from ppml.training import train

    repeat_to_the_bit()
    spec, about = arguments.spec, read_json(arguments.about)
    arm = Arm.model_validate(spec["arm"])
    records = read_examples(arguments.train, spec["dataset"], spec["device"])
    test = read_examples(arguments.test, spec["dataset"], spec["device"])
    paper_test = test.select(torch.arange(about["n_test"], device=test.labels.device))
    owned = owned_by(records, arguments.partition)
    calibrated = read_json(arguments.noise) if arguments.noise else {}
    noise = calibrated.get("noise_multipliers", [None] * len(owned))
    affordable = calibrated.get("affordable_steps")

    def report(row: HistoryRow) -> None:
        unit = "round" if hasattr(arm.topology, "rounds") else "epoch"
        print(f"{unit} {row.step}: loss {row.loss:.4f}, accuracy {row.accuracy:.4f}", flush=True)

    clock = Clock()
    progress = ProgressFile(arguments.progress, _identity(arguments), clock)
    try:
        outcome = train(
            arm,
            owned,
            noise,
            paper_test,
            classes=about["classes"],
            rng=seed_randomness(spec["root_seed"], arguments.seed),
            data=public_data(about, arguments.partition),
            report=report,
            affordable_steps=affordable,
            checkpoint=progress,
        )
    except TrainingDiverged as error:
        kept = keep_last_good(error, arguments.output_model.with_name("last-good.safetensors"))
        raise UserError(f"training: {error}{kept}; lower training.learning_rate of this arm") from None
    except RoundFailed as error:
        raise UserError(f"training: {error}") from None
    cost = clock.read()

    weights = {
        f"{number}.{name}": value.contiguous().cpu()
        for number, model in enumerate(outcome.models)
        for name, value in model.state_dict().items()
    }
    write_bytes(arguments.output_model, save(weights))
    write_text(arguments.output_history, _table(HistoryRow, outcome.history))
    planned = [plan.steps if arguments.noise else 0 for plan in plans(arm, [len(own) for own in owned])]
    events = [[event.to_json() for event in own] for own in outcome.events]
    complete = _complete(outcome.history, len(owned), getattr(arm.topology, "rounds", None))
    write_json(
        arguments.output_events,
        {"owners": events, "planned_steps": planned, "complete": complete, "mechanism": outcome.release},
    )
    for owner, (took, wanted) in enumerate(zip(affordable or [], planned, strict=False)):
        if took < wanted:
            whose = f" of client {owner}" if len(owned) > 1 else ""
            print(f"privacy.budget{whose} is spent: step {took + 1} of {wanted} was refused", flush=True)
    write_json(arguments.output_config, {**spec, "seed": arguments.seed, "data": about})
    write_json(
        arguments.output_cost,
        {
            "seconds": round(cost["seconds"], 3),
            "cpu_seconds": round(cost["cpu_seconds"], 3),
            "peak_memory_mb": round(cost["peak_memory_mb"], 1),
            "bytes_up": outcome.bytes_up,
            "bytes_down": outcome.bytes_down,
        },
    )
    arguments.output_model.with_name("last-good.safetensors").unlink(missing_ok=True)
    # Last: what is killed before this line writes the same outputs again.
    progress.discard()


def _complete(history: Sequence[HistoryRow], clients: int, rounds: int | None) -> bool:
    """Tell whether every client took part in every round."""
    return rounds is None or (len(history) == rounds and all(row.clients == clients for row in history))


def keep_last_good(error: TrainingDiverged, path: Path) -> str:
    """Write the model that a training had before it diverged, where it has one; return what to say of it.

    A federated training has none: what its clients had is theirs, and the rounds before this one are in its progress.
    """
    from safetensors.torch import save

    if error.model is None:
        return ""
    write_bytes(path, save({name: value.contiguous().cpu() for name, value in error.model.state_dict().items()}))
    return f", and these are in {path}"


class Clock:
    """Seconds and memory of a training: of this process, and of those that came to a checkpoint before it."""

    def __init__(self) -> None:
        self._before = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_mb": 0.0}
        self._started, self._started_cpu = time.perf_counter(), _cpu_seconds()

    def carry_on(self, before: dict[str, float]) -> None:
        """Count on from what :meth:`read` returned in an interrupted process."""
        self._before = before

    def read(self) -> dict[str, float]:
        """Return seconds, cpu_seconds and peak_memory_mb until now."""
        return {
            "seconds": self._before["seconds"] + time.perf_counter() - self._started,
            "cpu_seconds": self._before["cpu_seconds"] + _cpu_seconds() - self._started_cpu,
            "peak_memory_mb": max(self._before["peak_memory_mb"], _peak_memory_mb()),
        }


class ProgressFile:
    """The progress of one training, and what it has cost, in a file: a :class:`~ppml.federation.checkpoint.Checkpoint`.

    The file is safetensors: the two vectors as arrays, everything else as JSON in the metadata.

    Parameters
    ----------
    path : Path
        The file; it exists from the end of the first round to :meth:`discard`.
    identity : str
        Digest of everything that the training depends on: a file with another one is no progress of it.
    clock : Clock
        What the training has cost.
    """

    def __init__(self, path: Path, identity: str, clock: Clock) -> None:
        self._path = path
        self._identity = identity
        self._clock = clock

    def load(self) -> Progress | None:
        """Return what was saved last; None, with a line on stdout that says why, where a file is of no use."""
        from safetensors import SafetensorError

        from ppml.accounting.events import MechanismEvent, compose
        from ppml.federation.checkpoint import Progress
        from ppml.federation.global_state import GlobalState
        from ppml.federation.server_state import Standing
        from ppml.learning.result import HistoryRow

        try:
            state, arrays = self._read()
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            print(f"starting from the beginning, not from {self._path}: {error}", flush=True)
            return None
        self._clock.carry_on(state["cost"])
        standing = Standing(**{**state["standing"], **_numbered(state["standing"])})
        print(f"resuming after round {standing.number} of {state['rounds']}", flush=True)
        return Progress(
            standing=standing,
            rounds=state["rounds"],
            common=GlobalState(arrays["parameters"], _named(arrays, "memory")),
            own=[_named(arrays, f"own.{client}") for client in range(len(state["events"]))],
            events=[tuple(MechanismEvent(**event) for event in own) for own in state["events"]],
            server_events=compose(MechanismEvent(**event) for event in state["server_events"]),
            history=[HistoryRow(**row) for row in state["history"]],
            bytes_up=state["bytes_up"],
            bytes_down=state["bytes_down"],
        )

    def _read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        from safetensors import safe_open

        with safe_open(self._path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
            notes = file.metadata() or {}
        state = notes.get("state", "")
        if notes.get("digest") != _digest(state, arrays):
            raise ValueError("it is damaged")
        if notes.get("identity") != self._identity:
            raise ValueError("it belongs to a training with other settings, data or code")
        return json.loads(state), arrays

    def save(self, reached: Callable[[], Progress]) -> None:
        """Keep what ``reached`` returns; a process that is killed meanwhile leaves the round before."""
        from safetensors.numpy import save

        progress = reached()
        arrays = {"parameters": progress.common.parameters}
        arrays |= {f"memory.{name}": vector for name, vector in progress.common.memory.items()}
        for client, own in enumerate(progress.own):
            arrays |= {f"own.{client}.{name}": vector for name, vector in own.items()}
        state = json.dumps(
            {
                "standing": asdict(progress.standing),
                "rounds": progress.rounds,
                "events": [[event.to_json() for event in own] for own in progress.events],
                "server_events": [event.to_json() for event in progress.server_events],
                "history": [asdict(row) for row in progress.history],
                "bytes_up": progress.bytes_up,
                "bytes_down": progress.bytes_down,
                "cost": self._clock.read(),
            }
        )
        notes = {"identity": self._identity, "state": state, "digest": _digest(state, arrays)}
        write_bytes(self._path, save(arrays, metadata=notes))

    def discard(self) -> None:
        """Remove the file: the training is done."""
        self._path.unlink(missing_ok=True)


def _named(arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    """Return the arrays whose names begin with ``prefix`` and a point, without these."""
    return {name.removeprefix(f"{prefix}."): one for name, one in arrays.items() if name.startswith(f"{prefix}.")}


def _numbered(standing: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON has turned into text or a list as it was."""
    tables = {
        key: {int(name): value for name, value in standing[key].items()} for key in ("known", "sum_bytes", "accepted")
    }
    return {**tables, "finished": tuple(standing["finished"])}


def _digest(state: str, arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Return what tells a file whose bits have changed on the disk."""
    total = hashlib.sha256(state.encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype}".encode() + arrays[name].tobytes())
    return total.hexdigest()


def _identity(arguments: argparse.Namespace) -> str:
    """Return the digest of everything that the bits of the outputs depend on."""
    files = {name: getattr(arguments, name) for name in ("train", "test", "about", "partition", "noise")}
    given = {
        "spec": arguments.spec,
        "seed": arguments.seed,
        "stamp": arguments.stamp,
        "files": {name: path and hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
    }
    return hashlib.sha256(json.dumps(given, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _table(kind: type, rows: Sequence[object]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows([astuple(row) for row in rows])  # type: ignore[call-overload]
    return text.getvalue()


def _cpu_seconds() -> float:
    """Return what this process has calculated, and those that it has started: the key holder, and the clients'."""
    living = sum(_cpu_seconds_of(child.pid) for child in multiprocessing.active_children())
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + living


def _cpu_seconds_of(process: int | None) -> float:
    """Return what a process that has not ended has calculated; 0 where the system does not tell."""
    try:
        # After the name, which may have spaces: utime and stime are the 14th and 15th entry.
        entries = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(entries[11]) + int(entries[12])) / os.sysconf("SC_CLK_TCK")


def _peak_memory_mb() -> float:
    """Return the most memory that this process has had, or one of those that it has started and that have ended."""
    peak = max(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
