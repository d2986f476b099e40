"""Galleries: the first samples of every row by judged class, forgotten classes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.pictures import encode_image, lay_out_channels
from unflow.evidence.report.read import Run, Samples
from unflow.evidence.report.tables import MAX_CLASSES

MOST, LEAST = 10, 3
"""Bounds on the number of samples per class; within them, all galleries stay under ``BUDGET``."""
BUDGET = 1_200_000
"""Bytes of all galleries of a page, before compression."""


@dataclass(frozen=True)
class Shelf:
    """The samples of one row that the judge assigns to one class.

    Attributes:
        name: the class name.
        forgotten: whether the class was to be forgotten.
        src: the first samples side by side, as data URI; None if the row has no sample of the class.
        count: "<number of samples of the class> of <number of samples>", or "none".
    """

    name: str
    forgotten: bool
    src: str | None
    count: str


def build_galleries(run: Run, family: str) -> list[tuple[str, list[Shelf]]]:
    """Return the name and shelves of every row of a family whose samples are labelled images."""
    rows = [(run.row_name(row), run.samples.get(row.key)) for row in run.rows_of(family)]
    shown = [(name, s) for name, s in rows if s is not None and s.is_image and s.label is not None]
    if not shown:
        return []
    classes = _list_classes(run)
    each = shown[0][1].x[0].size * len(classes) * len(shown) * len(run.families)
    many = int(np.clip(BUDGET // max(each, 1), LEAST, MOST))
    return [(name, [_build_shelf(run, samples, k, many) for k in classes]) for name, samples in shown]


def _list_classes(run: Run) -> list[int]:
    """Return the forgotten classes, then the others, at most ``MAX_CLASSES`` in all."""
    count = len(run.audit.get("class_names") or []) or 1 + max(run.forget, default=0)
    others = [k for k in range(count) if k not in run.forget]
    return [*run.forget, *others][:MAX_CLASSES]


def _build_shelf(run: Run, samples: Samples, k: int, many: int) -> Shelf:
    assert samples.label is not None
    found = np.flatnonzero(samples.label == k)
    x = lay_out_channels(samples.x[found[:many]])
    side_by_side = many * x.shape[3] // samples.x.shape[3]
    src = encode_image(join_images(x), side_by_side) if len(found) else None
    count = f"{len(found)} of {len(samples.x)}" if len(found) else "none"
    return Shelf(run.class_name(k), k in run.forget, src, count)


def join_images(x: NDArray[Any]) -> NDArray[Any]:
    """Return images [n, channels, height, width] side by side with a grey line between two."""
    line = np.zeros((*x.shape[:3], max(1, x.shape[3] // 16)), x.dtype)
    pieces = np.concatenate([x, line], axis=3)
    return np.concatenate(list(pieces), axis=2)[:, :, : -line.shape[3]]
