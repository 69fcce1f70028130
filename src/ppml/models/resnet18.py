"""The network of the Dataset Anonymizer: torchvision's ResNet18, valid under differential privacy."""

from __future__ import annotations

import math

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

GROUPS = 32
"""At most so many groups of channels, as Opacus' validator chooses them (arXiv 1803.08494)."""


class ResNet18(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ``resnet18``, not pretrained, with group normalisation.

    It has 11,175,370 parameters for 1x28x28 and 10 classes. The first convolution is ``Conv2d(channels, 64, 7,
    stride=2, padding=3, bias=False)``. Batch normalisation mixes examples, which differential privacy forbids: each is
    replaced as Opacus' ``ModuleValidator.fix`` replaces it. Nothing is changed in place, which Opacus' hooks would
    refuse (its issue 828).

    Parameters
    ----------
    shape : tuple of int
        The shape of an image: channels, height and width.
    classes : int
        The number of classes; the output holds logits ``(n, classes)``.
    generator : torch.Generator
        The source of all initial weights.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        # On the meta device torchvision draws nothing: its weights would come from the global generator.
        with torch.device("meta"):
            super().__init__(OutOfPlaceBlock, [2, 2, 2, 2], num_classes=classes, norm_layer=group_norm)
            self.conv1 = nn.Conv2d(shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
            self.relu = nn.ReLU(inplace=False)
        self.to_empty(device="cpu")
        initialise(self, generator)


class OutOfPlaceBlock(BasicBlock):  # type: ignore[misc]  # torchvision has no types
    """A residual block of two convolutions that changes no tensor in place."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)
        self.relu = nn.ReLU(inplace=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the block's features, shape ``(n, channels, height, width)``."""
        kept = images if self.downsample is None else self.downsample(images)
        features = self.relu(self.bn1(self.conv1(images)))
        return torch.relu(self.bn2(self.conv2(features)) + kept)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the replacement of the batch normalisation of ``channels`` channels."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights as torchvision does: He's normal rule for convolutions, torch's own for the linear layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
