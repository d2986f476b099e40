"""A flow after the model: what methods share that leave the original as it is (``Chain``)."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from unflow.ground.errors import InputError
from unflow.models import Chain, Flow, GenerativeModel, Labelled
from unflow.nets import net_config, new_net, plain_velocity
from unflow.training.method import Problem, model_of


def appended_net(problem: Problem, width: int | None, depth: int | None, seed: int) -> nn.Module:
    """Return a fresh velocity on the model's samples, like the original flow's; it starts as the identity.

    The original of a chain is its first model, of a labelled model the flow inside, at its own label and
    without guidance. An MLP may have another width or depth; by default it has half the layers (2 at least,
    or as many as it has): the way from q0 to q* is shorter than from noise. A network of somebody else's
    starts as its builder makes it.

    Raises:
        InputError: for a width or depth of a network that is no MLP.
    """
    return new_net(appended_config(problem, width, depth), seed)


def appended_config(problem: Problem, width: int | None, depth: int | None) -> dict[str, Any]:
    """Return the description of ``appended_net``; it raises the same InputError."""
    config = plain_velocity(net_config(_first(model_of(problem)).net))
    sizes = {name: size for name, size in (("width", width), ("depth", depth)) if size is not None}
    if sizes and config.get("net") != "mlp":
        raise InputError(
            f"got {' and '.join(sizes)} for a network that is no MLP; expected None: leave them out"
        )
    if config.get("net") == "mlp" and depth is None:
        sizes["depth"] = min(config["depth"], max(2, config["depth"] // 2))
    return config | sizes


def _first(model: GenerativeModel) -> Flow:
    while isinstance(model, Chain | Labelled):
        model = model.base if isinstance(model, Chain) else model.inner
    assert isinstance(model, Flow)
    return model


def chained(problem: Problem, net: nn.Module, steps: int) -> Chain:
    """Return a copy of the model with the flow of velocity ``net`` after it."""
    model = model_of(problem)
    return Chain(copy.deepcopy(model), Flow(net, model.sample_shape, "midpoint", steps))
