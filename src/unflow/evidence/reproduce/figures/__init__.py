"""Figures as PNG files: equal arrays give equal bytes, and invalid arrays raise InputError and write no file.

plane      clouds of two-dimensional samples, and paths through flows
images     blocks and strips of images
charts     metrics against the strength, bars in groups
frontier   forgetting against quality (curves, windows, marks and labels are its parts)
matrices   transitions between classes
drawing    figures measured in pixels, and their PNG files
checks     checks of the arguments
style      sizes, colours and fonts
"""

from unflow.evidence.reproduce.figures.charts import draw_bars, draw_strength_sweep
from unflow.evidence.reproduce.figures.curves import Curve
from unflow.evidence.reproduce.figures.frontier import draw_trade_off
from unflow.evidence.reproduce.figures.images import draw_image_columns, draw_image_rows
from unflow.evidence.reproduce.figures.matrices import draw_redistribution
from unflow.evidence.reproduce.figures.plane import draw_scatter_panels, draw_trajectories
from unflow.evidence.reproduce.figures.style import DPI, FORGET, KEEP

__all__ = [
    "DPI",
    "FORGET",
    "KEEP",
    "Curve",
    "draw_bars",
    "draw_image_columns",
    "draw_image_rows",
    "draw_redistribution",
    "draw_scatter_panels",
    "draw_strength_sweep",
    "draw_trade_off",
    "draw_trajectories",
]
