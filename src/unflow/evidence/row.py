"""``AuditRow``: the typed record of one row of audit.json, with the verdicts about it.

The verdicts are computed here and nowhere else. The terminal, the report, the gates and the reproduced tables
read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from unflow.evidence.measures import MEASURES
from unflow.ground.errors import InputError
from unflow.mathematics.shares import share_interval

SCHEMA = 1
"""Of audit.json."""
REFERENCES = ("original", "target", "retrained")
"""Rows that others are compared with, in the order of every table."""
Comparison = Literal["fewer", "alike", "more"]
"""A share of forgotten samples beside the retrained model's, by two standard errors of the latter."""
ONE_SIGMA = math.erf(math.sqrt(0.5))
"""The level of an interval of one standard error on either side, 68.3 %."""


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One model of one family, made by one method. None means "not measured" in every field.

    Attributes:
        family: flow, flow_map or generator.
        method: a reference (``REFERENCES``) or the row name of a method.
        seed: of the training and of the samples, >= 0.
        n: samples, >= 1.
        options: hyper-parameters of a variant.
        measures: key -> number, for every line of ``MEASURES``, in its unit before ``scale``.
        extractor: name of the features in which distances are measured.
        class_counts: samples per judged class.
        transition: counts over the same latents, a row per class before and a column per class after; None
            where latents differ.
        original_recoverable: whether the original still sits inside: suppression, not removal.
        data_used: real data that the method has seen, directly or through the guide.
        cost: key of ``COSTS`` without "cost." -> number.
        intervals: measure -> [low, high], 95 %.
        told_apart: "target", "retrained" -> held-out two-sample test: "auc" and its 95 % "interval".
        redistribution: chi-square test that the retained classes have the target's shares.
        classes: per class "n", "fid" and "coverage".
        further: what an experiment records beyond an audit's fields.
        asked: of a conditional model, shares and distances by what it was asked for.
        attacked: shares of forgotten samples that attacks reach, and their intervals.
        against_retrained: the share of forgotten samples beside the retrained model's of the same family.
    """

    family: str
    method: str
    seed: int | None = None
    n: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, float | None] = field(default_factory=dict)
    extractor: str | None = None
    class_counts: Sequence[int] | None = None
    transition: Sequence[Sequence[int]] | None = None
    original_recoverable: bool | None = None
    data_used: Sequence[str] = ()
    cost: Mapping[str, float | int | None] = field(default_factory=dict)
    intervals: Mapping[str, Sequence[float] | None] | None = None
    told_apart: Mapping[str, Any] | None = None
    redistribution: Mapping[str, Any] | None = None
    classes: Sequence[Mapping[str, Any]] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] | None = None
    attacked: Mapping[str, Any] | None = None
    against_retrained: Comparison | None = None

    @property
    def is_reference(self) -> bool:
        """Whether other rows are compared with this one."""
        return self.method in REFERENCES

    @property
    def key(self) -> str:
        """The stem of the files that belong to this row: ``<family>-<method>``."""
        return f"{self.family}-{self.method}"

    @property
    def over_forgets(self) -> bool:
        """Whether fewer samples are forgotten ones than the retrained model draws, by more than noise."""
        return self.against_retrained == "fewer"

    @property
    def seconds(self) -> float | None:
        """Seconds of unlearning; of training for the original and the retrained model."""
        unlearning = self.number("cost.unlearn_seconds")
        return self.number("cost.train_seconds") if unlearning is None else unlearning

    @property
    def half_width(self) -> float | None:
        """Half the 68 % interval of the share of forgotten samples; None where it cannot be known."""
        rate = self.number("forget_rate")
        if rate is None or not self.n or not math.isfinite(rate):
            return None
        low, high = share_interval(rate * self.n, self.n, ONE_SIGMA)
        return (high - low) / 2

    def number(self, name: str) -> float | None:
        """Return a number by its name in audit.json; None if it was not measured.

        Args:
            name: a key of ``MEASURES``, "seed", "n", "seconds", or a dotted name such as "cost.steps",
                "intervals.forget_rate.high" or "told_apart.target.auc".
        """
        if name == "seconds":
            return self.seconds
        found = self.measures.get(name)
        return self.numbers().get(name) if found is None else float(found)

    def require(self, name: str) -> float:
        """Return a number by its name, as ``number``.

        Raises:
            InputError: for one that was not measured.
        """
        value = self.number(name)
        if value is None:
            raise InputError(f"got the row {self.key} without {name}; expected an audit that measured it")
        return value

    def numbers(self) -> dict[str, float]:
        """Return every number of the row by its name in audit.json."""
        return numbers_in(self.as_dict())

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a measure; None if it was not measured."""
        found = (self.intervals or {}).get(name)
        return None if found is None else (float(found[0]), float(found[1]))

    def ends(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval of a number; the number twice where it has none.

        Raises:
            InputError: for a number that was not measured.
        """
        value = self.require(name)
        return self.interval(name) or (value, value)

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name in audit.json."""
        return self.as_dict()[name]

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it stands in audit.json: measures and further fields beside the others."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NOT_STORED}
        found = {"asked": self.asked, "attacked": self.attacked}
        known = {name: record for name, record in found.items() if record is not None}
        return {**plain, **known, **self.measures, **self.further}


_NOT_STORED = ("measures", "further", "asked", "attacked", "against_retrained")


def row_from_dict(record: Mapping[str, Any]) -> AuditRow:
    """Return a row of audit.json, without its verdicts. Fields that are missing count as not measured."""
    own = ({each.name for each in fields(AuditRow)} - set(_NOT_STORED)) | {"asked", "attacked"}
    keys = {measure.key for measure in MEASURES}
    return AuditRow(
        **{name: value for name, value in record.items() if name in own and value is not None},
        measures={name: value for name, value in record.items() if name in keys},
        further={name: value for name, value in record.items() if name not in own | keys},
    )


def read_rows(records: Iterable[Mapping[str, Any]]) -> list[AuditRow]:
    """Return the rows of audit.json with their verdicts."""
    return judge_rows([row_from_dict(record) for record in records])


def judge_rows(rows: Sequence[AuditRow]) -> list[AuditRow]:
    """Return rows with the verdicts that other rows of the same family give them."""
    retrained = {row.family: row for row in rows if row.method == "retrained"}
    return [
        row if row.is_reference else replace(row, against_retrained=compare(row, retrained.get(row.family)))
        for row in rows
    ]


def compare(row: AuditRow, retrained: AuditRow | None) -> Comparison | None:
    """Return whether a row leaves fewer forgotten samples than the retrained model, more, or as many.

    Fewer and more are two standard errors of the retrained model's share away, for the row's number of
    samples. None where either share was not measured.
    """
    rate = row.number("forget_rate")
    other = None if retrained is None else retrained.number("forget_rate")
    if rate is None or other is None:
        return None
    slack = 2 * math.sqrt(max(other * (1 - other), 1 / row.n) / row.n) if row.n else 0.0
    return "fewer" if rate < other - slack else "more" if rate > other + slack else "alike"


def is_farther(row: AuditRow, other: AuditRow, name: str = "fid_target") -> bool:
    """Return whether a row's distance is larger than another's by more than noise, where that is known.

    Raises:
        InputError: for a distance that was not measured.
    """
    difference, intervals = (
        row.require(name) - other.require(name),
        (row.interval(name), other.interval(name)),
    )
    halves = [(each[1] - each[0]) / 2 for each in intervals if each is not None]
    return len(halves) < 2 or difference > math.hypot(*halves)


def sort_rows(rows: Iterable[AuditRow], family: str | None = None) -> list[AuditRow]:
    """Return rows, of one family if it is named, the references first and otherwise in their order."""
    own = [row for row in rows if family is None or row.family == family]
    return sorted(own, key=lambda row: REFERENCES.index(row.method) if row.is_reference else len(REFERENCES))


def find_row(rows: Iterable[AuditRow], family: str, method: str) -> AuditRow | None:
    """Return the first row of a method in a family; None if there is none."""
    return next((row for row in rows if (row.family, row.method) == (family, method)), None)


def find_reference(rows: Iterable[AuditRow], family: str) -> AuditRow | None:
    """Return the retrained row of a family, else that of the exact target, else None."""
    rows = list(rows)
    return find_row(rows, family, "retrained") or find_row(rows, family, "target")


def numbers_in(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return every number of a nested record by its dotted name; intervals end in ".low" and ".high"."""
    numbers: dict[str, float] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            numbers |= numbers_in(value, f"{name}.")
        elif prefix.endswith("intervals.") and isinstance(value, list | tuple):
            numbers |= {f"{name}.low": float(value[0]), f"{name}.high": float(value[1])}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers
