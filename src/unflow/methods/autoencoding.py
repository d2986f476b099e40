"""Autoencoding: train the room in which latent models live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.autoencoders import Autoencoder
from unflow.errors import InputError
from unflow.methods.base import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    require_batch,
    trainable_copy,
)  # fmt: skip


class ReconstructionLoss(nn.Module):
    """E ||decode(encode(x) + noise) - x||^2 / dim."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of images x [batch, *shape] and noise [batch, latent]."""
        return (self.net(x, noise) - x).square().mean()


@dataclass(frozen=True, kw_only=True)
class Autoencoding(Training):
    """Minimise the squared error of reconstructions from slightly noisy latents of unit variance.

    The noise keeps near latents near in the image, so that a sample which misses the law of the latents
    a little still decodes to an image.

    Attributes:
        noise: standard deviation added to the latents (whose own is 1).
        flip: whether images are mirrored at random.
    """

    steps: int = 2000
    learning_rate: float = 2e-3
    noise: float = 0.1
    flip: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    shares_batches: ClassVar[bool] = False

    def check(self, problem: Problem) -> None:
        """Raise InputError unless the model is an autoencoder."""
        super().check(problem)
        autoencoder_of(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the images."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "images")
        latents = torch.empty(0, *autoencoder_of(problem).latent_shape)
        return {"data": problem.data, "latents": latents}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the autoencoder."""
        net = trainable_copy(autoencoder_of(problem).net)
        return {"net": Part(ReconstructionLoss(net), net, self.learning_rate)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw images, and noise for their latents."""
        x = prepared["data"][draw_rows(len(prepared["data"]), self.batch_size, generator)]
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
        noise = torch.randn(len(x), *prepared["latents"].shape[1:], generator=generator)
        return {"x": x, "noise": self.noise * noise}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        return {"loss": descend("net", batch["x"], batch["noise"])}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the autoencoder."""
        return Autoencoder(parts["net"].average)


def autoencoder_of(problem: Problem) -> Autoencoder:
    """Return the problem's model, an autoencoder.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(problem.model, Autoencoder):
        raise InputError(f"got a {type(problem.model).__name__} to train; expected an Autoencoder")
    return problem.model
