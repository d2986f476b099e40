"""CIFAR-10 from one archive of JPEG files, read without unpacking it."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image

from unflow.data.dataset import LabelledData
from unflow.errors import InputError, choose

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
"""In the order of the original labels."""

_ARCHIVE = "cifar10-images.tar.gz"
_MEMBER = re.compile(rf"(?:\./)?((?:train|test)/({'|'.join(CIFAR10_CLASSES)})/\d+\.jpg)")


def cifar10(folder: str | Path, classes: Sequence[str] | None = None) -> LabelledData:
    """Return CIFAR-10 as images [n, 3, 32, 32] in [-1, 1], sorted by file name: test before train.

    ``cifar10-images.tar.gz`` holds ``train/<class>/NNNN.jpg`` and ``test/<class>/NNNN.jpg``. JPEG loses a
    little: these are not the bytes of the original files by Krizhevsky, Nair and Hinton, which were
    published for research without a licence text.

    Args:
        folder: of the archive.
        classes: names of the only classes to decode, which are labelled in this order; all ten if omitted.

    Raises:
        InputError: if the archive is missing or damaged, or a class is unknown, given twice or not there.
    """
    names = _check_classes(CIFAR10_CLASSES if classes is None else classes)
    found = sorted(_read(Path(folder) / _ARCHIVE, names), key=lambda each: each[0])
    labels = torch.tensor([names.index(name) for _, name, _ in found], dtype=torch.long)
    missing = [name for label, name in enumerate(names) if not (labels == label).any()]
    if missing:
        raise InputError(
            f"got no images of {', '.join(missing)} in {Path(folder) / _ARCHIVE}; expected some of each "
            "class: write the classes that the archive holds"
        )
    # Channels first while these are still bytes, a quarter of the memory.
    x = torch.from_numpy(np.stack([image for _, _, image in found])).permute(0, 3, 1, 2).contiguous()
    return LabelledData("cifar10", x.float().div_(127.5).sub_(1), labels, names)


def _check_classes(classes: Sequence[str]) -> list[str]:
    known = {name: name for name in CIFAR10_CLASSES}
    names = [choose(known, name, "CIFAR-10 class") for name in classes]
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"got classes={names}; expected one or more, none twice: write classes=['cat', 'dog']"
        )
    return names


def _read(path: Path, names: Collection[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the file name, class and image [32, 32, 3] of every member of these classes."""
    if not path.is_file():
        raise InputError(
            f"got no {_ARCHIVE} in {path.parent}; expected the CIFAR-10 images: "
            "write --data DIR with the folder that holds it"
        )
    try:
        # gzip, unlike tarfile's own "r|gz", notices an archive that was cut short between two members.
        with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
            for member in archive:
                file_name, name = _file_and_class(member, path)
                content = archive.extractfile(member) if name in names else None
                if content is not None:
                    yield file_name, name, _decode(content, f"{file_name} in {path}")
            _check_end(plain, path)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f"got a damaged archive {path} ({error}); expected a whole .tar.gz: "
            "write it again from its source"
        ) from error


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


def _check_end(plain: gzip.GzipFile, path: Path) -> None:
    """Read up to the checksum; tarfile takes a damaged header for the end, and then members are left."""
    while rest := plain.read(1 << 20):
        if rest.strip(b"\0"):
            raise InputError(
                f"got a damaged archive {path} with a broken header; expected a whole .tar.gz: "
                "write it again from its source"
            )


def _decode(content: IO[bytes], where: str) -> np.ndarray:
    data = io.BytesIO(content.read())
    try:
        image = np.asarray(Image.open(data, formats=["JPEG"]))
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
