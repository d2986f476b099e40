"""How many samples are pushed, decoded or scored at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from unflow.ground.errors import InputError

if TYPE_CHECKING:  # the command line's help needs this file, and no torch
    from torch import Tensor

_MOST: ContextVar[int | None] = ContextVar("most", default=None)


@contextmanager
def batch_rows(most: int | None) -> Iterator[None]:
    """Push, decode and score no more samples at once while this lasts, for networks that fill the memory.

    Otherwise models are pushed in batches of 2,048 and energies asked in batches of 4,096, which fits small
    images. Results are the same up to rounding. The batches of a training are its method's own
    (``batch_size``).

    Args:
        most: samples at once, >= 1; None changes nothing.

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
    """Return x [n, ...] in batches of ``size`` rows, or of as many as ``batch_rows`` allows."""
    most = _MOST.get()
    return x.split(size if most is None else min(size, most))
