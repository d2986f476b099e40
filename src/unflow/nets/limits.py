"""Limits of networks: of their options, and of the numbers that a file of weights can fill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from unflow.ground.errors import InputError, shorten

SLACK = 1_000_000
"""Numbers that a network may have beyond twice those of its file, such as buffers that are not stored."""
MAX_DEPTH, MAX_WIDTH = 10_000, 10_000_000
"""Largest number of layers, and largest other number among the options of a network."""
_SHAPES = frozenset({"shape", "prior_shape", "sample_shape", "latent_shape"})
MAX_SAMPLE = 100_000_000
"""Numbers of one sample or latent."""


@contextmanager
def limit_numbers(stored: int, config: Any) -> Iterator[None]:
    """Refuse, within this context, networks with more numbers than their file, before the memory is used.

    Args:
        stored: numbers in the file of the weights.
        config: the description, whose whole numbers are checked first.

    Raises:
        InputError: for a description of a larger network.
    """
    most, found = 2 * stored + SLACK, 0
    _check_entries(config, most)

    def count(_: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal found
        found += 0 if tensor is None else tensor.numel()
        if found > most:
            raise InputError(f"its networks need more than {found} numbers, and its weights hold {stored}")

    handles = (
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_entries(config: Any, most: int) -> None:
    """Raise InputError for a number that no network with so few weights has, at any depth."""
    if isinstance(config, list):
        for each in config:
            _check_entries(each, most)
    if not isinstance(config, dict):
        return
    for name, value in config.items():
        if name in _SHAPES and value is not None:
            check_shape(value, name)
        elif "net" in config and isinstance(value, int) and abs(value) > most:
            raise InputError(f"got {name}={shorten(str(value))}, and its weights hold at most {most} numbers")
        _check_entries(value, most)


def check_options(config: Mapping[str, Any]) -> None:
    """Raise InputError for an option of a network that no computer can build: a depth of 10^9 takes days.

    Args:
        config: the options by name; lists of numbers count as several.
    """
    for name, value in config.items():
        values = value if isinstance(value, list) and name != "shape" else [value]
        most, least = (MAX_DEPTH if name == "depth" else MAX_WIDTH), (1 if name == "width" else 0)
        if any(isinstance(each, int) and not least <= each <= most for each in values):
            raise InputError(f"got {name}={shorten(repr(value))} for a network; expected {least} to {most}")


def check_shape(shape: object, name: str = "shape") -> None:
    """Raise InputError unless a shape is a list of whole numbers >= 1 whose product is a possible size."""
    sides: list[Any] = list(shape) if isinstance(shape, list | tuple) else [None]
    if not all(type(side) is int and side >= 1 for side in sides) or math.prod(sides) > MAX_SAMPLE:
        raise InputError(
            f"got {name}={shorten(repr(shape))}; expected whole numbers >= 1, with a product of at most "
            f"{MAX_SAMPLE}"
        )
