"""No two published private models share noise, which could cancel.

The test repeats each training without noise and with the same samples, in about the time of the private part of the
configuration. ``PPML_PUBLISHED_ARMS`` names some arms, separated by commas.
"""

from __future__ import annotations

import os
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
from ppml.project import DEFAULT_CONFIG
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples, split_by_owner
from ppml.stages.seeds import public_data, seed_randomness
from ppml.training import train

from ..auditing.lines import nearness
from ..federation.runs import ignore_row
from ..learning.digits import vector

ROOT = Path(__file__).parents[2]
SMALLEST = 0.95
"""The smallest nearness of many pairs with independent noise, for any number of weights."""


class ZeroNoise:
    """Noise of size 0."""

    source = "seeded"

    def rounded_normal(self, count: int, deviation: float) -> np.ndarray:
        return np.zeros(count, dtype=np.int64)


def find_runs(plan: Plan) -> list[tuple[str, int]]:
    """Return the existing private runs of the chosen arms."""
    names = os.environ.get("PPML_PUBLISHED_ARMS", "")
    chosen = set(names.split(",")) if names else set(plan.config.arms)
    return [
        (arm, seed)
        for arm, seed in plan.runs
        if arm in chosen
        and not isinstance(plan.config.arms[arm].privacy, NoPrivacy)
        and (ROOT / plan.paths.run(arm, seed, "model.safetensors")).is_file()
    ]


def read_weights(plan: Plan, arm: str, seed: int) -> np.ndarray:
    """Return the published weights in the order of their names in the file."""
    weights = load_file(ROOT / plan.paths.run(arm, seed, "model.safetensors"))
    return np.concatenate([weights[name].double().numpy().ravel() for name in sorted(weights)])


def train_without_noise(plan: Plan, arm: str, seed: int) -> np.ndarray:
    """Return the weights of a training with the same samples and without noise."""
    files, spec = plan.examples(arm), plan.config.arms[arm]
    about, contract = read_json(ROOT / files["about"]), read_contract(ROOT / files["about"])
    examples, test = (read_examples(ROOT / files[name], contract) for name in ("train", "test"))
    calibrated = read_json(ROOT / plan.paths.run(arm, seed, "noise.json"))
    partition = next((ROOT / file for file in plan.partition_of({"arm": arm, "seed": str(seed)}).values()), None)
    with mock.patch.object(noise, "SeededNoise", lambda generator: ZeroNoise()):
        outcome = train(
            spec,
            split_by_owner(examples, partition),
            calibrated["noise_multipliers"],
            test.select(torch.arange(2)),
            contract=contract,
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


def test_no_pair_of_published_models_shares_noise() -> None:
    plan = Plan.check(read_yaml(ROOT / DEFAULT_CONFIG), [str(ROOT / DEFAULT_CONFIG)])
    runs = find_runs(plan)
    if len(runs) < 2:
        pytest.skip("the private models of config/default.yaml are missing: `make results` or `make pull` first")
    names, seen = {}, set()
    for arm, seed in runs:
        # Arms that differ only in their aggregation have published the same model.
        release = read_json(ROOT / plan.paths.run(arm, seed, "events.json"))["mechanism"]
        if release not in seen:
            names[f"{arm}, seed {seed}"] = arm, seed
            seen.add(release)
    models = {name: read_weights(plan, *run) for name, run in names.items()}
    clean = {name: train_without_noise(plan, *run) for name, run in names.items()}
    pairs = [
        (one, other) for one in names for other in names if one < other and models[one].shape == models[other].shape
    ]
    found = sorted((nearness([models[a], models[b]], [clean[a], clean[b]]), f"{a} and {b}") for a, b in pairs)
    print(f"{len(names)} models, {len(pairs)} pairs; the nearest: {found[:5]}")
    assert pairs and found[0][0] > SMALLEST, found[:5]
