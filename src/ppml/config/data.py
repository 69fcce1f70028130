"""The data set, its subset, and the division of its examples among clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ppml.config.paths import expand_path
from ppml.config.spec import ListOf, Spec


class DataSpec(Spec):
    """The data set, its subset, and its sources."""

    dataset: str = Field(
        default="mnist",
        description="Name of a data set: mnist, fashion_mnist, kmnist, qmnist, digits, or a key of `datasets`.",
    )
    train: int = Field(
        default=10_000, ge=1, description="Number of training images taken from the official train file."
    )
    test: int = Field(
        default=2_000,
        ge=1,
        description="Number of images that `accuracy` is measured on; `accuracy_all` takes the whole file.",
    )
    selection: Literal["first", "stratified"] = Field(
        default="first",
        description="Selection of the subset: the first images, as in the papers, or the same fraction of every class.",
    )
    evaluate_on: Literal["test", "holdout"] = Field(
        default="test",
        description="`holdout`: training images outside the subset, for the choice of hyper-parameters. The test file "
        "is never opened.",
    )
    mirrors: ListOf[Annotated[str, AfterValidator(expand_path)]] = Field(
        default=("../shared/datasets",),
        description="Local folders with the files, as `<mirror>/<dataset>/<file>`; PPML_DATA_MIRROR adds more "
        "(separated like PATH).",
    )
    download: bool = Field(default=True, description="Whether files may be downloaded from their public addresses.")
    fallback: Literal["digits"] | None = Field(
        default="digits",
        description="Data set to use if no source has the data, with a warning and in separate folders: scikit-learn's "
        "handwritten digits. null: a one-line error instead.",
    )


class PartitionBase(Spec):
    """The base of all partitions: the divided examples, and the number of clients."""

    clients: int = Field(ge=1, description="Number of clients.")
    sample_size: int | None = Field(
        default=None, ge=1, description="Number of training images to divide, drawn at random; null: all."
    )

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, the kind first; ``sample_size`` only if it is set."""
        content = super().to_json()
        sample_size = content.pop("sample_size")
        return {"kind": content.pop("kind"), **content, **({"sample_size": sample_size} if sample_size else {})}


class Iid(PartitionBase):
    """Equal parts of a random permutation."""

    kind: Literal["iid"] = "iid"


class Shards(PartitionBase):
    """Examples sorted by label and cut into shards; each client gets several (arXiv 1602.05629)."""

    kind: Literal["shards"] = "shards"
    shards_per_client: int = Field(default=2, ge=1, description="Shards per client; about as many labels.")


class Dirichlet(PartitionBase):
    """Each label is divided among the clients in proportions drawn from Dirichlet(alpha) (arXiv 1909.06335)."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(gt=0, description="Concentration: small values give each client few labels.")


PartitionSpec = Annotated[Iid | Shards | Dirichlet, Field(discriminator="kind")]
