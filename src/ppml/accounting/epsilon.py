"""Epsilon of the executed mechanism, at its end and after each step.

Neighbouring data sets differ in one record: a null record, which contributes 0, replaces it. The number of records is
public. In client-level privacy, a client is the record; in example-level privacy, an example is.

The accountants cover this relation for the following reason. Let ``s`` be the clipped sum of the other sampled records.
Let ``v``, of norm at most 1, be the contribution of the record; a step samples it with probability q, independently of
the others. The data set with the record releases ``P = (1 - q) N(s, noise^2) + q N(s + v, noise^2)``, the data set with
the null record ``Q = N(s, noise^2)``. The hockey-stick divergence is jointly convex, so the average over the samples of
the others has at most the divergence of the worst ``s``. It grows with the norm of ``v``, and rotations do not change
it. Hence ``(1 - q) N(0) + q N(1)`` against ``N(0)``, in one dimension, dominates the step in one order, and the same
pair in reverse dominates it in the other order. These are the pairs of add-or-remove-one (arXiv 2106.08567, theorem
11); every accountant of this package bounds their compositions in both orders. Nothing else of the mechanism depends on
the record: q, the divisor of the sum and the number of steps are functions of the public number of records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ppml.accounting import gdp, pld, prv, rdp
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent, compose

NEIGHBOURING = "zero_out_one"
"""Name of the relation: a null record, which contributes 0, replaces one record; the number of records is public.

In client-level privacy, a null client, which contributes 0, replaces one client; the number of clients is public."""

ACCOUNTANTS: dict[str, Callable[[Sequence[tuple[float, float]], Sequence[Sequence[int]], float], list[float]]] = {
    "prv": prv.epsilons,
    "rdp": rdp.epsilons,
    "pld": pld.epsilons,
    "gdp": gdp.epsilons,
}
"""Name -> function of kinds ``(noise_multiplier, sample_rate)``, of rows of steps of each kind, and of delta.

``prv`` composes privacy loss random variables numerically (arXiv 2106.02848), ``pld`` privacy loss distributions (arXiv
2207.04380); both state an upper bound within 0.02 or 0.01. ``rdp`` is Renyi differential privacy (arXiv 1702.07476), a
looser bound; ``gdp`` Gaussian differential privacy (arXiv 1905.02383), exact for full batches.
"""

NUMERICAL_LIMIT = 100.0
"""Largest epsilon, by Renyi accounting, for numerical composition: above it, the grid does not fit into memory."""

MIN_NUMERICAL_DELTA = 1e-11
"""Smallest delta for numerical composition: its sums have errors up to about 1e-14."""


def epsilon(events: Sequence[MechanismEvent], delta: float, accountant: str) -> float:
    """Return the epsilon of the composition of ``events`` at ``delta``.

    Parameters
    ----------
    events : sequence of MechanismEvent
        All executed steps on one owner's examples; the examples of different owners are disjoint.
    delta : float
        In (0, 1).
    accountant : {"prv", "rdp", "pld", "gdp"}
        A key of `ACCOUNTANTS`.

    Returns
    -------
    float
        At least 0; 0 without steps, infinity if a step had no noise.

    Raises
    ------
    ValueError
        A sampler other than Poisson, or an unknown accountant.
    AccountantFailed
        This accountant has no epsilon for these events; ``rdp`` always has one.
    """
    return epsilons_after(events, [sum(event.steps for event in events)], delta, accountant)[0]


def epsilons_after(
    events: Sequence[MechanismEvent], steps: Sequence[int], delta: float, accountant: str
) -> list[float]:
    """Return the epsilon of the first ``steps[k]`` steps of ``events`` for each ``k``.

    Parameters and errors as in :func:`epsilon`.
    """
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant: got {accountant!r}; allowed: {', '.join(ACCOUNTANTS)}")
    kinds, _ = kinds_and_counts(events)
    ran = compose(event for event in events if event.steps)
    counts = {stop: _count_by_kind(ran, stop, kinds) for stop in steps}
    spent = {stop: _trivial_epsilon(kinds, row) for stop, row in counts.items()}
    remaining = sorted(stop for stop, value in spent.items() if value is None)
    if remaining:
        noisy = [place for place, (noise, _) in enumerate(kinds) if noise > 0]
        kinds = [kinds[place] for place in noisy]
        rows = [[counts[stop][place] for place in noisy] for stop in remaining]
        if accountant in ("prv", "pld"):
            _check_composable(kinds, rows[-1], delta, accountant)
        found = ACCOUNTANTS[accountant](kinds, rows, delta)
        if not all(value >= 0 for value in found):
            raise AccountantFailed(f"{accountant}: epsilon {min(found):g} is below 0")
        spent |= dict(zip(remaining, found, strict=True))
    return [value for stop in steps if (value := spent[stop]) is not None]


def kinds_and_counts(events: Sequence[MechanismEvent]) -> tuple[list[tuple[float, float]], list[int]]:
    """Return the kinds ``(noise_multiplier, sample_rate)`` of the executed steps, and the number of steps of each.

    The clipping norm and the sources of randomness do not distinguish kinds.

    Raises
    ------
    ValueError
        A sampler other than Poisson: amplification by sampling holds for Poisson samples only.
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


def epsilon_curve(
    events: Sequence[MechanismEvent], delta: float, accountant: str, points: int = 30
) -> list[tuple[int, float]]:
    """Return pairs of a step and the epsilon after it: the first step, and ``points`` evenly spaced ones.

    The last step is the end of the training, with the epsilon of :func:`epsilon`.
    """
    total = sum(event.steps for event in events)
    stops = sorted({min(1, total), *(round(total * place / points) for place in range(1, points + 1))} - {0})
    return list(zip(stops, epsilons_after(events, stops, delta, accountant), strict=True))


def _count_by_kind(events: Sequence[MechanismEvent], stop: int, kinds: Sequence[tuple[float, float]]) -> list[int]:
    """Return the number of steps of each kind among the first ``stop``."""
    counts = dict.fromkeys(kinds, 0)
    remaining = stop
    for event in events:
        counts[event.noise_multiplier, event.sample_rate] += min(event.steps, remaining)
        remaining -= min(event.steps, remaining)
    return list(counts.values())


def _trivial_epsilon(kinds: Sequence[tuple[float, float]], counts: Sequence[int]) -> float | None:
    """Return infinity if a step has no noise, 0 without steps, else None: an accountant must compute epsilon."""
    if any(count for (noise, _), count in zip(kinds, counts, strict=True) if noise == 0):
        return float("inf")
    return None if any(counts) else 0.0


def _check_composable(
    kinds: Sequence[tuple[float, float]], counts: Sequence[int], delta: float, accountant: str
) -> None:
    """Raise AccountantFailed if delta is within rounding errors, or the grid of losses does not fit into memory."""
    if delta < MIN_NUMERICAL_DELTA:
        raise AccountantFailed(
            f"{accountant}: delta {delta:g} is below {MIN_NUMERICAL_DELTA:g}, within rounding errors"
        )
    bound = rdp.rough_epsilon(kinds, counts, delta)
    if bound > NUMERICAL_LIMIT:
        raise AccountantFailed(
            f"{accountant}: epsilon is about {bound:.0f} (RDP), above the limit {NUMERICAL_LIMIT:.0f} of composition"
        )
