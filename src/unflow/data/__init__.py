"""Data: labelled samples, and the explicit split between generator, judge and statistics."""

from __future__ import annotations

from collections.abc import Callable

from unflow.data.dataset import LabelledData
from unflow.data.digits import digits
from unflow.data.split import PARTS, Split, read_split, split_data, write_split
from unflow.errors import choose

__all__ = [
    "DATASETS", "PARTS", "LabelledData", "Split", "digits", "load_data", "read_split", "split_data",
    "write_split",
]  # fmt: skip

DATASETS: dict[str, Callable[[], LabelledData]] = {"digits": digits}


def load_data(name: str) -> LabelledData:
    """Return a data set by name.

    Raises:
        InputError: for an unknown name.
    """
    return choose(DATASETS, name, "data set")()
