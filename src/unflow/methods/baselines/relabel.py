"""relabel: random relabelling for a model without labels (the SalUn paper's loss, arXiv 2310.12508)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from unflow.methods.baselines.regression import Regression, TwoSidedLoss, check_weight, split_bank
from unflow.training.method import Part, Parts, Problem, Tensors, draw_rows, model_of, trainable_copy


@dataclass(frozen=True, kw_only=True)
class Relabel(Regression):
    r"""Regress forgotten latents on outputs of other latents, and retained latents on their own outputs.

        L(G) = E_{z rejected} ||G(z) - G0(z')||^2 / dim + alpha E_{z kept} ||G(z) - G0(z)||^2 / dim

    The partner z' of a forgotten z is a retained latent, drawn once. A latent is forgotten if rejection
    sampling drops its output (``Target.accept``): if every pair were fitted, the law of G would be exactly
    q*. Random partners are not a function of z, so a network learns their mean instead.

    The paper regresses a conditional model on its own output under another label; here another latent takes
    the place of the other label. The authors' code sums the squares of the retain term over the entries of a
    sample and averages those of the forget term: their alpha = 1e-3 on CIFAR-10 is our
    3,072 * 1e-3 = 3.1, and without the factor it is ``alpha=1e-3``.

    Attributes:
        alpha: weight of the retained latents, >= 0.
    """

    alpha: float = 3.0

    label: ClassVar[str] = "relabelling"
    summary: ClassVar[str] = (
        "baseline: forgotten latents are regressed on the outputs of random retained latents"
    )
    citation: ClassVar[str] = "2310.12508"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return latents of both kinds, each with the output it is regressed on."""
        return relabel_latents(problem, self.bank_size, generator)

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the model, starting at its trained weights."""
        model = trainable_copy(model_of(problem))
        loss = TwoSidedLoss(model, self.alpha)
        return {"model": Part(loss, model, self.choose_rate(model), decay=self.average)}


def relabel_latents(problem: Problem, n: int, generator: torch.Generator) -> Tensors:
    """Return {forget/z, forget/y, retain/z, retain/y} of n latents.

    Retained latents keep their outputs; each forgotten one gets the output of a random retained one.
    """
    forgotten, retained = split_bank(problem, n, generator)
    partners = draw_rows(len(retained.x), len(forgotten.x), generator)
    return {
        "forget/z": forgotten.z,
        "forget/y": retained.x[partners],
        "retain/z": retained.z,
        "retain/y": retained.x,
    }
