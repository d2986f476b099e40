"""ContinualFlow on MNIST, in 16 latents: even and odd digits, strength, inversion, sequential requests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from unflow.data import LabelledData
from unflow.data.idx import mnist
from unflow.energies import ClassLogOdds, Energy, Scaled, Softplus
from unflow.energies.calibration import balance_classes
from unflow.evidence import metrics
from unflow.evidence.reproduce.experiment import format_records
from unflow.evidence.reproduce.figures import draw_bars, draw_image_rows, draw_strength_sweep
from unflow.evidence.reproduce.images import ImageExperiment, make_images
from unflow.evidence.reproduce.recipes import MNIST
from unflow.evidence.reproduce.request import NUM_BALANCE, ROWS, Request
from unflow.evidence.reproduce.results import CONTINUALFLOW_INTRO, CONTINUALFLOW_NOTES
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel

EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
NOT_ZERO = tuple(range(1, 10))
STRENGTHS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
"""Negative: keep only "0"; positive: forget "0"."""
METHOD = "erfm_resample"
INVERSE_MARGIN = 2.0
"""Margin of -F: smaller than that of F, so that samples near the boundary come back as well."""

SWEEP = {
    "strength": ("λ", 2),
    "zeros": ('share of "0"', 4),
    "zeros_target": ("of the exact target", 4),
    "fid": ("FD to real kept digits", 2),
    "fid_target": ("of the exact target", 2),
    "inside_zeros": ('λ inside: share of "0"', 4),
    "inside_zeros_target": ("of its exact target", 4),
    "inside_fid": ("FD to real kept digits", 2),
    "inside_fid_target": ("of its exact target", 2),
}
"""The strength outside, w = sigmoid(-E)^lam with a margin in E, and inside, w = sigmoid(-lam E) with none."""
INVERSION = {
    "law": ("-F applied to", -1),
    "odd": ("share of odd", 4),
    "odd_target": ("of the exact target", 4),
    "c2st": ("c2st of its odd against the original's odd", 3),
    "confidence": ("judge's confidence", 3),
    "sample_size": ("effective sample size", 4),
}
SEQUENCE = {
    "request": ("request", -1),
    "forget_rate": ("forgotten left", 4),
    "fid_even": ("FD to real even digits", 2),
    "ratio": ("/ joint request", 3),
    "nfe": ("evaluations", 0),
}


class ContinualFlowMNIST(ImageExperiment):
    """Keep even digits and forget odd ones; keep only "0"; forget only "0"."""

    name: ClassVar[str] = "continualflow-mnist"
    title: ClassVar[str] = "ContinualFlow on MNIST"
    datasets: ClassVar[tuple[str, ...]] = ("mnist", "mnist-keep-0", "mnist-forget-0")
    default_recipe: ClassVar[Recipe] = MNIST
    published: ClassVar[str | None] = "continualflow_table1.csv"
    intro: ClassVar[Sequence[str]] = CONTINUALFLOW_INTRO
    notes: ClassVar[Sequence[str]] = CONTINUALFLOW_NOTES

    def load(self) -> LabelledData:
        """Return the 70,000 digits."""
        assert self.data is not None
        return mnist(self.data)

    def find_forgotten(self, dataset: str) -> tuple[int, ...]:
        """Return the digits that a dataset's request forgets."""
        return {"mnist": ODD, "mnist-keep-0": NOT_ZERO, "mnist-forget-0": (0,)}[dataset]

    def find_published_name(self, dataset: str) -> str:
        """Return the paper's name; it has no figures for the requests about "0"."""
        return dataset

    def draw(self) -> list[tuple[Path, str]]:
        """Draw the rows; for a run of all datasets also sweep, inversion and sequential requests."""
        figures = [self.draw_rows(dataset, ROWS) for dataset in self.chosen]
        if not self.only:
            figures += [self._draw_sweep(), self._draw_inversion(), self._draw_sequence()]
        return figures

    def make_further_tables(self) -> list[tuple[str, str]]:
        """Return the tables of the sweep, the inversion and the sequential requests."""
        if self.only:
            return []
        return [
            (
                'Strength: negative keeps only "0", positive forgets "0"',
                format_records(self.measure_sweep(), SWEEP),
            ),
            (
                "Inversion: bring the odd digits back by -F, without data",
                format_records(self.measure_inversions(), INVERSION),
            ),
            ("Requests in turn", format_records(self.measure_sequence(), SEQUENCE)),
        ]

    # Shared by the tables

    @property
    def first_study(self) -> Study:
        """The study of the first seed."""
        return self.make_study(self.seeds[0])

    def _push(self, study: Study, model: GenerativeModel, n: int | None = None) -> Tensor:
        z = model.prior(n or study.recipe.n, stream(study.seed, Stream.LATENTS))
        return study.add_decoder(model).push_batches(z)

    # Strength (Figure 3)

    def measure_sweep(self) -> list[dict[str, Any]]:
        """Return the share of "0" and the distance to the kept digits for every strength."""
        return list(stage(self.out / "sweep.json", lambda: [self._measure_strength(s) for s in STRENGTHS]))

    def _make_sweep_request(self, strength: float, inside: bool = False) -> Request:
        """Return the request of one strength: w = sigmoid(-E)^|lam|, or sigmoid(-lam E) as in the paper."""
        forget, kind = ((0,), "forget-0") if strength > 0 else (NOT_ZERO, "keep-0")
        name = f"sweep-{'inside-' if inside else ''}{kind}-{abs(strength):g}"
        if not inside:
            return Request(self.first_study, forget, name, strength=abs(strength))
        log_odds = ClassLogOdds(self.first_study.calibrated_guide, forget, margin=None)
        energy = Softplus(Scaled(log_odds, abs(strength)))  # softplus(lam E): exp(-F) = sigmoid(-lam E)
        return Request(self.first_study, forget, name, energy=energy)

    def _measure_strength(self, strength: float) -> dict[str, Any]:
        outside, inside = (self._measure_place(strength, inside) for inside in (False, True))
        return {"strength": strength, **outside, **{f"inside_{key}": value for key, value in inside.items()}}

    def _measure_place(self, strength: float, inside: bool) -> dict[str, float]:
        study = self.first_study
        if strength == 0:
            x = exact = self._push(study, study.flow)
            real = study.parts["held_out"].x
        else:
            request = self._make_sweep_request(strength, inside)
            x, exact = self._push(study, request.run_row(METHOD).model), request.draw_target(0).x
            real = study.parts["held_out"].without_classes(request.forget).x
        features = study.judge.features
        return {
            "zeros": self._measure_zeros(study, x),
            "zeros_target": self._measure_zeros(study, exact),
            "fid": metrics.frechet_distance(generated=features(x), reference=features(real)),
            "fid_target": metrics.frechet_distance(generated=features(exact), reference=features(real)),
        }

    def _measure_zeros(self, study: Study, x: Tensor) -> float:
        return metrics.forget_rate(study.judge.probabilities(x), (0,))

    def _draw_sweep(self) -> tuple[Path, str]:
        records, study = self.measure_sweep(), self.first_study
        z = study.flow.prior(12, stream(study.seed, Stream.FIGURE))
        models = [
            study.flow if s == 0 else self._make_sweep_request(s).run_row(METHOD).model for s in STRENGTHS
        ]
        curves = {
            'share of "0"': "zeros",
            'share of "0", λ inside': "inside_zeros",
            "FD to real kept digits": "fid",
            "FD, λ inside": "inside_fid",
        }
        path = draw_strength_sweep(
            self.out / "strength.png",
            STRENGTHS,
            {name: [r[key] for r in records] for name, key in curves.items()},
            {name: [r[f"{key}_target"] for r in records] for name, key in curves.items()},
            [make_images(study.add_decoder(model), z).numpy() for model in models],
        )
        return (
            path,
            'Strength in both directions: negative keeps only "0", positive forgets "0"; same latents.',
        )

    # Inversion (Figure 2)

    def _invert_energy(self, study: Study, model: GenerativeModel) -> Energy:
        """Return -F for the energy F of the odd digits, bounded and balanced like every request."""
        guide = study.calibrated_guide
        plain = Softplus(-ClassLogOdds(guide, ODD, margin=None), INVERSE_MARGIN)
        return balance_classes(
            plain, guide, EVEN, model.sample(NUM_BALANCE, stream(study.seed, Stream.BALANCE))
        )

    @cached_property
    def _inversions(self) -> list[tuple[str, Request]]:
        study = self.first_study
        unlearned = self.make_request("mnist", study.seed).run_row(METHOD).model
        laws = (
            ("the original law", "inversion", study.flow),
            ("the unlearned law", "inversion-again", unlearned),
        )
        return [
            (law, Request(study, EVEN, name, energy=self._invert_energy(study, model), model=model))
            for law, name, model in laws
        ]

    def measure_inversions(self) -> list[dict[str, Any]]:
        """Return the metrics of -F on the original law, and on the law that has already forgotten."""
        return list(
            stage(
                self.out / "inversion.json", lambda: [self._measure_inversion(*i) for i in self._inversions]
            )
        )

    def _measure_inversion(self, law: str, request: Request) -> dict[str, Any]:
        study, judge = request.study, request.study.judge
        with warnings.catch_warnings():
            # The unlearned law has almost no mass where -F asks for it: that is the result.
            warnings.filterwarnings("ignore", "the effective sample size")
            x = self._push(study, request.run_row(METHOD).model)
            bank = request.target.bank(4000, stream(study.seed, Stream.INVERSION))
            size = request.target.effective_sample_size(bank.energy)
        original = self._push(study, study.flow)
        weight = request.target.density_ratio(bank.energy)
        assert study.autoencoder is not None
        exact = judge.probabilities(study.autoencoder.decode_batches(bank.x)).argmax(1) % 2
        probabilities = judge.probabilities(x)
        return {
            "law": law,
            "odd": metrics.forget_rate(probabilities, ODD),
            "odd_target": float((weight * exact).sum() / weight.sum()),
            "c2st": metrics.c2st_auc(
                generated=judge.features(self._select_odd(study, x)),
                reference=judge.features(self._select_odd(study, original)),
            ),
            "confidence": metrics.judge_confidence(probabilities),
            "sample_size": size,
        }

    def _select_odd(self, study: Study, x: Tensor) -> Tensor:
        return x[study.judge.probabilities(x).argmax(1) % 2 == 1]

    def _draw_inversion(self) -> tuple[Path, str]:
        self.measure_inversions()
        study = self.first_study
        z = study.flow.prior(16, stream(study.seed, Stream.FIGURE))
        forgot = self.make_request("mnist", study.seed).run_row(METHOD).model
        models = [("original", study.flow), ("odd forgotten", forgot)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the effective sample size")
            models += [(f"-F on {law}", request.run_row(METHOD).model) for law, request in self._inversions]
        strips = [(name, make_images(study.add_decoder(model), z).numpy()) for name, model in models]
        path = draw_image_rows(self.out / "inversion.png", strips)
        return (
            path,
            "Odd digits forgotten by F, then asked for by -F: on the original law, and on the unlearned one.",
        )

    # Sequential requests

    def measure_sequence(self) -> list[dict[str, Any]]:
        """Return the distance to real even digits after five sequential requests and after a joint one."""
        return list(stage(self.out / "sequence.json", self._measure_sequence))

    def _measure_sequence(self) -> list[dict[str, Any]]:
        study = self.first_study
        joint = self._measure_request(
            "1, 3, 5, 7, 9 jointly", ODD, self.make_request("mnist", study.seed).run_row(METHOD).model
        )
        records: list[dict[str, Any]] = [joint]
        model: GenerativeModel = study.flow
        for k in range(1, len(ODD) + 1):
            request = Request(study, ODD[:k], f"in-turn-{ODD[k - 1]}", model=model)
            model = request.run_row(METHOD).model
            records.append(self._measure_request(f"then {ODD[k - 1]}" if k > 1 else "1", ODD[:k], model))
        return [record | {"ratio": record["fid_even"] / joint["fid_even"]} for record in records]

    def _measure_request(
        self, request: str, forget: tuple[int, ...], model: GenerativeModel
    ) -> dict[str, Any]:
        study = self.first_study
        x, real = self._push(study, model), study.parts["held_out"].of_classes(EVEN).x
        probabilities = study.judge.probabilities(x)
        even = study.judge.features(x[probabilities.argmax(1) % 2 == 0])
        return {
            "request": request,
            "forget_rate": metrics.forget_rate(probabilities, forget),
            "fid_even": metrics.frechet_distance(generated=even, reference=study.judge.features(real)),
            "nfe": model.num_evaluations,
        }

    def _draw_sequence(self) -> tuple[Path, str]:
        records = self.measure_sequence()
        path = draw_bars(
            self.out / "sequence.png",
            [record["request"] for record in records],
            {"samples judged even": [record["fid_even"] for record in records]},
            ylabel="Fréchet distance to real even digits",
        )
        return path, "Forgetting 1, 3, 5, 7 and 9 in turn on one model, beside one joint request."
