"""Any map-style PyTorch dataset of images and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.data.labels import labelled
from unflow.data.pixels import check_size, pixels, stacked
from unflow.data.values import scaled
from unflow.ground.errors import InputError


def from_dataset(
    dataset: Any,
    class_names: Sequence[str] | None = None,
    size: int | None = None,
    *,
    value_range: Sequence[float] | None = None,
    name: str | None = None,
) -> LabelledData:
    """Return the images and labels of a map-style dataset, in its order, as [n, c, h, w] in [-1, 1].

    Every item is read once, in memory: 5 bytes a value for PIL images and bytes, 8 for floats; 4 afterwards.
    Random transforms would change the fingerprint, and with it every split: leave them out.

    Args:
        dataset: with ``len(dataset)`` and ``dataset[k]`` = (image, label): a PIL image, or an array or
            tensor [h, w], [c, h, w] or [h, w, c]; a whole number from 0.
        class_names: one per class; ``dataset.classes`` if there is one, else the labels.
        size: height and width in pixels, as in ``image_folder``; that of the images if omitted.
        value_range: black and white of arrays and tensors: (0, 255), (0, 1) or (-1, 1); told from all
            values together if omitted.
        name: of the data set, for records; that of the dataset's type if omitted.

    Raises:
        InputError: for a dataset that is empty or has no length, other items, mixed sizes, or bad labels.
    """
    _check_is_map(dataset)
    names = getattr(dataset, "classes", None) if class_names is None else class_names
    items = (_pair(dataset[k], k) for k in range(len(dataset)))
    return of_pairs(items, name or type(dataset).__name__, names, size, value_range)


def of_pairs(
    items: Iterator[tuple[Any, Any]],
    name: str,
    class_names: Sequence[str] | None,
    size: int | None,
    value_range: Sequence[float] | None,
) -> LabelledData:
    """Return the labelled data of pairs (image, label); the arguments are those of ``from_dataset``."""
    check_size(size)
    labels: list[int] = []

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for k, (image, label) in enumerate(items):
            labels.append(_index(label, k))
            yield f"image {k}", pixels(image, f"image {k}", size)

    x = scaled(stacked(images()), f"the images of {name}", value_range)
    return labelled(name, x, np.array(labels), class_names, name)


def _check_is_map(dataset: Any) -> None:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(
            f"got a {type(dataset).__name__} without a length or dataset[k]; expected a map-style dataset: "
            "write from_dataset(list(dataset)) if it fits into memory"
        )


def _pair(item: Any, k: int) -> tuple[Any, Any]:
    if not isinstance(item, Sequence) or len(item) != 2:
        raise InputError(
            f"got item {k} of the type {type(item).__name__}; expected (image, label): "
            "write a dataset of such pairs, or from_hf for rows with column names"
        )
    return item[0], item[1]


def _index(label: Any, k: int) -> int:
    if isinstance(label, Tensor | np.ndarray) and np.prod(label.shape) == 1:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise InputError(
            f"got the label {label!r} of image {k}; expected a class index: write whole numbers from 0, and "
            "class_names=['cat', 'dog'] for their names"
        )
    return int(label)
