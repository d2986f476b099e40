"""CIFAR-10 from an archive of JPEG files, or from its binary version."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unflow.data.archive import read_members
from unflow.data.cifar_binary import CIFAR10, find_binary, split_records
from unflow.data.dataset import LabelledData
from unflow.data.values import from_bytes
from unflow.ground.errors import InputError, choose

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of the original labels."""

_ARCHIVE = "cifar10-images.tar.gz"
_MEMBER = re.compile(rf"(?:\./)?((?:train|test)/({'|'.join(CIFAR10_CLASSES)})/\d+\.jpg)")


def cifar10(folder: str | Path, classes: Sequence[str] | None = None) -> LabelledData:
    """Return CIFAR-10 as images [n, 3, 32, 32] in [-1, 1], sorted by file name.

    If there is a ``cifar10-images.tar.gz`` of ``train/<class>/NNNN.jpg`` and ``test/<class>/NNNN.jpg``, it is
    read, test before train. Its JPEG files differ a little from the original files by Krizhevsky, Nair and
    Hinton, which were published for research without a licence text. Otherwise the original files are read
    from ``cifar-10-binary.tar.gz`` or its unpacked folder, train before test.

    Args:
        folder: the folder of the archive.
        classes: names of the classes to decode, labelled in this order; all ten if omitted.

    Raises:
        InputError: if the archive is missing, damaged or contains pickles, or a class is unknown, given twice
            or missing.
    """
    folder, names = Path(folder), _check_classes(CIFAR10_CLASSES if classes is None else classes)
    binary = None if (folder / _ARCHIVE).is_file() else find_binary(folder, CIFAR10)
    where = folder / _ARCHIVE if binary is None else folder
    if binary is None:
        x, labels = _read_images(where, names)
    else:
        x, labels = _select_records(*split_records(binary, CIFAR10, folder), names, folder)
    missing = [name for label, name in enumerate(names) if not (labels == label).any()]
    if missing:
        raise InputError(
            f"got no images of {', '.join(missing)} in {where}; expected some of each "
            "class: write the classes that the archive holds"
        )
    return LabelledData("cifar10", from_bytes(x), labels, names)


def _read_images(path: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Return bytes [n, 3, 32, 32] and labels of the archive of JPEG files."""
    found = sorted(_yield_images(path, names), key=lambda each: each[0])
    labels = torch.tensor([names.index(name) for _, name, _ in found], dtype=torch.long)
    if not found:
        return torch.empty(0, 3, 32, 32, dtype=torch.uint8), labels
    # Channels first while these are still bytes, a quarter of the memory.
    x = torch.from_numpy(np.stack([image for _, _, image in found])).permute(0, 3, 1, 2).contiguous()
    return x, labels


def _select_records(
    x: np.ndarray, labels: np.ndarray, names: list[str], folder: Path
) -> tuple[Tensor, Tensor]:
    """Return bytes [n, 3, 32, 32] and labels of the records of these classes."""
    if labels.max() >= len(CIFAR10_CLASSES):
        raise InputError(
            f"got the label {labels.max()} in {folder}; expected 0 to 9: "
            "write the files again from their source"
        )
    new = np.array([names.index(name) if name in names else -1 for name in CIFAR10_CLASSES])[labels]
    return torch.from_numpy(x[new >= 0]), torch.from_numpy(new[new >= 0])


def _check_classes(classes: Sequence[str]) -> list[str]:
    known = {name: name for name in CIFAR10_CLASSES}
    names = [choose(known, name, "CIFAR-10 class") for name in classes]
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"got classes={names}; expected one or more, none twice: write classes=['cat', 'dog']"
        )
    return names


def _yield_images(path: Path, names: Collection[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the file name, class and image [32, 32, 3] of every member of these classes."""
    if not path.is_file():
        raise InputError(
            f"got no {_ARCHIVE} in {path.parent}; expected the CIFAR-10 images: "
            "write --data DIR with the folder that holds it"
        )

    def is_wanted(member: tarfile.TarInfo) -> bool:
        return _file_and_class(member, path)[1] in names

    for member, content in read_members(path, is_wanted):
        file_name, name = _file_and_class(member, path)
        yield file_name, name, _decode(content, f"{file_name} in {path}")


def _file_and_class(member: tarfile.TarInfo, path: Path) -> tuple[str, str]:
    """Return the name of a file and its class; both empty for a folder."""
    if member.isdir():
        return "", ""
    match = _MEMBER.fullmatch(member.name)
    if not match or not member.isfile():
        raise InputError(
            f"got the member {member.name} in {path}; expected train/<class>/NNNN.jpg or "
            "test/<class>/NNNN.jpg of the ten classes: write the archive again from its source"
        )
    return match[1], match[2]


def _decode(content: bytes, where: str) -> np.ndarray:
    try:
        image = np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"]))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"got the broken image {where} ({error}); expected a JPEG file: write it again from its source"
        ) from error
    if image.shape != (32, 32, 3):
        raise InputError(
            f"got an image of shape {list(image.shape)}, {where}; expected [32, 32, 3]: "
            "write the archive again from its source"
        )
    return image
