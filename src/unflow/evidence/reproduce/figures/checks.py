"""Checks of the arguments of figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.ground.errors import InputError


def require_some(values: Any, what: str) -> None:
    """Raise InputError for an empty collection; ``what`` names its elements."""
    if not len(values):
        raise InputError(f"got no {what}; expected 1 or more")


def as_array(values: Any, shape: tuple[int | None, ...], what: str) -> NDArray[Any]:
    """Return values as an array of that shape; None stands for any length of 1 or more."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"got {what} that are not numbers; expected an array {_format_shape(shape)}"
        ) from error
    fits = len(found.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(found.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"got {what} of shape {list(found.shape)}; expected {_format_shape(shape)}")
    return found


def _format_shape(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if side is None else str(side) for side in shape)}]"
