"""Choice of the weights that a training changes: some by name, or low-rank adapters."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from unflow.ground.errors import InputError
from unflow.models import GenerativeModel
from unflow.training.low_rank import LowRank, LowRankSum, find_adaptable_layers, merge_layer
from unflow.training.method import Part, Parts, Problem, fixed_names


def train_only(parts: Parts, models: Sequence[nn.Module], patterns: Sequence[str]) -> None:
    """Freeze the weights of a model in training, except those whose names match a pattern.

    A weight that matches is trained even if its owner has fixed it (requires_grad=False).
    Other networks, such as a potential, are trained in full.

    Args:
        parts: as returned by ``Training.init``, before the first step.
        models: models whose weights a part may start from.
        patterns: regular expressions that may match anywhere in a name like ``layers.2.weight``.

    Raises:
        InputError: for no pattern, a pattern that is empty, invalid or matches no name, and a method that
            trains no weight of the model.
    """
    for part in find_parts(parts, models):
        weights = dict(part.net.named_parameters())
        chosen = match_names(list(weights), patterns)
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
    """Add low-rank adapters to the weights of a model in training, and freeze the model's own weights.

    Other networks, such as a potential, are trained in full.

    Args:
        parts: as returned by ``Training.init``, before the first step.
        models: models whose weights a part may start from.
        adapters: rank and alpha.
        patterns: regular expressions for the names of the weights that get an adapter; None: every weight of
            a linear or convolution layer.
        generator: of the adapters' initial values.

    Raises:
        InputError: for patterns as in ``train_only``, a network without such layers, and a method that
            trains no weight of the model.
    """
    for part in find_parts(parts, models):
        layers = find_adaptable_layers(part.net)
        chosen = _unfixed(layers, part.net) if patterns is None else match_names(list(layers), patterns)
        part.net.requires_grad_(False)
        for name in [name for name in layers if name in chosen]:
            update = LowRankSum(part.net.get_parameter(name), adapters, generator)
            parametrize.register_parametrization(layers[name], "weight", update)
        part.start()


def _unfixed(names: Collection[str], net: nn.Module) -> set[str]:
    """Return the names of weights that the owner has not fixed.

    Raises:
        InputError: if all of them are fixed.
    """
    found = set(names) - fixed_names(net)
    if not found:
        raise InputError(
            "got low-rank adapters for a network whose linear and convolution layers are all fixed "
            "(requires_grad=False); expected one that is not: name weights to train by train_only"
        )
    return found


@torch.no_grad()
def merge(parts: Parts) -> None:
    """Replace weight and adapter by their sum, in the averaged networks, which become the model."""
    for part in parts.values():
        updates = [name for name, each in part.average.named_modules() if isinstance(each, LowRankSum)]
        for name in updates:
            merge_layer(part.average.get_submodule(name.removesuffix(".parametrizations.weight.0")))


def is_partial(problem: Problem) -> bool:
    """Return whether the problem asks for adapters or for some of the weights."""
    return problem.train_only is not None or problem.adapters is not None


def find_parts(parts: Parts, models: Sequence[nn.Module]) -> list[Part]:
    """Return the parts that start from the weights of one of the models.

    Raises:
        InputError: if there is no such part.
    """
    found = [part for part in parts.values() if any(_starts_from(part, model) for model in models)]
    require_own_weights(bool(found), models[0])
    return found


def require_own_weights(trained: bool, model: nn.Module) -> None:
    """Raise InputError unless the model's own weights are trained; suggest methods that train them."""
    if not trained:
        is_flow = isinstance(model, GenerativeModel) and model.family == "flow"
        raise InputError(
            "got names of weights to train, or adapters of them, for a method that leaves the model's "
            "weights alone or starts them afresh; expected one that changes them: write "
            + ("erfm_resample_prior or fine_tune" if is_flow else "uot_tilted or latent_transport")
        )


def match_names(names: Collection[str], patterns: Sequence[str]) -> set[str]:
    """Return the names that one of the regular expressions matches somewhere.

    Raises:
        InputError: for no pattern, and for a pattern that is empty, invalid or matches no name.
    """
    if not patterns or not all(pattern.strip() for pattern in patterns):
        raise InputError(
            f"got no names of weights to train, or an empty one ({list(patterns)}); expected one or more: "
            "leave train_only out for all"
        )
    return set().union(*(_match_pattern(_compile_pattern(pattern), names) for pattern in patterns))


def _match_pattern(expression: re.Pattern[str], names: Collection[str]) -> set[str]:
    found = {name for name in names if expression.search(name)}
    if not found:
        raise InputError(
            f"got the name {expression.pattern!r} of weights to train, which matches none; expected "
            f"one of {', '.join(list(names)[:4])}, ..."
        )
    return found


def _starts_from(part: Part, model: nn.Module) -> bool:
    """Return whether a part starts from the weights of the model, or of the network inside it."""
    starts = [each for each in (model, getattr(model, "net", None)) if isinstance(each, nn.Module)]
    return any(_have_same_weights(part.net, each) for each in starts)


def _have_same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = dict(one.named_parameters()), dict(other.named_parameters())
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"got {pattern!r} as names of weights ({error}); expected a regular expression"
        ) from None
