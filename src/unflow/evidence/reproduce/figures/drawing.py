"""Pictures in the making, measured in pixels, and the PNG file that they become."""

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
    """A figure measured in pixels from its upper left corner, and the pixels that it became."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.pixels = np.zeros((0, 0, 3), np.uint8)

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Write words at a pixel."""
        self.figure.text(x / self.width, 1 - y / self.height, words, **how)

    def image(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Put pixels [h, w, 3] there as they are: no pixel of an image is stretched more than another."""
        self.figure.figimage(pixels, x, self.height - y - len(pixels), origin="upper")


@contextmanager
def new_drawing(width: int, height: int, layout: Any = "constrained") -> Iterator[Drawing]:
    """Give a figure of that many pixels to draw on; afterwards ``pixels`` holds the picture."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its stubs list every key
        size = ((width + 0.01) / DPI, (height + 0.01) / DPI)  # matplotlib cuts 1287.99 to 1287
        drawing = Drawing(Figure(figsize=size, dpi=DPI, layout=layout), width, height)
        yield drawing
        canvas = FigureCanvasAgg(drawing.figure)
        canvas.draw()
        drawing.pixels = np.array(canvas.buffer_rgba())[:, :, :3]


def write_drawings(path: Path, *drawings: Drawing) -> Path:
    """Write drawings, one above the other, as one PNG file without a date or a maker."""
    from PIL import Image

    width = max(d.pixels.shape[1] for d in drawings)
    gaps = [((0, 0), (0, width - d.pixels.shape[1]), (0, 0)) for d in drawings]
    sheets = [np.pad(d.pixels, gap, constant_values=255) for d, gap in zip(drawings, gaps, strict=True)]
    edge = ((12, 12), (12, 12), (0, 0))
    sheet = np.concatenate([np.pad(_trimmed(sheet), edge, constant_values=255) for sheet in sheets])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="png", dpi=(DPI, DPI))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def _trimmed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture without empty lines above and below; a layout of squares leaves some."""
    used = np.flatnonzero((pixels < 255).any((1, 2)))
    return pixels[used[0] : used[-1] + 1] if len(used) else pixels


def put_title(axes: Axes, title: str, caption: str = "") -> None:
    """Put a title over axes, and a caption between the two."""
    axes.set_title(title, pad=5 + 13 * bool(caption))
    axes.annotate(
        caption, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=MUTED, size=8.5
    )
