"""An arm: a data set, a model, a technique and how it trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from ppml.config.features import Features, NoFeatures
from ppml.config.spec import Spec, invalid, unknown_name
from ppml.config.technique import Aggregation, Centralized, Federated, NoPrivacy, Plaintext, Privacy, Topology
from ppml.models.registry import MODELS, ON_FEATURES


class TrainingSpec(Spec):
    """How an owner of records walks through them."""

    epochs: int = Field(default=10, ge=1, description="Passes over the records; when federated, in each round.")
    batch_size: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=64, description="Records a step; under DP the expected number (Poisson). `all`: one step an epoch."
    )
    learning_rate: float = Field(default=0.04, gt=0, description="The peak, at the start of the training.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of SGD; when federated it starts anew each round.")
    decay: Literal["linear", "constant"] = Field(
        default="linear", description="Of the learning rate over the whole training, all rounds together."
    )
    shift: int = Field(default=0, ge=0, le=8, description="Augmentation: largest random shift of a batch, in pixels.")

    @field_validator("batch_size", mode="wrap")
    @classmethod
    def _number_or_all(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:
            raise invalid(f"got {value!r}; expected an integer of at least 1, or 'all'") from None


class Arm(Spec):
    """One row of the comparison."""

    label: str | None = Field(default=None, description="Name in tables and figures; default: the arm's own name.")
    extends: str | None = Field(
        default=None,
        description="An arm to start from: what stands here is laid over it, key by key; a section whose `kind` "
        "changes is replaced whole.",
    )
    dataset: str | None = Field(default=None, description="Instead of `data.dataset`.")
    features: Features = NoFeatures()
    model: str = Field(default="tanh_cnn", description="A name from ppml.models.registry.")
    seeds: Annotated[tuple[int, ...], Field(strict=False)] | None = Field(
        default=None,
        min_length=1,
        description="Instead of the `seeds` of all arms: more where a run is cheap, fewer where it is not.",
    )
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
        if isinstance(self.features, NoFeatures) and self.model in ON_FEATURES:
            raise invalid(
                f"model {self.model!r} with features 'none': it is trained on features, not on images; use features "
                "scattering, or another model"
            )
        if not isinstance(self.features, NoFeatures) and self.model not in ON_FEATURES:
            raise invalid(
                f"features {self.features.kind!r} with model {self.model!r}: it is trained on images; allowed: "
                f"{', '.join(sorted(ON_FEATURES))}; or leave features out"
            )
        if not isinstance(self.features, NoFeatures) and self.training.shift:
            raise invalid(
                f"training.shift {self.training.shift} with features {self.features.kind!r}: features cannot be "
                "shifted; use features.copies, or leave shift out"
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
        # An arm without features is what it was before there were any.
        absent = {"features"} if isinstance(self.features, NoFeatures) else set()
        return self.model_dump(mode="json", exclude={"label", "extends", "dataset", "seeds", *absent})
