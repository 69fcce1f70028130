"""Transforms of the data: each makes other inputs of the examples, by a rule that no example decides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ppml.config.spec import Spec, config_error
from ppml.contract import DataContract

SCATTERING_CHANNELS = 81
"""Coefficients of one place and channel: two scales, eight directions, order two."""
SMALLEST_SIDE, LARGEST_SIDE = 8, 64
"""Pixels of the images that have scattering features."""


class Scattering(Spec):
    """Scattering coefficients (arXiv 2011.11660), whitened by synthetic images: no example of the data enters."""

    kind: Literal["scattering"] = "scattering"
    prior: Literal["strokes", "dead_leaves", "none"] = Field(
        default="strokes",
        description="Synthetic images that the whitening is learned from. `strokes`: random curves of a pen, for grey "
        "images. `dead_leaves`: random discs that cover each other. `none`: all coefficients, without whitening.",
    )
    components: int = Field(
        default=1000,
        ge=1,
        description="Principal directions kept by the whitening, at most the coefficients: 3,969 for 1x28x28.",
    )
    regularization: float = Field(
        default=1.0e-3, gt=0, description="Added to the variance of each direction before the division by its root."
    )
    strokes: int = Field(
        default=8000,
        ge=2,
        description="Number of synthetic images; the mean and the directions are learned from them.",
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
    shift: float = Field(default=1.5, ge=0, le=64, description="Of a copy, at most, in pixels.")
    flip: bool = Field(
        default=False,
        description="Every second copy is flipped from left to right after its deformation. Not for digits.",
    )

    def output(self, contract: DataContract) -> DataContract:
        """Return the contract of the features of data with ``contract``; raise a configuration error without any."""
        sides = contract.shape[1:]
        if contract.kind != "image" or min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
            raise config_error(
                f"transform 'scattering' on {contract}: allowed: images from {SMALLEST_SIDE}x{SMALLEST_SIDE} to "
                f"{LARGEST_SIDE}x{LARGEST_SIDE} pixels"
            )
        coefficients = coefficient_count(contract.shape)
        if self.prior == "none":
            return contract.features(coefficients + 1)
        if self.prior == "strokes" and contract.shape[0] != 1:
            raise config_error(
                f"transform 'scattering' with prior 'strokes' on {contract}: strokes are grey; allowed: dead_leaves, "
                "none"
            )
        if self.components > coefficients:
            raise config_error(
                f"transform 'scattering' with components {self.components} on {contract}: at most {coefficients} "
                "are allowed"
            )
        return contract.features(self.components + 1)

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Paths and random draws of arms without later keys do not depend on these keys.
        content: dict[str, Any] = serialize(self)
        later = {"prior": "strokes", "flip": False}
        return {key: value for key, value in content.items() if key not in later or value != later[key]}


def coefficient_count(shape: tuple[int, ...]) -> int:
    """Return the number of scattering coefficients of an image of ``shape``: channels, height, width."""
    return shape[0] * SCATTERING_CHANNELS * ((max(shape[1:]) + 4) // 4 - 1) ** 2


class Binned(Spec):
    """Each number of a table as one of several equal bins of its declared range: inputs of 0 and 1."""

    kind: Literal["binned"] = "binned"
    bins: int = Field(default=16, ge=2, le=256, description="Number of bins between the low and the high of a number.")

    def output(self, contract: DataContract) -> DataContract:
        """Return the contract of the binned table; raise a configuration error without numbers in a declared range."""
        if contract.kind != "table" or not contract.numbers:
            raise config_error(
                f"transform 'binned' on {contract}: allowed: tables with a number whose low and high are declared"
            )
        if contract.fitted:
            raise config_error(
                f"transform 'binned' on {contract}: column {contract.fitted[0]!r} has the scale fitted, which bins do "
                "not read; state low and high"
            )
        columns = [
            entry
            for name in contract.columns
            for entry in ([f"{name}: bin {bin}" for bin in range(self.bins)] if name in contract.numbers else [name])
        ]
        changes = {"shape": (len(columns),), "columns": tuple(columns), "numbers": (), "mean": (0.0,)}
        return contract.model_copy(update={**changes, "deviation": (1.0,)})


Transform = Annotated[Scattering | Binned, Field(discriminator="kind")]


def transformed_contract(contract: DataContract, transforms: Iterable[Scattering | Binned]) -> DataContract:
    """Return the contract of data after all transforms; raise a configuration error if one does not fit."""
    for transform in transforms:
        contract = transform.output(contract)
    return contract
