"""Large images a few at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PIXELS = 2**19
"""Pixels at once at most: 128 images of 64 x 64, or 8 of 256 x 256."""


def chunked(function: Callable[..., Tensor], pixels: int, *inputs: Tensor) -> Tensor:
    """Return function(*inputs), a few rows at a time where no gradient is kept.

    Models are pushed in batches of thousands (``GenerativeModel.push_batches``), which fits small images.

    Args:
        function: of each row alone.
        pixels: of one row, where the function holds most of them.
        inputs: [batch, ...] each.
    """
    if torch.is_grad_enabled():
        return function(*inputs)
    rows = max(1, PIXELS // pixels)
    return torch.cat([function(*part) for part in zip(*(x.split(rows) for x in inputs), strict=True)])
