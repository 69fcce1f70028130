"""Whether the mechanisms of private arms are audited, and how closely."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ppml.config.spec import Spec

Steps = Annotated[int, Field(ge=64, multiple_of=2)]


class NoAudit(Spec):
    """No arm is audited."""

    kind: Literal["none"] = "none"

    def steps_for(self, arm: str) -> int:
        """Return the steps that the audit of ``arm`` takes: none."""
        return 0


class CanaryAudit(Spec):
    """Every private arm's mechanism is given canaries, and the noise of what it releases is measured."""

    kind: Literal["canary"] = "canary"
    steps: Steps = Field(
        default=200, description="Even; the noise multiplier is measured to about 2.5 / sqrt(steps) of itself."
    )
    steps_of: dict[str, Steps] = Field(default={}, description="Instead of `steps`, by arm: for models that are slow.")
    confidence: float = Field(
        default=0.99, gt=0.5, lt=1, description="That no arm is accused wrongly, all arms and checks together."
    )

    def steps_for(self, arm: str) -> int:
        """Return the steps that the audit of ``arm`` takes."""
        return self.steps_of.get(arm, self.steps)


Audit = Annotated[NoAudit | CanaryAudit, Field(discriminator="kind")]
