"""A convolutional generator of images from short vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.autoencoder import check_halvings, make_decoder
from unflow.nets.limits import check_options


class ConvGenerator(nn.Module):
    """G(z) by two linear layers and transposed convolutions: [batch, latent] -> [batch, *shape] in [-1, 1].

    GroupNorm, and not BatchNorm: an image depends on its latent alone, in training too.

    Args:
        shape: (channels, height, width) of one image; both sides divisible by 2^depth.
        latent: numbers per latent.
        width: channels before the last doubling, a multiple of 8; each earlier map has twice as many.
        depth: doublings, 1 or more.
        hidden: features between the linear layers, the only ones that see the whole image.

    Raises:
        InputError: for a shape that cannot be halved ``depth`` times, and for no latent or hidden features.
    """

    def __init__(
        self, shape: Sequence[int], latent: int = 64, width: int = 32, depth: int = 2, hidden: int = 256
    ) -> None:
        super().__init__()
        check_halvings("a generator", shape, width, depth)
        for name, number in (("latent", latent), ("hidden", hidden)):
            if number < 1:
                raise InputError(f"got {name}={number} for a generator; expected 1 or more")
        channels, *sides = shape
        self.config = {
            "net": "conv_generator",
            "shape": list(shape),
            "latent": latent,
            "width": width,
            "depth": depth,
            "hidden": hidden,
        }
        check_options(self.config)
        self.latent = latent
        widths = [width * 2**i for i in reversed(range(depth))]
        small = (widths[0], *(side // 2**depth for side in sides))
        last = nn.Linear(hidden, small[0] * small[1] * small[2])
        self.first = nn.Sequential(nn.Linear(latent, hidden), nn.SiLU(), last, nn.Unflatten(1, small))
        self.decoder = make_decoder(widths, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Return images [batch, *shape] of latents [batch, latent]."""
        x: Tensor = self.decoder(self.first(z))
        return x
