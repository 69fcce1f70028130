"""Stage account: the epsilon of the mechanisms that were executed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from ppml.accounting.cross_check import epsilons_by_accountant, select_epsilon, stated_epsilon
from ppml.accounting.epsilon import ACCOUNTANTS, NEIGHBOURING, epsilon_curve
from ppml.accounting.events import MechanismEvent
from ppml.accounting.joint import dominating_mechanism, weakest_source
from ppml.accounting.replacing import epsilon_replace_one
from ppml.config.technique import ClientLevel, ExampleLevel, Privacy
from ppml.io.atomic import read_json, write_json
from ppml.jobs.job import Job
from ppml.jobs.parallel_map import parallel_map

NOISE_BY = {"local": "owner", "distributed": "shares", "central": "server"}
"""The name in privacy.json, whose format is fixed, of each value of `privacy.noise`."""


def run(job: Job) -> None:
    """Write privacy.json. The specification holds the arm's privacy."""
    parsed = TypeAdapter(Privacy).validate_python(job.spec["privacy"])
    executed = read_json(job.inputs["events"])
    content = privacy_statement(
        parsed if isinstance(parsed, ExampleLevel | ClientLevel) else None,
        [tuple(MechanismEvent(**event) for event in own) for own in executed["owners"]],
        executed["planned_steps"],
        complete=executed.get("complete", True),
        mechanism=executed.get("mechanism"),
        workers=job.threads,
    )
    write_json(job.outputs["privacy"], content)


def privacy_statement(
    privacy: ExampleLevel | ClientLevel | None,
    owners: Sequence[tuple[MechanismEvent, ...]],
    planned_steps: Sequence[int],
    *,
    complete: bool = True,
    mechanism: str | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Return the privacy statement of one run.

    Parameters
    ----------
    privacy : ExampleLevel, ClientLevel or None
        The configured privacy; epsilon comes from ``owners`` alone.
    owners : sequence
        The executed mechanism events of each owner.
    planned_steps : sequence of int
        The planned number of steps of each owner.
    complete : bool
        Whether every owner took part in every round. Clients that are not asked in each round, or drop out, take fewer
        steps than their noise is calibrated to.
    mechanism : str, optional
        The identifier of the mechanism's values: runs with the same identifier and seed release the same outputs.
    workers : int
        The number of processes that share the owners.

    Returns
    -------
    dict
        ``epsilon``, ``epsilons``: the largest epsilon, and that of each owner. ``accountant``: the accountant of the
        largest: the configured one, or ``rdp`` if that has no trustworthy number; for ``tightest``, the smallest.
        ``epsilon_replace_one``: the largest if one example, or client, is replaced by any other. ``epsilon_prv``,
        ``epsilon_rdp``, ``epsilon_pld``, ``epsilon_gdp``: the largest by each accountant, or None. ``curve``: step and
        epsilon of the owner with the largest epsilon. ``epsilon_if_opened``: with distributed noise, the epsilon
        towards parties that decrypt single contributions, for instance the server together with a client that has the
        key; otherwise None. ``noise_source``, ``sampling_source``, ``sampler``: the sources of the executed steps,
        ``secure`` only if all steps were. ``dominating``: a mechanism that spends at least as much as each owner's, for
        the joint epsilon of several runs.

    Raises
    ------
    ValueError
        A private arm executed no mechanism; an owner took more steps than planned, or fewer without a reason; the
        owners spent more than the budget; or a step drew from a seed although secure noise is configured.
    AccountantsDisagree
        Accountants that need no numerical composition contradict each other.
    """
    if privacy is None:
        return {"unit": "none", "noise_by": "none", "epsilon": None}
    budget = getattr(privacy, "budget", None)
    _check_steps(owners, planned_steps, fewer=budget is not None or not complete)
    sources = _sources(privacy, owners)
    # Owners often run the same mechanisms.
    spends = parallel_map(partial(_spends, privacy.delta), filter(None, owners), workers, "epsilon of owners")
    known = {own: found for own, (found, _) in spends.items()}
    chosen = {own: select_epsilon(found, privacy.accountant) for own, found in known.items()}
    every = {name: _largest([found[name] for found in known.values()]) for name in ACCOUNTANTS}
    # An owner that never took part has spent nothing.
    spent = [chosen[own][0] if own else 0.0 for own in owners]
    # Of owners with the same epsilon, the statement describes an owner with steps.
    worst = max(range(len(owners)), key=lambda owner: (spent[owner], bool(owners[owner]), -owner))
    accountant = chosen[owners[worst]][1]
    if budget is not None and spent[worst] > budget:
        raise ValueError(f"epsilon {spent[worst]} exceeds the budget of {budget}")
    (first, *others) = owners[worst]
    return {
        "unit": privacy.kind,
        "noise_by": NOISE_BY[privacy.noise],
        **sources,
        # The owners' records are disjoint: the guarantee of one record is that of its owner, at worst the largest.
        "epsilon": spent[worst],
        "epsilons": spent,
        "epsilon_replace_one": max(replacing for _, replacing in spends.values()),
        **{f"epsilon_{name}": value for name, value in every.items()},
        "epsilon_if_opened": _if_opened(privacy, owners),
        "target_epsilon": privacy.epsilon,
        "budget": budget,
        "delta": privacy.delta,
        "accountant": accountant,
        "accountant_configured": privacy.accountant,
        "neighbouring": NEIGHBOURING,
        "mechanism": mechanism,
        "dominating": [
            {"sample_rate": event.sample_rate, "noise_multiplier": event.noise_multiplier, "steps": event.steps}
            for event in dominating_mechanism(owners)
        ],
        "noise_multiplier": first.noise_multiplier,
        "sample_rate": first.sample_rate,
        "steps": first.steps + sum(event.steps for event in others),
        "steps_planned": planned_steps[worst],
        "max_grad_norm": first.max_grad_norm,
        "curve": _curve(owners[worst], privacy.delta, accountant),
    }


def _spends(delta: float, own: tuple[MechanismEvent, ...]) -> tuple[dict[str, float | None], float]:
    """Return the epsilon of an owner by every accountant, and its replace-one epsilon."""
    return epsilons_by_accountant(own, delta), epsilon_replace_one(own, delta)


def _sources(privacy: ExampleLevel | ClientLevel, owners: Sequence[tuple[MechanismEvent, ...]]) -> dict[str, str]:
    """Return the sources and the sampler of the executed steps; raise an error if they are weaker than configured."""
    ran = [event for own in owners for event in own if event.steps]
    drawn = {
        "noise_source": weakest_source([event.noise_source for event in ran]),
        "sampling_source": weakest_source([event.sampling_source for event in ran]),
    }
    for name, source in drawn.items():
        if privacy.noise_source == "secure" != source:
            raise ValueError(
                f"{name} of the executed steps is {source!r}, configured is 'secure': no epsilon is claimed"
            )
    return {**drawn, "sampler": ", ".join(sorted({event.sampler for event in ran}))}


def _if_opened(privacy: ExampleLevel | ClientLevel, owners: Sequence[tuple[MechanismEvent, ...]]) -> float | None:
    if privacy.noise != "distributed":
        return None
    counted = len(owners) - privacy.max_colluding - privacy.max_dropouts
    share = tuple(replace(event, noise_multiplier=event.noise_multiplier / math.sqrt(counted)) for event in owners[0])
    return stated_epsilon(share, privacy.delta, privacy.accountant)[0]


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest value, None if an owner has none."""
    present = [value for value in values if value is not None]
    return max(present) if len(present) == len(values) else None


def _curve(events: Sequence[MechanismEvent], delta: float, accountant: str) -> list[dict[str, float]]:
    """Return step, passes over the owner's records and epsilon, from the first step to the last."""
    points = epsilon_curve(events, delta, accountant)
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
