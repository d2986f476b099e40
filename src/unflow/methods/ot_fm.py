"""OT-FM: a flow from the model's samples to real retain data (ContinualFlow's Case 1, arXiv 2506.18747)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unflow.ground.errors import choose
from unflow.mathematics.couplings import COUPLINGS, pair_blocks
from unflow.mathematics.paths import LinearPath
from unflow.methods.appended import append_flow, describe_appended_net, new_appended_net
from unflow.training.method import Parts, Problem, Tensors, draw_rows, model_of, require_batch
from unflow.training.originals.flow_matching import VelocityTraining, make_velocity_part


@dataclass(frozen=True, kw_only=True)
class OTFM(VelocityTraining):
    r"""Flow matching from samples of the original model to retain data, in minibatch OT pairs.

        L(theta) = E_{(x0, x1) ~ plan(q0, retain)} || v_theta(x_t, t) - (x1 - x0) ||^2

    The plans are made once, over blocks of ``block_size`` rows (arXiv 2302.00482, Section 3.2.2).

    Attributes:
        coupling: a name in ``couplings.COUPLINGS``.
        block_size: rows of one plan.
        bank_size: samples of the original model, and draws of the retain data.
        integration_steps: of the appended flow.
        width, depth: of the appended MLP; None: at most a quarter of the original's parameters
            (``appended.new_appended_net``).
        average: decay of the weight average that becomes the model.
    """

    steps: int = 1200
    batch_size: int = 256
    learning_rate: float | None = None
    coupling: str = "exact_ot"
    block_size: int = 128
    bank_size: int = 16384
    integration_steps: int = 8
    width: int | None = None
    depth: int | None = None
    average: float = 0.99

    label: ClassVar[str] = "OT-FM"
    summary: ClassVar[str] = (
        "a flow after the original carries its samples to retained data along optimal transport plans"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    citation: ClassVar[str] = "2506.18747"
    keeps_prepared: ClassVar[bool] = True
    trains_own_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(COUPLINGS, self.coupling, "coupling")
        require_batch(self.bank_size, max(self.batch_size, self.block_size), "samples (bank_size)")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a network that cannot be appended."""
        super().check(problem)
        describe_appended_net(problem, self.width, self.depth)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return pairs {x0: samples of the model, x1: retain data}."""
        assert problem.retain is not None
        model, retain = model_of(problem), problem.retain
        x0 = model.sample(self.bank_size, generator)
        x1 = retain[draw_rows(len(retain), self.bank_size, generator)].to(x0)
        return {"x0": x0, "x1": pair_blocks(COUPLINGS[self.coupling](), x0, x1, self.block_size)}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return a new velocity on the model's samples."""
        net = new_appended_net(problem, self.width, self.depth, seed)
        return {"velocity": make_velocity_part(net, LinearPath(), self.learning_rate, self.average)}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the original followed by the new flow."""
        return append_flow(problem, parts["velocity"].average, self.integration_steps)
