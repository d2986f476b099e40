"""Experiments on two-dimensional datasets: one study per dataset and seed, judged by the exact geometry."""

from __future__ import annotations

from typing import ClassVar

from unflow.data.toy import PLANAR_SETS
from unflow.evidence.reproduce.experiment import Experiment
from unflow.evidence.reproduce.study import Study
from unflow.ground.streams import Stream, stream

NUM_POINTS = {"train": 10_000, "judge": 5_000, "held_out": 10_000}
"""Points of each part of a dataset."""


class PlanarExperiment(Experiment):
    """Requests made of models of two-dimensional datasets."""

    datasets: ClassVar[tuple[str, ...]] = tuple(PLANAR_SETS)

    def check(self) -> None:
        """Do nothing: the data is generated."""

    def make_study(self, dataset: str, seed: int) -> Study:
        """Return the study of one dataset and seed; every seed draws its own points."""
        folder = f"{dataset}/seed-{seed}"
        return self.keep_study(folder, lambda: self._draw_study(dataset, seed, folder))

    def _draw_study(self, dataset: str, seed: int, folder: str) -> Study:
        planar = PLANAR_SETS[dataset]
        parts = {
            part: planar.sample(n, stream(seed, Stream.POINTS + k))
            for k, (part, n) in enumerate(NUM_POINTS.items())
        }
        recipe = self.recipe or self.default_recipe
        return Study(recipe, parts, seed, self.out / folder, self.device, planar)

    def group_requests(self) -> list[list[tuple[str, int]]]:
        """Return one group per request: every dataset and seed has its own study."""
        return [[(dataset, seed)] for dataset in self.chosen for seed in self.seeds]
