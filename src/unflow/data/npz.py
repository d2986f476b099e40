"""Images or points and their labels in one .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unflow.data.dataset import LabelledData
from unflow.data.labels import label_samples
from unflow.data.pixels import move_channels_first
from unflow.data.values import RANGES, convert_numbers, scale, to_bytes
from unflow.ground.errors import InputError
from unflow.ground.files import list_arrays, read_arrays, starts_as_array, write_arrays

_LATENTS = "are_latents"
_OPTIONAL = ("class_names", "range", _LATENTS)


def read_npz(path: str | Path) -> LabelledData:
    """Return the images of a .npz file, in [-1, 1], or its points, as they are; and their labels.

    ``x`` holds images [n, h, w], [n, c, h, w] or [n, h, w, c] with 1 or 3 channels, or points [n, d]. Images
    are bytes 0…255 or floats in [0, 1] or [-1, 1], distinguished by their darkest value; points are any
    floats. ``y`` or ``labels`` holds class indices from 0, [n] or [n, 1]. Optional arrays are ``class_names``
    and, for images, ``range``: the values of black and white, such as [0, 1]. Beside an array
    ``are_latents``, of any value, ``x`` holds latents [n, ...], any floats. Pickles are never read.

    Memory: that of x as it is stored, and 4 bytes per value, which remain.

    Raises:
        InputError: for another file, other arrays, or values whose range is ambiguous.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    where = f"x of {path}"
    declared = _read_range(arrays["range"], path) if "range" in arrays else None
    read = _convert_points if _LATENTS in arrays or _holds_points(arrays["x"]) else _convert_images
    samples = read(arrays["x"], where, declared)
    names = arrays.get("class_names")
    return label_samples(
        path.stem, samples, arrays["y"], None if names is None else _read_texts(names, path), str(path)
    )


def _read_range(found: np.ndarray, path: Path) -> list[float]:
    if found.shape != (2,) or found.dtype.kind not in "iuf":
        raise InputError(
            f"got the range {found.dtype} {list(found.shape)} in {path}; expected the values of black and "
            "white: write range=[0, 1]"
        )
    ends: list[float] = found.tolist()
    return ends


def _holds_points(x: np.ndarray) -> bool:
    return x.ndim == 2 and x.dtype.kind == "f" and x.size > 0


def _convert_points(x: np.ndarray, where: str, declared: list[float] | None) -> Tensor:
    """Return points [n, d] or latents as they are, float32."""
    if x.dtype.kind != "f" or not x.size:
        raise InputError(f"got {list(x.shape)} {x.dtype} in {where}; expected latents [n, ...] of floats")
    if declared is not None:
        raise InputError(
            f"got points {list(x.shape)} in {where} with a range; expected none, as points are not scaled: "
            "leave range out, or write images [n, h, w]"
        )
    with np.errstate(over="ignore"):  # values too large for float32 become infinite
        points = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    if not bool(points.isfinite().all()):
        raise InputError(
            f"got NaN or infinite values in {where}; expected finite floats: leave these points out"
        )
    return points


def _convert_images(x: np.ndarray, where: str, declared: list[float] | None) -> Tensor:
    """Return images [n, c, h, w] in [-1, 1], float32."""
    x = convert_numbers(move_channels_first(x, where, batched=True), where)
    if not x.size:
        raise InputError(f"got no images in {where}; expected one or more: write x that is not empty")
    return scale(np.ascontiguousarray(x), where, declared)


def write_npz(data: LabelledData, path: str | Path) -> Path:
    """Write images or points to a .npz file that ``read_npz`` and ``npz:FILE`` read back in the same bits.

    So every command can read data that was made in Python. Images are stored as bytes if that is lossless.

    Raises:
        InputError: for samples that are neither images in [-1, 1] nor points.
    """
    arrays = _pack_images(data.x) if data.x.ndim != 2 else _pack_points(data.x)
    arrays |= {"y": data.labels.cpu().numpy(), "class_names": np.array(data.class_names, dtype=np.str_)}
    return write_arrays(Path(path), arrays)


def write_latents(data: LabelledData, path: str | Path) -> Path:
    """Write latents of any shape to a .npz file that ``read_npz`` and ``npz:FILE`` read back bit for bit.

    Raises:
        InputError: for NaN, infinite values, or another type than float32.
    """
    arrays = _pack_points(data.x) | {_LATENTS: np.array(True)}
    arrays |= {"y": data.labels.cpu().numpy(), "class_names": np.array(data.class_names, dtype=np.str_)}
    return write_arrays(Path(path), arrays)


def _pack_points(x: Tensor) -> dict[str, np.ndarray]:
    if x.dtype != torch.float32 or not bool(x.isfinite().all()):
        raise InputError(
            f"got points {list(x.shape)} {x.dtype}, or NaN among them; expected finite float32: convert them"
        )
    return {"x": x.cpu().numpy()}


def _pack_images(x: Tensor) -> dict[str, np.ndarray]:
    is_image = x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3)
    if not is_image or x.dtype != torch.float32 or not bool((x.abs() <= 1).all()):
        raise InputError(
            f"got samples {list(x.shape)} {x.dtype}; expected images [n, c, h, w] in [-1, 1] "
            "of 1 or 3 channels, or points [n, d], float32: scale them"
        )
    values = to_bytes(x).cpu().numpy()
    return {"x": values, "range": np.array(RANGES[0] if values.dtype == np.uint8 else RANGES[2])}


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return x, y and the optional arrays of the file."""
    if not path.is_file():
        raise InputError(f"got no readable file {path}; expected a .npz file: write its path")
    if starts_as_array(path):
        raise InputError(f"got the single array {path}; expected a .npz file: write np.savez(FILE, x=…, y=…)")
    try:
        found = list_arrays(path)
        arrays = read_arrays(path, ("x", "y", "labels", *_OPTIONAL), "arrays of numbers")
    except InputError as error:
        raise InputError(
            f"got a damaged .npz file {path}, or one with pickles ({error}): write np.savez(FILE, x=…, y=…)"
        ) from error
    labels = _choose_names(path, found)
    return {("y" if name == labels else name): array for name, array in arrays.items()}


def _choose_names(path: Path, found: list[str]) -> str:
    labels = [name for name in ("y", "labels") if name in found]
    if "x" not in found or len(labels) != 1:
        raise InputError(
            f"got the arrays {', '.join(found) or '(none)'} in {path}; expected x, and y or labels: "
            "write np.savez(FILE, x=…, y=…)"
        )
    return labels[0]


def _read_texts(names: np.ndarray, path: Path) -> list[str]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"got class_names {names.dtype} {list(names.shape)} in {path}; expected texts [classes]: "
            "write class_names=['cat', 'dog']"
        )
    return [str(name) for name in names]
