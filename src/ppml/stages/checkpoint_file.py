"""The checkpoint of a federated training, and the cost of all processes that trained it."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppml.io.atomic import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ppml.federation.checkpoint import TrainingCheckpoint


class CostMeter:
    """Seconds and memory of a training, in this process and in the interrupted processes before it.

    The memory is the growth of the largest process during the training, in MB of 2^20 bytes: the loaded code and the
    examples are there before. A system without ``/proc`` states only the peak since the start of a process, so there
    the growth beyond the earlier peak counts.
    """

    def __init__(self) -> None:
        self._before = {"seconds": 0.0, "cpu_seconds": 0.0, "training_memory_mb": 0.0}
        self._started, self._started_cpu = time.perf_counter(), _cpu_seconds()
        _forget_earlier_memory()
        memory = _memory_mb()
        self._memory = memory["anonymous"] if memory else _largest_process_mb()

    def resume_from(self, before: dict[str, float]) -> None:
        """Add the result of :meth:`read` in an interrupted process."""
        self._before = before

    def read(self) -> dict[str, float]:
        """Return seconds, cpu_seconds and training_memory_mb until now."""
        # Pages of libraries enter the memory at their first use; they are no memory of the training.
        memory = _memory_mb()
        peak = max(memory["peak"], _children_mb()) - memory["files"] if memory else _largest_process_mb()
        return {
            "seconds": self._before["seconds"] + time.perf_counter() - self._started,
            "cpu_seconds": self._before["cpu_seconds"] + _cpu_seconds() - self._started_cpu,
            "training_memory_mb": max(self._before["training_memory_mb"], peak - self._memory),
        }


class CheckpointFile:
    """The checkpoint of one federated training in a file, and its cost so far.

    The file is safetensors: the two vectors as arrays, everything else as JSON in the metadata.

    Parameters
    ----------
    path : Path
        The file; it exists from the end of the first round to :meth:`discard`.
    identity : str
        Digest of everything that the training depends on; a file with another digest is not used.
    meter : CostMeter
        The meter of the cost of the training.
    """

    def __init__(self, path: Path, identity: str, meter: CostMeter) -> None:
        self._path = path
        self._identity = identity
        self._meter = meter

    def load(self) -> TrainingCheckpoint | None:
        """Return the saved checkpoint, or None; a line on stdout states why a file is not used."""
        from safetensors import SafetensorError

        from ppml.accounting.events import MechanismEvent, compose
        from ppml.federation.checkpoint import TrainingCheckpoint
        from ppml.federation.global_state import GlobalState
        from ppml.federation.server_state import ServerState
        from ppml.learning.result import HistoryRow

        try:
            state, arrays = self._read()
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            print(f"starting from the beginning, not from {self._path}: {error}", flush=True)
            return None
        self._meter.resume_from(state["cost"])
        server_state = ServerState(**{**state["server_state"], **_numbered(state["server_state"])})
        print(f"resuming after round {server_state.number} of {state['rounds']}", flush=True)
        return TrainingCheckpoint(
            server_state=server_state,
            rounds=state["rounds"],
            global_state=GlobalState(arrays["parameters"], _named(arrays, "memory")),
            private_states=[_named(arrays, f"private.{client}") for client in range(len(state["events"]))],
            client_events=[tuple(MechanismEvent(**event) for event in own) for own in state["events"]],
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

    def save(self, capture: Callable[[], TrainingCheckpoint]) -> None:
        """Save the checkpoint that ``capture`` returns; if the process is killed meanwhile, the previous one stays."""
        from safetensors.numpy import save

        checkpoint = capture()
        arrays = {"parameters": checkpoint.global_state.parameters}
        arrays |= {f"memory.{name}": vector for name, vector in checkpoint.global_state.memory.items()}
        for client, own in enumerate(checkpoint.private_states):
            arrays |= {f"private.{client}.{name}": vector for name, vector in own.items()}
        state = json.dumps(
            {
                "server_state": asdict(checkpoint.server_state),
                "rounds": checkpoint.rounds,
                "events": [[event.to_json() for event in own] for own in checkpoint.client_events],
                "server_events": [event.to_json() for event in checkpoint.server_events],
                "history": [asdict(row) for row in checkpoint.history],
                "bytes_up": checkpoint.bytes_up,
                "bytes_down": checkpoint.bytes_down,
                "cost": self._meter.read(),
            }
        )
        notes = {"identity": self._identity, "state": state, "digest": _digest(state, arrays)}
        write_bytes(self._path, save(arrays, metadata=notes))

    def discard(self) -> None:
        """Remove the file, after the end of the training."""
        self._path.unlink(missing_ok=True)


def _named(arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    """Return the arrays whose names begin with ``prefix`` and a point, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): one for name, one in arrays.items() if name.startswith(f"{prefix}.")}


def _numbered(server_state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the server state that JSON changes, with integer keys and tuples."""
    tables = {
        key: {int(name): value for name, value in server_state[key].items()}
        for key in ("known", "sum_bytes", "last_included")
    }
    return {**tables, "finished": tuple(server_state["finished"])}


def _digest(state: str, arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Return the digest of the content, which detects a damaged file."""
    total = hashlib.sha256(state.encode())
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].dtype}".encode() + arrays[name].tobytes())
    return total.hexdigest()


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children: the key holder, and the workers of clients."""
    living = sum(_cpu_seconds_of(child.pid) for child in multiprocessing.active_children())
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + living


def _cpu_seconds_of(process: int | None) -> float:
    """Return the CPU seconds of a running process; 0 if the system does not state them."""
    try:
        # After the name, which may have spaces: utime and stime are the 14th and 15th entry.
        entries = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(entries[11]) + int(entries[12])) / os.sysconf("SC_CLK_TCK")


def _forget_earlier_memory() -> None:
    """Return free memory to the system, and lower the peak of this process to its present memory, where possible."""
    # The training would reuse the memory of the images as read: glibc keeps it.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory_mb() -> dict[str, float]:
    """Return the peak, anonymous and file-backed memory of this process, or nothing if the system does not state it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines)
    names = {"peak": "VmHWM", "anonymous": "RssAnon", "files": "RssFile"}
    return {name: int(values[key].split()[0]) / 2**10 for name, key in names.items()}


def _largest_process_mb() -> float:
    """Return the peak memory of this process, or of the largest of its ended children."""
    return max(_maxrss_mb(resource.RUSAGE_SELF), _children_mb())


def _children_mb() -> float:
    """Return the peak memory of the largest ended child."""
    return _maxrss_mb(resource.RUSAGE_CHILDREN)


def _maxrss_mb(processes: int) -> float:
    # On Linux, that of a process that another one started includes the memory of its parent at the start.
    peak = resource.getrusage(processes).ru_maxrss
    return float(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
