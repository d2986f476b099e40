"""Matplotlib figures as inline SVG, with the page's fonts and colours and page-wide unique ids."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib draws in these placeholder colours. The SVG replaces each by a CSS variable of the page, so
# that a chart follows the light or dark theme.
INK, MUTED, LINE, FORGET, KEEP, THIRD, FOURTH = (f"#00000{i}" for i in range(1, 8))
PAINT = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    FORGET: "var(--forget)",
    KEEP: "var(--keep)",
    THIRD: "var(--third)",
    FOURTH: "var(--fourth)",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unflow",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.2,
    "lines.linewidth": 1.4,
}


@contextmanager
def draw_chart(name: str, description: str, size: tuple[float, float] = (2.75, 1.75)) -> Iterator[Chart]:
    """Yield a chart with empty axes; when the block ends, its ``svg`` is the drawing.

    Args:
        name: unique on the page; prefixes the ids inside the SVG.
        description: text alternative for screen readers.
        size: width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its stubs list every key
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        chart = Chart(axes)
        yield chart
        chart.svg = _to_inline_svg(figure, name, description)


class Chart:
    """Axes to draw on, and after ``draw_chart`` the SVG of the drawing.

    Attributes:
        axes: the axes of a figure with one plot.
        svg: an SVG element that is safe to put into a page beside others.
    """

    svg: Markup

    def __init__(self, axes: Axes) -> None:
        self.axes = axes


def _to_inline_svg(figure: Figure, name: str, description: str) -> Markup:
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", buffer.getvalue(), flags=re.S)
    start = svg.index("<svg")
    view = re.search(r'viewBox="[^"]+"', svg[start:])
    assert view is not None, "matplotlib writes a viewBox"
    body = svg[svg.index(">", start) + 1 : svg.rindex("</svg>")]
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    body = re.sub(r"<[^>]+>", lambda tag: _rewrite_tag(tag[0], name, used), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return Markup(f'<svg {view[0]} role="img" aria-label="{html.escape(description)}">{body}</svg>')


def _rewrite_tag(tag: str, name: str, used: set[str]) -> str:
    """Prefix the ids that are used, drop the font, replace placeholder colours and shorten numbers."""
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r"xlink:href", "href", tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r' ?font-family: [^;"]*;?', "", tag)
    tag = re.sub(r"(?<=: )#00000\d", lambda colour: PAINT.get(colour[0], colour[0]), tag)
    return re.sub(r"(\d\.\d\d)\d+(?![\w-])", r"\1", tag)
