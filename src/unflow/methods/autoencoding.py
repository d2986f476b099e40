"""Autoencoding: train the room in which latent models live."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.autoencoders import Autoencoder
from unflow.classifiers import mirrored
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
from unflow.methods.perceptual import PerceptualDistance
from unflow.nets import ConvAutoencoder


class ReconstructionLoss(nn.Module):
    """E ||y - x||^2 / dim + a d(y, x) + b CE(read(z), label), z = encode(x), y = decode(z + noise).

    Args:
        net: the network of an autoencoder.
        distance: d, and its weight a.
        reader: read, linear from latents to logits, and its weight b.
    """

    def __init__(
        self,
        net: ConvAutoencoder,
        distance: tuple[PerceptualDistance, float] | None = None,
        reader: tuple[nn.Linear, float] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.distance: PerceptualDistance | None
        self.reader: nn.Linear | None
        self.distance, self.distance_weight = distance or (None, 0.0)
        self.reader, self.reader_weight = reader or (None, 0.0)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the loss of images x [batch, *shape], noise [batch, latent] and label [batch]."""
        z = self.net.encode(x)
        y = self.net.decode(z + noise)
        loss = (y - x).square().mean()
        if self.distance is not None:
            loss = loss + self.distance_weight * self.distance(y, x)
        if self.reader is not None:
            assert label is not None
            loss = loss + self.reader_weight * nnf.cross_entropy(self.reader(z), label)
        return loss


@dataclass(frozen=True, kw_only=True)
class Autoencoding(Training):
    """Minimise the error of reconstructions from slightly noisy latents of unit variance.

    The noise keeps near latents near in the image, so that a sample which misses the law of the latents
    a little still decodes to an image. Squared error alone makes photographs blurred beyond what a
    classifier can tell; a critic's eye (``perceptual``) and latents in which classes are apart
    (``labels``) make samples worth judging.

    Attributes:
        noise: standard deviation added to the latents (whose own is 1).
        flip: whether images are mirrored at random.
        perceptual: weight of the perceptual distance, >= 0; needs a critic.
        labels: weight of the cross entropy of labels, read linearly off the latents, >= 0; needs labels.
    """

    steps: int = 2000
    learning_rate: float = 2e-3
    noise: float = 0.1
    flip: bool = False
    perceptual: float = 0.0
    labels: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    shares_batches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("perceptual", "labels"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number >= 0")

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return the images, and what the weighted terms need."""
        terms = {"critic": self.perceptual, "labels": self.labels}
        return self.needs | {name for name, weight in terms.items() if weight}

    def check(self, problem: Problem) -> None:
        """Raise InputError unless the model is an autoencoder, and the critic one that can be looked into."""
        super().check(problem)
        autoencoder_of(problem)
        self._distance(problem)

    def _distance(self, problem: Problem) -> tuple[PerceptualDistance, float] | None:
        if not self.perceptual:
            return None
        assert problem.critic is not None
        return PerceptualDistance(problem.critic), self.perceptual

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the images, and their labels if they are used."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "images")
        latents = torch.empty(0, *autoencoder_of(problem).latent_shape)
        prepared = {"data": problem.data, "latents": latents}
        if self.labels:
            assert problem.labels is not None
            prepared["label"] = problem.labels
        return prepared

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the autoencoder, and beside it what reads labels off its latents."""
        net = trainable_copy(autoencoder_of(problem).net)
        trained, reader = nn.ModuleList([net]), None
        if self.labels:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                reader = nn.Linear(prepared["latents"].shape[1], int(prepared["label"].max()) + 1)
            trained.append(reader.to(prepared["latents"].device))
        loss = ReconstructionLoss(net, self._distance(problem), (reader, self.labels) if reader else None)
        return {"net": Part(loss, trained, self.learning_rate)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw images, noise for their latents, and their labels if they are used."""
        rows = draw_rows(len(prepared["data"]), self.batch_size, generator)
        x = prepared["data"][rows]
        if self.flip:
            x = mirrored(x, generator)
        noise = torch.randn(len(x), *prepared["latents"].shape[1:], generator=generator)
        batch = {"x": x, "noise": self.noise * noise}
        return batch | ({"label": prepared["label"][rows]} if self.labels else {})

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        label = (batch["label"],) if self.labels else ()
        return {"loss": descend("net", batch["x"], batch["noise"], *label)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the autoencoder."""
        trained = parts["net"].average
        assert isinstance(trained, nn.ModuleList)
        return Autoencoder(trained[0])


def autoencoder_of(problem: Problem) -> Autoencoder:
    """Return the problem's model, an autoencoder.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(problem.model, Autoencoder):
        raise InputError(f"got a {type(problem.model).__name__} to train; expected an Autoencoder")
    return problem.model
