"""A few images without labels: one file, or a folder of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from unflow.data.image_folder import ENDINGS, decoded, is_image, visible
from unflow.data.pixels import stacked
from unflow.data.values import scaled
from unflow.ground.errors import InputError


def image_files(place: str | Path, shape: Sequence[int]) -> Tensor:
    """Return images (PNG, JPEG, WebP) as samples of a model, [n, *shape] in [-1, 1].

    The largest square in the middle is resized (bicubic) to the model's side; grey is repeated for a model of
    colours.

    Args:
        place: one image, or a folder of images.
        shape: of one sample, [c, h, h], c = 1 or 3.

    Raises:
        InputError: for a place that holds no images, or something else; colours for a model of grey images;
            and a model whose samples are no square images.
    """
    channels, side = _square(shape)
    x = scaled(
        stacked((str(path), decoded(path, side)) for path in _files(Path(place))), str(place), (0, 255)
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


def _square(shape: Sequence[int]) -> tuple[int, int]:
    """Return the channels and the side of images of this shape."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise InputError(
            f"got images for a model whose samples have the shape {list(shape)}; expected square images of 1 "
            "or 3 channels: say the shape of one sample by shape=1x28x28"
        )
    return shape[0], shape[1]


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise InputError(f"got no {place}; expected an image, or a folder of images: write its path")
    files = visible(place) if place.is_dir() else [place]
    other = next((path for path in files if not (path.is_file() and is_image(path))), None)
    if other is not None or not files:
        what = f"{place}, which is empty" if other is None else str(other)
        raise InputError(
            f"got {what}; expected images, files ending in {', '.join(sorted(ENDINGS))}: write a folder of "
            "them alone"
        )
    return files
