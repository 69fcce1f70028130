"""The data sets: their files, and their contracts.

The project knows those of :data:`DATASETS`; the key ``datasets`` of a configuration adds more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from pydantic import Field, model_validator

from ppml.config.spec import ListOf, Spec, config_error
from ppml.contract import DataContract

DIGITS = "digits"
"""Scikit-learn's own handwritten digits: a part of its package, and the fallback where no source has the data."""
DIGIT_CLASSES = tuple("0123456789")
CLASSES_OF_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CLASSES_OF_KMNIST = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_grey_images = partial(DataContract, shape=(1, 28, 28), redistributable=True)


class FileSpec(Spec):
    """One published file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="The name of the file.")
    md5: str = Field(
        default="", pattern=r"^([0-9a-f]{32})?$", description="Its MD5; a file with another one is refused."
    )
    urls: ListOf[str] = Field(default=(), description="Public addresses of the file, the best one first.")


class DatasetSpec(Spec):
    """One data set: its format, its files and its contract."""

    format: Literal["idx", "digits"] = Field(
        default="idx",
        description="`idx`: arrays as in MNIST's files, packed by gzip, of pixels (uint8) or numbers of a table. "
        "`digits`: scikit-learn's digits.",
    )
    torchvision: str = Field(
        default="", description="The class of torchvision.datasets that lists addresses and checksums of the files."
    )
    files: ListOf[FileSpec] = Field(
        default=(), description="Inputs and labels of the training file, then of the test file."
    )
    examples: int | None = Field(default=None, ge=1, description="Examples of the training file, if it is known.")
    contract: DataContract = Field(description="Shape, classes, normalisation, licence: see ppml.contract.")

    @model_validator(mode="after")
    def _check_files(self) -> DatasetSpec:
        if self.format == "idx" and len(self.files) != 4:
            raise config_error(
                f"files: got {len(self.files)}; format idx needs 4: inputs and labels for training, and for the test"
            )
        if self.contract.kind == "features":
            raise config_error("contract.kind: got 'features', which only transforms make; allowed: image, table")
        if len({file.name for file in self.files}) != len(self.files):
            raise config_error("files: a name occurs twice; each file needs a name of its own")
        for number, file in enumerate(self.files):
            if not file.md5 and not self.torchvision:
                raise config_error(f"files.{number}.md5: {file.name} has none; a file without a checksum is not used")
        return self

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of all files."""
        return tuple(file.name for file in self.files)

    def files_of(self, part: str) -> tuple[str, ...]:
        """Return the names of inputs and labels of ``part``, ``train`` or ``test``; no names for the digits."""
        return self.file_names[:2] if part == "train" else self.file_names[2:]


def _published(
    torchvision: str,
    mean: float,
    deviation: float,
    classes: tuple[str, ...],
    licence: str,
    prefix: str = "",
    suffix: str = "idx1-ubyte",
) -> DatasetSpec:
    """Return a data set that torchvision publishes in MNIST's format: 60,000 and 10,000 grey images of 28x28."""
    test = "test" if prefix else "t10k"
    kinds = (("images", "idx3-ubyte"), ("labels", suffix))
    names = [f"{prefix}{part}-{kind}-{ending}.gz" for part in ("train", test) for kind, ending in kinds]
    return DatasetSpec(
        torchvision=torchvision,
        files=tuple(FileSpec(name=name) for name in names),
        examples=60_000,
        contract=_grey_images(classes=classes, mean=(mean,), deviation=(deviation,), licence=licence),
    )


DATASETS: Mapping[str, DatasetSpec] = {
    "mnist": _published("MNIST", 0.1307, 0.3081, DIGIT_CLASSES, "CC BY-SA 3.0"),
    "fashion_mnist": _published("FashionMNIST", 0.2860, 0.3530, CLASSES_OF_FASHION, "MIT"),
    "kmnist": _published("KMNIST", 0.1918, 0.3483, CLASSES_OF_KMNIST, "CC BY-SA 4.0"),
    "qmnist": _published("QMNIST", 0.1307, 0.3081, DIGIT_CLASSES, "BSD 3-Clause", "qmnist-", "idx2-int"),
    DIGITS: DatasetSpec(
        format="digits",
        # The fixed split of scikit-learn's 1,797 digits: the last 360 test.
        examples=1_437,
        contract=_grey_images(classes=DIGIT_CLASSES, mean=(0.1307,), deviation=(0.3081,), licence="CC BY 4.0"),
    ),
}
"""Name -> data set. Means and deviations are public constants, and are never calculated from a private subset."""
