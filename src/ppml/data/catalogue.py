"""The data sets that torchvision publishes in MNIST's format, by name, and their public normalisation constants."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_core import PydanticCustomError

MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte.gz",
    "qmnist-train-labels-idx2-int.gz",
    "qmnist-test-images-idx3-ubyte.gz",
    "qmnist-test-labels-idx2-int.gz",
)


@dataclass(frozen=True)
class DatasetInfo:
    """What the project must know of a data set before it has it.

    Parameters
    ----------
    torchvision_class : str
        Name of the class in ``torchvision.datasets``, which knows files, checksums and mirrors.
    mean, deviation : float
        Public constants that pixels in [0, 1] are normalised with; never computed from the private subset.
    files : tuple of str
        Names of the published files: images and labels that train, images and labels that test. They stand here, too,
        because importing torchvision takes seconds.
    published : bool
        Whether everybody can have the data, so that plain digests of them, and what is made of them, may be published.
    """

    torchvision_class: str
    mean: float
    deviation: float
    files: tuple[str, ...] = MNIST_FILES
    published: bool = False

    def files_of(self, part: str) -> tuple[str, ...]:
        """Return the names of images and labels of ``part``, ``train`` or ``test``; none for the digits."""
        return self.files[:2] if part == "train" else self.files[2:]


CATALOGUE = {
    "mnist": DatasetInfo("MNIST", 0.1307, 0.3081, published=True),
    "fashion_mnist": DatasetInfo("FashionMNIST", 0.2860, 0.3530, published=True),
    "kmnist": DatasetInfo("KMNIST", 0.1918, 0.3483, published=True),
    "qmnist": DatasetInfo("QMNIST", 0.1307, 0.3081, QMNIST_FILES, published=True),
}
DIGITS = "digits"
"""Scikit-learn's own handwritten digits: inside the package, the fallback where nothing else can be had."""

DIGITS_INFO = DatasetInfo("", 0.1307, 0.3081, files=(), published=True)


def require_dataset(name: str, key: str) -> None:
    """Raise a configuration error that names ``key`` unless ``name`` is a known data set."""
    if name not in CATALOGUE and name != DIGITS:
        names = ", ".join([*CATALOGUE, DIGITS])
        raise PydanticCustomError(
            "unknown_dataset",
            "{key}: unknown data set {name}; allowed: {names}",
            {"key": key, "name": repr(name), "names": names},
        )


def dataset_info(name: str) -> DatasetInfo:
    """Return what is known of the data set ``name``."""
    return DIGITS_INFO if name == DIGITS else CATALOGUE[name]
