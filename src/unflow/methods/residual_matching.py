"""Residual matching (ours): kept latents keep their outputs, a critic matches the others to the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.energies import Energy
from unflow.ground.errors import InputError
from unflow.methods.latent_law import LatentLaw
from unflow.methods.latent_transport import LatentTransport
from unflow.models import GenerativeModel
from unflow.training.critics import CriticLoss, deceive, is_image, make_critic, mark_penalised
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    draw_weighted,
    model_of,
    require_batch,
    start_of,
    target_of,
    trainable_copy,
)
from unflow.training.rates import scale_rate

KEPT_ROWS = 3
"""Kept latents in a batch for each moved one: the critic, which is dear, reads none of them."""
RATE = 0.015
"""The learning rate of G relative to the size of its weights."""
PILOT = 1024
"""Latents that measure the share that moves."""
MAX_GROWTH = 8
"""The largest bank of a request that moves few latents, in multiples of ``bank_size``."""


class HeldLoss(nn.Module):
    """E[softplus(-D(G(z))) + lam F(G(z))] over moved latents + hold/2 E||G(z) - y||^2 over kept ones.

    Critic and energy are not trained, and so not registered here.

    Args:
        model: G.
        critic: D.
        energy: F; None where the loss has no such term.
        strength: lam >= 0.
        hold: >= 0.
    """

    def __init__(
        self, model: GenerativeModel, critic: nn.Module, energy: Energy | None, strength: float, hold: float
    ) -> None:
        super().__init__()
        self.model, self.strength, self.hold = model, strength, hold
        self._read = (critic, energy)

    def forward(self, moved: Tensor, kept: Tensor, kept_origin: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the outputs of the moved latents without gradient, for the critic's step.

        Each row of ``kept`` and ``kept_origin`` holds several latents or outputs, [batch, k, *shape].
        """
        critic, energy = self._read
        kept, kept_origin = kept.flatten(0, 1), kept_origin.flatten(0, 1)
        x = self.model.push(torch.cat([moved, kept]))
        x, held = x[: len(moved)], x[len(moved) :]
        loss = deceive(critic, x)
        loss = loss + self.hold / 2 * (held - kept_origin).square().flatten(1).sum(1).mean()
        if energy is not None:
            loss = loss + self.strength * energy(x).mean()
        return loss, x.detach()


@dataclass(frozen=True, kw_only=True)
class ResidualMatching(Training):
    r"""Hold the outputs of kept latents, and let a critic match those of the moved latents to the residual.

        p r = p min(1, r) + p (r - 1)+,    r(z) = (q*/q0)(G0(z)),    q* = law of G0(z), z ~ p r
        L(D) = E_nu[softplus(-D(y))] + E_mu[softplus(D(G(z)))] + r1/2 E_nu||grad D(y)||^2
        L(G) = E_mu[softplus(-D(G(z))) + share lam F(G(z))]
             + hold/2 E_kept||G(z) - G0(z)||^2 / s^2,    s^2 = E_mu||G1(z) - G0(z)||^2

    G starts at G1, the result of a short ``LatentTransport``, and s is the distance that it moves.

    A latent is kept with probability min(1, r(z)); mu ∝ p (1 - r)+ is the law of the others, and nu that of
    the residual's outputs, G0(z) with z ~ p (r - 1)+. For share = r1 = 0 the law of G is q* where both
    losses are stationary: kept latents have their outputs, and the critic cannot tell the moved ones from the
    residual. A small share pushes what the critic finds hard to see. The method reads no real data, and the
    result does not contain the original. It uses the gradient of the energy where there is one. Squared
    error to outputs of moved latents blurs wherever neighbours go to different places; a critic does not.
    Adversarial loss: arXiv 1406.2661; gradient penalty: arXiv 1801.04406.

    Points and short vectors need no critic, and this one would not see conditions. For them, and for
    conditional models, the method is ``LatentTransport`` with the same steps, batches and bank.

    Attributes:
        learning_rate: of G; None: ``scale_rate`` of G, 1.5 % of its weights.
        start_steps: of the ``LatentTransport``.
        hold: > 0, weight of half the squared distance between outputs of kept latents and the original's.
        share: >= 0, share of the target's strength in the loss of G; 0 for an energy without gradient.
        r1: >= 0, gradient penalty of the critic.
        critic_rate: learning rate of the critic.
        width: of the critic (``make_critic``): channels of its first convolution; an MLP is 16 times as wide.
        bank_size: latents to draw and score; up to 8 times as many if fewer than an eighth of them move.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 800
    batch_size: int = 64
    learning_rate: float | None = None
    start_steps: int = 300
    hold: float = 5.0
    share: float = 0.1
    r1: float = 0.1
    critic_rate: float = 1e-3
    width: int = 16
    bank_size: int = 16384
    average: float = 0.995

    label: ClassVar[str] = "residual matching"
    summary: ClassVar[str] = "kept latents keep their outputs; a critic matches the others to the residual"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map", "generator"})
    keeps_prepared: ClassVar[bool] = True
    scales_rate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.hold > 0 and math.isfinite(self.hold)):
            raise InputError(f"got hold={self.hold}; expected a number > 0")
        for name in ("share", "r1"):
            if not getattr(self, name) >= 0:
                raise InputError(f"got {name}={getattr(self, name)}; expected a number >= 0")
        require_batch(self.bank_size, self.batch_size, "latents (bank_size)")

    def training(self, problem: Problem, seed: int) -> tuple[Training, Problem]:
        """Return itself for images, and ``LatentTransport`` for other samples and for conditional models."""
        model = model_of(problem)
        has_critic = is_image(model.sample_shape) and model.conditional is None
        if has_critic:
            return self, problem
        return LatentTransport(
            steps=self.steps, batch_size=self.batch_size, bank_size=self.bank_size, average=self.average
        ), problem

    def uncompilable(self) -> str:
        """Return the name of the gradient penalty's derivative, if there is a penalty."""
        return "the second derivative of a gradient penalty (r1 > 0)" if self.r1 > 0 else ""

    def earlier(self, problem: Problem) -> LatentTransport:
        """Return the latent transport whose result the generator starts at."""
        return LatentTransport(steps=self.start_steps, bank_size=max(self.bank_size, 256))

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return moved latents, kept ones with their outputs, samples of the residual, and s^2 as "scale"."""
        law = draw_law(problem, self.bank_size, generator)
        kept = law.keep(generator)
        if not (~kept).any():
            raise InputError(
                f"the target keeps all of {len(kept)} latents; expected a request that moves some: raise the "
                "strength, or name a class that the model draws"
            )
        bank = law.bank
        return {
            "moved": bank.z[~kept],
            "kept": bank.z[kept],
            "kept_origin": bank.x[kept],
            "residual": draw_weighted(bank.x, law.residual, self.bank_size, generator),
            "scale": _measure_displacement(start_of(problem), bank.z[~kept], bank.x[~kept]),
        }

    def facts(self, prepared: Tensors) -> dict[str, float | None]:
        """Return the share of latents that move."""
        moved, kept = len(prepared["moved"]), len(prepared["kept"])
        return {"moved_share": moved / (moved + kept)}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the critic, and the generator, which starts at ``start``."""
        model, target = start_of(problem), target_of(problem)
        energy = target.energy if target.energy.differentiable and self.share > 0 else None
        critic = trainable_copy(make_critic(model.sample_shape, seed, self.width))
        generator = trainable_copy(model).eval()  # outputs of a latent must not depend on its batch
        hold = self.hold / float(prepared["scale"])
        loss = HeldLoss(generator, critic, energy, self.share * target.strength, hold)
        rate = self.learning_rate or scale_rate(generator, RATE)
        return {
            "critic": Part(CriticLoss(critic), critic, self.critic_rate, betas=(0.0, 0.99)),
            "generator": Part(loss, generator, rate, betas=(0.0, 0.99), decay=self.average),
        }

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw moved latents, kept ones with their original outputs, and samples of the residual."""
        moved, residual = (
            draw_rows(len(prepared[name]), self.batch_size, generator) for name in ("moved", "residual")
        )
        kept = draw_rows(len(prepared["kept"]), KEPT_ROWS * self.batch_size, generator)
        batch = {"moved": prepared["moved"][moved]}
        for name in ("kept", "kept_origin"):  # each of the batch's rows holds some
            batch[name] = prepared[name][kept.reshape(self.batch_size, KEPT_ROWS)]
        penalised = mark_penalised(self.batch_size)
        return batch | {"residual": prepared["residual"][residual], "penalised": penalised}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the generator, then one on the critic at the same outputs."""
        names = ("moved", "kept", "kept_origin")
        generator, moved = descend.with_outputs("generator", *(batch[name] for name in names))
        critic = descend("critic", moved, batch["residual"], batch["penalised"], self.r1)
        return {"generator": generator, "critic": critic}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged generator."""
        return parts["generator"].average


def _measure_displacement(start: GenerativeModel, z: Tensor, origin: Tensor) -> Tensor:
    """Return E||G1(z) - G0(z)||^2 of moved latents, [1]."""
    return (start.push_batches(z) - origin).flatten(1).square().sum(1).mean().reshape(1)


def draw_law(problem: Problem, bank_size: int, generator: torch.Generator) -> LatentLaw:
    """Return the law of latents with a bank in which at least an eighth of ``bank_size`` latents move.

    The bank has at most ``MAX_GROWTH`` times ``bank_size`` latents, however few of them move.
    """
    target = target_of(problem)
    pilot = target.density_ratio(target.bank(min(PILOT, bank_size), generator).energy)
    moving = float((1 - pilot).clamp(min=0).mean())
    growth = min(max(1.0, 1 / max(MAX_GROWTH * moving, 1e-6)), MAX_GROWTH)
    return LatentLaw.draw(target, int(growth * bank_size), generator)
