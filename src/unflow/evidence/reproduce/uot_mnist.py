"""UOT-Unlearn on MNIST: a one-step model in 16 latents forgets each digit (arXiv 2603.16489)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from unflow.data import LabelledData
from unflow.data.idx import mnist
from unflow.evidence.reproduce.ablation import COLUMNS as ABLATION
from unflow.evidence.reproduce.ablation import ablation
from unflow.evidence.reproduce.anchors import COLUMNS as ANCHORS
from unflow.evidence.reproduce.anchors import by_images, by_some_images, mean_over_classes
from unflow.evidence.reproduce.experiment import records_table
from unflow.evidence.reproduce.figures import Curve, trade_off
from unflow.evidence.reproduce.one_step_images import OneStepImages
from unflow.evidence.reproduce.recipes import ONE_STEP_MNIST
from unflow.evidence.reproduce.study import Recipe
from unflow.evidence.reproduce.trade_off import COLUMNS as TRADE_OFF
from unflow.evidence.reproduce.trade_off import trade_off_points
from unflow.ground.files import stage


class UOTMNIST(OneStepImages):
    """Ten requests, one digit each; 1, 3 and 8 with every seed and a retrained model; and the sweeps."""

    name: ClassVar[str] = "uot-mnist"
    title: ClassVar[str] = "UOT-Unlearn on MNIST"
    datasets: ClassVar[tuple[str, ...]] = tuple(f"mnist-{k}" for k in range(10))
    retrained_classes: ClassVar[tuple[int, ...]] = (1, 3, 8)

    def load(self) -> LabelledData:
        """Return the 70,000 digits."""
        assert self.data is not None
        return mnist(self.data)

    def default_recipe(self) -> Recipe:
        """Return the recipe in 16 latents."""
        return ONE_STEP_MNIST

    # Sweeps

    def further_tables(self) -> list[tuple[str, str]]:
        """Return the points of the trade-off figure, and the ablation."""
        words, (five, images) = f"{self.swept}, seed {self.seeds[0]}", self.requests_by_images()
        return [
            (f"Forgetting against quality, {words}", records_table(self.trade_off(), TRADE_OFF)),
            ("Forget by five images and no labels, first seed", records_table(five, ANCHORS)),
            (f"Images, features and energies, {words}", records_table(images, ANCHORS)),
            (f"One factor at a time around uot_tilted, {words}", records_table(self.ablation(), ABLATION)),
        ]

    def further_stages(self) -> list[tuple[str, ...]]:
        """Return the three that take long."""
        return [("trade_off",), ("ablation",), ("requests_by_images",)]

    def trade_off(self) -> list[dict[str, Any]]:
        """Return PUL, u-FID and more of every method at several strengths."""
        file = self.out / f"trade-off-{self.swept}.json"
        return list(stage(file, lambda: trade_off_points(self.swept_request())))

    def ablation(self) -> list[dict[str, Any]]:
        """Return one factor at a time around the default of uot_tilted."""
        return ablation(self.swept_request())

    def five_images(self) -> list[dict[str, Any]]:
        """Return what five images of each class come to, without labels, and the mean over classes."""
        requests = [self.request(name, self.seeds[0]) for name in self.chosen]
        records = [by_some_images(request, 5, "latents", "grown") for request in requests]
        return [*records, mean_over_classes(records)]

    def requests_by_images(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return both tables of requests by a few images."""
        return self.five_images(), self.images_ablation()

    def images_ablation(self) -> list[dict[str, Any]]:
        """Return how many images, which extractor and which energy."""
        return by_images(self.swept_request())

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw what every such experiment draws, and forgetting against quality."""
        return [*super().draw(), self._trade_off_figure()]

    def _trade_off_figure(self) -> tuple[Path, str]:
        records, request = self.trade_off(), self.swept_request()
        curves = {
            name: _curve([record for record in records if record["method"] == name])
            for name in dict.fromkeys(record["method"] for record in records)
        }
        rows = {row["method"]: row for row in request.audit()["rows"]}
        references = {
            name: (rows[name]["fid_retain"], rows[name]["pul"])
            for name in ("original", "target", "retrained")
            if name in rows
        }
        path = trade_off(
            self.out / f"trade-off-{self.swept}.png",
            curves,
            references,
            xlabel="u-FID: Fréchet distance to real retained images",
            ylabel="PUL, %",
        )
        return path, f"{self.swept}: forgetting against quality; one point per strength, large: the default."


def _curve(records: Sequence[dict[str, Any]]) -> Curve:
    return Curve(
        strengths=[record["value"] for record in records],
        x=[record["fid_retain"] for record in records],
        y=[record["pul"] for record in records],
        default=next(record["value"] for record in records if record["is_default"]),
    )
