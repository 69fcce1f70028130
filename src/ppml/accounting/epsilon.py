"""Epsilon from the mechanism that was executed, at its end and along the way.

Neighbouring data sets differ in one record, which is replaced by a null record that contributes 0; the number of
records is public. On the level of clients, a client is the record.

Why the accountants cover this relation: let ``s`` be the clipped sum of the other sampled records, and ``v``, of norm
at most 1, the contribution of the record, which a step samples with probability q, independently of the others. The
data set with the record releases ``P = (1 - q) N(s, noise^2) + q N(s + v, noise^2)``, the one with the null record
``Q = N(s, noise^2)``. The hockey-stick divergence is jointly convex, so that the average over the samples of the others
spends at most what the worst ``s`` does; it grows with the length of ``v``, and does not change under rotation. Hence
``(1 - q) N(0) + q N(1)`` against ``N(0)``, in one dimension, dominates the step in one order, and the same two in the
other order where the record is in the other data set. These are the pairs of add-or-remove-one (arXiv 2106.08567,
theorem 11), whose compositions every accountant here bounds in both orders. Nothing else of the mechanism depends on
the record: q, the divisor of the sum and the number of steps are functions of the public number of records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ppml.accounting import gdp as gaussian
from ppml.accounting import pld, prv
from ppml.accounting import rdp as renyi
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent, compose

NEIGHBOURING = "zero_out_one"
"""Neighbouring data sets differ in one record, which is replaced by a null record that contributes 0; the number of
records is public. On the level of clients: the contribution of one client is 0; the number of clients is public."""

ACCOUNTANTS: dict[str, Callable[[Sequence[tuple[float, float]], Sequence[Sequence[int]], float], list[float]]] = {
    "prv": prv.epsilons,
    "rdp": renyi.epsilons,
    "pld": pld.epsilons,
    "gdp": gaussian.epsilons,
}
"""Name -> function of kinds ``(noise_multiplier, sample_rate)``, of rows of steps of each kind, and of delta.

``prv`` composes privacy loss random variables numerically (arXiv 2106.02848), ``pld`` privacy loss distributions (arXiv
2207.04380); both state an upper bound within 0.02 or 0.01. ``rdp`` is Renyi differential privacy (arXiv 1702.07476), a
looser bound; ``gdp`` Gaussian differential privacy (arXiv 1905.02383), exact where every step is on all records.
"""

NUMERICAL_LIMIT = 100.0
"""Epsilon, by Renyi accounting, above which nothing is composed numerically: the grid outgrows any memory."""

LEAST_NUMERICAL_DELTA = 1e-11
"""The smallest delta that is read off a numerical composition: its sums carry errors up to about 1e-14."""


def epsilon(events: Sequence[MechanismEvent], delta: float, accountant: str) -> float:
    """Return the epsilon that ``events``, composed, spend at ``delta``.

    Parameters
    ----------
    events : sequence of MechanismEvent
        Everything that ran on one owner's records; records of different owners are disjoint.
    delta : float
        In (0, 1).
    accountant : {"prv", "rdp", "pld", "gdp"}
        A key of `ACCOUNTANTS`.

    Returns
    -------
    float
        At least 0; 0 if nothing ran, infinity if a step had no noise.

    Raises
    ------
    ValueError
        A sampler other than Poisson (no amplification may be claimed for it here), or an unknown accountant.
    AccountantFailed
        This accountant has no number for these events; ``rdp`` always has.
    """
    return epsilons_after(events, [sum(event.steps for event in events)], delta, accountant)[0]


def epsilons_after(
    events: Sequence[MechanismEvent], steps: Sequence[int], delta: float, accountant: str
) -> list[float]:
    """Return the epsilon that the first ``steps[k]`` steps of ``events`` spend, one value for each of ``steps``.

    Parameters and errors are those of :func:`epsilon`.
    """
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant: got {accountant!r}; allowed: {', '.join(ACCOUNTANTS)}")
    kinds, _ = kinds_and_counts(events)
    ran = compose(event for event in events if event.steps)
    counts = {stop: _of_kinds(ran, stop, kinds) for stop in steps}
    spent = {stop: _obvious(kinds, row) for stop, row in counts.items()}
    left = sorted(stop for stop, value in spent.items() if value is None)
    if left:
        noisy = [place for place, (noise, _) in enumerate(kinds) if noise > 0]
        kinds = [kinds[place] for place in noisy]
        rows = [[counts[stop][place] for place in noisy] for stop in left]
        if accountant in ("prv", "pld"):
            _refuse_what_is_not_composed(kinds, rows[-1], delta, accountant)
        found = ACCOUNTANTS[accountant](kinds, rows, delta)
        if not all(value >= 0 for value in found):
            raise AccountantFailed(f"{accountant}: got {min(found):g}, which is no epsilon")
        spent |= dict(zip(left, found, strict=True))
    return [value for stop in steps if (value := spent[stop]) is not None]


def kinds_and_counts(events: Sequence[MechanismEvent]) -> tuple[list[tuple[float, float]], list[int]]:
    """Return the kinds ``(noise_multiplier, sample_rate)`` of steps that ran, and how many of each.

    Events that differ in the clipping norm alone, or in what was drawn from, are of one kind.

    Raises
    ------
    ValueError
        A sampler other than Poisson: no amplification may be claimed for it here.
    """
    other = {event.sampler for event in events} - {"poisson"}
    if other:
        raise ValueError(f"accounting by Poisson sampling claimed for sampler {sorted(other)[0]!r}; allowed: 'poisson'")
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        if event.steps:
            kind = event.noise_multiplier, event.sample_rate
            counts[kind] = counts.get(kind, 0) + event.steps
    return list(counts), list(counts.values())


def curve(events: Sequence[MechanismEvent], delta: float, accountant: str, points: int = 30) -> list[tuple[int, float]]:
    """Return steps and the epsilon spent after them: the first, and ``points`` evenly spaced, or every one.

    The last is the end of the training: its epsilon is that of :func:`epsilon`.
    """
    total = sum(event.steps for event in events)
    stops = sorted({min(1, total), *(round(total * place / points) for place in range(1, points + 1))} - {0})
    return list(zip(stops, epsilons_after(events, stops, delta, accountant), strict=True))


def _of_kinds(events: Sequence[MechanismEvent], stop: int, kinds: Sequence[tuple[float, float]]) -> list[int]:
    """Return how many steps of each kind are among the first ``stop``."""
    counts = dict.fromkeys(kinds, 0)
    left = stop
    for event in events:
        counts[event.noise_multiplier, event.sample_rate] += min(event.steps, left)
        left -= min(event.steps, left)
    return list(counts.values())


def _obvious(kinds: Sequence[tuple[float, float]], counts: Sequence[int]) -> float | None:
    """Return infinity where a step had no noise and 0 where nothing ran; None where an accountant must tell."""
    if any(count for (noise, _), count in zip(kinds, counts, strict=True) if noise == 0):
        return float("inf")
    return None if any(counts) else 0.0


def _refuse_what_is_not_composed(
    kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float, accountant: str
) -> None:
    """Raise AccountantFailed where delta drowns in rounding errors, or the grid of losses outgrows memory."""
    if delta < LEAST_NUMERICAL_DELTA:
        raise AccountantFailed(f"{accountant}: delta {delta:g} is below {LEAST_NUMERICAL_DELTA:g}, within its rounding")
    bound = renyi.rough_epsilon(kinds, counts, delta)
    if bound > NUMERICAL_LIMIT:
        raise AccountantFailed(
            f"{accountant}: epsilon is about {bound:.0f} (RDP): too much to compose, above {NUMERICAL_LIMIT:.0f}"
        )
