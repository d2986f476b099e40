"""Datasets from a folder of images with one subfolder per class."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from unflow.data.dataset import LabelledData
from unflow.data.labels import label_samples
from unflow.data.pixels import BROKEN, broken_image, check_size, stack_images, to_pixels
from unflow.data.values import scale
from unflow.ground.errors import InputError

_FORMATS = ("PNG", "JPEG", "WEBP")
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""File endings of images."""
_LITTER = frozenset({"thumbs.db", "desktop.ini"})


def image_folder(folder: str | Path, size: int | None = None) -> LabelledData:
    """Return the images in ``folder/CLASS/`` (PNG, JPEG, WebP), [n, c, h, w] in [-1, 1].

    Images are grey if all files are stored as grey, else RGB. EXIF orientation is applied, and transparency
    is laid on white. With a size, the largest centred square is resized (bicubic). Hidden files are ignored.
    Classes and files are sorted by the characters of their names on every machine. So the fingerprint is the
    same on all machines whose JPEG decoder is libjpeg-turbo, which Pillow's packages contain.

    Memory: 5 bytes per value at the peak, 4 afterwards: 100,000 RGB images of 64x64 take 6.1 GB while they
    are read, and then 4.9 GB. ``load_data(name, cache=…)`` decodes them only once.

    Args:
        folder: the folder of the classes.
        size: height and width in pixels; if omitted, all files must have the same size, which is kept.

    Raises:
        InputError: for no folder, no classes, a class without images, a file that is not an image, or mixed
            sizes.
    """
    check_size(size)
    classes = _find_classes(Path(folder))
    files = {name: _find_images(path) for name, path in classes.items()}
    found = [(label, path) for label, paths in enumerate(files.values()) for path in paths]
    x = stack_images((str(path), read_image(path, size)) for _, path in found)
    labels = np.array([label for label, _ in found])
    images = scale(x, str(folder), (0, 255))
    return label_samples(Path(folder).resolve().name, images, labels, list(classes), str(folder))


def _find_classes(folder: Path) -> dict[str, Path]:
    """Return class name -> its folder, sorted."""
    if not folder.is_dir():
        raise InputError(
            f"got no folder {folder}; expected one with a subfolder for each class: write its path"
        )
    entries = list_visible(folder)
    stray = next((path for path in entries if path.is_file() and is_image(path)), None)
    if stray is not None:
        raise InputError(
            f"got the image {stray} outside a class; expected {folder}/CLASS/{stray.name}: "
            "write it into the folder of its class"
        )
    classes = {_normalise(path.name): path for path in entries if path.is_dir()}
    if not classes:
        raise InputError(
            f"got no subfolders in {folder}; expected one for each class: write {folder}/CLASS/NAME.png"
        )
    return classes


def _find_images(folder: Path) -> list[Path]:
    paths = list_visible(folder)
    for path in paths:
        if not (path.is_file() and is_image(path)):
            raise InputError(
                f"got {path} in the folder of a class; expected only files ending in "
                f"{', '.join(sorted(ENDINGS))}: write it elsewhere, or the folder above the classes"
            )
    if not paths:
        raise InputError(
            f"got no images in {folder}; expected one or more of each class: write some, or delete the folder"
        )
    return paths


def list_visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without hidden and system files."""
    paths = (path for path in folder.iterdir() if path.name.lower() not in _LITTER)
    return sorted((path for path in paths if not path.name.startswith(".")), key=lambda p: _normalise(p.name))


def is_image(path: Path) -> bool:
    """Return whether a file has the ending of an image."""
    return path.suffix.lower() in ENDINGS


def _normalise(name: str) -> str:
    """Return the name in the form NFC: some systems store accents apart, which changes the order."""
    return unicodedata.normalize("NFC", name)


def read_image(path: Path, size: int | None) -> np.ndarray:
    """Return the image in a file in the form of ``to_pixels``.

    Raises:
        InputError: for a damaged file, and as ``to_pixels``.
    """
    try:
        image = Image.open(path, formats=_FORMATS)
    except BROKEN as error:
        raise broken_image(str(path), error) from error
    with image:
        return to_pixels(image, str(path), size)
