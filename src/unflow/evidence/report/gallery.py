"""Galleries: the first samples of every row by judged class; of a forgotten one, what is left of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.pictures import picture
from unflow.evidence.report.read import Run, Samples
from unflow.evidence.report.summary import label
from unflow.evidence.report.tables import MAX_CLASSES

MOST, LEAST = 10, 3
"""Samples of a class that a gallery shows: as many as keep the galleries under ``BUDGET``."""
BUDGET = 1_200_000
"""Bytes of all galleries of a page, before they are compressed."""


@dataclass(frozen=True)
class Shelf:
    """The samples of one judged class in one row.

    Attributes:
        name: of the class.
        forgotten: whether it was to be forgotten.
        src: the first of them side by side, as data URI; None where the row has none.
        words: how many there are.
    """

    name: str
    forgotten: bool
    src: str | None
    words: str


def galleries(run: Run, family: str) -> list[tuple[str, list[Shelf]]]:
    """Return name and shelves of a family's rows; none of samples that are not labelled images."""
    rows = [(label(run, row), run.samples.get(row.key)) for row in run.rows_of(family)]
    shown = [(name, s) for name, s in rows if s is not None and s.is_image and s.label is not None]
    if not shown:
        return []
    classes = _classes(run)
    each = shown[0][1].x[0].size * len(classes) * len(shown) * len(run.families)
    many = int(np.clip(BUDGET // max(each, 1), LEAST, MOST))
    return [(name, [_shelf(run, samples, k, many) for k in classes]) for name, samples in shown]


def _classes(run: Run) -> list[int]:
    """Return the forgotten classes first, then the others, as many as a page can show."""
    count = len(run.audit.get("class_names") or []) or 1 + max(run.forget, default=0)
    others = [k for k in range(count) if k not in run.forget]
    return [*run.forget, *others][:MAX_CLASSES]


def _shelf(run: Run, samples: Samples, k: int, many: int) -> Shelf:
    assert samples.label is not None
    found = np.flatnonzero(samples.label == k)
    name, forgotten = run.class_name(k), k in run.forget
    if not len(found):
        return Shelf(name, forgotten, None, "none")
    return Shelf(
        name, forgotten, picture(_strip(samples.x[found[:many]]), many), f"{len(found)} of {len(samples.x)}"
    )


def _strip(x: NDArray[Any]) -> NDArray[Any]:
    """Return images [n, channels, height, width] side by side, a grey line between two."""
    line = np.zeros((*x.shape[:3], max(1, x.shape[3] // 16)), x.dtype)
    pieces = np.concatenate([x, line], axis=3)
    return np.concatenate(list(pieces), axis=2)[:, :, : -line.shape[3]]
