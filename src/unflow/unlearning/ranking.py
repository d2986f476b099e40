"""The measured quality of each method, from the benchmark of strangers, and the ranking of methods by it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

TABLE = "ranking.json"
"""The table in this package; ``benchmarks/ranking.py`` writes it from the benchmark's results."""
SECONDS = "seconds"
"""The bound that does not count as quality, because a plan measures the time on the user's model."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The means of a method's runs on third-party models of one family, with its default settings.

    Attributes:
        runs: of the benchmark, >= 1: models x requests x seeds.
        failed: runs that ended with an error or returned NaN; each counts as a miss of every bound.
        missed: bound ("forgotten", "distance", "sharpness", "kept", "seconds") -> runs that miss it.
        distance: geometric mean of the Fréchet distance to the exact target, divided by its floor; None if no
            run has finished.
        left: forgotten samples that remain, minus the exact target's, in points of 100; None as above.
        sharpness: edge contrast relative to the exact target's; None as above.
        seconds: CPU seconds; None as above.
        original_inside: whether the result contains the original.
    """

    runs: int
    failed: int
    missed: Mapping[str, int]
    distance: float | None
    left: float | None
    sharpness: float | None
    seconds: float | None
    original_inside: bool

    @property
    def misses(self) -> float:
        """Mean number of bounds that a run misses, without the bound of seconds."""
        return sum(count for bound, count in self.missed.items() if bound != SECONDS) / self.runs

    @property
    def quality(self) -> tuple[float, float]:
        """Missed bounds for each run, then the distance over the floor; less is better."""
        return self.misses, math.inf if self.distance is None else self.distance


def name_kind(family: str) -> str:
    """Return the kind of models, of those with measured rows, that a model family belongs to."""
    return "flow" if family == "flow" else "one-step"


@functools.cache
def read_ranking() -> dict[str, dict[str, Measured]]:
    """Return the measured rows: kind of models -> row name of a method -> its means."""
    record = json.loads(files("unflow.unlearning").joinpath(TABLE).read_text())
    return {kind: {name: Measured(**row) for name, row in rows.items()} for kind, rows in record.items()}


def list_measured(family: str) -> dict[str, Measured]:
    """Return the measured rows for a model family; none for a family without measurements."""
    return read_ranking().get(name_kind(family), {})
