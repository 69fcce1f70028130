"""Rule audit: what the mechanism of a private arm releases of a canary, measured step by step."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppml.config.features import Scattering
from ppml.config.technique import ExampleLevel
from ppml.records.canonical import digest
from ppml.records.files import read_json, write_json


def main(argv: Sequence[str] | None = None) -> None:
    """Write audit.json: measured values only, which the rule collect judges together with those of all other arms.

    ``--spec`` holds technique (all that identifies it besides how it trains), clients, steps, root_seed and device.
    Owners differ in nothing but their noise: the first is audited; where their sum has the noise, the sum is.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--about", type=Path, required=True)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)

    from ppml.aggregation.fixed_point import FixedPointCodec
    from ppml.attacks.canary import OnRelease, audit, craft_canary
    from ppml.federation.shares_learner import SharesLearner
    from ppml.learning.dpsgd import DpSgdLearner
    from ppml.learning.learner import LocalLearner, Settings
    from ppml.learning.repeatable import repeat_to_the_bit
    from ppml.models.registry import build_model
    from ppml.randomness import Randomness

    repeat_to_the_bit()
    spec = arguments.spec
    privacy = ExampleLevel.model_validate(spec["technique"]["privacy"])

    codec = FixedPointCodec(*(spec["technique"]["aggregation"][key] for key in ("clip", "fractional_bits")))

    def build(settings: Settings, noise_multiplier: float, on_release: OnRelease) -> LocalLearner:
        common: dict[str, Any] = {
            "noise_multiplier": noise_multiplier,
            "max_grad_norm": privacy.max_grad_norm,
            "noise_source": privacy.noise_source,
            "on_release": on_release,
        }
        if privacy.noise_by == "owner":
            return DpSgdLearner(settings, **common)
        return SharesLearner(
            settings,
            clients=spec["clients"],
            colluders=privacy.colluders,
            dropouts=privacy.dropouts,
            codec=codec,
            **common,
        )

    # By what the technique is, so that arms draw apart and a name changes nothing.
    rng = Randomness(spec["root_seed"]).child("seed", arguments.seed, "audit", digest(spec["technique"]))
    classes = read_json(arguments.about)["classes"]
    shape = record_shape(spec["technique"].get("features"))
    weights = rng.child("initial-weights").torch()
    model = build_model(spec["technique"]["model"], classes, weights, shape[-1]).to(spec["device"])
    canary = craft_canary(model, shape, privacy.max_grad_norm, rng, spec["device"])
    measured = audit(
        build,
        model,
        canary,
        noise_multiplier=read_json(arguments.noise)["noise_multipliers"][0],
        max_grad_norm=privacy.max_grad_norm,
        steps=spec["steps"],
        rng=rng,
        step_of_grid=codec.step if privacy.noise_by == "shares" else 0.0,
    )
    write_json(arguments.output, measured.to_json())


def record_shape(features: dict[str, Any] | None) -> tuple[int, ...]:
    """Return the shape of what a model is trained on: an image, or copies of features with the constant one."""
    if features is None:
        return 1, 28, 28
    settings = Scattering.model_validate(features)
    return settings.copies, settings.components + 1
