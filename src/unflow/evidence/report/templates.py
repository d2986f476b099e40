"""The templates of the pages, and the one way to fill them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unflow.ground.files import write_bytes


def fill(name: str, context: dict[str, Any], package: str = "unflow.evidence.report") -> str:
    """Return a template of a package with its values; a value that is missing is an error.

    What a template includes is looked for beside it, then here: other packages' pages have this one's style.
    """
    import jinja2

    loaders = [jinja2.PackageLoader(place, ".") for place in (package, "unflow.evidence.report")]

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
