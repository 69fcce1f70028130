"""Privacy loss random variables, composed numerically by Opacus."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from ppml.accounting import rdp
from ppml.accounting.errors import AccountantFailed

if TYPE_CHECKING:
    from opacus.accountants.analysis.prv.domain import Domain
    from opacus.accountants.analysis.prv.prvs import DiscretePRV

ERROR = 0.01
"""Half the width of the bracket of epsilon; the result is its upper end."""

MAX_CELLS = 2**24
"""Largest number of losses of a grid; Opacus makes the grid as fine as the bracket requires."""


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return an upper bound of epsilon (arXiv 2106.02848) for each row of ``counts``.

    See `ppml.accounting.epsilon` for the parameters. All rows share the grid of the row with the most steps, which
    bounds the error of the others, too: its construction takes most of the time. Each order of the dominating pair is
    composed separately; the larger epsilon counts. The result is 0 if the upper end of the bracket is negative.

    Raises
    ------
    AccountantFailed
        Opacus finds no epsilon, as happens at a very small delta, or the grid does not fit into memory.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return _epsilons(kinds, counts, delta)
        except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
            raise AccountantFailed(f"prv: {error}") from error


def _epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    from opacus.accountants.analysis.prv import (
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    delta_error = delta / 1000
    domain = _domain(kinds, max(counts, key=sum), delta_error)
    found = [0.0] * len(counts)
    pairs: list[list[Any]] = [[PoissonSubsampledGaussianPRV(rate, noise) for noise, rate in kinds]]
    if any(rate < 1 for _, rate in kinds):
        pairs.append([_AdditionLoss(rate, noise) for noise, rate in kinds])
    for pair in pairs:
        grids = [discretize(TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain) for loss in pair]
        for place, row in enumerate(counts):
            taken = [(grid, count) for grid, count in zip(grids, row, strict=True) if count]
            total = compose_heterogeneous([grid for grid, _ in taken], [count for _, count in taken])
            found[place] = max(found[place], _upper_end(total, delta, delta_error))
    return found


def _domain(kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta_error: float) -> Domain:
    """Return the grid of losses that brackets epsilon to `ERROR` (arXiv 2106.02848, theorem 5.5 and remark 5.6).

    It is the grid of Opacus, but the Renyi divergences of Opacus take minutes for some rates.
    """
    from opacus.accountants.analysis.prv import Domain

    steps = sum(counts)
    ones = [[int(place == other) for other in range(len(kinds))] for place in range(len(kinds))]
    orders, (total, *each) = rdp.rdp_curves(kinds, [counts, *ones])
    reach = rdp.rdp_to_epsilon(orders, total, math.log(delta_error / 4))
    for one in each:
        reach = max(reach, rdp.rdp_to_epsilon(orders, one, math.log(delta_error / (8 * steps))))
    reach = max(reach, ERROR) + 3
    mesh = ERROR / math.sqrt(steps * math.log(12 / delta_error) / 2)
    if not 2 * reach / mesh <= MAX_CELLS:
        raise AccountantFailed(f"prv: the grid would have {2 * reach / mesh:.0f} losses, more than {MAX_CELLS}")
    return Domain.create_aligned(-reach, reach, mesh)


class _AdditionLoss:
    """The privacy loss of adding an example to a sampled step, which Opacus does not compute.

    Without sampling it has the distribution of the loss of removing the example.
    """

    def __init__(self, sample_rate: float, noise_multiplier: float) -> None:
        self.sample_rate = sample_rate
        self.noise_multiplier = noise_multiplier

    def cdf(self, loss: Any) -> Any:
        """Return the probability that ``-log(1 - q + q exp((x - 1/2) / noise^2)) <= loss`` for normal ``x``."""
        rate, noise = self.sample_rate, self.noise_multiplier
        excess = (np.exp(-np.asarray(loss)) - (1 - rate)) / rate
        least = noise**2 * np.log(np.where(excess > 0, excess, 1.0)) + 0.5
        return np.where(excess > 0, ndtr(-least / noise), 1.0)


def _upper_end(total: DiscretePRV, delta: float, delta_error: float) -> float:
    """Return the upper end of the bracket of epsilon, at least 0."""
    # The search of Opacus fails if delta is as large as the total variation.
    if total.compute_delta_estimate(-ERROR) <= delta - delta_error:
        return 0.0
    found = float(total.compute_epsilon(delta, delta_error, ERROR)[2])
    if not math.isfinite(found):
        raise ArithmeticError(f"the numerical composition gave {found}")
    return max(0.0, found)
