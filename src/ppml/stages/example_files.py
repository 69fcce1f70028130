"""The files of subsets, of transformed inputs and of partitions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ppml.contract import DataContract
from ppml.data.examples import Examples
from ppml.data.raw_examples import group_tensor
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_bytes

DTYPES = {"image": torch.uint8, "table": torch.float32, "features": torch.float16}
"""Type of stored inputs by kind of data.

Features take half the bytes of float32: 20 MB for 10,000 images of 1,001 features. They are below 1 in absolute value,
and at most 2^-11 of each is rounded off.
"""


def write_examples(
    path: str | Path,
    inputs: NDArray[Any] | torch.Tensor,
    labels: NDArray[np.int64] | torch.Tensor,
    contract: DataContract,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
) -> None:
    """Write raw inputs, ``(n, *contract.shape)`` or ``(n, copies, *contract.shape)``, and labels, int64 ``(n,)``.

    ``groups`` holds the group of each example, int64 ``(n,)``, by column.
    """
    tensors = {"inputs": torch.as_tensor(inputs).to(DTYPES[contract.kind]), "labels": torch.as_tensor(labels)}
    tensors |= {group_tensor(column): torch.as_tensor(values) for column, values in (groups or {}).items()}
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def read_examples(path: str | Path, contract: DataContract, device: str = "cpu") -> Examples:
    """Return the examples of a file, normalised with the public constants of ``contract``.

    Raises
    ------
    UserError
        The file is damaged, or does not fit the contract.
    """
    examples = read_raw_examples(path, contract)
    return Examples(normalise(examples.inputs, contract), examples.labels).to(device)


def read_raw_examples(path: str | Path, contract: DataContract) -> Examples:
    """Return the examples of a file before normalisation: pixels from 0 to 1, or the numbers of a table.

    Raises
    ------
    UserError
        As for :func:`read_examples`.
    """
    try:
        tensors = load_file(path)
        inputs, labels = tensors["inputs"], tensors["labels"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error}); move it away and run again") from None
    if inputs.dtype != DTYPES[contract.kind] or inputs.shape[-len(contract.shape) :] != contract.shape:
        raise UserError(
            f"{path}: has inputs {str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)}, which do not fit "
            f"{contract}; move it away and run again"
        )
    pixels = contract.kind == "image"
    return Examples(inputs.to(torch.float32) / 255.0 if pixels else inputs.to(torch.float32), labels)


def normalise(inputs: torch.Tensor, contract: DataContract) -> torch.Tensor:
    """Return inputs less the mean, divided by the deviation, of their channel or column."""
    if contract.kind == "features":
        return inputs
    if len(contract.mean) == len(contract.deviation) == 1:
        return (inputs - contract.mean[0]) / contract.deviation[0]
    axes = (-1, *(1 for _ in contract.shape[1:]))
    mean, deviation = (torch.tensor(values).view(axes) for values in (contract.mean, contract.deviation))
    return (inputs - mean) / deviation


def read_partition(path: str | Path) -> list[torch.Tensor]:
    """Return each client's positions in the training subset, int64."""
    return [torch.tensor(part, dtype=torch.int64) for part in read_json(path)["clients"]]


def split_by_owner(train: Examples, partition: str | Path | None) -> list[Examples]:
    """Return each owner's examples; without a partition, one owner has all."""
    if not partition:
        return [train]
    return [train.select(part.to(train.labels.device)) for part in read_partition(partition)]
