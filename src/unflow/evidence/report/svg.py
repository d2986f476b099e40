"""From a matplotlib figure to SVG inside the page: no fonts, ids or addresses of its own."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins: matplotlib draws in these colours; the page holds the CSS variables they stand for, so
# that a chart follows the page's light or dark theme.
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
def chart(name: str, words: str, size: tuple[float, float] = (2.75, 1.75)) -> Iterator[Chart]:
    """Give axes to draw on; afterwards ``svg`` holds the picture.

    Args:
        name: unique on the page: it prefixes the ids inside the picture.
        words: what the picture shows, for those who do not see it.
        size: width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its stubs list every key
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        result = Chart(axes)
        yield result
        result.svg = inline(figure, name, words)


class Chart:
    """Axes, and the picture that they became."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


def inline(figure: Figure, name: str, words: str) -> str:
    """Return a figure as an SVG element that may stand in an HTML page beside others."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", buffer.getvalue(), flags=re.S)
    start = svg.index("<svg")
    view = re.search(r'viewBox="[^"]+"', svg[start:])
    assert view is not None, "matplotlib writes a viewBox"
    body = svg[svg.index(">", start) + 1 : svg.rindex("</svg>")]
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], name, used), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg {view[0]} role="img" aria-label="{html.escape(words)}">{body}</svg>'


def _tag(tag: str, name: str, used: set[str]) -> str:
    """Return a tag with page-wide unique ids, the page's font and colours, and short numbers."""
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r"xlink:href", "href", tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r' ?font-family: [^;"]*;?', "", tag)
    tag = re.sub(r"(?<=: )#00000\d", lambda colour: PAINT.get(colour[0], colour[0]), tag)
    return re.sub(r"(\d\.\d\d)\d+(?![\w-])", r"\1", tag)
