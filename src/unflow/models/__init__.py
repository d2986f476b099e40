"""Generative models: a prior pushed forward, by a flow, a flow map, any network, a chain or a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unflow.ground.errors import InputError, choose
from unflow.mathematics.divergences import DIVERGENCES
from unflow.models.autoencoder import Autoencoder
from unflow.models.base import GenerativeModel, latent_norm
from unflow.models.chain import Chain
from unflow.models.components import energy_from_config
from unflow.models.filtered import Filtered
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.generator import Generator
from unflow.models.labelled import Labelled
from unflow.models.latent import Latent, inner_model
from unflow.models.plain import plain_module
from unflow.nets import build_net

__all__ = [
    "MODELS",
    "Chain",
    "Filtered",
    "Flow",
    "FlowMap",
    "GenerativeModel",
    "Generator",
    "Labelled",
    "Latent",
    "from_config",
    "inner_model",
    "latent_norm",
    "plain_module",
]

MODELS: dict[str, Callable[..., GenerativeModel]] = {
    "flow": Flow,
    "flow_map": FlowMap,
    "generator": Generator,
    "chain": Chain,
    "latent": Latent,
    "filtered": Filtered,
    "labelled": Labelled,
}


def from_config(config: dict[str, Any]) -> GenerativeModel:
    """Rebuild an architecture (with fresh weights) from ``GenerativeModel.config()``.

    Raises:
        InputError: for an unknown or incomplete architecture.
    """
    options = dict(config)
    name = options.pop("model", None)
    build = choose(MODELS, name, "model")
    try:
        if name == "chain":
            return Chain(from_config(options["base"]), from_config(options["after"]))
        if name == "latent":
            return Latent(from_config(options["inner"]), Autoencoder.from_config(options))
        if name == "labelled":
            return Labelled(from_config(options["inner"]), options["probabilities"])
        if name == "filtered":
            options["divergence"] = choose(DIVERGENCES, options["divergence"], "divergence")()
            inner, energy = from_config(options.pop("inner")), energy_from_config(options.pop("energy"))
            return Filtered(inner, energy, **options)
        return build(net=build_net(options.pop("net")), **options)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the architecture of the {name} is incomplete or has extra entries ({error}); expected "
            "what `config()` of such a model returns"
        ) from error
