"""Data: labelled samples, and the explicit split between generator, judge and statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
from unflow.errors import InputError

__all__ = [
    "CIFAR10_CLASSES", "DATASETS", "IN_FOLDERS", "PARTS", "PLANAR_SETS", "Checkerboard", "Circles",
    "Gaussians", "GeometryJudge", "LabelledData", "Moons", "PlanarSet", "Split", "cifar10", "digits",
    "load_data", "mnist", "read_idx", "read_split", "split_data", "write_split",
]  # fmt: skip

DATASETS: dict[str, Callable[[], LabelledData]] = {"digits": digits}

IN_FOLDERS: dict[str, Callable[[Path], LabelledData]] = {"mnist": mnist, "cifar10": cifar10}
"""Data sets that are read from a folder."""


def load_data(name: str) -> LabelledData:
    """Return a data set by name.

    Args:
        name: of an embedded data set ("digits"), or of one in a folder and the folder ("mnist:DIR").

    Raises:
        InputError: for an unknown name, a folder that is needed or is not, and data that is not in it.
    """
    kind, _, folder = name.partition(":")
    if name in DATASETS:
        return DATASETS[name]()
    if kind in IN_FOLDERS and folder:
        return IN_FOLDERS[kind](Path(folder))
    if kind in IN_FOLDERS:
        raise InputError(f"got the data set {name!r} without its folder; expected {kind}:DIR")
    if kind in DATASETS:
        raise InputError(f"got the data set {name!r}; expected {kind} alone: it is embedded")
    known = [*DATASETS, *(f"{each}:DIR" for each in IN_FOLDERS)]
    raise InputError(f"got the data set {name!r}; expected one of {', '.join(known)}")
