"""An arm: a data set, a model, a technique and its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ppml.config.inference import Inference, NoInference
from ppml.config.models import MODELS
from ppml.config.spec import CountOrAll, ListOf, Seed, Spec, config_error, unknown_name
from ppml.config.technique import (
    Aggregation,
    Centralized,
    ClientLevel,
    Federated,
    Independent,
    Masking,
    NoCorrection,
    NoPrivacy,
    Plaintext,
    Privacy,
    Scaffold,
    Topology,
)
from ppml.config.transforms import Transform


class AffineAugmentation(Spec):
    """The largest random deformation of each image; 0 everywhere: none."""

    rotation: float = Field(default=0.0, ge=0, le=180, description="Largest rotation, in degrees.")
    shear: float = Field(default=0.0, ge=0, lt=1, description="Largest shear, relative to the height.")
    scale: float = Field(default=0.0, ge=0, lt=1, description="Largest relative change of width, and of height.")
    shift: float = Field(default=0.0, ge=0, le=64, description="Largest shift in each direction, in pixels.")


class TrainingSpec(Spec):
    """The training of one owner of examples."""

    epochs: int = Field(default=10, ge=1, description="Passes over the examples; when federated, in each round.")
    batch_size: CountOrAll = Field(
        default=64, description="Examples per step; under DP the expected number. `all`: one step per epoch."
    )
    learning_rate: float = Field(default=0.04, gt=0, description="Largest learning rate, at the start of the training.")
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="Momentum of SGD; when federated it starts at 0 in each round."
    )
    learning_rate_schedule: Literal["linear", "constant"] = Field(
        default="linear",
        description="Course of the learning rate over the whole training, all rounds together: `linear` down to 0, or "
        "`constant`.",
    )
    shift: int = Field(default=0, ge=0, le=8, description="Augmentation: largest random shift of a batch, in pixels.")
    deformation: AffineAugmentation = AffineAugmentation()


class Schedule(Spec):
    """The part of an arm that its calibration depends on: the number of steps of the mechanism, and their examples."""

    topology: Topology = Centralized()
    privacy: Privacy = NoPrivacy()
    training: TrainingSpec = TrainingSpec()


class Arm(Spec):
    """One row of the comparison."""

    label: str | None = Field(default=None, description="Name in tables and figures; default: the arm's own name.")
    extends: str | None = Field(
        default=None,
        description="Another arm. The keys of this arm replace its keys one by one; a section whose `kind` changes is "
        "replaced whole.",
    )
    dataset: str | None = Field(default=None, description="Data set of this arm, instead of `data.dataset`.")
    transforms: ListOf[Transform] = Field(
        default=(),
        description="Transforms of the inputs, in this order; the model trains on the output of the last one.",
    )
    model: str = Field(default="tanh_cnn", description="A name from ppml.config.models.")
    seeds: ListOf[Seed] | None = Field(
        default=None,
        min_length=1,
        description="Seeds of this arm, instead of the `seeds` of all arms.",
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
    def _check(self) -> Arm:
        if not isinstance(self.topology, Federated) and not isinstance(self.aggregation, Plaintext):
            raise config_error(
                f"aggregation {self.aggregation.kind!r} with topology {self.topology.kind!r}: nothing is aggregated "
                "there; use topology federated, or leave aggregation out"
            )
        for key in ("shift", "deformation"):
            if self.transforms and self.augments(key):
                raise config_error(
                    f"training.{key} with transforms {self.transforms[-1].kind!r}: features cannot be moved; set "
                    f"copies of the transform, or leave {key} out"
                )
        self._check_model()
        self._check_privacy()
        return self

    def augments(self, key: str) -> bool:
        """Return whether images are augmented by ``key`` of the training."""
        return bool(getattr(self.training, key) != TrainingSpec.model_fields[key].default)

    def _check_model(self) -> None:
        """Raise an error if the technique or the inference does not fit the model."""
        if MODELS[self.model].is_reference and (self.is_private or not isinstance(self.topology, Centralized)):
            raise config_error(
                f"model {self.model!r} with topology {self.topology.kind!r} and privacy {self.privacy.kind!r}: it is a "
                "reference without privacy; allowed with topology centralized and privacy none"
            )
        if MODELS[self.model].batch_norm and (self.is_private or not isinstance(self.topology, Centralized)):
            raise config_error(
                f"model {self.model!r} with topology {self.topology.kind!r} and privacy {self.privacy.kind!r}: its "
                "batch normalisation mixes examples, and its statistics are in no update; allowed with topology "
                "centralized and privacy none, or take another model"
            )
        if not self.predicts_encrypted:
            return
        if not MODELS[self.model].polynomial:
            allowed = sorted(name for name, info in MODELS.items() if info.polynomial)
            raise config_error(
                f"inference {self.inference.kind!r} with model {self.model!r}: it does more than add and multiply; "
                f"allowed: {', '.join(allowed)}; or leave inference out"
            )
        if isinstance(self.topology, Independent):
            raise config_error(
                f"inference {self.inference.kind!r} with topology 'independent': there are several models; allowed "
                "with topology centralized or federated"
            )

    def _check_privacy(self) -> None:
        """Raise an error if the unit of privacy or the place of the noise does not fit the rest."""
        federated = isinstance(self.topology, Federated)
        if getattr(self.privacy, "budget", None) is not None and isinstance(self.topology, Independent):
            raise config_error(
                "privacy.budget with topology 'independent': a mean over clients that stop in different epochs has no "
                "meaning; allowed with topology centralized or federated; or give privacy.epsilon"
            )
        if isinstance(self.privacy, ClientLevel) and not federated:
            raise config_error(
                f"privacy 'client' with topology {self.topology.kind!r}: there are no clients to protect; use topology "
                "federated, or privacy example"
            )
        noise = getattr(self.privacy, "noise", "local")
        if noise == "distributed" and (not federated or self.aggregation.server_sees_updates):
            raise config_error(
                f"privacy.noise 'distributed' with aggregation {self.aggregation.kind!r} and topology "
                f"{self.topology.kind!r}: a single update carries only a part of the noise, so the server may see "
                "only the sum; allowed with topology federated and aggregation ckks, bfv, secret_sharing or masking"
            )
        if noise == "central" and not self.aggregation.server_sees_updates:
            raise config_error(
                f"privacy.noise 'central' with aggregation {self.aggregation.kind!r}: the server sees no update "
                "to add noise to; use aggregation plaintext, or noise distributed"
            )
        if getattr(self.privacy, "budget", None) is not None and isinstance(self.aggregation, Masking):
            raise config_error(
                "privacy.budget with aggregation 'masking': clients stop one after the other, and the rest is too "
                "small to open a sum; take another aggregation, or give privacy.epsilon"
            )
        if isinstance(self.topology, Federated):
            self._check_sums(self.topology, noise)
            if isinstance(self.topology.correction, Scaffold) and getattr(self.privacy, "budget", None) is not None:
                raise config_error(
                    "privacy.budget with topology.correction 'scaffold': a client that stops within a round "
                    "misstates its drift; allowed: none, proximal"
                )

    def _check_sums(self, topology: Federated, noise: str) -> None:
        """Raise an error if a sum would carry less noise than is accounted, or reveal more than the statement."""
        client_level = isinstance(self.privacy, ClientLevel)
        if not client_level and noise != "distributed":
            return
        if topology.participation < 1:
            raise config_error(
                f"topology.participation {topology.participation} with noise in the sum of all clients: the server "
                "knows the sampled clients, so sampling gives no amplification; allowed: 1.0"
            )
        if not isinstance(topology.correction, NoCorrection) and (noise == "distributed" and not client_level):
            raise config_error(
                f"topology.correction {topology.correction.kind!r} with noise 'distributed': a round is one step, in "
                "which no client drifts; allowed: none"
            )
        if isinstance(topology.correction, Scaffold):
            raise config_error(
                "topology.correction 'scaffold' with privacy 'client': control variates would leave the clients "
                "without noise; allowed: none, proximal"
            )
        if client_level and topology.weighting != "uniform":
            raise config_error(
                "topology.weighting 'examples' with privacy 'client': the weight of a client reveals its number of "
                "examples, and a large one needs more noise; allowed: uniform"
            )
        if not client_level and self.training.epochs != 1:
            raise config_error(
                f"training.epochs {self.training.epochs} with noise 'distributed': a round is one step on one sample "
                "of all examples; allowed: 1"
            )
        for key in ("shift", "deformation"):
            if not client_level and self.augments(key):
                raise config_error(f"training.{key} with noise 'distributed': it augments no images; leave it out")
        if getattr(self.privacy, "budget", None) is not None:
            raise config_error(
                "privacy.budget with noise 'distributed': all clients spend the same in every round; give "
                "privacy.epsilon, which calibrates the noise to all rounds"
            )

    @property
    def is_private(self) -> bool:
        """Whether the arm trains with differential privacy."""
        return not isinstance(self.privacy, NoPrivacy)

    @property
    def predicts_encrypted(self) -> bool:
        """Whether the arm predicts encrypted images."""
        return not isinstance(self.inference, NoInference)

    @property
    def partition(self) -> str | None:
        """Name of the arm's partition, None if one owner holds all examples."""
        return getattr(self.topology, "partition", None)

    def technique(self) -> dict[str, Any]:
        """Return the identity of the arm's training besides data and seeds, as plain values."""
        absent = set() if self.transforms else {"transforms"}
        return self.model_dump(mode="json", exclude={"label", "extends", "dataset", "seeds", "inference", *absent})
