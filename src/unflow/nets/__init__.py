"""The networks of unflow. Any other module works too if a function can rebuild it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unflow.ground.errors import InputError, choose, explain
from unflow.ground.memory import guard_memory
from unflow.nets.adapters import ReadsAs, WritesAs
from unflow.nets.autoencoder import ConvAutoencoder
from unflow.nets.conditioned import AdaptedGenerator
from unflow.nets.convnet import ConvNet
from unflow.nets.description import (
    builders,
    describe,
    foreign_networks,
    named_function,
    net_config,
    run_only_named,
    trust,
    trusted,
)
from unflow.nets.dit import DIT_SIZES, DiT
from unflow.nets.generator import ConvGenerator
from unflow.nets.mlp import MLP
from unflow.nets.outputs import OutputsAs
from unflow.nets.resnet import ResNet
from unflow.nets.unet import UNet
from unflow.nets.velocity import AdaptedAverageVelocity, AdaptedVelocity, plain_velocity

__all__ = [
    "ADAPTERS",
    "DIT_SIZES",
    "MLP",
    "NETS",
    "AdaptedAverageVelocity",
    "AdaptedGenerator",
    "AdaptedVelocity",
    "ConvAutoencoder",
    "ConvGenerator",
    "ConvNet",
    "DiT",
    "OutputsAs",
    "ReadsAs",
    "ResNet",
    "UNet",
    "WritesAs",
    "build_net",
    "builders",
    "foreign_networks",
    "named_function",
    "net_config",
    "new_net",
    "plain_velocity",
    "run_only_named",
    "trust",
    "trusted",
]

NETS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "unet": UNet,
    "dit": DiT,
    "convnet": ConvNet,
    "resnet": ResNet,
    "conv_autoencoder": ConvAutoencoder,
    "conv_generator": ConvGenerator,
}


def make_builder(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    """Return a function that builds an adapter, and first the network inside, from its description."""

    def build(of: dict[str, Any], **options: Any) -> nn.Module:
        return kind(build_net(of), **options)

    return build


ADAPTERS: dict[str, Callable[..., nn.Module]] = {
    "reads_as": make_builder(ReadsAs),
    "writes_as": make_builder(WritesAs),
    OutputsAs.name: make_builder(OutputsAs),
    AdaptedVelocity.name: make_builder(AdaptedVelocity),
    AdaptedAverageVelocity.name: make_builder(AdaptedAverageVelocity),
    AdaptedGenerator.name: make_builder(AdaptedGenerator),
}
"""Wrappers of third-party networks, by the names in descriptions."""


def build_net(config: dict[str, Any]) -> nn.Module:
    """Return a new network from its description.

    Raises:
        InputError: for an unknown network, builder or option, and as ``guard_memory``.
    """
    if not isinstance(config, dict):
        raise InputError(f"got {config!r} for a network; expected the result of ``net_config``")
    options = dict(config)
    if "builder" in options:
        name, options = options["builder"], options.get("options", {})
        build = named_function(name)
    else:
        name = options.pop("net", None)
        build = choose({**NETS, **ADAPTERS}, name, "network")
    try:
        with guard_memory(name):
            net = build(**options)
    except TypeError as error:
        raise InputError(f"the network {name} does not take these options: {error}") from error
    except Exception as error:  # third-party code may raise any exception
        if "builder" not in config or isinstance(error, InputError):
            raise
        raise InputError(f"{name} fails ({explain(error)}); expected it to return the network") from error
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{name} returned a {type(net).__name__}; expected a torch.nn.Module: name the function "
            "that makes the network"
        )
    if "builder" in config:
        describe(net, dict(config))
    return net


def new_net(config: dict[str, Any], seed: int) -> nn.Module:
    """Return ``build_net(config)`` with initial weights from ``seed``; the global generator is unchanged."""
    with initial_weights(seed):
        return build_net(config)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Within this context, new layers draw weights from ``seed``; the global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
        yield
