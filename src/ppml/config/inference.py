"""Prediction on encrypted images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ppml.config.spec import CountOrAll, Spec


class NoInference(Spec):
    """No prediction on encrypted images."""

    kind: Literal["none"] = "none"


class CkksInference(Spec):
    """A server with the model, and without a key, predicts images that their owner encrypts."""

    kind: Literal["ckks"] = "ckks"
    images: CountOrAll = Field(
        default=4096,
        description="Number of images, the first of the evaluation file, that are sent in batches; `all`: all images.",
    )
    single_images: int = Field(
        default=10, ge=1, description="Number of images, the first, that are also sent one by one."
    )


Inference = Annotated[NoInference | CkksInference, Field(discriminator="kind")]
