"""Findings about the parts of a split: small classes, and samples that occur in more than one part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from unflow.data.dataset import LabelledData

LEAST = 20
"""Samples of a class in a part, below which its rates are known to no better than 10 points."""
LISTED = 5
"""Classes that a finding lists."""


def name_class(k: int, names: Sequence[str] | None) -> str:
    """Return the number of a class with its name: "3 (cat)", or "3" for a class without another name."""
    name = str(k) if names is None or not 0 <= k < len(names) else str(names[k])
    return name if name == str(k) else f"{k} ({name})"


def find_in_parts(parts: Mapping[str, LabelledData]) -> list[str]:
    """Return what makes the parts of a split unfit for training or statistics, one sentence each.

    Args:
        parts: name of the part -> its samples.
    """
    small = (_describe_small_classes(name, data) for name, data in parts.items())
    return [found for found in (*small, _describe_duplicates(parts)) if found]


def _describe_small_classes(part: str, data: LabelledData) -> str | None:
    counts = data.labels.bincount(minlength=len(data.class_names)).tolist()
    small = [k for k, n in enumerate(counts) if n < LEAST]
    if not small:
        return None
    some = ", ".join(f"{name_class(k, data.class_names)}: {counts[k]}" for k in small[:LISTED])
    more = f" and {len(small) - LISTED} other classes" if len(small) > LISTED else ""
    return (
        f"the part {part} has fewer than {LEAST} samples of class {some}{more}; expected more, so that they "
        "can be learned and measured: add samples, or give the part a larger share"
    )


def _describe_duplicates(parts: Mapping[str, LabelledData]) -> str | None:
    first: dict[bytes, str] = {}
    twice: list[tuple[str, str]] = []
    for part, data in parts.items():
        keys = _hash_samples(data)
        named = {key: f"row {row} of {part}" for row, key in enumerate(keys)}
        twice += [(first[key], named[key]) for key in keys if key in first]
        first = named | first
    if not twice:
        return None
    return (
        f"{len(twice)} samples occur in more than one of the parts {', '.join(parts)} "
        f"({' and '.join(twice[0])}, for example); expected each sample in one part, or judges and "
        "statistics read samples of the training: remove the copies from the data, and split again"
    )


def _hash_samples(data: LabelledData) -> list[bytes]:
    rows = np.ascontiguousarray(data.x.numpy())
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
