"""The number of samples that are generated, decoded or scored at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from unflow.ground.errors import InputError

if TYPE_CHECKING:  # the help of the command line imports this file, and must not wait for torch
    from torch import Tensor

_MOST: ContextVar[int | None] = ContextVar("most", default=None)


@contextmanager
def batch_rows(most: int | None) -> Iterator[None]:
    """Within this context, generate, decode and score at most ``most`` samples at once, to limit memory.

    The default is 2,048 samples for models and 4,096 for energies, which fits small images. Results are the
    same up to rounding. It does not change the batches of a training (``batch_size`` of its method).

    Args:
        most: samples at once, >= 1; None keeps the present limit.

    Raises:
        InputError: for a number under 1.
    """
    if most is not None and most < 1:
        raise InputError(f"got batch_rows={most}; expected 1 sample at once or more")
    token = _MOST.set(_MOST.get() if most is None else most)
    try:
        yield
    finally:
        _MOST.reset(token)


def in_batches(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split x [n, ...] into batches of ``size`` rows, or of fewer if ``batch_rows`` asks for fewer."""
    import torch

    most = _MOST.get()
    return torch.split(x, size if most is None else min(size, most))
