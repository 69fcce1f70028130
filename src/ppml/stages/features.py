"""Rule features: what arms with features are trained and evaluated on, once for all of them and their seeds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Write the features of the training subset, ``(n, copies, features)``, and of the evaluation file.

    ``--spec`` holds features and root_seed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    for name in ("train", "test", "output-train", "output-test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args(argv)

    import torch

    from ppml.config.features import Scattering
    from ppml.data.transforms.extractor import ScatteringFeatures
    from ppml.randomness import Randomness
    from ppml.stages.example_files import read_ink, write_features

    torch.set_num_threads(1)
    spec = arguments.spec
    train, test = read_ink(arguments.train), read_ink(arguments.test)
    features = ScatteringFeatures(
        Scattering.model_validate(spec["features"]), Randomness(spec["root_seed"]).child("features")
    )
    write_features(arguments.output_train, features.copies(train.images), train.labels)
    write_features(arguments.output_test, features.viewed(test.images), test.labels)
