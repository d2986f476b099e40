"""Base class of the image experiments: a split of real images, a study per seed, images of every row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unflow.data import LabelledData, split_data
from unflow.evidence.reproduce.attacked import attack_rows, format_attacks
from unflow.evidence.reproduce.experiment import Experiment, format_records
from unflow.evidence.reproduce.figures import draw_image_rows
from unflow.evidence.reproduce.request import Request
from unflow.evidence.reproduce.results import Row
from unflow.evidence.reproduce.study import Study
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
"""Real images on which the metrics are measured."""


class ImageExperiment(Experiment):
    """Requests for latent flows of images; the first dataset runs with all seeds, the others with one."""

    request_type: ClassVar[type[Request]] = Request
    is_conditional: ClassVar[bool] = False
    """Whether the original is asked for a class."""

    @abstractmethod
    def load(self) -> LabelledData:
        """Return all images."""

    @abstractmethod
    def find_forgotten(self, dataset: str) -> tuple[int, ...]:
        """Return the classes that a dataset's request forgets."""

    def check(self) -> None:
        """Raise InputError if no folder is given, or the data is not in it."""
        if self.data is None:
            raise InputError(f"{self.name} needs its images; expected --data DIR, the folder that holds them")
        _ = self.images

    @cached_property
    def images(self) -> LabelledData:
        """All images, read once."""
        return self.load()

    def make_study(self, seed: int) -> Study:
        """Return the study of one seed, with its own split of the images in random order."""
        return self.keep_study(f"seed-{seed}", lambda: self._new_study(seed))

    def _new_study(self, seed: int) -> Study:
        images = self.images
        split = split_data(images, seed)
        parts = {}
        for k, part in enumerate(("train", "judge", "held_out")):
            rows = split.of(images, part)
            # The files are sorted by class; the metrics must not depend on that order.
            order = torch.randperm(len(rows), generator=stream(seed, Stream.IMAGE_ORDER + k))
            parts[part] = rows.rows(order[:MAX_HELD_OUT] if part == "held_out" else order)
        recipe, out = self.recipe or self.default_recipe, self.out / f"seed-{seed}"
        options: dict[str, Any] = {"conditional": self.is_conditional, "extractor": self.extractor}
        return Study(recipe, parts, seed, out, self.device, **options)

    def make_request(self, dataset: str, seed: int) -> Request:
        """Return a dataset's request with one seed."""
        return self.request_type(self.make_study(seed), self.find_forgotten(dataset), dataset)

    def choose_seeds(self, dataset: str) -> Sequence[int]:
        """Return all seeds for the first dataset, the first seed for the others."""
        return self.seeds if dataset == self.datasets[0] else self.seeds[:1]

    def group_requests(self) -> list[list[tuple[str, int]]]:
        """Return the requests grouped by seed: the requests of one seed share an original."""
        return [
            [(dataset, seed) for dataset in self.chosen if seed in self.choose_seeds(dataset)]
            for seed in self.seeds
        ]

    def make_tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return first the judge's accuracy on real and reconstructed images, then the rows."""
        judge = format_records(self.measure_judge(), JUDGED)
        return [("The judge on held-out images", judge), *super().make_tables(rows, published)]

    def measure_judge(self) -> list[dict[str, Any]]:
        """Return, per request, the judge's accuracy on real images and on reconstructions."""
        return [_measure_judge(request) for dataset in self.chosen for request in self.make_requests(dataset)]

    # Attacks

    can_be_attacked: ClassVar[bool] = True

    @property
    def attacked_dataset(self) -> str:
        """The dataset whose request is attacked: the first that is run with every seed."""
        return next(name for name in self.chosen if len(self.choose_seeds(name)) == len(self.seeds))

    def make_attack_tables(self) -> list[tuple[str, str]]:
        """Return the results of the attacks on every row of one request."""
        if self.attacks is None:
            return []
        requests = self.make_requests(self.attacked_dataset)
        found = [attack_rows(request, self.attacks) for request in requests]
        words = f"{self.attacked_dataset}, seeds {[request.study.seed for request in requests]}"
        return [(f"What could bring it back, {words}", format_attacks(found, requests[0].rows))]

    def draw_rows(self, dataset: str, methods: Sequence[str]) -> tuple[Path, str]:
        """Draw samples of the original and of the given rows from the same latents."""
        request = self.make_request(dataset, self.seeds[0])
        z = request.draw_latents()[:16]
        strips = [(name, make_images(request.find_images_model(name), z)) for name in ("original", *methods)]
        path = draw_image_rows(self.out / f"rows-{dataset}.png", [(name, x.numpy()) for name, x in strips])
        return path, f"{dataset}: every row from the same latents (retrained: another map of them)."


def _measure_judge(request: Request) -> dict[str, Any]:
    record: dict[str, Any] = {"dataset": request.name, "seed": request.study.seed}
    judge = request.audit()["judge"]
    for images in ("real", "reconstructed"):
        for key, value in judge.get(images, {}).items():
            record[f"{images} {key}"] = 100 * value
    return record


def make_images(model: GenerativeModel, z: Tensor) -> Tensor:
    """Return a model's images of latents, clipped to [-1, 1]."""
    return model.push_batches(z).clamp(-1, 1)
