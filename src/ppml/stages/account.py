"""Rule account: epsilon from the mechanisms that were executed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppml.accounting.agreement import by_every_accountant, check_agreement
from ppml.accounting.epsilon import ACCOUNTANTS, NEIGHBOURING, curve
from ppml.accounting.events import MechanismEvent
from ppml.config.technique import ExampleLevel
from ppml.records.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Write privacy.json; ``--spec`` holds the arm's privacy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    private = arguments.spec["privacy"]["kind"] != "none"
    privacy = ExampleLevel.model_validate(arguments.spec["privacy"]) if private else None
    executed = read_json(arguments.events)
    owners = [tuple(MechanismEvent(**event) for event in own) for own in executed["owners"]]
    write_json(arguments.output, statement(privacy, owners, executed["planned_steps"]))


def statement(
    privacy: ExampleLevel | None, owners: Sequence[tuple[MechanismEvent, ...]], planned_steps: Sequence[int]
) -> dict[str, Any]:
    """Return what may be claimed of the privacy of one run.

    Parameters
    ----------
    privacy : ExampleLevel or None
        What was configured; epsilon comes from ``owners`` alone.
    owners : sequence
        What ran on each owner's records.
    planned_steps : sequence of int
        How many steps each owner was to take.

    Returns
    -------
    dict
        ``epsilon`` and ``epsilons``, the largest and each owner's, by ``accountant``: the one configured, or ``rdp``
        where that failed. ``epsilon_prv``, ``epsilon_rdp``, ``epsilon_pld`` and ``epsilon_gdp``: the largest by each
        accountant, None by one that has none. ``curve``: step and epsilon of the owner with the largest, along the
        way.

    Raises
    ------
    ValueError
        A private arm executed no mechanism on any owner's records, so that nothing may be claimed of it; an owner's
        steps are not those planned; or more than the budget was spent.
    AccountantsDisagree
        The accountants contradict each other.
    """
    if privacy is None:
        return {"unit": "none", "noise_by": "none", "epsilon": None}
    _check_steps(privacy, owners, planned_steps)
    # Owners often run the same mechanisms.
    known = {own: by_every_accountant(own, privacy.delta) for own in dict.fromkeys(owners)}
    for found in known.values():
        check_agreement(found, privacy.accountant)
    every = {name: _largest([found[name] for found in known.values()]) for name in ACCOUNTANTS}
    accountant = "rdp" if every[privacy.accountant] is None else privacy.accountant
    spent = [_stated(known[own][accountant]) for own in owners]
    worst = spent.index(max(spent))
    if privacy.budget is not None and spent[worst] > privacy.budget:
        raise ValueError(f"epsilon {spent[worst]} exceeds the budget of {privacy.budget}")
    (first, *others) = owners[worst]
    return {
        "unit": "example",
        "noise_by": privacy.noise_by,
        "noise_source": privacy.noise_source,
        # The owners' records are disjoint: the guarantee of one record is that of its owner, at worst the largest.
        "epsilon": spent[worst],
        "epsilons": spent,
        **{f"epsilon_{name}": value for name, value in every.items()},
        "target_epsilon": privacy.epsilon,
        "budget": privacy.budget,
        "delta": privacy.delta,
        "accountant": accountant,
        "accountant_configured": privacy.accountant,
        "neighbouring": NEIGHBOURING,
        "noise_multiplier": first.noise_multiplier,
        "sample_rate": first.sample_rate,
        "steps": first.steps + sum(event.steps for event in others),
        "steps_planned": planned_steps[worst],
        "max_grad_norm": first.max_grad_norm,
        "curve": _curve(owners[worst], privacy.delta, accountant),
    }


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


def _check_steps(
    privacy: ExampleLevel, owners: Sequence[tuple[MechanismEvent, ...]], planned_steps: Sequence[int]
) -> None:
    """Raise an error unless every owner took the steps that its noise was calibrated to, or fewer under a budget."""
    executed = [sum(event.steps for event in own) for own in owners]
    if not all(executed):
        raise ValueError("a private arm executed no mechanism: no epsilon may be claimed")
    for owner, (took, planned) in enumerate(zip(executed, planned_steps, strict=True)):
        if took > planned or (took < planned and privacy.budget is None):
            raise ValueError(
                f"owner {owner} took {took} steps, planned were {planned}: the noise is not calibrated to that"
            )
