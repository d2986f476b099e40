"""Data: labelled samples, and the explicit split between generator, judge and statistics."""

from __future__ import annotations

from collections.abc import Callable

from unflow.data.cifar10 import CIFAR10_CLASSES, cifar10
from unflow.data.dataset import LabelledData
from unflow.data.digits import digits
from unflow.data.idx import mnist, read_idx
from unflow.data.split import PARTS, Split, read_split, split_data, write_split
from unflow.data.toy import (
    PLANAR_SETS,
    Checkerboard,
    Circles,
    Gaussians,
    GeometryJudge,
    Moons,
    PlanarSet,
)
from unflow.errors import choose

__all__ = [
    "CIFAR10_CLASSES", "DATASETS", "PARTS", "PLANAR_SETS", "Checkerboard", "Circles", "Gaussians",
    "GeometryJudge", "LabelledData", "Moons", "PlanarSet", "Split", "cifar10", "digits", "load_data",
    "mnist", "read_idx", "read_split", "split_data", "write_split",
]  # fmt: skip

DATASETS: dict[str, Callable[[], LabelledData]] = {"digits": digits}


def load_data(name: str) -> LabelledData:
    """Return a data set by name.

    Raises:
        InputError: for an unknown name.
    """
    return choose(DATASETS, name, "data set")()
