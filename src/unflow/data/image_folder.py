"""A folder of images, one subfolder for each class."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from unflow.data.dataset import LabelledData
from unflow.data.labels import labelled
from unflow.data.pixels import BROKEN, broken_image, check_size, pixels, stacked
from unflow.data.values import scaled
from unflow.ground.errors import InputError

_FORMATS = ("PNG", "JPEG", "WEBP")
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""Of the names of images."""
_LITTER = frozenset({"thumbs.db", "desktop.ini"})


def image_folder(folder: str | Path, size: int | None = None) -> LabelledData:
    """Return the images in ``folder/CLASS/`` (PNG, JPEG, WebP), [n, c, h, w] in [-1, 1].

    Grey if all files are stored as grey, else RGB; turned as EXIF says, transparency on white. With a size
    the largest square in the middle is resized (bicubic). Hidden files are left out. Classes and files are
    sorted by the characters of their names, whatever the machine's order; so the fingerprint is the same
    wherever JPEG is decoded as by libjpeg-turbo, which Pillow's packages hold.

    Memory: 5 bytes a value at the peak, 4 afterwards: 100,000 RGB images of 64x64 take 4.9 GB, and 6.1 GB
    while they are read. ``load_data(name, cache=…)`` decodes them once.

    Args:
        folder: of the classes.
        size: height and width in pixels; that of the files if omitted, which must then be one.

    Raises:
        InputError: for no folder, no classes, a class without images, what is not an image, or mixed sizes.
    """
    check_size(size)
    classes = _classes(Path(folder))
    files = {name: _images(path) for name, path in classes.items()}
    found = [(label, path) for label, paths in enumerate(files.values()) for path in paths]
    x = stacked((str(path), decoded(path, size)) for _, path in found)
    labels = np.array([label for label, _ in found])
    images = scaled(x, str(folder), (0, 255))
    return labelled(Path(folder).resolve().name, images, labels, list(classes), str(folder))


def _classes(folder: Path) -> dict[str, Path]:
    """Return class name -> its folder, sorted."""
    if not folder.is_dir():
        raise InputError(
            f"got no folder {folder}; expected one with a subfolder for each class: write its path"
        )
    entries = visible(folder)
    stray = next((path for path in entries if path.is_file() and is_image(path)), None)
    if stray is not None:
        raise InputError(
            f"got the image {stray} outside a class; expected {folder}/CLASS/{stray.name}: "
            "write it into the folder of its class"
        )
    classes = {_normal(path.name): path for path in entries if path.is_dir()}
    if not classes:
        raise InputError(
            f"got no subfolders in {folder}; expected one for each class: write {folder}/CLASS/NAME.png"
        )
    return classes


def _images(folder: Path) -> list[Path]:
    paths = visible(folder)
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


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name; not what is hidden, nor what systems leave there."""
    paths = (path for path in folder.iterdir() if path.name.lower() not in _LITTER)
    return sorted((path for path in paths if not path.name.startswith(".")), key=lambda p: _normal(p.name))


def is_image(path: Path) -> bool:
    """Return whether a file is named as an image is."""
    return path.suffix.lower() in ENDINGS


def _normal(name: str) -> str:
    """Return the name as most systems store it: some take accents apart, which would change the order."""
    return unicodedata.normalize("NFC", name)


def decoded(path: Path, size: int | None) -> np.ndarray:
    """Return the image in a file as ``pixels`` does.

    Raises:
        InputError: for a damaged file; as ``pixels``.
    """
    try:
        image = Image.open(path, formats=_FORMATS)
    except BROKEN as error:
        raise broken_image(str(path), error) from error
    with image:
        return pixels(image, str(path), size)
