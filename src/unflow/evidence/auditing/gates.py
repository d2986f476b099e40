"""Conditions under which an audit fails, for pipelines: "forget_rate>0.01"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unflow.evidence.auditing.family import COST
from unflow.evidence.metrics.fidelity import Fidelity
from unflow.evidence.metrics.uncertainty import ChiSquare
from unflow.ground.errors import InputError, suggest

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_GATE = re.compile(r"\s*([a-z_0-9.]+)\s*(>=|<=|>|<)\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*", re.IGNORECASE)

_SETS = ("retain", "target", "retrained")
_DISTANCES = tuple(f"{kind}_{name}" for kind in ("fid", "mmd", "c2st") for name in _SETS)
_INTERVALS = ("forget_rate", "stayed_share", "pul", *(f"fid_{name}" for name in _SETS))
NUMBERS = (
    "forget_rate",
    "second_forget_rate",
    "judges_disagree",
    "leakage",
    "retention_rate",
    "pul",
    *_DISTANCES,
    "mmd_retain_sd",
    "mmd_bandwidth",
    "tv_target",
    *Fidelity._fields,
    "off_data",
    "judge_confidence",
    "retained_share_tv",
    "stayed_share",
    "seed",
    "n",
    *(f"cost.{name}" for name in COST),
    *(f"intervals.{name}.{end}" for name in _INTERVALS for end in ("low", "high")),
    *(f"told_apart.{name}.auc" for name in _SETS[1:]),
    *(f"redistribution.{name}" for name in ChiSquare._fields),
)
"""Every number that a row of audit.json can have."""


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
            InputError: for anything but a name of ``NUMBERS``, a comparison and a number.
        """
        match = _GATE.fullmatch(text)
        try:
            assert match is not None
            gate = cls(match[1], match[2], float(match[3]))
        except (AssertionError, ValueError):
            raise InputError(
                f"got the gate {text!r}; expected a name, a comparison and a number, like 'forget_rate>0.01'"
            ) from None
        if gate.name not in NUMBERS:
            raise InputError(
                f"got a gate on {gate.name}, which no audit measures; {suggest(gate.name, NUMBERS)}"
            )
        return gate

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
        hint = suggest(self.name, sorted(numbers))
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
