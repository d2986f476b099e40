"""`unflow report DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from unflow.commands.options import first_word_as
from unflow.report import write_report


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; the first word is the run folder."""
    parser.add_function_arguments(run)
    return first_word_as("folder", arguments)


def run(folder: Path, out: Path | None = None) -> None:
    """Write a run folder as one offline HTML page.

    Args:
        folder: of `unflow demo` or `unflow audit`; it must hold audit.json.
        out: the file; report.html in the folder by default.
    """
    print(f"report: {write_report(folder, out)}")
