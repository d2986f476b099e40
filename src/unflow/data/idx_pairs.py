"""Datasets of pairs of IDX files, such as Fashion-MNIST, of any image size and number of classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from unflow.data.dataset import LabelledData
from unflow.data.idx import read_idx
from unflow.data.labels import label_samples
from unflow.data.pixels import move_channels_first
from unflow.data.values import scale
from unflow.ground.errors import InputError

_FILE = re.compile(r"(.*?)[-_.]?(images|labels)[-.]idx\d[-.]ubyte(?:\.gz)?")
_PART = re.compile(r"(.*?)[-_.]?(train|t10k|test|)")
_ORDER = ("train", "t10k", "test", "")


def idx_pairs(folder: str | Path, class_names: Sequence[str] | None = None) -> LabelledData:
    """Return the images of all pairs of IDX files in a folder, train first, as [n, c, h, w] in [-1, 1].

    The files are named as in MNIST, Fashion-MNIST and KMNIST: ``train-images-idx3-ubyte`` and
    ``train-labels-idx1-ubyte``, then ``t10k-…``, plain or gzip. The order in the files is kept.

    Args:
        folder: the folder of one dataset.
        class_names: one per class; the labels themselves if omitted.

    Raises:
        InputError: for no pair, an incomplete pair, two datasets, damaged files, or labels that do not count
            from 0.
    """
    folder = Path(folder)
    parts = [_read(files) for files in _find_pairs(folder).values()]
    shapes = {x.shape[1:] for x, _ in parts}
    if len(shapes) > 1:
        raise InputError(
            f"got images of the shapes {sorted(shapes)} in {folder}; expected one: write a folder for each"
        )
    x = scale(np.concatenate([x for x, _ in parts]), str(folder), (0, 255))
    labels = np.concatenate([y for _, y in parts])
    return label_samples(folder.resolve().name, x, labels, class_names, str(folder))


def _read(files: Mapping[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    x = move_channels_first(read_idx(files["images"]).numpy(), str(files["images"]), batched=True)
    labels = read_idx(files["labels"]).numpy()
    if labels.shape != (len(x),):
        raise InputError(
            f"got {len(x)} images and labels {list(labels.shape)} in {files['labels']}; expected one label "
            "for each image: write the files again from their source"
        )
    return x, labels


def _find_pairs(folder: Path) -> dict[str, dict[str, Path]]:
    """Return part -> its two files."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := _FILE.fullmatch(path.name):
            # A plain file is sorted before its .gz, so it is the one that is read.
            found.setdefault(match[1], {}).setdefault(match[2], path)
    if not found:
        raise InputError(
            f"got no IDX files in {folder}; expected pairs like train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte, plain or .gz: write the folder that holds them"
        )
    for part, files in found.items():
        if len(files) != 2:
            raise InputError(
                f"got {next(iter(files.values())).name} alone in {folder}; expected images and labels of "
                f"{part or 'the pair'}: write both into the folder"
            )
    return {part: found[part] for part in _sort_parts(found, folder)}


def _sort_parts(parts: Collection[str], folder: Path) -> list[str]:
    """Return the parts of one dataset, train first."""
    split = {part: _PART.fullmatch(part) for part in parts}
    names = sorted({match[1] for match in split.values() if match})
    if len(names) > 1:
        raise InputError(
            f"got the datasets {', '.join(names)} in {folder}; expected one: write a folder for each"
        )
    return sorted(parts, key=lambda part: _ORDER.index(match[2]) if (match := split[part]) else -1)
