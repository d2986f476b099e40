"""The models that a bundle can hold, and how each is rebuilt from its ``config()``.

``saved_energies`` holds the same table for the energy of a ``Filtered``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from unflow.ground.errors import InputError, choose
from unflow.mathematics.divergences import DIVERGENCES
from unflow.models.autoencoder import Autoencoder
from unflow.models.base import GenerativeModel
from unflow.models.chain import Chain
from unflow.models.classifier import Classifier
from unflow.models.conditional import Conditional
from unflow.models.filtered import Filtered
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.generator import Generator
from unflow.models.latent import Latent
from unflow.models.saved_energies import build_energy
from unflow.nets import build_net

Config = dict[str, Any]
SavedModel = GenerativeModel | Classifier | Autoencoder
"""A model that a bundle can hold."""


def from_config(config: Config) -> GenerativeModel:
    """Rebuild a generative model, with fresh weights, from ``GenerativeModel.config()``.

    Raises:
        InputError: for an unknown or incomplete architecture.
    """
    options = dict(config)
    name = options.pop("model", None)
    name = _FORMER.get(name, name)
    build = choose(_MODELS, name, "model").build
    try:
        return build(options)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the architecture of the {name} is incomplete or has extra entries ({error}); expected "
            "the result of `config()` of such a model"
        ) from error


def family_of_config(config: Config) -> str:
    """Return the family of the model that a ``GenerativeModel.config()`` describes.

    Raises:
        KeyError: for a config without a model.
    """
    if config["model"] == "chain":  # as ``Chain.family``
        base = family_of_config(config["base"])
        return family_of_config(config["after"]) if base == "flow" else base
    return family_of_config(config["inner"]) if "inner" in config else str(config["model"])


class _Model(NamedTuple):
    kind: type[GenerativeModel]
    build: Callable[[Config], GenerativeModel]


def _build_filtered(options: Config) -> Filtered:
    options["divergence"] = choose(DIVERGENCES, options["divergence"], "divergence")()
    inner, energy = from_config(options.pop("inner")), build_energy(options.pop("energy"))
    return Filtered(inner, energy, **options)


_MODELS = {
    "flow": _Model(Flow, lambda c: Flow(build_net(c.pop("net")), **c)),
    "flow_map": _Model(FlowMap, lambda c: FlowMap(build_net(c.pop("net")), **c)),
    "generator": _Model(Generator, lambda c: Generator(build_net(c.pop("net")), **c)),
    "chain": _Model(Chain, lambda c: Chain(from_config(c["base"]), from_config(c["after"]))),
    "latent": _Model(Latent, lambda c: Latent(from_config(c["inner"]), Autoencoder.from_config(c))),
    "filtered": _Model(Filtered, _build_filtered),
    "conditional": _Model(Conditional, lambda c: Conditional(from_config(c.pop("inner")), **c)),
}
"""Name of a generative model -> its class, and how it is built from the other entries of its config."""

_FORMER = {"labelled": "conditional"}
"""Names of models in older bundles -> their names today."""

MODELS: dict[str, type[GenerativeModel]] = {name: model.kind for name, model in _MODELS.items()}


class Component(NamedTuple):
    """A kind of model that a bundle can hold.

    Attributes:
        kind: its class.
        title: its name in messages.
        loader: the function of ``unflow`` that loads it.
        build: builds one, with fresh weights, from its ``config()``.
    """

    kind: type[nn.Module]
    title: str
    loader: str
    build: Callable[[Config], SavedModel]


COMPONENTS = {
    "model": Component(GenerativeModel, "a generative model", "load", from_config),
    "classifier": Component(Classifier, "a classifier", "load_classifier", Classifier.from_config),
    "autoencoder": Component(Autoencoder, "an autoencoder", "load_autoencoder", Autoencoder.from_config),
}
"""The entry that only this kind has in its ``config()`` -> the kind; a latent model has the last one too."""


def find_component(model: nn.Module) -> Component:
    """Return the kind of a model that a bundle can hold."""
    return next(each for each in COMPONENTS.values() if isinstance(model, each.kind))


def build_component(config: Config) -> SavedModel:
    """Rebuild a model, classifier or autoencoder, with fresh weights, from its ``config()``.

    Raises:
        InputError: for an unknown or incomplete generative model, or another kind.
        KeyError: for an incomplete classifier or autoencoder.
    """
    for entry, component in COMPONENTS.items():
        if entry in config:
            return component.build(config)
    raise InputError(f"got the entries {', '.join(config)}; expected one of {', '.join(COMPONENTS)}")
