"""Stage decode: decode the pictures of a folder or an archive once, for all subsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ppml.config.datasets import PARTS, Dataset, FolderDataset, TorchvisionDataset, parse_dataset
from ppml.data.sources import file_key, require_checksum
from ppml.io.atomic import write_bytes
from ppml.jobs.job import Job


def run(job: Job) -> None:
    """Write the pictures and labels of each part.

    The specification holds the entry of the data set, as source; the notes hold the folder of pictures of a user. The
    inputs are the archives.
    """
    # The folder is no part of the specification: its listing is, so that a moved folder is not decoded again.
    folder = {"folder": job.notes["folder"]} if "folder" in job.notes else {}
    spec = parse_dataset({**job.spec["source"], **folder})
    for file in spec.files:
        require_checksum(job.inputs[file_key(file)], file)
    write_bytes(job.outputs["decoded"], save(_decoded(spec, job)))


def _decoded(spec: Dataset, job: Job) -> dict[str, NDArray[np.generic]]:
    match spec:
        case FolderDataset():
            from ppml.data.formats.folder import decode_folder

            # The archive of a publisher, or the folder of a user, whose listing is a part of the specification.
            return decode_folder(spec, Path(spec.folder) if spec.folder else next(iter(job.inputs.values())))
        case TorchvisionDataset():
            from ppml.data.formats.pictures import picture_examples
            from ppml.data.formats.torchvision_data import read_torchvision, torchvision_folder

            found: dict[str, NDArray[np.generic]] = {}
            with torchvision_folder(spec, job.inputs, PARTS) as unpacked:
                for part in PARTS:
                    pictures, labels = read_torchvision(spec, unpacked, part)
                    place = f"torchvision.datasets.{spec.dataset}, {part}"
                    examples = picture_examples(spec, pictures, labels, (place, place))
                    found |= {f"{part}_images": examples.inputs, f"{part}_labels": examples.labels}
            return found
    raise ValueError(f"kind {spec.kind!r} needs no decoding")
