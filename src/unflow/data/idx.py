"""IDX files, and MNIST from its original ones."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.data.values import from_bytes
from unflow.ground.errors import InputError

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08
MAX_AXES, MAX_RATIO = 8, 1100
"""Axes of an array, and how much smaller than its content a gzip file can be."""
_MNIST = {60_000: 0xB1C08A0A7A70B37D, 10_000: 0x633F3E1A2F5E669B}
"""Images in a part of MNIST -> the sum of the hashes of its labelled images, which no order changes."""


def read_idx(path: str | Path) -> Tensor:
    """Return the unsigned bytes of an IDX file, plain or gzip, as uint8 in the shape that the file declares.

    The file is two zero bytes, a type code, the number of axes, their lengths as big-endian 32-bit numbers,
    and the values, the last axis fastest.

    Raises:
        InputError: if the file is missing, damaged, of another type, or of another length than it declares.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"got no readable file {path}; expected an IDX file: write the path of one")
    head = _read_content(path, 4 + 4 * MAX_AXES)
    shape, start = _read_header(path, head)
    content = _read_content(path, start + math.prod(shape) + 1)
    if len(content) - start != math.prod(shape):
        more = ", or more," if len(content) - start > math.prod(shape) else ""
        raise InputError(
            f"got {len(content) - start} values{more} in {path}; expected {math.prod(shape)} for its shape "
            f"{list(shape)}: write the file again from its source"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _read_content(path: Path, most: int) -> bytes:
    """Return the first bytes of a file, unpacked; a small gzip file may unpack to a huge one."""
    with path.open("rb") as plain:
        is_packed = plain.read(2) == _GZIP
        plain.seek(0)
        if not is_packed:
            return plain.read(min(most, path.stat().st_size))
    if most > MAX_RATIO * path.stat().st_size:
        raise InputError(
            f"got a gzip file {path} of {path.stat().st_size} bytes, which cannot hold {most} bytes as it "
            "states; expected a complete one: write the file again from its source"
        )
    try:
        with gzip.open(path) as packed:
            return packed.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"got a damaged gzip file {path} ({error}); expected a complete one: "
            "write the file again from its source"
        ) from error


def _read_header(path: Path, content: bytes) -> tuple[tuple[int, ...], int]:
    """Return the shape and the offset of the values."""
    start = 4 + 4 * content[3] if len(content) >= 4 else 4
    if not content.startswith(b"\0\0") or len(content) < start or start == 4:
        raise InputError(
            f"got {path} with the first bytes {content[:4].hex(' ') or '(none)'}; expected an IDX header "
            "like 00 00 08 03 and the lengths of its axes: write the path of an IDX file"
        )
    if content[2] != _UNSIGNED_BYTES:
        raise InputError(
            f"got values of the type 0x{content[2]:02x} in {path}; expected 0x08, unsigned bytes: "
            "write the path of an IDX file of bytes"
        )
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if content[3] <= MAX_AXES else ()
    if not shape or math.prod(max(length, 1) for length in shape) >= 2**63:
        raise InputError(
            f"got {content[3]} axes {list(shape)} in {path}; expected at most {MAX_AXES}, with a product "
            "below 2^63: write the path of an IDX file"
        )
    return shape, start


def mnist(folder: str | Path) -> LabelledData:
    """Return MNIST's 70,000 digits, train then t10k, as images [70000, 1, 28, 28] in [-1, 1] with labels 0-9.

    The four files by LeCun, Cortes and Burges, ``train-images-idx3-ubyte`` and so on, are read plain or gzip.
    Their order is kept; some copies are sorted by label. They have no licence text and are usually
    redistributed under CC BY-SA 3.0. Other images in files of these names, such as Fashion-MNIST, are read as
    well, and are named after their folder.

    Raises:
        InputError: if a file is missing or damaged, or does not hold digits.
    """
    parts = [_read_digits(Path(folder), part) for part in ("train", "t10k")]
    x = from_bytes(torch.cat([images for images, _ in parts]).unsqueeze(1))
    labels = torch.cat([labels for _, labels in parts]).long()
    is_mnist = all(_is_of_mnist(*part) for part in parts) and len(labels) == sum(_MNIST)
    name = "mnist" if is_mnist else f"{Path(folder).resolve().name} (not MNIST)"
    return LabelledData(name, x, labels, [str(k) for k in range(10)])


def _is_of_mnist(images: Tensor, labels: Tensor) -> bool:
    """Return whether labelled images are a part of MNIST, in any order."""
    return len(images) in _MNIST and _sum_hashes(images, labels) == _MNIST[len(images)]


def _sum_hashes(images: Tensor, labels: Tensor) -> int:
    """Return the sum, modulo 2^64, of a hash of each image with its label."""
    rows = np.concatenate([labels.numpy()[:, None], images.flatten(1).numpy()], axis=1)
    hashes = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return sum(int.from_bytes(digest, "big") for digest in hashes) % 2**64


def _read_digits(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or bool((labels > 9).any()):
        raise InputError(
            f"got images {list(images.shape)} and labels {list(labels.shape)} in {part} of {folder}; "
            "expected [n, 28, 28] and [n], labels 0 to 9: "
            "write --data DIR with the folder of the original MNIST files"
        )
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"got no {name} or {name}.gz in {folder}; expected the four MNIST files: "
        "write --data DIR with the folder that holds them"
    )
