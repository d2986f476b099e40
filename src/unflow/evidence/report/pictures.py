"""Samples as pictures: rows with the same latents side by side, other rows as plain grids, a slider."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.read import Run, Samples
from unflow.evidence.report.words import MISSING, format_number
from unflow.evidence.row import AuditRow

NUM_PAIRED, NUM_UNPAIRED, MAX_SIDE = 16, 24, 48


@dataclass(frozen=True)
class Tile:
    """One sample.

    Attributes:
        src: a PNG as data URI.
        judged: the class that the judge predicts.
        forgotten: whether this class was to be forgotten.
        moved: whether the original's sample of the same latent has another class.
        description: text alternative for screen readers.
    """

    src: str
    judged: str
    forgotten: bool
    moved: bool
    description: str


@dataclass(frozen=True)
class Strip:
    """The shown samples of one row, with a note on why the row is not paired."""

    name: str
    tiles: list[Tile]
    note: str = ""


@dataclass(frozen=True)
class Album:
    """The pictures of a family: rows with the original's latents, other rows, and missing samples."""

    num_forgotten: int
    num_retained: int
    paired: list[Strip]
    unpaired: list[Strip]
    absent: list[str]


def build_album(run: Run, family: str) -> Album:
    """Return the pictures of a family; a row is paired only if its latents equal the original's."""
    original, rows = run.samples.get(f"{family}-original"), run.rows_of(family)
    chosen, num_forgotten = _choose_paired(run, original)
    paired, unpaired, absent, seen = [], [], [], set()
    for row in rows:
        samples = run.samples.get(row.key)
        if row.key in seen:
            continue
        seen.add(row.key)
        if samples is None:
            absent.append(f"samples/{row.key}.npz")
        elif not samples.is_image:
            absent.append(f"pictures of {row.key}, whose samples are not images")
        elif original is not None and _is_pairable(row) and samples.same_latents(original):
            paired.append(Strip(run.row_name(row), _make_tiles(run, samples, chosen, original)))
        else:
            unpaired.append(_make_unpaired_strip(run, row, samples))
    if len(paired) == 1:  # only the original: there is no row to compare it with
        paired.clear()
        unpaired.insert(0, _make_unpaired_strip(run, rows[0], run.samples[f"{family}-original"]))
    return Album(num_forgotten, len(chosen) - num_forgotten, paired, unpaired, absent)


def build_paired_strips(run: Run, family: str, base: Samples | None) -> list[Strip]:
    """Return the strips of a family's rows whose latents equal those of another run's original."""
    chosen, _ = _choose_paired(run, base)
    found = ((row, run.samples.get(row.key)) for row in run.rows_of(family) if _is_pairable(row))
    return [
        Strip(run.row_name(row), _make_tiles(run, samples, chosen, base))
        for row, samples in found
        if base is not None and samples is not None and samples.is_image and samples.same_latents(base)
    ]


def _is_pairable(row: AuditRow) -> bool:
    return row.method == "original" or not row.is_reference


def _make_unpaired_strip(run: Run, row: AuditRow, samples: Samples) -> Strip:
    reasons = {
        "original": "",
        "retrained": "A retrained model maps latents differently.",
        "target": "Drawn by rejection sampling.",
    }
    tiles = _make_tiles(run, samples, np.arange(min(NUM_UNPAIRED, len(samples.x))))
    note = reasons.get(row.method, "Its latents are not stored, or differ from the original's.")
    return Strip(run.row_name(row), tiles, note)


def _choose_paired(run: Run, original: Samples | None) -> tuple[NDArray[Any], int]:
    if original is None:
        return np.arange(0), 0
    if original.label is None:
        return np.arange(min(NUM_PAIRED, len(original.x))), 0
    return choose_latents(original.label, run.forget, NUM_PAIRED // 2)


def choose_latents(
    classes: NDArray[Any], forget: Sequence[int], most: int, total: int = NUM_PAIRED
) -> tuple[NDArray[Any], int]:
    """Return indices of latents, forgotten classes first, and the number of latents of forgotten classes.

    Args:
        classes: class of the original's sample of each latent, [n].
        forget: forgotten classes.
        most: largest number of latents of forgotten classes; the first ones are taken.
        total: number of indices to return, if there are enough.
    """
    is_forgotten = np.isin(classes, forget)
    forgotten = np.flatnonzero(is_forgotten)[:most]
    retained = np.flatnonzero(~is_forgotten)[: total - len(forgotten)]
    return np.concatenate([forgotten, retained]), len(forgotten)


def _make_tiles(
    run: Run, samples: Samples, chosen: NDArray[Any], before: Samples | None = None
) -> list[Tile]:
    return [_make_tile(run, samples, int(i), before) for i in chosen]


def _make_tile(run: Run, samples: Samples, i: int, before: Samples | None) -> Tile:
    index = None if samples.label is None else int(samples.label[i])
    judged = MISSING if index is None else run.class_name(index)
    old = None if before is None or before.label is None else int(before.label[i])
    description = f"sample {i}: " + ("not judged" if index is None else f"judged {judged}")
    if samples.probability is not None:
        description += f", forgotten with probability {format_number(float(samples.probability[i]), 3)}"
    return Tile(
        src=encode_image(samples.x[i]),
        judged=judged,
        forgotten=index in run.forget,
        moved=old is not None and index != old,
        description=description,
    )


# The slider


@dataclass(frozen=True)
class Stop:
    """One position of the slider.

    Attributes:
        strength: as text.
        left: the forget rate at this strength, in percent.
        tiles: one per latent.
    """

    strength: str
    left: str
    tiles: list[Tile]


def build_slider(run: Run, family: str) -> list[Stop]:
    """Return the slider's positions, one per audited strength; empty without strengths or images."""
    found = run.strengths.get(family)
    if found is None or not found.is_image:
        return []
    return [
        Stop(
            strength=format_number(float(strength), 2),
            left=format_number(100 * float(rate), 1),
            tiles=[_make_stop_tile(run, *sample) for sample in zip(x, classes, found.label[0], strict=True)],
        )
        for strength, rate, x, classes in zip(
            found.strength, found.forget_rate, found.x, found.label, strict=True
        )
    ]


def _make_stop_tile(run: Run, x: NDArray[Any], index: int, old: int) -> Tile:
    judged = run.class_name(int(index))
    return Tile(encode_image(x), judged, int(index) in run.forget, bool(index != old), f"judged {judged}")


# Images


def encode_image(x: NDArray[Any], many: int = 1) -> str:
    """Return an image as the data URI of a PNG; NaN is black, large images are averaged down.

    Args:
        x: one image or several side by side, [channels, height, width], in [-1, 1].
        many: number of images side by side; each is at most ``MAX_SIDE`` pixels wide.
    """
    many = many if len(x) in (1, 3) else many * len(x)
    x = lay_out_channels(x)
    step = -(-max(x.shape[1], x.shape[2] // many) // MAX_SIDE)
    pixels = np.nan_to_num(x.astype(np.float64), nan=-1.0, posinf=1.0, neginf=-1.0)
    height, width = (side - side % step for side in x.shape[1:])
    blocks = pixels[:, :height, :width].reshape(len(x), height // step, step, width // step, step)
    grey = np.clip(np.rint((blocks.mean((2, 4)) + 1) * 127.5), 0, 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(_encode_png(np.moveaxis(grey, 0, 2))).decode()


def lay_out_channels(x: NDArray[Any]) -> NDArray[Any]:
    """Return images [..., channels, height, width] as they are, if they have 1 or 3 channels.

    Of others, such as latents, the channels stand side by side: [..., 1, height, channels * width].
    """
    *rest, channels, height, width = x.shape
    if channels in (1, 3):
        return x
    return np.moveaxis(x, -3, -2).reshape(*rest, 1, height, channels * width)


def _encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels [height, width, 1 or 3] as the bytes of a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    height, width, channels = pixels.shape
    colour_type = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
