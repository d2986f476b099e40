"""Copy the tables of docs/results/*/table.md into the pages of docs/results, between their marks.

    python benchmarks/result_tables.py

A mark names a folder and the title of one of its tables:

    <!-- measured: uot-mnist-conditional: mnist-3, asked for each label -->
    <!-- end -->

``unflow reproduce`` writes table.md from the rows of table.json. A test holds that the pages are up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from marked_tables import replace_tables

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGES = ("continualflow.md", "uot.md")
MARK = re.compile(r"^<!-- measured: ([\w-]+: .+) -->$", re.MULTILINE)


def read_table(folder: str, title: str) -> list[str]:
    """Return the lines of one table of a folder's table.md."""
    for section in (RESULTS / folder / "table.md").read_text().split("## ")[1:]:
        heading, _, body = section.partition("\n")
        if heading == title:
            return body.strip().splitlines()
    raise SystemExit(f"got the title {title!r}; expected one of the tables of {folder}/table.md")


def render(page: str, text: str) -> str:
    """Return the text of a page with the tables that its marks name."""
    names = MARK.findall(text)
    return replace_tables(text, {name: read_table(*name.split(": ", 1)) for name in names}, page)


def main() -> None:
    """Write all pages."""
    for page in PAGES:
        path = RESULTS / page
        path.write_text(render(page, path.read_text()))


if __name__ == "__main__":
    main()
