"""The description of a network as plain data, and the functions that a description may name."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from unflow.ground.errors import InputError, explain

OWN_BUILDERS = {
    f"unflow.hub:{name}": f"unflow.disk.diffusers:{name}"
    for name in ("FlowUNet", "ConsistencyUNet", "KLAutoencoder")
}
"""Builders that unflow ships, by the names that bundles have for them -> where the functions are."""
_TRUSTED = set(OWN_BUILDERS)


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
            f"got a {type(net).__name__} that cannot be described in a file; expected a network of "
            "unflow.nets, or set net.config = "
            '{"builder": "package.module:function", "options": {...}}'
        )
    return config


def named_function(path: str) -> Any:
    """Return the function in "package.module:function".

    Raises:
        InputError: for one that cannot be imported.
    """
    module, _, name = OWN_BUILDERS.get(path, path).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # what somebody else's module raises is anything
        raise InputError(
            f"got {path!r} ({explain(error)}); expected package.module:function that can be imported"
        ) from error
