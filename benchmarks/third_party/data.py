"""MNIST or Fashion-MNIST from the original IDX files, and the halves of their training images."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Return the bytes of an IDX file, plain or gzip."""
    file = next(path for path in (folder / name, folder / f"{name}.gz") if path.is_file())
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape).copy()


def load_part(folder: str | Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images [n, 28, 28] in [0, 1] and labels [n] of a part, "train" or "t10k"."""
    images = read_idx(Path(folder), f"{part}-images-idx3-ubyte")
    labels = read_idx(Path(folder), f"{part}-labels-idx1-ubyte")
    return torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()


def load_half(folder: str | Path, half: int) -> tuple[Tensor, Tensor]:
    """Return every second training image and its label, from the first (half 0) or the second (half 1).

    Generators and guides train on half 0; judges and feature extractors on half 1.
    """
    images, labels = load_part(folder, "train")
    return images[half::2], labels[half::2]


def unbalance(labels: Tensor, digit: int, share: float) -> Tensor:
    """Return sampling weights [n] under which a digit has the given share."""
    is_digit = labels == digit
    odds = share / (1 - share) * (~is_digit).sum() / is_digit.sum()
    return torch.where(is_digit, odds, 1.0)
