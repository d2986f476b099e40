"""A flow of latents before an unchanged one-step model, which changes the prior (ours)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from unflow.ground.errors import InputError
from unflow.mathematics.couplings import ExactOT, pair_blocks
from unflow.mathematics.paths import LinearPath
from unflow.methods.latent_couplings import SHIFTS, MaximalMove, couple
from unflow.methods.latent_law import LatentLaw, prior_name
from unflow.methods.latent_maps import gaussian_map
from unflow.models import Chain, Flow
from unflow.nets import new_net
from unflow.training.method import Parts, Problem, Tensors, model_of, require_batch, target_of
from unflow.training.originals.flow_matching import VelocityTraining, make_velocity_part


@dataclass(frozen=True, kw_only=True)
class LatentFlow(VelocityTraining):
    r"""Flow matching in the space of latents, from the prior p(z) to p(z) r(z), r(z) = (q*/q0)(G0(z)).

        L(theta) = E || v_theta(z_t, t) - (z' - z) ||^2,    q* = law of G0(S(z)), S the flow of v

    The result is Chain(S, G0). It contains the original: removing S restores it.

    Attributes:
        pairs: how z is paired with z'. Latents that the target keeps have z' = z. "shift" moves the others by
            affine maps, and by matching where they do not arrive; "exact_ot" draws them from the residual
            and plans all pairs anew over blocks. In both cases the law of z' is exact. "residual" trains on
            the moved latents alone, from T(z) to the residual (``FlowMove``): for the "flow..." couplings of
            LatentTransport, not for a chain.
        block_size: rows of one plan.
        bank_size: latents, pushed through the model and scored once.
        integration_steps: of the flow.
        width, depth: of the velocity, an MLP.
        average: decay of the weight average that becomes the flow.
    """

    steps: int = 600
    batch_size: int = 256
    learning_rate: float | None = None
    pairs: Literal["shift", "exact_ot", "residual"] = "shift"
    block_size: int = 256
    bank_size: int = 16384
    integration_steps: int = 8
    width: int = 256
    depth: int = 2
    average: float = 0.99

    label: ClassVar[str] = "latent transport (chain)"
    summary: ClassVar[str] = "latents are moved to the target by a flow before the original"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map", "generator"})
    keeps_prepared: ClassVar[bool] = True
    trains_own_weights: ClassVar[bool] = False
    derivatives: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs not in ("shift", "exact_ot", "residual"):
            raise InputError(f"got pairs={self.pairs!r}; expected 'shift', 'exact_ot' or 'residual'")
        require_batch(self.bank_size, max(self.batch_size, self.block_size), "latents (bank_size)")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a prior that is not normal: a flow starts at normal noise."""
        super().check(problem)
        require_normal(problem, "a flow of its latents")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return pairs {x0: z, x1: z'}."""
        law = LatentLaw.draw(target_of(problem), self.bank_size, generator)
        coupled = couple(law, SHIFTS if self.pairs == "shift" else [MaximalMove()], generator)
        x0, x1 = law.bank.z, coupled.z
        if self.pairs == "residual":
            x0, x1 = x0[coupled.moved], x1[coupled.moved]
            if len(x0) == 0:  # the target is the original: nothing moves
                x0 = x1 = law.bank.z
            x0 = gaussian_map(x0, x1).forward(x0[:, None])[:, 0]
        if self.pairs != "shift":
            x1 = pair_blocks(ExactOT(), x0, x1, self.block_size)
        return {"x0": x0, "x1": x1}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return a fresh velocity, whose flow is the identity."""
        shape = model_of(problem).prior_shape
        net = new_net({"net": "mlp", "shape": shape, "width": self.width, "depth": self.depth}, seed)
        return {"velocity": make_velocity_part(net, LinearPath(), self.learning_rate, self.average)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the flow followed by a copy of the model."""
        model = model_of(problem)
        flow = Flow(parts["velocity"].average, model.prior_shape, "midpoint", self.integration_steps)
        return Chain(flow, copy.deepcopy(model))


def latent_flow_of(problem: Problem) -> Flow:
    """Return the flow of latents that the earlier ``LatentFlow`` has trained."""
    assert isinstance(problem.earlier, Chain)
    assert isinstance(problem.earlier.base, Flow)
    return problem.earlier.base


def require_normal(problem: Problem, purpose: str) -> None:
    """Raise InputError for a prior that is not normal."""
    name = prior_name(model_of(problem))
    if name != "normal":
        raise InputError(
            f"got a model with a {name} prior for {purpose}; expected a normal one: write "
            "coupling=shift in LatentTransport"
        )
