"""An arm: a data set, a model, a technique and how it trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ppml.config.spec import Spec, invalid, unknown_name
from ppml.config.technique import Aggregation, Centralized, Federated, NoPrivacy, Plaintext, Privacy, Topology
from ppml.models.registry import MODELS


class TrainingSpec(Spec):
    """How an owner of records walks through them."""

    epochs: int = Field(default=10, ge=1, description="Passes over the records; when federated, in each round.")
    batch_size: int = Field(default=64, ge=1, description="Records a step; under DP the expected number (Poisson).")
    learning_rate: float = Field(default=0.04, gt=0, description="The peak, at the start of the training.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of SGD; when federated it starts anew each round.")
    decay: Literal["linear", "constant"] = Field(
        default="linear", description="Of the learning rate over the whole training, all rounds together."
    )
    shift: int = Field(default=0, ge=0, le=8, description="Augmentation: largest random shift of a batch, in pixels.")


class Arm(Spec):
    """One row of the comparison."""

    label: str | None = Field(default=None, description="Name in tables and figures; default: the arm's own name.")
    extends: str | None = Field(
        default=None,
        description="An arm to start from: what stands here is laid over it, key by key; a section whose `kind` "
        "changes is replaced whole.",
    )
    dataset: str | None = Field(default=None, description="Instead of `data.dataset`.")
    model: str = Field(default="tanh_cnn", description="A name from ppml.models.registry.")
    topology: Topology = Centralized()
    privacy: Privacy = NoPrivacy()
    aggregation: Aggregation = Plaintext()
    training: TrainingSpec = TrainingSpec()

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if name not in MODELS:
            raise unknown_name("model", name, MODELS)
        return name

    @model_validator(mode="after")
    def _sensible(self) -> Arm:
        if not isinstance(self.topology, Federated) and not isinstance(self.aggregation, Plaintext):
            raise invalid(
                f"aggregation {self.aggregation.kind!r} with topology {self.topology.kind!r}: nothing is aggregated "
                "there; use topology federated, or leave aggregation out"
            )
        if getattr(self.privacy, "budget", None) is not None and not isinstance(self.topology, Centralized):
            raise invalid(
                f"privacy.budget with topology {self.topology.kind!r}: clients whose budgets end at different steps "
                "would train different numbers of rounds; allowed with topology centralized; elsewhere give "
                "privacy.epsilon, which calibrates each client's noise to all its rounds"
            )
        return self

    @property
    def partition(self) -> str | None:
        """Name of the partition that the arm trains on, None when one owner holds everything."""
        return getattr(self.topology, "partition", None)

    def technique(self) -> dict[str, Any]:
        """Return what identifies the arm's training besides data and seeds, as plain values."""
        return self.model_dump(mode="json", exclude={"label", "extends", "dataset"})
