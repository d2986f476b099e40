"""The number of samples that are generated, decoded or scored at once."""

from __future__ import annotations

import os
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


def check_memory(numbers: int, what: str) -> None:
    """Raise InputError for numbers (4 bytes each) that the memory of this machine cannot hold at once.

    A system that promises more memory than it has would end the process only once the memory is full.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows does not say
        memory = 2**63
    if 4 * numbers > memory:
        raise InputError(
            f"got {what}, which take {4 * numbers / 1e9:.0f} GB of memory at once; expected at most "
            f"{memory / 1e9:.0f} GB, the memory of this machine: write a smaller n or bank_size"
        )


def in_batches(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split x [n, ...] into batches of ``size`` rows, or of fewer if ``batch_rows`` asks for fewer."""
    import torch

    most = _MOST.get()
    return torch.split(x, size if most is None else min(size, most))
