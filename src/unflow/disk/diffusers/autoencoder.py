"""AutoencoderKL as the network of an ``Autoencoder``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from unflow.disk.diffusers.package import Config, new_module
from unflow.disk.diffusers.unet import apply_in_chunks, sample_shape, shrinkage
from unflow.ground.errors import InputError

VAE = "AutoencoderKL"


class KLAutoencoder(nn.Module):
    """z = a (mean(x) - b), x = decode(z / a + b): a = scaling_factor, b = shift_factor (arXiv 2112.10752).

    mean(x) is the mean of the encoder's distribution. Decoded images are about in [-1, 1], not clipped.

    Args:
        vae: the options of AutoencoderKL.
        sample_size: height and width of an image, or one number for both; None: as in the options.

    Raises:
        InputError: for latents that are standardised by channel, or different numbers of input and output
            channels.
    """

    def __init__(self, vae: Config, sample_size: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.vae: Any = new_module(VAE, vae)
        options = self.vae.config
        if options.in_channels != options.out_channels or options.latents_mean or options.latents_std:
            raise InputError(
                f"got an AutoencoderKL of {options.in_channels} channels in and {options.out_channels} out, "
                f"latents_mean={options.latents_mean} and latents_std={options.latents_std}; expected as "
                "many out as in, and latents of one scaling_factor and shift_factor"
            )
        self.shape = sample_shape(options, sample_size)
        self.scale, self.shift = float(options.scaling_factor), float(options.shift_factor or 0.0)
        factor = shrinkage(options.block_out_channels)
        self.latent_shape = (options.latent_channels, *(side // factor for side in self.shape[1:]))
        size = None if sample_size is None else list(self.shape[1:])
        self.config: dict[str, Any] = {
            "builder": "unflow.hub:KLAutoencoder",
            "options": {"vae": vae, "sample_size": size},
        }

    @property
    def pixels(self) -> int:
        """The number of pixels of one image."""
        return self.shape[1] * self.shape[2]

    def encode(self, x: Tensor) -> Tensor:
        """Return latents [batch, *latent_shape] of images [batch, *shape]."""
        mean = apply_in_chunks(lambda rows: self.vae.encode(rows).latent_dist.mode(), self.pixels, x)
        return self.scale * (mean - self.shift)

    def decode(self, z: Tensor) -> Tensor:
        """Return images [batch, *shape] of latents [batch, *latent_shape]."""
        latents = z / self.scale + self.shift
        return apply_in_chunks(lambda rows: self.vae.decode(rows).sample, self.pixels, latents)

    def forward(self, x: Tensor) -> Tensor:
        """Return reconstructions of images [batch, *shape]."""
        return self.decode(self.encode(x))
