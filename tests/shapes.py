"""A check of the shapes in signatures, at every call; `test_shapes.py` runs tests with it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import beartype

PACKAGES = (
    "unflow.mathematics",
    "unflow.energies",
    "unflow.target",
    "unflow.models",
    "unflow.evidence.metrics",
)
_uncalled: set[tuple[str, str]] = set()


def install() -> None:
    """Check the packages' functions from now on; unflow is not imported yet."""
    jaxtyping.install_import_hook(PACKAGES, "shapes.check")


def has_shape(annotation: Any) -> bool:
    return getattr(annotation, "__module__", "") == "jaxtyping" or any(map(has_shape, get_args(annotation)))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and results whose annotations have shapes; mypy checks the other types."""
    hints = {name: hint for name, hint in function.__annotations__.items() if has_shape(hint)}
    if not hints:
        return function
    function.__annotations__ = hints
    checked, name = beartype(function), (function.__module__, function.__qualname__)
    _uncalled.add(name)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _uncalled.discard(name)
        return checked(*args, **kwargs)

    return call


def uncalled() -> list[str]:
    """The functions with shapes that nothing has called, but for abstract ones."""
    return sorted(f"{module}.{name}" for module, name in _uncalled if not is_abstract(module, name))


def is_abstract(module: str, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    kind = getattr(sys.modules[module], owner) if owner else None
    return getattr(kind, "_is_protocol", False) or attribute in getattr(kind, "__abstractmethods__", ())
