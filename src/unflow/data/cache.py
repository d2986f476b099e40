"""What took long to read or compute, kept in a folder: found again only if nothing has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.data.values import from_bytes, packed
from unflow.ground.errors import InputError
from unflow.ground.files import read_tensors, sha256_text, write_tensors

_DATA, FEATURES = "data-", "features-"
"""How the names of entries start."""
_FORMAT = 1
"""Counted up when a reader returns something else for the same files."""


def cached(
    read: Callable[[], LabelledData], source: str | Path, cache: str | Path, settings: str = ""
) -> LabelledData:
    """Return what ``read`` returns, decoded once: later calls find the bytes in the cache folder.

    An entry is one safetensors file, whole or not there. Its key is the place of the source, the names, sizes
    and times of change of all its files, and the settings; so a changed source is read again. Old entries
    stay: delete the folder when you like.

    On disk and in memory: a byte a value, where bytes give the images back in the same bits (all images that
    were bytes), else 4. A first call needs 8 bytes a value at the peak, a later one 5; 4 stay. So 100,000 RGB
    images of 64x64 take 1.2 GB on disk and 4.9 GB in memory.

    Args:
        read: reads the source.
        source: the file or folder that is read.
        cache: the folder; made if needed.
        settings: what else the result depends on, such as a size.

    Raises:
        InputError: for a source that is not there, or a damaged entry.
    """
    listing = json.dumps(
        [_FORMAT, settings, str(Path(source).resolve()), _listing(Path(source), Path(cache))]
    )
    path = Path(cache) / f"{_DATA}{sha256_text(listing)[:32]}.safetensors"
    if path.is_file():
        tensors, metadata = read_tensors(path)
        x = tensors["x"]
        x = from_bytes(x) if metadata["packed"] else x
        return LabelledData(metadata["name"], x, tensors["labels"], metadata["class_names"])
    data = read()
    x = packed(data.x)
    metadata = {"name": data.name, "class_names": data.class_names, "packed": x is not data.x}
    keep(path, {"x": x, "labels": data.labels}, metadata)
    return data


def keep(path: Path, tensors: Mapping[str, Tensor], metadata: Any) -> None:
    """Write an entry; of two processes that write it at once, each writes its own file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_tensors(own, tensors, metadata)
    own.replace(path)


def _listing(source: Path, cache: Path) -> list[tuple[str, int, int]]:
    """Return name, bytes and time of change of every file but hidden ones, sorted."""
    if not source.exists():
        raise InputError(f"got no {source}; expected a file or folder to read: write its path")
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    found = []
    for path in files:
        name = path.relative_to(source)
        if not any(part.startswith(".") for part in name.parts) and not _is_entry(path, cache):
            status = path.stat()
            found.append((name.as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(found)


def _is_entry(path: Path, cache: Path) -> bool:
    """Whether a file of the source is one of the cache's own, because one folder is in the other."""
    return path.name.startswith((_DATA, FEATURES)) and path.parent.resolve() == cache.resolve()
