"""From arrays to PNG files: the same arrays give the same bytes, and bad ones give no file.

plane      points in the plane: clouds of samples, paths through flows
images     blocks and strips of images
charts     metrics against the strength, bars in groups
drawing    pictures in the making, and the file that they become
checks     what came in
style      sizes, colours and letters
"""

from unflow.evidence.reproduce.figures.charts import bars, strength_sweep
from unflow.evidence.reproduce.figures.curves import Curve
from unflow.evidence.reproduce.figures.frontier import trade_off
from unflow.evidence.reproduce.figures.images import image_columns, image_rows
from unflow.evidence.reproduce.figures.matrices import redistribution
from unflow.evidence.reproduce.figures.plane import scatter_panels, trajectories
from unflow.evidence.reproduce.figures.style import (
    COLOURS,
    DPI,
    FORGET,
    GAP,
    GUTTER,
    INK,
    KEEP,
    LABEL,
    LINE,
    MUTED,
    STYLE,
    WIDTH,
)

__all__ = [
    "COLOURS",
    "DPI",
    "FORGET",
    "GAP",
    "GUTTER",
    "INK",
    "KEEP",
    "LABEL",
    "LINE",
    "MUTED",
    "STYLE",
    "WIDTH",
    "Curve",
    "bars",
    "image_columns",
    "image_rows",
    "redistribution",
    "scatter_panels",
    "strength_sweep",
    "trade_off",
    "trajectories",
]
