"""Sizes, colours and fonts that all figures share."""

from __future__ import annotations

DPI = 140
WIDTH = 1288
"""Pixels across a full figure."""

INK, MUTED, LINE, KEEP, FORGET = "#1e2227", "#5b636c", "#d4d2cc", "#0f67a6", "#bf4d0d"
COLOURS = (KEEP, "#e39a5b", "#00795f", "#8b4c87", "#8d959d", "#b8a436", "#74b3dd", INK)
"""Colours of series, in order; neighbours differ in lightness as well as in hue."""

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are equal on every machine
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e9e7e2",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
GAP, GUTTER, LABEL = 3, 40, 200
"""Pixels between images, between blocks of images, and for the label of a strip."""
