"""Generative models: flows, flow maps, one-step generators, and models built around them."""

from __future__ import annotations

from unflow.models.base import GenerativeModel, latent_norm
from unflow.models.chain import Chain
from unflow.models.components import MODELS, family_of_config, from_config
from unflow.models.conditional import NULL, Conditional, Labelled, without_conditions
from unflow.models.filtered import Filtered
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.models.generator import Generator
from unflow.models.inside import plain_module
from unflow.models.latent import Latent, inner_model

__all__ = [
    "MODELS",
    "NULL",
    "Chain",
    "Conditional",
    "Filtered",
    "Flow",
    "FlowMap",
    "GenerativeModel",
    "Generator",
    "Labelled",
    "Latent",
    "family_of_config",
    "from_config",
    "inner_model",
    "latent_norm",
    "plain_module",
    "without_conditions",
]
