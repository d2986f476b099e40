"""Contexts in which modules are in evaluation mode, or on another device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in evaluation mode within this context; afterwards restore the mode of every part.

    The default dtype is restored, too, which a third-party network may change.
    """
    dtype = torch.get_default_dtype()
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        torch.set_default_dtype(dtype)


@contextmanager
def moved_to(modules: Sequence[nn.Module], device: torch.device | str) -> Iterator[None]:
    """Move modules to a device, and back to their own devices at the end."""
    homes = [(module, next(module.parameters(), torch.empty(0)).device) for module in modules]
    for module, _ in homes:
        module.to(device)
    try:
        yield
    finally:
        for module, home in homes:
            module.to(home)
