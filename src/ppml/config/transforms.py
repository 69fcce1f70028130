"""Transforms of the data: each makes other inputs of the examples, by a rule that no example decides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ppml.config.spec import Spec, config_error
from ppml.contract import DataContract

SCATTERED_SHAPE = (1, 28, 28)
"""The shape of the images that have scattering features."""


class Scattering(Spec):
    """Scattering coefficients (arXiv 2011.11660), whitened by random strokes: no example of the data enters."""

    kind: Literal["scattering"] = "scattering"
    components: int = Field(
        default=1000, ge=1, le=3969, description="Principal directions kept of the 3,969 coefficients."
    )
    regularization: float = Field(
        default=1.0e-3, gt=0, description="Added to the variance of each direction before the division by its root."
    )
    strokes: int = Field(
        default=8000,
        ge=2,
        description="Random drawings, made of no data; the mean and the directions are learned from them.",
    )
    copies: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Copies of each training image: the image itself, and others deformed at random. The gradient of "
        "an example is the mean over its copies, and is clipped as one.",
    )
    views: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Copies of each image to predict, made in the same way. The model predicts from the mean of their "
        "features, which is the mean of their logits.",
    )
    rotation: float = Field(default=10.0, ge=0, le=180, description="Of a copy, at most, in degrees.")
    shear: float = Field(default=0.1, ge=0, lt=1, description="Of a copy, at most, relative to its height.")
    scale: float = Field(default=0.1, ge=0, lt=1, description="Change of a copy's width and height, at most, relative.")
    shift: float = Field(default=1.5, ge=0, le=28, description="Of a copy, at most, in pixels.")

    def output(self, contract: DataContract) -> DataContract:
        """Return the contract of the features of data with ``contract``; raise a configuration error without any."""
        if contract.kind != "image" or contract.shape != SCATTERED_SHAPE:
            raise config_error(f"transform 'scattering' on {contract}: allowed: 1x28x28 images")
        return contract.features(self.components + 1)


Transform = Scattering
"""A transform of the configuration; with a second kind, this becomes a union that ``kind`` discriminates."""
