"""A convolutional autoencoder between images and short vectors of unit variance."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.limits import check_options


class ConvAutoencoder(nn.Module):
    """Strided convolutions to a vector of ``latent`` numbers, and transposed convolutions back.

    Running statistics standardise the latents (BatchNorm without parameters), so that they have the scale of
    a flow from N(0, 1). Images are in [-1, 1].

    Args:
        shape: (channels, height, width) of one image; both sides divisible by 2^depth.
        latent: numbers per image.
        width: channels after the first halving, a multiple of 8; each further halving doubles them.
        depth: halvings, 1 or more.

    Raises:
        InputError: for a shape that cannot be halved ``depth`` times.
    """

    def __init__(self, shape: Sequence[int], latent: int = 16, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        check_halvings("an autoencoder", shape, width, depth)
        channels, *sides = shape
        self.config = {
            "net": "conv_autoencoder",
            "shape": list(shape),
            "latent": latent,
            "width": width,
            "depth": depth,
        }
        check_options(self.config)
        self.shape, self.latent = tuple(shape), latent
        widths = [width * 2**i for i in range(depth)]
        self._small = (widths[-1], *(side // 2**depth for side in sides))
        flat = self._small[0] * self._small[1] * self._small[2]
        down: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent))
        self.standardise = nn.BatchNorm1d(latent, affine=False)
        self.from_latent = nn.Linear(latent, flat)
        self.decoder = make_decoder(widths[::-1], channels)

    def encode(self, x: Tensor) -> Tensor:
        """Return latents [batch, latent] of images [batch, *shape]."""
        z: Tensor = self.standardise(self.encoder(x))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return images [batch, *shape] of latents [batch, latent]."""
        x: Tensor = self.decoder(self.from_latent(z).reshape(len(z), *self._small))
        return x

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the reconstruction, with ``noise`` [batch, latent] added to the latents."""
        z = self.encode(x)
        return self.decode(z if noise is None else z + noise)


def make_decoder(widths: Sequence[int], channels: int) -> nn.Sequential:
    """Return transposed convolutions from small maps of ``widths[0]`` channels to images in [-1, 1].

    Args:
        widths: channels before each doubling of the sides, multiples of 8.
        channels: of an image.
    """
    up: list[nn.Module] = []
    for before, after in zip(widths, [*widths[1:], channels], strict=True):
        up += [nn.GroupNorm(8, before), nn.SiLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
    return nn.Sequential(*up, nn.Tanh())


def check_halvings(kind: str, shape: Sequence[int], width: int, depth: int) -> None:
    """Raise InputError unless images of a shape can be halved ``depth`` times; ``kind`` names the network."""
    if len(shape) != 3 or width % 8:
        raise InputError(
            f"got shape={list(shape)} and width={width} for {kind}; expected images (channels, "
            "height, width) and a width that is a multiple of 8"
        )
    sides = shape[1:]
    if depth < 1 or any(side % 2**depth for side in sides):
        raise InputError(
            f"got images {list(sides)} and depth={depth} for {kind}; expected sides that can "
            "be halved that often"
        )
