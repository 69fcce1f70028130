"""The data sets: their files, and the public facts that models, tables and figures read as their contract.

``config/datasets.yaml`` is the catalogue of the project; the key ``data.define`` of a configuration adds more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from ppml.config.columns import GROUP_ROLES, TableFields
from ppml.config.paths import expand_input_file, expand_path
from ppml.config.spec import ListOf, Spec, config_error
from ppml.config.splits import ColumnSplit, GroupSplit, OfficialSplit, SplitSpec, TimeSplit
from ppml.contract import DataContract
from ppml.project import project_file

DIGITS = "digits"
"""Scikit-learn's own handwritten digits: a part of its package, and the fallback where no source has the data."""
FALLBACK_TABLE = "breast_cancer"
"""The table in place of tables, where the digits replace images: a part of scikit-learn as well."""
CATALOGUE = "config/datasets.yaml"
PARTS = ("train", "test")
LARGEST_SIDE = 1024
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")


def _as_file(value: Any) -> Any:
    """Return the section of a file; a text alone is the path of a user's own file."""
    return {"path": value} if isinstance(value, str) else value


class FileSpec(Spec):
    """One file: a published one with a checksum, or a user's own one by its path."""

    name: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$",
        max_length=100,
        description="The name of a published file, which the workflow copies or downloads into `data/raw`.",
    )
    path: Annotated[str, AfterValidator(expand_input_file)] | None = Field(
        default=None, description="The path of a file of your own, which stays where it is."
    )
    md5: str = Field(default="", pattern=r"^([0-9a-f]{32})?$", description="MD5 of the file.")
    sha256: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="SHA-256 of the file. A published file needs one of both checksums; another content is refused.",
    )
    urls: ListOf[str] = Field(default=(), description="Public addresses of the file, the best one first.")
    part: Literal["train", "test"] | None = Field(
        default=None, description="The part of the official split that is in the file; null: all examples."
    )
    skip_rows: int = Field(default=0, ge=0, description="Lines of a CSV file before the header, or the first row.")

    @model_validator(mode="after")
    def _check(self) -> FileSpec:
        if bool(self.name) == (self.path is not None):
            raise config_error("name: give either name, of a published file, or path, of a file of your own")
        if self.name and not (self.md5 or self.sha256):
            raise config_error(
                f"md5: {self.name} has none, and no sha256; a published file without a checksum is not used"
            )
        if self.path and self.urls:
            raise config_error("urls: a file of your own has no address; leave urls out, or give name")
        return self


class DatasetBase(Spec):
    """The keys that all kinds of data sets have."""

    files: ListOf[Annotated[FileSpec, BeforeValidator(_as_file)]] = Field(default=(), description="The files.")
    split: SplitSpec = Field(default=OfficialSplit(), description="Division into training and test examples.")
    examples: int | None = Field(default=None, ge=1, description="Examples for training, if the number is known.")
    licence: str = Field(default="", description="Licence of the data.")
    citation: str = Field(default="", description="The publication to cite.")
    redistributable: bool = Field(default=False, description="Whether the data may be passed on, and so published.")
    public: bool | None = Field(
        default=None,
        description="Whether plain digests of the data and results on them may be published. `null`: as "
        "`redistributable`. `true` without `redistributable`: public data whose files may not be passed on.",
    )
    allow_new_classes: bool = Field(
        default=False, description="Whether the test may have a class that training lacks; otherwise it is refused."
    )

    @model_validator(mode="after")
    def _check_names(self) -> DatasetBase:
        names = [file.name or str(file.path) for file in self.files]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise config_error(f"files: {repeated[0]} occurs twice; each file may occur once")
        if self.redistributable and self.public is False:
            raise config_error(
                "public: got false beside redistributable: true; data that may be passed on are public, so leave "
                "public out, or set redistributable to false"
            )
        return self

    def examples_contract(self) -> dict[str, Any]:
        """Return the part of the contract that pictures and tables state each in their own way."""
        raise NotImplementedError

    @cached_property
    def contract(self) -> DataContract:
        """The contract of the examples that the subset stage writes."""
        public = self.redistributable if self.public is None else self.public
        return DataContract(**self.examples_contract(), licence=self.licence, public=public)

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of the published files."""
        return tuple(file.name for file in self.files if file.name)

    def files_of(self, part: str) -> tuple[FileSpec, ...]:
        """Return the files that hold examples of ``part``, ``train`` or ``test``."""
        return tuple(file for file in self.files if file.part in (part, None))


class PictureFields(Spec):
    """The pictures of a data set, and the public rules by which they become inputs."""

    shape: ListOf[PositiveInt] = Field(
        default=(),
        description="Channels, height and width of an input; for a table of numbers, the number of columns alone.",
    )
    classes: Annotated[ListOf[str], BeforeValidator(lambda value: _class_names(value))] = Field(
        default=(), description="Names of the classes in the order of their labels; a number stands for 0, 1, 2, ..."
    )
    mean: ListOf[float] = Field(
        default=(0.0,), description="Public constants, one or one a channel, subtracted from pixels in [0, 1]."
    )
    deviation: ListOf[PositiveFloat] = Field(
        default=(1.0,), description="Public constants, one or one a channel, by which the pixels are then divided."
    )
    white: float = Field(default=255.0, gt=0, description="The number of a white pixel in the files.")
    resize: ListOf[PositiveInt] = Field(
        default=(),
        max_length=2,
        description="Height and width that each picture is resized to; empty: as in the files.",
    )
    border: int = Field(default=0, ge=0, le=64, description="Black pixels around the resized picture.")
    transpose: bool = Field(default=False, description="Whether rows and columns of the files are swapped.")

    @model_validator(mode="after")
    def _check_pictures(self) -> PictureFields:
        if self.resize and len(self.resize) != 2:
            raise config_error(f"resize: got {list(self.resize)}; give height and width")
        if len(self.shape) == 3 and min(self.shape[1:]) <= 2 * self.border:
            raise config_error(f"border: got {self.border}, which leaves nothing of shape {list(self.shape)}; lower it")
        if self.resize and len(self.shape) == 3:
            found = (self.shape[0], *(side + 2 * self.border for side in self.resize))
            if found != self.shape:
                raise config_error(
                    f"shape: got {list(self.shape)}, but resize and border make {list(found)}; correct one of them"
                )
        return self

    def picture_contract(self) -> dict[str, Any]:
        """Return kind, shape, classes and constants of the pictures, or of the numbers of a table without columns."""
        return {
            "kind": "image" if len(self.shape) == 3 else "table",
            "shape": self.shape,
            "classes": self.classes,
            "mean": self.mean,
            "deviation": self.deviation,
        }

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture in the files; meaningless if the pictures are resized."""
        channels, height, width = self.shape
        return channels, height - 2 * self.border, width - 2 * self.border


def _class_names(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return [str(number) for number in range(value)]
    return [str(entry) if isinstance(entry, int) else entry for entry in value] if isinstance(value, list) else value


class _PictureSet(DatasetBase, PictureFields):
    """A data set of pictures."""

    @model_validator(mode="after")
    def _check_contract(self) -> _PictureSet:
        if not self.shape:
            raise config_error("shape: is missing; give channels, height and width")
        _check_picture_set(self, self.split)
        _ = self.contract
        return self

    def examples_contract(self) -> dict[str, Any]:
        """Return the part of the contract that pictures state."""
        return self.picture_contract()


class IdxDataset(_PictureSet):
    """Arrays in the format of MNIST's files: inputs and labels for training, then for the test; gzip may pack them."""

    kind: Literal["idx"] = "idx"

    @model_validator(mode="after")
    def _check_files(self) -> IdxDataset:
        needed = 4 if isinstance(self.split, OfficialSplit) else 2
        if len(self.files) != needed:
            raise config_error(
                f"files: got {len(self.files)}; kind idx with split {self.split.kind!r} needs {needed}: inputs and "
                "labels" + (" for training, and for the test" if needed == 4 else "")
            )
        return self

    def files_of(self, part: str) -> tuple[FileSpec, ...]:
        """Return the files of inputs and labels of ``part``."""
        if len(self.files) == 2:
            return self.files
        return self.files[:2] if part == "train" else self.files[2:]


class NpzDataset(_PictureSet):
    """Arrays in one .npz file of NumPy, for instance one of MedMNIST."""

    kind: Literal["npz"] = "npz"
    train_arrays: ListOf[str] = Field(
        default=("train_images", "train_labels"),
        min_length=2,
        max_length=2,
        description="Names of inputs and labels; of all examples unless the split is official.",
    )
    test_arrays: ListOf[str] = Field(
        default=("test_images", "test_labels"),
        min_length=2,
        max_length=2,
        description="The same for the official test.",
    )

    @model_validator(mode="after")
    def _check_files(self) -> NpzDataset:
        if len(self.files) != 1:
            raise config_error(f"files: got {len(self.files)}; kind npz needs 1")
        return self


class FolderDataset(_PictureSet):
    """PNG or JPEG pictures, a folder a class: a folder of your own, or a published archive."""

    kind: Literal["folder"] = "folder"
    folder: Annotated[str, AfterValidator(expand_path)] | None = Field(
        default=None,
        description="A folder with a folder for each class; for the official split, below `train` and `test`.",
    )
    convert: bool = Field(
        default=False, description="Whether a picture of another mode (palette, transparency, ...) is converted."
    )

    @model_validator(mode="after")
    def _check_files(self) -> FolderDataset:
        if len(self.files) != (self.folder is None):
            raise config_error(
                f"files: got {len(self.files)}; kind folder needs either folder, or one archive in files"
            )
        if len(self.shape) != 3:
            raise config_error(f"shape: got {list(self.shape)}; give channels, height and width")
        return self


class TorchvisionDataset(_PictureSet):
    """A class of torchvision.datasets, which reads its own published files."""

    kind: Literal["torchvision"] = "torchvision"
    dataset: Literal["CIFAR10", "CIFAR100", "EMNIST", "SVHN", "USPS"] = Field(
        description="The class of torchvision.datasets."
    )
    options: dict[str, str] = Field(
        default={}, description="Further options of the class, for instance `{split: balanced}`."
    )

    @model_validator(mode="after")
    def _check_files(self) -> TorchvisionDataset:
        allowed = {"split": EMNIST_SPLITS} if self.dataset == "EMNIST" else {}
        if {*self.options} != {*allowed} or any(value not in allowed[key] for key, value in self.options.items()):
            needed = f"allowed: split, one of {', '.join(EMNIST_SPLITS)}" if allowed else "the class has none"
            raise config_error(f"options: got {self.options} for {self.dataset}; {needed}")
        if not self.files or any(file.path for file in self.files):
            raise config_error("files: kind torchvision needs the published files of the class, with name and checksum")
        return self


class SklearnDataset(DatasetBase, PictureFields, TableFields):
    """A data set that is a part of scikit-learn: a table with a column `target`, or the pictures of digits."""

    kind: Literal["sklearn"] = "sklearn"
    loader: Literal["breast_cancer", "digits", "iris", "sample_images", "wine"] = Field(
        description="The loader, without `load_`. `sample_images`: patches of two photos, without overlap, by photo."
    )

    @model_validator(mode="after")
    def _check_sklearn(self) -> SklearnDataset:
        if isinstance(self.split, OfficialSplit):
            raise config_error(
                "split.kind: got 'official', which scikit-learn has for no data set; take random or stratified"
            )
        if bool(self.columns) == bool(self.shape):
            raise config_error("columns: give columns, for a table, or shape, for pictures")
        if self.columns:
            _check_table_split(self, self.split)
        else:
            _check_picture_set(self, self.split)
        _ = self.contract
        return self

    def examples_contract(self) -> dict[str, Any]:
        """Return the part of the contract that pictures, or a table, state."""
        return self.picture_contract() if self.shape else self.table_contract()


class _TableSet(DatasetBase, TableFields):
    """A table in files of a user or a publisher."""

    @model_validator(mode="after")
    def _check_table(self) -> _TableSet:
        if not self.columns:
            raise config_error("columns: is missing; `ppml describe FILE` writes a first version")
        if not self.files:
            raise config_error("files: is missing; give at least one")
        parts = {file.part for file in self.files}
        if isinstance(self.split, OfficialSplit):
            if parts != set(PARTS):
                raise config_error(
                    "split.kind: official needs files with part train and part test; give each file its part, or take "
                    "another split"
                )
        elif parts != {None}:
            raise config_error(
                f"split.kind: got {self.split.kind!r} for files with a part; leave part out, or take official"
            )
        _check_table_split(self, self.split)
        _ = self.contract
        return self

    def examples_contract(self) -> dict[str, Any]:
        """Return the part of the contract that an encoded table states."""
        return self.table_contract()


class CsvDataset(_TableSet):
    """Text files with a row a line, perhaps packed by gzip."""

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="The sign between columns.")
    decimal: Literal[".", ","] = Field(default=".", description="The sign before the fraction of a number.")
    header: bool = Field(
        default=True, description="Whether the first row has the names; otherwise `columns` in its order."
    )
    encoding: str = Field(default="utf-8", description="The encoding of the text, as Python names it.")

    @model_validator(mode="after")
    def _check_text(self) -> CsvDataset:
        # The parser of Arrow takes one byte.
        if not self.delimiter.isascii() or self.delimiter in '"\r\n\0' or self.delimiter.isalnum():
            raise config_error(
                f"delimiter: got {self.delimiter!r}; allowed: one sign of ASCII, for instance ',' or ';'"
            )
        try:
            "".encode(self.encoding)
        except LookupError:
            raise config_error(
                f"encoding: got {self.encoding!r}; allowed: encodings of Python, for instance utf-8, latin-1"
            ) from None
        return self


class ParquetDataset(_TableSet):
    """Parquet files of flat columns."""

    kind: Literal["parquet"] = "parquet"

    @model_validator(mode="after")
    def _check_parquet(self) -> ParquetDataset:
        if any(file.skip_rows for file in self.files):
            raise config_error("files: skip_rows counts lines of text, which a Parquet file has none of; leave it out")
        return self


def _check_picture_set(pictures: PictureFields, split: Any) -> None:
    """Raise an error if shape, classes or split are not those of pictures, or of a table of numbers."""
    if len(pictures.shape) not in (1, 3):
        raise config_error(
            f"shape: got {list(pictures.shape)}; give channels, height and width, or a number of columns"
        )
    if len(pictures.shape) == 3 and (pictures.shape[0] not in (1, 3) or max(pictures.shape) > LARGEST_SIDE):
        raise config_error(
            f"shape: got {list(pictures.shape)}; allowed: 1 or 3 channels, and sides of at most {LARGEST_SIDE} pixels"
        )
    if len(pictures.classes) < 2:
        raise config_error(f"classes: got {len(pictures.classes)}; at least 2 are needed")
    if isinstance(split, TimeSplit | GroupSplit | ColumnSplit):
        raise config_error(
            f"split.kind: got {split.kind!r}, for the columns of a table; allowed: official, last, random, stratified"
        )


def _check_table_split(table: TableFields, split: Any) -> None:
    """Raise an error if the column of a split has no fitting role."""
    if isinstance(split, TimeSplit) and table.column_with("time") is None:
        raise config_error("split.kind: got 'time', but no column has the role time")
    if not isinstance(split, GroupSplit | ColumnSplit):
        return
    allowed = (*GROUP_ROLES, "unit") if isinstance(split, GroupSplit) else GROUP_ROLES
    fitting = [name for name, column in table.columns.items() if set(column.role) & set(allowed)]
    if split.column not in fitting:
        raise config_error(
            f"split.column: got {split.column!r}; allowed: {', '.join(fitting) or 'none'}, the columns with the role "
            f"{' or '.join(allowed)}"
        )
    if isinstance(split, ColumnSplit):
        for value in (*split.train, *split.test):
            if value not in table.columns[split.column].names:
                raise config_error(
                    f"split: got the value {value!r}; allowed: {', '.join(table.columns[split.column].names)}"
                )


DatasetSpec = Annotated[
    IdxDataset | NpzDataset | FolderDataset | TorchvisionDataset | SklearnDataset | CsvDataset | ParquetDataset,
    Field(discriminator="kind"),
]
Dataset = IdxDataset | NpzDataset | FolderDataset | TorchvisionDataset | SklearnDataset | CsvDataset | ParquetDataset
_ADAPTER: TypeAdapter[Dataset] = TypeAdapter(DatasetSpec)


def parse_dataset(content: Any) -> Dataset:
    """Return a data set from plain values.

    Raises
    ------
    pydantic.ValidationError
        A value is not allowed.
    """
    return _ADAPTER.validate_python(content)


class _Catalogue(Mapping[str, Dataset]):
    """The entries of ``config/datasets.yaml``, each checked when it is first asked for."""

    def __init__(self, path: Callable[[], str | Path]) -> None:
        self._path = path
        self._checked: dict[str, Dataset] = {}

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        # The base installation has no YAML.
        from ppml.config.yaml_file import read_yaml

        path = Path(self._path())
        return dict(read_yaml(path) or {}) if path.is_file() else {}

    def __getitem__(self, name: str) -> Dataset:
        if name not in self._checked:
            self._checked[name] = parse_dataset(self._content[name])
        return self._checked[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


DATASETS: Mapping[str, Dataset] = _Catalogue(lambda: project_file(CATALOGUE))
"""Name -> data set of the catalogue."""
