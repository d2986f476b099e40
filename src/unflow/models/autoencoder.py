"""Autoencoders: between images and the latents of a latent model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.nets import ConvAutoencoder, build_net, net_config
from unflow.nets.modes import evaluating

REQUIRED = ("encode", "decode", "shape", "latent_shape")
"""The attributes that a network other than ``ConvAutoencoder`` must have."""


class Autoencoder(nn.Module):
    """Images to latents of unit variance, and back.

    Args:
        net: a ``nets.ConvAutoencoder``, or another module with ``encode`` and ``decode`` between images of
            ``shape`` and latents of ``latent_shape``, such as ``disk.diffusers.KLAutoencoder``.

    Raises:
        InputError: for another network.
    """

    def __init__(self, net: nn.Module) -> None:
        if not isinstance(net, ConvAutoencoder) and not all(hasattr(net, name) for name in REQUIRED):
            raise InputError(
                f"got a {type(net).__name__} as autoencoder; expected a nets.ConvAutoencoder, or a module "
                f"with {', '.join(REQUIRED)}"
            )
        super().__init__()
        codec: Any = net
        latent = (codec.latent,) if isinstance(net, ConvAutoencoder) else codec.latent_shape
        self.net = codec
        self.sample_shape: tuple[int, ...] = codec.shape
        self.latent_shape: tuple[int, ...] = latent

    @torch.no_grad()
    def encode(
        self, x: Float[Tensor, " batch *shape"], batch_size: int = 1024
    ) -> Float[Tensor, " batch *latent"]:
        """Return the latents of many images, without gradient and in evaluation mode."""
        with evaluating(self):
            return torch.cat([self.net.encode(chunk) for chunk in in_batches(x, batch_size)])

    def decode(self, latents: Float[Tensor, " batch *latent"]) -> Float[Tensor, " batch *shape"]:
        """Return the images of latents; gradients pass."""
        images: Tensor = self.net.decode(latents)
        return images

    @torch.no_grad()
    def decode_batches(
        self, latents: Float[Tensor, " batch *latent"], batch_size: int = 1024
    ) -> Float[Tensor, " batch *shape"]:
        """Return the images of many latents, without gradient."""
        return torch.cat([self.decode(chunk) for chunk in in_batches(latents, batch_size)])

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """Return reconstructions of images."""
        images: Tensor = self.net(x)
        return images

    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data."""
        return {"autoencoder": net_config(self.net)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Autoencoder:
        """Rebuild the architecture, with fresh weights."""
        return Autoencoder(build_net(config["autoencoder"]))


class Encoding(nn.Module):
    """The latents of images, with gradient: an extractor for anchors that is trained without labels.

    Args:
        autoencoder: the autoencoder whose encoder computes the latents.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *latent"]:
        """Return the latents."""
        latents: Tensor = self.autoencoder.net.encode(x)
        return latents
