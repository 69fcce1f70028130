"""Evaluation of an audit: the comparison of its measurements with the claimed mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from ppml.auditing.epsilon_floor import epsilon_floor

ROUNDING_TOLERANCE = 3e-3
"""Largest accepted relative error of a clipped gradient: the noise covers 2e-3, and the auditor's sums are float32."""

MIN_CANARY_RATIO = 2.0
"""Smallest ratio of the gradient norm before clipping and the clipping norm: smaller ratios do not show clipping."""

CHECKS = {
    "coins": "the sample of a step is no Poisson sample of the claimed rate",
    "tensors": "the noise of some parameter tensor is smaller than claimed",
    "releases": "the noise of some release is smaller than claimed",
    "samples": "the size of the noise depends on the sample",
    "parties": "the noise of some party is smaller than claimed",
    "shape": "the noise is not Gaussian",
    "repeats": "the noise of two releases is correlated",
    "records": "a noisy release has another sum of examples than a noiseless one",
    "secure": "the draws of a training repeat with its seed, configured is noise_source secure",
}
"""The meaning of each small p-value of :class:`~ppml.auditing.canary.Measurement`."""


@dataclass(frozen=True)
class AuditVerdict:
    """The result of an audit: an interval of the noise, bounds of epsilon, and the violations of the claim.

    Parameters
    ----------
    low, high : float
        Confidence interval of the noise multiplier.
    epsilon : float or None
        The published epsilon; None without a publication.
    epsilon_low : float or None
        Lower bound of epsilon by the releases: the epsilon of the published mechanism at the upper end of the interval.
    violations : tuple of str
        The violations of the claim, as sentences; empty if the claim holds.
    unclear : tuple of str
        The reasons for an inconclusive audit, as sentences.
    """

    low: float
    high: float
    epsilon: float | None
    epsilon_low: float | None
    violations: tuple[str, ...]
    unclear: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether no violation contradicts the claim."""
        return not self.violations


def evaluate_audit(
    measured: Mapping[str, Any], *, confidence: float, family: int, published: Mapping[str, Any] | None = None
) -> AuditVerdict:
    """Evaluate the measurement, as plain values, of one of ``family`` arms that are audited together.

    A family of correct mechanisms has no violation with a probability of at least ``confidence``. The interval has half
    of the risk of an arm; the other checks divide the other half equally.

    Parameters
    ----------
    measured : mapping
        The result of :meth:`~ppml.auditing.canary.Measurement.to_json`.
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
    violations, unclear = [], []
    if not low <= claimed <= high:
        violations.append(
            f"claims noise multiplier {claimed:.4g}, releases {measured['estimate']:.4g} [{low:.4g}, {high:.4g}]"
        )
    if high >= 2 * low:
        unclear.append("the interval of the noise multiplier is too wide")
    if not measured["contribution"] <= norm * (1 + ROUNDING_TOLERANCE):
        violations.append(f"an example contributes {measured['contribution']:.4g}, more than clipping norm {norm:.4g}")
    if not measured["deviation"] <= ROUNDING_TOLERANCE:
        violations.append("a noiseless release is not the sum of the clipped gradients of its sample")
    if not measured["canary_norm"] >= MIN_CANARY_RATIO * norm:
        unclear.append("the gradients of the examples are too small to show clipping")
    violations += measured["accounted"]
    small = risk / len(measured["p_values"])
    violations += [CHECKS[name] for name, value in measured["p_values"].items() if not value >= small]
    epsilon = epsilon_low = None
    if published is not None:
        epsilon, epsilon_low = published["epsilon"], _epsilon_low(published, high / claimed)
        if epsilon_low > epsilon:
            violations.append(
                f"publishes epsilon {epsilon:.4g}, below the lower bound {epsilon_low:.4g} of the releases"
            )
    return AuditVerdict(low, high, epsilon, epsilon_low, tuple(violations), tuple(unclear))


def _epsilon_low(published: Mapping[str, Any], factor: float) -> float:
    """Return the lower bound of epsilon of the published mechanism with ``factor`` times its noise."""
    return epsilon_floor(
        noise_multiplier=published["noise_multiplier"] * factor,
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
    arm: str, seed: int, measured: Mapping[str, Any], verdict: AuditVerdict, *, confidence: float, family: int
) -> dict[str, Any]:
    """Return the row of audits.csv; ``drawn`` of ``coins`` inclusion trials included an example."""
    known = {
        **measured,
        **asdict(verdict),
        "arm": arm,
        "seed": seed,
        "confidence": confidence,
        "family": family,
        "held": verdict.held,
        "faults": "; ".join(verdict.violations),
        "unclear": "; ".join(verdict.unclear),
    }
    return {column: known[column] for column in COLUMNS}


def noise_interval(estimate: float, degrees: int, risk: float) -> tuple[float, float]:
    """Return the confidence interval of the standard deviation of ``degrees`` normal values, at level ``1 - risk``.

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
