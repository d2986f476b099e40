"""Autoencoders: the room in which latent models live."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.nets import ConvAutoencoder, build_net, net_config
from unflow.nets.modes import evaluating

CODEC = ("encode", "decode", "shape", "latent_shape")
"""What another network than a ``ConvAutoencoder`` must have."""


class Autoencoder(nn.Module):
    """Images to latents of unit variance, and back.

    Args:
        net: a ``nets.ConvAutoencoder``, or another module with ``encode`` and ``decode`` between images of
            ``shape`` and latents of ``latent_shape``, such as ``hub.KLAutoencoder``.

    Raises:
        InputError: for another network.
    """

    def __init__(self, net: nn.Module) -> None:
        if not isinstance(net, ConvAutoencoder) and not all(hasattr(net, name) for name in CODEC):
            raise InputError(
                f"got a {type(net).__name__} as autoencoder; expected a nets.ConvAutoencoder, or a module "
                f"with {', '.join(CODEC)}"
            )
        super().__init__()
        codec: Any = net
        latent = (codec.latent,) if isinstance(net, ConvAutoencoder) else codec.latent_shape
        self.net = codec
        self.sample_shape: tuple[int, ...] = codec.shape
        self.latent_shape: tuple[int, ...] = latent

    @torch.no_grad()
    def encode(self, x: Tensor, batch_size: int = 1024) -> Tensor:
        """Return the latents [n, *latent_shape] of many images, without gradient and in evaluation mode."""
        with evaluating(self):
            return torch.cat([self.net.encode(chunk) for chunk in in_batches(x, batch_size)])

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [batch, *sample_shape] of latents [batch, *latent_shape]; gradients pass."""
        return self.net.decode(latents)

    @torch.no_grad()
    def decode_batches(self, latents: Tensor, batch_size: int = 1024) -> Tensor:
        """Return the images of many latents, without gradient."""
        return torch.cat([self.decode(chunk) for chunk in in_batches(latents, batch_size)])

    def forward(self, x: Tensor) -> Tensor:
        """Return reconstructions of images [batch, *sample_shape]."""
        return self.net(x)

    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data."""
        return {"autoencoder": net_config(self.net)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Autoencoder:
        """Rebuild the architecture, with fresh weights."""
        return Autoencoder(build_net(config["autoencoder"]))


class Encoding(nn.Module):
    """The latents of images, with gradient: an extractor for anchors. No labels are in it.

    Args:
        autoencoder: whose encoder is asked.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the latents, [batch, *latent_shape]."""
        return self.autoencoder.net.encode(x)
