"""UOT-Unlearn in one and two dimensions, where its law can be compared with the exact target on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor

from unflow.data.toy import PLANAR_SETS
from unflow.energies import CallableEnergy
from unflow.evidence import metrics
from unflow.evidence.auditing import AuditRow, Entry, Evidence
from unflow.evidence.report.terminal import Columns
from unflow.evidence.reproduce.experiment import format_records
from unflow.evidence.reproduce.figures import draw_scatter_panels
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.evidence.reproduce.planar import PlanarExperiment
from unflow.evidence.reproduce.recipes import ONE_STEP_PLANAR
from unflow.evidence.reproduce.results import ONE_STEP_INTRO, ONE_STEP_NOTES, RATIOS
from unflow.evidence.reproduce.study import Recipe
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.mathematics.divergences import DIVERGENCES, KL
from unflow.mathematics.grid import cell_centres, law_on_grid, transport_law
from unflow.methods import UOT
from unflow.models import FlowMap, GenerativeModel
from unflow.nets import new_net
from unflow.target import Target
from unflow.unlearning.unlearn import unlearn

Source = Literal["fixed", "relaxed"]
SOURCES: tuple[Source, ...] = ("fixed", "relaxed")
SIDE, CELLS = 1.2, 48
"""Grid on which laws are compared: [-1.2, 1.2]^2, 48 cells per axis."""
NUM_LAW = 500_000
"""Samples from which each law on the grid is estimated."""
TAUS = (0.0, 1.0, 3.0, 10.0)
PLANAR_COLUMNS: Columns = {
    "forget_rate": ("forgotten left %", 100, 2),
    "pul": ("PUL %", 1, 2),
    "tv_target": ("TV to exact q*", 1, 3),
    "off_data": ("off data %", 100, 2),
    "c2st_target": ("c2st target", 1, 3),
    "fid_retain": ("u-FID", 1, 4),
    "share_tv_target": ("share TV target", 1, 3),
    "stayed_share": ("stayed %", 100, 1),
    "seconds": ("seconds", 1, 1),
    **RATIOS,
}

LINE = {
    "divergence": ("divergence", -1),
    "pool": ("pool", -1),
    "tv": ("TV to exact q*", 4),
    "floor": ("sampling alone", 4),
    "left": ("mass right of 0.3", 4),
    "left_target": ("of exact q*", 4),
    "seed": ("seed", -1),
}
OPTIMA = {
    "dataset": ("data set", -1),
    "pool": ("pool", -1),
    "tau": ("tau", 1),
    "to_target": ("TV to exact q*", 4),
    "to_optimum": ("TV to the objective's optimum", 4),
    "moved": ("TV of that optimum to q*", 4),
    "floor": ("sampling alone", 4),
    "left": ("forgotten left %", 2),
}
CHOICES = {
    "dataset": ("data set", -1),
    "divergence": ("divergence", -1),
    "pool": ("pool", -1),
    "source": ("source", -1),
    "left": ("forgotten left %", 2),
    "left_target": ("of exact q* %", 2),
    "tv": ("TV to exact q*", 4),
    "stayed": ("stayed %", 1),
}


class PlanarRequest(OneStepRequest):
    """A request for two-dimensional data, whose rows are also compared with the exact target on a grid."""

    def estimate_law(self, model: GenerativeModel) -> Tensor:
        """Return a model's law on the grid."""
        z = model.prior(NUM_LAW, stream(self.study.seed, Stream.LAW))
        return law_on_grid(model.push_batches(z), SIDE, CELLS)

    def compute_exact_law(self, which: int = 0, target: Target | None = None) -> Tensor:
        """Return q* on the grid, from the ``which``-th weighted set of the original's samples."""
        x, energy = self._sample_cloud(which)
        return law_on_grid(x, SIDE, CELLS, (target or self.target).density_ratio(energy))

    def measure_floor(self) -> float:
        """Return the total variation between two independent estimates of q*."""
        return metrics.total_variation(self.compute_exact_law(0), self.compute_exact_law(1))

    def compute_optimum(self, tau: float) -> Tensor:
        """Return the optimum of UOT's objective (fixed source, KL) on the grid."""
        q0, target = law_on_grid(self._sample_cloud(0)[0], SIDE, CELLS), self.compute_exact_law()
        there = target > 0
        cost = -(target[there] / q0[there]).log()  # F of a cell, from its mean weight
        law = torch.zeros_like(q0)
        points = cell_centres(SIDE, CELLS, 2)[there]
        law[there] = transport_law(
            q0[there] / q0[there].sum(), points, cost - cost.min(), tau=tau, divergence=KL()
        )
        return law

    def _sample_cloud(self, which: int) -> tuple[Tensor, Tensor]:
        bank = self.target.bank(NUM_LAW, stream(self.study.seed, Stream.GRID_TARGET, which))
        return bank.x, bank.energy

    def measure_further(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return the total variation to exact q* on the grid; for the target it is the floor."""
        if entry.method == "target":
            return {"tv_target": self.measure_floor()}
        law = self.estimate_law(self.find_model(entry.method))
        return {"tv_target": metrics.total_variation(law, self.compute_exact_law())}

    def measure_left(self, x: Tensor) -> float:
        """Return the share of points in the forgotten regions, in percent."""
        return 100 * metrics.forget_rate(self.study.judge.probabilities(x), self.forget)


class UOT2D(PlanarExperiment):
    """Four two-dimensional datasets: every method beside the exact target, and the optimum as tau varies."""

    name: ClassVar[str] = "uot-2d"
    title: ClassVar[str] = "UOT-Unlearn in the plane"
    default_recipe: ClassVar[Recipe] = ONE_STEP_PLANAR
    columns: ClassVar[Columns] = PLANAR_COLUMNS
    intro: ClassVar[Sequence[str]] = ONE_STEP_INTRO
    notes: ClassVar[Sequence[str]] = ONE_STEP_NOTES

    def make_request(self, dataset: str, seed: int) -> PlanarRequest:
        """Return the request for one dataset with one seed."""
        return PlanarRequest(self.make_study(dataset, seed), PLANAR_SETS[dataset].forget, "request")

    def make_first_request(self, dataset: str) -> PlanarRequest:
        """Return the request of the first seed, for figures and further tables."""
        return self.make_request(dataset, self.seeds[0])

    # Tables

    def make_further_tables(self) -> list[tuple[str, str]]:
        """Return the tables of the laws on the line, of the optima, and of all choices."""
        line = self.compare_on_line()
        optima = [record for dataset in self.chosen for record in self.compare_optima(dataset)]
        choices = [record for dataset in self.chosen for record in self.compare_choices(dataset)]
        return [
            ("On a line: N(0, 1) forgets what lies right of 0.3, tau = 0", format_records(line, LINE)),
            ("The optimum of the objective: uot with settings for laws, KL", format_records(optima, OPTIMA)),
            ("Divergence x pool x source", format_records(choices, CHOICES)),
        ]

    def list_stages(self) -> list[tuple[str, ...]]:
        """Return the line, and for every dataset the optima and the choices."""
        return [
            ("compare_on_line",),
            *((name, dataset) for dataset in self.chosen for name in ("compare_optima", "compare_choices")),
        ]

    def compare_on_line(self) -> list[dict[str, Any]]:
        """Return the distance of the law learned on a line to q*, for each divergence and pool."""
        methods = self._make_law_methods()
        return [
            dict(
                stage(
                    self.out / "line" / f"{name}-{method.pool}.json",
                    partial(learn_on_line, name, self.seeds[0], method),
                )
            )
            for name in DIVERGENCES
            for method in methods
        ]

    def compare_optima(self, dataset: str) -> list[dict[str, Any]]:
        """Return the distances of the learned law to q*, and to the optimum of its own objective."""
        file = self.out / dataset / "optima.json"
        paper, laws = self._make_law_methods()
        methods = [paper, *(replace(laws, tau=tau) for tau in TAUS)]
        return list(stage(file, lambda: [self._compare_optimum(dataset, method) for method in methods]))

    def _compare_optimum(self, dataset: str, method: UOT) -> dict[str, Any]:
        request, tau = self.make_first_request(dataset), method.tau
        model = request.run_method("uot", method, f"optimum/{method.pool}-tau-{tau:g}").model
        law, exact, optimum = (
            request.estimate_law(model),
            request.compute_exact_law(),
            request.compute_optimum(tau),
        )
        return {
            "dataset": dataset,
            "pool": method.pool,
            "tau": tau,
            "floor": request.measure_floor(),
            "to_target": metrics.total_variation(law, exact),
            "to_optimum": metrics.total_variation(law, optimum),
            "moved": metrics.total_variation(optimum, exact),
            "left": request.measure_left(model.push_batches(request.draw_latents())),
        }

    def compare_choices(self, dataset: str) -> list[dict[str, Any]]:
        """Return one record per divergence, pool and source; other settings are the rows' defaults."""
        file = self.out / dataset / "choices.json"
        names = [(d, row, source) for d in DIVERGENCES for row in ("uot", "uot_tilted") for source in SOURCES]
        return list(stage(file, lambda: [self._compare_choice(dataset, *name) for name in names]))

    def _compare_choice(self, dataset: str, divergence: str, row: str, source: Source) -> dict[str, Any]:
        request = self.make_first_request(dataset)
        method = self.find_uot(row)
        target = replace(request.target, divergence=DIVERGENCES[divergence]())
        result = unlearn(
            target,
            replace(method, source=source),
            request.out / "choices" / f"{divergence}-{row}-{source}",
            seed=request.study.seed,
            name=row,
        )
        z = request.draw_latents()
        before, after = request.model.push_batches(z), result.model.push_batches(z)
        exact = target.sample(len(z), stream(request.study.seed, Stream.TARGET_FIGURE)).x
        labels = [request.study.judge.probabilities(x).argmax(1) for x in (before, after)]
        return {
            "dataset": dataset,
            "divergence": divergence,
            "pool": method.pool,
            "source": source,
            "left": request.measure_left(after),
            "left_target": request.measure_left(exact),
            "tv": metrics.total_variation(
                request.estimate_law(result.model), request.compute_exact_law(0, target)
            ),
            "stayed": 100 * metrics.stayed_share(labels[0], labels[1], request.forget),
        }

    def find_uot(self, row: str) -> UOT:
        """Return the method of a UOT row."""
        method = (self.recipe or self.default_recipe).find_method(row)
        assert isinstance(method, UOT)
        return method

    def _make_law_methods(self) -> tuple[UOT, UOT]:
        """Return the settings for laws, with the paper's pool and with the tilted pool."""
        laws = self.find_uot("uot_laws")
        return replace(laws, pool="model", share=1.0), laws

    # Figures

    def draw(self) -> list[tuple[Path, str]]:
        """Draw the samples of every row."""
        return [self._draw_points(dataset) for dataset in self.chosen]

    def _draw_points(self, dataset: str) -> tuple[Path, str]:
        request, planar = self.make_first_request(dataset), PLANAR_SETS[dataset]
        z = request.draw_latents()[:3000]
        names = ["original", "target", *request.rows]
        clouds = [
            request.draw_target(0).x[:3000] if name == "target" else request.find_model(name).push_batches(z)
            for name in names
        ]
        forgotten = [torch.isin(planar.classify(x), torch.tensor(planar.forget)).numpy() for x in clouds]
        path = draw_scatter_panels(
            self.out / f"points-{dataset}.png",
            [(name, x.numpy()) for name, x in zip(names, clouds, strict=True)],
            forgotten=forgotten,
        )
        return path, f"{dataset}: samples of every row; what the geometry calls forgotten is marked."


def line_energy(x: Tensor) -> Tensor:
    """Return F = softplus(6 (x - 0.3) + 1) of points [n, 1]."""
    return nnf.softplus(6 * (x[:, 0] - 0.3) + 1)


def learn_on_line(divergence: str, seed: int, method: UOT) -> dict[str, Any]:
    """Return the distance of UOT's law to the exact q* of a request on N(0, 1), tau = 0."""
    net = new_net({"net": "mlp", "shape": [1], "width": 64, "depth": 2, "num_times": 2}, seed)
    model = FlowMap(net, [1])  # an untrained average velocity is 0, so this is the identity
    energy = CallableEnergy(line_energy, lower_bound=0.0)
    target = Target(model, energy, divergence=DIVERGENCES[divergence]())
    centres = cell_centres(4.0, 160, 1)
    p = torch.exp(-centres[:, 0].square() / 2)
    p /= p.sum()
    exact = p * target.density_ratio(energy(centres), p)
    result = unlearn(target, replace(method, tau=0.0), seed=seed, name=f"line {divergence}")
    z = model.prior(NUM_LAW, stream(seed, Stream.LINE_LAW))
    law = law_on_grid(result.model.push_batches(z), 4.0, 160)
    same = torch.multinomial(exact, NUM_LAW, replacement=True, generator=stream(seed, Stream.LINE_TARGET))
    right = centres[:, 0] > 0.3
    return {
        "divergence": divergence,
        "pool": method.pool,
        "seed": seed,
        "tv": metrics.total_variation(law, exact),
        "floor": metrics.total_variation(torch.bincount(same, minlength=160) / NUM_LAW, exact),
        "left": float(law[right].sum()),
        "left_target": float(exact[right].sum()),
    }


__all__ = ["UOT2D", "PlanarRequest", "learn_on_line"]
