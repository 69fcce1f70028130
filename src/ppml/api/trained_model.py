"""A trained model from the folder of a run, and its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from torch import nn

from ppml.api.model_inputs import ModelInputs
from ppml.api.privacy_statement import PrivacyStatement
from ppml.api.table_entry import find_table_entry
from ppml.config.arm import Arm
from ppml.config.models import MODELS
from ppml.contract import DataContract
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.learning.evaluation import logits
from ppml.models.registry import build_model
from ppml.stages.model_file import read_models


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a model for some examples.

    Parameters
    ----------
    labels : ndarray, shape ``(n,)``
        int64: the number of the class with the highest score; -1 for a row of a table that a rule leaves out.
    scores : ndarray, shape ``(n, classes)``
        float32: the probabilities of the classes; NaN for a row that is left out.
    classes : tuple of str
        The names of the classes, by number.
    privacy : PrivacyStatement
        The privacy statement of the model. It is about its training examples, not about the examples predicted here.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: tuple[str, ...]
    privacy: PrivacyStatement

    @property
    def names(self) -> list[str]:
        """The name of the predicted class of each example, empty for a row that is left out."""
        # The position -1 is that of the last name.
        names = [*self.classes, ""]
        return [names[label] for label in self.labels.tolist()]


class TrainedModel:
    """A trained model with its privacy statement; :func:`load` returns it.

    Parameters
    ----------
    network : nn.Module
        The network.
    inputs : ModelInputs
        Checks and preparation of its inputs.
    privacy : PrivacyStatement
        The statement of the training.
    data : mapping
        The facts about the training data.

    Attributes
    ----------
    shape : tuple of int
        The shape of one raw example.
    classes : tuple of str
        The names of the classes, by number.
    is_table : bool
        Whether the raw examples are rows of a table.
    """

    def __init__(
        self, network: nn.Module, inputs: ModelInputs, privacy: PrivacyStatement, data: Mapping[str, Any]
    ) -> None:
        self.network = network
        self.privacy = privacy
        self.shape = inputs.raw.shape
        self.classes = inputs.raw.classes
        self.is_table = inputs.raw.kind == "table"
        self._inputs = inputs
        self._data = data

    def predict(self, examples: ArrayLike | torch.Tensor) -> Predictions:
        """Return the predictions for raw examples.

        Parameters
        ----------
        examples : array
            Shape ``(n, *shape)``, or one example. Images are uint8 pixels from 0 to 255, or floats from 0 to 1, and the
            axis of a single channel may be absent. The columns of a table are numbers. The model normalises them with
            the public constants of its data set, and applies the transforms of its training.

        Returns
        -------
        Predictions
            Labels, scores and the privacy statement. The last digits of the scores depend on the machine.

        Raises
        ------
        UserError
            The shape, the type or a value does not fit.
        """
        scores = logits(self.network, self._inputs.prepare(examples)).softmax(dim=1)
        return Predictions(scores.argmax(dim=1).numpy(), scores.numpy(), self.classes, self.privacy)

    def predict_table(self, path: str | Path, *, configfile: str | Path | None = None) -> Iterator[Predictions]:
        """Yield the predictions for the rows of a CSV or Parquet file, in batches and in their order.

        Parameters
        ----------
        path : path
            The file. It has the columns that the model reads, as the training data; others, and the label, are ignored.
        configfile : path, optional
            The configuration that declares the data set in ``data.define``; one of the catalogue needs none.

        Yields
        ------
        Predictions
            Labels, scores and the privacy statement of some thousand rows. A row that the rules for missing values
            leave out has the label -1.

        Raises
        ------
        UserError
            A column is missing, or a value does not fit it; earlier rows may have been yielded.
        """
        entry = find_table_entry(self._data, self._inputs.raw, None if configfile is None else Path(configfile))
        # An import of packages of an extra.
        from ppml.data.formats.table_inputs import input_batches

        for inputs, dropped in input_batches(entry, Path(path)):
            found = self.predict(inputs if not dropped.any() else inputs[~dropped])
            yield _with_gaps(found, dropped) if dropped.any() else found


def _with_gaps(found: Predictions, dropped: NDArray[np.bool_]) -> Predictions:
    """Return predictions with the label -1 for the rows that are left out."""
    labels = np.full(len(dropped), -1, dtype=np.int64)
    scores = np.full((len(dropped), len(found.classes)), np.nan, dtype=np.float32)
    labels[~dropped], scores[~dropped] = found.labels, found.scores
    return Predictions(labels, scores, found.classes, found.privacy)


def load(run: str | Path, *, model: int | None = None) -> TrainedModel:
    """Return the trained model of a run.

    Parameters
    ----------
    run : path
        The folder of a run, for instance ``artifacts/runs/dp/seed0``; its files ``config.json``, ``model.safetensors``
        and ``privacy.json`` are read.
    model : int, optional
        The number of the client, from 0, in a run with one model per client; such a run needs it.

    Raises
    ------
    UserError
        A file is missing or damaged, or ``model`` does not fit the run.

    Examples
    --------
    >>> load("runs/dp")
    Traceback (most recent call last):
    ...
    ppml.errors.UserError: runs/dp: is no folder; give the folder of a run, as artifacts/runs/dp/seed0
    """
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; give the folder of a run, as artifacts/runs/dp/seed0")
    with _readable(folder / "config.json") as path:
        config = read_json(path)
        arm = Arm.model_validate(config["arm"])
        if MODELS[arm.model].is_reference:
            raise UserError(f"{folder}: {arm.model} is a reference, and its run keeps no model; take another arm")
        contract = DataContract.model_validate(config["data"]["contract"])
        raw = DataContract.model_validate(config["data"].get("raw", config["data"]["contract"]))
        inputs = ModelInputs(arm, contract, raw, config["root_seed"])
        network = build_model(arm.model, contract, torch.Generator())
    with _readable(folder / "privacy.json") as path:
        privacy = PrivacyStatement.from_json(read_json(path))
    with _readable(folder / "model.safetensors") as path:
        models = read_models(path)
        number = _model_number(folder, model, len(models))
        if not all(weights.isfinite().all() for weights in models[number].values()):
            raise ValueError("it has weights that are not finite")
        network.load_state_dict(models[number])
    return TrainedModel(network.eval(), inputs, privacy, config["data"])


def _model_number(folder: Path, model: int | None, count: int) -> int:
    """Return the number of the chosen model among ``count``."""
    if model is None and count == 1:
        return 0
    if model is None:
        raise UserError(f"{folder}: has {count} models, one for each client; give model=0 to model={count - 1}")
    if type(model) is not int or model not in range(count):
        raise UserError(f"{folder}: model: got {model!r}; allowed: 0 to {count - 1}")
    return model


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Yield a path, and raise a :class:`UserError` if its file is missing or damaged."""
    try:
        yield path
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; `make pull` fetches published runs, `make results` makes them") from None
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: is damaged, or not a file of this version ({reason}); fetch or make it again"
        ) from None
