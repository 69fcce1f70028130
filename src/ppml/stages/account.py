"""Rule account: epsilon from the mechanisms that were executed."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ppml.accounting.agreement import by_every_accountant, check_agreement, with_fallback
from ppml.accounting.epsilon import ACCOUNTANTS, NEIGHBOURING, curve
from ppml.accounting.events import MechanismEvent
from ppml.config.technique import ClientLevel, ExampleLevel, Privacy
from ppml.records.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Write privacy.json; ``--spec`` holds the arm's privacy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    given = TypeAdapter(Privacy).validate_python(arguments.spec["privacy"])
    privacy = given if isinstance(given, ExampleLevel | ClientLevel) else None
    executed = read_json(arguments.events)
    owners = [tuple(MechanismEvent(**event) for event in own) for own in executed["owners"]]
    content = statement(privacy, owners, executed["planned_steps"], complete=executed.get("complete", True))
    write_json(arguments.output, content)


def statement(
    privacy: ExampleLevel | ClientLevel | None,
    owners: Sequence[tuple[MechanismEvent, ...]],
    planned_steps: Sequence[int],
    *,
    complete: bool = True,
) -> dict[str, Any]:
    """Return what may be claimed of the privacy of one run.

    Parameters
    ----------
    privacy : ExampleLevel, ClientLevel or None
        What was configured; epsilon comes from ``owners`` alone.
    owners : sequence
        What ran on each owner's records.
    planned_steps : sequence of int
        How many steps each owner was to take.
    complete : bool
        Whether every owner took part in all of it: where clients are not asked in every round, or fail, they take fewer
        steps than their noise is calibrated to.

    Returns
    -------
    dict
        ``epsilon`` and ``epsilons``, the largest and each owner's, by ``accountant``: the one configured, or ``rdp``
        where that failed. ``epsilon_prv``, ``epsilon_rdp``, ``epsilon_pld`` and ``epsilon_gdp``: the largest by each
        accountant, None by one that has none. ``curve``: step and epsilon of the owner with the largest, along the
        way. ``epsilon_if_opened``: what holds of a record, or a client, towards who opens single contributions, where
        each has a share of the noise: the server together with a client that has the key. None where the noise is
        whole.

    Raises
    ------
    ValueError
        A private arm executed no mechanism on any owner's records, so that nothing may be claimed of it; an owner took
        more steps than planned, or fewer where nothing allows that; or more than the budget was spent.
    AccountantsDisagree
        The accountants contradict each other.
    """
    if privacy is None:
        return {"unit": "none", "noise_by": "none", "epsilon": None}
    budget = getattr(privacy, "budget", None)
    _check_steps(owners, planned_steps, fewer=budget is not None or not complete)
    # Owners often run the same mechanisms.
    known = {own: by_every_accountant(own, privacy.delta) for own in dict.fromkeys(owners) if own}
    for found in known.values():
        check_agreement(found, privacy.accountant)
    every = {name: _largest([found[name] for found in known.values()]) for name in ACCOUNTANTS}
    accountant = "rdp" if every[privacy.accountant] is None else privacy.accountant
    # An owner who never took part has spent nothing.
    spent = [_stated(known[own][accountant]) if own else 0.0 for own in owners]
    worst = spent.index(max(spent))
    if budget is not None and spent[worst] > budget:
        raise ValueError(f"epsilon {spent[worst]} exceeds the budget of {budget}")
    (first, *others) = owners[worst]
    return {
        "unit": privacy.kind,
        "noise_by": privacy.noise_by,
        "noise_source": privacy.noise_source,
        # The owners' records are disjoint: the guarantee of one record is that of its owner, at worst the largest.
        "epsilon": spent[worst],
        "epsilons": spent,
        **{f"epsilon_{name}": value for name, value in every.items()},
        "epsilon_if_opened": _if_opened(privacy, owners, accountant),
        "target_epsilon": privacy.epsilon,
        "budget": budget,
        "delta": privacy.delta,
        "accountant": accountant,
        "accountant_configured": privacy.accountant,
        "neighbouring": _neighbouring(privacy),
        "noise_multiplier": first.noise_multiplier,
        "sample_rate": first.sample_rate,
        "steps": first.steps + sum(event.steps for event in others),
        "steps_planned": planned_steps[worst],
        "max_grad_norm": first.max_grad_norm,
        "curve": _curve(owners[worst], privacy.delta, accountant),
    }


def _if_opened(
    privacy: ExampleLevel | ClientLevel, owners: Sequence[tuple[MechanismEvent, ...]], accountant: str
) -> float | None:
    if privacy.noise_by != "shares":
        return None
    counted = len(owners) - privacy.colluders - privacy.dropouts
    share = tuple(replace(event, noise_multiplier=event.noise_multiplier / math.sqrt(counted)) for event in owners[0])
    return with_fallback(share, privacy.delta, accountant)[0]


def _neighbouring(privacy: ExampleLevel | ClientLevel) -> str:
    """Return what is protected: whether one is there, or, where who takes part is public, what it contributes."""
    if isinstance(privacy, ClientLevel) and privacy.noise_by == "shares":
        return "zero_out_one"
    return NEIGHBOURING


def _stated(value: float | None) -> float:
    """Return an epsilon that must be there: 0 in its place would be a guarantee that nobody gives."""
    if value is None:
        raise ValueError("an owner has no epsilon by the accountant that is stated")
    return value


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest value, None if an owner has none."""
    present = [value for value in values if value is not None]
    return max(present) if len(present) == len(values) else None


def _curve(events: Sequence[MechanismEvent], delta: float, accountant: str) -> list[dict[str, float]]:
    """Return step, passes over the owner's records and epsilon, from the first step to the last."""
    points = curve(events, delta, accountant)
    return [{"step": step, "epoch": _epochs(events, step), "epsilon": epsilon} for step, epsilon in points]


def _epochs(events: Sequence[MechanismEvent], step: int) -> float:
    passed, left = 0.0, step
    for event in events:
        passed += event.sample_rate * min(event.steps, left)
        left -= min(event.steps, left)
    return round(passed, 9)


def _check_steps(owners: Sequence[tuple[MechanismEvent, ...]], planned_steps: Sequence[int], *, fewer: bool) -> None:
    """Raise an error unless every owner took the steps that its noise was calibrated to, or, if allowed, fewer."""
    executed = [sum(event.steps for event in own) for own in owners]
    if not any(executed) or not (fewer or all(executed)):
        raise ValueError("a private arm executed no mechanism: no epsilon may be claimed")
    for owner, (took, planned) in enumerate(zip(executed, planned_steps, strict=True)):
        if took > planned or (took < planned and not fewer):
            raise ValueError(
                f"owner {owner} took {took} steps, planned were {planned}: the noise is not calibrated to that"
            )
