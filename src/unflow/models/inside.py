"""The models and the network inside a model, and the original among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.ground.streams import Stream, stream
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
    were changed holds none. Only one link of a chain is the original: see ``find_original``.
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


def find_original(model: GenerativeModel, original: GenerativeModel) -> GenerativeModel | None:
    """Return the model inside that has the original's weights, tensor by tensor; None if there is none.

    Another link of a chain may have samples of the same shape. It maps noise to moved noise, or samples to
    moved samples, and is not the original. A decoder and conditions, which no method changes, are not
    compared. A model without weights is the original if it maps the same latents to the same samples.

    Args:
        model: after unlearning; it is not inside itself.
        original: before unlearning.
    """
    return next((inner for inner in models_inside(model) if _is_original(inner, original)), None)


def _is_original(model: GenerativeModel, original: GenerativeModel) -> bool:
    ours, theirs = (without_conditions(inner_model(each)) for each in (model, original))
    if type(ours) is not type(theirs) or ours.prior_shape != theirs.prior_shape:
        return False
    weights, expected = ours.state_dict(), theirs.state_dict()
    if not weights and not expected:
        z = original.prior(_PROBED, stream(0, Stream.ORIGINAL_INSIDE))
        return _is_equal(model.push_batches(z), original.push_batches(z))
    return weights.keys() == expected.keys() and all(
        _is_equal(weights[name], expected[name]) for name in weights
    )


_PROBED = 16
"""Latents at which models without weights are compared."""


def _is_equal(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and torch.equal(x.cpu(), y.cpu())


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
