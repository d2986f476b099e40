"""Latent transport (ours): move latents to the target, then regress the model on their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.methods.conditional_latents import ConditionalLatents, choose_given
from unflow.methods.conditional_pairs import favour_changed
from unflow.methods.latent_couplings import (
    REDRAWS,
    SHIFTS,
    Coupled,
    FlowMove,
    MatchMove,
    MaximalMove,
    Move,
    ProjectMove,
    couple,
)
from unflow.methods.latent_flow import LatentFlow, latent_flow_of, require_normal
from unflow.methods.latent_law import LatentLaw
from unflow.models import Conditional, latent_norm
from unflow.target import Target
from unflow.training.losses import OutputLoss
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
    target_of,
    trainable_copy,
)
from unflow.training.originals.flow_matching import conditional_of

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
"""Coupling -> the moves that are applied to a rejected latent in turn until it arrives.

"flow..." couplings apply the flow of latents first. The latents that do not arrive are matched with the rest
of the residual (``couple``). So the law of the partners is p(z) (q*/q0)(G0(z)) for every coupling: exactly,
or up to the training error of the flow."""

MIN_CARRIED = 0.25
"""Smallest share of the moved latents that a map must carry; below it, the maps do not suit the request."""


def choose_pairs(coupled: Coupled, generator: torch.Generator) -> Tensor:
    """Return the rows of the pairs that a regression uses, [n]: a map's pairs instead of matched ones.

    Squared error averages the partners of neighbours. In many dimensions matched partners are far apart, so
    their average is no latent of the target. A random pair that a map has carried replaces each matched pair,
    so that the shares of kept and moved latents stay those of the coupling. If a map carried less than
    ``MIN_CARRIED`` of the moved latents, all pairs stay.
    """
    rows = torch.arange(len(coupled.z), device=coupled.z.device)
    carried = rows[coupled.moved & ~coupled.matched]
    if len(carried) > 0 and len(carried) >= MIN_CARRIED * int(coupled.moved.sum()):
        count = int(coupled.matched.sum())
        rows[coupled.matched] = carried[draw_rows(len(carried), count, generator).to(carried.device)]
    return rows


@dataclass(frozen=True, kw_only=True)
class LatentTransport(Training):
    r"""Regress G, started at the original G0, on the outputs of moved latents.

        q* = law of G0(z'),    (z, z') a coupling of p(z) and p(z) (q*/q0)(G0(z))
        L(G) = E || G(z) - G0(z') ||^2

    z' = z with probability min(1, q*/q0), which moves the least mass. The law of all partners is exact, up to
    the training error of the flow in "flow..." couplings (``LATENT_COUPLINGS``). The regression leaves out
    pairs that only a plan has matched, if maps carry enough (``choose_pairs``). A conditional model has the
    law q*(x | c) for each condition (``ConditionalLatents``), whatever the coupling. The method needs no
    adversary, no data and, except for "project", no gradient of the energy. The result does not contain the
    original.

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
        target = problem.target
        if self.needs_gradient and target is not None and not target.energy.differentiable:
            raise InputError(
                f"got coupling={self.coupling} with an energy that has no gradient to project by; expected a "
                "differentiable one: write coupling=shift or flow_redraw"
            )
        if any(move.needs_normal for move in LATENT_COUPLINGS[self.coupling]):
            require_normal(problem, f"coupling={self.coupling}")
        super().check(problem)

    def earlier(self, problem: Problem) -> LatentFlow | None:
        """Return the training of the flow of latents, for the couplings that begin with one."""
        if not self._begins_with_flow or conditional_of(problem) is not None:
            return None
        return LatentFlow(
            steps=self.flow_steps,
            batch_size=self.batch_size,
            block_size=self.batch_size,
            bank_size=self.bank_size,
            pairs="residual",
            learning_rate=4e-3,
        )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return latents z, their partners z', the outputs y = G0(z'), and which moved or were matched.

        ``rows`` are the pairs of the regression, [bank_size] (``choose_pairs``).
        """
        model = conditional_of(problem)
        if model is not None:
            return self._prepare_given(target_of(problem), model, generator)
        law = LatentLaw.draw(target_of(problem), self.bank_size, generator)
        flow = (FlowMove(latent_flow_of(problem)),) if self._begins_with_flow else ()
        coupled = couple(law, flow + LATENT_COUPLINGS[self.coupling], generator)
        return {
            "z": law.bank.z,
            "partner": coupled.z,
            "y": model_of(problem).push_batches(coupled.z),
            "moved": coupled.moved,
            "matched": coupled.matched,
            "rows": choose_pairs(coupled, generator),
        }

    def _prepare_given(self, target: Target, model: Conditional, generator: torch.Generator) -> Tensors:
        """Return the same tensors for a conditional model, with the law q*(x | c) of each condition."""
        latents = ConditionalLatents(target, model, self.bank_size, generator)
        found = latents.couple()
        rows = choose_given(found, latents.label, MIN_CARRIED, generator)
        return {
            "z": latents.bank.z,
            "partner": found.z,
            "y": found.y,
            "moved": found.moved,
            "matched": found.matched,
            "rows": rows,
            "chance": favour_changed(latents.label, latents.w)[rows],
        }

    def facts(self, prepared: Tensors) -> dict[str, float | None]:
        """Return the shares of latents that moved and that were matched; mean norms of the moved."""
        moved = prepared["moved"]
        before, after = (
            float(latent_norm(prepared[name][moved]).mean()) if moved.any() else None
            for name in ("z", "partner")
        )
        return {
            "moved_share": float(moved.double().mean()),
            "matched_share": float(prepared["matched"].double().mean()),
            "norm_before": before,
            "norm_after": after,
        }

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return a trainable copy of the model, whose outputs do not depend on the batch of a latent."""
        model = trainable_copy(model_of(problem)).eval()
        return {"model": Part(OutputLoss(model), model, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw latents with the outputs that they are regressed on."""
        rows = draw_rows(len(prepared["rows"]), self.batch_size, generator)
        if "chance" in prepared:
            every = torch.arange(len(prepared["rows"]))
            rows = draw_weighted(every, prepared["chance"], self.batch_size, generator)
        rows = prepared["rows"][rows]
        return {"z": prepared["z"][rows], "y": prepared["y"][rows]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        return {"loss": descend("model", batch["z"], batch["y"])}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the averaged model."""
        return parts["model"].average
