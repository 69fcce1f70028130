"""Independent references of epsilon: closed forms, and privacy losses composed by FFT."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special, stats


def exact_epsilon_of_gaussians(noise_multiplier: float, steps: int, delta: float) -> float:
    """Return the exact epsilon of ``steps`` Gaussian mechanisms without sampling (Balle & Wang 2018, theorem 8)."""
    mu = math.sqrt(steps) / noise_multiplier

    def excess(epsilon: float) -> float:
        spent = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
        return float(spent - delta)

    return float(optimize.brentq(excess, 0.0, 100.0))


def renyi_epsilon_of_gaussians(noise_multiplier: float, steps: int, delta: float) -> float:
    """Return epsilon by Renyi divergences ``steps * a / (2 sigma^2)`` of order a, converted by arXiv 2004.00010."""
    orders = np.concatenate([np.arange(1.01, 11.0, 0.01), np.arange(11.0, 200.0, 0.1)])
    spent = steps * orders / (2 * noise_multiplier**2)
    return float((spent + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)).min())


def epsilon_bracket(rate: float, noise_multiplier: float, steps: int, delta: float) -> tuple[float, float]:
    """Return a lower and an upper bound on epsilon of the Poisson-subsampled Gaussian mechanism.

    The function rounds the privacy loss of one step to a grid, down for one bound and up for the other, and composes it
    by convolution. The result is the larger of the two directions, a record added or removed.
    """
    lower, upper = zip(
        *(_bracket(loss, rate, noise_multiplier, steps, delta) for loss in (_removed, _added)), strict=True
    )
    return max(lower), max(upper)


STEP, RANGE = 2e-4, 12.0


def _bracket(loss_cdf: Callable, rate: float, noise: float, steps: int, delta: float) -> tuple[float, float]:
    edges = np.arange(-RANGE, RANGE + STEP / 2, STEP)
    mass = np.diff(loss_cdf(edges, rate, noise))
    below, above = loss_cdf(edges[:1], rate, noise)[0], 1.0 - loss_cdf(edges[-1:], rate, noise)[0]
    bounds = []
    for up in (False, True):
        grid = edges[1:] if up else edges[:-1]
        # Losses below the grid move onto it for an upper bound, and are lost for a lower bound.
        one = mass.copy()
        one[0] += below if up else 0.0
        total, first = _compose(one, grid[0], steps)
        infinite = steps * above if up else 0.0
        bounds.append(_epsilon(total, first, infinite, delta))
    return bounds[0], bounds[1]


def _compose(mass: np.ndarray, first: float, times: int) -> tuple[np.ndarray, float]:
    """Return the distribution of a sum of ``times`` losses, and the start of its grid."""
    length = len(mass) * 2
    centre = len(mass) // 2
    # The sum stays within the range of one loss around zero, so a circular convolution of this length suffices.
    padded = np.zeros(length)
    padded[np.arange(len(mass)) - centre] = mass
    total = np.fft.irfft(np.fft.rfft(padded) ** times, length)
    total = np.clip(np.roll(total, length // 2), 0.0, None)
    return total, times * (first + centre * STEP) - (length // 2) * STEP


def _epsilon(mass: np.ndarray, first: float, infinite: float, delta: float) -> float:
    losses = first + STEP * np.arange(len(mass))

    def excess(epsilon: float) -> float:
        tail = losses > epsilon
        return float((mass[tail] * -np.expm1(epsilon - losses[tail])).sum() + infinite - delta)

    return float(optimize.brentq(excess, 0.0, losses[-1], xtol=1e-6))


def _removed(loss: np.ndarray, rate: float, noise: float) -> np.ndarray:
    """Return the probability that log(P/Q) is at most ``loss`` under P, the mixture with the record."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = noise**2 * np.log((np.exp(loss) - (1 - rate)) / rate) + 0.5
    place = np.where(np.exp(loss) <= 1 - rate, -np.inf, place)
    return (1 - rate) * stats.norm.cdf(place / noise) + rate * stats.norm.cdf((place - 1) / noise)


def _added(loss: np.ndarray, rate: float, noise: float) -> np.ndarray:
    """Return the probability that log(Q/P) is at most ``loss`` under Q, without the record."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = noise**2 * np.log((np.exp(-loss) - (1 - rate)) / rate) + 0.5
    place = np.where(np.exp(-loss) <= 1 - rate, -np.inf, place)
    return stats.norm.sf(place / noise)


# The following functions round each loss to the nearest point of a grid: no bounds, but exact to 1e-4.

FINE_STEP, FINE_RANGE = 1e-4, 32.0


def zeroed_epsilons(rate: float, noise: float, steps: Sequence[int], delta: float) -> list[float]:
    """Return epsilon after each number of ``steps``: a null record replaces a record of sample rate ``rate``."""
    with_record, without = _mixture(rate, 1.0, noise), _mixture(rate, 0.0, noise)
    removed, added = (
        _composed(one, other, noise, steps, delta) for one, other in ((with_record, without), (without, with_record))
    )
    return [max(both) for both in zip(removed, added, strict=True)]


def replaced_epsilons(rate: float, noise: float, steps: Sequence[int], delta: float) -> list[float]:
    """Return epsilon after each number of ``steps``: a record of opposite contribution replaces one."""
    return _composed(_mixture(rate, 1.0, noise), _mixture(rate, -1.0, noise), noise, steps, delta)


def _mixture(rate: float, shift: float, noise: float) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the distribution function and the log density of a mixture of two normal variables."""

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shifted = (x - shift) / noise
        mass = (1 - rate) * special.ndtr(x / noise) + rate * special.ndtr(shifted)
        with np.errstate(divide="ignore"):
            density = np.logaddexp(np.log(1 - rate) - (x / noise) ** 2 / 2, np.log(rate) - shifted**2 / 2)
        return mass, density

    return at


def _composed(one: Callable, other: Callable, noise: float, steps: Sequence[int], delta: float) -> list[float]:
    x = np.linspace(-12 * noise - 2, 12 * noise + 2, 400_001)
    (mass, _), middle = one(x), (x[1:] + x[:-1]) / 2
    losses = one(middle)[1] - other(middle)[1]
    length = round(2 * FINE_RANGE / FINE_STEP)
    places = np.rint(losses / FINE_STEP).astype(int)
    assert abs(places).max() < length // 2
    spectrum = np.fft.rfft(np.bincount(places % length, weights=np.diff(mass), minlength=length))
    grid = FINE_STEP * np.arange(-length // 2, length // 2)
    shrink = np.exp(-grid)
    found = []
    for times in steps:
        total = np.fft.fftshift(np.fft.irfft(spectrum**times, length)).clip(0.0)
        # delta(e) = sum over the losses above e of mass (1 - exp(e - loss)).
        above, weighed = (np.cumsum(values[::-1])[::-1] for values in (total, total * shrink))
        at_grid = above - np.exp(grid) * weighed
        first = int(np.argmax(at_grid <= delta))
        found.append(max(0.0, math.log((above[first] - delta) / weighed[first])))
    return found
