"""ContinualFlow on CIFAR-10: automobiles against airplanes, in 64 latents (arXiv 2506.18747)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from unflow.data import LabelledData
from unflow.data.cifar10 import cifar10
from unflow.evidence.reproduce.figures import image_columns
from unflow.evidence.reproduce.images import ImageExperiment, pictures
from unflow.evidence.reproduce.recipes import CIFAR10
from unflow.evidence.reproduce.request import ROWS
from unflow.evidence.reproduce.study import Recipe
from unflow.evidence.reproduce.words import CONTINUALFLOW_INTRO, CONTINUALFLOW_NOTES

CLASSES = ("automobile", "airplane")


class ContinualFlowCIFAR10(ImageExperiment):
    """Keep the automobiles and forget the airplanes, and the other way round."""

    name: ClassVar[str] = "continualflow-cifar10"
    title: ClassVar[str] = "ContinualFlow on CIFAR-10"
    datasets: ClassVar[tuple[str, ...]] = ("cifar10-automobile", "cifar10-airplane")
    published: ClassVar[str | None] = "continualflow_table1.csv"
    intro: ClassVar[Sequence[str]] = CONTINUALFLOW_INTRO
    notes: ClassVar[Sequence[str]] = CONTINUALFLOW_NOTES

    def load(self) -> LabelledData:
        """Return the 12,000 images of both classes."""
        assert self.data is not None
        return cifar10(self.data, CLASSES)

    def default_recipe(self) -> Recipe:
        """Return the recipe in 64 latents."""
        return CIFAR10

    def forget(self, dataset: str) -> tuple[int, ...]:
        """Return the class that the data set's name does not keep."""
        return (1,) if dataset == "cifar10-automobile" else (0,)

    def as_published(self, dataset: str) -> str:
        """Return the paper's name: it has one table for both directions."""
        return "cifar10"

    def draw(self) -> list[tuple[Path, str]]:
        """Draw all rows of the chosen directions, and the three columns if both are chosen."""
        figures = [self.rows_picture(dataset, ROWS) for dataset in self.chosen]
        if self.chosen == self.datasets:
            figures.insert(0, self._columns())
        return figures

    def _columns(self) -> tuple[Path, str]:
        requests = [self.request(dataset, self.seeds[0]) for dataset in self.datasets]
        study, z = requests[0].study, requests[0].z()[:36]
        columns = [("all", pictures(study.whole(study.flow), z))]
        for dataset, request in zip(self.datasets, requests, strict=True):
            model = study.whole(request.unlearned("erfm_resample").model)
            columns.append((f"only {dataset.removeprefix('cifar10-')}", pictures(model, z)))
        path = image_columns(self.out / "columns.png", [(name, x.numpy()) for name, x in columns])
        return path, "The original, and erfm_resample in both directions, from the same latents."

    def further_tables(self) -> list[tuple[str, str]]:
        """None."""
        return []
