"""ContinualFlow on CIFAR-10: automobiles against airplanes, in 64 latents (arXiv 2506.18747)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from unflow.data import LabelledData
from unflow.data.cifar10 import cifar10
from unflow.evidence.reproduce.figures import draw_image_columns
from unflow.evidence.reproduce.images import ImageExperiment, make_images
from unflow.evidence.reproduce.recipes import CIFAR10
from unflow.evidence.reproduce.request import ROWS
from unflow.evidence.reproduce.results import CONTINUALFLOW_INTRO, CONTINUALFLOW_NOTES
from unflow.evidence.reproduce.study import Recipe

CLASSES = ("automobile", "airplane")


class ContinualFlowCIFAR10(ImageExperiment):
    """Keep the automobiles and forget the airplanes, and vice versa."""

    name: ClassVar[str] = "continualflow-cifar10"
    title: ClassVar[str] = "ContinualFlow on CIFAR-10"
    datasets: ClassVar[tuple[str, ...]] = ("cifar10-automobile", "cifar10-airplane")
    default_recipe: ClassVar[Recipe] = CIFAR10
    published: ClassVar[str | None] = "continualflow_table1.csv"
    intro: ClassVar[Sequence[str]] = CONTINUALFLOW_INTRO
    notes: ClassVar[Sequence[str]] = CONTINUALFLOW_NOTES

    def load(self) -> LabelledData:
        """Return the 12,000 images of both classes."""
        assert self.data is not None
        return cifar10(self.data, CLASSES)

    def find_forgotten(self, dataset: str) -> tuple[int, ...]:
        """Return the class that is not in the dataset's name."""
        return (1,) if dataset == "cifar10-automobile" else (0,)

    def find_published_name(self, dataset: str) -> str:
        """Return the paper's name; the paper has one row for both directions."""
        return "cifar10"

    def draw(self) -> list[tuple[Path, str]]:
        """Draw all rows of the chosen directions, and both directions side by side if both are chosen."""
        figures = [self.draw_rows(dataset, ROWS) for dataset in self.chosen]
        if self.chosen == self.datasets:
            figures.insert(0, self._draw_columns())
        return figures

    def _draw_columns(self) -> tuple[Path, str]:
        requests = [self.make_request(dataset, self.seeds[0]) for dataset in self.datasets]
        study, z = requests[0].study, requests[0].draw_latents()[:36]
        columns = [("all", make_images(study.add_decoder(study.flow), z))]
        for dataset, request in zip(self.datasets, requests, strict=True):
            model = study.add_decoder(request.run_row("erfm_resample").model)
            columns.append((f"only {dataset.removeprefix('cifar10-')}", make_images(model, z)))
        path = draw_image_columns(self.out / "columns.png", [(name, x.numpy()) for name, x in columns])
        return path, "The original, and erfm_resample in both directions, from the same latents."
