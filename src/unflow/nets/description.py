"""Descriptions of networks as plain data, and the builders (functions) that a description may name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from unflow.ground.errors import InputError, explain
from unflow.ground.memory import guard_memory

OWN_BUILDERS = {
    f"unflow.hub:{name}": f"unflow.disk.diffusers:{name}"
    for name in ("FlowUNet", "ConsistencyUNet", "KLAutoencoder")
}
"""Builders that unflow ships: name in bundles -> path of the function."""
_TRUSTED = set(OWN_BUILDERS)
_WORDS: list[Sequence[str] | None] = [None]
"""The words that name all functions which may run; None: every function may run. The last entry holds."""


DESCRIPTION = "_unflow_description"
"""The attribute with the description of a third-party network, whose own ``config`` stays as it is."""


def describe(net: nn.Module, config: dict[str, Any]) -> None:
    """Attach the description from which ``build_net`` has built a network.

    It also becomes ``net.config`` if the network has no attribute of that name: the networks of diffusers and
    transformers read their own ``config`` in every call.
    """
    vars(net)[DESCRIPTION] = config
    if not hasattr(net, "config"):
        net.config = config  # type: ignore[assignment]


def trust(builder: str) -> None:
    """Allow files that are loaded from now on to run this builder."""
    _TRUSTED.add(builder)


def trusted(builder: str) -> bool:
    """Return whether a file may run this builder."""
    return builder in _TRUSTED


def builders(config: Any) -> list[str]:
    """Return the builders that a description names, at any depth."""
    return [net["builder"] for net in foreign_networks(config)]


def foreign_networks(config: Any) -> list[dict[str, Any]]:
    """Return the builders that a description names, at any depth, each with its options.

    A network rebuilt by the same builder with the same options runs no code that has not run already.
    """
    if isinstance(config, list):
        return [net for each in config for net in foreign_networks(each)]
    if not isinstance(config, dict):
        return []
    own = []
    if "builder" in config:
        own = [{"builder": str(config["builder"]), "options": config.get("options") or {}}]
    return own + [net for key, each in config.items() if key != "options" for net in foreign_networks(each)]


def net_config(net: nn.Module) -> dict[str, Any]:
    """Return the plain data from which ``build_net`` rebuilds this architecture.

    A third-party module needs an attribute ``config = {"builder": "package.module:function",
    "options": {...}}``.

    Raises:
        InputError: for a module without such a description.
    """
    config = vars(net).get(DESCRIPTION, getattr(net, "config", None))
    if not (isinstance(config, dict) and {"builder", "net"} & config.keys()):
        raise InputError(
            f"got a {type(net).__name__} that cannot be described in a file; expected a network of "
            "unflow.nets, or set net.config = "
            '{"builder": "package.module:function", "options": {...}}'
        )
    return config


@contextmanager
def run_only_named(words: Sequence[str] | None) -> Iterator[None]:
    """Within this context, ``named_function`` refuses functions that no word names; None: it refuses none.

    The command line uses this: a function in a recipe or a file of options was named by a stranger.
    """
    _WORDS.append(words)
    try:
        yield
    finally:
        _WORDS.pop()


def named_function(path: str) -> Any:
    """Import and return the function "package.module:function".

    Raises:
        InputError: if it cannot be imported, and as ``run_only_named``.
    """
    words = _WORDS[-1]
    pattern = re.compile(rf"(?<![\w.]){re.escape(path)}(?!\w)")
    if not trusted(path) and words is not None and not any(map(pattern.search, words)):
        raise InputError(
            f"got the function {path}, which a file names; expected your consent to run that code: write "
            "--trust_code true on the command line if you know where the file comes from"
        )
    module, _, name = OWN_BUILDERS.get(path, path).partition(":")
    try:
        with guard_memory(path):
            return getattr(importlib.import_module(module), name)
    except InputError:
        raise
    except Exception as error:  # third-party code may raise any exception
        raise InputError(
            f"got {path!r} ({explain(error)}); expected package.module:function that can be imported"
        ) from error
