"""The network inside a model, without anything of unflow's around it."""

from __future__ import annotations

from torch import nn

from unflow.ground.errors import InputError
from unflow.models.base import GenerativeModel
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.generator import Generator
from unflow.models.labelled import Labelled
from unflow.models.latent import inner_model
from unflow.nets.adapters import unwrap


def plain_module(model: GenerativeModel) -> nn.Module:
    """Return the network of a model as its owner wrote it: adapters, labels and decoder are taken off.

    Raises:
        InputError: for a chain or a filter, which no single network can stand for.
    """
    inner = inner_model(model)
    if isinstance(inner, Labelled):
        inner = inner.inner
    if not isinstance(inner, Flow | FlowMap | Generator):
        raise InputError(
            f"got a {type(inner).__name__}, which is more than one network; expected a model whose own "
            "weights were changed: unlearn by uot_tilted, latent_transport or erfm_resample_prior"
        )
    return unwrap(inner.net)
