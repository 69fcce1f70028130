"""What sealing an update costs, beside CKKS as everybody runs it, and what a round of training costs under it.

``python benchmarks/encryption.py`` measures every row in a fresh process, one thread each, prints the tables, and
writes them to ``encryption.md`` with a figure beside it. ``--quick`` tries all of it small and writes nothing.
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
from sealing import CLIENTS, CLIP, FRACTIONAL_BITS, THRESHOLD, Way, built

HERE = Path(__file__).parent
VALUES = 1_000_000
FLOAT32 = 4
REPEATS = 3
"""How often a row is measured, in turn with the others; the least CPU time counts."""
MODELS = {"CNN": 26_107, "MLP": 50_891, "a million": VALUES, "ResNet18": 11_172_811}
"""Values of an update, with the client's weight."""
RESNET = "ResNet18"


CLEAR = "in the clear"
TENSEAL = "CKKS as in TenSEAL's tutorials"
NVFLARE = "CKKS with NVFlare's parameters"
HOLDER, ANY = "the key holder with the server", "any client with the server"
WAYS = {
    CLEAR: Way("clear", {}, "the server"),
    TENSEAL: Way("tenseal", {"bits": [60, 40, 40, 60], "symmetric": False}, ANY),
    NVFLARE: Way("tenseal", {"bits": [60, 40, 40], "symmetric": True}, ANY),
    "CKKS": Way("ours", {"kind": "ckks"}, HOLDER),
    "BFV": Way("ours", {"kind": "bfv"}, HOLDER),
    "CKKS, shared key": Way("ours", {"kind": "ckks", "keys": "shared"}, ANY),
    "BFV, shared key": Way("ours", {"kind": "bfv", "keys": "shared"}, ANY),
    "shares between 3 servers": Way("shares", {}, "all 3 servers", least=2),
    "pairwise masks": Way("masking", {}, f"{THRESHOLD} of {CLIENTS} clients with the server", least=THRESHOLD),
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
    """What one aggregation of :data:`CLIENTS` updates costs.

    Parameters
    ----------
    up, down : int
        Bytes of an upload, and of the sum.
    seal, add, open : float
        CPU seconds: of a client; of the server, for one client; of whoever opens the sum.
    error : float
        Largest difference of a value of the sum, as it is shown, from the exact one.
    exact : bool
        Whether it is the exact one.
    degree, modulus_bits, fractional_bits : int
        Ring dimension, bits of the modulus, and those behind the binary point.
    megabytes : float
        Peak memory of the process, which has all parties.
    """

    up: int
    down: int
    seal: float
    add: float
    open: float
    error: float
    exact: bool
    degree: int
    modulus_bits: int
    fractional_bits: int
    megabytes: float


def cost_of(way: Way, length: int) -> Cost:
    """Return what ``way`` costs for updates of ``length`` values."""
    sealing, rng = built(way), np.random.default_rng(1)
    about = sealing.about()
    largest = int(CLIP * 2 ** about["fractional_bits"])
    deviation = largest / 80
    exact, uploads, spent = np.zeros(length, np.int64), [], []
    for _ in range(CLIENTS):
        update = np.clip(np.rint(rng.normal(0, deviation, length)), -largest, largest).astype(np.int64)
        exact += update
        started = time.process_time()
        uploads.append(sealing.protect(update))
        spent.append(time.process_time() - started)
    up = len(uploads[0])
    started = time.process_time()
    total = sealing.add(uploads, length)
    added = (time.process_time() - started) / CLIENTS
    uploads.clear()
    started = time.process_time()
    shown = sealing.open(total, length)
    opened = time.process_time() - started
    error = float(np.abs(shown - exact).max())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(
        up=up + sealing.besides,
        down=len(total),
        # The first client's may have steps of all in it.
        seal=statistics.mean(spent),
        add=added,
        open=opened,
        error=error * 2.0 ** -about["fractional_bits"],
        exact=error == 0,
        megabytes=peak,
        **about,
    )


def rounds_of(kind: str, options: Mapping[str, Any], records: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each round but the first of a CNN's training, with the digest of the model."""
    import torch

    from ppml.aggregation.factory import build_parties
    from ppml.config.arm import Arm
    from ppml.config.datasets import DATASETS
    from ppml.data.examples import Examples
    from ppml.federation.factory import FederationSpec, build_client_pool, build_server, party_seeds
    from ppml.federation.run import train_federated
    from ppml.federation.sum_mechanism import identity
    from ppml.learning.parameters import digest_of, flatten
    from ppml.models.registry import build_model
    from ppml.randomness import Randomness
    from ppml.stages.threads import make_deterministic

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
    given = FederationSpec(arm, [records] * CLIENTS, nothing, nothing)
    seeds = party_seeds(rng, CLIENTS)
    model = build_model("tanh_cnn", DATASETS["mnist"].contract, rng.child("initial-weights").torch())
    owned = {client: images(records, rng.child("client", client)) for client in range(CLIENTS)}
    parties = build_parties(arm.aggregation, CLIENTS)
    moments: list[float] = []

    def released(total: Any, number: int) -> Any:
        moments.append(time.perf_counter())
        return identity(total, number)

    population = build_client_pool(given, model, owned, parties.clients, images(1000, rng.child("test")), seeds.clients)
    server = replace(build_server(given, flatten(model), parties.material, seeds.server), sum_mechanism=released)
    outcome = train_federated(population, server, lambda row: None, isolation=parties.isolation)
    parties.close()
    return {
        "seconds": statistics.median(later - earlier for earlier, later in pairwise(moments)),
        "model": digest_of(flatten(outcome.models[0])),
        "up": outcome.bytes_up // rounds // CLIENTS,
        "down": outcome.bytes_down // rounds // CLIENTS,
    }


def answer(asked: str) -> None:
    """Print what a row comes to, as JSON, in the process that it was asked for."""
    what = json.loads(asked)
    if what["what"] == "cost":
        print(json.dumps(asdict(cost_of(Way(**what["way"]), what["length"]))))
    else:
        print(json.dumps(rounds_of(what["kind"], what["options"], what["records"], what["rounds"])))


# What all rows are measured by.


def in_fresh_process(**what: Any) -> dict[str, Any]:
    """Return what a row comes to, in a process of its own; exit where it fails."""
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", "import sys, encryption; encryption.answer(sys.argv[1])", json.dumps(what)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"error: {what}\n{run.stdout[-500:]}{run.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def measured(ways: Mapping[str, Way], length: int, repeats: int) -> dict[str, Cost]:
    """Return what each way costs; of repeats, the least CPU time."""
    runs = [
        {name: Cost(**in_fresh_process(what="cost", way=asdict(way), length=length)) for name, way in ways.items()}
        for _ in range(repeats)
    ]
    return {name: _best([run[name] for run in runs]) for name in ways}


def _best(costs: Sequence[Cost]) -> Cost:
    return replace(
        costs[0], **{part: min(getattr(cost, part) for cost in costs) for part in ("seal", "add", "open", "megabytes")}
    )


def training(records: int, rounds: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Return what a round of a CNN costs in each way that can be configured; all come to the same model."""
    lean = {name: way for name, way in WAYS.items() if way.kind not in ("clear", "tenseal")}
    ways = {CLEAR: ("plaintext", {}), **{name: _configured(way) for name, way in lean.items()}}
    runs = [
        {
            name: in_fresh_process(what="rounds", kind=kind, options=options, records=records, rounds=rounds)
            for name, (kind, options) in ways.items()
        }
        for _ in range(repeats)
    ]
    if len({run[name]["model"] for run in runs for name in ways}) != 1:
        sys.exit("error: the ways have come to different models")
    return {name: min((run[name] for run in runs), key=lambda one: one["seconds"]) for name in ways}


def _configured(way: Way) -> tuple[str, dict[str, Any]]:
    return way.options.get("kind", way.kind), {key: value for key, value in way.options.items() if key != "kind"}


# What is written of it.


def machine() -> str:
    """Return what the figures were measured on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"One core of {cpus[0].partition(': ')[2]}, Python {platform.python_version()}, TenSEAL {version('tenseal')}"


def times(size: int, length: int) -> str:
    """Return bytes in units of what float32 takes."""
    return f"{size / length / FLOAT32:.2f}"


def error_of(cost: Cost) -> str:
    """Return the largest error of a sum."""
    return "exact" if cost.exact else f"{cost.error:.1e}"


def ways_table(costs: Mapping[str, Cost], length: int) -> Iterator[str]:
    """Yield the lines of the table of all ways."""
    yield (
        "| sealed by | upload, times float32 | sum, times float32 | client seals, s | servers read and add, s a client "
        "| sum opened, s | error of a sum | N, bits of modulus | who opens an upload | clients that may be lost |"
    )
    yield "| :-- | --: | --: | --: | --: | --: | --: | :-- | :-- | --: |"
    for name, cost in costs.items():
        ring = f"{cost.degree:,}, {cost.modulus_bits}" if cost.degree else "none"
        yield (
            f"| {name} | {times(cost.up, length)} | {times(cost.down, length)} | {cost.seal:.2f} | {cost.add:.2f} "
            f"| {cost.open:.2f} | {error_of(cost)} | {ring} | {WAYS[name].opens} | {CLIENTS - WAYS[name].least} |"
        )


def sweep_table(costs: Mapping[str, Cost], length: int) -> Iterator[str]:
    """Yield the lines of the table of parameters."""
    yield (
        "| parameters | grid | upload, times float32 | client seals, s a million | sum opened, s a million "
        "| modulus, of most |"
    )
    yield "| :-- | :-- | --: | --: | --: | --: |"
    for name, cost in costs.items():
        million = VALUES / length
        yield (
            f"| {name} | 2^-{cost.fractional_bits} | {times(cost.up, length)} | {cost.seal * million:.2f} "
            f"| {cost.open * million:.2f} | {cost.modulus_bits} of {most_bits(cost.degree)} bits |"
        )


def most_bits(degree: int) -> int:
    """Return how many bits a modulus may have at 128 bits of security."""
    from ppml.config.aggregation_parameters import MAX_COEFFICIENT_BITS

    return MAX_COEFFICIENT_BITS[degree]


def sizes_table(costs: Mapping[str, Mapping[str, Cost]]) -> Iterator[str]:
    """Yield the lines of the table of models."""
    names = list(next(iter(costs.values())))
    yield f"| values of an update | {' | '.join(f'{name}: upload, MB; s' for name in names)} |"
    yield "| :-- |" + " --: |" * len(names)
    for model, row in costs.items():
        cells = [f"{cost.up / 1e6:.2f}; {cost.seal:.2f}" for cost in row.values()]
        yield f"| {MODELS[model]:,} ({model}) | {' | '.join(cells)} |"


def rounds_table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table of rounds."""
    clear = rows[CLEAR]
    yield "| sealed by | s a round | beside in the clear | bytes up, a client | bytes down, a client |"
    yield "| :-- | --: | --: | --: | --: |"
    for name, row in rows.items():
        yield (
            f"| {name} | {row['seconds']:.2f} | {row['seconds'] / clear['seconds']:.2f} "
            f"| {row['up']:,} | {row['down']:,} |"
        )


def figure(ways: Mapping[str, Cost], sweep: Mapping[str, Cost], length: int, sampled: int, path: Path) -> None:
    """Draw what an upload takes against what sealing it takes."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "encryption"
    drawing, panel = plt.subplots(figsize=(6.2, 4.0))
    swept = [(cost.seal * VALUES / sampled, cost.up / sampled / FLOAT32) for cost in sweep.values()]
    seconds, sizes = zip(*swept, strict=True)
    panel.scatter(seconds, sizes, s=16, color="lightgray", label="other parameters", zorder=2)
    shown = {name: cost for name, cost in ways.items() if name != CLEAR}
    colours = ("tab:red", "tab:orange", "tab:blue", "tab:green", "tab:blue", "tab:green", "tab:purple", "tab:brown")
    markers = ("X", "X", "o", "o", "s", "s", "D", "P")
    for (name, cost), colour, marker in zip(shown.items(), colours, markers, strict=True):
        place = cost.seal * VALUES / length, cost.up / length / FLOAT32
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
{CLIENTS} clients, a grid of 2^-{FRACTIONAL_BITS} and values up to {CLIP:g} unless a row says otherwise. Seconds are CPU
seconds of one thread, those of a round on a clock; every row runs in processes of its own, in turn. Of {REPEATS} runs
the least counts in the first table and in that of rounds; the others are of one run. All parameters have at least 128
bits of security by the standard of homomorphicencryption.org, which allows a modulus of so many bits for a ring
dimension N; both libraries refuse others.

Uploads of TenSEAL are its own vectors, one real value a slot, and what it decrypts is shown as it is: that error gives
the secret key away (`tests/aggregation/test_key_recovery.py`). NVFlare's parameters are those of its provisioning
(`HEBuilder`), under the secret key, which all its clients have. The other rows are what `aggregation` configures: two
values a slot under CKKS, one a coefficient under BFV, whose ring is the smallest that holds the sum; under a shared key
half of a ciphertext is a seed. Their sums are rounded to the grid where they are opened. Shares between servers are
random streams, of which seeds are sent to all servers but one: 1,232 bytes for each, however large the update is.
Under pairwise masks every client draws a stream with each other one, and the server draws those of lost clients and
the own one of each that is present.

A round of training is that of a CNN with {MODELS["CNN"] - 1:,} weights at {CLIENTS} clients in one process, 40 steps on
batches of 32 each: every client trains, seals, opens the sum and applies it, and one measures the model on 1,000
images. That process is the server's in the clear, and another one otherwise. All rows come to the same model, bit for
bit.
"""


def report(
    costs: Mapping[str, Cost],
    sizes: Mapping[str, Mapping[str, Cost]],
    rounds: Mapping[str, Mapping[str, Any]],
    sweep: Mapping[str, Cost],
    length: int,
    sampled: int,
) -> Iterator[str]:
    """Yield the whole text, in Markdown."""
    yield machine()
    yield f"\nAn update of {length:,} values, {length * FLOAT32 / 1e6:.1f} MB in float32:\n"
    yield from ways_table(costs, length)
    yield "\n![What an upload takes against what sealing takes](encryption.svg)\n"
    yield "By the size of the model, what a client sends and calculates in a round:\n"
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
    parser.add_argument("--quick", action="store_true", help="less of everything, once: the tables are not written")
    quick = parser.parse_args().quick
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    length, sampled, repeats = (50_000, 20_000, 1) if quick else (VALUES, 200_000, REPEATS)
    costs = measured(WAYS, length, repeats)
    print("\n".join(ways_table(costs, length)), flush=True)
    lean = {name: way for name, way in WAYS.items() if way.kind not in ("clear", "tenseal")}
    sizes = {model: measured(lean, count, 1) for model, count in MODELS.items() if not quick or count < VALUES}
    rounds = training(*((64, 3, 1) if quick else (1280, 5, REPEATS)))
    print("\n".join(rounds_table(rounds)), flush=True)
    sweep = measured({name: Way("ours", options, "") for name, options in SWEEP.items()}, sampled, 1)
    text = "\n".join(report(costs, sizes, rounds, sweep, length, sampled)) + "\n"
    print(text)
    if not quick:
        (HERE / "encryption.md").write_text(text)
        figure(costs, sweep, length, sampled, HERE / "encryption.svg")


if __name__ == "__main__":
    main()
