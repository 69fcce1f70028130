"""Transforms of the data: each makes other inputs of the examples, by a rule that no example decides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ppml.config.spec import Spec, config_error
from ppml.contract import DataContract

SCATTERING_CHANNELS = 81
"""Coefficients of one place and channel: two scales, eight directions, order two."""
SMALLEST_SIDE, LARGEST_SIDE = 8, 64
"""Pixels of the images that have scattering features."""


class FeatureTransform(Spec):
    """Features of images by a fixed rule: coefficients of an image and of its copies, whitened by synthetic images."""

    kind: str
    prior: Literal["strokes", "dead_leaves", "none"]
    components: int = Field(
        default=1000,
        ge=1,
        description="Principal directions kept by the whitening, at most the coefficients and the synthetic images.",
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
    mirror: bool = Field(
        default=False,
        description="The coefficients are the mean of those of the image and of its mirror image, so that both "
        "have the same features. Not where left and right matter, as for digits.",
    )

    def coefficients(self, shape: tuple[int, ...]) -> int:
        """Return the number of coefficients, before whitening, of an image of ``shape``: channels, height, width."""
        raise NotImplementedError

    def output(self, contract: DataContract) -> DataContract:
        """Return the contract of the features of data with ``contract``; raise a configuration error without any."""
        place = f"transform {self.kind!r}"
        sides = contract.shape[1:]
        if contract.kind != "image" or min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
            raise config_error(
                f"{place} on {contract}: allowed: images from {SMALLEST_SIDE}x{SMALLEST_SIDE} to "
                f"{LARGEST_SIDE}x{LARGEST_SIDE} pixels"
            )
        coefficients = self.coefficients(contract.shape)
        if self.prior == "none":
            return contract.features(coefficients + 1)
        if self.prior == "strokes" and contract.shape[0] != 1:
            others = [prior for prior in get_args(type(self).model_fields["prior"].annotation) if prior != "strokes"]
            raise config_error(
                f"{place} with prior 'strokes' on {contract}: strokes are grey; allowed: {', '.join(others)}"
            )
        if self.components > coefficients:
            raise config_error(
                f"{place} with components {self.components} on {contract}: at most {coefficients} are allowed"
            )
        return contract.features(self.components + 1)

    @model_validator(mode="after")
    def _check_components(self) -> Self:
        if self.prior != "none" and self.components > self.strokes:
            raise config_error(
                f"components: {self.components}; at most {self.strokes} are allowed, the number of synthetic images "
                "(strokes), which have no more directions"
            )
        return self


class Scattering(FeatureTransform):
    """Scattering coefficients (arXiv 2011.11660), whitened by synthetic images: no example of the data enters."""

    kind: Literal["scattering"] = "scattering"
    prior: Literal["strokes", "dead_leaves", "none"] = Field(
        default="strokes",
        description="Synthetic images that the whitening is learned from. `strokes`: random curves of a pen, for grey "
        "images. `dead_leaves`: random discs that cover each other. `none`: all coefficients, without whitening.",
    )

    def coefficients(self, shape: tuple[int, ...]) -> int:
        """Return the number of coefficients: 3,969 for 1x28x28."""
        return shape[0] * SCATTERING_CHANNELS * ((max(shape[1:]) + 4) // 4 - 1) ** 2

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Paths and random draws of arms without later keys do not depend on these keys.
        content: dict[str, Any] = serialize(self)
        later = {"prior": "strokes", "mirror": False}
        return {key: value for key, value in content.items() if key not in later or value != later[key]}


class Patches(FeatureTransform):
    """Similarities to patches of synthetic images (after Coates, Ng and Lee 2011): no example of the data enters."""

    kind: Literal["patches"] = "patches"
    prior: Literal["strokes", "dead_leaves"] = Field(
        default="dead_leaves",
        description="Synthetic images that give the patches, and that the whitening is learned from. `dead_leaves`: "
        "random discs that cover each other. `strokes`: random curves of a pen, for grey images.",
    )
    patches: int = Field(
        default=1024, ge=2, le=8192, description="Number of patches that each place of an image is compared with."
    )
    size: int = Field(default=5, ge=3, le=SMALLEST_SIDE, description="Height and width of a patch, in pixels.")
    grid: int = Field(
        default=3,
        ge=1,
        le=8,
        description="The similarities are averaged over this number of areas down, and across: the coefficients are "
        "patches * grid * grid.",
    )

    def coefficients(self, shape: tuple[int, ...]) -> int:
        """Return the number of coefficients: 9,216 with 1,024 patches, for each shape."""
        return self.patches * self.grid**2


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


Transform = Annotated[Scattering | Patches | Binned, Field(discriminator="kind")]


def transformed_contract(contract: DataContract, transforms: Iterable[Scattering | Patches | Binned]) -> DataContract:
    """Return the contract of data after all transforms; raise a configuration error if one does not fit."""
    for transform in transforms:
        contract = transform.output(contract)
    return contract
