"""Progress of long tasks: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # only a terminal needs the bar
    from rich.progress import Progress as RichProgress

T = TypeVar("T")

LINE_EVERY = 10.0
"""Seconds between two lines."""
REFRESH_EVERY = 0.2
"""Seconds between two updates of the bar."""

_shown = ContextVar("_shown", default=True)
_outer: ContextVar[Progress | None] = ContextVar("_outer", default=None)
"""The progress within which another one begins: it shows its own state at every step of the inner one."""


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


def follow(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield the items, and show how many are done if that takes more than ``LINE_EVERY`` seconds."""
    with Progress(label, len(items), brief=True) as progress:
        for done, item in enumerate(items, 1):
            yield item
            progress.advance(done)


def print_line(text: str) -> None:
    """Print one line on standard error, unless progress is hidden."""
    if _shown.get():
        print(text, file=sys.stderr, flush=True)


class Progress:
    """The progress of a loop on standard error. Within another one, only the outer one is shown.

    Args:
        label: name of the task.
        total: number of all steps.
        done: number of finished steps at the start.
        show: False on ranks that print nothing.
        brief: True for a loop that is shown only if it takes longer than ``LINE_EVERY`` seconds.
    """

    def __init__(self, label: str, total: int, done: int = 0, show: bool = True, brief: bool = False) -> None:
        self.brief, self._lines = brief, 0
        self.label, self.total, self.done, self.show = label, total, done, show and _shown.get()
        self._next = 0.0
        self._started = time.monotonic()
        self._bar: RichProgress | None = None
        self._within: Progress | None = None

    def __enter__(self) -> Progress:
        self._within = _outer.get()
        self.show = self.show and self._within is None
        self._token = _outer.set(self._within or self) if self.show or self._within else None
        self._started = time.monotonic()
        self._next = self._started + (LINE_EVERY if self.brief or not sys.stderr.isatty() else REFRESH_EVERY)
        if self.show and not self.brief:
            self._start_bar()
        return self

    def _start_bar(self) -> None:
        if sys.stderr.isatty():
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

    def advance(self, done: int) -> None:
        """Record that ``done`` steps are finished. Most calls only read the clock."""
        self.done = done
        (self._within or self).refresh()

    def refresh(self) -> None:
        """Show the state, if it was not shown for a while."""
        now = time.monotonic()
        if now < self._next or not self.show:
            return
        if self._bar is None:
            self._start_bar()
        if self._bar is not None:
            self._bar.update(self._task, description=self.label, completed=self.done, refresh=True)
            self._next = now + REFRESH_EVERY
        else:
            self._print_line()
            self._next = now + LINE_EVERY

    def _print_line(self) -> None:
        seconds, self._lines = time.monotonic() - self._started, self._lines + 1
        print(f"{self.label}: {self.done}/{self.total} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _outer.reset(self._token)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, refresh=True)
            self._bar.stop()
        elif self.show and time.monotonic() - self._started > 2 and (self._lines or not self.brief):
            self._print_line()
