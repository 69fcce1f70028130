"""Cost of a round of a federation: in process, beside the same apps in Flower's simulation, which runs on Ray.

``python benchmarks/federation.py`` measures every row in fresh processes, the rows in turn, on two cores, prints the
tables, and writes them to ``federation.md`` with a figure. Rows of Ray need Ray, which
``pip install 'flwr[simulation]'`` installs; without it they are empty. ``--quick`` runs small cases and writes nothing.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import IO

import torch
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.factory import build_parties
from ppml.aggregation.interfaces import NO_MATERIAL, ProtectedUpdate
from ppml.config.arm import Arm
from ppml.config.datasets import DATASETS
from ppml.data.examples import Examples
from ppml.federation.client import ClientPool, no_prefetch
from ppml.federation.factory import FederationSpec, ServerComponents, build_client_pool, build_server, party_seeds
from ppml.federation.run import train_federated
from ppml.federation.sum_mechanism import identity
from ppml.jobs.threads import make_deterministic
from ppml.learning.gradient_correction import NO_CORRECTION, GradientCorrection
from ppml.learning.learner import AfterEpoch, no_op
from ppml.learning.parameters import digest_of, flatten
from ppml.learning.result import HistoryRow
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

HERE = Path(__file__).parent
RNG = Randomness(1)
CORES = 2
"""Number of cores of all rows, and of processes of the clients."""
CONTRACT = DATASETS["mnist"].contract
BATCH = 32
TEST = 1_000
"""Number of images on which a client evaluates the global model after each round."""
REPEATS = 2
"""Timed runs of every row, in turn, so that a busy minute of the machine affects all rows alike."""
MEMORY_INTERVAL_SECONDS = 0.05
"""Seconds between measurements of memory, in an untimed run: one measurement takes milliseconds."""
RAY = "Ray"


@dataclass(frozen=True)
class Case:
    """A federation.

    Parameters
    ----------
    model : str
        The name of the model in the registry.
    trains : bool
        Whether clients train; otherwise they do all other steps, with the received weights.
    clients, examples, rounds : int
        The number of each; examples of all clients together, one epoch of which is a round.
    """

    model: str
    trains: bool
    clients: int
    examples: int
    rounds: int


@dataclass(frozen=True)
class Way:
    """The engine that runs the clients, and its number of processes."""

    engine: str
    workers: int


ONE, TWO, ON_RAY = Way("in process", 1), Way("in process", CORES), Way(RAY, CORES)
MANY = 1_000
ENGINES = {
    "nothing, with the weights of the MLP": Case("mlp", False, 32, 32, 6),
    "MLP": Case("mlp", True, 32, 32 * 640, 6),
    "MLP, half as many steps": Case("mlp", True, 32, 32 * 320, 6),
    "CNN": Case("tanh_cnn", True, 32, 32 * 640, 4),
}
GROWTH = {
    name: [Case("logistic", trains, clients, 10_000, rounds) for clients in (4, 8, 16, 32, 100, 320, MANY)]
    for name, trains, rounds in (("logistic regression", True, 10), ("nothing", False, 6))
}


def small_case(case: Case) -> Case:
    """Return the case that ``--quick`` runs in place of ``case``."""
    return replace(case, examples=max(case.clients, case.examples // 10), rounds=3)


# The work of a row, in a separate process.


class Idle:
    """A learner that does not change the weights."""

    def fit(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        window: TrainingWindow,
        rng: Randomness,
        after_epoch: AfterEpoch = no_op,
        correction: GradientCorrection = NO_CORRECTION,
        affordable_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Return at once."""
        return ()


class Clock:
    """The time of the sum of each round; the server of every engine calls this at the same step.

    Attributes
    ----------
    moments : list of float
        Times in seconds.
    """

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, total: ProtectedUpdate, number: int) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
        """Return the sum unchanged, and append the time."""
        self.moments.append(time.perf_counter())
        return identity(total, number)


def images(count: int, rng: Randomness) -> Examples:
    """Return random images with random labels."""
    generator = rng.torch()
    labels = torch.randint(0, len(CONTRACT.classes), (count,), generator=generator)
    return Examples(torch.randn(count, 1, 28, 28, generator=generator), labels)


def federation_spec(case: Case) -> FederationSpec:
    """Return the public facts of the federation."""
    each, more = divmod(case.examples, case.clients)
    arm = Arm.model_validate(
        {
            "model": case.model,
            "topology": {"kind": "federated", "partition": "even", "rounds": case.rounds},
            "training": {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.01},
        }
    )
    nothing = [None] * case.clients
    return FederationSpec(arm, [each + (client < more) for client in range(case.clients)], nothing, nothing)


def initial_model(case: Case) -> nn.Module:
    """Return the initial model."""
    return build_model(case.model, CONTRACT, RNG.child("initial-weights").torch())


def server_components(case: Case, clock: Clock) -> ServerComponents:
    """Return the components of the server."""
    return replace(
        build_server(federation_spec(case), flatten(initial_model(case)), NO_MATERIAL, RNG.party("server")),
        sum_mechanism=clock,
    )


@cache
def client_pool(case: Case) -> ClientPool:
    """Return the clients, the same object for all calls in a process."""
    # Another number of threads gives other bits.
    make_deterministic()
    public = federation_spec(case)
    owned = {client: images(size, RNG.child("client", client)) for client, size in enumerate(public.sizes)}
    side = build_parties(public.arm.aggregation, case.clients).clients
    seeds = party_seeds(RNG, case.clients).clients
    clients = build_client_pool(public, initial_model(case), owned, side, images(TEST, RNG.child("test")), seeds)
    if case.trains:
        return clients
    idle = {client: replace(member, learner=Idle()) for client, member in clients.clients.items()}
    return replace(clients, clients=idle, prefetch=no_prefetch)


def train(case: Case, way: Way, clock: Clock) -> str:
    """Train, and return the SHA-256 of the global model.

    Raises
    ------
    RuntimeError
        A client failed in a round, which makes the round cheaper.
    """
    history: Sequence[HistoryRow]
    notices: list[str]
    if way.engine == RAY:
        # This imports Ray, whose cost must not count for the rows in process.
        from ppml.federation.engines.ray import run_on_ray

        result = run_on_ray(server_components(case, clock), partial(client_pool, case), workers=way.workers)
        model, history, notices = result.model, result.history, result.notices
    else:
        notices = []
        outcome = train_federated(
            client_pool(case),
            server_components(case, clock),
            lambda row: None,
            notice=notices.append,
            workers=way.workers,
        )
        model, history = digest_of(flatten(outcome.models[0])), outcome.history
    if notices or [row.clients for row in history] != [case.clients] * case.rounds:
        raise RuntimeError(f"a round has missing clients: {notices}")
    return model


def run_row(request: str) -> None:
    """Print the result of one row as JSON; the separate process of the row runs this."""
    case, way = json.loads(request)
    clock = Clock()
    model = train(Case(**case), Way(**way), clock)
    print(json.dumps({"moments": clock.moments, "model": model}), flush=True)


# Measurement of all rows.


@dataclass(frozen=True)
class Row:
    """Cost of a federation.

    Parameters
    ----------
    case : Case
        The federation.
    round_seconds : float
        Seconds per round, the median without the first round.
    total : float
        Seconds from the start of the process to its end.
    model : str
        SHA-256 of the global model.
    megabytes : float
        Peak memory of all its processes; 0 if it was not measured.
    """

    case: Case
    round_seconds: float
    total: float
    model: str
    megabytes: float = 0.0

    @property
    def overhead(self) -> float:
        """Seconds of start and end: the whole time without the rounds."""
        return self.total - self.case.rounds * self.round_seconds


def measure_in_fresh_processes(case: Case, way: Way, *, watched: bool = False) -> Row:
    """Return the cost of a row, measured in separate processes; exit if it fails."""
    request = json.dumps([asdict(case), asdict(way)])
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        # Not as a script: Ray's processes import the functions by the name of their module.
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys, federation; federation.run_row(sys.argv[1])", request],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdout=output,
            stderr=errors,
        )
        megabytes = peak_memory(process, output) if watched else 0.0
        failed = process.wait()
        total = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if failed:
            sys.exit(f"error: {way} of {case}\n{output.read()[-500:]}{errors.read()[-2000:]}")
        found = json.loads(output.read().splitlines()[-1])
    round_seconds = statistics.median(later - earlier for earlier, later in pairwise(found["moments"]))
    return Row(case, round_seconds, total, found["model"], megabytes)


def peak_memory(process: subprocess.Popen[bytes], output: IO[str]) -> float:
    """Return the peak memory of a process and its descendants until its result, in MB."""
    peak = 0.0
    while process.poll() is None:
        found = memory(process.pid)
        # At its end it loads a varying number of program files that it never needed.
        if os.fstat(output.fileno()).st_size:
            break
        peak = max(peak, found)
        time.sleep(MEMORY_INTERVAL_SECONDS)
    return peak


def memory(root: int) -> float:
    """Return the memory of a process and its descendants, in MB.

    Data that forked processes share are counted once. So are program files: by the process with most of them.
    """
    data, files = 0, 0
    for process in process_tree(root):
        # A process that has just ended has no such file.
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
            data += kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]
            files = max(files, kilobytes["Rss"] - kilobytes["Anonymous"])
    return (data + files) / 1024


def process_tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name, in brackets, may have any characters.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def best(rows: Sequence[Row]) -> Row:
    """Return the fastest rounds and the fastest total of the runs of a row, with the largest memory."""
    return replace(
        min(rows, key=lambda row: row.round_seconds),
        total=min(row.total for row in rows),
        megabytes=max(row.megabytes for row in rows),
    )


def check_same(runs: Mapping[str, Sequence[Row]], what: str) -> None:
    """Exit unless all runs have given the same model."""
    models = {name: sorted({row.model for row in rows}) for name, rows in runs.items()}
    if len({model for found in models.values() for model in found}) > 1:
        sys.exit(f"error: {what}: the runs have given different models: {json.dumps(models, indent=1)}")


def compare(case: Case, ways: Sequence[Way], repeats: int, what: str) -> dict[Way, Row]:
    """Return the cost of each way, after a check that all give the same bits."""
    rounds = [{way: measure_in_fresh_processes(case, way) for way in ways} for _ in range(repeats)]
    runs = {way: [measured[way] for measured in rounds] for way in ways}
    check_same({str(way): rows for way, rows in runs.items()}, what)
    return {way: best(rows) for way, rows in runs.items()}


def measure_growth(cases: Sequence[Case], repeats: int) -> dict[Case, Row]:
    """Return the cost of each case in process, with its memory, which an untimed run measures."""
    rounds = [{case: measure_in_fresh_processes(case, TWO) for case in cases} for _ in range(repeats)]
    rows = {}
    for case in cases:
        timed, watched = [measured[case] for measured in rounds], measure_in_fresh_processes(case, TWO, watched=True)
        check_same({"timed": timed, "watched": [watched]}, str(case))
        rows[case] = replace(best(timed), megabytes=watched.megabytes)
    return rows


# Tables and figure.


def machine(ray: bool) -> str:
    """Return the processor and the versions of the measurement."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    parts = [
        f"{cores} core{'s' * (cores > 1)} of {cpus[0].partition(': ')[2]}",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"Flower {version('flwr')}",
        f"Ray {version('ray')}" if ray else "Ray is not installed",
    ]
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Return seconds with two significant digits, or with one decimal if that is more.

    Examples
    --------
    >>> format_seconds(0.01234), format_seconds(1.234), format_seconds(12.34)
    ('0.012', '1.2', '12.3')
    """
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:#.2g}"


def engine_table(results: Mapping[str, Mapping[Way, Row]]) -> Iterator[str]:
    """Yield the lines of the table of engines."""
    yield (
        f"| task of a client | in process, 1 process | in process, {CORES} processes | Ray, {CORES} processes "
        f"| Ray relative to in process, {CORES} processes | start and end, in process | start and end, Ray |"
    )
    yield "| :-- | --: | --: | --: | --: | --: | --: |"
    for name, rows in results.items():
        one, two, ray = rows[ONE], rows[TWO], rows.get(ON_RAY)
        on_ray, ratio, start = "Ray is not installed", "", ""
        if ray:
            on_ray, start = format_seconds(ray.round_seconds), format_seconds(ray.overhead)
            ratio = f"{ray.round_seconds / two.round_seconds:.1f}"
        yield (
            f"| {name} | {format_seconds(one.round_seconds)} | {format_seconds(two.round_seconds)} | {on_ray} "
            f"| {ratio} | {format_seconds(two.overhead)} | {start} |"
        )


def growth_table(results: Mapping[str, Mapping[Case, Row]]) -> Iterator[str]:
    """Yield the lines of the table of numbers of clients."""
    names = list(results)
    heads = [f"{name}, {what}" for what in ("seconds per round", "peak memory, MB") for name in names]
    yield f"| clients | {' | '.join(heads)} |"
    yield "| --: |" + " --: |" * len(heads)
    for rows in zip(*(results[name].items() for name in names), strict=True):
        cells = [*(format_seconds(row.round_seconds) for _, row in rows), *(f"{row.megabytes:.0f}" for _, row in rows)]
        yield f"| {rows[0][0].clients:,} | {' | '.join(cells)} |"


def figure(results: Mapping[str, Mapping[Case, Row]], path: Path) -> None:
    """Draw seconds per round against the number of clients."""
    # Not at the top, since the measured processes draw nothing.
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "federation"
    drawing, panel = plt.subplots(figsize=(5, 3.4))
    clients = [case.clients for case in next(iter(results.values()))]
    for (name, rows), colour, marker in zip(results.items(), ("tab:red", "tab:gray"), ("o", "s"), strict=True):
        panel.loglog(clients, [row.round_seconds for row in rows.values()], color=colour, marker=marker, label=name)
    panel.set_xticks(clients, [f"{count:,}" for count in clients])
    panel.minorticks_off()
    examples = next(case.examples for rows in results.values() for case in rows)
    panel.set(xlabel=f"clients, with {examples:,} examples in total", ylabel="seconds per round")
    panel.legend(title="task of a client", frameon=False)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    drawing.savefig(path.with_suffix(".png"), dpi=150)


NOTES = f"""
A round lasts from one sum to the next: one client applies the sum and evaluates the model on {TEST:,} images; then all
apply it, train, round their updates to the grid and send them, and the server adds them. The first round does not
count. Of the other rounds of a run the median counts, and of {REPEATS} runs of every row the fastest. Start and end are
the other seconds of the processes: imports, random images with fixed seeds, and Ray itself. A client with the task
"nothing" returns the received weights, through all other steps: its round is pure overhead.

Both engines run the same ClientApp and the same server, in plaintext, with one thread per process. Flower's simulation
has its default settings and the number of processes: it sends every message with the client's whole state to one of
Ray's processes, and back; its server polls for replies every 0.1 s, and its queue for instructions as often. In
process, clients are divided among forked processes and stay there. The models of one process are trained side by side,
in batched matrix products and grouped convolutions; on Ray each is trained when its message arrives.

Peak memory is that of all processes together, in an untimed run; shared memory counts once.
"""


def report(
    engines: Mapping[str, Mapping[Way, Row]], growth: Mapping[str, Mapping[Case, Row]], ray: bool
) -> Iterator[str]:
    """Yield the whole text as Markdown."""
    yield machine(ray)
    size = {name: len(flatten(initial_model(case))) for name, case in ENGINES.items()}
    case = engines["MLP"][TWO].case
    steps = case.examples // case.clients // BATCH
    where = "In process and on Ray" if ray else f"In 1 process and in {CORES}"
    yield (
        f"\nSeconds per round of {case.clients} clients, {steps} steps on batches of {BATCH} each; the MLP has "
        f"{size['MLP']:,} weights, the CNN {size['CNN']:,}.\n"
        f"{where} a row gives the same model, bit for bit:\n"
    )
    yield from engine_table(engines)
    regression = next(iter(growth.values()))
    many = next(case for case in regression if case.clients == MANY)
    row = regression[many]
    yield (
        f"\n{MANY:,} clients with {many.examples // MANY} examples each, {many.rounds} rounds of logistic regression, "
        f"in process, {CORES} processes, from the start of the program to its end: {format_seconds(row.total)} "
        f"seconds, {row.megabytes:.0f} MB."
    )
    weights = len(flatten(initial_model(many)))
    yield (
        f"\nFor growing numbers of clients, with {many.examples:,} examples in total and {weights:,} weights, in "
        f"process, {CORES} processes:\n"
    )
    yield from growth_table(growth)
    yield "\n![Seconds per round against clients](federation.svg)"
    yield NOTES.rstrip("\n")


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, once; writes no tables")
    quick = parser.parse_args().quick
    # All child processes inherit this, so that a larger machine gives the same result.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    ray = importlib.util.find_spec("ray") is not None
    ways = (ONE, TWO, *([ON_RAY] if ray else []))
    sized = small_case if quick else lambda case: case
    repeats = 1 if quick else REPEATS
    engines = {name: compare(sized(case), ways, repeats, name) for name, case in ENGINES.items()}
    print("\n".join(engine_table(engines)), flush=True)
    sampled = slice(None, None, 3 if quick else 1)
    growth = {name: measure_growth([sized(case) for case in cases[sampled]], repeats) for name, cases in GROWTH.items()}
    text = "\n".join(report(engines, growth, ray)) + "\n"
    print(text)
    if not quick:
        (HERE / "federation.md").write_text(text)
        figure(growth, HERE / "federation.svg")


if __name__ == "__main__":
    main()
