"""A generative adversarial network: a generator of samples against a critic, which may know classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.models import Generator
from unflow.training.critics import ClassCritic, PairLoss, deceive, make_critic, mark_penalised
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


class LabelledPairLoss(nn.Module):
    """The loss of pairs (``PairLoss``) + weight E[cross entropy of the logits of y and its label].

    Args:
        critic: D.
        weight: >= 0.
    """

    def __init__(self, critic: ClassCritic, weight: float) -> None:
        super().__init__()
        self.critic, self.pairs, self.weight = critic, PairLoss(critic), weight

    def forward(self, x: Tensor, y: Tensor, penalised: Tensor, r1: float, label: Tensor) -> Tensor:
        """Return the loss for samples x, data y with labels [batch], and the rows with a penalty."""
        value: Tensor = self.pairs(x, y, penalised, r1)
        return value + self.weight * nnf.cross_entropy(self.critic.logits(y), label)


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
             + labels E[CE(l(y), c)],                       D = log sum_k exp l_k
        L(G) = E[softplus(D(y) - D(G(z)))]

    y are the data with classes c, and z is drawn from the model's prior: the generator itself takes no label.
    Without penalty and labels, the best critic is D = log p_data - log p_G + a constant. A generator that
    drops a mode loses every pair there, and the penalties make the equilibrium stable: arXiv 2501.05441,
    Section 2. A critic that knows the classes (arXiv 1606.03498, Section 5) has logits that an image of one
    class raises and an image between two does not.

    Attributes:
        critic_rate: learning rate of the critic.
        r1: >= 0, gradient penalty of the critic at samples and data.
        labels: >= 0, weight of the classes in the critic's loss; 0: the critic reads no labels.
        width: of the critic (``make_critic``): channels of its first convolution; an MLP is 16 times as wide.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 6000
    batch_size: int = 64
    learning_rate: float = 5e-4
    critic_rate: float = 5e-4
    r1: float = 0.1
    labels: float = 1.0
    width: int = 16
    average: float = 0.998

    summary: ClassVar[str] = "a generator against a critic that tells its samples from the data"
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    families: ClassVar[frozenset[str]] = frozenset({"generator"})
    citation: ClassVar[str] = "2501.05441"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("r1", "labels"):
            if not getattr(self, name) >= 0:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number >= 0")
        if not self.critic_rate > 0:
            raise InputError(f"got critic_rate={self.critic_rate}; expected a number > 0")

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return the data, and the labels if they have a weight."""
        return self.needs | {"labels"} if self.labels > 0 else self.needs

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
        """Return the data, their labels if they have a weight, and a latent for its shape."""
        assert problem.data is not None
        require_batch(len(problem.data), self.batch_size, "training samples")
        prepared = {"data": problem.data, "latent": generator_of(problem).prior(1, generator)}
        if self.labels == 0:
            return prepared
        assert problem.labels is not None
        return prepared | {"label": problem.labels}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the critic, with fresh weights, and the generator, from its present weights."""
        model = trainable_copy(generator_of(problem))
        loss = self._make_loss(model, prepared, seed)
        critic = loss.critic
        return {
            "critic": Part(loss, critic, self.critic_rate, betas=BETAS),
            "generator": Part(
                DeceptionLoss(model, critic), model, self.learning_rate, betas=BETAS, decay=self.average
            ),
        }

    def _make_loss(self, model: Generator, prepared: Tensors, seed: int) -> PairLoss | LabelledPairLoss:
        """Return the loss around a fresh critic, which has a logit for each class if labels have a weight."""
        outputs = int(prepared["label"].max()) + 1 if self.labels > 0 else 1
        net = trainable_copy(make_critic(model.sample_shape, seed, self.width, outputs=outputs))
        return LabelledPairLoss(ClassCritic(net), self.labels) if self.labels > 0 else PairLoss(net)

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw latents and data, labels if they have a weight, and which rows are penalised."""
        data, latent = prepared["data"], prepared["latent"]
        z = torch.randn(self.batch_size, *latent.shape[1:], generator=generator).to(latent)
        rows = draw_rows(len(data), self.batch_size, generator)
        batch = {"z": z, "y": data[rows], "penalised": mark_penalised(self.batch_size)}
        return batch | ({"label": prepared["label"][rows]} if "label" in prepared else {})

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the generator, then one on the critic at the same samples."""
        labels = [batch["label"]] if "label" in batch else []
        generator, x = descend.with_outputs("generator", batch["z"], batch["y"])
        critic = descend("critic", x, batch["y"], batch["penalised"], self.r1, *labels)
        return {"generator": generator, "critic": critic}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged generator."""
        return parts["generator"].average


def generator_of(problem: Problem) -> Generator:
    """Return the problem's model, a generator."""
    assert isinstance(problem.model, Generator)
    return problem.model
