"""What the image experiments with one-step models share: one request per class, tables, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from unflow.evidence import metrics
from unflow.evidence.report.terminal import Columns
from unflow.evidence.reproduce.experiment import records_table
from unflow.evidence.reproduce.figures import image_rows, redistribution
from unflow.evidence.reproduce.images import ImageExperiment, pictures
from unflow.evidence.reproduce.one_step import BASELINES, ONE_STEP_ROWS, OURS, OneStepRequest
from unflow.evidence.reproduce.results import ONE_STEP_COLUMNS, Row, mean_rows, means, measured_table
from unflow.evidence.reproduce.study import Study
from unflow.evidence.reproduce.words import ONE_STEP_INTRO, ONE_STEP_NOTES
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
    """Forget one class at a time; some classes with all seeds and a retrained model, others with one."""

    columns: ClassVar[Columns] = ONE_STEP_COLUMNS
    intro: ClassVar[Sequence[str]] = ONE_STEP_INTRO
    notes: ClassVar[Sequence[str]] = ONE_STEP_NOTES
    retrained_classes: ClassVar[tuple[int, ...]]
    """Classes that are forgotten with every seed, and beside a retrained model."""
    margin: ClassVar[float | None] = None
    """Of the requests' energies, in nats of a calibrated guide; None: as for ``Request``."""

    @classmethod
    def of_classes(cls, classes: Sequence[int]) -> tuple[str, ...]:
        """Return the requests that forget these classes, one each."""
        unknown = [k for k in classes if not 0 <= k < len(cls.datasets)]
        if unknown:
            raise InputError(f"got class {unknown[0]}; expected classes from 0 to {len(cls.datasets) - 1}")
        return tuple(cls.datasets[k] for k in classes)

    def selection(self) -> str:
        """Return the option that chose the classes."""
        classes = ",".join(str(self.datasets.index(name)) for name in self.only)
        return f" --classes {classes}" if classes else ""

    def forget(self, dataset: str) -> tuple[int, ...]:
        """Return the class that a request forgets."""
        return (self.datasets.index(dataset),)

    def is_retrained(self, dataset: str) -> bool:
        """Return whether a request has a retrained row, and all seeds."""
        return self.forget(dataset)[0] in self.retrained_classes

    def seeds_of(self, dataset: str) -> Sequence[int]:
        """Return all seeds for the classes with a retrained model, the first seed for the others."""
        return self.seeds if self.is_retrained(dataset) else self.seeds[:1]

    def request(self, dataset: str, seed: int) -> OneStepRequest:
        """Return a class's request with one seed."""
        rows = ONE_STEP_ROWS if self.is_retrained(dataset) else (*OURS, *BASELINES)
        return OneStepRequest(self.study(seed), self.forget(dataset), dataset, margin=self.margin, rows=rows)

    # Tables

    def tables(self, rows: Sequence[Row], published: Sequence[Row]) -> list[tuple[str, str]]:
        """Return the judge, the means over classes, and every class by itself."""
        return [
            (
                "The judge, and whether the samples are worth forgetting",
                records_table(self.agreement(), AGREEMENT),
            ),
            *self._means(rows),
            *super().tables(rows, published)[1:],
        ]

    def _means(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Return the means over the classes with a retrained model, and over all of the first seed.

        A method stands in a mean only if every request of it was made by it.
        """
        again = [name for name in self.chosen if self.is_retrained(name)]
        groups = {
            "mean over classes and seeds": [row for row in rows if row["dataset"] in again],
            "mean over all classes, first seed": [row for row in rows if row["seed"] == self.seeds[0]],
        }
        tables = []
        for title, own in groups.items():
            if len({row["dataset"] for row in own}) > 1:
                records = means(mean_rows(own, title), self.columns)
                records = [r for r in records if len(r["seeds"]) == len(records[0]["seeds"])]
                tables.append((title, measured_table(records, title, self.columns)))
        return tables

    def agreement(self) -> list[dict[str, Any]]:
        """Return, per seed, how sure the judge is of samples, and how often it agrees with the guide."""
        seeds = [seed for seed in self.seeds if any(seed in self.seeds_of(name) for name in self.chosen)]
        return [self._agreement(seed) for seed in seeds]

    def _agreement(self, seed: int) -> dict[str, Any]:
        file = self.out / f"seed-{seed}" / "agreement.json"
        return dict(stage(file, lambda: agreement(self.study(seed))))

    def further_tables(self) -> list[tuple[str, str]]:
        """Return none."""
        return []

    @property
    def attacked(self) -> str:
        """The request of the sweeps."""
        return self.swept

    # The request of the sweeps and of the redistribution figure

    @property
    def swept(self) -> str:
        """The request of the sweeps: the middle one of those with a retrained model, else the first."""
        again = [name for name in self.chosen if self.is_retrained(name)]
        return again[len(again) // 2] if again else self.chosen[0]

    def swept_request(self) -> OneStepRequest:
        """Return that request with the first seed."""
        return self.request(self.swept, self.seeds[0])

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw every row from the same latents, and where mass went."""
        return [*(self.rows_picture(name, ()) for name in self.chosen), self._redistribution()]

    def rows_picture(self, dataset: str, methods: Sequence[str]) -> tuple[Path, str]:
        """Draw samples of every row of a request from the same latents, sixteen that are forgotten first."""
        request = self.request(dataset, self.seeds[0])
        study = request.study
        z = mixed_latents(request)
        strips = []
        for name in ("original", *request.rows):
            strips.append((name, pictures(study.whole(request.model_of(name)), z)))
        path = image_rows(self.out / f"rows-{dataset}.png", [(name, x.numpy()) for name, x in strips])
        return path, (
            f"{dataset}: every row from the same latents, the first half of which gave the forgotten class "
            "(retrained: another map of them)."
        )

    def _redistribution(self) -> tuple[Path, str]:
        request = self.swept_request()
        audit = request.audit()
        matrices = {
            row["method"]: torch.tensor(row["transition"]).numpy()
            for row in audit["rows"]
            if row["transition"] is not None
        }
        counts = next(row["class_counts"] for row in audit["rows"] if row["method"] == "target")
        path = redistribution(
            self.out / f"redistribution-{self.swept}.png",
            matrices,
            request.study.class_names,
            request.forget,
            target_shares=[count / sum(counts) for count in counts],
        )
        return (path, f"{self.swept}: class before (rows) and after (columns) of the same latents, %.")


def agreement(study: Study) -> dict[str, Any]:
    """Return whether a study's samples are clear enough to judge: the judge's word against the guide's."""
    latents = study.flow_map.sample(study.recipe.n, stream(study.seed, Stream.AGREEMENT))
    judge, held_out = study.classifier_judge, study.parts["held_out"]
    samples = judge.probabilities(study.decoded(latents))
    real = judge.probabilities(held_out.x)
    copies = judge.probabilities(study.decoded(study.latents("held_out").x))
    guided = study.guide.probabilities(latents).argmax(1)

    def right(probabilities: torch.Tensor) -> float:
        return 100 * float((probabilities.argmax(1) == held_out.labels).float().mean())

    return {
        "seed": study.seed,
        "accuracy": right(real),
        "sure": 100 * metrics.judge_confidence(real),
        "reconstructed": right(copies),
        "sure_samples": 100 * metrics.judge_confidence(samples),
        "agreement": 100 * float((samples.argmax(1) == guided).float().mean()),
    }


def mixed_latents(request: OneStepRequest, n: int = 16) -> torch.Tensor:
    """Return n latents, the first half of which the judge sees become the forgotten class."""
    study, z = request.study, request.z()[:2000]
    labels = study.judge.probabilities(study.whole(request.model).push_batches(z)).argmax(1)
    forgotten = torch.isin(labels, torch.tensor(request.forget))
    return torch.cat([z[forgotten][: n // 2], z[~forgotten][: n - n // 2]])
