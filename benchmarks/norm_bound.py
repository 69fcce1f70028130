"""Cost of the proof of a norm bound to servers that do not see the update.

``python benchmarks/norm_bound.py`` measures every row in a fresh process, one thread each, prints the tables, and
writes them to ``norm_bound.md``. ``--quick`` runs small cases and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SERVERS = 3
FLOAT32 = 4
REPEATS = 3
"""Measurements of a row, in turn with the others; the least CPU time counts."""

NORM, FRACTIONAL_BITS = 1.0, 20
MODELS = {"CNN": 26_106, "MLP": 50_890, "a million": 1_000_000, "ResNet18": 11_172_810}
"""Number of values of an update."""

SETTINGS = {
    f"{rows} projections, {points} points": (rows, points)
    for rows, points in ((96, 128), (48, 128), (192, 128), (96, 32), (96, 512))
}
"""Projections and points of the proof for a CNN."""

VALUE_BITS = math.ceil(math.log2(2 * NORM * 2**FRACTIONAL_BITS + 1))
"""Bits of a value within the bound."""


Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Cost of one upload.

    Parameters
    ----------
    shares, proof : int
        Bytes from the client to the server without a seed.
    opening : int
        Bytes from each server to each other one.
    share, prove : float
        CPU seconds of the client for its shares, and for the proof.
    first, other : float
        CPU seconds of the server without a seed, and of the slower of the others.
    plain : float
        CPU seconds of a client that shares the update for ``secret_sharing``, without a proof.
    plain_bytes : int
        Bytes of that upload.
    log_error : float
        log2 of the largest probability that a false statement is accepted.
    megabytes : float
        Peak memory of the process, which has all parties.
    """

    shares: int
    proof: int
    opening: int
    share: float
    prove: float
    first: float
    other: float
    plain: float
    plain_bytes: int
    log_error: float
    megabytes: float


class Clock:
    """CPU seconds of this process, by party."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, party: str, step: Callable[..., Result], *arguments: Any) -> Result:
        """Return the result of a step, and add its time."""
        started = time.process_time()
        result = step(*arguments)
        self.spent[party] = self.spent.get(party, 0.0) + time.process_time() - started
        return result


def update_of(length: int, bound: int) -> NDArray[np.int64]:
    """Return an update with a norm just below a bound, in steps of the grid."""
    values = np.random.default_rng(1).normal(size=length)
    return np.trunc(values * (bound / np.linalg.norm(values))).astype(np.int64)


def measure_cost(length: int, rows: int, points: int) -> Cost:
    """Return the cost of one upload of ``length`` values; exit if it is refused or not the update."""
    from ppml.proofs.norm_bound import NormBound
    from ppml.proofs.norm_proof import COINS, POINT, PROJECTIONS, Prover, Verifier, reveal_sum

    statement = NormBound(length, int(NORM * 2**FRACTIONAL_BITS), rows, points)
    update, clock = update_of(length, statement.bound), Clock()
    servers = [Verifier(statement, place) for place in range(SERVERS)]
    commitments = {use: [server.commitment(use) for server in servers] for use in COINS}
    for server in servers:
        for use in COINS:
            server.receive_commitments(use, commitments[use])
    client = Prover(statement, commitments[PROJECTIONS])

    shares = clock("share", client.shares, update)
    for place, server in enumerate(servers):
        clock(f"{place}", server.receive_share, shares[place])
    coins = [server.reveal_coin(PROJECTIONS) for server in servers]
    for place, server in enumerate(servers):
        clock(f"{place}", server.project, coins)
    proof = clock("prove", client.proof, coins)
    for place, server in enumerate(servers):
        clock(f"{place}", server.receive_proof, proof[place])
    coins = [server.reveal_coin(POINT) for server in servers]
    openings = [clock(f"{place}", server.opening, coins) for place, server in enumerate(servers)]
    for place, server in enumerate(servers):
        clock(f"{place}", server.verify, openings)

    if not np.array_equal(reveal_sum([server.share for server in servers if server.share is not None]), update):
        sys.exit("error: the sum of the shares is not the update")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    plain, plain_bytes = measure_without_proof(update)
    return Cost(
        shares=len(shares[0]),
        proof=len(proof[0]),
        opening=len(openings[0]),
        share=clock.spent["share"],
        prove=clock.spent["prove"],
        first=clock.spent["0"],
        other=max(clock.spent["1"], clock.spent["2"]),
        plain=plain,
        plain_bytes=plain_bytes,
        log_error=math.log2(statement.soundness_error),
        megabytes=peak,
    )


def measure_without_proof(update: NDArray[np.int64]) -> tuple[float, int]:
    """Return the client's CPU seconds and bytes under ``secret_sharing``."""
    from ppml.aggregation.secret_sharing import ShareServer, SharingClients

    clients = SharingClients([ShareServer().answer for _ in range(SERVERS - 1)], 4)
    started = time.process_time()
    upload = clients.protect(update)
    return time.process_time() - started, len(upload.payload)


def run_row(request: str) -> None:
    """Print the result of a row as JSON; the separate process of the row runs this."""
    print(json.dumps(asdict(measure_cost(**json.loads(request)))))


# Measurement of all rows.


def measure_in_fresh_process(**what: int) -> Cost:
    """Return the result of a row, measured in a separate process; exit if it fails."""
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", "import sys, norm_bound; norm_bound.run_row(sys.argv[1])", json.dumps(what)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"error: {what}\n{run.stdout[-500:]}{run.stderr[-2000:]}")
    return Cost(**json.loads(run.stdout.splitlines()[-1]))


def measure(rows: Mapping[str, Mapping[str, int]], repeats: int) -> dict[str, Cost]:
    """Return the cost of each row; of repeats, the least CPU time."""
    runs = [{name: measure_in_fresh_process(**what) for name, what in rows.items()} for _ in range(repeats)]
    least = ("share", "prove", "first", "other", "plain", "megabytes")
    return {
        name: replace(runs[0][name], **{part: min(getattr(run[name], part) for run in runs) for part in least})
        for name in rows
    }


# Tables.


def machine() -> str:
    """Return the processor and the versions of the measurement."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"One core of {cpus[0].partition(': ')[2]}, Python {platform.python_version()}, numpy {np.__version__}"


def format_bytes(count: int) -> str:
    """Return bytes as kilobytes or megabytes."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def models_table(costs: Mapping[str, Cost]) -> Iterator[str]:
    """Yield the lines of the table of models."""
    yield (
        "| values of an update | shares | proof | both, times float32 | `secret_sharing` | one server to another "
        "| client shares, s | client proves, s | first server, s | each other server, s "
        "| `secret_sharing`, client, s |"
    )
    yield "| :-- |" + " --: |" * 10
    for name, cost in costs.items():
        length = MODELS[name]
        yield (
            f"| {length:,} ({name}) | {format_bytes(cost.shares)} | {format_bytes(cost.proof)} "
            f"| {(cost.shares + cost.proof) / length / FLOAT32:.2f} | {format_bytes(cost.plain_bytes)} "
            f"| {format_bytes(cost.opening)} "
            f"| {cost.share:.3f} | {cost.prove:.3f} | {cost.first:.3f} | {cost.other:.3f} | {cost.plain:.3f} |"
        )


def settings_table(costs: Mapping[str, Cost]) -> Iterator[str]:
    """Yield the lines of the table of settings."""
    yield "| setting | error at most | proof | one server to another | client proves, s | first server, s |"
    yield "| :-- | --: | --: | --: | --: | --: |"
    for name, cost in costs.items():
        yield (
            f"| {name} | 2^{cost.log_error:.1f} | {format_bytes(cost.proof)} | {format_bytes(cost.opening)} "
            f"| {cost.prove:.3f} | {cost.first:.3f} |"
        )


def notes(costs: Mapping[str, Cost]) -> str:
    """Return the notes below the tables."""
    cnn = MODELS["CNN"]
    peaks = ", ".join(f"{cost.megabytes:,.0f} MB ({name})" for name, cost in costs.items())
    return f"""
{SERVERS} servers, a bound of {NORM:g} on the norm, a grid of 2^-{FRACTIONAL_BITS}, and {next(iter(SETTINGS))} unless a
row has others. Seconds are CPU seconds of one thread; every row runs in separate processes, in turn, and of
{REPEATS} runs the least counts. All parties are in one process; its peak memory: {peaks}.

Shares and proof are the messages to the first server. To each other server the client sends a seed of 32 bytes, and
later 32 bytes that identify the projections. Encryption adds 48 bytes to a part, which only the columns of
`secret_sharing` count. Every server sends twice a commitment and a coin, of 32 bytes each, to all others. The error is
the largest probability that an update over the bound is accepted ([the statement](../docs/aggregation.md)).

Shares take 8 bytes per value instead of 4, because the field of the shares also holds their squares. A proof by the
{VALUE_BITS} bits of each value of the CNN would take {format_bytes(cnn * VALUE_BITS * 8)} of shares of bits: this is
calculated, not measured.
"""


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small models, once; writes no tables")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    repeats, largest = (1, 100_000) if quick else (REPEATS, max(MODELS.values()))
    rows, points = next(iter(SETTINGS.values()))
    models = {
        name: {"length": length, "rows": rows, "points": points} for name, length in MODELS.items() if length <= largest
    }
    costs = measure(models, repeats)
    print("\n".join(models_table(costs)), flush=True)
    settings = {
        name: {"length": MODELS["CNN"], "rows": rows, "points": points} for name, (rows, points) in SETTINGS.items()
    }
    other_settings = measure(settings, repeats)
    lines = [
        machine(),
        "\nAn upload:\n",
        *models_table(costs),
        "\nOther settings, for a CNN:\n",
        *settings_table(other_settings),
    ]
    text = "\n".join([*lines, notes(costs)])
    print(text)
    if not quick:
        (HERE / "norm_bound.md").write_text(text)


if __name__ == "__main__":
    main()
