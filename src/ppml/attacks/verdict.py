"""Whether what an audit measured agrees with what is claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

ROUNDING = 1e-4
"""Relative error of float32 sums that is no fault."""

CHECKS = {
    "coins": "a step's sample is not made by independent coin flips",
    "tensors": "the noise of some parameter tensor has not the claimed size",
    "samples": "the size of the noise depends on the sample",
    "shape": "the noise is not Gaussian",
    "repeats": "the noise of one step tells that of another",
}
"""What a small p-value of :class:`~ppml.attacks.canary.Measurement` says."""


@dataclass(frozen=True)
class Verdict:
    """Intervals, and what contradicts the claim.

    Parameters
    ----------
    low, high : float
        Interval of the noise multiplier.
    control_low, control_high : float
        The same of the positive control, which has half the noise.
    faults : tuple of str
        What does not hold, in words; empty if the claim holds.
    """

    low: float
    high: float
    control_low: float
    control_high: float
    faults: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether nothing contradicts the claim."""
        return not self.faults


def judge(measured: Mapping[str, Any], *, confidence: float, family: int) -> Verdict:
    """Judge a measurement, as plain values, of one of ``family`` arms that are audited together.

    A family of correct mechanisms is acquitted altogether with probability of at least ``confidence``. Of the risk that
    an arm may take, half is the interval's and half is shared by the other checks.

    Parameters
    ----------
    measured : mapping
        As :meth:`~ppml.attacks.canary.Measurement.to_json` returns it.
    confidence : float
        In (0, 1), for all arms and all checks together.
    family : int
        Number of arms.
    """
    risk = (1 - confidence) / family / 2
    low, high = noise_interval(measured["estimate"], measured["steps"], risk)
    control_low, control_high = noise_interval(measured["control"], measured["steps"], risk)
    claimed, norm = measured["noise_multiplier"], measured["max_grad_norm"]
    faults = []
    if not low <= claimed <= high:
        faults.append(
            f"claims noise multiplier {claimed:.4g}, releases {measured['estimate']:.4g} [{low:.4g}, {high:.4g}]"
        )
    if control_low <= claimed <= control_high:
        faults.append("half the noise cannot be told from the claimed: the audit shows nothing")
    if measured["contribution"] > norm * (1 + ROUNDING):
        faults.append(f"a record adds {measured['contribution']:.4g}, more than max_grad_norm {norm:.4g}")
    if measured["deviation"] > ROUNDING + 2 * measured.get("resolution", 0.0):
        faults.append("what a record adds depends on the others of its sample")
    if not measured["executed"]:
        faults.append("not every step was released and accounted for")
    small = risk / len(measured["p_values"])
    faults += [CHECKS[name] for name, value in measured["p_values"].items() if not value >= small]
    return Verdict(low, high, control_low, control_high, tuple(faults))


COLUMNS = (
    *("arm", "seed", "noise_multiplier", "estimate", "low", "high", "control", "control_low", "control_high"),
    *("canary_norm", "max_grad_norm", "contribution", "steps", "drawn", "coins", "parameters", "confidence", "family"),
    *("held", "faults"),
)
"""Columns of audits.csv."""


def audit_row(
    arm: str, seed: int, measured: Mapping[str, Any], verdict: Verdict, *, confidence: float, family: int
) -> dict[str, Any]:
    """Return the row of audits.csv: ``drawn`` of ``coins`` coin flips drew a copy of the canary."""
    draws = measured["draws"]
    known = {
        **measured,
        **asdict(verdict),
        "arm": arm,
        "seed": seed,
        "drawn": sum(copies * steps for copies, steps in enumerate(draws)),
        "coins": (len(draws) - 1) * sum(draws),
        "confidence": confidence,
        "family": family,
        "held": verdict.held,
        "faults": "; ".join(verdict.faults),
    }
    return {column: known[column] for column in COLUMNS}


def noise_interval(estimate: float, degrees: int, risk: float) -> tuple[float, float]:
    """Return the interval that misses the standard deviation of ``degrees`` normal values with probability ``risk``.

    Parameters
    ----------
    estimate : float
        Root of the mean square; the mean is known.

    Examples
    --------
    >>> [round(end, 3) for end in noise_interval(1.0, 400, 0.01)]
    [0.916, 1.099]
    """
    law = stats.chi2(degrees)
    return estimate * math.sqrt(degrees / law.isf(risk / 2)), estimate * math.sqrt(degrees / law.ppf(risk / 2))
