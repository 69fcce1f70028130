"""Cost of a private training step: this project, no privacy, and each mode of Opacus, on one thread.

``python benchmarks/dpsgd.py`` measures every row in fresh processes, the rows in turn, prints the table, and writes it
to ``dpsgd.md`` with a figure. A step has all its parts: forward and backward pass, norms, noise, and the optimiser's
update.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import nn
from torch.nn.functional import cross_entropy

from ppml.learning.clipping import BookKeeping, register_norm_samplers
from ppml.learning.dpsgd import DpSgdLearner, _private_step
from ppml.learning.gradient_correction import NO_CORRECTION
from ppml.learning.learner import Settings
from ppml.learning.loss import cross_entropies
from ppml.learning.poisson import Sampling
from ppml.models.cnn import TanhCnn
from ppml.models.resnet18 import ResNet18
from ppml.randomness import Randomness

HERE = Path(__file__).parent
CASES = (("ResNet18", 64), ("tanh CNN", 256), ("ResNet18", 256))
NOISE: dict[str, Any] = {"noise_multiplier": 1.0, "max_grad_norm": 1.0}
PHYSICAL_BATCH = 64
"""Per-example gradients in Opacus' memory at once: 256 of ResNet18 would take 17 GB."""
SECONDS = 4.0
"""Minimum CPU-seconds of measured steps, for each row and round."""
ROUNDS = 3
"""Measurements of every row, in turn, so that a busy minute of the machine affects all rows alike."""

Step = Callable[[torch.Tensor, torch.Tensor], object]


def build(name: str) -> nn.Module:
    """Return a model, with the same weights in every call."""
    kind = ResNet18 if name == "ResNet18" else TanhCnn
    return kind((1, 28, 28), 10, torch.Generator().manual_seed(0))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of every row."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)


def no_dp(model: nn.Module, batch: int, order: torch.memory_format) -> Iterator[Step]:
    """Yield a step without privacy."""
    model.to(memory_format=order)
    optimizer = sgd(model)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(model(images.contiguous(memory_format=order)), labels).backward()
        optimizer.step()

    yield step


def project(model: nn.Module, batch: int) -> Iterator[Step]:
    """Yield a step of this project."""
    model.to(memory_format=torch.channels_last)
    learner = DpSgdLearner(Settings(1, batch, 0.01), **NOISE)
    drawn = Sampling("poisson", 0.1, "seeded")
    optimizer = learner._optimizer(list(model.parameters()), batch, Randomness(1), [], drawn, NO_CORRECTION)
    with BookKeeping(model) as keeping:
        yield lambda images, labels: _private_step(model, keeping, optimizer, images, labels)


def hooks(model: nn.Module, batch: int, force_functorch: bool) -> Iterator[Step]:
    """Yield a step of Opacus with a gradient for each example."""
    wrapped = GradSampleModule(model, force_functorch=force_functorch)
    optimizer = DPOptimizer(sgd(wrapped), expected_batch_size=batch, **NOISE)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        pieces = list(zip(images.split(PHYSICAL_BATCH), labels.split(PHYSICAL_BATCH), strict=True))
        for number, (part, truth) in enumerate(pieces, start=1):
            optimizer.signal_skip_step(do_skip=number < len(pieces))
            cross_entropy(wrapped(part), truth).backward()
            optimizer.step()
            optimizer.zero_grad()

    yield step


def ghost(model: nn.Module, batch: int, norms_of_convolutions: bool) -> Iterator[Step]:
    """Yield a step of Opacus' ghost clipping."""
    if norms_of_convolutions:
        register_norm_samplers()
    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=NOISE["max_grad_norm"])
    optimizer = DPOptimizerFastGradientClipping(sgd(wrapped), expected_batch_size=batch, **NOISE)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        wrapped.enable_hooks()
        optimizer.zero_grad()
        losses = cross_entropies(wrapped(images), labels)
        DPTensorFastGradientClipping(wrapped, optimizer, losses).backward()
        optimizer.step()

    yield step


WAYS: dict[str, Callable[[nn.Module, int], Iterator[Step]]] = {
    "no DP": lambda model, batch: no_dp(model, batch, torch.contiguous_format),
    "no DP, channels last": lambda model, batch: no_dp(model, batch, torch.channels_last),
    "DP, this project": project,
    "DP, Opacus hooks": lambda model, batch: hooks(model, batch, False),
    "DP, Opacus functorch": lambda model, batch: hooks(model, batch, True),
    "DP, Opacus ghost": lambda model, batch: ghost(model, batch, False),
    "DP, Opacus ghost with this project's convolution norms": lambda model, batch: ghost(model, batch, True),
}
FORMATS = ("no DP", "no DP, channels last")


@dataclass(frozen=True)
class Row:
    """Cost of a step of one implementation.

    Parameters
    ----------
    images_per_second : float
        Images per CPU-second (or per second of the device), by the fastest step.
    megabytes : float
        Peak memory of the process (or of the device).
    """

    images_per_second: float
    megabytes: float


def measure(way: str, name: str, batch: int, device: str) -> Row:
    """Return the cost of one implementation, measured in this process."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 1, 28, 28, generator=generator).to(device)
    labels = torch.randint(0, 10, (batch,), generator=generator).to(device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: list[float] = []
    for step in WAYS[way](build(name).to(device), batch):
        step(images, labels)
        while sum(seconds) < SECONDS:
            started = clock()
            step(images, labels)
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(clock() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return Row(batch / min(seconds), peak)


def measure_in_fresh_process(way: str, name: str, batch: int, device: str) -> Row | None:
    """Return the cost of one implementation, measured in a separate process; None if it fails."""
    done = subprocess.run(
        [sys.executable, __file__, "--device", device, "--row", way, name, str(batch)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stderr[-500:], file=sys.stderr)
        return None
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def best(rows: list[Row | None]) -> Row | None:
    """Return the fastest of the rounds, with the largest memory; None if one of them failed."""
    done = [row for row in rows if row]
    if len(done) < len(rows):
        return None
    return Row(max(row.images_per_second for row in done), max(row.megabytes for row in done))


def machine(device: str) -> str:
    """Return the processor and the versions of the measurement."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    where = f"one thread of {cpus[0].partition(': ')[2]}" if device == "cpu" else torch.cuda.get_device_name()
    return f"{where}, Python {platform.python_version()}, torch {torch.__version__}"


def table(rows: dict[str, Row | None]) -> Iterator[str]:
    """Yield the Markdown lines of one case."""
    yield "| | images per CPU-second | cost relative to no DP | speed relative to Opacus hooks | peak memory, MB |"
    yield "| :-- | --: | --: | --: | --: |"
    base = max((rows[way] for way in FORMATS), key=lambda row: row.images_per_second if row else 0.0)
    hooks_row = rows["DP, Opacus hooks"]
    for way, row in rows.items():
        if row is None:
            yield f"| {way} | failed | | | |"
            continue
        cost = f"{base.images_per_second / row.images_per_second:.2f}" if base else ""
        speed = f"{row.images_per_second / hooks_row.images_per_second:.1f}" if hooks_row else ""
        yield f"| {way} | {row.images_per_second:.0f} | {cost} | {speed} | {row.megabytes:.0f} |"


def figure(results: dict[tuple[str, int], dict[str, Row | None]], path: Path) -> None:
    """Draw images per second, one panel per case."""
    plt.rcParams["svg.hashsalt"] = "dpsgd"
    drawing, panels = plt.subplots(1, len(results), figsize=(4 * len(results), 3.2), sharey=True)
    for panel, ((name, batch), rows) in zip(panels, results.items(), strict=True):
        ways = list(rows)[::-1]
        bars = panel.barh(
            [way.replace(" with", "\nwith") for way in ways],
            [row.images_per_second if (row := rows[way]) else 0.0 for way in ways],
            color=[
                "tab:red" if way == "DP, this project" else "tab:blue" if way in FORMATS else "tab:gray" for way in ways
            ],
        )
        panel.bar_label(bars, fmt="%.0f", padding=2)
        panel.margins(x=0.2)
        panel.set(title=f"{name}, batch {batch}", xlabel="images per CPU-second")
        panel.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    drawing.savefig(path.with_suffix(".png"), dpi=150)


NOTES = """
The fastest step of three rounds counts. The cost is relative to the faster of the two memory formats without DP; the
first is the default of torch. All rows use the same optimiser, `torch.optim.SGD(fused=True)` with momentum. Opacus'
hooks hold the gradients of 64 examples at a time. Not measured: fastDP, which is not in the package index, and
JAX-Privacy, which trains no PyTorch model.
"""


def main() -> None:
    """Measure all rows, or the requested one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: then the table is printed and not written")
    parser.add_argument("--row", nargs=3, metavar=("WAY", "MODEL", "BATCH"), help="measure one row, in this process")
    arguments = parser.parse_args()
    if arguments.row:
        way, name, batch = arguments.row
        print(json.dumps(vars(measure(way, name, int(batch), arguments.device))))
        return
    lines, results = [f"{machine(arguments.device)}"], {}
    for name, batch in CASES:
        rounds = [
            {way: measure_in_fresh_process(way, name, batch, arguments.device) for way in WAYS} for _ in range(ROUNDS)
        ]
        rows = {way: best([measured[way] for measured in rounds]) for way in WAYS}
        results[name, batch] = rows
        lines += [f"\n{name}, 28x28, batch {batch}:\n", *table(rows)]
        print("\n".join(lines[-len(rows) - 3 :]), flush=True)
    text = "\n".join(lines) + "\n" + NOTES
    if arguments.device == "cpu":
        (HERE / "dpsgd.md").write_text(text)
        figure(results, HERE / "dpsgd.svg")


if __name__ == "__main__":
    main()
