"""What a model is trained on: images, or fixed features of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ppml.config.spec import Spec


class NoFeatures(Spec):
    """The images themselves."""

    kind: Literal["none"] = "none"


class Scattering(Spec):
    """Scattering coefficients (arXiv 2011.11660), whitened by random strokes: no record of anybody enters."""

    kind: Literal["scattering"] = "scattering"
    components: int = Field(
        default=1000, ge=1, le=3969, description="Principal directions kept of the 3,969 coefficients."
    )
    regularization: float = Field(
        default=1.0e-3, gt=0, description="Added to the variance of each direction before it is divided by its root."
    )
    strokes: int = Field(
        default=8000,
        ge=2,
        description="Random drawings, made of no data, that the mean and the directions are learned from.",
    )
    copies: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Copies of each training image, the first the image itself, the others deformed at random; the "
        "gradient of an example is the mean over its copies, and is clipped as one.",
    )
    views: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Copies of each image to predict, made in the same way; a prediction is by the mean of their "
        "features, which is the mean of their logits.",
    )
    rotation: float = Field(default=10.0, ge=0, le=180, description="Of a copy, at most, in degrees.")
    shear: float = Field(default=0.1, ge=0, lt=1, description="Of a copy, at most, relative to its height.")
    scale: float = Field(default=0.1, ge=0, lt=1, description="Change of a copy's width and height, at most, relative.")
    shift: float = Field(default=1.5, ge=0, le=28, description="Of a copy, at most, in pixels.")


Features = Annotated[NoFeatures | Scattering, Field(discriminator="kind")]
