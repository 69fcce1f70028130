"""What several models of the same records spend together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ppml.accounting.cross_check import TIGHTEST, on_all_records, stated
from ppml.accounting.epsilon import epsilon, kinds_and_counts
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.accounting.gdp import mu_of


def dominating(owners: Sequence[Sequence[MechanismEvent]]) -> tuple[MechanismEvent, ...]:
    """Return a mechanism that spends at least what the mechanism of every owner does.

    Its steps have the largest rate and the least noise of all, and it takes as many as the owner with the most: a step
    with more noise, a smaller rate, or no step at all can be had from a dominating one by processing what it releases,
    or by mixing it with what is released without the record.

    Parameters
    ----------
    owners : sequence of sequence of MechanismEvent
        What ran on each owner's records.

    Returns
    -------
    tuple of MechanismEvent
        One event, or none where nothing ran. Its sources are secure only where all are.

    Raises
    ------
    ValueError
        A sampler other than Poisson.
    """
    ran = [event for own in owners for event in own if event.steps]
    if not ran:
        return ()
    kinds_and_counts(ran)
    return (
        MechanismEvent(
            sample_rate=max(event.sample_rate for event in ran),
            noise_multiplier=min(event.noise_multiplier for event in ran),
            steps=max(sum(event.steps for event in own) for own in owners),
            max_grad_norm=max(event.max_grad_norm for event in ran),
            noise_source=weakest([event.noise_source for event in ran]),
            sampling_source=weakest([event.sampling_source for event in ran]),
        ),
    )


def weakest(sources: Sequence[str]) -> str:
    """Return ``"secure"`` where every source is, else ``"seeded"``."""
    return "secure" if all(source == "secure" for source in sources) else "seeded"


def joint_epsilon(releases: Sequence[Sequence[MechanismEvent]], delta: float) -> tuple[float, str]:
    """Return an upper bound of the epsilon of all ``releases`` together, and the accountant that states it.

    The releases are composed: their noise must be independent, and a model that is published twice counts once.

    Parameters
    ----------
    releases : sequence of sequence of MechanismEvent
        What ran for each model on the same records, for instance by :func:`dominating` over their owners.
    delta : float
        Of all together, in (0, 1).

    Returns
    -------
    tuple of float and str
        0 where nothing ran, infinity where a step had no noise; exact (``gdp``) where every step is on all records,
        else the lesser of ``pld`` and ``rdp``.

    Examples
    --------
    >>> model = (MechanismEvent(sample_rate=1.0, noise_multiplier=39.888, steps=40, max_grad_norm=0.1),)
    >>> epsilon, accountant = joint_epsilon([model] * 5, delta=1e-5)
    >>> round(epsilon, 2), accountant
    (1.36, 'gdp')
    """
    events = _few_kinds([event for release in releases for event in release if event.steps])
    if on_all_records(events):
        return stated(events, delta, TIGHTEST)
    # PRV takes most of a minute for models of five kinds, PLD a second: it stands alone here, below RDP.
    by_rdp = epsilon(events, delta, "rdp")
    try:
        by_pld = epsilon(events, delta, "pld")
    except AccountantFailed:
        return by_rdp, "rdp"
    return (by_pld, "pld") if by_pld < by_rdp else (by_rdp, "rdp")


def _few_kinds(events: Sequence[MechanismEvent]) -> list[MechanismEvent]:
    """Return events of as few kinds as possible that spend the same.

    Steps of one rate and noise are one kind. All steps on all records, whatever their noise, spend what one Gaussian
    mechanism spends.
    """
    kinds, counts = kinds_and_counts(events)
    steps = [MechanismEvent(rate, noise, count, 1.0) for (noise, rate), count in zip(kinds, counts, strict=True)]
    sampled = [event for event in steps if event.sample_rate < 1 or event.noise_multiplier == 0]
    full = [event for event in steps if event.sample_rate == 1 and event.noise_multiplier > 0]
    if len(full) > 1:
        mu = mu_of([(event.noise_multiplier, 1.0) for event in full], [event.steps for event in full])
        full = [replace(full[0], noise_multiplier=1 / mu, steps=1)]
    return sampled + full
