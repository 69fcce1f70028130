"""The inputs of a trained model: checks, normalisation and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ppml.config.arm import Arm
from ppml.contract import DataContract
from ppml.data.transforms.rules import build_transform
from ppml.errors import UserError
from ppml.randomness import Randomness
from ppml.stages.example_files import DTYPES, normalise


class ModelInputs:
    """The path from raw examples to the inputs of a model, as in its training.

    Parameters
    ----------
    arm : Arm
        The arm of the model.
    contract : DataContract
        The contract of the model's inputs, after all transforms.
    raw : DataContract
        The contract of raw examples, before all transforms.
    root_seed : int
        The root of the synthetic images of scattering features, which are public.
    """

    def __init__(self, arm: Arm, contract: DataContract, raw: DataContract, root_seed: int) -> None:
        self._contract = contract
        self.raw = raw
        rng = Randomness(root_seed).child("features")
        self._transforms = []
        for settings in arm.transforms:
            output = settings.output(raw)
            self._transforms.append((build_transform(settings, raw, rng), output))
            raw = output

    def prepare(self, examples: ArrayLike | torch.Tensor) -> torch.Tensor:
        """Return the inputs of the model for raw examples, float32 ``(n, *shape)``; errors: :func:`check_examples`."""
        inputs = check_examples(examples, self.raw)
        for transform, output in self._transforms:
            # The files of features have this type, so that a model trains on rounded features.
            inputs = transform.viewed(inputs).to(DTYPES[output.kind]).to(torch.float32)
        return normalise(inputs, self._contract)


def check_examples(examples: ArrayLike | torch.Tensor, contract: DataContract) -> torch.Tensor:
    """Return raw examples before normalisation, float32 ``(n, *contract.shape)``.

    Raises
    ------
    UserError
        Their shape, type or values do not fit the contract.
    """
    try:
        array = examples.detach().cpu().numpy() if isinstance(examples, torch.Tensor) else np.asarray(examples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"examples: {' '.join(str(error).split())[:120]}; allowed: an array of numbers") from None
    values = _with_axes(array, contract)
    if contract.kind == "image" and values.dtype == np.uint8:
        # A copy: a mirrored array has steps that torch refuses.
        return torch.tensor(values.copy(), dtype=torch.float32) / 255.0
    kinds = "f" if contract.kind == "image" else "iuf"
    if values.dtype.kind not in kinds:
        allowed = "uint8 from 0 to 255, or floats from 0 to 1" if contract.kind == "image" else "numbers"
        raise UserError(f"examples: got the type {values.dtype.name}; allowed: {allowed}")
    with np.errstate(over="ignore"):
        inputs = torch.tensor(values.astype(np.float32))
    if not torch.isfinite(inputs).all():
        raise UserError("examples: got a value that is not finite in float32; allowed: finite numbers")
    if contract.kind == "image" and len(inputs) and not (inputs.min() >= 0 and inputs.max() <= 1):
        raise UserError(
            f"examples: got floats from {inputs.min():g} to {inputs.max():g}; allowed: floats from 0 to 1, or uint8 "
            "from 0 to 255"
        )
    return inputs


def _with_axes(values: NDArray[Any], contract: DataContract) -> NDArray[Any]:
    """Return an array ``(n, *contract.shape)``; the axis of examples and that of a single channel may be absent."""
    shapes = [contract.shape]
    if contract.kind == "image" and contract.shape[0] == 1:
        shapes.append(contract.shape[1:])
    for shape in shapes:
        if values.shape == shape:
            return values.reshape(1, *contract.shape)
        if values.ndim and values.shape[1:] == shape:
            return values.reshape(len(values), *contract.shape)
    allowed = " or ".join(f"({', '.join(map(str, ('n', *shape)))})" for shape in shapes)
    raise UserError(f"examples: got the shape {values.shape}; allowed: {allowed}, or one example without n")
