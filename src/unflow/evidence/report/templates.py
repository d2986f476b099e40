"""Jinja templates of the pages: fill one, and write the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unflow.ground.files import write_bytes
from unflow.ground.locks import lock_file

STYLE_PACKAGE = "unflow.evidence.report"


def fill_template(name: str, context: dict[str, Any], package: str = STYLE_PACKAGE) -> str:
    """Return a package's template filled with values; a missing value is an error.

    Included files are looked up in the package, then in this one, which has the common style sheet.
    """
    import jinja2

    loaders = [jinja2.PackageLoader(place, ".") for place in (package, STYLE_PACKAGE)]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(context)


def write_page(page: str, out: Path) -> Path:
    """Write a page to a file (``*.html``), or to ``report.html`` in a folder; return its path."""
    path = out if out.suffix == ".html" and not out.is_dir() else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(path):
        write_bytes(path, page.encode())
    return path
