"""Conversion of one image in any form, and of many into one array [n, c, h, w]."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unflow.data.values import convert_numbers
from unflow.ground.errors import InputError

_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV"})

MAX_SIZE = 8192
"""Largest height and width in pixels to which images are resized."""
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Exceptions that PIL raises for a damaged file."""


def broken_image(where: str, error: Exception) -> InputError:
    """Return the error for a damaged image."""
    return InputError(
        f"got a broken image, {where} ({error}); expected a complete PNG, JPEG or WebP file: "
        "write it again from its source, or leave it out"
    )


def check_size(size: int | None) -> None:
    """Raise InputError unless a size is None or a whole number of pixels >= 1."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise InputError(f"got size={size!r}; expected a whole number of pixels >= 1: write size=32")
    if size is not None and size > MAX_SIZE:
        raise InputError(f"got size={size}; expected at most {MAX_SIZE} pixels: write size=32")


def to_pixels(image: object, where: str, size: int | None = None) -> np.ndarray:
    """Return one image as uint8 or float32 [c, h, w], c = 1 for grey and 3 for colour.

    The EXIF orientation of PIL images is applied; images of the modes 1, L and LA are grey, and transparency
    is laid on white. With a size, the largest centred square is cut out and resized (bicubic, antialiased).

    Args:
        image: a PIL image, or an array or tensor [h, w], [c, h, w] or [h, w, c].
        where: name of the image, for messages.
        size: height and width; those of the image if omitted.

    Raises:
        InputError: for another type, shape, mode or range of numbers.
    """
    if isinstance(image, Image.Image):
        return _read_pil(image, where, size)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"got {where} of the type {type(image).__name__}; expected a PIL image, a NumPy array or a "
            "tensor: decode it first"
        )
    array = convert_numbers(move_channels_first(image, where), where)
    return array if size is None else np.stack([_fit_array(channel, size) for channel in array])


def move_channels_first(array: np.ndarray, where: str, batched: bool = False) -> np.ndarray:
    """Return [c, h, w] from [h, w], [c, h, w] or [h, w, c], c = 1 or 3; all after [n, …] if ``batched``.

    Raises:
        InputError: for another shape, and for an ambiguous one, such as [3, 8, 3].
    """
    start = int(batched)
    shape = array.shape[start:]
    if len(shape) == 2 and 0 not in shape:
        return np.expand_dims(array, start)
    first, last = (len(shape) == 3 and shape[axis] in (1, 3) for axis in (0, -1))
    if first == last or 0 in shape:
        reason = "which tells where the channels are" if first and last else "with 1 or 3 channels"
        form = "[n, h, w], [n, c, h, w] or [n, h, w, c]" if batched else "[h, w], [c, h, w] or [h, w, c]"
        raise InputError(
            f"got {where} of shape {list(array.shape)}; expected {form}, {reason}: write the channels first"
        )
    return array if first else np.moveaxis(array, -1, start)


def stack_images(images: Iterable[tuple[str, np.ndarray]]) -> np.ndarray:
    """Return images [c, h, w] of one size as [n, c, h, w].

    Unless all images are grey, grey images are repeated in all three channels. Peak memory: twice the images.

    Args:
        images: pairs of the name of an image, for messages, and the result of ``to_pixels``.

    Raises:
        InputError: for no images, different sizes, or bytes together with floats.
    """
    found: list[np.ndarray] = []
    first = ""
    for where, image in images:
        first = first or where
        _check_alike(found[0] if found else image, image, first, where)
        found.append(image)
    if not found:
        raise InputError("got no images; expected one or more: write data that is not empty")
    channels = max(len(image) for image in found)
    out = np.empty((len(found), channels, *found[0].shape[1:]), found[0].dtype)
    for row, image in zip(out, found, strict=True):
        row[:] = image
    return out


def _check_alike(one: np.ndarray, other: np.ndarray, first: str, where: str) -> None:
    if one.shape[1:] != other.shape[1:]:
        sizes = [f"{height}x{width}" for _, height, width in (one.shape, other.shape)]
        raise InputError(
            f"got images of {sizes[0]} ({first}) and {sizes[1]} ({where}), height x width; expected one "
            "size: write size=32, or folder:DIR@32, to resize them"
        )
    if one.dtype != other.dtype:
        raise InputError(
            f"got {one.dtype} values ({first}) and {other.dtype} ({where}); expected one type: "
            "write all images as uint8"
        )


def _read_pil(image: Image.Image, where: str, size: int | None) -> np.ndarray:
    if image.mode not in _GREY | _COLOUR or 0 in image.size:
        raise InputError(
            f"got {where} of the mode {image.mode} and size {image.size}; expected pixels of 8 bits a "
            "channel: write it as L or RGB"
        )
    try:
        upright = _lay_on_white(ImageOps.exif_transpose(image)).convert("L" if image.mode in _GREY else "RGB")
    except BROKEN as error:
        raise broken_image(where, error) from error
    return np.stack([np.asarray(each) if size is None else _fit(each, size) for each in upright.split()])


def _lay_on_white(image: Image.Image) -> Image.Image:
    if "transparency" not in image.info and image.mode[-1] != "A":
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white


def _fit_array(channel: np.ndarray, size: int) -> np.ndarray:
    """Return a channel [h, w] as [size, size], clipped to its extremes, which bicubic resizing exceeds."""
    return _fit(Image.fromarray(np.ascontiguousarray(channel)), size).clip(channel.min(), channel.max())


def _fit(channel: Image.Image, size: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(channel, (size, size), Image.Resampling.BICUBIC))
