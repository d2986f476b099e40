"""Samples as pictures: the same latents side by side, or a plain grid where nothing pairs them."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.read import Row, Run, Samples
from unflow.evidence.report.summary import label
from unflow.evidence.report.words import MISSING, number

NUM_PAIRED, NUM_PLAIN, MAX_SIDE = 16, 24, 48


@dataclass(frozen=True)
class Tile:
    """One sample: a PNG as data URI and what the judge says of it."""

    src: str
    judged: str
    forgotten: bool
    moved: bool
    words: str


@dataclass(frozen=True)
class Strip:
    """The samples of one row."""

    name: str
    tiles: list[Tile]
    note: str = ""


@dataclass(frozen=True)
class Album:
    """A family's pictures: strips that share their latents, and strips that do not."""

    num_forgotten: int
    num_retained: int
    paired: list[Strip]
    plain: list[Strip]
    absent: list[str]


def album(run: Run, family: str) -> Album:
    """Return a family's pictures; rows are paired only where their latents equal the original's."""
    original, rows = run.samples.get(f"{family}-original"), run.rows_of(family)
    chosen, num_forgotten = _choose_latents(run, original)
    paired, plain, absent, seen = [], [], [], set()
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
            paired.append(Strip(label(run, row), _tiles(run, samples, chosen, original)))
        else:
            first = np.arange(min(NUM_PLAIN, len(samples.x)))
            plain.append(Strip(label(run, row), _tiles(run, samples, first), _why_plain(row)))
    if len(paired) == 1:  # the original alone: nothing to compare it with
        name = paired.pop().name
        first = np.arange(min(NUM_PLAIN, len(run.samples[f"{family}-original"].x)))
        plain.insert(0, Strip(name, _tiles(run, run.samples[f"{family}-original"], first)))
    return Album(num_forgotten, len(chosen) - num_forgotten, paired, plain, absent)


def paired_strips(run: Run, family: str, base: Samples | None) -> list[Strip]:
    """Return the strips of a family's rows whose latents are those of another run's original."""
    chosen, _ = _choose_latents(run, base)
    found = ((row, run.samples.get(row.key)) for row in run.rows_of(family) if _is_pairable(row))
    return [
        Strip(label(run, row), _tiles(run, samples, chosen, base))
        for row, samples in found
        if base is not None and samples is not None and samples.is_image and samples.same_latents(base)
    ]


def _is_pairable(row: Row) -> bool:
    return row.method == "original" or not row.is_reference


def _why_plain(row: Row) -> str:
    reasons = {
        "original": "",
        "retrained": "A model trained anew maps latents in its own way.",
        "target": "Drawn by rejection.",
    }
    return reasons.get(row.method, "Its latents are not stored, or are not the original's.")


def _choose_latents(run: Run, original: Samples | None) -> tuple[NDArray[Any], int]:
    """Return the first latents that drew a forgotten class, then the first that drew another."""
    if original is None:
        return np.arange(0), 0
    if original.label is None:
        return np.arange(min(NUM_PAIRED, len(original.x))), 0
    is_forgotten = np.isin(original.label, run.forget)
    forgotten = np.flatnonzero(is_forgotten)[: NUM_PAIRED // 2]
    retained = np.flatnonzero(~is_forgotten)[: NUM_PAIRED - len(forgotten)]
    return np.concatenate([forgotten, retained]), len(forgotten)


def _tiles(run: Run, samples: Samples, chosen: NDArray[Any], before: Samples | None = None) -> list[Tile]:
    return [_tile(run, samples, int(i), before) for i in chosen]


def _tile(run: Run, samples: Samples, i: int, before: Samples | None) -> Tile:
    index = None if samples.label is None else int(samples.label[i])
    judged = MISSING if index is None else run.class_name(index)
    old = None if before is None or before.label is None else int(before.label[i])
    words = f"sample {i}: " + ("not judged" if index is None else f"judged {judged}")
    if samples.probability is not None:
        words += f", forgotten with probability {number(float(samples.probability[i]), 3)}"
    return Tile(
        src=picture(samples.x[i]),
        judged=judged,
        forgotten=index in run.forget,
        moved=old is not None and index != old,
        words=words,
    )


def picture(x: NDArray[Any], many: int = 1) -> str:
    """Return an image [1 or 3, height, width] in [-1, 1] as the data URI of a PNG; NaN is black.

    Args:
        x: one image, or several side by side.
        many: how many images of ``MAX_SIDE`` it may be wide.
    """
    step = -(-max(x.shape[1], x.shape[2] // many) // MAX_SIDE)
    pixels = np.nan_to_num(x.astype(np.float64), nan=-1.0, posinf=1.0, neginf=-1.0)
    height, width = (side - side % step for side in x.shape[1:])
    blocks = pixels[:, :height, :width].reshape(len(x), height // step, step, width // step, step)
    grey = np.clip(np.rint((blocks.mean((2, 4)) + 1) * 127.5), 0, 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(_png(np.moveaxis(grey, 0, 2))).decode()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Return bytes [height, width, 1 or 3] as a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    height, width, channels = pixels.shape
    colour_type = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
