"""Datasets from Hugging Face's package `datasets`, which is not imported here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from unflow.data.dataset import LabelledData
from unflow.data.from_dataset import from_pairs
from unflow.ground.errors import InputError


def from_hf(
    dataset: Any,
    image: str = "image",
    label: str = "label",
    class_names: Sequence[str] | None = None,
    size: int | None = None,
    *,
    value_range: Sequence[float] | None = None,
    name: str | None = None,
) -> LabelledData:
    """Return two columns of a Hugging Face dataset, in its order: images [n, c, h, w] in [-1, 1], and labels.

    Memory: as in ``from_dataset``. Other columns are not decoded.

    Args:
        dataset: one split, in memory or memory-mapped, not streamed.
        image: name of the column of images: PIL, or arrays after ``with_format("numpy")`` or ``("torch")``.
        label: name of the column of class indices, a ``ClassLabel`` or whole numbers from 0.
        class_names: one per class; those of the ``ClassLabel``, or else the labels, if omitted.
        size: height and width in pixels, as in ``image_folder``.
        value_range: as in ``from_dataset``.
        name: name of the dataset in lineages; "huggingface" if omitted.

    Raises:
        InputError: for several splits, a stream, a missing column, and as ``from_dataset``.
    """
    _check_is_one_split(dataset)
    _check_columns(dataset.column_names, image, label)
    features = dataset.features
    names = getattr(features[label], "names", None) if class_names is None else class_names
    if names is None and getattr(features[label], "dtype", "") in ("string", "large_string"):
        raise InputError(
            f"got texts in the column {label!r}; expected class indices: "
            f"write from_hf(dataset.class_encode_column({label!r}))"
        )
    rows = dataset.select_columns([image, label])
    pairs = ((row[image], row[label]) for row in (rows[k] for k in range(len(rows))))
    return from_pairs(pairs, name or "huggingface", names, size, value_range)


def _check_is_one_split(dataset: Any) -> None:
    if isinstance(dataset, Mapping):
        splits = [str(key) for key in dataset]
        raise InputError(
            f"got the splits {', '.join(splits)}; expected one: write from_hf(dataset[{splits[0]!r}])"
            if splits
            else "got no splits; expected one: write from_hf(dataset['train'])"
        )
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "column_names")):
        raise InputError(
            f"got a {type(dataset).__name__}; expected a dataset with a length and columns, not a stream: "
            "write load_dataset(…, split='train', streaming=False)"
        )


def _check_columns(columns: Sequence[str], *asked: str) -> None:
    for option, name in zip(("image", "label"), asked, strict=True):
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1) or columns[:1] or ["NAME"]
            raise InputError(
                f"got the column {name!r}; expected one of {', '.join(columns)}: "
                f"write from_hf(dataset, {option}={near[0]!r})"
            )
