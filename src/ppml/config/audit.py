"""The audit of the mechanisms of private arms."""

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
    """The audit trains every private arm on random examples, and measures the noise of the releases.

    After transforms, the inputs are those of the data with random labels.
    """

    kind: Literal["canary"] = "canary"
    steps: Steps = Field(
        default=64,
        description="Minimum of noisy steps, or sums of a federation. Noise is measured along the gradients of 8 to "
        "12 examples per step, until there are about 2,000 measurements.",
    )
    steps_by_arm: dict[str, Steps] = Field(
        default={}, description="Steps of single arms, instead of `steps`: for slow models."
    )
    confidence: float = Field(
        default=0.99, gt=0.5, lt=1, description="Probability that no correct arm fails, over all arms and checks."
    )

    def steps_for(self, arm: str) -> int:
        """Return the steps that the audit of ``arm`` takes."""
        return self.steps_by_arm.get(arm, self.steps)


Audit = Annotated[NoAudit | CanaryAudit, Field(discriminator="kind")]
