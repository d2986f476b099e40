"""Pairs for flow matching towards the target of a conditional model, each with its condition."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from unflow.mathematics.couplings import ExactOT, pair_blocks
from unflow.models import Conditional
from unflow.target import Nearest, Target
from unflow.training.method import Tensors, draw_rows, draw_weighted
from unflow.training.originals.flow_matching import null_of


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
        """Return {x0, x1, label, weight}: every sample with weight w, and its replacement with 1 - w."""
        bank = self.target.bank(self.bank_size, generator)
        self.target.effective_sample_size(bank.energy)
        kappa = self.target.multiplier(bank.energy)
        w = self.target.acceptance(bank.energy, kappa)
        other = self.target.replacements(bank, generator, kappa)
        label, x0 = self.model.conditions(bank.z), self._source(bank.z, bank.x)
        return {
            "x0": torch.cat([x0, x0]),
            "x1": torch.cat([bank.x, other]),
            "label": torch.cat([label, label]),
            "weight": torch.cat([w, 1 - w]),
            "chance": favour_changed(label, w).repeat(2),
            **null_of(self.model),
        }

    def resample(self, plan_size: int | None, generator: torch.Generator) -> Tensors:
        """Return {x0, x1, label}: every sample, or its replacement where it is rejected.

        Args:
            plan_size: rows of one transport plan between x0 and x1 of the same condition; None: no plans.
            generator: of the random numbers.
        """
        bank = self.target.bank(self.bank_size, generator)
        self.target.effective_sample_size(bank.energy)
        kappa = self.target.multiplier(bank.energy)
        found = self.target.replaced(bank, generator, kappa, share=True)
        label, x0, x1 = self.model.conditions(bank.z), self._source(bank.z, bank.x), found.x
        if plan_size is not None:
            fixed = torch.zeros_like(found.kept) if self.in_place else found.kept
            if self.in_place or not isinstance(self.target.replacement, Nearest):
                x1 = pair_within(x0, x1, label, ~fixed, plan_size, generator)
        chance = favour_changed(label, found.kept.float())
        return {"x0": x0, "x1": x1, "label": label, "chance": chance, **null_of(self.model)}

    def _source(self, z: Tensor, x: Tensor) -> Tensor:
        return self.model.noise(z) if self.in_place else x


def favour_changed(label: Tensor, kept: Tensor) -> Tensor:
    """Return the probability of each row, [n]: half of the draws favour conditions that change much.

    The law of one condition does not depend on how often it is drawn; a forgotten one has the most to learn.

    Args:
        label: conditions [n].
        kept: the probability that each row is accepted, [n].
    """
    n = int(label.max()) + 1
    count = torch.bincount(label, minlength=n).clamp(min=1)
    rejected = (1 - torch.bincount(label, kept.double(), minlength=n) / count).clamp(min=0)
    change = rejected[label]
    total = change.sum()
    even = torch.full_like(change, 1 / len(label))
    return even if total == 0 else (even + change / total) / 2


def draw_given(
    prepared: Tensors, n: int, null_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return n rows of prepared pairs and their conditions; rows of the null condition are drawn evenly."""
    even = draw_rows(len(prepared["label"]), n, generator)
    rows = draw_weighted(torch.arange(len(prepared["label"])), prepared["chance"], n, generator)
    if "null" not in prepared:
        return rows, prepared["label"][rows]
    dropped = torch.rand(n, generator=generator) < null_share
    rows = torch.where(dropped, even, rows)
    label = prepared["label"][rows]
    return rows, torch.where(dropped.to(label.device), prepared["null"], label)


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
