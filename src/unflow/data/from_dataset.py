"""Datasets from any map-style PyTorch dataset of images and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.data.labels import label_samples
from unflow.data.pixels import check_size, stack_images, to_pixels
from unflow.data.values import scale
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

    Every item is read once into memory. Peak memory: 5 bytes per value for PIL images and bytes, 8 for
    floats; 4 afterwards. Leave out random transforms: they change the fingerprint, and every split with it.

    Args:
        dataset: has ``len(dataset)`` and ``dataset[k]`` = (image, label). An image is a PIL image, or an
            array or tensor [h, w], [c, h, w] or [h, w, c]; a label is a whole number from 0.
        class_names: one per class; ``dataset.classes`` if omitted, or the labels if that is missing too.
        size: height and width in pixels, as in ``image_folder``; the size of the images if omitted.
        value_range: black and white of arrays and tensors: (0, 255), (0, 1) or (-1, 1); inferred from all
            values together if omitted.
        name: name of the dataset in lineages; the name of its type if omitted.

    Raises:
        InputError: for a dataset that is empty or has no length, other items, mixed sizes, or bad labels.
    """
    _check_is_map(dataset)
    names = getattr(dataset, "classes", None) if class_names is None else class_names
    items = (_check_pair(dataset[k], k) for k in range(len(dataset)))
    return from_pairs(items, name or type(dataset).__name__, names, size, value_range)


def from_pairs(
    items: Iterator[tuple[Any, Any]],
    name: str,
    class_names: Sequence[str] | None,
    size: int | None,
    value_range: Sequence[float] | None,
) -> LabelledData:
    """Return the labelled data of pairs (image, label); the other arguments are those of ``from_dataset``."""
    check_size(size)
    labels: list[int] = []

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for k, (image, label) in enumerate(items):
            labels.append(_check_label(label, k))
            yield f"image {k}", to_pixels(image, f"image {k}", size)

    x = scale(stack_images(images()), f"the images of {name}", value_range)
    return label_samples(name, x, np.array(labels), class_names, name)


def _check_is_map(dataset: Any) -> None:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(
            f"got a {type(dataset).__name__} without a length or dataset[k]; expected a map-style dataset: "
            "write from_dataset(list(dataset)) if it fits into memory"
        )


def _check_pair(item: Any, k: int) -> tuple[Any, Any]:
    if not isinstance(item, Sequence) or len(item) != 2:
        raise InputError(
            f"got item {k} of the type {type(item).__name__}; expected (image, label): "
            "write a dataset of such pairs, or from_hf for rows with column names"
        )
    return item[0], item[1]


def _check_label(label: Any, k: int) -> int:
    if isinstance(label, Tensor | np.ndarray) and np.prod(label.shape) == 1:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise InputError(
            f"got the label {label!r} of image {k}; expected a class index: write whole numbers from 0, and "
            "class_names=['cat', 'dog'] for their names"
        )
    return int(label)
