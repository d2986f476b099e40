"""Training some of a model's weights, and leaving the others as they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from unflow.ground.errors import InputError
from unflow.models import GenerativeModel
from unflow.training.low_rank import LowRank, LowRankSum, adaptable, merge_layer
from unflow.training.method import Part, Parts, Problem


def train_only(parts: Parts, models: Sequence[nn.Module], patterns: Sequence[str]) -> None:
    """Freeze the weights of a model in training, but for those whose names match.

    What is trained beside the model (a potential, another network) is trained whole.

    Args:
        parts: as ``Training.init`` returned them, nothing trained yet.
        models: one of which is trained further.
        patterns: regular expressions, found anywhere in a name like ``layers.2.weight``.

    Raises:
        InputError: for no pattern, one that is empty, no regular expression or matches nothing, and a method
            that trains no weight of the model.
    """
    for part in holding(parts, models):
        weights = dict(part.net.named_parameters())
        chosen = matching(list(weights), patterns)
        for name, weight in weights.items():
            weight.requires_grad_(name in chosen)
        part.start()


def adapt(
    parts: Parts,
    models: Sequence[nn.Module],
    adapters: LowRank,
    patterns: Sequence[str] | None,
    generator: torch.Generator,
) -> None:
    """Put adapters on the weights of a model in training, and train nothing else of it.

    What is trained beside the model (a potential, another network) is trained whole.

    Args:
        parts: as ``Training.init`` returned them, nothing trained yet.
        models: one of which is trained further.
        adapters: rank and alpha.
        patterns: regular expressions, found anywhere in the name of a weight that takes one; None: all of
            those.
        generator: of their initial values.

    Raises:
        InputError: for patterns as in ``partly.train_only``, a network without such layers, and a method that
            trains no weight of the model.
    """
    for part in holding(parts, models):
        layers = adaptable(part.net)
        chosen = set(layers) if patterns is None else matching(list(layers), patterns)
        part.net.requires_grad_(False)
        for name in [name for name in layers if name in chosen]:
            update = LowRankSum(part.net.get_parameter(name), adapters, generator)
            parametrize.register_parametrization(layers[name], "weight", update)
        part.start()


@torch.no_grad()
def merge(parts: Parts) -> None:
    """Make plain weights of adapted ones, in the averages, which become the model."""
    for part in parts.values():
        updates = [name for name, each in part.average.named_modules() if isinstance(each, LowRankSum)]
        for name in updates:
            merge_layer(part.average.get_submodule(name.removesuffix(".parametrizations.weight.0")))


def is_partial(problem: Problem) -> bool:
    """Return whether less than all weights of the problem's model are to be trained."""
    return problem.train_only is not None or problem.adapters is not None


def holding(parts: Parts, models: Sequence[nn.Module]) -> list[Part]:
    """Return the parts that start from the weights of one of the models.

    Raises:
        InputError: if none does.
    """
    found = [part for part in parts.values() if any(_holds(part, model) for model in models)]
    require_own_weights(bool(found), models[0])
    return found


def require_own_weights(trained: bool, model: nn.Module) -> None:
    """Raise InputError, naming methods that do, where one does not train the weights that the model has."""
    if not trained:
        is_flow = isinstance(model, GenerativeModel) and model.family == "flow"
        raise InputError(
            "got names of weights to train, or adapters of them, for a method that leaves the model's "
            "weights alone or starts them afresh; expected one that changes them: write "
            + ("erfm_resample_prior or fine_tune" if is_flow else "uot_tilted or latent_transport")
        )


def matching(names: Collection[str], patterns: Sequence[str]) -> set[str]:
    """Return the names in which one of the regular expressions is found.

    Raises:
        InputError: for no pattern, and one that is empty, no regular expression or matches nothing.
    """
    if not patterns or not all(pattern.strip() for pattern in patterns):
        raise InputError(
            f"got no names of weights to train, or an empty one ({list(patterns)}); expected one or more: "
            "leave train_only out for all"
        )
    return set().union(*(_found(_compiled(pattern), names) for pattern in patterns))


def _found(expression: re.Pattern[str], names: Collection[str]) -> set[str]:
    found = {name for name in names if expression.search(name)}
    if not found:
        raise InputError(
            f"got the name {expression.pattern!r} of weights to train, which matches none; expected "
            f"one of {', '.join(list(names)[:4])}, ..."
        )
    return found


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
