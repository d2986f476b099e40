"""The slider: the same latents at every strength of a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unflow.evidence.report.pictures import Tile, picture
from unflow.evidence.report.read import Run
from unflow.evidence.report.words import number


@dataclass(frozen=True)
class Stop:
    """One position of the slider.

    Attributes:
        strength: as text.
        left: the forget rate there, in percent.
        tiles: one per latent.
    """

    strength: str
    left: str
    tiles: list[Tile]


def stops(run: Run, family: str) -> list[Stop]:
    """Return the positions of a family's slider; none where no strengths were audited, or of no images."""
    found = run.strengths.get(family)
    if found is None or not found.is_image:
        return []
    return [
        Stop(number(float(lam), 2), number(100 * float(rate), 1), _tiles(run, x, label, found.label[0]))
        for lam, rate, x, label in zip(found.strength, found.forget_rate, found.x, found.label, strict=True)
    ]


def _tiles(run: Run, x: np.ndarray, label: np.ndarray, before: np.ndarray) -> list[Tile]:
    return [
        Tile(
            src=picture(image),
            judged=run.class_name(int(now)),
            forgotten=int(now) in run.forget,
            moved=bool(now != old),
            words=f"judged {run.class_name(int(now))}",
        )
        for image, now, old in zip(x, label, before, strict=True)
    ]
