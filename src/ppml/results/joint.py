"""The joint epsilon of several released models of the same examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ppml.accounting.events import MechanismEvent

Account = Callable[[Sequence[Sequence[MechanismEvent]], float], tuple[float, str]]
"""Function of the events of each release and of delta, which returns the joint epsilon and its accountant."""

JOINT_COLUMNS = ("arms", "unit", "releases", "deltas", "epsilon", "delta", "accountant")
"""Columns of joint.csv: one row per private arm, and one row per table for its private arms, over all seeds."""

SEPARATOR = " "
"""Separator of the names of arms, which contain no spaces."""


@dataclass(frozen=True)
class Release:
    """One private model, and its stated privacy.

    Parameters
    ----------
    arm : str
        The arm's name.
    seed : int
        The seed of the run.
    mechanism : str
        Name of the mechanism: arms that differ in their aggregation only release the same models, under one name. With
        noise from the operating system, each run has a unique name.
    unit : {"example", "client"}
        Unit of privacy.
    epsilon, delta : float
        The stated privacy of this release.
    accountant : str
        The accountant of the stated epsilon.
    events : tuple of MechanismEvent
        A mechanism that dominates the mechanism of every owner.
    """

    arm: str
    seed: int
    mechanism: str
    unit: str
    epsilon: float
    delta: float
    accountant: str
    events: tuple[MechanismEvent, ...]


def parse_release(arm: str, seed: int, privacy: dict[str, Any]) -> Release | None:
    """Return the release of a ``privacy.json``, None without privacy.

    Raises
    ------
    ValueError
        The mechanism has no name, so the number of different releases is unknown.
    """
    if privacy["unit"] == "none":
        return None
    if not privacy["mechanism"]:
        raise ValueError(f"arm {arm}, seed {seed}: privacy.json names no mechanism; run the workflow again")
    events = tuple(MechanismEvent(**event, max_grad_norm=privacy["max_grad_norm"]) for event in privacy["dominating"])
    stated = (float(privacy["epsilon"]), float(privacy["delta"]), str(privacy["accountant"]))
    return Release(arm, seed, str(privacy["mechanism"]), str(privacy["unit"]), *stated, events)


def joint_key(arms: Iterable[str]) -> str:
    """Return the name of a set of arms in joint.csv, independent of their order.

    Examples
    --------
    >>> joint_key(["fl_dp", "dp", "dp"])
    'dp fl_dp'
    """
    return SEPARATOR.join(sorted(set(arms)))


def joint_rows(
    releases: Sequence[Release], tables: Sequence[Collection[str]], account: Account
) -> list[dict[str, Any]]:
    """Return the rows of joint.csv: one per private arm, and one per table for its private arms, over all seeds.

    Parameters
    ----------
    releases : sequence of Release
        The releases of all private models.
    tables : sequence of collections of str
        The names of the arms of each table.
    account : callable
        :func:`ppml.accounting.joint.joint_epsilon`.

    Returns
    -------
    list of dict
        ``arms``, ``unit``, ``releases`` (number of different models), ``deltas`` (number of different deltas of the
        models), ``epsilon``, ``delta`` (the largest of them) and ``accountant``.
    """
    private = list(dict.fromkeys(one.arm for one in releases))
    shown = [{arm} for arm in private] + [set(arms) & set(private) for arms in tables]
    by_key = {joint_key(arms): arms for arms in shown if arms}
    return [
        {"arms": name, **_joint_statement([one for one in releases if one.arm in arms], account)}
        for name, arms in by_key.items()
    ]


def _joint_statement(releases: Sequence[Release], account: Account) -> dict[str, Any]:
    unit = "client" if all(one.unit == "client" for one in releases) else "example"
    # A second release of the same model reveals nothing more. Of its deltas, the largest counts.
    different = {(one.mechanism, one.seed): one for one in sorted(releases, key=lambda one: one.delta)}
    delta = max(one.delta for one in releases)
    (first, *others) = different.values()
    if not others and first.unit == unit:
        epsilon, accountant = first.epsilon, first.accountant
    else:
        epsilon, accountant = account([_events_for_unit(unit, one) for one in different.values()], delta)
    counts = {"releases": len(different), "deltas": len({one.delta for one in releases})}
    return {"unit": unit, **counts, "epsilon": epsilon, "delta": delta, "accountant": accountant}


def _events_for_unit(unit: str, one: Release) -> tuple[MechanismEvent, ...]:
    """Return the events of a release for the privacy of one ``unit``.

    An example of a client is not the client: without the example, the client's contribution is not 0 but another vector
    within the norm, up to twice the norm away. So for an example the noise multiplier is half, without amplification by
    the sampling of clients: a sampled client has the same two contributions, and the divergence is jointly convex.
    """
    if one.unit == unit:
        return one.events
    return tuple(replace(event, sample_rate=1.0, noise_multiplier=event.noise_multiplier / 2) for event in one.events)
