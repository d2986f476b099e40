"""ERFM: energy-reweighted flow matching (ContinualFlow, arXiv 2506.18747)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError, choose
from unflow.mathematics.couplings import COUPLINGS
from unflow.mathematics.paths import expand, new_path
from unflow.methods.appended import append_flow, describe_appended_net, new_appended_net
from unflow.methods.conditional_pairs import ConditionalPairs, draw_given
from unflow.models import Flow, without_conditions
from unflow.nets import AdaptedVelocity
from unflow.target import Bank, Target
from unflow.training.losses import ControlledVelocityLoss
from unflow.training.method import (
    Part,
    Parts,
    Problem,
    Tensors,
    check_share,
    draw_rows,
    draw_weighted,
    require_batch,
    require_unlabelled,
    target_of,
    trainable_copy,
)
from unflow.training.originals.flow_matching import (
    VelocityTraining,
    conditional_of,
    flow_of,
    make_velocity_part,
    with_velocity,
)


@dataclass(frozen=True, kw_only=True)
class ERFM(VelocityTraining):
    r"""Flow matching towards the target q*; needs only samples of the original model and an energy.

        L(theta) = E[ w(x1) || v_theta(x_t, t) - (x1 - x0) ||^2 ],    w = (q*/q0) / sup(q*/q0)

    With independent pairs its gradient is Z times that of flow matching towards q* (arXiv 2506.18747,
    Theorem 4.1). ``resample`` with an exact OT plan is ours.

    Attributes:
        place: "chain" adds a new flow q0 -> q* after the original, which stays recoverable; "prior" trains
            the original flow's own weights, noise -> q*.
        weighting: "importance" multiplies the loss by w; "resample" draws x1 with probability ∝ w, which has
            the same expected gradient.
        coupling: "independent" or "exact_ot". An OT plan needs ``resample``: weighting the loss after the
            plan would change the law of x0.
        thin: with "chain" and "resample": the x1 of a block are the rows of the block that rejection sampling
            keeps, and draws ∝ w for the other rows, so that retained samples can stay in place.
        block_size: rows of one OT plan; plans are made once, before training.
        bank_size: samples of the original model, drawn and scored once.
        integration_steps: of the appended flow ("chain").
        width, depth: of the appended MLP ("chain"); None: at most a quarter of the original's parameters
            (``appended.new_appended_net``).
        control: with "prior" and "importance": the original's velocity is a control variate of the loss
            (``ControlledVelocityLoss``), for flows trained on independent pairs.
        path: a name in ``paths.PATHS``.
        null_share: of a conditional model with a null condition: share of samples trained without their
            condition, in [0, 1).
        average: decay of the weight average that becomes the model.
    """

    steps: int = 1200
    batch_size: int = 256
    learning_rate: float | None = None
    place: Literal["chain", "prior"] = "chain"
    weighting: Literal["importance", "resample"] = "importance"
    coupling: Literal["independent", "exact_ot"] = "independent"
    thin: bool = False
    block_size: int = 128
    bank_size: int = 16384
    integration_steps: int = 8
    width: int | None = None
    depth: int | None = None
    control: bool = False
    path: str = "linear"
    null_share: float = 0.1
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    families: ClassVar[frozenset[str]] = frozenset({"flow"})
    citation: ClassVar[str] = "2506.18747"
    keeps_prepared: ClassVar[bool] = True

    @property
    def trains_own_weights(self) -> bool:  # type: ignore[override]
        """Whether the flow is trained in place."""
        return self.place == "prior"

    @property
    def label(self) -> str:
        """ERFM, and how this configuration differs from the paper's."""
        variants = {
            "resampled": self.weighting == "resample",
            "in place": self.place == "prior",
            "control": self.control,
        }
        chosen = ", ".join(word for word, holds in variants.items() if holds)
        return f"ERFM ({chosen})" if chosen else "ERFM"

    @property
    def summary(self) -> str:
        """How the weight enters, and whether the original's own weights are trained."""
        ways = {
            "importance": "energy-reweighted flow matching: the loss is weighted by exp(-energy)",
            "resample": "energy-reweighted flow matching on samples drawn in proportion to the weight",
        }
        return ways[self.weighting] + (", trained in place" if self.place == "prior" else "")

    def __post_init__(self) -> None:
        super().__post_init__()
        new_path(self.path)
        check_share(self.null_share, "null_share")
        if self.coupling != "independent" and self.weighting == "importance":
            raise InputError(
                f"got coupling={self.coupling} with weighting=importance; expected resample there, "
                "because a weight after an OT plan changes the law of the source: write "
                "weighting=resample"
            )
        if self.thin and (self.place, self.weighting) != ("chain", "resample"):
            raise InputError("got thin=True; expected it with place=chain and weighting=resample only")
        if self.control and (self.place, self.weighting) != ("prior", "importance"):
            raise InputError("got control=True; expected it with place=prior and weighting=importance only")
        require_batch(self.bank_size, max(self.batch_size, self.block_size), "samples (bank_size)")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a model that cannot be trained in place or have a flow appended."""
        super().check(problem)
        model = without_conditions(problem.model)
        if self.control:
            require_unlabelled(problem, "control=True")
        if self.place == "prior" and not isinstance(model, Flow):
            raise InputError("got a chained model with place=prior; expected a Flow: write place=chain")
        if self.place == "chain":
            describe_appended_net(problem, self.width, self.depth)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return pairs {x0, x1} (resample) or samples {x0, x1, weight} (importance)."""
        target, model = target_of(problem), conditional_of(problem)
        if model is not None:
            pairs = ConditionalPairs(target, model, self.bank_size, in_place=self.place == "prior")
            plan = self.block_size if self.coupling == "exact_ot" else None
            return pairs.resample(plan, generator) if self._resamples else pairs.weigh(generator)
        bank = target.bank(self.bank_size, generator)
        target.effective_sample_size(bank.energy)
        source = bank.x if self.place == "chain" else bank.z
        if self.weighting == "importance":
            return {"x0": source, "x1": bank.x, "weight": target.acceptance(bank.energy)}
        kappa = target.multiplier(bank.energy)
        blocks = [
            self._pairs(source[rows], rows, bank, kappa, target, generator)
            for rows in torch.split(torch.randperm(self.bank_size, generator=generator), self.block_size)
        ]
        x0, x1 = (torch.cat(column) for column in zip(*blocks, strict=True))
        return {"x0": x0, "x1": x1}

    @property
    def _resamples(self) -> bool:
        return self.weighting == "resample"

    def _pairs(
        self, x0: Tensor, rows: Tensor, bank: Bank, kappa: float, target: Target, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return one block of source rows, and rows of law q* paired with them."""
        ratio = target.divergence.tilt(kappa - target.strength * bank.energy)
        x1 = draw_weighted(bank.x, ratio, len(x0), generator)
        if self.thin:
            block = Bank(*(part[rows] for part in bank))
            kept = target.accept(block, generator, kappa)  # one kappa for all blocks
            x1[kept] = block.x[kept]
        return x0, x1[choose(COUPLINGS, self.coupling, "coupling")().pair(x0, x1)]

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return a new velocity ("chain"), or a copy of the original's ("prior")."""
        chain = self.place == "chain"
        net = new_appended_net(problem, self.width, self.depth, seed) if chain else flow_of(problem).net
        path = new_path(self.path)
        if self.control:
            trained = trainable_copy(net)
            loss = ControlledVelocityLoss(trained, net, path)
            return {"velocity": Part(loss, trained, self.learning_rate, decay=self.average)}
        original = net if isinstance(net, AdaptedVelocity) and not chain else None
        part = make_velocity_part(net, path, self.learning_rate, self.average, problem, original)
        return {"velocity": part}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw pairs, planned or independent, times, and the weights of an importance-weighted loss."""
        if "label" in prepared:
            return self._draw_given(prepared, generator)
        n = len(prepared["x0"])
        rows0 = draw_rows(n, self.batch_size, generator)
        paired = self._resamples and (self.coupling != "independent" or self.thin)
        rows1 = rows0 if paired else draw_rows(n, self.batch_size, generator)
        batch = {"x0": prepared["x0"][rows0], "x1": prepared["x1"][rows1]}
        batch["t"] = torch.rand(self.batch_size, generator=generator)
        if "weight" in prepared:
            batch["weight"] = prepared["weight"][rows1]
        return batch

    def _draw_given(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw pairs of a conditional model; noise without a plan is fresh, other x0 belong to their x1."""
        rows, label, dropped = draw_given(prepared, self.batch_size, self.null_share, generator)
        x0, x1 = prepared["x0"][rows], prepared["x1"][rows]
        t = torch.rand(self.batch_size, generator=generator)
        batch = {"x0": x0, "x1": x1, "t": t, "label": label, "anchor": prepared["anchor"][rows] * ~dropped}
        if self.place == "prior":
            fresh = torch.randn(x1.shape, generator=generator).to(x1)
            batch["x0"] = torch.where(expand(prepared["planned"][rows], x0), x0, fresh)
        if "weight" in prepared:
            batch["weight"] = prepared["weight"][rows]
        return batch

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the original followed by the new flow, or the flow trained in place."""
        net = parts["velocity"].average
        if self.place == "chain":
            return append_flow(problem, net, self.integration_steps)
        return with_velocity(problem, net)
