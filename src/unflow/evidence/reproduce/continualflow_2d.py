"""ContinualFlow in the plane: circles, moons, six Gaussians and a checkerboard (arXiv 2506.18747)."""

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
from unflow.evidence.reproduce.experiment import Experiment, records_table
from unflow.evidence.reproduce.figures import bars, scatter_panels, trajectories
from unflow.evidence.reproduce.recipes import PLANAR
from unflow.evidence.reproduce.request import MARGIN, Request
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.evidence.reproduce.words import CONTINUALFLOW_INTRO, CONTINUALFLOW_NOTES
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.mathematics.couplings import ExactOT
from unflow.methods import OTFM
from unflow.models import Chain, Flow
from unflow.target import Target
from unflow.training.originals.distill import trajectory
from unflow.unlearning.unlearn import unlearn

NUM_POINTS = {"train": 10_000, "judge": 5_000, "held_out": 10_000}
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


class ContinualFlow2D(Experiment):
    """Four sets in the plane, judged by their exact geometry."""

    name: ClassVar[str] = "continualflow-2d"
    title: ClassVar[str] = "ContinualFlow in the plane"
    datasets: ClassVar[tuple[str, ...]] = tuple(PLANAR_SETS)
    published: ClassVar[str | None] = "continualflow_table3.csv"
    intro: ClassVar[Sequence[str]] = CONTINUALFLOW_INTRO
    notes: ClassVar[Sequence[str]] = CONTINUALFLOW_NOTES

    def check(self) -> None:
        """Nothing to check: the data is made."""

    def study(self, dataset: str, seed: int) -> Study:
        """Return the study of one set and seed; its points are drawn anew for every seed."""
        folder = f"{dataset}/seed-{seed}"
        return self.once(
            folder, lambda: planar_study(dataset, seed, self.recipe or PLANAR, self.out / folder, self.device)
        )

    def groups(self) -> list[list[tuple[str, int]]]:
        """Return every request alone: each set and seed is a study of its own."""
        return [[(dataset, seed)] for dataset in self.chosen for seed in self.seeds]

    def request(self, dataset: str, seed: int) -> Request:
        """Return the paper's request of one set with one seed."""
        return Request(self.study(dataset, seed), PLANAR_SETS[dataset].forget, "request")

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw points of every row, paths of learning and unlearning, and the composition."""
        figures = []
        for dataset in self.chosen:
            request = self.request(dataset, self.seeds[0])
            figures += [self._points(dataset, request), self._paths(dataset, request)]
        if "checkerboard" in self.chosen:
            figures.append(self._composition())
        return figures

    def _points(self, dataset: str, request: Request) -> tuple[Path, str]:
        planar, z = PLANAR_SETS[dataset], request.z()[:3000]
        clouds = {
            "original": request.target.model.push_batches(z),
            "target": request.target_samples(0).x[:3000],
        }
        clouds |= {
            name: request.unlearned(name).model.push_batches(z) for name in PANELS if name not in clouds
        }
        forgotten = [
            torch.isin(planar.classify(clouds[n]), torch.tensor(planar.forget)).numpy() for n in PANELS
        ]
        path = scatter_panels(
            self.out / f"points-{dataset}.png",
            [(name, clouds[name].numpy()) for name in PANELS],
            forgotten=forgotten,
        )
        return path, f"{dataset}: samples of every row; what the geometry calls forgotten is marked."

    def _paths(self, dataset: str, request: Request) -> tuple[Path, str]:
        original, model = request.target.model, request.unlearned("erfm_resample").model
        assert isinstance(original, Flow)
        assert isinstance(model, Chain)
        assert isinstance(model.after, Flow)
        learning = trajectory(original, original.prior(150, stream(0, Stream.TRAJECTORIES)))
        after = Flow(model.after.net, model.sample_shape, "midpoint", 16)
        unlearning = trajectory(after, learning[:, -1])
        side = torch.linspace(-3, 3, 240)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=2)
        with torch.no_grad():
            energy = request.energy(grid.reshape(-1, 2)).reshape(len(side), len(side))
        path = trajectories(
            self.out / f"trajectories-{dataset}.png",
            learning.transpose(0, 1).numpy(),
            unlearning.transpose(0, 1).numpy(),
            energy.numpy(),
            (-3, 3, -3, 3),
        )
        return path, f"{dataset}: paths of learning and of unlearning (erfm_resample), over the energy."

    # Composition

    def compositions(self) -> list[dict[str, Any]]:
        """Forget the top row *or* the last column, and what is in the top row *and* the last column."""
        study = self.study("checkerboard", self.seeds[0])
        top, last = Checkerboard.top_row, Checkerboard.last_column
        row, column = (ClassLogOdds(study.calibrated_guide, k, MARGIN) for k in (top, last))
        both = tuple(sorted({*top, *last})), tuple(k for k in top if k in last)
        return [
            self._composed(study, name, energy, forget)
            for name, energy, forget in (
                ("union", row | column, both[0]),
                ("intersection", row & column, both[1]),
            )
        ]

    def _composed(self, study: Study, name: str, energy: Energy, forget: tuple[int, ...]) -> dict[str, Any]:
        request = Request(study, forget, name, energy=energy)
        x = request.unlearned("erfm_resample").model.push_batches(request.z())
        exact = request.target_samples(0).x
        shares, wanted = (self._shares(points) for points in (x, exact))
        return {
            "request": f"{name} of top row and last column",
            "forgotten left": float(shares[list(forget)].sum()),
            "target": float(wanted[list(forget)].sum()),
            "tv": metrics.total_variation(shares, wanted),
            "c2st": metrics.c2st_auc(generated=x, reference=exact, classifier="knn"),
            "shares": shares.tolist(),
            "wanted": wanted.tolist(),
        }

    def _shares(self, x: Tensor) -> Tensor:
        labels = PLANAR_SETS["checkerboard"].classify(x)
        return torch.bincount(labels, minlength=len(Checkerboard.class_names)) / len(x)

    def _composition(self) -> tuple[Path, str]:
        records = stage(self.out / "composition.json", self.compositions)
        series: dict[str, list[float]] = {}
        for record in records:
            name = record["request"].split()[0]
            series |= {f"{name}: erfm_resample": record["shares"], f"{name}: exact target": record["wanted"]}
        names = [name.replace("row ", "").replace(", column ", "/") for name in Checkerboard.class_names]
        path = bars(
            self.out / "composition.png", names, series, ylabel="share of samples, by row/column of the cell"
        )
        return path, "Union and intersection of two requests on the checkerboard, beside their exact targets."

    # Appendix C

    def path_energies(self) -> list[dict[str, Any]]:
        """Path energies of ot_fm and of independent pairs beside the squared Wasserstein-2 distance."""
        return [self._path_energy(dataset) for dataset in self.chosen]

    def _path_energy(self, dataset: str) -> dict[str, Any]:
        request = self.request(dataset, self.seeds[0])
        study = request.study
        retain = study.parts["train"].without_classes(request.forget).x
        z = study.flow.prior(TRANSPORT, stream(study.seed, Stream.TRANSPORT))
        x0 = study.flow.push_batches(z)
        method = study.recipe.method("ot_fm")
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
            "ot_fm": path_energy(request.unlearned("ot_fm").model, x0),
            "independent": path_energy(independent.model, x0),
            "erfm_resample": path_energy(request.unlearned("erfm_resample").model, x0),
            "w2": squared_wasserstein(x0[: len(held_out)], held_out),
        }

    def further_tables(self) -> list[tuple[str, str]]:
        """Return path energies and compositions."""
        energies = stage(self.out / f"path-energy{'-'.join(['', *self.only])}.json", self.path_energies)
        tables = [
            (
                "Path energy E∫‖v‖² dt (Appendix C)",
                records_table(
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
            records = stage(self.out / "composition.json", self.compositions)
            tables.append(
                (
                    "Composition",
                    records_table(
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


def planar_study(dataset: str, seed: int, recipe: Recipe, out: Path, device: str) -> Study:
    """Return the study of one set in the plane, with points drawn for this seed."""
    planar = PLANAR_SETS[dataset]
    parts = {
        part: planar.sample(n, stream(seed, Stream.POINTS + k))
        for k, (part, n) in enumerate(NUM_POINTS.items())
    }
    return Study(recipe, parts, seed, out, device, planar)


@torch.no_grad()
def path_energy(model: Any, x: Tensor, steps: int = 50) -> float:
    r"""Return E ∫ ||v(x_t, t)||^2 dt of the flow that a chain has appended, from points x [n, d].

    By the formula of Benamou and Brenier it is at least the squared Wasserstein-2 distance between the
    laws at both ends (arXiv 2506.18747, Appendix C).
    """
    assert isinstance(model, Chain)
    assert isinstance(model.after, Flow)
    after = Flow(model.after.net, model.sample_shape, "midpoint", steps)
    points = trajectory(after, x)
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


__all__ = ["ContinualFlow2D", "path_energy", "planar_study", "squared_wasserstein"]
