"""Hashes of Python objects: they tell whether two energies use the same function."""

from __future__ import annotations

import copyreg
import hashlib
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unflow.ground.errors import InputError

Write = Callable[[bytes], object]


def fingerprint(*values: Any) -> Tensor:
    """Return the SHA-256 of the contents of Python objects, 32 bytes.

    As a buffer of an energy it makes the hash of the energy depend on the function behind it. It covers the
    state that copying would read: arrays by their bytes, functions by their name, code and closure. Counters
    of use that an object keeps in its state count too (scikit-learn's nearest neighbours keep one).

    Raises:
        InputError: for an object whose state cannot be read, such as an open file.
    """
    digest = hashlib.sha256()
    try:
        _write_value(list(values), digest.update, ())
    except TypeError as error:
        raise InputError(
            f"got an object whose state cannot be read ({error}); expected arrays, numbers, functions and "
            "objects of these: leave out open files, locks and connections, or score by a BlackBox"
        ) from error
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _write_value(value: Any, write: Write, above: tuple[int, ...]) -> None:
    """Write an object's type and content; ``above`` has the ids of the objects that contain it."""
    write(f"<{type(value).__qualname__}>".encode())
    if id(value) in above:
        return
    for part in _write_own(value, write):
        _write_value(part, write, (*above, id(value)))


def _write_own(value: Any, write: Write) -> list[Any]:
    """Write the bytes of an object itself, and return the objects that it contains."""
    parts: list[Any] = []
    if value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        write(repr(value).encode())
    elif isinstance(value, bytes | bytearray):
        write(bytes(value))
    elif isinstance(value, ModuleType):
        write(value.__name__.encode())
    elif isinstance(value, type):
        write(f"{value.__module__}.{value.__qualname__}".encode())
    elif isinstance(value, dict):
        parts = [part for key in sorted(value, key=repr) for part in (key, value[key])]
    elif isinstance(value, list | tuple | set | frozenset):
        write(str(len(value)).encode())
        parts = sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value)
    elif isinstance(value, np.ndarray):
        parts = _write_array(value, write)
    elif isinstance(value, Tensor):
        write(f"{value.dtype}{list(value.shape)}".encode())
        write(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    elif isinstance(value, FunctionType):
        parts = _write_function(value, write)
    else:
        reduce = copyreg.dispatch_table.get(type(value))
        state = reduce(value) if reduce else value.__reduce_ex__(4)
        parts = [state] if isinstance(state, str) else _list_state(*state[:5])
    return parts


def _write_array(array: np.ndarray, write: Write) -> list[Any]:
    write(f"{array.dtype}{array.shape}".encode())
    if array.dtype.names:  # the padding between the fields of a record is arbitrary
        return [array[name] for name in array.dtype.names]
    if array.dtype.hasobject:
        return array.tolist() if array.ndim else [array.item()]
    write(np.ascontiguousarray(array).tobytes())
    return []


def _list_state(
    make: Any, arguments: Any = (), state: Any = None, items: Any = None, pairs: Any = None
) -> list[Any]:
    return [make, arguments, state, list(items or ()), list(pairs or ())]


def _write_function(function: FunctionType, write: Write) -> list[Any]:
    write(f"{function.__module__}.{function.__qualname__}".encode() + function.__code__.co_code)
    numbers = [c for c in function.__code__.co_consts if isinstance(c, bool | int | float | str | bytes)]
    closed_over = [cell.cell_contents for cell in function.__closure__ or ()]
    names = list(function.__code__.co_names)
    return [names, numbers, function.__defaults__, function.__kwdefaults__, closed_over]
