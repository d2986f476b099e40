"""A new flow after the original model, for methods that leave the original unchanged (``Chain``)."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unflow.ground.errors import InputError
from unflow.models import Chain, Conditional, Flow, GenerativeModel
from unflow.nets import AdaptedVelocity, build_net, net_config, new_net
from unflow.nets.adapters import unwrap
from unflow.training.method import Problem, model_of

SHARE = 0.25
"""Largest size of the appended network, as a share of the original network's parameters."""
MIN_WIDTH, MAX_WIDTH = 16, 256
"""Narrowest appended MLP, and the widest after a third-party network."""
MAX_MLP_DIM = 1024
"""Entries of an image above which a third-party network without convolutions gets a U-Net appended."""
MIN_SIDE = 4
"""Smallest height or width inside an appended U-Net."""


def new_appended_net(problem: Problem, width: int | None, depth: int | None, seed: int) -> nn.Module:
    """Return a fresh velocity with at most a quarter of the original's parameters; its flow is the identity.

    q0 is nearer to q* than noise is, so a small network is enough. The original of a chain is its first
    model, and that of a conditional model the flow inside, whose conditions the new network is told.

    A network of unflow gets the same kind of network: an MLP with half the layers (at least min(2, depth))
    and the largest fitting width; a U-Net with fewer channels; a DiT with fewer heads and layers. A
    third-party network gets a network by the shape of a sample: an MLP for points, vectors of latents, and
    images of at most ``MAX_MLP_DIM`` entries whose network has no convolution; a U-Net for other images. An
    original so small that no sensible network has a quarter of its size gets the smallest of its kind: an MLP
    of width ``MIN_WIDTH``, or a U-Net of 8 channels.

    Args:
        problem: gives the original.
        width: of an MLP; None: the largest multiple of 8 that fits, at most the original's.
        depth: of an MLP; None: half the original's; 2 after a third-party network.
        seed: of the weights.

    Raises:
        InputError: for a width or depth and a network that is not an MLP.
    """
    net, model = new_net(describe_appended_net(problem, width, depth), seed), model_of(problem)
    if not isinstance(model, Conditional) or not getattr(net, "num_classes", 0):
        return net
    return AdaptedVelocity(net, model.sample_shape, "x, t, label", label=0)


def describe_appended_net(problem: Problem, width: int | None, depth: int | None) -> dict[str, Any]:
    """Return the description of the network of ``new_appended_net``, which raises the same InputError."""
    model = model_of(problem)
    original = _find_original(model)
    classes = {"num_classes": model.num_classes} if isinstance(model, Conditional) else {}
    most = int(SHARE * sum(weight.numel() for weight in original.net.parameters()))
    config = net_config(unwrap(original.net) if classes else original.net)
    if config.get("net") not in ("mlp", *_SHRINK):
        config = _describe_by_shape(original)
    config = {name: value for name, value in config.items() if name != "num_classes"} | classes
    if config["net"] == "mlp":
        return _fit_mlp(config, width, depth, most)
    sizes = [name for name, size in (("width", width), ("depth", depth)) if size is not None]
    if sizes:
        raise InputError(
            f"got {' and '.join(sizes)} for a network that is not an MLP; expected None: leave them out"
        )
    smaller = list(_SHRINK[config["net"]](config))
    return next((each for each in smaller if count_parameters(each) <= most), smaller[-1])


def count_parameters(config: dict[str, Any]) -> int:
    """Return the number of parameters of a network of unflow, which is not built in memory."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_net(config).parameters())


def _describe_by_shape(original: Flow) -> dict[str, Any]:
    """Return a network of unflow, as large as appended ones get, for the samples of a third-party network."""
    shape = list(original.sample_shape)
    convolves = any(isinstance(module, nn.Conv2d) for module in original.net.modules())
    if len(shape) == 3 and min(shape[1:]) >= 2 * MIN_SIDE and (convolves or math.prod(shape) > MAX_MLP_DIM):
        levels = 1
        while levels < 3 and all(side % 2**levels == 0 and side >> levels >= MIN_SIDE for side in shape[1:]):
            levels += 1
        return {"net": "unet", "shape": shape, "widths": [64, 128, 128][:levels], "num_times": 1}
    return {"net": "mlp", "shape": shape, "width": MAX_WIDTH, "depth": 4, "num_times": 1}


def _fit_mlp(config: dict[str, Any], width: int | None, depth: int | None, most: int) -> dict[str, Any]:
    """Return the MLP of a width and depth, each chosen if None, the width for ``most`` parameters."""
    if depth is None:
        depth = min(config["depth"], max(2, config["depth"] // 2))
    config = config | {"depth": depth}
    if width is not None:
        return config | {"width": width}
    widths = range(min(config["width"], MIN_WIDTH), config["width"] + 1, 8)
    fitting = bisect_right(widths, most, key=lambda each: count_parameters(config | {"width": each}))
    return config | {"width": widths[max(0, fitting - 1)]}


def _shrink_unet(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield U-Nets with fewer and fewer channels."""
    for share in range(15, 0, -1):
        yield config | {"widths": [8 * max(1, round(w * share / 128)) for w in config["widths"]]}


def _shrink_dit(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield transformers with fewer and fewer heads, of the same size, and layers."""
    heads, per_head = config["heads"], config["width"] // config["heads"]
    for factor in (2, 3, 4, 6, 8, 12):
        fewer = max(1, heads // factor)
        sizes = {"heads": fewer, "width": fewer * per_head, "depth": max(1, config["depth"] // factor)}
        sizes |= {"num_classes": config.get("num_classes", 0), "label": None}
        yield config | sizes


_SHRINK = {"unet": _shrink_unet, "dit": _shrink_dit}
"""Kinds of networks of unflow, other than the MLP, that can be appended, and generators of smaller ones."""


def _find_original(model: GenerativeModel) -> Flow:
    while isinstance(model, Chain | Conditional):
        model = model.base if isinstance(model, Chain) else model.inner
    assert isinstance(model, Flow)
    return model


def append_flow(problem: Problem, net: nn.Module, steps: int) -> GenerativeModel:
    """Return a copy of the model followed by the flow of velocity ``net``, which sees the same conditions."""
    model, after = model_of(problem), Flow(net, model_of(problem).sample_shape, "midpoint", steps)
    if isinstance(model, Conditional) and isinstance(net, AdaptedVelocity):
        return model.around(Chain(copy.deepcopy(model.inner), after))
    return Chain(copy.deepcopy(model), after)
