"""Conditions under which an audit fails, for pipelines: "forget_rate>0.01"."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unflow.evidence.auditing.asked import GUIDANCE
from unflow.evidence.condition_attacks import CONDITION_ATTACKS
from unflow.evidence.measures import COSTS, MEASURES
from unflow.evidence.metrics.uncertainty import ChiSquare
from unflow.evidence.row import AuditRow
from unflow.evidence.score_attacks import SCORES
from unflow.ground.errors import InputError, suggest

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_GATE = re.compile(r"\s*([a-z_0-9.]+)\s*(>=|<=|>|<)\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*", re.IGNORECASE)

SETS = ("retain", "target", "retrained")
WITH_INTERVAL = ("forget_rate", "stayed_share", "pul", *(f"fid_{name}" for name in SETS))
GUIDED = tuple(f"guidance.{g:g}" for g in GUIDANCE)
ASKED_SHARES = ("forgotten", "own", "neighbours", "null", *GUIDED)
ATTACKED_SHARES = ("latent_search", *CONDITION_ATTACKS)
RELEARNED = ("relearned", "fewest_steps", "fewest_steps_ratio")
AUCS = tuple(f"{attack}_{score}" for attack, scores in SCORES.items() for score in scores)
ASKED = (*ASKED_SHARES, "least_own", "ua", "ra", "guided", "fd_target", "fd_real", "n")
NUMBERS = (
    *(measure.key for measure in (*MEASURES, *COSTS)),
    "seed",
    "n",
    *(f"intervals.{name}.{end}" for name in WITH_INTERVAL for end in ("low", "high")),
    *(f"told_apart.{name}.auc" for name in SETS[1:]),
    *(f"redistribution.{name}" for name in ChiSquare._fields),
    *(f"asked.{name}" for name in ASKED),
    *(f"attacked.{name}" for name in (*ATTACKED_SHARES, *AUCS, *RELEARNED, "worse_than_retrained")),
    *(f"attacked.intervals.{name}.{end}" for name in (*ATTACKED_SHARES, *AUCS) for end in ("low", "high")),
    *(f"asked.intervals.{name}.{end}" for name in ASKED_SHARES for end in ("low", "high")),
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
        if not math.isfinite(gate.bound):
            raise InputError(
                f"got the gate {text!r}, whose number is infinite, so that it says nothing; expected a "
                "finite number, like 'forget_rate>0.01'"
            )
        if gate.name not in NUMBERS:
            raise InputError(
                f"got a gate on {gate.name}, which no audit measures; {suggest(gate.name, NUMBERS)}"
            )
        return gate

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.name}{self.sign}{self.bound:g}"

    def fails(self, row: AuditRow) -> bool:
        """Return whether a row meets the condition, and so fails.

        Raises:
            InputError: for a number that the audit has not measured: it passes no gate.
        """
        return COMPARE[self.sign](self.value(row), self.bound)

    def value(self, row: AuditRow) -> float:
        """Return the number under the gate's name; raise InputError where there is none."""
        value = row.number(self.name)
        if value is None:
            hint = suggest(self.name, sorted(row.numbers()))
            raise InputError(f"got a gate on {self.name}, which this audit has not measured; {hint}")
        return value


def list_failures(gates: Iterable[Gate], row: AuditRow) -> list[str]:
    """Return, in words, which gates a row fails."""
    return [f"{gate}: it is {gate.value(row):.4g}" for gate in gates if gate.fails(row)]
