"""What it costs to prove a bound on an update's norm to servers that do not see the update.

``python benchmarks/norm_bound.py`` measures every row in a fresh process, one thread each, prints the tables, and
writes them to ``norm_bound.md``. ``--quick`` tries all of it small and writes nothing.
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
"""How often a row is measured, in turn with the others; the least CPU time counts."""

NORM, FRACTIONAL_BITS = 1.0, 20
MODELS = {"CNN": 26_106, "MLP": 50_890, "a million": 1_000_000, "ResNet18": 11_172_810}
"""Values of an update."""

SETTINGS = {
    f"{rows} projections, {points} points": (rows, points)
    for rows, points in ((96, 128), (48, 128), (192, 128), (96, 32), (96, 512))
}
"""Of a CNN's proof."""

VALUE_BITS = math.ceil(math.log2(2 * NORM * 2**FRACTIONAL_BITS + 1))
"""Of a value that is no larger than the bound."""


Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """What one upload costs.

    Parameters
    ----------
    shares, proof : int
        Bytes from the client to the server that has no seed.
    opening : int
        Bytes from each server to each other one.
    share, prove : float
        CPU seconds of the client: until all have its shares, and from then on.
    first, helping : float
        CPU seconds of the server that has no seed, and of the slower of the others.
    plain : float
        CPU seconds of a client that shares the update for ``aggregation: shares``, without a proof.
    plain_bytes : int
        Bytes of that.
    log_error : float
        log2 of how probably a false statement is accepted, at most.
    megabytes : float
        Peak memory of the process, which has all parties.
    """

    shares: int
    proof: int
    opening: int
    share: float
    prove: float
    first: float
    helping: float
    plain: float
    plain_bytes: int
    log_error: float
    megabytes: float


class Clock:
    """CPU seconds of this process, by who spent them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, who: str, step: Callable[..., Result], *given: Any) -> Result:
        """Return what a step comes to, and count its time."""
        started = time.process_time()
        result = step(*given)
        self.spent[who] = self.spent.get(who, 0.0) + time.process_time() - started
        return result


def update_of(length: int, bound: int) -> NDArray[np.int64]:
    """Return an update whose norm is just below a bound in steps."""
    values = np.random.default_rng(1).normal(size=length)
    return np.trunc(values * (bound / np.linalg.norm(values))).astype(np.int64)


def cost_of(length: int, rows: int, points: int) -> Cost:
    """Return what one upload of ``length`` values costs; exit where it is not accepted or not the update."""
    from ppml.proofs.norm_bound import NormBound
    from ppml.proofs.norm_proof import COINS, POINT, PROJECTIONS, Prover, Verifier, reveal_sum

    statement = NormBound(length, int(NORM * 2**FRACTIONAL_BITS), rows, points)
    update, clock = update_of(length, statement.bound), Clock()
    servers = [Verifier(statement, place) for place in range(SERVERS)]
    said = {use: [server.commitment(use) for server in servers] for use in COINS}
    for server in servers:
        for use in COINS:
            server.receive_commitments(use, said[use])
    client = Prover(statement, said[PROJECTIONS])

    shares = clock("share", client.shares, update)
    for place, server in enumerate(servers):
        clock(f"{place}", server.receive_share, shares[place])
    shown = [server.reveal_coin(PROJECTIONS) for server in servers]
    for place, server in enumerate(servers):
        clock(f"{place}", server.project, shown)
    proof = clock("prove", client.proof, shown)
    for place, server in enumerate(servers):
        clock(f"{place}", server.receive_proof, proof[place])
    shown = [server.reveal_coin(POINT) for server in servers]
    openings = [clock(f"{place}", server.opening, shown) for place, server in enumerate(servers)]
    for place, server in enumerate(servers):
        clock(f"{place}", server.verify, openings)

    if not np.array_equal(reveal_sum([server.share for server in servers if server.share is not None]), update):
        sys.exit("error: the shares are not those of the update")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    plain, plain_bytes = without_proof(update)
    return Cost(
        shares=len(shares[0]),
        proof=len(proof[0]),
        opening=len(openings[0]),
        share=clock.spent["share"],
        prove=clock.spent["prove"],
        first=clock.spent["0"],
        helping=max(clock.spent["1"], clock.spent["2"]),
        plain=plain,
        plain_bytes=plain_bytes,
        log_error=math.log2(statement.soundness_error),
        megabytes=peak,
    )


def without_proof(update: NDArray[np.int64]) -> tuple[float, int]:
    """Return the client's CPU seconds, and the bytes, of additive shares as they are configured."""
    from ppml.aggregation.secret_sharing import ShareServer, SharingClients

    clients = SharingClients([ShareServer().answer for _ in range(SERVERS - 1)], 4)
    started = time.process_time()
    sealed = clients.protect(update)
    return time.process_time() - started, len(sealed.payload)


def answer(asked: str) -> None:
    """Print what a row comes to, as JSON, in the process that it was asked for."""
    print(json.dumps(asdict(cost_of(**json.loads(asked)))))


# What all rows are measured by.


def in_fresh_process(**what: int) -> Cost:
    """Return what a row comes to, in a process of its own; exit where it fails."""
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", "import sys, norm_bound; norm_bound.answer(sys.argv[1])", json.dumps(what)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"error: {what}\n{run.stdout[-500:]}{run.stderr[-2000:]}")
    return Cost(**json.loads(run.stdout.splitlines()[-1]))


def measured(rows: Mapping[str, Mapping[str, int]], repeats: int) -> dict[str, Cost]:
    """Return what each row costs; of repeats, the least CPU time."""
    runs = [{name: in_fresh_process(**what) for name, what in rows.items()} for _ in range(repeats)]
    least = ("share", "prove", "first", "helping", "plain", "megabytes")
    return {
        name: replace(runs[0][name], **{part: min(getattr(run[name], part) for run in runs) for part in least})
        for name in rows
    }


# What is written of it.


def machine() -> str:
    """Return what the figures were measured on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"One core of {cpus[0].partition(': ')[2]}, Python {platform.python_version()}, numpy {np.__version__}"


def size(count: int) -> str:
    """Return bytes as kilobytes or megabytes."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def models_table(costs: Mapping[str, Cost]) -> Iterator[str]:
    """Yield the lines of the table of models."""
    yield (
        "| values of an update | shares | proof | both, times float32 | `aggregation: shares` | a server to each other "
        "| client shares, s | client proves, s | first server, s | each other server, s "
        "| `aggregation: shares`, client, s |"
    )
    yield "| :-- |" + " --: |" * 10
    for name, cost in costs.items():
        length = MODELS[name]
        yield (
            f"| {length:,} ({name}) | {size(cost.shares)} | {size(cost.proof)} "
            f"| {(cost.shares + cost.proof) / length / FLOAT32:.2f} | {size(cost.plain_bytes)} | {size(cost.opening)} "
            f"| {cost.share:.3f} | {cost.prove:.3f} | {cost.first:.3f} | {cost.helping:.3f} | {cost.plain:.3f} |"
        )


def settings_table(costs: Mapping[str, Cost]) -> Iterator[str]:
    """Yield the lines of the table of settings."""
    yield "| setting | error at most | proof | a server to each other | client proves, s | first server, s |"
    yield "| :-- | --: | --: | --: | --: | --: |"
    for name, cost in costs.items():
        yield (
            f"| {name} | 2^{cost.log_error:.1f} | {size(cost.proof)} | {size(cost.opening)} | {cost.prove:.3f} "
            f"| {cost.first:.3f} |"
        )


def notes(costs: Mapping[str, Cost]) -> str:
    """Return what the tables are of."""
    cnn = MODELS["CNN"]
    peaks = ", ".join(f"{cost.megabytes:,.0f} MB ({name})" for name, cost in costs.items())
    return f"""
{SERVERS} servers, a bound of {NORM:g} on the norm, a grid of 2^-{FRACTIONAL_BITS}, and {next(iter(SETTINGS))} unless a
row says otherwise. Seconds are CPU seconds of one thread; every row runs in processes of its own, in turn, and of
{REPEATS} runs the least counts. All parties are in one process; its peak memory: {peaks}.

Shares and proof are what goes to the first server. To each other one the client sends a seed of 32 bytes, and later 32
bytes that name the projections. Sealing adds 48 bytes to a part, which only the columns of `aggregation: shares` count.
Every server sends twice a commitment and a coin, of 32 bytes each, to all others. The error is how probably an update
that exceeds the bound is accepted, at most ([what is proven](../docs/aggregation.md)).

Shares take 8 bytes a value, in the place of 4, because squares are calculated with in the field that values are shared
in. To show each value of the CNN by its {VALUE_BITS} bits instead would take {size(cnn * VALUE_BITS * 8)} of shares of
bits: that is calculated, not measured.
"""


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small models, once: the tables are not written")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    repeats, largest = (1, 100_000) if quick else (REPEATS, max(MODELS.values()))
    rows, points = next(iter(SETTINGS.values()))
    models = {
        name: {"length": length, "rows": rows, "points": points} for name, length in MODELS.items() if length <= largest
    }
    costs = measured(models, repeats)
    print("\n".join(models_table(costs)), flush=True)
    settings = {
        name: {"length": MODELS["CNN"], "rows": rows, "points": points} for name, (rows, points) in SETTINGS.items()
    }
    tried = measured(settings, repeats)
    lines = [
        machine(),
        "\nAn upload:\n",
        *models_table(costs),
        "\nOther settings, of a CNN's:\n",
        *settings_table(tried),
    ]
    text = "\n".join([*lines, notes(costs)])
    print(text)
    if not quick:
        (HERE / "norm_bound.md").write_text(text)


if __name__ == "__main__":
    main()
