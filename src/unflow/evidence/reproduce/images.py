"""What the image experiments share: a split of real images, a study per seed, pictures of every row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unflow.data import LabelledData, split_data
from unflow.evidence.reproduce.attacked import attack_table, attacked
from unflow.evidence.reproduce.experiment import Experiment, records_table
from unflow.evidence.reproduce.figures import image_rows
from unflow.evidence.reproduce.request import Request
from unflow.evidence.reproduce.results import Row
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.ground.errors import InputError
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel

JUDGED = {
    "dataset": ("data set", -1),
    "seed": ("seed", -1),
    "real accuracy": ("right on real images, %", 2),
    "reconstructed accuracy": ("on reconstructions, %", 2),
    "real forget_rate": ("real retained ones called forgotten, %", 2),
    "reconstructed forget_rate": ("reconstructed ones, %", 2),
}

MAX_HELD_OUT = 8000
"""Real images that statistics are taken on."""


class ImageExperiment(Experiment):
    """Requests made of latent flows of images; the first data set runs with all seeds, others with one."""

    @abstractmethod
    def load(self) -> LabelledData:
        """Return all images."""

    @abstractmethod
    def default_recipe(self) -> Recipe:
        """Return how the models are trained as published here."""

    @abstractmethod
    def forget(self, dataset: str) -> tuple[int, ...]:
        """Return the classes that a data set's request forgets."""

    def check(self) -> None:
        """Raise InputError if no folder is named, or the data is not in it."""
        if self.data is None:
            raise InputError(f"{self.name} needs its images; expected --data DIR, the folder that holds them")
        _ = self.images

    @cached_property
    def images(self) -> LabelledData:
        """All images, read once."""
        return self.load()

    def study(self, seed: int) -> Study:
        """Return the study of one seed: its own split of the images, in random order."""
        return self.once(f"seed-{seed}", lambda: self._new_study(seed))

    def _new_study(self, seed: int) -> Study:
        images = self.images
        split = split_data(images, seed)
        parts = {}
        for k, part in enumerate(("train", "judge", "held_out")):
            rows = split.of(images, part)
            # The files are sorted by class; no statistic may depend on that.
            order = torch.randperm(len(rows), generator=stream(seed, Stream.IMAGE_ORDER + k))
            parts[part] = rows.rows(order[:MAX_HELD_OUT] if part == "held_out" else order)
        return Study(
            self.recipe or self.default_recipe(), parts, seed, self.out / f"seed-{seed}", self.device
        )

    def request(self, dataset: str, seed: int) -> Request:
        """Return a data set's request with one seed."""
        return Request(self.study(seed), self.forget(dataset), dataset)

    def seeds_of(self, dataset: str) -> Sequence[int]:
        """Return all seeds for the first data set, the first seed for the others."""
        return self.seeds if dataset == self.datasets[0] else self.seeds[:1]

    def groups(self) -> list[list[tuple[str, int]]]:
        """Return the requests by seed: those of one seed are made of the same original."""
        return [
            [(dataset, seed) for dataset in self.chosen if seed in self.seeds_of(dataset)]
            for seed in self.seeds
        ]

    def tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return first what the judge makes of real and of reconstructed images, then the rows."""
        judge = records_table(self.judged(), JUDGED)
        return [("The judge on held-out images", judge), *super().tables(rows, published)]

    def judged(self) -> list[dict[str, Any]]:
        """Return, per request, how the judge does on real images and on the autoencoder's copies of them."""
        return [_judged(request) for dataset in self.chosen for request in self.requests(dataset)]

    # Attacks

    can_be_attacked: ClassVar[bool] = True

    @property
    def attacked(self) -> str:
        """The request that is attacked: the first that is run with every seed."""
        return next(name for name in self.chosen if len(self.seeds_of(name)) == len(self.seeds))

    def attack_tables(self) -> list[tuple[str, str]]:
        """Return what attacks on every row of one request came to, and how long relearning takes."""
        if self.attacks is None:
            return []
        requests = self.requests(self.attacked)
        found = [attacked(request, self.attacks) for request in requests]
        words = f"{self.attacked}, seeds {[request.study.seed for request in requests]}"
        return [(f"What could bring it back, {words}", attack_table(found, requests[0].rows))]

    def rows_picture(self, dataset: str, methods: Sequence[str]) -> tuple[Path, str]:
        """Draw samples of the named rows from the same latents."""
        request = self.request(dataset, self.seeds[0])
        z = request.z()[:16]
        strips = [("original", pictures(request.study.whole(request.target.model), z))]
        for name in methods:
            strips.append((name, pictures(request.study.whole(request.unlearned(name).model), z)))
        path = image_rows(self.out / f"rows-{dataset}.png", [(name, x.numpy()) for name, x in strips])
        return path, f"{dataset}: every row from the same latents (retrained: another map of them)."


def _judged(request: Request) -> dict[str, Any]:
    record: dict[str, Any] = {"dataset": request.name, "seed": request.study.seed}
    judge = request.audit()["judge"]
    for images in ("real", "reconstructed"):
        for key, value in judge.get(images, {}).items():
            record[f"{images} {key}"] = 100 * value
    return record


def pictures(model: GenerativeModel, z: Tensor) -> Tensor:
    """Return the images of latents, within their range."""
    return model.push_batches(z).clamp(-1, 1)
