"""Conversion of stored numbers to images in [-1, 1], and lossless conversion back to bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unflow.ground.errors import InputError

RANGES = ((0, 255), (0, 1), (-1, 1))
"""Values of black and white in stored images."""

_NEAR = 0.1
"""Largest distance of the darkest pixel of floats from black at which the range is inferred."""
_ROUNDING = 1e-3
_ROWS = 64
"""Rows converted at a time, to limit memory."""


def from_bytes(x: Tensor) -> Tensor:
    """Return x / 127.5 - 1, float32 in [-1, 1], of bytes x.

    Peak memory: 5 bytes per value; 4 afterwards.
    """
    return x.float().div_(127.5).sub_(1)


def to_bytes(x: Tensor) -> Tensor:
    """Return the bytes from which ``from_bytes`` restores exactly x, or x itself if there are none."""
    if x.dtype != torch.float32:
        return x
    out = torch.empty(x.shape, dtype=torch.uint8)
    for values, rows in zip(torch.split(x, _ROWS), torch.split(out, _ROWS), strict=True):
        if not bool((values.abs() <= 1).all()):
            return x
        rows.copy_(values.add(1).mul_(127.5).round_())
        if not torch.equal(from_bytes(rows), values):
            return x
    return out


def convert_numbers(array: np.ndarray, where: str) -> np.ndarray:
    """Return integers from 0 to 255 as uint8, and finite floats as float32.

    Raises:
        InputError: for other numbers; ``where`` names their source.
    """
    if array.dtype.kind in "iu" and _within(array, 0, 255):
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return array.astype(np.float32, copy=False)
    if array.dtype.kind in "iu":
        found = f"integers from {array.min()} to {array.max()}"
    else:
        found = "NaN or infinite values" if array.dtype.kind == "f" else f"values of the type {array.dtype}"
    raise InputError(
        f"got {found} in {where}; expected integers from 0 to 255, or finite floats in [0, 1] or [-1, 1]: "
        "write the images as uint8"
    )


def scale(values: np.ndarray, where: str, value_range: Sequence[float] | None = None) -> Tensor:
    """Return images in [-1, 1], float32: 2 (x - black) / (white - black) - 1.

    Args:
        values: uint8 or float32, of all images together: the range of one dark image is ambiguous.
        where: source of the values, for messages.
        value_range: black and white, one of ``RANGES``; inferred from the values if omitted.

    Raises:
        InputError: for another range, values outside it, or values whose range is ambiguous.
    """
    black, white = _infer_range(values, where) if value_range is None else _check_range(value_range)
    slack = _ROUNDING * (values.dtype.kind == "f")
    if not _within(values, black - slack, white + slack):
        raise InputError(
            f"got values from {values.min():g} to {values.max():g} in {where}; expected them from {black} to "
            f"{white}, their range: write another range, or scale them"
        )
    x = torch.from_numpy(values).to(torch.float32, copy=True)
    return (x if black < 0 else x.div_(white / 2).sub_(1)).clamp_(-1, 1)


def _check_range(value_range: Sequence[float]) -> tuple[int, int]:
    for known in RANGES:
        if tuple(value_range) == known:
            return known
    raise InputError(
        f"got the range {list(value_range)}; expected black and white of the images: "
        "write (0, 255), (0, 1) or (-1, 1)"
    )


def _infer_range(values: np.ndarray, where: str) -> tuple[int, int]:
    """Return the only range that fits the values."""
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint8 and high > 1:
        return 0, 255
    if values.dtype.kind == "f" and high <= 1 + _ROUNDING:
        if 0 <= low <= _NEAR:
            return 0, 1
        if -1 - _ROUNDING <= low <= _NEAR - 1:
            return -1, 1
    raise InputError(
        f"got {values.dtype} values from {low:g} to {high:g} in {where}; expected a darkest pixel near 0 and "
        "bytes up to 255 or floats up to 1, or near -1 and floats up to 1: "
        "write their range, (0, 255), (0, 1) or (-1, 1), or scale them"
    )


def _within(values: np.ndarray, low: float, high: float) -> bool:
    return not values.size or bool(values.min() >= low and values.max() <= high)
