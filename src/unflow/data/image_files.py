"""A few images without labels, from one file or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from unflow.data.image_folder import ENDINGS, is_image, list_visible, read_image
from unflow.data.pixels import stack_images
from unflow.data.values import scale
from unflow.ground.errors import InputError


def image_files(place: str | Path, shape: Sequence[int]) -> Tensor:
    """Return images (PNG, JPEG, WebP) as samples of a model, [n, *shape] in [-1, 1].

    The largest centred square is resized (bicubic) to the model's side. For a colour model, grey images are
    repeated in all three channels.

    Args:
        place: path of one image or of a folder of images.
        shape: shape of one sample, [c, h, h], c = 1 or 3.

    Raises:
        InputError: for a path without images, or with other files; for colour images and a grey model; for a
            model whose samples are not square images.
    """
    channels, side = _check_square(shape)
    x = scale(
        stack_images((str(path), read_image(path, side)) for path in _find_files(Path(place))),
        str(place),
        (0, 255),
    )
    if x.shape[1] == channels:
        return x
    if channels == 3:
        return x.expand(-1, 3, -1, -1).contiguous()
    if not bool((x == x[:, :1]).all()):
        raise InputError(
            f"got images in colour in {place} for a model of grey images; expected grey ones: convert them"
        )
    return x[:, :1].contiguous()


def _check_square(shape: Sequence[int]) -> tuple[int, int]:
    """Return the channels and the side of images of this shape."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise InputError(
            f"got images for a model whose samples have the shape {list(shape)}; expected square images of 1 "
            "or 3 channels: say the shape of one sample by shape=1x28x28"
        )
    return shape[0], shape[1]


def _find_files(place: Path) -> list[Path]:
    if not place.exists():
        raise InputError(f"got no {place}; expected an image, or a folder of images: write its path")
    files = list_visible(place) if place.is_dir() else [place]
    other = next((path for path in files if not (path.is_file() and is_image(path))), None)
    if other is not None or not files:
        what = f"{place}, which is empty" if other is None else str(other)
        raise InputError(
            f"got {what}; expected images, files ending in {', '.join(sorted(ENDINGS))}: write a folder of "
            "them alone"
        )
    return files
