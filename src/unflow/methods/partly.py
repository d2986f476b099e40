"""Training some of a model's weights, and leaving the others as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from unflow.errors import InputError
from unflow.methods.base import Part, Parts


def train_only(parts: Parts, models: Sequence[nn.Module], patterns: Sequence[str]) -> None:
    """Freeze the weights of a model in training, but for those whose names match.

    What is trained beside the model (a potential, another network) is trained whole.

    Args:
        parts: as ``Training.init`` returned them, nothing trained yet.
        models: one of which is trained further.
        patterns: regular expressions, found anywhere in a name like ``layers.2.weight``.

    Raises:
        InputError: for no pattern, one that is no regular expression or matches nothing, and a method that
            trains no weight of the model.
    """
    expressions = [_compiled(pattern) for pattern in patterns]
    if not expressions:
        raise InputError(
            "got no names of weights to train; expected one or more: leave train_only out for all"
        )
    holding = [part for part in parts.values() if any(_holds(part, model) for model in models)]
    if not holding:
        raise InputError(
            "got names of weights to train for a method that trains a network of its own; expected one that "
            "changes the model's, like uot_tilted, latent_transport or erfm_resample_prior"
        )
    for part in holding:
        weights = dict(part.net.named_parameters())
        for expression in expressions:
            if not any(expression.search(name) for name in weights):
                raise InputError(
                    f"got the name {expression.pattern!r} of weights to train, which matches none; expected "
                    f"one of {', '.join(list(weights)[:4])}, ..."
                )
        for name, weight in weights.items():
            weight.requires_grad_(any(expression.search(name) for expression in expressions))


def _holds(part: Part, model: nn.Module) -> bool:
    """Return whether a part starts from the weights of the model, or of the network inside it."""
    inside = getattr(model, "net", None)
    return _same(part.net, model) or (isinstance(inside, nn.Module) and _same(part.net, inside))


def _same(one: nn.Module, other: nn.Module) -> bool:
    first, second = dict(one.named_parameters()), dict(other.named_parameters())
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"got {pattern!r} as names of weights ({error}); expected a regular expression"
        ) from None
