"""ContinualFlow in two dimensions: circles, moons, six Gaussians and a checkerboard (arXiv 2506.18747)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unflow.data.toy import PLANAR_SETS, Checkerboard
from unflow.energies import ClassLogOdds, Energy
from unflow.evidence import metrics
from unflow.evidence.reproduce.experiment import format_records
from unflow.evidence.reproduce.figures import draw_bars, draw_scatter_panels, draw_trajectories
from unflow.evidence.reproduce.planar import PlanarExperiment
from unflow.evidence.reproduce.recipes import PLANAR
from unflow.evidence.reproduce.request import MARGIN, Request
from unflow.evidence.reproduce.results import CONTINUALFLOW_INTRO, CONTINUALFLOW_NOTES
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.mathematics.couplings import ExactOT
from unflow.methods import OTFM
from unflow.models import Chain, Flow
from unflow.target import Target
from unflow.training.originals.distill import compute_trajectory
from unflow.unlearning.unlearn import unlearn

PANELS = (
    "original",
    "target",
    "retrained",
    "erfm_resample",
    "erfm_resample_prior",
    "erfm",
    "erfm_prior",
    "ot_fm",
    "fine_tune",
    "gradient_ascent",
    "neg_grad_plus",
)
TRANSPORT = 2048
"""Points of the exact transport plan in the table of path energies."""


class ContinualFlow2D(PlanarExperiment):
    """Four two-dimensional datasets, judged by their exact geometry."""

    name: ClassVar[str] = "continualflow-2d"
    title: ClassVar[str] = "ContinualFlow in the plane"
    default_recipe: ClassVar[Recipe] = PLANAR
    published: ClassVar[str | None] = "continualflow_table3.csv"
    intro: ClassVar[Sequence[str]] = CONTINUALFLOW_INTRO
    notes: ClassVar[Sequence[str]] = CONTINUALFLOW_NOTES

    def make_request(self, dataset: str, seed: int) -> Request:
        """Return the paper's request for one dataset with one seed."""
        return Request(self.make_study(dataset, seed), PLANAR_SETS[dataset].forget, "request")

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw the samples of every row, the paths of learning and unlearning, and the composition."""
        figures = []
        for dataset in self.chosen:
            request = self.make_request(dataset, self.seeds[0])
            figures += [self._draw_points(dataset, request), self._draw_paths(dataset, request)]
        if "checkerboard" in self.chosen:
            figures.append(self._draw_composition())
        return figures

    def _draw_points(self, dataset: str, request: Request) -> tuple[Path, str]:
        planar, z = PLANAR_SETS[dataset], request.draw_latents()[:3000]
        clouds = {"original": request.target.model.push_batches(z), "target": request.draw_target(0).x[:3000]}
        clouds |= {name: request.run_row(name).model.push_batches(z) for name in PANELS if name not in clouds}
        forgotten = [
            torch.isin(planar.classify(clouds[n]), torch.tensor(planar.forget)).numpy() for n in PANELS
        ]
        path = draw_scatter_panels(
            self.out / f"points-{dataset}.png",
            [(name, clouds[name].numpy()) for name in PANELS],
            forgotten=forgotten,
        )
        return path, f"{dataset}: samples of every row; what the geometry calls forgotten is marked."

    def _draw_paths(self, dataset: str, request: Request) -> tuple[Path, str]:
        original, model = request.target.model, request.run_row("erfm_resample").model
        assert isinstance(original, Flow)
        assert isinstance(model, Chain)
        assert isinstance(model.after, Flow)
        learning = compute_trajectory(original, original.prior(150, stream(0, Stream.TRAJECTORIES)))
        after = Flow(model.after.net, model.sample_shape, "midpoint", 16)
        unlearning = compute_trajectory(after, learning[:, -1])
        side = torch.linspace(-3, 3, 240)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=2)
        with torch.no_grad():
            energy = request.energy(grid.reshape(-1, 2)).reshape(len(side), len(side))
        path = draw_trajectories(
            self.out / f"trajectories-{dataset}.png",
            learning.transpose(0, 1).numpy(),
            unlearning.transpose(0, 1).numpy(),
            energy.numpy(),
            (-3, 3, -3, 3),
        )
        return path, f"{dataset}: paths of learning and of unlearning (erfm_resample), over the energy."

    # Composition

    def measure_compositions(self) -> list[dict[str, Any]]:
        """Forget the union, and the intersection, of the top row and the last column."""
        study = self.make_study("checkerboard", self.seeds[0])
        top, last = Checkerboard.top_row, Checkerboard.last_column
        row, column = (ClassLogOdds(study.calibrated_guide, k, MARGIN) for k in (top, last))
        both = tuple(sorted({*top, *last})), tuple(k for k in top if k in last)
        return [
            self._measure_composition(study, name, energy, forget)
            for name, energy, forget in (
                ("union", row | column, both[0]),
                ("intersection", row & column, both[1]),
            )
        ]

    def _measure_composition(
        self, study: Study, name: str, energy: Energy, forget: tuple[int, ...]
    ) -> dict[str, Any]:
        request = Request(study, forget, name, energy=energy)
        x = request.run_row("erfm_resample").model.push_batches(request.draw_latents())
        exact = request.draw_target(0).x
        shares, wanted = (self._measure_shares(points) for points in (x, exact))
        return {
            "request": f"{name} of top row and last column",
            "forgotten left": float(shares[list(forget)].sum()),
            "target": float(wanted[list(forget)].sum()),
            "tv": metrics.total_variation(shares, wanted),
            "c2st": metrics.c2st_auc(generated=x, reference=exact, classifier="knn"),
            "shares": shares.tolist(),
            "wanted": wanted.tolist(),
        }

    def _measure_shares(self, x: Tensor) -> Tensor:
        labels = PLANAR_SETS["checkerboard"].classify(x)
        return torch.bincount(labels, minlength=len(Checkerboard.class_names)) / len(x)

    def _draw_composition(self) -> tuple[Path, str]:
        records = stage(self.out / "composition.json", self.measure_compositions)
        series: dict[str, list[float]] = {}
        for record in records:
            name = record["request"].split()[0]
            series |= {f"{name}: erfm_resample": record["shares"], f"{name}: exact target": record["wanted"]}
        names = [name.replace("row ", "").replace(", column ", "/") for name in Checkerboard.class_names]
        path = draw_bars(
            self.out / "composition.png", names, series, ylabel="share of samples, by row/column of the cell"
        )
        return path, "Union and intersection of two requests on the checkerboard, beside their exact targets."

    # Appendix C

    def measure_path_energies(self) -> list[dict[str, Any]]:
        """Return the path energies of three methods, and the squared Wasserstein-2 distance."""
        return [self._measure_path_energy(dataset) for dataset in self.chosen]

    def _measure_path_energy(self, dataset: str) -> dict[str, Any]:
        request = self.make_request(dataset, self.seeds[0])
        study = request.study
        retain = study.parts["train"].without_classes(request.forget).x
        z = study.flow.prior(TRANSPORT, stream(study.seed, Stream.TRANSPORT))
        x0 = study.flow.push_batches(z)
        method = study.recipe.find_method("ot_fm")
        assert isinstance(method, OTFM)
        independent = unlearn(
            Target(study.flow, request.energy),
            replace(method, coupling="independent"),
            request.out / "ot_fm-independent",
            seed=study.seed,
            retain=retain,
            name="ot_fm-independent",
        )
        held_out = study.parts["held_out"].without_classes(request.forget).x[:TRANSPORT]
        return {
            "dataset": dataset,
            "ot_fm": path_energy(request.run_row("ot_fm").model, x0),
            "independent": path_energy(independent.model, x0),
            "erfm_resample": path_energy(request.run_row("erfm_resample").model, x0),
            "w2": squared_wasserstein(x0[: len(held_out)], held_out),
        }

    def make_further_tables(self) -> list[tuple[str, str]]:
        """Return path energies and compositions."""
        energies = stage(
            self.out / f"path-energy{'-'.join(['', *self.only])}.json", self.measure_path_energies
        )
        tables = [
            (
                "Path energy E∫‖v‖² dt (Appendix C)",
                format_records(
                    energies,
                    {
                        "dataset": ("data set", -1),
                        "ot_fm": ("ot_fm, exact OT pairs", 4),
                        "independent": ("ot_fm, independent pairs", 4),
                        "erfm_resample": ("erfm_resample", 4),
                        "w2": ("exact W2² to held-out data", 4),
                    },
                ),
            )
        ]
        if "checkerboard" in self.chosen:
            records = stage(self.out / "composition.json", self.measure_compositions)
            tables.append(
                (
                    "Composition",
                    format_records(
                        records,
                        {
                            "request": ("request", -1),
                            "forgotten left": ("forgotten left", 4),
                            "target": ("of the exact target", 4),
                            "tv": ("TV of cell shares", 3),
                            "c2st": ("c2st target (knn)", 3),
                        },
                    ),
                )
            )
        return tables


@torch.no_grad()
def path_energy(model: Any, x: Tensor, steps: int = 50) -> float:
    r"""Return E ∫ ||v(x_t, t)||^2 dt of the flow appended by a chain, from points x [n, d].

    By the Benamou-Brenier formula it is at least the squared Wasserstein-2 distance between the laws at
    both ends (arXiv 2506.18747, Appendix C).
    """
    assert isinstance(model, Chain)
    assert isinstance(model.after, Flow)
    after = Flow(model.after.net, model.sample_shape, "midpoint", steps)
    points = compute_trajectory(after, x)
    times = (torch.arange(steps) + 0.5) / steps
    energy = 0.0
    for k, t in enumerate(times):
        middle = (points[:, k] + points[:, k + 1]) / 2
        velocity = after.net(middle, t.expand(len(x)))
        energy += float(velocity.square().flatten(1).sum(1).mean()) / steps
    return energy


def squared_wasserstein(x: Tensor, y: Tensor) -> float:
    """Return the squared Wasserstein-2 distance between two samples of equal size, [n, d] each."""
    return float((x - y[ExactOT().pair(x, y)]).square().sum(1).mean())


__all__ = ["ContinualFlow2D", "path_energy", "squared_wasserstein"]
