"""Figures measured in pixels, and their PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.style import DPI, MUTED, STYLE
from unflow.ground.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Drawing:
    """A figure measured in pixels from its upper left corner; ``pixels`` holds the rendered figure."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.pixels = np.zeros((0, 0, 3), np.uint8)

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Write text at a pixel."""
        self.figure.text(x / self.width, 1 - y / self.height, words, **how)

    def image(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Put pixels [h, w, 3] at a pixel, without resampling."""
        self.figure.figimage(pixels, x, self.height - y - len(pixels), origin="upper")


@contextmanager
def new_drawing(width: int, height: int, layout: Any = "constrained") -> Iterator[Drawing]:
    """Yield a figure of that size to draw on; render it to ``pixels`` afterwards."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    context: Any = matplotlib.rc_context  # its annotations differ between versions
    with context(STYLE):
        size = ((width + 0.01) / DPI, (height + 0.01) / DPI)  # matplotlib cuts 1287.99 to 1287
        drawing = Drawing(Figure(figsize=size, dpi=DPI, layout=layout), width, height)
        yield drawing
        canvas: Any = FigureCanvasAgg(drawing.figure)  # some versions annotate it
        canvas.draw()
        drawing.pixels = np.array(canvas.buffer_rgba())[:, :, :3]


def write_drawings(path: Path, *drawings: Drawing) -> Path:
    """Write drawings, one above the other, as one PNG file without metadata."""
    from PIL import Image

    width = max(d.pixels.shape[1] for d in drawings)
    gaps = [((0, 0), (0, width - d.pixels.shape[1]), (0, 0)) for d in drawings]
    sheets = [np.pad(d.pixels, gap, constant_values=255) for d, gap in zip(drawings, gaps, strict=True)]
    edge = ((12, 12), (12, 12), (0, 0))
    sheet = np.concatenate([np.pad(_trim(sheet), edge, constant_values=255) for sheet in sheets])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="png", dpi=(DPI, DPI))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def _trim(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture without the empty lines above and below that a layout of squares leaves."""
    used = np.flatnonzero((pixels < 255).any((1, 2)))
    return pixels[used[0] : used[-1] + 1] if len(used) else pixels


def put_title(axes: Axes, title: str, caption: str = "") -> None:
    """Put a title above axes, and a caption below the title."""
    axes.set_title(title, pad=5 + 13 * bool(caption))
    axes.annotate(
        caption, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=MUTED, size=8.5
    )
