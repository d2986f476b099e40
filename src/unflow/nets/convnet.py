"""A small convolutional classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unflow.nets.limits import check_options


class ConvNet(nn.Module):
    """Strided 3x3 convolutions with GroupNorm, then one hidden layer: images [batch, c, h, w] -> logits.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of classes.
        width: channels of the first layer; a multiple of 8; doubled at the first two halvings.
        depth: convolutions, all but the first of which halve the image.
        num_features: hidden features before the logits; distances between images use them.
    """

    def __init__(
        self, shape: Sequence[int], outputs: int, width: int = 32, depth: int = 3, num_features: int = 64
    ) -> None:
        super().__init__()
        self.config = {
            "net": "convnet",
            "shape": list(shape),
            "outputs": outputs,
            "width": width,
            "depth": depth,
            "num_features": num_features,
        }
        check_options(self.config)
        channels, height, span = shape
        layers: list[nn.Module] = []
        for i in range(depth):
            out = width * 2 ** min(i, 2)
            stride = 1 if i == 0 else 2
            layers += [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(8, out), nn.ReLU()]
            channels = out
            if stride == 2:
                height, span = (height + 1) // 2, (span + 1) // 2
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * height * span, num_features), nn.ReLU()
        )
        self.last = nn.Linear(num_features, outputs)

    def features(self, x: Tensor) -> Tensor:
        """Return the hidden features, [batch, num_features]."""
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, outputs]."""
        logits: Tensor = self.last(self.features(x))
        return logits
