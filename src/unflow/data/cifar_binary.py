"""The binary version of CIFAR-10 and CIFAR-100: records of labels and 3,072 bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from unflow.data.archive import read_members
from unflow.data.dataset import LabelledData
from unflow.data.labels import label_samples
from unflow.data.values import scale
from unflow.ground.errors import InputError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class BinaryVersion:
    """The files of a binary version, and the layout of their records.

    Attributes:
        name: name of the dataset.
        folder: name of the unpacked folder.
        archive: file name of the archive.
        files: names of the files of records, in order.
        names: name of the file of class names, one per line; "" if it is not read.
        label_bytes: number of bytes before the pixels; the last one is the class.
        pickles: files and folders of the Python version, which is never read.
    """

    name: str
    folder: str
    archive: str
    files: tuple[str, ...]
    names: str
    label_bytes: int
    pickles: tuple[str, ...]


CIFAR10 = BinaryVersion(
    "CIFAR-10",
    "cifar-10-batches-bin",
    "cifar-10-binary.tar.gz",
    (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"),
    "",
    1,
    ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"),
)
CIFAR100 = BinaryVersion(
    "CIFAR-100",
    "cifar-100-binary",
    "cifar-100-binary.tar.gz",
    ("train.bin", "test.bin"),
    "fine_label_names.txt",
    2,
    ("cifar-100-python.tar.gz", "cifar-100-python", "meta"),
)


def cifar100(folder: str | Path) -> LabelledData:
    """Return CIFAR-100, [60000, 3, 32, 32] in [-1, 1], train before test, with its 100 fine labels.

    The folder holds the binary version by Krizhevsky, Nair and Hinton, ``cifar-100-binary.tar.gz`` or its
    unpacked folder. It was published for research without a licence text.

    Raises:
        InputError: if it is missing or damaged, or only the Python version exists, which consists of pickles.
    """
    folder = Path(folder)
    found = find_binary(folder, CIFAR100)
    if found is None:
        raise InputError(
            f"got no {CIFAR100.archive} in {folder}; expected it, or the folder {CIFAR100.folder}: "
            "write --data cifar100:DIR with the folder that holds it"
        )
    names = found[CIFAR100.names].decode("utf-8", "replace").split()
    x, y = split_records(found, CIFAR100, folder)
    return label_samples("cifar100", scale(x, str(folder), (0, 255)), y, names, str(folder))


def find_binary(folder: Path, version: BinaryVersion) -> dict[str, bytes] | None:
    """Return file name -> content, from the unpacked folder, this folder or the archive; None without files.

    Raises:
        InputError: if a file is missing or damaged, or only the Python version exists.
    """
    names = tuple(filter(None, (*version.files, version.names)))
    for place in (folder / version.folder, folder):
        if any((place / name).is_file() for name in names):
            there = (name for name in names if (place / name).is_file())
            return _check_complete({name: (place / name).read_bytes() for name in there}, names, place)
    archive = folder / version.archive
    if archive.is_file():
        return _check_complete(_read_archive(archive, names), names, archive)
    pickles = [name for name in version.pickles if (folder / name).exists()]
    if pickles:
        raise InputError(
            f"got the Python version of {version.name}, {folder / pickles[0]}, which is pickles; expected "
            f"the binary version, because unflow reads no pickles: write the folder of {version.archive}"
        )
    return None


def split_records(
    contents: Mapping[str, bytes], version: BinaryVersion, where: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return images [n, 3, 32, 32], uint8, and class indices [n].

    Raises:
        InputError: for a file that is not a whole number of records.
    """
    length = version.label_bytes + _PIXELS
    for name in version.files:
        if not contents[name] or len(contents[name]) % length:
            raise InputError(
                f"got {len(contents[name])} bytes in {name} of {where}; expected a multiple of {length}: "
                "write it again from its source"
            )
    rows = np.frombuffer(b"".join(contents[name] for name in version.files), np.uint8).reshape(-1, length)
    labels = rows[:, version.label_bytes - 1].astype(int)
    return rows[:, version.label_bytes :].copy().reshape(-1, 3, 32, 32), labels


def _read_archive(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    def is_wanted(member: tarfile.TarInfo) -> bool:
        return member.isfile() and PurePosixPath(member.name).name in names

    return {PurePosixPath(member.name).name: content for member, content in read_members(path, is_wanted)}


def _check_complete(found: dict[str, bytes], names: tuple[str, ...], place: Path) -> dict[str, bytes]:
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"got no {', '.join(missing)} in {place}; expected all of {', '.join(names)}: "
            "write them again from their source"
        )
    return found
