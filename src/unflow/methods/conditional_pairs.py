"""Pairs for flow matching towards the target of a conditional model, each with its condition."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from unflow.mathematics.couplings import ExactOT, pair_blocks
from unflow.models import Conditional
from unflow.target import Bank, Nearest, Target
from unflow.training.method import Tensors, draw_rows, draw_weighted
from unflow.training.originals.flow_matching import null_of

GUIDANCES = (1.0, 1.0, 2.0, 4.0)
"""Multiples of the model's guidance at which an appended flow learns, each for a quarter of the bank."""


class ConditionalPairs:
    r"""Pairs (x0, x1) of condition c with x1 of the law q*(x | c).

        q*(x | c) = q0(x | c) w(x) + b r'(x | c),    b = E_{q0(.|c)}[1 - w]

    w is the acceptance, and r' what ``Target.replaced`` draws: a further try, else the replacement. In place,
    x0 is the noise and x1 is drawn at guidance 1: that is the law that the velocity of a condition has by
    itself. After the original, x0 is its sample at its own guidance, and x1 the same sample where it is kept.

    Args:
        target: of the request.
        model: the conditional model of the target.
        bank_size: its samples, drawn and scored once.
        in_place: whether x0 is the noise.
    """

    def __init__(self, target: Target, model: Conditional, bank_size: int, *, in_place: bool) -> None:
        if in_place:
            target = dataclasses.replace(target, model=model.with_guidance(1.0))
        self.target, self.model, self.bank_size, self.in_place = target, model, bank_size, in_place

    def weigh(self, generator: torch.Generator) -> Tensors:
        """Return pairs with weights: every sample with weight w, and its replacement with 1 - w."""
        bank = self._draw_bank(generator)
        kappa = self.target.multiplier(bank.energy)
        w = self.target.acceptance(bank.energy, kappa)
        other = self.target.replacements(bank, generator, kappa)
        label, x0 = self.model.conditions(bank.z), self._source(bank.z, bank.x)
        anchor = self._anchor(label, w)
        return {
            "x0": torch.cat([x0, x0]),
            "x1": torch.cat([bank.x, other]),
            "label": torch.cat([label, label]),
            "anchor": torch.cat([anchor, torch.zeros_like(anchor)]),
            "planned": torch.zeros(2 * len(label), dtype=torch.bool),
            "weight": torch.cat([w, 1 - w]),
            "chance": favour_changed(label, w).repeat(2),
            **null_of(self.model),
        }

    def resample(self, plan_size: int | None, generator: torch.Generator) -> Tensors:
        """Return pairs of every sample, or its replacement where it is rejected.

        Args:
            plan_size: rows of one transport plan between x0 and x1 of the same condition; None: no plans.
                In place, only conditions of which less than half is accepted are planned: the others are
                anchored to the original, whose velocity belongs to independent pairs.
            generator: of the random numbers.
        """
        bank = self._draw_bank(generator)
        kappa = self.target.multiplier(bank.energy)
        found = self.target.replaced(bank, generator, kappa, share=self.in_place)
        label, x0, x1 = self.model.conditions(bank.z), self._source(bank.z, bank.x), found.x
        anchor = self._anchor(label, found.kept.float())
        planned = mean_within(label, found.kept.float()) < 0.5 if self.in_place else ~found.kept
        if plan_size is None or isinstance(self.target.replacement, Nearest):
            planned = torch.zeros_like(planned)
        x1 = pair_within(x0, x1, label, planned, plan_size or 1, generator)
        return {
            "x0": x0,
            "x1": x1,
            "label": label,
            "anchor": anchor * found.kept,
            "planned": planned,
            "chance": favour_changed(label, found.kept.float()),
            **null_of(self.model),
        }

    def _draw_bank(self, generator: torch.Generator) -> Bank:
        """Return the bank; before an appended flow, parts of it at ``GUIDANCES`` times the model's guidance.

        The flow then also moves samples whose owner asks for more guidance.
        """
        if self.in_place or self.model.null is None:
            bank = self.target.bank(self.bank_size, generator)
        else:
            z = self.model.prior(self.bank_size, generator)
            models = [self.model.with_guidance(g * self.model.guidance) for g in GUIDANCES]
            targets = [dataclasses.replace(self.target, model=model) for model in models]
            parts = [
                target.score(part) for target, part in zip(targets, z.tensor_split(len(models)), strict=True)
            ]
            bank = Bank(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        self.target.effective_sample_size(bank.energy)
        return bank

    def _anchor(self, label: Tensor, kept: Tensor) -> Tensor:
        """Return how far the velocity of each row's condition is that of the original, in [0, 1]."""
        return mean_within(label, kept) if self.in_place else torch.zeros(len(label), device=label.device)

    def _source(self, z: Tensor, x: Tensor) -> Tensor:
        return self.model.noise(z) if self.in_place else x


def mean_within(label: Tensor, values: Tensor) -> Tensor:
    """Return for each row the mean of the values [n] over the rows of its condition, [n]."""
    n = int(label.max()) + 1
    total = torch.bincount(label, values.double(), minlength=n)
    return (total / torch.bincount(label, minlength=n).clamp(min=1))[label].float()


def favour_changed(label: Tensor, kept: Tensor, share: float = 0.5) -> Tensor:
    """Return the probability of each row, [n]: a share of the draws favours conditions that change much.

    The law of one condition does not depend on how often it is drawn; a forgotten one has the most to learn.

    Args:
        label: conditions [n].
        kept: the probability that each row is accepted, [n].
        share: of the draws, in [0, 1]; the others are even.
    """
    change = (1 - mean_within(label, kept)).clamp(min=0).double()
    total = change.sum()
    even = torch.full_like(change, 1 / len(label))
    return even if total == 0 else (1 - share) * even + share * change / total


def draw_given(
    prepared: Tensors, n: int, null_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return n rows of prepared pairs, their conditions, and which are null; those are drawn evenly."""
    even = draw_rows(len(prepared["label"]), n, generator)
    rows = draw_weighted(torch.arange(len(prepared["label"])), prepared["chance"], n, generator)
    if "null" not in prepared:
        return rows, prepared["label"][rows], torch.zeros(n, dtype=torch.bool)
    dropped = torch.rand(n, generator=generator) < null_share
    rows = torch.where(dropped, even, rows)
    label = prepared["label"][rows]
    return rows, torch.where(dropped.to(label.device), prepared["null"], label), dropped


def pair_within(
    x0: Tensor, x1: Tensor, label: Tensor, moved: Tensor, plan_size: int, generator: torch.Generator
) -> Tensor:
    """Return x1 with the moved rows in the order of their partners in x0, planned within each condition.

    A plan across conditions would make the law of x0 depend on the condition.
    """
    paired = x1.clone()
    for c in sorted(set(label.tolist())):
        rows = (moved & (label == c)).nonzero()[:, 0]
        if len(rows) > 1:
            order = torch.randperm(len(rows), generator=generator).to(rows.device)
            rows = rows[order]
            paired[rows] = pair_blocks(ExactOT(), x0[rows], x1[rows], plan_size)
    return paired


__all__ = ["ConditionalPairs", "draw_given", "favour_changed", "pair_within"]
