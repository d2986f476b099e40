"""A generative adversarial network: a generator and a critic are trained on samples, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.models import Generator
from unflow.training.critics import PairLoss, deceive, make_critic, mark_penalised
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

BETAS = (0.0, 0.99)
"""Decay rates of Adam's moments: no momentum, which two adversaries would amplify."""


class DeceptionLoss(nn.Module):
    """E[softplus(D(y) - D(G(z)))]; the critic is not trained, and so not registered here.

    Args:
        model: G.
        critic: D.
    """

    def __init__(self, model: Generator, critic: nn.Module) -> None:
        super().__init__()
        self.model, self._read = model, (critic,)

    def forward(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss for latents z and data y, and the samples without gradient for the critic."""
        (critic,) = self._read
        x = self.model.push(z)
        return deceive(critic, x, y), x.detach()


@dataclass(frozen=True, kw_only=True)
class GAN(Training):
    r"""Train a generator against a critic that tells which of a pair, a sample and an image, is the image.

        L(D) = E[softplus(D(G(z)) - D(y))] + r1/2 (E||grad D(G(z))||^2 + E||grad D(y)||^2)
        L(G) = E[softplus(D(y) - D(G(z)))]

    y are the data and z is drawn from the model's prior. Without the penalty, the best critic is
    D = log p_data - log p_G + a constant. A generator that drops a mode loses every pair there, and the
    penalties make the equilibrium stable: arXiv 2501.05441, Section 2. Their rows are a part of the batch.

    Attributes:
        critic_rate: learning rate of the critic.
        r1: >= 0, gradient penalty of the critic at samples and data.
        width: of the critic (``make_critic``): channels of its first convolution; an MLP is 16 times as wide.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 6000
    batch_size: int = 64
    learning_rate: float = 5e-4
    critic_rate: float = 5e-4
    r1: float = 0.2
    width: int = 16
    average: float = 0.998

    summary: ClassVar[str] = "a generator against a critic that tells its samples from the data"
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    families: ClassVar[frozenset[str]] = frozenset({"generator"})
    citation: ClassVar[str] = "2501.05441"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.r1 >= 0:
            raise InputError(f"got r1={self.r1}; expected a number >= 0")
        if not self.critic_rate > 0:
            raise InputError(f"got critic_rate={self.critic_rate}; expected a number > 0")

    def uncompilable(self) -> str:
        """Return the name of the gradient penalty's derivative, if there is a penalty."""
        return "the second derivative of a gradient penalty (r1 > 0)" if self.r1 > 0 else ""

    def check(self, problem: Problem) -> None:
        """Raise InputError without data, and for another model than a generator with a normal prior."""
        super().check(problem)
        model = problem.model
        if not isinstance(model, Generator) or model.prior_name != "normal":
            found = f"the prior {model.prior_name}" if isinstance(model, Generator) else type(model).__name__
            raise InputError(
                f"got {found} for GAN; expected a Generator with the prior normal, without conditions"
            )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the data, and a latent for its shape."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "training samples")
        return {"data": problem.data, "latent": generator_of(problem).prior(1, generator)}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the critic, with fresh weights, and the generator, from its present weights."""
        model = trainable_copy(generator_of(problem))
        critic = trainable_copy(make_critic(model.sample_shape, seed, self.width))
        return {
            "critic": Part(PairLoss(critic), critic, self.critic_rate, betas=BETAS),
            "generator": Part(
                DeceptionLoss(model, critic), model, self.learning_rate, betas=BETAS, decay=self.average
            ),
        }

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw latents and data, and which rows of the data are penalised."""
        data, latent = prepared["data"], prepared["latent"]
        z = torch.randn(self.batch_size, *latent.shape[1:], generator=generator).to(latent)
        rows = draw_rows(len(data), self.batch_size, generator)
        return {"z": z, "y": data[rows], "penalised": mark_penalised(self.batch_size)}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the generator, then one on the critic at the same samples."""
        generator, x = descend.with_outputs("generator", batch["z"], batch["y"])
        critic = descend("critic", x, batch["y"], batch["penalised"], self.r1)
        return {"generator": generator, "critic": critic}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged generator."""
        return parts["generator"].average


def generator_of(problem: Problem) -> Generator:
    """Return the problem's model, a generator."""
    assert isinstance(problem.model, Generator)
    return problem.model
