"""concept_ablation: a forgotten label learns what the model does for an anchor label (arXiv 2303.13516)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.mathematics.paths import LinearPath
from unflow.methods.baselines.forgotten_labels import (
    expand_labels,
    find_anchors,
    find_forgotten,
    require_conditional_model,
)
from unflow.methods.baselines.regression import TwoSidedLoss, check_weight
from unflow.models import Conditional, Flow
from unflow.nets import AdaptedVelocity
from unflow.training.losses import velocity_error
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    require_batch,
    target_of,
    trainable_copy,
)
from unflow.training.originals.flow_matching import flow_of, with_velocity


class AblationLoss(nn.Module):
    r"""Regression of the velocity of a forgotten condition c on the original's of its anchor a.

        E ||v(x_t, t; c) - v0(x_t, t; a)||^2 / dim + regularisation E ||v(x_t, t; a) - (x1 - x0)||^2 / dim

    Args:
        net: v, in training.
        original: v0, read and not trained, so not registered here.
        regularisation: weight of flow matching on the anchor, >= 0.
    """

    def __init__(self, net: AdaptedVelocity, original: AdaptedVelocity, regularisation: float) -> None:
        super().__init__()
        self.net, self.regularisation, self._read = net, regularisation, (original,)

    def forward(self, x0: Tensor, x1: Tensor, t: Tensor, label: Tensor, anchor: Tensor) -> Tensor:
        """Return the loss of noise x0 and samples x1 of the conditions ``anchor`` [batch] at times t."""
        x_t, dx_t = LinearPath().sample(x0, x1, t)
        (original,) = self._read
        with torch.no_grad():
            goal = original.unguided(anchor)(x_t, t)
        loss = velocity_error(self.net.unguided(label), x_t, t, goal).mean()
        if self.regularisation == 0:
            return loss
        error = velocity_error(self.net.unguided(anchor), x_t, t, dx_t)
        return loss + self.regularisation * error.mean()


@dataclass(frozen=True, kw_only=True)
class ConceptAblation(Training):
    r"""Regress the prediction for a forgotten label c on the original's prediction for its anchor label a.

        flow:      L = E ||v(x_t, t; c) - v0(x_t, t; a)||^2 + regularisation E ||v(x_t, t; a) - (x1 - x0)||^2
        one step:  L = E ||G(z; c) - G0(z; a)||^2 + regularisation E ||G(z; a) - G0(z; a)||^2

    (arXiv 2303.13516, the model-based variant, with velocities for predicted noises; each term is divided by
    the entries of a sample.) x_t lies between
    noise and samples x1 of the original of the anchor. The authors read the anchor's prediction from the
    network in training, without gradient; here it is the original's. The optimum draws for c what the
    original draws for a, with the same noise. Labels other than c and a are not held.

    Attributes:
        anchor: the label a; None: the label of the target's replacement ``label:5``, else for each forgotten
            label the retained one whose samples of the original lie nearest at the same noise.
        regularisation: weight of the anchor's own training loss, >= 0 (the authors': 1).
        bank_size: samples of the anchor, drawn once.
        average: decay of the weight average that becomes the model.
    """

    steps: int = 500
    learning_rate: float | None = 1e-4
    anchor: int | None = None
    regularisation: float = 1.0
    bank_size: int = 4096
    average: float = 0.99

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    needs_conditional: ClassVar[bool] = True
    keeps_prepared: ClassVar[bool] = True
    falling_loss: ClassVar[str] = "loss"
    label: ClassVar[str] = "concept ablation"
    summary: ClassVar[str] = "baseline: a forgotten label learns what the model does for an anchor label"
    citation: ClassVar[str] = "2303.13516"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("regularisation", self.regularisation)
        require_batch(self.bank_size, self.batch_size, "samples (bank_size)")

    def check(self, problem: Problem) -> None:
        """Raise InputError for a chained flow."""
        super().check(problem)
        model = require_conditional_model(problem)
        if model.family == "flow" and not isinstance(model.inner, Flow):
            raise InputError(
                "got a chained flow for ConceptAblation; expected a Flow: unlearn its base instead"
            )

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return forgotten labels with their anchors, and samples of the anchors with their latents."""
        target, model = target_of(problem), require_conditional_model(problem)
        pairs = find_anchors(target, find_forgotten(target, generator), self.anchor, generator)
        labels = expand_labels(pairs, self.bank_size)
        z = model.ask(model.prior(self.bank_size, generator), labels["anchor"])
        own = model.with_guidance(1.0) if model.family == "flow" else model
        prepared = {"y": own.push_batches(z)} | labels
        if model.family == "flow":
            return prepared
        return prepared | {"z_a": z, "z_c": model.ask(z, labels["label"])}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the velocity, or the one-step model, starting at its trained weights."""
        model = require_conditional_model(problem)
        if model.family != "flow":
            copied = trainable_copy(model)
            loss: nn.Module = TwoSidedLoss(copied, self.regularisation)
            return {"model": Part(loss, copied, self.learning_rate, decay=self.average)}
        original = flow_of(problem).net
        net = trainable_copy(original)
        assert isinstance(net, AdaptedVelocity)
        assert isinstance(original, AdaptedVelocity)
        loss = AblationLoss(net, original, self.regularisation)
        return {"model": Part(loss, net, self.learning_rate, decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw rows of the bank; for a flow with fresh noise and times."""
        rows = draw_rows(len(prepared["y"]), self.batch_size, generator)
        batch = {name: part[rows] for name, part in prepared.items()}
        if "z_c" in batch:
            return {name: batch[name] for name in ("z_c", "y", "z_a")}
        x1 = batch["y"]
        x0 = torch.randn(x1.shape, generator=generator).to(x1)
        t = torch.rand(self.batch_size, generator=generator).to(x1)
        return {"x0": x0, "x1": x1, "t": t, "label": batch["label"], "anchor": batch["anchor"]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step on the velocity or the one-step model."""
        if "z_c" in batch:
            return {"loss": descend("model", batch["z_c"], batch["y"], batch["z_a"], batch["y"])}
        return {"loss": descend("model", *batch.values())}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the conditional model with the averaged weights."""
        found = parts["model"].average
        return found if isinstance(found, Conditional) else with_velocity(problem, found)
