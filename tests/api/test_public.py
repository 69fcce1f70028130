"""The public interface: its names, and the building blocks behind them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ppml
from ppml.learning.parameters import flatten
from tests.workflow.project import ROOT

UPDATES = np.random.default_rng(0).normal(size=(5, 40))


def test_package_shows_its_public_names_only() -> None:
    assert dir(ppml) == sorted(ppml.__all__)
    assert all(getattr(ppml, name).__doc__ for name in ppml.__all__)
    with pytest.raises(AttributeError, match="'nothing'"):
        ppml.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ppml.__version__ == project["version"]


def test_import_of_package_imports_no_library() -> None:
    code = "import sys, ppml; dir(ppml); print(*sys.modules.keys() & {'numpy', 'torch', 'pydantic', 'click'})"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


@pytest.mark.parametrize("method", ["secret_sharing", "masking", "ckks", "bfv"])
def test_every_aggregation_has_the_sum_of_plaintext(method: str) -> None:
    found = ppml.aggregate(list(UPDATES), method)
    assert np.array_equal(found.values, ppml.aggregate(list(UPDATES)).values)
    assert np.allclose(found.values, UPDATES.sum(axis=0), atol=5 * 2.0**-21)
    assert len(found.upload_bytes) == 5
    assert min(found.upload_bytes) > ppml.aggregate(list(UPDATES)).upload_bytes[0]


def test_settings_of_aggregation_count() -> None:
    assert ppml.aggregate([[3.0], [0.3]], clip=1.0, fractional_bits=1).values.tolist() == [1.5]


@pytest.mark.parametrize(
    ("updates", "method", "settings", "words"),
    [
        ([[1.0], [1.0]], "sum", {}, ["aggregation.kind", "'sum'", "masking"]),
        ([[1.0], [1.0]], "ckks", {"keys": "secret"}, ["aggregation.keys", "'secret'"]),
        ([[1.0], [1.0]], "ckks", {"degree": 1}, ["aggregation", "degree"]),
        ([[1.0], [1.0]], "bfv", {"clip": 1e9}, ["overflows"]),
        ([[1.0]], "masking", {}, ["1 client"]),
        ([], "plaintext", {}, ["updates"]),
        ([[1.0], [1.0, 2.0]], "plaintext", {}, ["(1,)", "(2,)"]),
        ([1.0, 2.0], "plaintext", {}, ["()"]),
        ([["a"], ["b"]], "plaintext", {}, ["updates", "numbers"]),
        ([[np.inf], [1.0]], "plaintext", {}, ["not finite"]),
        ([torch.ones(1, requires_grad=True)], "plaintext", {}, ["updates", "detach"]),
    ],
)
def test_unfit_update_or_setting_is_refused_in_one_line(
    updates: list[list[float]], method: str, settings: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ppml.UserError) as caught:
        ppml.aggregate(updates, method, **settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("norm", [0.05, 1e6])
def test_clipped_sum_is_that_of_single_gradients(norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(6, 1, 4, 4, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).eval()
    before = flatten(model).copy()
    wanted = np.zeros(len(before))
    for one, label in zip(inputs.split(1), labels.split(1), strict=True):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(one), label), list(model.parameters()))
        gradient = torch.cat([part.reshape(-1) for part in gradients]).double().numpy()
        wanted += gradient * min(1.0, norm / float(np.linalg.norm(gradient)))
    assert np.allclose(ppml.clip(model, inputs, labels, norm=norm), wanted, rtol=1e-4, atol=1e-6)
    assert np.array_equal(flatten(model), before)
    assert not model.training


def test_model_without_clipping_is_refused() -> None:
    with pytest.raises(ppml.UserError, match="BatchNorm"):
        ppml.clip(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.eye(2), torch.tensor([0, 1]))


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"labels": LABELS[:1]}, "labels"),
        ({"labels": LABELS.float()}, "labels"),
        ({"labels": LABELS.numpy()}, "labels"),
        ({"labels": torch.tensor([0, -100])}, "labels"),
        ({"labels": torch.tensor([0, 2])}, "Target 2"),
        ({"inputs": torch.eye(2).double()}, "inputs"),
        ({"inputs": np.eye(2)}, "inputs"),
        ({"inputs": torch.eye(3)[:2]}, "2x3|4x3"),
        ({"norm": 0.0}, "norm"),
        ({"norm": "1"}, "norm"),
        ({"model": nn.Linear(2, 2).requires_grad_(False)}, "frozen"),
    ],
)
def test_unfit_argument_of_clip_is_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ppml.UserError, match=word):
        ppml.clip(**{"model": nn.Linear(2, 2), "inputs": torch.eye(2), "labels": LABELS, **change})  # type: ignore[arg-type]


def test_clip_keeps_gradients_and_modes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU().eval())
    model[0].weight.grad = torch.ones(2, 2)
    ppml.clip(model, torch.eye(2), LABELS)
    assert torch.equal(model[0].weight.grad, torch.ones(2, 2))
    assert [module.training for module in model.modules()] == [True, True, False]


SCHEDULE = {"sample_rate": 0.01, "noise_multiplier": 1.0, "steps": 1000, "delta": 1e-5}


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"sample_rate": float("nan")},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": "1"},
        {"steps": 0},
        {"steps": 1.5},
        {"steps": 10**12},
        {"sample_rate": True},
        {"delta": 1.0},
        {"accountant": "best"},
    ],
    ids=str,
)
def test_schedule_outside_its_limits_is_refused(change: dict[str, object]) -> None:
    (key,) = change
    with pytest.raises(ppml.UserError, match=f"^{key}: got "):
        ppml.account(**{**SCHEDULE, **change})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    given = {name: np.array([value])[0] for name, value in SCHEDULE.items()}
    found = ppml.account(**given, accountant="rdp")
    assert found == ppml.account(**SCHEDULE, accountant="rdp")  # type: ignore[arg-type]
    assert type(found.delta) is float


def test_statement_rounds_up_and_names_the_readers_of_seeded_noise() -> None:
    statement = ppml.PrivacyStatement(0.0041234, 1e-5, "example", "zero_out_one", "rdp")
    assert "epsilon 0.00413 at delta 1e-05" in str(statement)
    seeded, secure = (str(replace(statement, noise_source=source)) for source in ("seeded", "secure"))
    assert "no guarantee towards readers of the configuration" in seeded
    assert "readers" not in secure and "readers" not in str(statement)


def test_tightest_accountant_is_not_above_renyi() -> None:
    tightest, renyi = (ppml.account(**SCHEDULE, accountant=name) for name in ("tightest", "rdp"))  # type: ignore[arg-type]
    assert tightest.accountant in ("pld", "prv")
    assert tightest.epsilon is not None and renyi.epsilon is not None
    assert 0 < tightest.epsilon < renyi.epsilon
