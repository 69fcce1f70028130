"""An arm: a data set, a model, a technique and how it trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ppml.config.features import Features, NoFeatures
from ppml.config.inference import Inference, NoInference
from ppml.config.spec import NumberOrAll, Seed, Spec, invalid, unknown_name
from ppml.config.technique import (
    Aggregation,
    Centralized,
    ClientLevel,
    Federated,
    LocalOnly,
    Masking,
    NoCorrection,
    NoPrivacy,
    Plaintext,
    Privacy,
    Scaffold,
    Topology,
)
from ppml.models.registry import MODELS, ON_FEATURES, POLYNOMIAL, WITH_STATISTICS


class DeformationSpec(Spec):
    """How far each image is deformed at random; without any, images stay as they are."""

    rotation: float = Field(default=0.0, ge=0, le=180, description="At most, in degrees.")
    shear: float = Field(default=0.0, ge=0, lt=1, description="At most, relative to its height.")
    scale: float = Field(default=0.0, ge=0, lt=1, description="Change of width and height, at most, relative.")
    shift: float = Field(default=0.0, ge=0, le=28, description="At most, in pixels.")


class TrainingSpec(Spec):
    """How an owner of records walks through them."""

    epochs: int = Field(default=10, ge=1, description="Passes over the records; when federated, in each round.")
    batch_size: NumberOrAll = Field(
        default=64, description="Records a step; under DP the expected number (Poisson). `all`: one step an epoch."
    )
    learning_rate: float = Field(default=0.04, gt=0, description="The peak, at the start of the training.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of SGD; when federated it starts anew each round.")
    decay: Literal["linear", "constant"] = Field(
        default="linear", description="Of the learning rate over the whole training, all rounds together."
    )
    shift: int = Field(default=0, ge=0, le=8, description="Augmentation: largest random shift of a batch, in pixels.")
    deformation: DeformationSpec = DeformationSpec()


class Schedule(Spec):
    """The part of an arm that says how often its mechanism runs, and on whose records: what calibration depends on."""

    topology: Topology = Centralized()
    privacy: Privacy = NoPrivacy()
    training: TrainingSpec = TrainingSpec()


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
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] | None = Field(
        default=None,
        min_length=1,
        description="Instead of the `seeds` of all arms: more where a run is cheap, fewer where it is not.",
    )
    topology: Topology = Centralized()
    privacy: Privacy = NoPrivacy()
    aggregation: Aggregation = Plaintext()
    training: TrainingSpec = TrainingSpec()
    inference: Inference = NoInference()

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
        for key in ("shift", "deformation"):
            if not isinstance(self.features, NoFeatures) and self._augments(key):
                raise invalid(
                    f"training.{key} with features {self.features.kind!r}: features cannot be moved; use "
                    f"features.copies, or leave {key} out"
                )
        self._check_model()
        self._check_privacy()
        return self

    def _augments(self, key: str) -> bool:
        """Return whether images are augmented by ``key`` of the training."""
        return bool(getattr(self.training, key) != TrainingSpec.model_fields[key].default)

    def _check_model(self) -> None:
        """Raise an error where the model cannot be trained by this technique, or not be evaluated as is asked."""
        private = not isinstance(self.privacy, NoPrivacy)
        if self.model in WITH_STATISTICS and (private or not isinstance(self.topology, Centralized)):
            raise invalid(
                f"model {self.model!r} with topology {self.topology.kind!r} and privacy {self.privacy.kind!r}: its "
                "batch normalisation mixes examples, and its statistics are in no update; allowed with topology "
                "centralized and privacy none, or take another model"
            )
        if isinstance(self.inference, NoInference):
            return
        if self.model not in POLYNOMIAL:
            raise invalid(
                f"inference {self.inference.kind!r} with model {self.model!r}: it does more than add and multiply; "
                f"allowed: {', '.join(sorted(POLYNOMIAL))}; or leave inference out"
            )
        if isinstance(self.topology, LocalOnly):
            raise invalid(
                f"inference {self.inference.kind!r} with topology 'local': there are several models; allowed with "
                "topology centralized or federated"
            )

    def _check_privacy(self) -> None:
        """Raise an error where the unit of privacy, or who adds the noise, does not go with the rest."""
        federated = isinstance(self.topology, Federated)
        if getattr(self.privacy, "budget", None) is not None and isinstance(self.topology, LocalOnly):
            raise invalid(
                "privacy.budget with topology 'local': the mean over clients that stop in different epochs has no "
                "meaning; allowed with topology centralized or federated; here give privacy.epsilon"
            )
        if isinstance(self.privacy, ClientLevel) and not federated:
            raise invalid(
                f"privacy 'client' with topology {self.topology.kind!r}: there are no clients to hide; use topology "
                "federated, or privacy example"
            )
        noise_by = getattr(self.privacy, "noise_by", "owner")
        if noise_by == "shares" and (not federated or isinstance(self.aggregation, Plaintext)):
            raise invalid(
                f"privacy.noise_by 'shares' with aggregation {self.aggregation.kind!r} and topology "
                f"{self.topology.kind!r}: whoever sees a single update sees no more than a share of the noise on it; "
                "allowed with topology federated and aggregation ckks, bfv, shares or masking"
            )
        if noise_by == "server" and not isinstance(self.aggregation, Plaintext):
            raise invalid(
                f"privacy.noise_by 'server' with aggregation {self.aggregation.kind!r}: the server sees no update "
                "that it could add noise to; use aggregation plaintext, or noise_by shares"
            )
        if getattr(self.privacy, "budget", None) is not None and isinstance(self.aggregation, Masking):
            raise invalid(
                "privacy.budget with aggregation 'masking': as clients stop, one after the other, too few are left for "
                "a sum to be opened; take another aggregation, or give privacy.epsilon"
            )
        if isinstance(self.topology, Federated):
            self._check_sums(self.topology, noise_by)
            if isinstance(self.topology.correction, Scaffold) and getattr(self.privacy, "budget", None) is not None:
                raise invalid(
                    "privacy.budget with topology.correction 'scaffold': a client that stops within a round would "
                    "misstate its drift; allowed: none, proximal"
                )

    def _check_sums(self, topology: Federated, noise_by: str) -> None:
        """Raise an error where a sum would have less noise than is accounted, or tell more than it may."""
        client_level = isinstance(self.privacy, ClientLevel)
        if not client_level and noise_by != "shares":
            return
        if topology.participation < 1:
            raise invalid(
                f"topology.participation {topology.participation} with noise in the sum of all clients: who is asked "
                "is not hidden from the server, so that nothing is gained by it; allowed: 1.0"
            )
        if not isinstance(topology.correction, NoCorrection) and (noise_by == "shares" and not client_level):
            raise invalid(
                f"topology.correction {topology.correction.kind!r} with noise_by 'shares': a round is one step, in "
                "which no client drifts; allowed: none"
            )
        if isinstance(topology.correction, Scaffold):
            raise invalid(
                "topology.correction 'scaffold' with privacy 'client': control variates would leave the clients "
                "without noise; allowed: none, proximal"
            )
        if client_level and topology.weighting != "uniform":
            raise invalid(
                "topology.weighting 'examples' with privacy 'client': a client's weight tells of its records, and one "
                "with many would need more noise; allowed: uniform"
            )
        if not client_level and self.training.epochs != 1:
            raise invalid(
                f"training.epochs {self.training.epochs} with noise_by 'shares': a round is one step on one sample of "
                "all records; allowed: 1"
            )
        for key in ("shift", "deformation"):
            if not client_level and self._augments(key):
                raise invalid(f"training.{key} with noise_by 'shares': images stay as they are there; leave it out")
        if getattr(self.privacy, "budget", None) is not None:
            raise invalid(
                "privacy.budget with noise_by 'shares': all clients spend the same in every round; give "
                "privacy.epsilon, which calibrates the noise to all rounds"
            )

    @property
    def partition(self) -> str | None:
        """Name of the partition that the arm trains on, None when one owner holds everything."""
        return getattr(self.topology, "partition", None)

    def technique(self) -> dict[str, Any]:
        """Return what identifies the arm's training besides data and seeds, as plain values."""
        # An arm without features is what it was before there were any.
        absent = {"features"} if isinstance(self.features, NoFeatures) else set()
        return self.model_dump(mode="json", exclude={"label", "extends", "dataset", "seeds", "inference", *absent})
