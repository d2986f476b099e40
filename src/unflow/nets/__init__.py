"""Networks that unflow ships; any other module works too, if its owner can rebuild it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unflow.errors import InputError, choose, said
from unflow.nets.adapters import ReadsAs, WritesAs, built_around
from unflow.nets.autoencoder import ConvAutoencoder
from unflow.nets.convnet import ConvNet
from unflow.nets.dit import DIT_SIZES, DiT
from unflow.nets.mlp import MLP
from unflow.nets.resnet import ResNet
from unflow.nets.unet import UNet
from unflow.nets.velocity import AdaptedAverageVelocity, AdaptedVelocity, plain_velocity

__all__ = [
    "ADAPTERS", "DIT_SIZES", "MLP", "NETS", "AdaptedAverageVelocity", "AdaptedVelocity", "ConvAutoencoder",
    "ConvNet", "DiT", "ReadsAs", "ResNet", "UNet", "WritesAs", "build_net", "builders", "named_function",
    "net_config", "new_net", "plain_velocity", "trust", "trusted",
]  # fmt: skip

NETS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "unet": UNet,
    "dit": DiT,
    "convnet": ConvNet,
    "resnet": ResNet,
    "conv_autoencoder": ConvAutoencoder,
}

ADAPTERS: dict[str, Callable[..., nn.Module]] = {
    "reads_as": built_around(ReadsAs),
    "writes_as": built_around(WritesAs),
    AdaptedVelocity.name: built_around(AdaptedVelocity),
    AdaptedAverageVelocity.name: built_around(AdaptedAverageVelocity),
}
"""What stands around a network of somebody else's."""

_TRUSTED = {"unflow.hub:FlowUNet", "unflow.hub:ConsistencyUNet", "unflow.hub:KLAutoencoder"}


def trust(builder: str) -> None:
    """Let files that are loaded from now on name this builder: whoever named it has agreed to run it."""
    _TRUSTED.add(builder)


def trusted(builder: str) -> bool:
    """Return whether a file may have this builder run."""
    return builder in _TRUSTED


def builders(config: Any) -> list[str]:
    """Return the builders that an architecture's description names, at any depth."""
    if isinstance(config, list):
        return [name for each in config for name in builders(each)]
    if not isinstance(config, dict):
        return []
    own = [str(config["builder"])] if "builder" in config else []
    return own + [name for key, each in config.items() if key != "options" for name in builders(each)]


def net_config(net: nn.Module) -> dict[str, Any]:
    """Return the plain data from which ``build_net`` makes this architecture again.

    A module of one's own takes part by an attribute ``config = {"builder": "package.module:function",
    "options": {...}}``.

    Raises:
        InputError: for a module without such a description.
    """
    config = getattr(net, "config", None)
    if not isinstance(config, dict):
        raise InputError(
            f"got a {type(net).__name__} that cannot be described in a file; expected one of "
            f"{', '.join(NETS)}, or set net.config = "
            '{"builder": "package.module:function", "options": {...}}'
        )
    return config


def build_net(config: dict[str, Any]) -> nn.Module:
    """Return a fresh network from its description.

    Raises:
        InputError: for an unknown network, builder or option.
    """
    if not isinstance(config, dict):
        raise InputError(f"got {config!r} for a network; expected what ``net_config`` returns")
    options = dict(config)
    if "builder" in options:
        name, options = options["builder"], options.get("options", {})
        build = named_function(name)
    else:
        name = options.pop("net", None)
        build = choose({**NETS, **ADAPTERS}, name, "network")
    try:
        net = build(**options)
    except TypeError as error:
        raise InputError(f"the network {name} does not take these options: {error}") from error
    except Exception as error:  # what somebody else's code raises is anything
        if "builder" not in config or isinstance(error, InputError):
            raise
        raise InputError(f"{name} fails ({said(error)}); expected it to return the network") from error
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{name} returned a {type(net).__name__}; expected a torch.nn.Module: name the function "
            "that makes the network"
        )
    if "builder" in config:
        net.config = dict(config)  # type: ignore[assignment]
    return net


def new_net(config: dict[str, Any], seed: int) -> nn.Module:
    """Return ``build_net(config)`` with initial weights from ``seed``; the global stream is untouched."""
    with initial_weights(seed):
        return build_net(config)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Have layers that are made here take their weights from ``seed``; the global stream is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
        yield


def named_function(path: str) -> Any:
    """Return the function in "package.module:function".

    Raises:
        InputError: for one that cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # what somebody else's module raises is anything
        raise InputError(
            f"got {path!r} ({said(error)}); expected package.module:function that can be imported"
        ) from error
