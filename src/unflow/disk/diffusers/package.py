"""The optional package diffusers, imported when it is needed, and its configurations."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from unflow.ground.errors import InputError
from unflow.nets import initial_weights

Config = dict[str, Any]


def import_diffusers() -> Any:
    """Return the package diffusers.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise InputError(
            f"got a model of diffusers without that package ({error}); expected it to be installed: write "
            "pip install 'unflow[diffusers]'"
        ) from error


def select_architecture(config: Mapping[str, Any]) -> Config:
    """Return the entries of a config.json that describe the architecture, without version and folder."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def new_module(name: str, config: Mapping[str, Any]) -> Any:
    """Return a fresh network of diffusers, with every dropout at 0.

    Dropout would draw from the global random stream, but a training step must depend only on (seed, step).

    Args:
        name: the name of the class.
        config: its options.

    Raises:
        InputError: for options that the class does not have, or that do not fit together.
    """
    kind = getattr(import_diffusers(), name)
    try:
        with initial_weights(0):
            module = kind(**config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"got a configuration that the installed {name} does not take ({error}); expected one of its "
            "config.json: write pip install -U diffusers if a newer version wrote it"
        ) from error
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module
