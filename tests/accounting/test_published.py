"""Every published epsilon against an independent implementation."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from .reference import exact_epsilon_of_gaussians, replaced_epsilons, zeroed_epsilons

REPORTS = Path(__file__).parents[2] / "reports"
FOLDERS = sorted(path.parent for path in REPORTS.rglob("records.csv"))
PRECISION = 1e-4
"""Precision of the reference: see test_reference_matches_the_closed_form."""

POINTS = 3
"""Number of tested points of each curve: each takes a Fourier transform."""


@cache
def true_epsilons(rate: float, noise: float, steps: tuple[int, ...], delta: float) -> list[float]:
    if rate == 1:
        return [exact_epsilon_of_gaussians(noise, count, delta) for count in steps]
    return zeroed_epsilons(rate, noise, steps, delta)


def check_published(stated: float, true: float) -> None:
    assert stated >= true - PRECISION
    assert stated - true <= max(0.02, 0.01 * true)


def private_rows(folder: Path) -> pd.DataFrame:
    records = pd.read_csv(folder / "records.csv")
    return records[records["privacy_unit"] != "none"]


def mechanism(row: pd.Series) -> tuple[float, float, tuple[int, ...], float]:
    return row["sample_rate"], row["noise_multiplier"], (int(row["steps"]),), row["delta"]


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_published_epsilons_match_their_mechanisms(folder):
    for _, row in private_rows(folder).iterrows():
        (true,) = true_epsilons(*mechanism(row))
        check_published(row["epsilon"], true)
        bounds = [row[f"epsilon_{name}"] for name in ("prv", "pld", "gdp", "rdp")]
        assert all(bound >= true - PRECISION for bound in bounds if not math.isnan(bound))
        if row.get("epsilon_replace_one", math.nan) > 0 and row["sample_rate"] == 1:
            replaced = exact_epsilon_of_gaussians(row["noise_multiplier"] / 2, int(row["steps"]), row["delta"])
            check_published(row["epsilon_replace_one"], replaced)


def test_published_rows_include_full_batches_and_samples():
    rates = pd.concat(map(private_rows, FOLDERS))["sample_rate"]
    assert (rates == 1).sum() > 10 and (rates < 1).sum() > 10


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_published_curves_match_their_steps(folder):
    try:
        curves = pd.read_csv(folder / "epsilons.csv")
    except pd.errors.EmptyDataError:
        assert private_rows(folder).empty
        return
    rows = private_rows(folder).drop_duplicates("arm").set_index("arm")
    assert set(curves["arm"]) == set(rows.index)
    for arm, points in curves.groupby("arm"):
        row = rows.loc[arm]
        points = points[points["seed"] == row["seed"]].sort_values("step")
        some = points.iloc[[round(place * (len(points) - 1) / POINTS) for place in range(POINTS + 1)]]
        steps = tuple(some["step"])
        true = true_epsilons(row["sample_rate"], row["noise_multiplier"], steps, row["delta"])
        for stated, value in zip(some["epsilon"], true, strict=True):
            check_published(stated, value)


WRONG = {
    "a thousandth less": lambda epsilon, row: 0.999 * epsilon,
    "of a step less": lambda epsilon, row: true_epsilons(*mechanism({**row, "steps": row["steps"] - 1}))[0],
    "of a hundredth more noise": lambda epsilon, row: true_epsilons(
        *mechanism({**row, "noise_multiplier": 1.01 * row["noise_multiplier"]})
    )[0],
    "at ten times delta": lambda epsilon, row: true_epsilons(*mechanism({**row, "delta": 10 * row["delta"]}))[0],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_check_detects_a_small_published_epsilon(wrong):
    rows = private_rows(REPORTS).drop_duplicates("arm").set_index("arm", drop=False)
    for arm in ("dp", "scatter_2.9"):
        row = rows.loc[arm]
        (true,) = true_epsilons(*mechanism(row))
        with pytest.raises(AssertionError):
            check_published(wrong(true + PRECISION / 2, row.to_dict()), true)


def test_reference_matches_the_closed_form():
    for noise, steps in ((2.0, 4), (40.0, 40), (10.0, 60)):
        exact = exact_epsilon_of_gaussians(noise, steps, 1e-5)
        assert zeroed_epsilons(1.0, noise, (steps,), 1e-5) == pytest.approx([exact], abs=PRECISION / 4)
        exact = exact_epsilon_of_gaussians(noise / 2, steps, 1e-5)
        assert replaced_epsilons(1.0, noise, (steps,), 1e-5) == pytest.approx([exact], abs=PRECISION / 4)
