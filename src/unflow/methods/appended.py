"""A new flow after the original model, for methods that leave the original unchanged (``Chain``)."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from unflow.ground.errors import InputError
from unflow.models import Chain, Flow, GenerativeModel, Labelled
from unflow.nets import net_config, new_net, plain_velocity
from unflow.training.method import Problem, model_of


def new_appended_net(problem: Problem, width: int | None, depth: int | None, seed: int) -> nn.Module:
    """Return a fresh velocity with the architecture of the original flow's; its flow is the identity.

    The original of a chain is its first model, and that of a labelled model the flow inside, at its label and
    without guidance. An MLP may have another width or depth; by default it has half the layers, but at least
    min(2, depth), because q0 is nearer to q* than noise is. A third-party network starts at the weights of
    its builder, so that its flow need not be the identity.

    Args:
        problem: gives the original.
        width: of an MLP; None: the original's.
        depth: of an MLP; None: half the original's.
        seed: of the weights.

    Raises:
        InputError: for a width or depth and a network that is not an MLP.
    """
    return new_net(describe_appended_net(problem, width, depth), seed)


def describe_appended_net(problem: Problem, width: int | None, depth: int | None) -> dict[str, Any]:
    """Return the description of the network of ``new_appended_net``, which raises the same InputError."""
    config = plain_velocity(net_config(_find_original(model_of(problem)).net))
    sizes = {name: size for name, size in (("width", width), ("depth", depth)) if size is not None}
    if sizes and config.get("net") != "mlp":
        raise InputError(
            f"got {' and '.join(sizes)} for a network that is not an MLP; expected None: leave them out"
        )
    if config.get("net") == "mlp" and depth is None:
        sizes["depth"] = min(config["depth"], max(2, config["depth"] // 2))
    return config | sizes


def _find_original(model: GenerativeModel) -> Flow:
    while isinstance(model, Chain | Labelled):
        model = model.base if isinstance(model, Chain) else model.inner
    assert isinstance(model, Flow)
    return model


def append_flow(problem: Problem, net: nn.Module, steps: int) -> Chain:
    """Return a copy of the model followed by the flow of velocity ``net``."""
    model = model_of(problem)
    return Chain(copy.deepcopy(model), Flow(net, model.sample_shape, "midpoint", steps))
