"""The data set, its subset, and the division of its examples among clients."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ppml.config.datasets import DatasetSpec
from ppml.config.paths import expand_path
from ppml.config.spec import ListOf, Spec, config_error

DatasetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]


class DataSpec(Spec):
    """The data set, its subset, and its sources."""

    dataset: str = Field(
        default="mnist",
        description="Name of a data set of `config/datasets.yaml`, or of `define`.",
    )
    define: dict[DatasetName, DatasetSpec] = Field(
        default={}, description="Further data sets, by name: files, roles of columns, classes, licence."
    )
    train: int = Field(
        default=10_000, ge=1, description="Number of training examples; all of them where there are fewer."
    )
    test: int = Field(
        default=2_000,
        ge=1,
        description="Number of test examples that `accuracy` is measured on; `accuracy_all` takes all.",
    )
    selection: Literal["first", "stratified"] = Field(
        default="first",
        description="Selection of the subset: the first examples, as in the papers, or the same part of every class.",
    )
    evaluate_on: Literal["test", "holdout"] = Field(
        default="test",
        description="`holdout`: training examples outside the subset, for the choice of hyper-parameters. An official "
        "test file is never opened.",
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


class Natural(Spec):
    """A client for each group of a column with the role site or group: the owners that the data have."""

    kind: Literal["natural"] = "natural"
    by: str = Field(description="The column.")
    groups: ListOf[str] = Field(
        default=(), description="The groups that are clients; the others have no owner. Empty: all groups."
    )

    @property
    def content(self) -> str:
        """The content as a part of a path: a column and groups may have any characters."""
        plain = re.sub(r"[^A-Za-z0-9]+", "_", self.by)
        digest = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:8]
        return f"natural-{plain}" if plain == self.by and not self.groups else f"natural-{plain}-{digest}"

    def chosen(self, groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Return the groups that are clients, in the order of the column's list.

        Parameters
        ----------
        groups : mapping
            The groups of the contract: column -> names.

        Raises
        ------
        PydanticCustomError
            The data have no such column or group.
        """
        if self.by not in groups:
            raise config_error(f"by: got {self.by!r}; allowed: {', '.join(groups) or 'none'}, the columns with groups")
        names = groups[self.by]
        for group in self.groups:
            if group not in names:
                raise config_error(f"groups: got {group!r}; allowed: {', '.join(names)}")
        return tuple(name for name in names if not self.groups or name in self.groups)


PartitionSpec = Annotated[Iid | Shards | Dirichlet | Natural, Field(discriminator="kind")]
