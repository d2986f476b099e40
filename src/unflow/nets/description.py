"""Descriptions of networks as plain data, and the builders (functions) that a description may name."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from unflow.ground.errors import InputError, explain

OWN_BUILDERS = {
    f"unflow.hub:{name}": f"unflow.disk.diffusers:{name}"
    for name in ("FlowUNet", "ConsistencyUNet", "KLAutoencoder")
}
"""Builders that unflow ships: name in bundles -> path of the function."""
_TRUSTED = set(OWN_BUILDERS)


def trust(builder: str) -> None:
    """Allow files that are loaded from now on to run this builder."""
    _TRUSTED.add(builder)


def trusted(builder: str) -> bool:
    """Return whether a file may run this builder."""
    return builder in _TRUSTED


def builders(config: Any) -> list[str]:
    """Return the builders that a description names, at any depth."""
    if isinstance(config, list):
        return [name for each in config for name in builders(each)]
    if not isinstance(config, dict):
        return []
    own = [str(config["builder"])] if "builder" in config else []
    return own + [name for key, each in config.items() if key != "options" for name in builders(each)]


def net_config(net: nn.Module) -> dict[str, Any]:
    """Return the plain data from which ``build_net`` rebuilds this architecture.

    A third-party module needs an attribute ``config = {"builder": "package.module:function",
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
    """Import and return the function "package.module:function".

    Raises:
        InputError: if it cannot be imported.
    """
    module, _, name = OWN_BUILDERS.get(path, path).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # third-party code may raise any exception
        raise InputError(
            f"got {path!r} ({explain(error)}); expected package.module:function that can be imported"
        ) from error
