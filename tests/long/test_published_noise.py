"""Every pair of private models that were published: no noise that two of them share, so that it could cancel.

Each training is repeated without noise, with the same samples, from what the workflow has made; that takes about as
long as the private part of the configuration. ``PPML_PUBLISHED_ARMS`` names some arms, separated by commas.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ppml.config.technique import NoPrivacy
from ppml.config.yaml_file import read_yaml
from ppml.io.atomic import read_json
from ppml.learning import noise
from ppml.pipeline.plan import Plan
from ppml.pipeline.project import DEFAULT_CONFIG
from ppml.stages.example_files import owned_by, read_examples
from ppml.stages.seeds import public_data, seed_randomness
from ppml.training import train

from ..attacks.lines import nearness
from ..federation.runs import ignore_row
from ..learning.digits import vector

ROOT = Path(__file__).parents[2]
SMALLEST = 0.95
"""What independent noise leaves of the smallest nearness of many pairs, whatever the model has of weights."""


class Silence:
    """Noise of size 0, from no source."""

    source = "seeded"

    def whole(self, count: int, deviation: float) -> np.ndarray:
        return np.zeros(count, dtype=np.int64)


def published(plan: Plan) -> list[tuple[str, int]]:
    """Return the private runs that are here, of the arms that are asked for."""
    asked = os.environ.get("PPML_PUBLISHED_ARMS", "")
    wanted = set(asked.split(",")) if asked else set(plan.config.arms)
    return [
        (arm, seed)
        for arm, seed in plan.runs
        if arm in wanted
        and not isinstance(plan.config.arms[arm].privacy, NoPrivacy)
        and (ROOT / plan.run(arm, seed, "model.safetensors")).is_file()
    ]


def released(plan: Plan, arm: str, seed: int) -> np.ndarray:
    """Return the weights that were published, in the order of their names in the file."""
    weights = load_file(ROOT / plan.run(arm, seed, "model.safetensors"))
    return np.concatenate([weights[name].double().numpy().ravel() for name in sorted(weights)])


def repeated(plan: Plan, arm: str, seed: int, *, silent: bool) -> np.ndarray:
    """Return the weights that a training comes to; ``silent``: with the same samples and without noise."""
    files, spec = plan.examples(arm), plan.config.arms[arm]
    records, test = (read_examples(ROOT / files[name], plan.dataset(arm)) for name in ("train", "test"))
    about, calibrated = read_json(ROOT / files["about"]), read_json(ROOT / plan.run(arm, seed, "noise.json"))
    partition = next((ROOT / file for file in plan.partition_of(arm, seed)), None)
    quiet = mock.patch.object(noise, "SeededNoise", lambda generator: Silence())
    with quiet if silent else nullcontext():
        outcome = train(
            spec,
            owned_by(records, partition),
            calibrated["noise_multipliers"],
            test.select(torch.arange(2)),
            classes=about["classes"],
            rng=seed_randomness(plan.config.seed, seed),
            data=public_data(about, partition),
            affordable_steps=calibrated.get("affordable_steps"),
            report=ignore_row,
        )
    named = {
        f"{number}.{name}": value
        for number, model in enumerate(outcome.models)
        for name, value in model.named_parameters()
    }
    assert sum(value.numel() for value in named.values()) == sum(len(vector(model)) for model in outcome.models)
    return np.concatenate([named[name].detach().double().numpy().ravel() for name in sorted(named)])


def test_no_pair_of_published_private_models_has_noise_that_cancels() -> None:
    torch.set_num_threads(1)
    plan = Plan.check(read_yaml(ROOT / DEFAULT_CONFIG), [str(ROOT / DEFAULT_CONFIG)])
    runs = published(plan)
    if len(runs) < 2:
        pytest.skip("the private models of config/default.yaml are not here: `make results` or `make pull` brings them")
    names, seen = {}, set()
    for arm, seed in runs:
        # Arms that differ in their aggregation alone have published one and the same model.
        release = read_json(ROOT / plan.run(arm, seed, "events.json"))["mechanism"]
        if release not in seen:
            names[f"{arm}, seed {seed}"] = arm, seed
            seen.add(release)
    models = {name: released(plan, *run) for name, run in names.items()}
    clean = {name: repeated(plan, *run, silent=True) for name, run in names.items()}
    pairs = [
        (one, other) for one in names for other in names if one < other and models[one].shape == models[other].shape
    ]
    found = sorted((nearness([models[a], models[b]], [clean[a], clean[b]]), f"{a} and {b}") for a, b in pairs)
    print(f"{len(names)} models, {len(pairs)} pairs; the nearest: {found[:5]}")
    assert pairs and found[0][0] > SMALLEST, found[:5]
