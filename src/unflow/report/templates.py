"""The templates of the pages, and the one way to fill them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unflow.files import write_bytes


def fill(name: str, context: dict[str, Any]) -> str:
    """Return a template of this package with its values; a value that is missing is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unflow.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name).render(context)


def write_page(page: str, out: Path) -> Path:
    """Write a page into a file (``*.html``), or as ``report.html`` into a folder; return its path."""
    path = out if out.suffix == ".html" and not out.is_dir() else out / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode())
    return path


def safe(svg: str) -> Any:
    """Mark a picture of ours (its text is escaped already) as markup."""
    import markupsafe

    return markupsafe.Markup(svg)
