"""Rule account: epsilon from the mechanisms that were executed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppml.accounting.epsilon import NEIGHBOURING, epsilon
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
    owners = [tuple(MechanismEvent(**event) for event in own) for own in read_json(arguments.events)["owners"]]
    write_json(arguments.output, statement(privacy, owners))


def statement(privacy: ExampleLevel | None, owners: Sequence[tuple[MechanismEvent, ...]]) -> dict[str, Any]:
    """Return what may be claimed of the privacy of one run.

    Parameters
    ----------
    privacy : ExampleLevel or None
        What was configured; epsilon comes from ``owners`` alone.
    owners : sequence
        What ran on each owner's records.

    Raises
    ------
    ValueError
        A private arm executed no mechanism on any owner's records: nothing may be claimed of it.
    """
    if privacy is None:
        return {"unit": "none", "noise_by": "none", "epsilon": None}
    # Owners often run the same mechanisms.
    known = {own: epsilon(own, privacy.delta, privacy.accountant) for own in dict.fromkeys(owners)}
    spent = [known[own] for own in owners]
    worst = spent.index(max(spent))
    if not owners[worst]:
        raise ValueError("a private arm executed no mechanism: no epsilon may be claimed")
    (first, *others) = owners[worst]
    return {
        "unit": "example",
        "noise_by": privacy.noise_by,
        "noise_source": privacy.noise_source,
        # The owners' records are disjoint: the guarantee of one record is that of its owner, at worst the largest.
        "epsilon": max(spent),
        "epsilons": spent,
        "target_epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "accountant": privacy.accountant,
        "neighbouring": NEIGHBOURING,
        "noise_multiplier": first.noise_multiplier,
        "sample_rate": first.sample_rate,
        "steps": first.steps + sum(event.steps for event in others),
        "max_grad_norm": first.max_grad_norm,
    }
