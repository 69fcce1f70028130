"""Privacy loss random variables, composed numerically, by Opacus."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from ppml.accounting.failure import AccountantFailed

ERROR = 0.01
"""Half the width of the interval that epsilon is bracketed with; its upper end is stated."""


def epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    """Return an upper bound of epsilon (arXiv 2106.02848) for each row of ``counts``.

    See `ppml.accounting.epsilon` for the parameters. The grid is that of the row with the most steps, which bounds the
    error of the others, too: most of the time goes into making it.

    Raises
    ------
    AccountantFailed
        Opacus found no number, as happens at a very small delta.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _epsilons(kinds, counts, delta)
        except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
            raise AccountantFailed(f"prv: {error}") from error
    if not all(map(math.isfinite, found)):
        raise AccountantFailed(f"prv: the numerical composition gave {found[-1]}")
    return found


def _epsilons(kinds: Sequence[tuple[float, float]], counts: Sequence[Sequence[int]], delta: float) -> list[float]:
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import (
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    delta_error = delta / 1000
    losses = [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate in kinds]
    domain = PRVAccountant()._get_domain(losses, list(max(counts, key=sum)), ERROR, delta_error)
    grids = [discretize(TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain) for loss in losses]
    found = []
    for row in counts:
        taken = [(grid, count) for grid, count in zip(grids, row, strict=True) if count]
        total = compose_heterogeneous([grid for grid, _ in taken], [count for _, count in taken])
        found.append(float(total.compute_epsilon(delta, delta_error, ERROR)[2]))
    return found
