"""Whether the mechanisms of private arms are audited, and how closely."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ppml.config.spec import Spec

Steps = Annotated[int, Field(ge=32)]


class NoAudit(Spec):
    """No arm is audited."""

    kind: Literal["none"] = "none"

    def steps_for(self, arm: str) -> int:
        """Return the steps that the audit of ``arm`` takes: none."""
        return 0


class CanaryAudit(Spec):
    """Every private arm is trained on made-up records, and the noise of what that releases is measured."""

    kind: Literal["canary"] = "canary"
    steps: Steps = Field(
        default=64,
        description="Noisy steps, or sums of a federation, at least. Noise is measured along the gradients of 8 to 12 "
        "records a step, until there are about 2,000 measurements.",
    )
    steps_of: dict[str, Steps] = Field(default={}, description="Instead of `steps`, by arm: for models that are slow.")
    confidence: float = Field(
        default=0.99, gt=0.5, lt=1, description="That no arm is accused wrongly, all arms and checks together."
    )

    def steps_for(self, arm: str) -> int:
        """Return the steps that the audit of ``arm`` takes."""
        return self.steps_of.get(arm, self.steps)


Audit = Annotated[NoAudit | CanaryAudit, Field(discriminator="kind")]
