"""UOT-Unlearn on MNIST: a one-step model of images forgets each digit (arXiv 2603.16489)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from unflow.data import LabelledData
from unflow.data.idx import mnist
from unflow.evidence.reproduce.ablation import COLUMNS as ABLATION
from unflow.evidence.reproduce.ablation import run_ablation
from unflow.evidence.reproduce.anchors import COLUMNS as ANCHORS
from unflow.evidence.reproduce.anchors import average_classes, compare_images, measure_images, name_samples
from unflow.evidence.reproduce.experiment import format_records
from unflow.evidence.reproduce.figures import Curve, draw_trade_off
from unflow.evidence.reproduce.one_step import GeneratorRequest, OneStepRequest
from unflow.evidence.reproduce.one_step_images import OneStepImages
from unflow.evidence.reproduce.recipes import PIXEL_MNIST
from unflow.evidence.reproduce.study import Recipe
from unflow.evidence.reproduce.trade_off import COLUMNS as TRADE_OFF
from unflow.evidence.reproduce.trade_off import measure_trade_off
from unflow.ground.files import stage


class UOTMNIST(OneStepImages):
    """Ten requests, one digit each (1, 3 and 8 with every seed and a retrained model), and the sweeps."""

    name: ClassVar[str] = "uot-mnist"
    title: ClassVar[str] = "UOT-Unlearn on MNIST"
    datasets: ClassVar[tuple[str, ...]] = tuple(f"mnist-{k}" for k in range(10))
    default_recipe: ClassVar[Recipe] = PIXEL_MNIST
    request_type: ClassVar[type[OneStepRequest]] = GeneratorRequest
    retrained_classes: ClassVar[tuple[int, ...]] = (1, 3, 8)

    def load(self) -> LabelledData:
        """Return the 70,000 digits."""
        assert self.data is not None
        return mnist(self.data)

    # Sweeps

    def make_further_tables(self) -> list[tuple[str, str]]:
        """Return the trade-off, the requests by images, and the ablation."""
        words, (five, images) = (
            f"{self.swept_dataset}, seed {self.seeds[0]}",
            self.compare_requests_by_images(),
        )
        return [
            (f"Forgetting against quality, {words}", format_records(self.measure_trade_off(), TRADE_OFF)),
            ("Forget by five images and no labels, first seed", format_records(five, ANCHORS)),
            (f"Images, features and energies, {words}", format_records(images, ANCHORS)),
            (
                f"One factor at a time around uot_tilted, {words}",
                format_records(self.run_ablation(), ABLATION),
            ),
        ]

    def list_stages(self) -> list[tuple[str, ...]]:
        """Return the three sweeps."""
        return [("measure_trade_off",), ("run_ablation",), ("compare_requests_by_images",)]

    def measure_trade_off(self) -> list[dict[str, Any]]:
        """Return PUL, u-FID and other metrics of every method at several strengths."""
        file = self.out / f"trade-off-{self.swept_dataset}.json"
        return list(stage(file, lambda: measure_trade_off(self.make_swept_request())))

    def run_ablation(self) -> list[dict[str, Any]]:
        """Return the records of the ablation of uot_tilted."""
        return run_ablation(self.make_swept_request())

    def measure_five_images(self) -> list[dict[str, Any]]:
        """Return the metrics of requests by five images without labels, per class and on average."""
        requests = [self.make_request(name, self.seeds[0]) for name in self.chosen]
        records = [measure_images(each, 5, name_samples(each.study), "grown") for each in requests]
        return [*records, average_classes(records)]

    def compare_requests_by_images(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return both tables of requests by a few images."""
        return self.measure_five_images(), self.compare_images()

    def compare_images(self) -> list[dict[str, Any]]:
        """Return the metrics for every number of images, extractor and energy."""
        return compare_images(self.make_swept_request())

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw the figures of all image experiments, and forgetting against quality."""
        return [*super().draw(), self._draw_trade_off()]

    def _draw_trade_off(self) -> tuple[Path, str]:
        records, request = self.measure_trade_off(), self.make_swept_request()
        curves = {
            name: _make_curve([record for record in records if record["method"] == name])
            for name in dict.fromkeys(record["method"] for record in records)
        }
        rows = {row["method"]: row for row in request.audit()["rows"]}
        references = {
            name: (rows[name]["fid_retain"], rows[name]["pul"])
            for name in ("original", "target", "retrained")
            if name in rows
        }
        path = draw_trade_off(
            self.out / f"trade-off-{self.swept_dataset}.png",
            curves,
            references,
            xlabel="u-FID: Fréchet distance to real retained images",
            ylabel="PUL, %",
        )
        return (
            path,
            f"{self.swept_dataset}: forgetting against quality; one point per strength, large: the default.",
        )


def _make_curve(records: Sequence[dict[str, Any]]) -> Curve:
    return Curve(
        strengths=[record["value"] for record in records],
        x=[record["fid_retain"] for record in records],
        y=[record["pul"] for record in records],
        default=next(record["value"] for record in records if record["is_default"]),
    )
