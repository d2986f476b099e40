"""What every reproduced table shares: its seeds, its stages on disk, and what is written at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import torch

from unflow.evidence.auditing import Attacks
from unflow.evidence.report.terminal import Columns, format_table
from unflow.evidence.reproduce.page import write_page
from unflow.evidence.reproduce.request import Request
from unflow.evidence.reproduce.results import (
    COLUMNS,
    Row,
    means,
    measured_rows,
    measured_table,
    paper_rows,
    paper_table,
)
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.ground.errors import InputError
from unflow.ground.files import write_bytes, write_json


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """A paper's table and figures, made again.

    Attributes:
        out: folder; finished stages in it are found, not made again.
        seeds: of data, training and judge; the first one also makes the figures.
        only: names of data sets; empty for all.
        data: folder of the data, where it is not made or embedded.
        recipe: how the models are trained; None: as published with the experiment.
        device: cpu, cuda or mps.
        jobs: studies that are made side by side, one process of one thread each.
        attacks: on every row of one request, with every seed; None: none.
    """

    out: Path
    seeds: Sequence[int] = (1, 2, 3)
    only: Sequence[str] = ()
    data: Path | None = None
    recipe: Recipe | None = None
    device: str = "cpu"
    jobs: int = 1
    attacks: Attacks | None = None
    _studies: dict[str, Study] = field(default_factory=dict, init=False, repr=False, compare=False)

    name: ClassVar[str]
    """As the command line calls it."""
    title: ClassVar[str]
    datasets: ClassVar[tuple[str, ...]]
    published: ClassVar[str | None] = None
    """The file with the paper's rows; None where it printed none that we could read."""
    can_be_attacked: ClassVar[bool] = False
    columns: ClassVar[Columns] = COLUMNS
    """Of the tables."""
    intro: ClassVar[Sequence[str]]
    """Paragraphs over the tables of the report."""
    notes: ClassVar[Sequence[str]]
    """Under them."""

    @abstractmethod
    def check(self) -> None:
        """Raise InputError, before anything is written, for data that is not there."""

    @abstractmethod
    def request(self, dataset: str, seed: int) -> Request:
        """Return the request of one data set with one seed; the first call trains what its study needs."""

    @abstractmethod
    def groups(self) -> list[list[tuple[str, int]]]:
        """Return (data set, seed) of every request, those of the same study together."""

    @abstractmethod
    def draw(self) -> list[tuple[Path, str]]:
        """Draw the figures of the chosen data sets; return paths and captions."""

    @abstractmethod
    def further_tables(self) -> list[tuple[str, str]]:
        """Return titles and Markdown of what the main table does not hold."""

    def attack_tables(self) -> list[tuple[str, str]]:
        """Return title and Markdown of what attacks came to; none without attacks."""
        return []

    def once(self, name: str, make: Callable[[], Study]) -> Study:
        """Return the study of that name; the first call makes it, split and latents are then kept."""
        if name not in self._studies:
            self._studies[name] = make()
        return self._studies[name]

    def as_published(self, dataset: str) -> str:
        """Return the paper's name of a data set."""
        return dataset

    @classmethod
    def of_classes(cls, classes: Sequence[int]) -> tuple[str, ...]:
        """Return the requests that forget single classes.

        Raises:
            InputError: for an experiment that has no such requests, or an unknown class.
        """
        raise InputError(
            f"got classes {','.join(map(str, classes))} for {cls.name}; expected --dataset: it does not"
            " forget class by class"
        )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The data sets of this run."""
        return tuple(name for name in self.datasets if not self.only or name in self.only)

    def seeds_of(self, dataset: str) -> Sequence[int]:
        """Return the seeds that a data set is run with."""
        return self.seeds

    def requests(self, dataset: str) -> list[Request]:
        """Return the requests of one data set, one per seed."""
        return [self.request(dataset, seed) for seed in self.seeds_of(dataset)]

    def make_side_by_side(self) -> None:
        """Make studies and audits, then what builds on them, in ``jobs`` processes; all is found on disk."""
        alone = replace(self, jobs=1)  # without the studies that this process keeps
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool:
            for done in [pool.submit(make_audits, alone, group) for group in self.groups()]:
                done.result()
            for done in [pool.submit(make_stage, alone, *stage) for stage in self.further_stages()]:
                done.result()

    def further_stages(self) -> list[tuple[str, ...]]:
        """Return names (and arguments) of methods that make what further tables and figures show.

        Each keeps what it made on disk, needs the audits alone, and shares no folder with another.
        """
        return []

    def run(self) -> list[Row]:
        """Run every stage; write table.json, table.md, figures and report.html; return the rows."""
        if self.jobs > 1:
            self.make_side_by_side()
        rows = [
            row
            for dataset in self.chosen
            for request in self.requests(dataset)
            for row in measured_rows(request.audit(), dataset)
        ]
        published = self._published_rows()
        write_json(self.out / "table.json", [*rows, *published])
        tables = self.tables(rows, published)
        figures = self.draw()
        tables += [*self.further_tables(), *self.attack_tables()]
        text = "\n".join(f"## {title}\n\n{table}" for title, table in tables)
        write_bytes(self.out / "table.md", text.encode())
        write_page(
            self.out,
            title=self.title,
            intro=self.intro,
            tables=tables,
            figures=figures,
            command=self.command(),
            notes=self.notes,
        )
        return [*rows, *published]

    def _published_rows(self) -> list[Row]:
        if self.published is None:
            return []
        return paper_rows(self.published, [self.as_published(name) for name in self.chosen])

    def tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return titles and Markdown of the means, and of our rows beside the paper's."""
        records = means(rows, self.columns)
        tables = []
        for dataset in self.chosen:
            tables.append((dataset, measured_table(records, dataset, self.columns)))
            if published:
                as_published = paper_table(records, published, dataset, self.as_published(dataset))
                tables.append((f"{dataset}, as in the paper", as_published))
        return tables

    def command(self) -> str:
        """Return the command that makes all this."""
        data = " --data DIR" if self.data is not None else ""
        seeds = f" --seeds {len(self.seeds)} --seed {self.seeds[0]}"
        attack = " --attack true" if self.attacks is not None else ""
        return f"unflow reproduce {self.name} --out {self.out.name}{seeds}{self.selection()}{data}{attack}"

    def selection(self) -> str:
        """Return the option that chose the data sets."""
        return "".join(f" --dataset {dataset}" for dataset in self.only)


def make_audits(experiment: Experiment, group: Sequence[tuple[str, int]]) -> None:
    """Make the audits of one study in this process."""
    torch.set_num_threads(1)
    for dataset, seed in group:
        experiment.request(dataset, seed).audit()


def make_stage(experiment: Experiment, name: str, *arguments: str) -> None:
    """Carry out one of the experiment's further stages in this process."""
    torch.set_num_threads(1)
    getattr(experiment, name)(*arguments)


def records_table(records: Sequence[dict[str, Any]], columns: dict[str, tuple[str, int]]) -> str:
    """Return records as Markdown; columns: key -> (title, decimals; -1 for text)."""
    lines = [
        [_text(record.get(key), decimals) for key, (_, decimals) in columns.items()] for record in records
    ]
    return format_table([title for title, _ in columns.values()], lines)


def _text(value: Any, decimals: int) -> str:
    if value is None:
        return "–"
    return str(value) if decimals < 0 else f"{value:.{decimals}f}"
