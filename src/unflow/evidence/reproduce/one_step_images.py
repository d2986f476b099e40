"""Base class of the image experiments with one-step models: one request per class, tables, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from unflow.evidence import metrics
from unflow.evidence.report.terminal import Columns
from unflow.evidence.reproduce.experiment import format_records
from unflow.evidence.reproduce.figures import draw_image_rows, draw_redistribution
from unflow.evidence.reproduce.images import ImageExperiment, make_images
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.evidence.reproduce.request import RETRAINED
from unflow.evidence.reproduce.results import (
    ONE_STEP_COLUMNS,
    ONE_STEP_INTRO,
    ONE_STEP_NOTES,
    Row,
    average_rows,
    format_means,
    pool_rows,
)
from unflow.evidence.reproduce.study import Study
from unflow.ground.errors import InputError
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream

AGREEMENT = {
    "seed": ("seed", -1),
    "accuracy": ("judge right on real images, %", 2),
    "sure": ("judge's confidence there, %", 2),
    "reconstructed": ("right on reconstructions, %", 2),
    "sure_samples": ("judge's confidence on samples, %", 2),
    "agreement": ("judge and guide agree on samples, %", 2),
}


class OneStepImages(ImageExperiment):
    """Forget one class at a time, some with all seeds and a retrained model, the others with one seed."""

    request_type: ClassVar[type[OneStepRequest]] = OneStepRequest
    columns: ClassVar[Columns] = ONE_STEP_COLUMNS
    intro: ClassVar[Sequence[str]] = ONE_STEP_INTRO
    notes: ClassVar[Sequence[str]] = ONE_STEP_NOTES
    retrained_classes: ClassVar[tuple[int, ...]]
    """Classes whose requests run with every seed and have a retrained model."""
    margin: ClassVar[float | None] = None
    """Margin of the requests' energies, in nats of a calibrated guide; None: as for ``Request``."""

    @classmethod
    def choose_requests(cls, classes: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the requests that forget these classes, one class each."""
        unknown = [k for k in classes if not 0 <= k < len(cls.datasets)]
        if unknown:
            raise InputError(f"got class {unknown[0]}; expected classes from 0 to {len(cls.datasets) - 1}")
        return tuple(cls.datasets[k] for k in classes)

    def format_selection(self) -> str:
        """Return the option that selects the classes."""
        classes = ",".join(str(self.datasets.index(name)) for name in self.only)
        return f" --classes {classes}" if classes else ""

    def find_forgotten(self, dataset: str) -> tuple[int, ...]:
        """Return the class that a request forgets."""
        return (self.datasets.index(dataset),)

    def is_retrained(self, dataset: str) -> bool:
        """Return whether a request has a retrained row and runs with all seeds."""
        return self.find_forgotten(dataset)[0] in self.retrained_classes

    def choose_seeds(self, dataset: str) -> Sequence[int]:
        """Return all seeds for the classes with a retrained model, the first seed for the others."""
        return self.seeds if self.is_retrained(dataset) else self.seeds[:1]

    def make_request(self, dataset: str, seed: int) -> OneStepRequest:
        """Return a class's request with one seed."""
        every, again = self.request_type.default_rows, self.is_retrained(dataset)
        return self.request_type(
            self.make_study(seed),
            self.find_forgotten(dataset),
            dataset,
            margin=self.margin,
            rows=[name for name in every if again or name not in RETRAINED],
        )

    # Tables

    def make_tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return the tables of the judge, of the means over classes, and of every class."""
        return [
            (
                "The judge, and whether the samples are worth forgetting",
                format_records(self.measure_agreement(), AGREEMENT),
            ),
            *self._make_mean_tables(rows),
            *super().make_tables(rows, published)[1:],
        ]

    def _make_mean_tables(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Return the means over the classes with a retrained model, and over all classes of the first seed.

        A mean contains a method only if the method was run on every request.
        """
        again = [name for name in self.chosen if self.is_retrained(name)]
        groups = {
            "mean over classes and seeds": [row for row in rows if row["dataset"] in again],
            "mean over all classes, first seed": [row for row in rows if row["seed"] == self.seeds[0]],
        }
        tables = []
        for title, own in groups.items():
            if len({row["dataset"] for row in own}) > 1:
                records = average_rows(pool_rows(own, title), self.columns)
                records = [r for r in records if len(r["seeds"]) == len(records[0]["seeds"])]
                tables.append((title, format_means(records, title, self.columns)))
        return tables

    def measure_agreement(self) -> list[dict[str, Any]]:
        """Return, per seed, the judge's confidence on samples, and how often it agrees with the guide."""
        seeds = [seed for seed in self.seeds if any(seed in self.choose_seeds(name) for name in self.chosen)]
        return [self._find_agreement(seed) for seed in seeds]

    def _find_agreement(self, seed: int) -> dict[str, Any]:
        file = self.out / f"seed-{seed}" / "agreement.json"
        return dict(stage(file, lambda: measure_agreement(self.make_study(seed))))

    @property
    def attacked_dataset(self) -> str:
        """The dataset of the sweeps."""
        return self.swept_dataset

    # The request of the sweeps and of the redistribution figure

    @property
    def swept_dataset(self) -> str:
        """The dataset of the sweeps: the middle one of those with a retrained model, else the first."""
        again = [name for name in self.chosen if self.is_retrained(name)]
        return again[len(again) // 2] if again else self.chosen[0]

    def make_swept_request(self) -> OneStepRequest:
        """Return the request of the sweeps with the first seed."""
        return self.make_request(self.swept_dataset, self.seeds[0])

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw samples of every row from the same latents, and the redistribution of mass."""
        return [*(self.draw_rows(name, ()) for name in self.chosen), self._draw_redistribution()]

    def draw_rows(self, dataset: str, methods: Sequence[str]) -> tuple[Path, str]:
        """Draw samples of every row of a request from the same 16 latents, of which 8 are forgotten."""
        request = self.make_request(dataset, self.seeds[0])
        z = draw_mixed_latents(request)
        strips = [
            (name, make_images(request.find_images_model(name), z)) for name in ("original", *request.rows)
        ]
        path = draw_image_rows(self.out / f"rows-{dataset}.png", [(name, x.numpy()) for name, x in strips])
        return path, (
            f"{dataset}: every row from the same latents, the first half of which gave the forgotten class "
            "(retrained: another map of them)."
        )

    def _draw_redistribution(self) -> tuple[Path, str]:
        request = self.make_swept_request()
        audit = request.audit()
        matrices = {
            row["method"]: torch.tensor(row["transition"]).numpy()
            for row in audit["rows"]
            if row["transition"] is not None
        }
        counts = next(row["class_counts"] for row in audit["rows"] if row["method"] == "target")
        path = draw_redistribution(
            self.out / f"redistribution-{self.swept_dataset}.png",
            matrices,
            request.study.class_names,
            request.forget,
            target_shares=[count / sum(counts) for count in counts],
        )
        return (
            path,
            f"{self.swept_dataset}: class before (rows) and after (columns) of the same latents, %.",
        )


def measure_agreement(study: Study) -> dict[str, Any]:
    """Return the judge's accuracy and confidence, and how often it agrees with the guide on samples."""
    drawn = study.one_step.sample(study.recipe.n, stream(study.seed, Stream.AGREEMENT))
    judge, held_out = study.classifier_judge, study.parts["held_out"]
    samples = judge.probabilities(study.decode(drawn))
    real = judge.probabilities(held_out.x)
    guided = study.guide.probabilities(drawn).argmax(1)

    def right(probabilities: torch.Tensor) -> float:
        return 100 * float((probabilities.argmax(1) == held_out.labels).float().mean())

    reconstructed = None
    if study.autoencoder is not None:
        reconstructed = right(judge.probabilities(study.decode(study.encode_part("held_out").x)))
    return {
        "seed": study.seed,
        "accuracy": right(real),
        "sure": 100 * metrics.judge_confidence(real),
        "reconstructed": reconstructed,
        "sure_samples": 100 * metrics.judge_confidence(samples),
        "agreement": 100 * float((samples.argmax(1) == guided).float().mean()),
    }


def draw_mixed_latents(request: OneStepRequest, n: int = 16) -> torch.Tensor:
    """Return n latents; the judge assigns the samples of the first half to a forgotten class."""
    study, z = request.study, request.draw_latents()[:2000]
    labels = study.judge.probabilities(study.add_decoder(request.model).push_batches(z)).argmax(1)
    forgotten = torch.isin(labels, torch.tensor(request.forget))
    return torch.cat([z[forgotten][: n // 2], z[~forgotten][: n - n // 2]])
