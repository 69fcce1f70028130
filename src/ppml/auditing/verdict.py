"""Whether what an audit measured agrees with what is claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from ppml.auditing.epsilon_floor import epsilon_floor

ROUNDING = 3e-3
"""Relative error of a clipped gradient that is no fault: the noise covers 2e-3, and the auditor's sums are float32."""

FAR_ABOVE = 2.0
"""Times the clipping norm that most records must have before clipping, or it does not show."""

CHECKS = {
    "coins": "a step's sample is not made by independent coin flips of the claimed rate",
    "tensors": "the noise of some parameter tensor is smaller than claimed",
    "releases": "the noise of some release is smaller than claimed",
    "samples": "the size of the noise depends on the sample",
    "parties": "the noise of some party is smaller than claimed",
    "shape": "the noise is not Gaussian",
    "repeats": "the noise of one release tells that of another",
    "records": "a noisy release has another share of the records than a noiseless one",
    "secure": "the draws of a training come again with its seed, configured is noise_source secure",
}
"""What a small p-value of :class:`~ppml.auditing.canary.Measurement` says."""


@dataclass(frozen=True)
class Verdict:
    """An interval, an epsilon, and what contradicts the claim.

    Parameters
    ----------
    low, high : float
        Interval of the noise multiplier.
    epsilon : float or None
        What is published; None where nothing is known of it.
    epsilon_low : float or None
        What the releases show that epsilon is at least, by the accounting of the training: that of the upper end of
        the interval.
    faults : tuple of str
        What does not hold, in words; empty if the claim holds.
    unclear : tuple of str
        Why the audit shows less than it should, in words: such an arm is neither accused nor acquitted.
    """

    low: float
    high: float
    epsilon: float | None
    epsilon_low: float | None
    faults: tuple[str, ...]
    unclear: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether nothing contradicts the claim."""
        return not self.faults


def judge(
    measured: Mapping[str, Any], *, confidence: float, family: int, published: Mapping[str, Any] | None = None
) -> Verdict:
    """Judge a measurement, as plain values, of one of ``family`` arms that are audited together.

    A family of correct mechanisms is acquitted altogether with probability of at least ``confidence``. Of the risk that
    an arm may take, half is the interval's and half is shared by the other checks.

    Parameters
    ----------
    measured : mapping
        As :meth:`~ppml.auditing.canary.Measurement.to_json` returns it.
    confidence : float
        In (0, 1), for all arms and all checks together.
    family : int
        Number of arms.
    published : mapping or None
        The privacy statement of the training: ``epsilon``, ``delta``, ``noise_multiplier``, ``sample_rate``, ``steps``.
    """
    risk = (1 - confidence) / family / 2
    low, high = noise_interval(measured["estimate"], measured["measurements"], risk)
    claimed, norm = measured["noise_multiplier"], measured["max_grad_norm"]
    faults, unclear = [], []
    if not low <= claimed <= high:
        faults.append(
            f"claims noise multiplier {claimed:.4g}, releases {measured['estimate']:.4g} [{low:.4g}, {high:.4g}]"
        )
    if high >= 2 * low:
        unclear.append("half the noise cannot be told from the claimed")
    if not measured["contribution"] <= norm * (1 + ROUNDING):
        faults.append(f"a record adds {measured['contribution']:.4g}, more than clipping norm {norm:.4g}")
    if not measured["deviation"] <= ROUNDING:
        faults.append("a noiseless release is not the sum of the clipped gradients of its sample")
    if not measured["canary_norm"] >= FAR_ABOVE * norm:
        unclear.append("the gradients of the records are too short to show that they are clipped")
    faults += measured["accounted"]
    small = risk / len(measured["p_values"])
    faults += [CHECKS[name] for name, value in measured["p_values"].items() if not value >= small]
    epsilon = epsilon_low = None
    if published is not None:
        epsilon, epsilon_low = published["epsilon"], _epsilon_low(published, high / claimed)
        if epsilon_low > epsilon:
            faults.append(f"publishes epsilon {epsilon:.4g}, which the releases show to be at least {epsilon_low:.4g}")
    return Verdict(low, high, epsilon, epsilon_low, tuple(faults), tuple(unclear))


def _epsilon_low(published: Mapping[str, Any], more: float) -> float:
    """Return the least epsilon of the published mechanism with ``more`` times its noise."""
    return epsilon_floor(
        noise_multiplier=published["noise_multiplier"] * more,
        sample_rate=published["sample_rate"],
        steps=published["steps"],
        delta=published["delta"],
    )


COLUMNS = (
    *("arm", "seed", "noise_multiplier", "estimate", "low", "high", "epsilon", "epsilon_low"),
    *("canary_norm", "max_grad_norm", "contribution", "releases", "measurements", "drawn", "coins", "parameters"),
    *("confidence", "family", "held", "faults", "unclear"),
)
"""Columns of audits.csv."""


def audit_row(
    arm: str, seed: int, measured: Mapping[str, Any], verdict: Verdict, *, confidence: float, family: int
) -> dict[str, Any]:
    """Return the row of audits.csv: ``drawn`` of ``coins`` coin flips drew a record."""
    known = {
        **measured,
        **asdict(verdict),
        "arm": arm,
        "seed": seed,
        "confidence": confidence,
        "family": family,
        "held": verdict.held,
        "faults": "; ".join(verdict.faults),
        "unclear": "; ".join(verdict.unclear),
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
