"""The models and the network inside a model."""

from __future__ import annotations

from torch import nn

from unflow.ground.errors import InputError
from unflow.models.base import GenerativeModel
from unflow.models.chain import Chain
from unflow.models.conditional import Conditional, find_conditional_net, without_conditions
from unflow.models.filtered import Filtered
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.generator import Generator
from unflow.models.latent import Latent, inner_model
from unflow.nets.adapters import unwrap


def models_inside(model: GenerativeModel) -> list[GenerativeModel]:
    """Return the models that can be taken out of a model and used on their own, the outermost first.

    A chain holds both of its links, if their samples have the shape of its own; a filter holds the filtered
    model. For a model of latents, each inner model is returned with the decoder. A model whose own weights
    were changed holds none.
    """
    if isinstance(model, Latent):
        return [Latent(inner, model.autoencoder) for inner in models_inside(model.inner)]
    if isinstance(model, Conditional):
        inside = models_inside(model.inner)
        return [model.around(inner) for inner in inside if find_conditional_net(inner) is not None]
    links: list[GenerativeModel] = []
    if isinstance(model, Filtered):
        links = [model.model]
    elif isinstance(model, Chain):
        links = [link for link in (model.base, model.after) if link.sample_shape == model.sample_shape]
    return [found for link in links for found in (link, *models_inside(link))]


def plain_module(model: GenerativeModel) -> nn.Module:
    """Return the original network inside a model, without adapters, labels and decoder.

    Raises:
        InputError: for a chain or a filter, which holds more than one network.
    """
    inner = without_conditions(inner_model(model))
    if not isinstance(inner, Flow | FlowMap | Generator):
        raise InputError(
            f"got a {type(inner).__name__}, which is more than one network; expected a model whose own "
            "weights were changed: unlearn by uot_tilted, latent_transport or erfm_resample_prior"
        )
    return unwrap(inner.net)
