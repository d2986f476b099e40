"""Names of datasets, in Python and on the command line: the table of sources, and the grammar of a name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unflow.data.cache import read_cached
from unflow.data.cifar10 import cifar10
from unflow.data.cifar_binary import cifar100
from unflow.data.dataset import LabelledData
from unflow.data.digits import digits
from unflow.data.idx import mnist
from unflow.data.idx_pairs import idx_pairs
from unflow.data.image_folder import image_folder
from unflow.data.npz import read_npz
from unflow.ground.errors import InputError
from unflow.ground.values import QUOTED, is_folder, unquote

_SIZED = re.compile(rf"({QUOTED}|.+)@(\d+)")


@dataclass(frozen=True)
class Source:
    """A kind of dataset, and its reader.

    Attributes:
        read: the reader; its arguments are the path, and a size if ``sized``.
        place: the kind of path after the colon: DIR, FILE, or "" for an embedded dataset.
        sized: whether @SIZE may follow.
    """

    read: Callable[..., LabelledData]
    place: str = ""
    sized: bool = False


SOURCES: dict[str, Source] = {
    "digits": Source(digits),
    "mnist": Source(mnist, "DIR"),
    "cifar10": Source(cifar10, "DIR"),
    "cifar100": Source(cifar100, "DIR"),
    "idx": Source(idx_pairs, "DIR"),
    "folder": Source(image_folder, "DIR", sized=True),
    "npz": Source(read_npz, "FILE"),
}

DATASETS: dict[str, Callable[[], LabelledData]] = {
    kind: source.read for kind, source in SOURCES.items() if not source.place
}
"""Embedded datasets."""

IN_FOLDERS: dict[str, Callable[[Path], LabelledData]] = {
    kind: source.read for kind, source in SOURCES.items() if source.place == "DIR"
}
"""Data sets that are read from a folder."""


def list_forms() -> list[str]:
    """Return every form of a name: digits, mnist:DIR, folder:DIR[@SIZE] and so on."""
    return [_write_form(kind) for kind in SOURCES]


def load_data(name: str, cache: str | Path | None = None) -> LabelledData:
    """Return a dataset by name.

    Args:
        name: an embedded dataset ("digits"), or a kind and its path: "mnist:DIR", "folder:DIR",
            "folder:DIR@32" (resized; the last @ counts), "npz:FILE"; ``list_forms()`` returns all forms. A
            path may begin with ``~/``; one that ends like a size stands in quotes: 'folder:"scans@2"'.
        cache: cache folder for data that is read from a path, see ``read_cached``; no cache if omitted.

    Raises:
        InputError: for an unknown name, a missing or superfluous path, or a path without such data.
    """
    kind, colon, place = name.partition(":")
    source = SOURCES.get(kind)
    if source is None:
        raise _describe_unknown(name, kind)
    if not source.place:
        if colon:
            raise InputError(f"got the dataset {name!r}; expected {kind} alone: it is embedded")
        return source.read()
    if not place:
        what = "folder" if source.place == "DIR" else "file"
        raise InputError(f"got the dataset {name!r} without its {what}; expected {_write_form(kind)}")
    sized = _SIZED.fullmatch(place) if source.sized else None
    written, size = (sized[1], (int(sized[2][:20]),)) if sized else (place, ())
    path = Path(unquote(written))
    if cache is None:
        return source.read(path, *size)
    return read_cached(lambda: source.read(path, *size), path, cache, f"{kind} {size}")


def _write_form(kind: str) -> str:
    source = SOURCES[kind]
    return kind + f":{source.place}" * bool(source.place) + "[@SIZE]" * source.sized


def _describe_unknown(name: str, kind: str) -> InputError:
    near = difflib.get_close_matches(kind, SOURCES, n=1)
    path = Path(name)
    if is_folder(path):
        hint = f": write folder:{name} for images, idx:{name} for IDX files"
    elif path.suffix == ".npz":
        hint = f": write npz:{name}"
    else:
        hint = f": did you mean {_write_form(near[0])}?" if near else ""
    return InputError(f"got the dataset {name!r}; expected one of {', '.join(list_forms())}{hint}")
