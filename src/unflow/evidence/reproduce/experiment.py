"""Base class of the reproduced experiments: seeds, stages on disk, and the files written at the end."""

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
from unflow.evidence.report.terminal import Columns, format_pipe_table
from unflow.evidence.reproduce.page import write_page
from unflow.evidence.reproduce.request import Request
from unflow.evidence.reproduce.results import (
    COLUMNS,
    Row,
    average_rows,
    collect_rows,
    format_means,
    format_paper_table,
    read_paper_rows,
)
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.ground.errors import InputError
from unflow.ground.files import write_bytes, write_json


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """The reproduction of a paper's table and figures.

    Attributes:
        out: folder; finished stages are loaded from it.
        seeds: of data, training and judge; the figures show the first one.
        only: names of datasets; empty for all.
        data: folder of the data, if it is not generated or embedded.
        recipe: how the models are trained; None: ``default_recipe``.
        device: cpu, cuda or mps.
        jobs: number of studies made in parallel, each in a process of one thread.
        attacks: attacks on every row of one request, with every seed; None: no attacks.
        extractor: of features that neither guide nor judge has shaped, in ``EXTRACTORS``; None: none.
    """

    out: Path
    seeds: Sequence[int] = (1, 2, 3)
    only: Sequence[str] = ()
    data: Path | None = None
    recipe: Recipe | None = None
    device: str = "cpu"
    jobs: int = 1
    attacks: Attacks | None = None
    extractor: str | None = None
    _studies: dict[str, Study] = field(default_factory=dict, init=False, repr=False, compare=False)

    name: ClassVar[str]
    """Its name on the command line."""
    title: ClassVar[str]
    default_recipe: ClassVar[Recipe]
    """How the models of the published tables are trained."""
    datasets: ClassVar[tuple[str, ...]]
    published: ClassVar[str | None] = None
    """The file with the paper's rows; None if we have none."""
    can_be_attacked: ClassVar[bool] = False
    columns: ClassVar[Columns] = COLUMNS
    """Columns of the tables."""
    intro: ClassVar[Sequence[str]]
    """Paragraphs above the tables of the report."""
    notes: ClassVar[Sequence[str]]
    """Paragraphs below the tables of the report."""

    @abstractmethod
    def check(self) -> None:
        """Raise InputError for missing data; called before anything is written."""

    @abstractmethod
    def make_request(self, dataset: str, seed: int) -> Request:
        """Return the request of one dataset with one seed; the first call trains the models of its study."""

    @abstractmethod
    def group_requests(self) -> list[list[tuple[str, int]]]:
        """Return (dataset, seed) of every request, grouped by study."""

    @abstractmethod
    def draw(self) -> list[tuple[Path, str]]:
        """Draw the figures of the chosen datasets; return paths and captions."""

    def make_further_tables(self) -> list[tuple[str, str]]:
        """Return titles and Markdown of the tables beside the main one; none by default."""
        return []

    def make_attack_tables(self) -> list[tuple[str, str]]:
        """Return title and Markdown of the attacks' results; none without attacks."""
        return []

    def keep_study(self, name: str, make: Callable[[], Study]) -> Study:
        """Return the study of that name; the first call makes it, later calls return the same object."""
        if name not in self._studies:
            self._studies[name] = make()
        return self._studies[name]

    def find_published_name(self, dataset: str) -> str:
        """Return the name of a dataset in the paper."""
        return dataset

    @classmethod
    def choose_requests(cls, classes: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the requests that forget these classes, one class each.

        Raises:
            InputError: for an experiment that has no such requests, or an unknown class.
        """
        raise InputError(
            f"got classes {','.join(map(str, classes))} for {cls.name}; expected --dataset: it does not"
            " forget class by class"
        )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The datasets of this run."""
        return tuple(name for name in self.datasets if not self.only or name in self.only)

    def choose_seeds(self, dataset: str) -> Sequence[int]:
        """Return the seeds with which a dataset is run."""
        return self.seeds

    def make_requests(self, dataset: str) -> list[Request]:
        """Return the requests of one dataset, one per seed."""
        return [self.make_request(dataset, seed) for seed in self.choose_seeds(dataset)]

    def make_side_by_side(self) -> None:
        """Make the audits, then the further stages, in ``jobs`` processes; results go to disk."""
        alone = replace(self, jobs=1)  # a copy without studies, which cannot be pickled cheaply
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool:
            for done in [pool.submit(make_audits, alone, group) for group in self.group_requests()]:
                done.result()
            for done in [pool.submit(make_stage, alone, *stage) for stage in self.list_stages()]:
                done.result()

    def list_stages(self) -> list[tuple[str, ...]]:
        """Return names (and arguments) of the methods that compute further tables and figures.

        Each stores its result on disk, depends on the audits only, and shares no folder with another.
        """
        return []

    def run(self) -> list[Row]:
        """Run every stage; write table.json, table.md, figures and report.html; return the rows."""
        if self.jobs > 1:
            self.make_side_by_side()
        rows = [
            row
            for dataset in self.chosen
            for request in self.make_requests(dataset)
            for row in collect_rows(request.audit(), dataset)
        ]
        published = self._read_published()
        write_json(self.out / "table.json", [*rows, *published])
        tables = self.make_tables(rows, published)
        figures = self.draw()
        tables += [*self.make_further_tables(), *self.make_attack_tables()]
        text = "\n".join(f"## {title}\n\n{table}" for title, table in tables)
        write_bytes(self.out / "table.md", text.encode())
        write_page(
            self.out,
            title=self.title,
            intro=self.intro,
            tables=tables,
            figures=figures,
            command=self.format_command(),
            notes=self.notes,
        )
        return [*rows, *published]

    def _read_published(self) -> list[Row]:
        if self.published is None:
            return []
        return read_paper_rows(self.published, [self.find_published_name(name) for name in self.chosen])

    def make_tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return titles and Markdown of the mean tables, and of our rows beside the paper's."""
        records = average_rows(rows, self.columns)
        tables = []
        for dataset in self.chosen:
            tables.append((dataset, format_means(records, dataset, self.columns)))
            if published:
                as_published = format_paper_table(
                    records, published, dataset, self.find_published_name(dataset)
                )
                tables.append((f"{dataset}, as in the paper", as_published))
        return tables

    def format_command(self) -> str:
        """Return the command that reproduces this run."""
        data = " --data DIR" if self.data is not None else ""
        seeds = f" --seeds {len(self.seeds)} --seed {self.seeds[0]}"
        attack = " --attack true" if self.attacks is not None else ""
        extractor = "" if self.extractor is None else f" --extractor {self.extractor}"
        options = f"{seeds}{self.format_selection()}{data}{attack}{extractor}"
        return f"unflow reproduce {self.name} --out {self.out.name}{options}"

    def format_selection(self) -> str:
        """Return the options that select the datasets."""
        return "".join(f" --dataset {dataset}" for dataset in self.only)


def make_audits(experiment: Experiment, group: Sequence[tuple[str, int]]) -> None:
    """Make the audits of one study in this process."""
    torch.set_num_threads(1)
    for dataset, seed in group:
        experiment.make_request(dataset, seed).audit()


def make_stage(experiment: Experiment, name: str, *arguments: str) -> None:
    """Run one of the experiment's further stages in this process."""
    torch.set_num_threads(1)
    getattr(experiment, name)(*arguments)


def format_records(records: Sequence[dict[str, Any]], columns: dict[str, tuple[str, int]]) -> str:
    """Return records as Markdown; columns: key -> (title, decimals; -1 for text)."""
    lines = [
        [_format_cell(record.get(key), decimals) for key, (_, decimals) in columns.items()]
        for record in records
    ]
    return format_pipe_table([title for title, _ in columns.values()], lines)


def _format_cell(value: Any, decimals: int) -> str:
    if value is None:
        return "–"
    return str(value) if decimals < 0 else f"{value:.{decimals}f}"
