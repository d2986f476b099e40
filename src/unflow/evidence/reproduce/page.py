"""The page of a reproduction: tables and figures in one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unflow.evidence.report import templates
from unflow.ground.errors import InputError

Pieces = list[tuple[bool, str]]
"""A text split at its code spans: (is code, text)."""

ALIGNMENT = re.compile(r":?-+:?")
PIXELS_PER_CSS_PIXEL = 1.4
"""Figures have a higher resolution than their size on the page."""

PACKINGS: tuple[dict[str, Any], ...] = ({"lossless": True}, {"quality": 80})
"""Lossless and lossy WebP; the page takes the smaller one. The PNG files themselves do not change."""


@dataclass(frozen=True)
class Table:
    """A table of a page: the header's cells, the rows' cells, and the alignment of each column."""

    header: list[Pieces]
    rows: list[list[Pieces]]
    sides: list[str]


@dataclass(frozen=True)
class Picture:
    """A figure of a page: the data URI of a WebP image, its size on the page, and its caption."""

    src: str
    width: int
    height: int
    caption: str


def write_page(
    out: Path,
    *,
    title: str,
    intro: Sequence[str],
    tables: Sequence[tuple[str, str]],
    figures: Sequence[tuple[Path, str]],
    command: str,
    notes: Sequence[str],
) -> Path:
    """Write ``report.html``, a page that loads no other file.

    Args:
        out: the folder; made if it is missing.
        title: of the page.
        intro: paragraphs; text between backquotes is code, here and in table cells and notes.
        tables: title and Markdown of each; only pipe tables, separated by empty lines.
        figures: PNG file and caption of each; the caption is also the alternative text.
        command: the command that reproduces the page.
        notes: remarks on the numbers.

    Returns:
        The page's path.

    Raises:
        InputError: for a text that is not a pipe table, or a file that is missing or not a PNG.
    """
    content = {
        "title": title,
        "intro": [split_code(paragraph) for paragraph in intro],
        "tables": [(name, read_tables(text)) for name, text in tables],
        "figures": [_read_picture(Path(file), caption) for file, caption in figures],
        "command": command,
        "notes": [split_code(note) for note in notes],
    }
    page = templates.fill_template("page.html.j2", content, package="unflow.evidence.reproduce")
    return templates.write_page(page, Path(out))


def read_tables(text: str) -> list[Table]:
    """Return the pipe tables of a Markdown text.

    Args:
        text: header, alignment row and rows of each table; tables are separated by empty lines.

    Raises:
        InputError: for any other text, or a row whose number of cells differs from its header's.
    """
    if not text.strip():
        raise InputError("got an empty text; expected a table, or leave it out")
    blocks = re.split(r"\n\s*\n", text.strip())
    return [_read_table(block.splitlines()) for block in blocks]


def split_code(text: str) -> Pieces:
    """Return a text split at its code spans; an unmatched backquote is text."""
    pieces: Pieces = []
    end = 0
    for span in re.finditer(r"`([^`]+)`", text):
        pieces += [(False, text[end : span.start()]), (True, span[1])]
        end = span.end()
    return [piece for piece in [*pieces, (False, text[end:])] if piece[1]]


def _read_table(lines: Sequence[str]) -> Table:
    cells = [_split_cells(line) for line in lines]
    if len(cells) < 2 or not all(ALIGNMENT.fullmatch(cell) for cell in cells[1]):
        raise InputError(f"got a table that starts {lines[0][:40]!r}; expected a header and a row of |---|")
    for line, row in zip(lines, cells, strict=True):
        if len(row) != len(cells[0]):
            raise InputError(
                f"got {len(row)} cells in {line[:40]!r}; expected {len(cells[0])}, as in its header"
            )
    header, sides, *rows = cells
    return Table(
        header=[split_code(cell) for cell in header],
        rows=[[split_code(cell) for cell in row] for row in rows],
        sides=[_read_side(cell) for cell in sides],
    )


def _split_cells(line: str) -> list[str]:
    r"""Return the cells of a line; ``\|`` is a vertical bar within a cell."""
    inner = line.strip().removeprefix("|")
    inner = re.sub(r"(?<!\\)\|$", "", inner)
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _read_side(cell: str) -> str:
    if not cell.endswith(":"):
        return "left"
    return "centre" if cell.startswith(":") else "right"


def _read_picture(file: Path, caption: str) -> Picture:
    """Return a PNG file as a figure of the page."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            drawn = image.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing; expected a PNG file") from error
    except OSError as error:
        raise InputError(f"{file} is not a PNG file; write it again") from error
    packed = min((_encode_webp(drawn, packing) for packing in PACKINGS), key=len)
    width, height = (round(side / PIXELS_PER_CSS_PIXEL) for side in drawn.size)
    return Picture(f"data:image/webp;base64,{base64.b64encode(packed).decode()}", width, height, caption)


def _encode_webp(image: Image.Image, packing: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", **packing)
    return out.getvalue()
