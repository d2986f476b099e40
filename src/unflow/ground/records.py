"""Keywords of a function that are the fields of one of its arguments, a record (a dataclass)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

from unflow.ground.errors import InputError

T = TypeVar("T")


def gathers(**records: type[Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator that gathers a function's loose keywords into its record arguments.

    After ``@gathers(compute=Compute)``, ``fit(..., device="cuda")`` means
    ``fit(..., compute=Compute(device="cuda"))``. A field that is not given keeps the value of the parameter's
    default record, or of the dataclass. A keyword that the function has itself is never gathered.

    Args:
        records: parameter name -> dataclass of that parameter. No two of them share a field.

    Raises:
        InputError: when the decorated function is called with both a record and a field of it.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        parameters = inspect.signature(function).parameters
        owners = {each.name: name for name, record in records.items() for each in fields(record)}
        assert records.keys() <= parameters.keys()
        assert len(owners) == sum(len(fields(record)) for record in records.values())

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> T:
            loose: dict[str, dict[str, Any]] = {}
            for name in [each for each in keywords if each in owners and each not in parameters]:
                loose.setdefault(owners[name], {})[name] = keywords.pop(name)
            for name, values in loose.items():
                given = dict(zip(parameters, args, strict=False)) | keywords
                if given.get(name) is not None:
                    raise _both(name, records[name], values)
                default = parameters[name].default
                start = default if isinstance(default, records[name]) else None
                keywords[name] = records[name](**values) if start is None else replace(start, **values)
            return function(*args, **keywords)

        return call

    return decorate


def _both(name: str, record: type[Any], values: dict[str, Any]) -> InputError:
    written = ", ".join(f"{field}={value!r}" for field, value in values.items())
    return InputError(
        f"got {name}=... and also {' and '.join(values)}, which {name} holds; expected one of the two: write "
        f"{name}={record.__name__}({written}, ...)"
    )
