"""Which records there are, and who owns them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ppml.config.paths import expanded
from ppml.config.spec import Spec


class DataSpec(Spec):
    """The data set, the subset of it, and where it may come from."""

    dataset: str = Field(
        default="mnist",
        description="A data set that torchvision publishes in MNIST's format: mnist, fashion_mnist, kmnist, qmnist.",
    )
    train: int = Field(
        default=10_000, ge=1, description="Number of training images taken from the official train file."
    )
    test: int = Field(
        default=2_000,
        ge=1,
        description="Number of images that `accuracy` is measured on; `accuracy_all` takes the whole file.",
    )
    choice: Literal["first", "stratified"] = Field(
        default="first", description="Take the first images, as the papers do, or the same share of every class."
    )
    evaluate_on: Literal["test", "holdout"] = Field(
        default="test",
        description="`holdout` evaluates on official training images outside the subset and never opens the test file: "
        "the setting for choosing hyper-parameters.",
    )
    mirrors: Annotated[tuple[Annotated[str, AfterValidator(expanded)], ...], Field(strict=False)] = Field(
        default=("../shared/datasets",),
        description="Local folders that may hold the files, as `<mirror>/<dataset>/<file>`; PPML_DATA_MIRROR adds more "
        "(separated like PATH).",
    )
    download: bool = Field(default=True, description="Whether the public mirrors that torchvision names may be asked.")
    fallback: Literal["digits"] | None = Field(
        default="digits",
        description="What to use, with a loud warning and in folders of its own, where no source has the data: "
        "scikit-learn's own handwritten digits. null: a one-line error instead.",
    )


class Division(Spec):
    """What every partition has: the records that are divided, and among how many."""

    clients: int = Field(ge=1, description="Number of clients.")
    records: int | None = Field(
        default=None, ge=1, description="Divide only so many of the training images, drawn at random; null: all."
    )

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, the kind first; ``records`` only where they are not all."""
        content = super().to_json()
        records = content.pop("records")
        return {"kind": content.pop("kind"), **content, **({"records": records} if records else {})}


class Iid(Division):
    """A seeded shuffle, cut into equal parts."""

    kind: Literal["iid"] = "iid"


class Shards(Division):
    """Records sorted by label and cut into shards; each client gets some (McMahan et al., arXiv 1602.05629)."""

    kind: Literal["shards"] = "shards"
    shards_per_client: int = Field(default=2, ge=1, description="Shards a client, about that many labels.")


class Dirichlet(Division):
    """Each label is divided among the clients in proportions drawn from Dirichlet(alpha) (arXiv 1909.06335)."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(gt=0, description="Concentration: small values give each client few labels.")


PartitionSpec = Annotated[Iid | Shards | Dirichlet, Field(discriminator="kind")]
