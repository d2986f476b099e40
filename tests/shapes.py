"""The shapes in signatures, checked at every call in the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype


def has_shape(annotation: Any) -> bool:
    return getattr(annotation, "__module__", "") == "jaxtyping" or any(map(has_shape, get_args(annotation)))


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and results whose annotations have shapes; other types are mypy's."""
    function.__annotations__ = {
        name: annotation for name, annotation in function.__annotations__.items() if has_shape(annotation)
    }
    return beartype(function) if function.__annotations__ else function
