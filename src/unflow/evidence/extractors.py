"""Feature extractors that no guide or judge of an audit has shaped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.energies.imagenet import SIZE, ImageNetClassifier
from unflow.ground.errors import InputError

SMALLEST = 64
"""Smallest side to which images are resized: the network halves it five times."""
BATCH = 64
"""Images in one call."""


class Extractor(Protocol):
    """Features of samples, for distances."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError for samples of a shape [*shape] that it cannot read."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return the features [n, num_features] of samples [n, *shape]."""
        ...


class ImageNetExtractor:
    """Images [n, 1 or 3, h, w] in [-1, 1] to features [n, 1280] of EfficientNet-Lite0, trained on ImageNet.

    Images are resized to twice their side, to at least ``SMALLEST`` and at most 224 pixels; grey ones get
    three equal channels. Weights and licence: ``ImageNetClassifier``.

    Raises:
        InputError: without the packages of the extra ``imagenet``.
    """

    def __init__(self) -> None:
        self.net = ImageNetClassifier()

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError for samples that are not images of one or three channels."""
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(
                f"got samples of shape {list(shape)} for the extractor imagenet; expected images of one or "
                "three channels: leave the extractor out"
            )

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n 1280"]:
        """Return the input of the network's last layer."""
        self.check(tuple(x.shape[1:]))
        side = min(SIZE, max(SMALLEST, 2 * max(x.shape[2:])))
        batches = torch.split(x.float().clamp(-1, 1).expand(-1, 3, -1, -1), BATCH)
        return torch.cat([self.net.features(batch, side) for batch in batches])


EXTRACTORS: dict[str, Callable[[], Extractor]] = {"imagenet": ImageNetExtractor}
"""Name on the command line -> a new extractor."""
