"""The joint epsilon of several models of the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ppml.accounting.cross_check import TIGHTEST, is_full_batch, stated_epsilon
from ppml.accounting.epsilon import epsilon, kinds_and_counts
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.accounting.gdp import mu_of


def dominating_mechanism(owners: Sequence[Sequence[MechanismEvent]]) -> tuple[MechanismEvent, ...]:
    """Return a mechanism with at least the epsilon of every owner's mechanism.

    Its steps have the largest rate and the least noise of all, and their number is that of the owner with the most. A
    step with more noise, a smaller rate, or no step at all follows from a dominating step by processing its release, or
    by mixing it with the release without the example.

    Parameters
    ----------
    owners : sequence of sequence of MechanismEvent
        The events of each owner.

    Returns
    -------
    tuple of MechanismEvent
        One event, or none without steps. Its sources are secure only if all sources are.

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
            noise_source=weakest_source([event.noise_source for event in ran]),
            sampling_source=weakest_source([event.sampling_source for event in ran]),
        ),
    )


def weakest_source(sources: Sequence[str]) -> str:
    """Return ``"secure"`` if every source is secure, else ``"seeded"``."""
    return "secure" if all(source == "secure" for source in sources) else "seeded"


def joint_epsilon(releases: Sequence[Sequence[MechanismEvent]], delta: float) -> tuple[float, str]:
    """Return an upper bound of the joint epsilon of all ``releases``, and the name of its accountant.

    The function composes the releases: their noise must be independent. A model that is published twice counts once.

    Parameters
    ----------
    releases : sequence of sequence of MechanismEvent
        The events of each model of the same examples, for example of :func:`dominating_mechanism` over the owners.
    delta : float
        Delta of the joint guarantee, in (0, 1).

    Returns
    -------
    tuple of float and str
        0 without steps, infinity if a step had no noise; exact (``gdp``) for full batches, else the lesser of ``pld``
        and ``rdp``.

    Examples
    --------
    >>> model = (MechanismEvent(sample_rate=1.0, noise_multiplier=39.888, steps=40, max_grad_norm=0.1),)
    >>> epsilon, accountant = joint_epsilon([model] * 5, delta=1e-5)
    >>> round(epsilon, 2), accountant
    (1.36, 'gdp')
    """
    events = _few_kinds([event for release in releases for event in release if event.steps])
    if is_full_batch(events):
        return stated_epsilon(events, delta, TIGHTEST)
    # PRV takes most of a minute for models of five kinds, PLD a second: so only PLD and RDP are compared.
    by_rdp = epsilon(events, delta, "rdp")
    try:
        by_pld = epsilon(events, delta, "pld")
    except AccountantFailed:
        return by_rdp, "rdp"
    return (by_pld, "pld") if by_pld < by_rdp else (by_rdp, "rdp")


def _few_kinds(events: Sequence[MechanismEvent]) -> list[MechanismEvent]:
    """Return events of as few kinds as possible with the same epsilon.

    Steps of equal rate and noise are one kind. All steps on all examples together equal one Gaussian mechanism.
    """
    kinds, counts = kinds_and_counts(events)
    steps = [MechanismEvent(rate, noise, count, 1.0) for (noise, rate), count in zip(kinds, counts, strict=True)]
    sampled = [event for event in steps if event.sample_rate < 1 or event.noise_multiplier == 0]
    full = [event for event in steps if event.sample_rate == 1 and event.noise_multiplier > 0]
    if len(full) > 1:
        mu = mu_of([(event.noise_multiplier, 1.0) for event in full], [event.steps for event in full])
        full = [replace(full[0], noise_multiplier=1 / mu, steps=1)]
    return sampled + full
