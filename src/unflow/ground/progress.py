"""Progress of long tasks: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # only a terminal needs the bar
    from rich.progress import Progress as RichProgress

LINE_EVERY = 10.0
"""Seconds between two lines."""
REFRESH_EVERY = 0.2
"""Seconds between two updates of the bar."""

_shown = ContextVar("_shown", default=True)


@contextmanager
def hide_progress() -> Iterator[None]:
    """Within this context, show no progress and no log messages below warnings."""
    shown, level = _shown.set(False), logging.root.manager.disable
    logging.disable(max(level, logging.INFO))
    try:
        yield
    finally:
        _shown.reset(shown)
        logging.disable(level)


class Progress:
    """The progress of a loop on standard error.

    Args:
        label: name of the task.
        total: number of all steps.
        done: number of finished steps at the start.
        show: False on ranks that print nothing.
    """

    def __init__(self, label: str, total: int, done: int = 0, show: bool = True) -> None:
        self.label, self.total, self.done, self.show = label, total, done, show and _shown.get()
        self._next = 0.0
        self._started = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._next = self._started + (REFRESH_EVERY if sys.stderr.isatty() else LINE_EVERY)
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                auto_refresh=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done)
        return self

    def advance(self, done: int) -> None:
        """Record that ``done`` steps are finished. Most calls only read the clock."""
        self.done = done
        now = time.monotonic()
        if now < self._next or not self.show:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, refresh=True)
            self._next = now + REFRESH_EVERY
        else:
            self._print_line()
            self._next = now + LINE_EVERY

    def _print_line(self) -> None:
        seconds = time.monotonic() - self._started
        print(f"{self.label}: {self.done}/{self.total} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, refresh=True)
            self._bar.stop()
        elif self.show and time.monotonic() - self._started > 2:
            self._print_line()
