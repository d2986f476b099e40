"""Latent transport (ours): move latents to the target, then regress the model on their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unflow.ground.errors import InputError, choose
from unflow.methods.latent_couplings import (
    REDRAWS,
    SHIFTS,
    FlowMove,
    LatentLaw,
    MatchMove,
    MaximalMove,
    Move,
    ProjectMove,
    couple,
)
from unflow.methods.latent_flow import LatentFlow, latent_flow_of, require_normal
from unflow.models import latent_norm
from unflow.training.losses import OutputLoss
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    model_of,
    require_batch,
    target_of,
    trainable_copy,
)

LATENT_COUPLINGS: dict[str, tuple[Move, ...]] = {
    "maximal": (MaximalMove(),),
    "shift": SHIFTS,
    "match": (MatchMove(),),
    "project": (ProjectMove(),),
    "redraw": REDRAWS,
    "flow": (),
    "flow_project": (ProjectMove(),),
    "flow_redraw": REDRAWS,
}
"""Coupling -> the moves that are applied to a rejected latent in turn until the residual accepts it.

"flow..." couplings apply the flow of latents first. If too few latents arrive, the others are matched with
the residual (``couple``)."""


@dataclass(frozen=True, kw_only=True)
class LatentTransport(Training):
    r"""Regress G, started at the original G0, on the outputs of moved latents.

        q* = law of G0(z'),    (z, z') a coupling of p(z) and p(z) (q*/q0)(G0(z))
        L(G) = E || G(z) - G0(z') ||^2

    z' = z with probability min(1, q*/q0), which moves the least mass. The method needs no adversary, no data
    and, except for "project", no gradient of the energy. The result does not contain the original.

    Attributes:
        coupling: how rejected latents move; a name in ``LATENT_COUPLINGS``.
        bank_size: latents, pushed through the model, scored and moved once.
        flow_steps: training steps of the flow of latents, for the "flow..." couplings.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 2e-3
    coupling: str = "shift"
    bank_size: int = 32768
    flow_steps: int = 600
    average: float = 0.99

    label: ClassVar[str] = "latent transport"
    summary: ClassVar[str] = "latents are moved to the target, and the model is regressed on their outputs"
    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow_map", "generator"})
    keeps_prepared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(LATENT_COUPLINGS, self.coupling, "coupling")
        if self.flow_steps < 1:
            raise InputError(f"got flow_steps={self.flow_steps}; expected 1 or more")
        require_batch(self.bank_size, self.batch_size, "latents (bank_size)")

    @property
    def needs_gradient(self) -> bool:
        """Whether one of the coupling's moves follows the gradient of the energy."""
        return any(move.needs_gradient for move in LATENT_COUPLINGS[self.coupling])

    @property
    def derivatives(self) -> frozenset[str]:  # type: ignore[override]
        """By the weights; also by the latents for a move along the gradient of the energy."""
        return frozenset({"weights", "latents"} if self.needs_gradient else {"weights"})

    @property
    def _begins_with_flow(self) -> bool:
        return self.coupling.startswith("flow")

    def check(self, problem: Problem) -> None:
        """Raise InputError for an energy or a prior that the coupling cannot use."""
        target, flow = problem.target, self.earlier(problem)
        if self.needs_gradient and target is not None and not target.energy.differentiable:
            raise InputError(
                f"got coupling={self.coupling} with an energy that has no gradient to project by; expected a "
                "differentiable one: write coupling=shift or flow_redraw"
            )
        super().check(problem)
        if any(move.needs_normal for move in LATENT_COUPLINGS[self.coupling]):
            require_normal(problem, f"coupling={self.coupling}")
        if flow is not None:
            flow.check(problem)

    def earlier(self, problem: Problem) -> LatentFlow | None:
        """Return the training of the flow of latents, for the couplings that begin with one."""
        if not self._begins_with_flow:
            return None
        return LatentFlow(
            steps=self.flow_steps,
            batch_size=self.batch_size,
            block_size=self.batch_size,
            bank_size=self.bank_size,
        )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return latents z, their partners z', the outputs y = G0(z'), and which moved or were matched.

        Pairs whose z' the residual does not accept are left out.
        """
        law = LatentLaw.draw(target_of(problem), self.bank_size, generator)
        flow = (FlowMove(latent_flow_of(problem)),) if self._begins_with_flow else ()
        coupled = couple(law, flow + LATENT_COUPLINGS[self.coupling], generator)
        arrived = coupled.arrived
        require_batch(int(arrived.sum()), self.batch_size, "latents that arrived")
        partners = coupled.z[arrived]
        return {
            "z": law.bank.z[arrived],
            "partner": partners,
            "y": model_of(problem).push_batches(partners),
            "moved": coupled.moved[arrived],
            "matched": coupled.matched[arrived],
        }

    def facts(self, prepared: Tensors) -> dict[str, float | None]:
        """Return the shares of latents that moved, were matched, were rejected; mean norms of the moved."""
        moved, lost = prepared["moved"], self.bank_size - len(prepared["moved"])
        before, after = (
            float(latent_norm(prepared[name][moved]).mean()) if moved.any() else None
            for name in ("z", "partner")
        )
        return {
            "moved_share": (int(moved.sum()) + lost) / self.bank_size,
            "matched_share": int(prepared["matched"].sum()) / self.bank_size,
            "rejected_share": lost / self.bank_size,
            "norm_before": before,
            "norm_after": after,
        }

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return a trainable copy of the model."""
        model = trainable_copy(model_of(problem))
        return {"model": Part(OutputLoss(model), model, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw latents with the outputs that they are regressed on."""
        rows = draw_rows(len(prepared["z"]), self.batch_size, generator)
        return {"z": prepared["z"][rows], "y": prepared["y"][rows]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        return {"loss": descend("model", batch["z"], batch["y"])}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged model."""
        return parts["model"].average
