"""Conditions under which an audit fails, for pipelines: "forget_rate>0.01"."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unflow.errors import InputError

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_GATE = re.compile(r"\s*([a-z_0-9.]+)\s*(>=|<=|>|<)\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Gate:
    """One condition under which an audit fails.

    Attributes:
        name: of a number in a row of audit.json; "intervals.forget_rate.high" goes inwards.
        sign: >, >=, < or <=.
        bound: to compare with.
    """

    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Return the gate in "forget_rate>0.01".

        Raises:
            InputError: for anything but a name, a comparison and a number.
        """
        match = _GATE.fullmatch(text)
        try:
            assert match is not None
            return cls(match[1], match[2], float(match[3]))
        except (AssertionError, ValueError):
            raise InputError(
                f"got the gate {text!r}; expected a name, a comparison and a number, like 'forget_rate>0.01'"
            ) from None

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.name}{self.sign}{self.bound:g}"

    def fails(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row meets the condition, and so fails.

        Raises:
            InputError: for a name that the row has no number under: what was not measured passes no gate.
        """
        return COMPARE[self.sign](self.value(row), self.bound)

    def value(self, row: Mapping[str, Any]) -> float:
        """Return the number under the gate's name; raise InputError where there is none."""
        numbers = numbers_of(row)
        if self.name in numbers:
            return numbers[self.name]
        near = difflib.get_close_matches(self.name, numbers, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(numbers))}"
        raise InputError(f"got a gate on {self.name}, which this audit has not measured; {hint}")


def numbers_of(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return every number of a record by name; names of what lies inwards are joined by dots."""
    numbers: dict[str, float] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            numbers |= numbers_of(value, f"{name}.")
        elif prefix.endswith("intervals.") and isinstance(value, list | tuple):
            numbers |= {f"{name}.low": float(value[0]), f"{name}.high": float(value[1])}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers


def failed(gates: Iterable[Gate], row: Mapping[str, Any]) -> list[str]:
    """Return, in words, which gates a row fails."""
    return [f"{gate}: it is {gate.value(row):.4g}" for gate in gates if gate.fails(row)]
