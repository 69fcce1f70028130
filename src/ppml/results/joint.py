"""The epsilon of several models of the same records, released together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ppml.accounting.events import MechanismEvent

Account = Callable[[Sequence[Sequence[MechanismEvent]], float], tuple[float, str]]
"""From what each release executed, and delta, to the joint epsilon and the accountant that states it."""

JOINT = ("arms", "unit", "releases", "deltas", "epsilon", "delta", "accountant")
"""Columns of joint.csv: a row a private arm, and a row the private arms of a table, all seeds together."""

SEPARATOR = " "
"""Between the names of arms, which have none in them."""


@dataclass(frozen=True)
class Release:
    """One model that was trained with privacy, and what is stated of it alone.

    Parameters
    ----------
    arm : str
        The arm's name.
    seed : int
        The seed of the run.
    mechanism : str
        Names the mechanism: arms that differ in their aggregation alone release the same models, under one name. Of
        noise from the operating system each run has a name of its own.
    unit : {"example", "client"}
        Unit of privacy.
    epsilon, delta : float
        What is stated of this release.
    accountant : str
        The accountant that states it.
    events : tuple of MechanismEvent
        What dominates the mechanism of every owner.
    """

    arm: str
    seed: int
    mechanism: str
    unit: str
    epsilon: float
    delta: float
    accountant: str
    events: tuple[MechanismEvent, ...]


def release(arm: str, seed: int, privacy: dict[str, Any]) -> Release | None:
    """Return the release that a ``privacy.json`` is of, None without privacy.

    Raises
    ------
    ValueError
        The mechanism has no name, so that nothing tells whether it is released once or twice.
    """
    if privacy["unit"] == "none":
        return None
    if not privacy["mechanism"]:
        raise ValueError(f"arm {arm}, seed {seed}: privacy.json names no mechanism; run the workflow again")
    events = tuple(MechanismEvent(**event, max_grad_norm=privacy["max_grad_norm"]) for event in privacy["dominating"])
    stated = (float(privacy["epsilon"]), float(privacy["delta"]), str(privacy["accountant"]))
    return Release(arm, seed, str(privacy["mechanism"]), str(privacy["unit"]), *stated, events)


def key(arms: Iterable[str]) -> str:
    """Return how a row of joint.csv names its arms, in whatever order they are given.

    Examples
    --------
    >>> key(["fl_dp", "dp", "dp"])
    'dp fl_dp'
    """
    return SEPARATOR.join(sorted(set(arms)))


def joint(releases: Sequence[Release], tables: Sequence[Collection[str]], account: Account) -> list[dict[str, Any]]:
    """Return the rows of joint.csv: a row a private arm, of all its seeds, and a row the private arms of a table.

    Parameters
    ----------
    releases : sequence of Release
        All private models.
    tables : sequence of collections of str
        The names of the arms that are shown together.
    account : callable
        :func:`ppml.accounting.joint.joint_epsilon`.

    Returns
    -------
    list of dict
        ``arms``, ``unit``, ``releases`` (different models), ``deltas`` (how many different ones are stated of the
        single models), ``epsilon``, ``delta`` (the largest of them) and ``accountant``.
    """
    private = list(dict.fromkeys(one.arm for one in releases))
    shown = [{arm} for arm in private] + [set(arms) & set(private) for arms in tables]
    by_key = {key(arms): arms for arms in shown if arms}
    return [
        {"arms": name, **_together([one for one in releases if one.arm in arms], account)}
        for name, arms in by_key.items()
    ]


def _together(releases: Sequence[Release], account: Account) -> dict[str, Any]:
    unit = "client" if all(one.unit == "client" for one in releases) else "example"
    # A second copy of a model tells nothing more. Where several deltas are stated of it, the largest is taken.
    different = {(one.mechanism, one.seed): one for one in sorted(releases, key=lambda one: one.delta)}
    delta = max(one.delta for one in releases)
    (first, *others) = different.values()
    if not others and first.unit == unit:
        epsilon, accountant = first.epsilon, first.accountant
    else:
        epsilon, accountant = account([_for(unit, one) for one in different.values()], delta)
    counts = {"releases": len(different), "deltas": len({one.delta for one in releases})}
    return {"unit": unit, **counts, "epsilon": epsilon, "delta": delta, "accountant": accountant}


def _for(unit: str, one: Release) -> tuple[MechanismEvent, ...]:
    """Return what a release is for one ``unit``.

    A record of a client is not the client: without the record the contribution is another one within the norm, up to
    twice the norm away, and not 0. So for a record the noise counts half, and nothing is claimed for the sampling of
    clients: a drawn client has the same two contributions, and the divergence is jointly convex.
    """
    if one.unit == unit:
        return one.events
    return tuple(replace(event, sample_rate=1.0, noise_multiplier=event.noise_multiplier / 2) for event in one.events)
