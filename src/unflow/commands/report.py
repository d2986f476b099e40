"""`unflow report DIR [DIR …]`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from jsonargparse import ArgumentParser

from unflow.commands.arguments import add_run
from unflow.ground.errors import InputError


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Add the options; the leading arguments that are no options are the run folders."""
    add_run(parser, run)
    folders = list(takewhile(lambda word: not word.startswith("-"), arguments))
    rest = list(arguments[len(folders) :])
    return [*(word for folder in folders for word in ("--folders+", folder)), *rest]


def run(folders: list[Path], out: Path | None = None) -> None:
    """Write one offline HTML page about a run folder, or about several side by side.

    Args:
        folders: run folders of `unflow demo` or `unflow audit`; each must hold audit.json.
        out: the file; default for one run: report.html in its folder; required for several runs.
    """
    from unflow.evidence.report import write_comparison, write_report

    if len(folders) == 1:
        print(f"report: {write_report(folders[0], out)}")
        return
    if out is None:
        raise InputError(f"got {len(folders)} runs without an output file; write --out compare.html")
    print(f"report: {write_comparison(folders, out)}")
