"""Autoencoding: train the autoencoder of a latent model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unflow.ground.errors import InputError
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import mirror_randomly
from unflow.nets import initial_weights
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    require_batch,
    trainable_copy,
)
from unflow.training.originals.reconstruction import FrozenCritic, ReconstructionLoss


@dataclass(frozen=True, kw_only=True)
class Autoencoding(Training):
    """Minimise the reconstruction error of images from slightly noisy latents of unit variance.

    The noise makes the decoder smooth, so that a latent slightly off the law of the data's latents still
    decodes to an image. Squared error alone blurs photographs so much that a classifier cannot recognise
    them. Three further terms help: a perceptual distance, latents that separate classes (``labels``), and
    decoded images that show the class of their latents (``consistency``).

    Attributes:
        noise: standard deviation of the noise on the latents (whose own is 1).
        flip: whether images are mirrored at random.
        perceptual: weight of the perceptual distance, >= 0; needs a critic.
        labels: weight of the cross entropy of a linear classifier on the latents, >= 0; needs labels.
        consistency: weight, >= 0, of the cross entropy between the critic's class of an image decoded from
            latents near or far from the data's and the linear classifier's class of those latents; needs a
            critic, and ``labels`` > 0.
        reach: standard deviation of the noise on those latents.
    """

    steps: int = 2000
    learning_rate: float = 2e-3
    noise: float = 0.1
    flip: bool = False
    perceptual: float = 0.0
    labels: float = 0.0
    consistency: float = 0.0
    reach: float = 0.3

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    shares_batches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("perceptual", "labels", "consistency"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number >= 0")
        if self.consistency and not self.labels:
            raise InputError("got consistency > 0 and labels=0; expected labels > 0: write labels=1.0")

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return data, and the fields that the terms with a weight > 0 need."""
        terms = {"critic": self.perceptual or self.consistency, "labels": self.labels}
        return self.needs | {name for name, weight in terms.items() if weight}

    def check(self, problem: Problem) -> None:
        """Raise InputError unless the model is an autoencoder, and the network of a critic is a ResNet."""
        super().check(problem)
        autoencoder_of(problem)
        if problem.critic is not None:
            FrozenCritic(problem.critic)

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
        """Return the autoencoder, and the linear classifier on its latents if there is one."""
        net = trainable_copy(autoencoder_of(problem).net)
        critic = None if problem.critic is None else FrozenCritic(problem.critic)
        reader = self._reader(prepared, seed) if self.labels else None
        loss = ReconstructionLoss(
            net, critic, reader, perceptual=self.perceptual, labels=self.labels, consistency=self.consistency
        )
        trained = nn.ModuleList([net] if reader is None else [net, reader])
        return {"net": Part(loss, trained, self.learning_rate)}

    def _reader(self, prepared: Tensors, seed: int) -> nn.Linear:
        latents, classes = prepared["latents"], int(prepared["label"].max()) + 1
        with initial_weights(seed):
            return nn.Linear(latents.shape[1], classes).to(latents.device)

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw images, noise for their latents, and the tensors of the terms with a weight > 0."""
        rows = draw_rows(len(prepared["data"]), self.batch_size, generator)
        x = prepared["data"][rows]
        if self.flip:
            x = mirror_randomly(x, generator)
        shape = (len(x), *prepared["latents"].shape[1:])
        batch = {"x": x, "noise": self.noise * torch.randn(shape, generator=generator)}
        if self.labels:
            batch["label"] = prepared["label"][rows]
        if self.consistency:
            batch["far"] = self.reach * torch.randn(shape, generator=generator)
            batch["turn"] = torch.randn(len(x), 4, generator=generator)
        return batch

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        order = ("x", "noise", "label", "far", "turn")
        return {"loss": descend("net", *(batch[name] for name in order if name in batch))}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the autoencoder."""
        trained = parts["net"].average
        assert isinstance(trained, nn.ModuleList)
        return Autoencoder(trained[0])


def autoencoder_of(problem: Problem) -> Autoencoder:
    """Return the problem's model, an autoencoder.

    Raises:
        InputError: for any other model.
    """
    if not isinstance(problem.model, Autoencoder):
        raise InputError(f"got a {type(problem.model).__name__} to train; expected an Autoencoder")
    return problem.model
