"""The labels that a request forgets and the label that takes the place of each, for baselines."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from unflow.energies import ConditionEnergy
from unflow.ground.errors import InputError
from unflow.mathematics.divergences import KL
from unflow.models import Conditional, GenerativeModel
from unflow.target import Bank, OfLabel, Target
from unflow.training.method import Problem, Tensors

PER_LABEL = 256
"""Samples of each condition from which its acceptance is estimated."""
LEAST_KEPT = 0.5
"""Smallest acceptance of a condition that the request keeps."""


def require_conditional_model(problem: Problem) -> Conditional:
    """Return the problem's model, a conditional one; ``Method.check`` has made sure of it."""
    assert isinstance(problem.model, Conditional)
    return problem.model


def find_labels(model: GenerativeModel) -> list[int]:
    """Return the conditions of a conditional model whose probability is not 0, without the null condition."""
    assert isinstance(model, Conditional)
    return [k for k in model.drawn if k != model.null]


def share_retained(model: Conditional, forgotten: Collection[int]) -> Tensors:
    """Return {retained: the conditions that are not forgotten, share: their probabilities}."""
    retained = [k for k in find_labels(model) if k not in forgotten]
    return {
        "retained": torch.tensor(retained),
        "share": torch.tensor([model.probabilities[k] for k in retained]),
    }


def measure_acceptance(target: Target, generator: torch.Generator) -> dict[int, float]:
    """Return a(c) = E_{q0(.|c)}[w] of each condition, in [0, 1], from ``PER_LABEL`` samples of it."""
    kappa = None if isinstance(target.divergence, KL) else target.kappa
    found = {}
    for k in find_labels(target.model):
        bank = draw_label(target, k, PER_LABEL, generator)
        found[k] = float(target.acceptance(bank.energy, kappa).double().mean())
    return found


def draw_label(target: Target, label: int, n: int, generator: torch.Generator) -> Bank:
    """Return n samples of one condition of the target's model, with their energies."""
    model = target.model.require_conditional()
    return target.score(model.ask(target.model.prior(n, generator), label), varies=False)


def find_forgotten(target: Target, generator: torch.Generator) -> list[int]:
    """Return the conditions that a request forgets: those of ``label:3``, or with a(c) < ``LEAST_KEPT``.

    Raises:
        InputError: if the request forgets no condition, or every one.
    """
    if isinstance(target.energy, ConditionEnergy):
        return sorted(target.energy.forget)
    accepted = measure_acceptance(target, generator)
    forgotten = [k for k, a in accepted.items() if a < LEAST_KEPT]
    if not forgotten:
        k = min(accepted, key=lambda k: accepted[k])
        raise InputError(
            f"got a request that keeps at least {100 * accepted[k]:.0f} % of the samples of every label (of "
            f"label {k} the least), for a method that forgets labels; expected a label of which it keeps "
            f"less than {100 * LEAST_KEPT:.0f} %: name it, write --energy label:{k}"
        )
    if len(forgotten) == len(accepted):
        raise InputError(
            f"got a request that rejects more than {100 * (1 - LEAST_KEPT):.0f} % of the samples of every "
            "label; expected a label to keep: lower the strength or the margin, or write --energy label:3"
        )
    return forgotten


def find_anchors(
    target: Target, forgotten: list[int], label: int | None, generator: torch.Generator
) -> dict[int, int]:
    """Return the retained condition that takes the place of each forgotten one.

    It is ``label``; if that is None, the label of the target's replacement ``label:5``; for another
    replacement, the retained condition whose samples lie nearest to those of the forgotten one at the same
    noise, min_a E||G0(z; c) - G0(z; a)||^2, from ``PER_LABEL`` latents.

    Raises:
        InputError: for a label that the request forgets, or that the model does not draw.
    """
    model = target.model.require_conditional()
    retained = [k for k in find_labels(target.model) if k not in forgotten]
    if label is None and isinstance(target.replacement, OfLabel):
        label = target.replacement.label
    if label is not None:
        check_anchor(label, forgotten, retained)
        return dict.fromkeys(forgotten, label)
    z = target.model.prior(PER_LABEL, generator)
    x = {k: target.model.push_batches(model.ask(z, k)) for k in (*forgotten, *retained)}
    return {c: min(retained, key=lambda a: float((x[c] - x[a]).square().mean())) for c in forgotten}


def check_anchor(label: int, forgotten: list[int], retained: list[int]) -> None:
    """Raise InputError for an anchor that is not a retained condition."""
    if label not in retained:
        why = "which the request forgets" if label in forgotten else "which the model does not draw"
        raise InputError(
            f"got label {label}, {why}, to take the place of a forgotten one; expected a retained label: one "
            f"of {', '.join(map(str, retained))}"
        )


def expand_labels(pairs: dict[int, int], n: int) -> Tensors:
    """Return {label: n forgotten conditions, anchor: the anchor of each}, every pair equally often."""
    rows = torch.arange(n) % len(pairs)
    columns: list[Tensor] = [torch.tensor(part)[rows] for part in (list(pairs), list(pairs.values()))]
    return {"label": columns[0], "anchor": columns[1]}
