"""Checks of third-party labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.ground.errors import InputError


def label_samples(
    name: str, x: Tensor, labels: np.ndarray, class_names: Sequence[str] | None, where: str
) -> LabelledData:
    """Return labelled samples, with at least one of every class.

    Args:
        name: name of the dataset.
        x: samples, [n, *shape].
        labels: integers [n] or [n, 1], from 0.
        class_names: one per class; the labels themselves if omitted.
        where: source of the labels, for messages.

    Raises:
        InputError: for labels of another shape, type or range, a class without samples, or a duplicate name.
    """
    y = _check_integers(labels, len(x), where)
    names = None if class_names is None else [str(name) for name in class_names]
    if names is not None and len(set(names)) != len(names):
        raise InputError(
            f"got the class names {', '.join(names)} in {where}; expected none twice: write one a class"
        )
    known = np.unique(y)
    classes = max(int(known[-1]) + 1, 1) if names is None else len(names)
    if known[0] < 0 or known[-1] >= classes:
        raise InputError(
            f"got labels from {known[0]} to {known[-1]} in {where}; expected 0 to {classes - 1} for "
            f"{classes} classes: write labels that count from 0, and one name for each"
        )
    _check_none_empty(known, classes, names, where)
    return LabelledData(name, x, torch.from_numpy(y), names or [str(k) for k in range(classes)])


def _check_none_empty(known: np.ndarray, classes: int, names: Sequence[str] | None, where: str) -> None:
    if len(known) == classes:
        return
    there = set(known.tolist())
    some = islice((k for k in range(classes) if k not in there), 5)
    text = ", ".join(str(k) if names is None else names[k] for k in some)
    raise InputError(
        f"got no samples of {classes - len(known)} of {classes} classes in {where}, such as {text}; expected "
        "some of each: write labels that count only the classes that are there, from 0"
    )


def _check_integers(labels: np.ndarray, n: int, where: str) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if n == 0 or labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"got {n} images and {labels.dtype} labels of shape {list(labels.shape)} in {where}; "
            "expected as many integers, one or more: write one class index, from 0, for each image"
        )
    return labels.astype(np.int64)
