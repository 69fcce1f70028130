"""What a round of a federation costs: in process, beside the same apps on Flower's simulation, which runs on Ray.

``python benchmarks/federation.py`` measures every row in fresh processes, the rows in turn, on two cores, prints the
tables, and writes them to ``federation.md`` with a figure beside it. Rows of Ray need Ray, which
``pip install 'flwr[simulation]'`` brings; without it they say so. ``--quick`` tries all of it small and writes nothing.
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
from ppml.learning.gradient_correction import NO_CORRECTION, GradientCorrection
from ppml.learning.learner import AfterEpoch, no_op
from ppml.learning.parameters import digest_of, flatten
from ppml.learning.result import HistoryRow
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.stages.threads import make_deterministic

HERE = Path(__file__).parent
RNG = Randomness(1)
CORES = 2
"""Cores that all rows have, and processes that clients run in."""
CONTRACT = DATASETS["mnist"].contract
BATCH = 32
TEST = 1_000
"""Images that a client measures the global model on after each round."""
REPEATS = 2
"""How often every row is timed, in turn, so that a busy minute of the machine falls on all rows alike."""
GLANCE_SECONDS = 0.05
"""How often memory is looked at, in a run that is not timed: to add it up takes milliseconds."""
RAY = "Ray"


@dataclass(frozen=True)
class Case:
    """A federation.

    Parameters
    ----------
    model : str
        A name from the registry of models.
    trains : bool
        Whether clients train; otherwise they do all the rest, with the weights that they get.
    clients, records, rounds : int
        How many there are of each; records of all clients together, one epoch of which is a round.
    """

    model: str
    trains: bool
    clients: int
    records: int
    rounds: int


@dataclass(frozen=True)
class Way:
    """What runs the clients, in how many processes."""

    engine: str
    workers: int


ALONE, TWO, ON_RAY = Way("in process", 1), Way("in process", CORES), Way(RAY, CORES)
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


def smaller(case: Case) -> Case:
    """Return what ``--quick`` runs in place of ``case``."""
    return replace(case, records=max(case.clients, case.records // 10), rounds=3)


# What a row runs, in a process of its own.


class Idle:
    """A learner that leaves the weights as they are."""

    def fit(
        self,
        model: nn.Module,
        records: Examples,
        *,
        window: TrainingWindow,
        rng: Randomness,
        after_epoch: AfterEpoch = no_op,
        correction: GradientCorrection = NO_CORRECTION,
        max_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Return at once."""
        return ()


class Clock:
    """Keeps when the sum of each round was there; the server of every engine calls this, at the same place.

    Attributes
    ----------
    moments : list of float
        In seconds.
    """

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, total: ProtectedUpdate, number: int) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
        """Return the sum as it is."""
        self.moments.append(time.perf_counter())
        return identity(total, number)


def images(count: int, rng: Randomness) -> Examples:
    """Return random images with random labels."""
    generator = rng.torch()
    labels = torch.randint(0, len(CONTRACT.classes), (count,), generator=generator)
    return Examples(torch.randn(count, 1, 28, 28, generator=generator), labels)


def given(case: Case) -> FederationSpec:
    """Return what server and clients know."""
    each, more = divmod(case.records, case.clients)
    arm = Arm.model_validate(
        {
            "model": case.model,
            "topology": {"kind": "federated", "partition": "even", "rounds": case.rounds},
            "training": {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.01},
        }
    )
    nothing = [None] * case.clients
    return FederationSpec(arm, [each + (client < more) for client in range(case.clients)], nothing, nothing)


def initial(case: Case) -> nn.Module:
    """Return the model that the training begins with."""
    return build_model(case.model, CONTRACT, RNG.child("initial-weights").torch())


def server(case: Case, clock: Clock) -> ServerComponents:
    """Return what the server has."""
    return replace(
        build_server(given(case), flatten(initial(case)), NO_MATERIAL, RNG.party("server")), sum_mechanism=clock
    )


@cache
def population(case: Case) -> ClientPool:
    """Return the clients, the same object each time that a process asks."""
    # Another number of threads gives other bits.
    make_deterministic()
    public = given(case)
    owned = {client: images(size, RNG.child("client", client)) for client, size in enumerate(public.sizes)}
    side = build_parties(public.arm.aggregation, case.clients).clients
    seeds = party_seeds(RNG, case.clients).clients
    clients = build_client_pool(public, initial(case), owned, side, images(TEST, RNG.child("test")), seeds)
    if case.trains:
        return clients
    idle = {client: replace(member, learner=Idle()) for client, member in clients.clients.items()}
    return replace(clients, clients=idle, prefetch=no_prefetch)


def train(case: Case, way: Way, clock: Clock) -> str:
    """Train, and return the SHA-256 of the global model.

    Raises
    ------
    RuntimeError
        A client failed in a round, which would make the round a cheap one.
    """
    history: Sequence[HistoryRow]
    notices: list[str]
    if way.engine == RAY:
        # Here, since it brings Ray along, which the rows in process shall not pay for.
        from ppml.federation.engines.ray import run_on_ray

        result = run_on_ray(server(case, clock), partial(population, case), workers=way.workers)
        model, history, notices = result.model, result.history, result.notices
    else:
        notices = []
        outcome = train_federated(
            population(case), server(case, clock), lambda row: None, notice=notices.append, workers=way.workers
        )
        model, history = digest_of(flatten(outcome.models[0])), outcome.history
    if notices or [row.clients for row in history] != [case.clients] * case.rounds:
        raise RuntimeError(f"not all clients took part in all rounds: {notices}")
    return model


def answer(asked: str) -> None:
    """Print what one row comes to, as JSON, in the process that it was asked for."""
    case, way = json.loads(asked)
    clock = Clock()
    model = train(Case(**case), Way(**way), clock)
    print(json.dumps({"moments": clock.moments, "model": model}), flush=True)


# What all rows are measured by.


@dataclass(frozen=True)
class Row:
    """What a federation costs.

    Parameters
    ----------
    case : Case
        Which federation.
    a_round : float
        Seconds a round, the median over the rounds but the first.
    total : float
        Seconds from the start of the process to its end.
    model : str
        SHA-256 of the global model.
    megabytes : float
        Peak memory of all its processes; 0 where it was not looked at.
    """

    case: Case
    a_round: float
    total: float
    model: str
    megabytes: float = 0.0

    @property
    def beside(self) -> float:
        """What start and end take, in seconds: everything but the rounds."""
        return self.total - self.case.rounds * self.a_round


def in_fresh_processes(case: Case, way: Way, *, watched: bool = False) -> Row:
    """Return what a row costs, measured in processes of its own; exit where it fails."""
    asked = json.dumps([asdict(case), asdict(way)])
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        # Not as a script: Ray's processes find what they call by the name of its module.
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys, federation; federation.answer(sys.argv[1])", asked],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdout=output,
            stderr=errors,
        )
        megabytes = watch(process, output) if watched else 0.0
        failed = process.wait()
        total = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if failed:
            sys.exit(f"error: {way} of {case}\n{output.read()[-500:]}{errors.read()[-2000:]}")
        found = json.loads(output.read().splitlines()[-1])
    a_round = statistics.median(later - earlier for earlier, later in pairwise(found["moments"]))
    return Row(case, a_round, total, found["model"], megabytes)


def watch(process: subprocess.Popen[bytes], output: IO[str]) -> float:
    """Return the most memory that a process and its descendants have at once until it answers, in MB."""
    peak = 0.0
    while process.poll() is None:
        found = memory(process.pid)
        # As it ends, it calls up program files that it never needed, more or fewer.
        if os.fstat(output.fileno()).st_size:
            break
        peak = max(peak, found)
        time.sleep(GLANCE_SECONDS)
    return peak


def memory(root: int) -> float:
    """Return the memory of a process and its descendants, in MB.

    Data are counted once, however many of the processes share them since they were forked. So are the files of
    programs: by the process that has most of them.
    """
    data, files = 0, 0
    for process in family(root):
        # One that has just ended has none.
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
            data += kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"]
            files = max(files, kilobytes["Rss"] - kilobytes["Anonymous"])
    return (data + files) / 1024


def family(root: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name, in brackets, may hold anything.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def best(rows: Sequence[Row]) -> Row:
    """Return the fastest rounds and the fastest whole of the runs of a row, with the largest memory."""
    return replace(
        min(rows, key=lambda row: row.a_round),
        total=min(row.total for row in rows),
        megabytes=max(row.megabytes for row in rows),
    )


def check_same(runs: Mapping[str, Sequence[Row]], what: str) -> None:
    """Exit unless all runs have come to the same model."""
    models = {name: sorted({row.model for row in rows}) for name, rows in runs.items()}
    if len({model for found in models.values() for model in found}) > 1:
        sys.exit(f"error: {what}: the runs have come to different models: {json.dumps(models, indent=1)}")


def compare(case: Case, ways: Sequence[Way], repeats: int, what: str) -> dict[Way, Row]:
    """Return what each way costs, after a check that all come to the same bits."""
    rounds = [{way: in_fresh_processes(case, way) for way in ways} for _ in range(repeats)]
    runs = {way: [measured[way] for measured in rounds] for way in ways}
    check_same({str(way): rows for way, rows in runs.items()}, what)
    return {way: best(rows) for way, rows in runs.items()}


def grow(cases: Sequence[Case], repeats: int) -> dict[Case, Row]:
    """Return what each case costs in process, with its memory, which is looked at in a run that is not timed."""
    rounds = [{case: in_fresh_processes(case, TWO) for case in cases} for _ in range(repeats)]
    rows = {}
    for case in cases:
        timed, watched = [measured[case] for measured in rounds], in_fresh_processes(case, TWO, watched=True)
        check_same({"timed": timed, "watched": [watched]}, str(case))
        rows[case] = replace(best(timed), megabytes=watched.megabytes)
    return rows


# What is written of it.


def machine(ray: bool) -> str:
    """Return what the figures were measured on."""
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


def written(seconds: float) -> str:
    """Return seconds with two digits that count, or one behind the point, whichever is more.

    Examples
    --------
    >>> written(0.01234), written(1.234), written(12.34)
    ('0.012', '1.2', '12.3')
    """
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:#.2g}"


def engine_table(results: Mapping[str, Mapping[Way, Row]]) -> Iterator[str]:
    """Yield the lines of the table of engines, in Markdown."""
    yield (
        f"| what a client does | in process, 1 process | in process, {CORES} processes | Ray, {CORES} processes "
        f"| Ray beside in process, {CORES} processes | start and end, in process | start and end, Ray |"
    )
    yield "| :-- | --: | --: | --: | --: | --: | --: |"
    for name, rows in results.items():
        alone, two, ray = rows[ALONE], rows[TWO], rows.get(ON_RAY)
        there = (written(ray.a_round), f"{ray.a_round / two.a_round:.1f}", written(ray.beside)) if ray else None
        on_ray, ratio, start = there or ("Ray is not installed", "", "")
        yield (
            f"| {name} | {written(alone.a_round)} | {written(two.a_round)} | {on_ray} | {ratio} "
            f"| {written(two.beside)} | {start} |"
        )


def growth_table(results: Mapping[str, Mapping[Case, Row]]) -> Iterator[str]:
    """Yield the lines of the table of numbers of clients, in Markdown."""
    names = list(results)
    heads = [f"{name}, {what}" for what in ("seconds a round", "peak memory, MB") for name in names]
    yield f"| clients | {' | '.join(heads)} |"
    yield "| --: |" + " --: |" * len(heads)
    for rows in zip(*(results[name].items() for name in names), strict=True):
        cells = [*(written(row.a_round) for _, row in rows), *(f"{row.megabytes:.0f}" for _, row in rows)]
        yield f"| {rows[0][0].clients:,} | {' | '.join(cells)} |"


def figure(results: Mapping[str, Mapping[Case, Row]], path: Path) -> None:
    """Draw seconds a round against the number of clients."""
    # Here, since the processes that are measured draw nothing.
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "federation"
    drawing, panel = plt.subplots(figsize=(5, 3.4))
    clients = [case.clients for case in next(iter(results.values()))]
    for (name, rows), colour, marker in zip(results.items(), ("tab:red", "tab:gray"), ("o", "s"), strict=True):
        panel.loglog(clients, [row.a_round for row in rows.values()], color=colour, marker=marker, label=name)
    panel.set_xticks(clients, [f"{count:,}" for count in clients])
    panel.minorticks_off()
    records = next(case.records for rows in results.values() for case in rows)
    panel.set(xlabel=f"clients, with {records:,} records in all", ylabel="seconds a round")
    panel.legend(title="what a client does", frameon=False)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    drawing.savefig(path.with_suffix(".png"), dpi=150)


NOTES = f"""
A round lasts from one sum to the next: one client applies the sum and measures the model on {TEST:,} images; then all
apply it, train, round their updates to the grid, seal and send them, and the server adds them. The first round is left
out. Of the other rounds of a run the median counts, and of {REPEATS} runs of every row the fastest. Start and end are
what the processes take besides, in seconds: imports, random images with fixed seeds, and Ray itself. A client that does
nothing gives back the weights that it got, through all the rest: what a round costs then is overhead.

Both sides run the same ClientApp and the same server, in the clear, with one thread a process. Flower's simulation is
as it comes, and told how many processes there are: it hands every message to one of Ray's processes with all that the
client remembers, and back; its server looks for answers every 0.1 s, and its queue for orders as often. In process,
clients are shared out among forked processes, where they stay. Models that are in one process are trained side by side,
in batched matrix products and grouped convolutions; on Ray each is trained when its message comes.

Peak memory is that of all processes together, in a run that is not timed; what they share counts once.
"""


def report(
    engines: Mapping[str, Mapping[Way, Row]], growth: Mapping[str, Mapping[Case, Row]], ray: bool
) -> Iterator[str]:
    """Yield the whole text, in Markdown."""
    yield machine(ray)
    size = {name: len(flatten(initial(case))) for name, case in ENGINES.items()}
    case = engines["MLP"][TWO].case
    steps = case.records // case.clients // BATCH
    where = "In process and on Ray" if ray else f"In 1 process and in {CORES}"
    yield (
        f"\nSeconds a round of {case.clients} clients, {steps} steps on batches of {BATCH} each; the MLP has "
        f"{size['MLP']:,} weights, the CNN {size['CNN']:,}.\n"
        f"{where} a row comes to the same model, bit for bit:\n"
    )
    yield from engine_table(engines)
    regression = next(iter(growth.values()))
    many = next(case for case in regression if case.clients == MANY)
    row = regression[many]
    yield (
        f"\n{MANY:,} clients with {many.records // MANY} records each, {many.rounds} rounds of logistic regression, "
        f"in process, {CORES} processes, from the start of the program to its end: {written(row.total)} seconds, "
        f"{row.megabytes:.0f} MB."
    )
    weights = len(flatten(initial(many)))
    yield (
        f"\nAs clients grow in number, with {many.records:,} records in all and {weights:,} weights, in process, "
        f"{CORES} processes:\n"
    )
    yield from growth_table(growth)
    yield "\n![Seconds a round against clients](federation.svg)"
    yield NOTES.rstrip("\n")


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, once: the tables are not written")
    quick = parser.parse_args().quick
    # Inherited by all that is started here, so that a larger machine measures the same.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    ray = importlib.util.find_spec("ray") is not None
    ways = (ALONE, TWO, *([ON_RAY] if ray else []))
    sized = smaller if quick else lambda case: case
    repeats = 1 if quick else REPEATS
    engines = {name: compare(sized(case), ways, repeats, name) for name, case in ENGINES.items()}
    print("\n".join(engine_table(engines)), flush=True)
    sampled = slice(None, None, 3 if quick else 1)
    growth = {name: grow([sized(case) for case in cases[sampled]], repeats) for name, cases in GROWTH.items()}
    text = "\n".join(report(engines, growth, ray)) + "\n"
    print(text)
    if not quick:
        (HERE / "federation.md").write_text(text)
        figure(growth, HERE / "federation.svg")


if __name__ == "__main__":
    main()
