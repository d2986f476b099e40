"""weight_extrapolation: move away from the weights of a model of forgotten data (arXiv 2212.04089)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unflow.ground.errors import choose
from unflow.mathematics.couplings import COUPLINGS
from unflow.methods.baselines.regression import check_weight, split_bank
from unflow.models import Flow, GenerativeModel
from unflow.training.losses import OutputLoss, VelocityLoss
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
    trainable_copy,
)
from unflow.training.originals.flow_matching import draw_flow_batch, pair_flow_data, require_flow
from unflow.training.rates import scale_rate

RATE = 0.002
"""The learning rate relative to the size of the weights."""


@dataclass(frozen=True, kw_only=True)
class WeightExtrapolation(Training):
    r"""Train on forgotten samples alone, then move the weights the opposite way: task arithmetic's negation.

        theta = theta0 - gamma (theta_forget - theta0)    (arXiv 2212.04089, Section 3)

    theta_forget are the original weights theta0 after training on forgotten samples alone. A flow is trained
    by flow matching on real forget data. A one-step model is regressed on its own samples: rejection sampling
    splits latents; forgotten ones keep their outputs G0(z), and each retained one gets the output of a random
    forgotten one, drawn once.

    Attributes:
        learning_rate: None: ``scale_rate`` of the model, a five-hundredth of its weights. The rate with the
            steepest fall of the loss moves the weights so far that the opposite point destroys the model.
        gamma: >= 0; 0 is the original. The authors choose it on held-out data.
        coupling: of noise and data, as in the training of the original; for flows only.
        bank_size: latents of the original that rejection sampling classifies; for one-step models only.
        average: decay of the average of the weights that becomes theta_forget.
    """

    steps: int = 200
    batch_size: int = 64
    learning_rate: float | None = None
    gamma: float = 1.0
    coupling: str = "independent"
    bank_size: int = 16384
    average: float = 0.99

    label: ClassVar[str] = "weight extrapolation"
    summary: ClassVar[str] = (
        "baseline: train on forgotten samples alone, then move the weights the opposite way"
    )
    families: ClassVar[frozenset[str]] = frozenset({"flow", "flow_map", "generator"})
    scales_rate: ClassVar[bool] = True
    citation: ClassVar[str] = "2212.04089"
    keeps_prepared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(COUPLINGS, self.coupling, "coupling")
        check_weight("gamma", self.gamma)
        require_batch(self.bank_size, self.batch_size, "samples (bank_size)")

    def reads(self, problem: Problem) -> frozenset[str]:
        """Return forget data for a flow, the target for a one-step model."""
        assert isinstance(problem.model, GenerativeModel)
        return frozenset({"forget" if problem.model.family == "flow" else "target"})

    def check(self, problem: Problem) -> None:
        """Raise InputError for a chained flow, which has no training loss on data."""
        super().check(problem)
        if model_of(problem).family == "flow":
            require_flow(problem)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return forget data (flow), or latents and the outputs to regress them on (one-step model)."""
        if isinstance(problem.model, Flow):
            assert problem.forget is not None
            require_batch(len(problem.forget), self.batch_size, "forget samples")
            return pair_flow_data(problem.forget, self.coupling, self.steps * self.batch_size, generator)
        forgotten, retained = split_bank(problem, self.bank_size, generator)
        others = forgotten.x[draw_rows(len(forgotten.x), len(retained.x), generator)]
        return {"z": torch.cat([forgotten.z, retained.z]), "y": torch.cat([forgotten.x, others])}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the model that learns the forgotten samples, starting at its trained weights."""
        model = trainable_copy(problem.model)
        assert isinstance(model, GenerativeModel)
        loss = VelocityLoss(model.net) if isinstance(model, Flow) else OutputLoss(model)
        rate = self.learning_rate or scale_rate(model, RATE)
        return {"model": Part(loss, model, rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw noise, forget data and times (flow), or latents and outputs (one-step model)."""
        if "x1" in prepared:
            return draw_flow_batch(prepared, self.batch_size, generator)
        rows = draw_rows(len(prepared["z"]), self.batch_size, generator)
        return {name: prepared[name][rows] for name in ("z", "y")}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the model."""
        return {"loss": descend("model", *batch.values())}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the original, with its weights moved against the change of the training."""
        return extrapolate_weights(model_of(problem), parts["model"].average, self.gamma)


@torch.no_grad()
def extrapolate_weights(original: nn.Module, changed: nn.Module, gamma: float) -> nn.Module:
    """Return a copy of ``original`` with weights theta0 - gamma (theta - theta0), theta of ``changed``."""
    model = copy.deepcopy(original)
    for weights, moved in zip(model.parameters(), changed.parameters(), strict=True):
        weights.sub_(moved - weights, alpha=gamma)
    return model
