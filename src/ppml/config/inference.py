"""Whether a model is also evaluated on encrypted images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ppml.config.spec import NumberOrAll, Spec


class NoInference(Spec):
    """Images are seen by whoever predicts."""

    kind: Literal["none"] = "none"


class CkksInference(Spec):
    """A server that has the model, and no key, predicts from images that their owner encrypts."""

    kind: Literal["ckks"] = "ckks"
    images: NumberOrAll = Field(
        default=4096, description="How many of the evaluation file, its first, are sent in batches; `all`: all of them."
    )
    singly: int = Field(default=10, ge=1, description="How many, the first, are also sent one by one.")


Inference = Annotated[NoInference | CkksInference, Field(discriminator="kind")]
