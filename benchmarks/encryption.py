"""Cost of protecting an update, beside common uses of CKKS, and of a round of training with each protection.

``python benchmarks/encryption.py`` measures every row in a fresh process, one thread each, prints the tables, and
writes them to ``encryption.md`` with a figure. ``--quick`` runs small cases and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from protection import CLIENTS, CLIP, FRACTIONAL_BITS, THRESHOLD, Way, build_protection

HERE = Path(__file__).parent
VALUES = 1_000_000
FLOAT32 = 4
REPEATS = 3
"""Measurements of a row, in turn with the others; the least CPU time counts."""
MODELS = {"CNN": 26_107, "MLP": 50_891, "a million": VALUES, "ResNet18": 11_172_811}
"""Number of values of an update, with the client's weight."""
RESNET = "ResNet18"


CLEAR = "plaintext"
TENSEAL = "CKKS as in TenSEAL's tutorials"
NVFLARE = "CKKS with NVFlare's parameters"
HOLDER, ANY = "the key holder with the server", "any client with the server"
WAYS = {
    CLEAR: Way("plaintext", {}, "the server"),
    TENSEAL: Way("tenseal", {"bits": [60, 40, 40, 60], "symmetric": False}, ANY),
    NVFLARE: Way("tenseal", {"bits": [60, 40, 40], "symmetric": True}, ANY),
    "CKKS": Way("project", {"kind": "ckks"}, HOLDER),
    "BFV": Way("project", {"kind": "bfv"}, HOLDER),
    "CKKS, shared key": Way("project", {"kind": "ckks", "keys": "shared"}, ANY),
    "BFV, shared key": Way("project", {"kind": "bfv", "keys": "shared"}, ANY),
    "shares between 3 servers": Way("secret_sharing", {}, "all 3 servers", min_clients=2),
    "pairwise masks": Way("masking", {}, f"{THRESHOLD} of {CLIENTS} clients with the server", min_clients=THRESHOLD),
}
SWEEP = {
    **{
        f"CKKS, N {degree:,}, primes of {' + '.join(map(str, bits))} bits, scale 2^{scale}": {
            "kind": "ckks",
            "poly_modulus_degree": degree,
            "coeff_mod_bit_sizes": bits,
            "scale_bits": scale,
            "fractional_bits": fine,
        }
        for degree, bits, scale, fine in (
            (4096, [36, 36], 26, 6),
            (4096, [54, 40], 32, 12),
            (4096, [54, 40], 40, 20),
            (8192, [60, 60], 45, 24),
            (8192, [60, 60, 60], 54, 32),
            (16384, [60, 60], 45, 23),
        )
    },
    **{
        f"BFV, {clients:,} clients, grid 2^-{bits}": {"kind": "bfv", "clients": clients, "fractional_bits": bits}
        for clients, bits in ((8, 8), (8, 16), (8, 20), (8, 28), (100, 20), (1000, 20))
    },
}


@dataclass(frozen=True)
class Cost:
    """Cost of one aggregation of :data:`CLIENTS` updates.

    Parameters
    ----------
    up, down : int
        Bytes of an upload, and of the sum.
    protect, add, reveal : float
        CPU seconds of a client, of the servers for one client, and of the party that reveals the sum.
    error : float
        Largest difference of a value of the revealed sum from the exact one.
    exact : bool
        Whether the revealed sum is the exact one.
    degree, modulus_bits, fractional_bits : int
        Ring dimension, bits of the modulus, and fractional bits of the grid.
    megabytes : float
        Peak memory of the process, which has all parties.
    """

    up: int
    down: int
    protect: float
    add: float
    reveal: float
    error: float
    exact: bool
    degree: int
    modulus_bits: int
    fractional_bits: int
    megabytes: float


def measure_cost(way: Way, length: int) -> Cost:
    """Return the cost of ``way`` for updates of ``length`` values."""
    protection, rng = build_protection(way), np.random.default_rng(1)
    parameters = protection.parameters()
    largest = int(CLIP * 2 ** parameters["fractional_bits"])
    deviation = largest / 80
    exact, uploads, spent = np.zeros(length, np.int64), [], []
    for _ in range(CLIENTS):
        update = np.clip(np.rint(rng.normal(0, deviation, length)), -largest, largest).astype(np.int64)
        exact += update
        started = time.process_time()
        uploads.append(protection.protect(update))
        spent.append(time.process_time() - started)
    up = len(uploads[0])
    started = time.process_time()
    total = protection.add(uploads, length)
    added = (time.process_time() - started) / CLIENTS
    uploads.clear()
    started = time.process_time()
    total_values = protection.reveal(total, length)
    revealed = time.process_time() - started
    error = float(np.abs(total_values - exact).max())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(
        up=up + protection.extra_bytes,
        down=len(total),
        # The time of the first client may contain steps of all clients.
        protect=statistics.mean(spent),
        add=added,
        reveal=revealed,
        error=error * 2.0 ** -parameters["fractional_bits"],
        exact=error == 0,
        megabytes=peak,
        **parameters,
    )


def measure_rounds(kind: str, options: Mapping[str, Any], examples: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each round but the first of a CNN's training, with the digest of the model."""
    import torch

    from ppml.aggregation.factory import build_parties
    from ppml.config.arm import Arm
    from ppml.config.datasets import DATASETS
    from ppml.data.examples import Examples
    from ppml.federation.factory import FederationSpec, build_client_pool, build_server, party_seeds
    from ppml.federation.run import train_federated
    from ppml.federation.sum_mechanism import identity
    from ppml.jobs.threads import make_deterministic
    from ppml.learning.parameters import digest_of, flatten
    from ppml.models.registry import build_model
    from ppml.randomness import Randomness

    make_deterministic()
    rng = Randomness(1)
    arm = Arm.model_validate(
        {
            "topology": {"kind": "federated", "partition": "even", "rounds": rounds},
            "aggregation": {"kind": kind, **options},
            "training": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01},
        }
    )

    def images(count: int, drawn: Randomness) -> Examples:
        generator = drawn.torch()
        labels = torch.randint(0, 10, (count,), generator=generator)
        return Examples(torch.randn(count, 1, 28, 28, generator=generator), labels)

    nothing: list[Any] = [None] * CLIENTS
    spec = FederationSpec(arm, [examples] * CLIENTS, nothing, nothing)
    seeds = party_seeds(rng, CLIENTS)
    model = build_model("tanh_cnn", DATASETS["mnist"].contract, rng.child("initial-weights").torch())
    owned = {client: images(examples, rng.child("client", client)) for client in range(CLIENTS)}
    parties = build_parties(arm.aggregation, CLIENTS)
    moments: list[float] = []

    def record_time(total: Any, number: int) -> Any:
        moments.append(time.perf_counter())
        return identity(total, number)

    pool = build_client_pool(spec, model, owned, parties.clients, images(1000, rng.child("test")), seeds.clients)
    server = replace(build_server(spec, flatten(model), parties.material, seeds.server), sum_mechanism=record_time)
    outcome = train_federated(pool, server, lambda row: None, isolation=parties.isolation)
    parties.close()
    return {
        "seconds": statistics.median(later - earlier for earlier, later in pairwise(moments)),
        "model": digest_of(flatten(outcome.models[0])),
        "up": outcome.bytes_up // rounds // CLIENTS,
        "down": outcome.bytes_down // rounds // CLIENTS,
    }


def run_row(request: str) -> None:
    """Print the result of a row as JSON; the separate process of the row runs this."""
    what = json.loads(request)
    if what["what"] == "cost":
        print(json.dumps(asdict(measure_cost(Way(**what["way"]), what["length"]))))
    else:
        print(json.dumps(measure_rounds(what["kind"], what["options"], what["examples"], what["rounds"])))


# Measurement of all rows.


def measure_in_fresh_process(**what: Any) -> dict[str, Any]:
    """Return the result of a row, measured in a separate process; exit if it fails."""
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", "import sys, encryption; encryption.run_row(sys.argv[1])", json.dumps(what)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"error: {what}\n{run.stdout[-500:]}{run.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def measure(ways: Mapping[str, Way], length: int, repeats: int) -> dict[str, Cost]:
    """Return the cost of each way; of repeats, the least CPU time."""
    runs = [
        {
            name: Cost(**measure_in_fresh_process(what="cost", way=asdict(way), length=length))
            for name, way in ways.items()
        }
        for _ in range(repeats)
    ]
    return {name: _best([run[name] for run in runs]) for name in ways}


def _best(costs: Sequence[Cost]) -> Cost:
    return replace(
        costs[0],
        **{part: min(getattr(cost, part) for cost in costs) for part in ("protect", "add", "reveal", "megabytes")},
    )


def measure_training(examples: int, rounds: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Return the cost of a round of a CNN for each ``aggregation``; all give the same model."""
    lean = {name: way for name, way in WAYS.items() if way.kind not in ("plaintext", "tenseal")}
    ways = {CLEAR: ("plaintext", {}), **{name: _settings(way) for name, way in lean.items()}}
    runs = [
        {
            name: measure_in_fresh_process(what="rounds", kind=kind, options=options, examples=examples, rounds=rounds)
            for name, (kind, options) in ways.items()
        }
        for _ in range(repeats)
    ]
    if len({run[name]["model"] for run in runs for name in ways}) != 1:
        sys.exit("error: the aggregations have given different models")
    return {name: min((run[name] for run in runs), key=lambda one: one["seconds"]) for name in ways}


def _settings(way: Way) -> tuple[str, dict[str, Any]]:
    return way.options.get("kind", way.kind), {key: value for key, value in way.options.items() if key != "kind"}


# Tables and figure.


def machine() -> str:
    """Return the processor and the versions of the measurement."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"One core of {cpus[0].partition(': ')[2]}, Python {platform.python_version()}, TenSEAL {version('tenseal')}"


def relative_size(size: int, length: int) -> str:
    """Return bytes as a multiple of the size in float32."""
    return f"{size / length / FLOAT32:.2f}"


def error_of(cost: Cost) -> str:
    """Return the largest error of a sum."""
    return "exact" if cost.exact else f"{cost.error:.1e}"


def ways_table(costs: Mapping[str, Cost], length: int) -> Iterator[str]:
    """Yield the lines of the table of all ways."""
    yield (
        "| protection | upload, times float32 | sum, times float32 | client protects, s "
        "| servers read and add, s per client | sum revealed, s | error of a sum | N, bits of modulus "
        "| access to an upload | permitted dropouts |"
    )
    yield "| :-- | --: | --: | --: | --: | --: | --: | :-- | :-- | --: |"
    for name, cost in costs.items():
        ring = f"{cost.degree:,}, {cost.modulus_bits}" if cost.degree else "none"
        yield (
            f"| {name} | {relative_size(cost.up, length)} | {relative_size(cost.down, length)} | {cost.protect:.2f} "
            f"| {cost.add:.2f} | {cost.reveal:.2f} | {error_of(cost)} | {ring} | {WAYS[name].access} "
            f"| {CLIENTS - WAYS[name].min_clients} |"
        )


def sweep_table(costs: Mapping[str, Cost], length: int) -> Iterator[str]:
    """Yield the lines of the table of parameters."""
    yield (
        "| parameters | grid | upload, times float32 | client protects, s per million | sum revealed, s per million "
        "| modulus, of the maximum |"
    )
    yield "| :-- | :-- | --: | --: | --: | --: |"
    for name, cost in costs.items():
        million = VALUES / length
        yield (
            f"| {name} | 2^-{cost.fractional_bits} | {relative_size(cost.up, length)} | {cost.protect * million:.2f} "
            f"| {cost.reveal * million:.2f} | {cost.modulus_bits} of {max_bits(cost.degree)} bits |"
        )


def max_bits(degree: int) -> int:
    """Return the largest modulus at 128 bits of security, in bits."""
    from ppml.aggregation_parameters import MAX_COEFFICIENT_BITS

    return MAX_COEFFICIENT_BITS[degree]


def sizes_table(costs: Mapping[str, Mapping[str, Cost]]) -> Iterator[str]:
    """Yield the lines of the table of models."""
    names = list(next(iter(costs.values())))
    yield f"| values of an update | {' | '.join(f'{name}: upload, MB; s' for name in names)} |"
    yield "| :-- |" + " --: |" * len(names)
    for model, row in costs.items():
        cells = [f"{cost.up / 1e6:.2f}; {cost.protect:.2f}" for cost in row.values()]
        yield f"| {MODELS[model]:,} ({model}) | {' | '.join(cells)} |"


def rounds_table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table of rounds."""
    clear = rows[CLEAR]
    yield "| protection | s per round | relative to plaintext | bytes up per client | bytes down per client |"
    yield "| :-- | --: | --: | --: | --: |"
    for name, row in rows.items():
        yield (
            f"| {name} | {row['seconds']:.2f} | {row['seconds'] / clear['seconds']:.2f} "
            f"| {row['up']:,} | {row['down']:,} |"
        )


def figure(ways: Mapping[str, Cost], sweep: Mapping[str, Cost], length: int, sampled: int, path: Path) -> None:
    """Draw the size of an upload against the time of its protection."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "encryption"
    drawing, panel = plt.subplots(figsize=(6.2, 4.0))
    swept = [(cost.protect * VALUES / sampled, cost.up / sampled / FLOAT32) for cost in sweep.values()]
    seconds, sizes = zip(*swept, strict=True)
    panel.scatter(seconds, sizes, s=16, color="lightgray", label="other parameters", zorder=2)
    shown = {name: cost for name, cost in ways.items() if name != CLEAR}
    colours = ("tab:red", "tab:orange", "tab:blue", "tab:green", "tab:blue", "tab:green", "tab:purple", "tab:brown")
    markers = ("X", "X", "o", "o", "s", "s", "D", "P")
    for (name, cost), colour, marker in zip(shown.items(), colours, markers, strict=True):
        place = cost.protect * VALUES / length, cost.up / length / FLOAT32
        panel.scatter(*place, s=42, color=colour, marker=marker, label=name, zorder=3)
    panel.axhline(1, color="gray", linewidth=0.8, linestyle="--")
    panel.text(
        0.99, 1, "float32", va="bottom", ha="right", color="gray", fontsize=8, transform=panel.get_yaxis_transform()
    )
    panel.set(xlabel="CPU seconds of a client for a million values", ylabel="upload, times float32", xlim=(0, None))
    panel.set_yscale("log")
    panel.set_yticks([1, 2, 4, 8, 16, 20], ["1", "2", "4", "8", "16", "20"])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    drawing.tight_layout()
    drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    drawing.savefig(path.with_suffix(".png"), dpi=150)


NOTES = f"""
{CLIENTS} clients, a grid of 2^-{FRACTIONAL_BITS} and values up to {CLIP:g} unless a row has others. Seconds are CPU
seconds of one thread, those of a round on a clock; every row runs in separate processes, in turn. Of {REPEATS} runs
the least counts in the first table and in the table of rounds; the others have one run. All parameters have at least
128 bits of security by the standard of homomorphicencryption.org, which limits the bits of the modulus for a ring
dimension N; both libraries refuse others.

Uploads of TenSEAL are its own vectors, one real value per slot, and its decryption is not rounded: that error reveals
the secret key (`tests/aggregation/test_key_recovery.py`). NVFlare's parameters are those of its provisioning
(`HEBuilder`), under the secret key, which all its clients have. The other rows are settings of `aggregation`: two
values per slot under CKKS, one per coefficient under BFV, whose ring is the smallest that holds the sum; under a shared
key half of a ciphertext is a seed. Their sums are rounded to the grid at decryption. Shares between servers are
random streams, whose seeds go to all servers but one: 1,232 bytes for each, for any size of the update.
Under pairwise masks every client draws a stream with each other client, and the server draws the streams of dropouts
and the own stream of each other client.

A round of training is that of a CNN with {MODELS["CNN"] - 1:,} weights at {CLIENTS} clients in one process, 40 steps on
batches of 32 each: every client trains, protects its update, reveals the sum and applies it, and one client evaluates
the model on 1,000 images. That process is the server's in plaintext, and a separate one otherwise. All rows give the
same model, bit for bit.
"""


def report(
    costs: Mapping[str, Cost],
    sizes: Mapping[str, Mapping[str, Cost]],
    rounds: Mapping[str, Mapping[str, Any]],
    sweep: Mapping[str, Cost],
    length: int,
    sampled: int,
) -> Iterator[str]:
    """Yield the whole text as Markdown."""
    yield machine()
    yield f"\nAn update of {length:,} values, {length * FLOAT32 / 1e6:.1f} MB in float32:\n"
    yield from ways_table(costs, length)
    yield "\n![Size of an upload against the time of its protection](encryption.svg)\n"
    yield "Upload and CPU time of a client per round, by the size of the model:\n"
    yield from sizes_table(sizes)
    if RESNET in sizes:
        peaks = ", ".join(f"{name} {cost.megabytes:,.0f} MB" for name, cost in sizes[RESNET].items())
        yield f"\nPeak memory of all {CLIENTS} clients' uploads of a {RESNET} with the sum, in one process: {peaks}."
    yield "\nA round of training:\n"
    yield from rounds_table(rounds)
    yield f"\nOther parameters, measured on {sampled:,} values:\n"
    yield from sweep_table(sweep, sampled)
    yield NOTES.rstrip("\n")


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, once; writes no tables")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    length, sampled, repeats = (50_000, 20_000, 1) if quick else (VALUES, 200_000, REPEATS)
    costs = measure(WAYS, length, repeats)
    print("\n".join(ways_table(costs, length)), flush=True)
    lean = {name: way for name, way in WAYS.items() if way.kind not in ("plaintext", "tenseal")}
    sizes = {model: measure(lean, count, 1) for model, count in MODELS.items() if not quick or count < VALUES}
    rounds = measure_training(*((64, 3, 1) if quick else (1280, 5, REPEATS)))
    print("\n".join(rounds_table(rounds)), flush=True)
    sweep = measure({name: Way("project", options, "") for name, options in SWEEP.items()}, sampled, 1)
    text = "\n".join(report(costs, sizes, rounds, sweep, length, sampled)) + "\n"
    print(text)
    if not quick:
        (HERE / "encryption.md").write_text(text)
        figure(costs, sweep, length, sampled, HERE / "encryption.svg")


if __name__ == "__main__":
    main()
