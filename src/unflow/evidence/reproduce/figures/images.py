"""Blocks and strips of images; every pixel of an image becomes a square of the same size."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.checks import as_array, require_some
from unflow.evidence.reproduce.figures.drawing import Drawing, new_drawing, write_drawings
from unflow.evidence.reproduce.figures.style import GAP, GUTTER, LABEL, WIDTH
from unflow.ground.errors import InputError


def draw_image_columns(
    path: Path, columns: Sequence[tuple[str, NDArray[Any]]], *, rows: int = 6, per_row: int = 6
) -> Path:
    """Draw blocks of images side by side, each with its title.

    Args:
        path: the PNG file.
        columns: title and images [n, 1 or 3, height, width] in [-1, 1] of each block.
        rows: rows of images in a block.
        per_row: images in a row of a block; the first rows * per_row are shown.

    Raises:
        InputError: for arrays of other shapes, or no columns.
    """
    require_some(columns, "columns")
    if min(rows, per_row) < 1:
        raise InputError(f"got rows={rows} and per_row={per_row}; expected 1 or more of each")
    stacks = _stack_images(columns)
    room = (WIDTH - GUTTER * (len(stacks) - 1)) // len(stacks)
    side = max(1, room // per_row - GAP)
    blocks = [_tile(images[: rows * per_row], per_row, side) for images in stacks]
    step = blocks[0].shape[1] + GUTTER
    titles = [textwrap.fill(title, step // 11) for title, _ in columns]
    top = 26 * max(title.count("\n") + 1 for title in titles)
    height = top + max(block.shape[0] for block in blocks)
    with new_drawing(step * len(blocks) - GUTTER, height, layout="none") as drawing:
        for i, (title, block) in enumerate(zip(titles, blocks, strict=True)):
            drawing.text(i * step, top - 8, title, va="bottom", size=9.5)
            drawing.image(i * step, top, block)
    return write_drawings(path, drawing)


def draw_image_rows(path: Path, rows: Sequence[tuple[str, NDArray[Any]]], *, n: int = 16) -> Path:
    """Draw one labelled strip of images per row; every column shows one latent.

    Args:
        path: the PNG file.
        rows: label and images [n or more, 1 or 3, height, width] in [-1, 1] of each strip.
        n: images in a strip.

    Raises:
        InputError: for arrays of other shapes, or no rows.
    """
    return write_drawings(path, draw_strips(rows, n))


def draw_strips(rows: Sequence[tuple[str, NDArray[Any]]], n: int, width: int = 0) -> Drawing:
    """Return labelled strips of images, with the labels at the left."""
    require_some(rows, "rows")
    if n < 1:
        raise InputError(f"got n={n}; expected 1 or more")
    stacks = _stack_images(rows)
    n = min(n, max(len(images) for images in stacks))
    side = max(1, min(128, (WIDTH - LABEL) // n - GAP))
    strips = [_tile(images[:n], n, side) for images in stacks]
    step = strips[0].shape[0] + 8
    with new_drawing(max(width, LABEL + strips[0].shape[1]), step * len(strips), layout="none") as drawing:
        for i, ((label, _), strip) in enumerate(zip(rows, strips, strict=True)):
            words = "\n".join(_break_line(line, 20) for line in label.split("\n"))
            drawing.text(LABEL - 14, i * step + step / 2, words, ha="right", va="center", linespacing=1.1)
            drawing.image(LABEL, i * step + 4, strip)
    return drawing


def _break_line(line: str, letters: int) -> str:
    """Return a line broken at spaces, or after an underscore if a method's name is too long."""
    head, underscore, _ = line[:letters].rpartition("_")
    if len(line) <= letters or " " in line or not underscore:
        return textwrap.fill(line, letters)
    return f"{head}_\n{line[len(head) + 1 :]}"


def _tile(images: NDArray[Any], per_row: int, side: int) -> NDArray[np.uint8]:
    """Return images [n, c, h, w] as one picture [height, width, 3], each within ``side`` pixels."""
    tiles = _scale(images, side)
    n, height, width, _ = tiles.shape
    nrows = -(-n // per_row)
    sheet = np.full((nrows, height + GAP, per_row, width + GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        sheet[i // per_row, :height, i % per_row, :width] = tile
    flat = sheet.reshape(nrows * (height + GAP), per_row * (width + GAP), 3)
    return flat[:-GAP, :-GAP]


def _scale(images: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Return images as bytes [n, h, w, 3] within ``side`` pixels, by whole factors; NaN is black."""
    x = np.nan_to_num(images, nan=-1.0, posinf=1.0, neginf=-1.0)
    longest = max(x.shape[2:])
    step = min(-(-longest // side), *x.shape[2:])
    height, width = (edge // step for edge in x.shape[2:])
    blocks = x[:, :, : height * step, : width * step].reshape(*x.shape[:2], height, step, width, step)
    pixels = np.clip(np.rint((blocks.mean((3, 5)) + 1) * 127.5), 0, 255).astype(np.uint8)
    zoom = max(1, side // longest)
    pixels = pixels.repeat(zoom, 2).repeat(zoom, 3)
    return np.broadcast_to(np.moveaxis(pixels, 1, 3), (len(x), *pixels.shape[2:], 3))


def _stack_images(named: Sequence[tuple[str, NDArray[Any]]]) -> list[NDArray[Any]]:
    """Return checked stacks of images, all of one shape."""
    stacks = [as_array(images, (None, None, None, None), f"images of {name!r}") for name, images in named]
    shapes = {images.shape[1:] for images in stacks}
    if len(shapes) > 1 or stacks[0].shape[1] not in {1, 3}:
        found = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise InputError(f"got images of shape {found}; expected one shape, [1 or 3, height, width]")
    return stacks
