"""Tables between marks of a Markdown page, which scripts write and tests compare."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MARKS = "<!-- measured: {} -->", "<!-- end -->"
"""Lines of a page around the table of a name."""


def replace_tables(text: str, tables: Mapping[str, Sequence[str]], page: str) -> str:
    """Return the text of a page with the lines of each table between its marks.

    A mark that does not stand there once ends the script, with the name of the page.
    """
    for name, lines in tables.items():
        first, last = MARKS[0].format(name), MARKS[1]
        table = "\n".join([first, "", *lines, "", last]).replace("\\", r"\\")
        pattern = rf"{re.escape(first)}\n.*?{re.escape(last)}"
        text, count = re.subn(pattern, table, text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"got {count} tables marked {first} in {page}; expected one")
    return text
