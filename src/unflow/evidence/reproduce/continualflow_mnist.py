"""ContinualFlow on MNIST, in 16 latents: even against odd, the strength, inversion, requests in turn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from unflow.data import LabelledData
from unflow.data.idx import mnist
from unflow.energies import ClassLogOdds, Energy, Softplus
from unflow.energies.calibration import balance_classes
from unflow.evidence import metrics
from unflow.evidence.reproduce.experiment import records_table
from unflow.evidence.reproduce.figures import bars, image_rows, strength_sweep
from unflow.evidence.reproduce.images import ImageExperiment, pictures
from unflow.evidence.reproduce.recipes import MNIST
from unflow.evidence.reproduce.request import NUM_BALANCE, ROWS, Request
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.evidence.reproduce.words import CONTINUALFLOW_INTRO, CONTINUALFLOW_NOTES
from unflow.ground.files import stage
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel

EVEN, ODD = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
NOT_ZERO = tuple(range(1, 10))
STRENGTHS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
"""Negative: keep only "0"; positive: forget "0"."""
METHOD = "erfm_resample"
INVERSE_MARGIN = 2.0
"""Of -F: what F took near the boundary is to come back too."""

SWEEP = {
    "strength": ("λ", 2),
    "zeros": ('share of "0"', 4),
    "zeros_target": ("of the exact target", 4),
    "fid": ("FD to real kept digits", 2),
    "fid_target": ("of the exact target", 2),
}
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
    published: ClassVar[str | None] = "continualflow_table1.csv"
    intro: ClassVar[Sequence[str]] = CONTINUALFLOW_INTRO
    notes: ClassVar[Sequence[str]] = CONTINUALFLOW_NOTES

    def load(self) -> LabelledData:
        """Return the 70,000 digits."""
        assert self.data is not None
        return mnist(self.data)

    def default_recipe(self) -> Recipe:
        """Return the recipe in 16 latents."""
        return MNIST

    def forget(self, dataset: str) -> tuple[int, ...]:
        """Return the digits that a data set's request forgets."""
        return {"mnist": ODD, "mnist-keep-0": NOT_ZERO, "mnist-forget-0": (0,)}[dataset]

    def as_published(self, dataset: str) -> str:
        """Return the paper's name; it has no figures for the requests about "0"."""
        return dataset

    def draw(self) -> list[tuple[Path, str]]:
        """Draw the rows, and for a run of everything the sweep, the inversion and the requests in turn."""
        figures = [self.rows_picture(dataset, ROWS) for dataset in self.chosen]
        if not self.only:
            figures += [self._sweep_figure(), self._inversion_figure(), self._sequence_figure()]
        return figures

    def further_tables(self) -> list[tuple[str, str]]:
        """Return sweep, inversion and sequence in numbers."""
        if self.only:
            return []
        return [
            ('Strength: negative keeps only "0", positive forgets "0"', records_table(self.sweep(), SWEEP)),
            (
                "Inversion: bring the odd digits back by -F, without data",
                records_table(self.inversion(), INVERSION),
            ),
            ("Requests in turn", records_table(self.sequence(), SEQUENCE)),
        ]

    # What the tables share

    def first(self) -> Study:
        """Return the study of the first seed."""
        return self.study(self.seeds[0])

    def _judged(self, study: Study, model: GenerativeModel, n: int | None = None) -> Tensor:
        z = model.prior(n or study.recipe.n, stream(study.seed, Stream.LATENTS))
        return study.whole(model).push_batches(z)

    # Strength (Figure 3)

    def sweep(self) -> list[dict[str, Any]]:
        """Return the share of "0" and the distance to the kept digits for every strength."""
        return list(stage(self.out / "sweep.json", lambda: [self._at_strength(s) for s in STRENGTHS]))

    def _sweep_request(self, strength: float) -> Request:
        forget, kind = ((0,), "forget-0") if strength > 0 else (NOT_ZERO, "keep-0")
        return Request(self.first(), forget, f"sweep-{kind}-{abs(strength):g}", strength=abs(strength))

    def _at_strength(self, strength: float) -> dict[str, Any]:
        study = self.first()
        if strength == 0:
            x = exact = self._judged(study, study.flow)
            real = study.parts["held_out"].x
        else:
            request = self._sweep_request(strength)
            x, exact = self._judged(study, request.unlearned(METHOD).model), request.target_samples(0).x
            real = study.parts["held_out"].without_classes(request.forget).x
        features = study.judge.features
        return {
            "strength": strength,
            "zeros": self._zeros(study, x),
            "zeros_target": self._zeros(study, exact),
            "fid": metrics.frechet_distance(generated=features(x), reference=features(real)),
            "fid_target": metrics.frechet_distance(generated=features(exact), reference=features(real)),
        }

    def _zeros(self, study: Study, x: Tensor) -> float:
        return metrics.forget_rate(study.judge.probabilities(x), (0,))

    def _sweep_figure(self) -> tuple[Path, str]:
        records, study = self.sweep(), self.first()
        z = study.flow.prior(12, stream(study.seed, Stream.FIGURE))
        models = [study.flow if s == 0 else self._sweep_request(s).unlearned(METHOD).model for s in STRENGTHS]
        zeros, distance = 'share of "0"', "FD to real kept digits"
        path = strength_sweep(
            self.out / "strength.png",
            STRENGTHS,
            {zeros: [r["zeros"] for r in records], distance: [r["fid"] for r in records]},
            {zeros: [r["zeros_target"] for r in records], distance: [r["fid_target"] for r in records]},
            [pictures(study.whole(model), z).numpy() for model in models],
        )
        return (
            path,
            'Strength in both directions: negative keeps only "0", positive forgets "0"; same latents.',
        )

    # Inversion (Figure 2)

    def _inverse(self, study: Study, model: GenerativeModel) -> Energy:
        """Return -F for F of the odd digits, bounded and balanced like any request."""
        guide = study.calibrated_guide
        plain = Softplus(-ClassLogOdds(guide, ODD, margin=None), INVERSE_MARGIN)
        return balance_classes(
            plain, guide, EVEN, model.sample(NUM_BALANCE, stream(study.seed, Stream.BALANCE))
        )

    @cached_property
    def _inversions(self) -> list[tuple[str, Request]]:
        study = self.first()
        unlearned = self.request("mnist", study.seed).unlearned(METHOD).model
        laws = (
            ("the original law", "inversion", study.flow),
            ("the unlearned law", "inversion-again", unlearned),
        )
        return [
            (law, Request(study, EVEN, name, energy=self._inverse(study, model), model=model))
            for law, name, model in laws
        ]

    def inversion(self) -> list[dict[str, Any]]:
        """Return what -F does to the original law, and to the law that has already forgotten."""
        return list(
            stage(self.out / "inversion.json", lambda: [self._inverted(*i) for i in self._inversions])
        )

    def _inverted(self, law: str, request: Request) -> dict[str, Any]:
        study, judge = request.study, request.study.judge
        with warnings.catch_warnings():
            # The unlearned law has next to nothing of what -F asks for: that is the finding.
            warnings.filterwarnings("ignore", "the effective sample size")
            x = self._judged(study, request.unlearned(METHOD).model)
            bank = request.target.bank(4000, stream(study.seed, Stream.INVERSION))
            size = request.target.effective_sample_size(bank.energy)
        original = self._judged(study, study.flow)
        weight = request.target.density_ratio(bank.energy)
        assert study.autoencoder is not None
        exact = judge.probabilities(study.autoencoder.decode_batches(bank.x)).argmax(1) % 2
        probabilities = judge.probabilities(x)
        return {
            "law": law,
            "odd": metrics.forget_rate(probabilities, ODD),
            "odd_target": float((weight * exact).sum() / weight.sum()),
            "c2st": metrics.c2st_auc(
                generated=judge.features(self._odd(study, x)),
                reference=judge.features(self._odd(study, original)),
            ),
            "confidence": metrics.judge_confidence(probabilities),
            "sample_size": size,
        }

    def _odd(self, study: Study, x: Tensor) -> Tensor:
        return x[study.judge.probabilities(x).argmax(1) % 2 == 1]

    def _inversion_figure(self) -> tuple[Path, str]:
        self.inversion()
        study = self.first()
        z = study.flow.prior(16, stream(study.seed, Stream.FIGURE))
        forgot = self.request("mnist", study.seed).unlearned(METHOD).model
        models = [("original", study.flow), ("odd forgotten", forgot)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the effective sample size")
            models += [(f"-F on {law}", request.unlearned(METHOD).model) for law, request in self._inversions]
        strips = [(name, pictures(study.whole(model), z).numpy()) for name, model in models]
        path = image_rows(self.out / "inversion.png", strips)
        return (
            path,
            "Odd digits forgotten by F, then asked for by -F: on the original law, and on the unlearned one.",
        )

    # Requests in turn

    def sequence(self) -> list[dict[str, Any]]:
        """Return the distance to real even digits after five requests in turn, and after one joint one."""
        return list(stage(self.out / "sequence.json", self._sequence))

    def _sequence(self) -> list[dict[str, Any]]:
        study = self.first()
        joint = self._after(
            "1, 3, 5, 7, 9 jointly", ODD, self.request("mnist", study.seed).unlearned(METHOD).model
        )
        records: list[dict[str, Any]] = [joint]
        model: GenerativeModel = study.flow
        for k in range(1, len(ODD) + 1):
            request = Request(study, ODD[:k], f"in-turn-{ODD[k - 1]}", model=model)
            model = request.unlearned(METHOD).model
            records.append(self._after(f"then {ODD[k - 1]}" if k > 1 else "1", ODD[:k], model))
        return [record | {"ratio": record["fid_even"] / joint["fid_even"]} for record in records]

    def _after(self, request: str, forget: tuple[int, ...], model: GenerativeModel) -> dict[str, Any]:
        study = self.first()
        x, real = self._judged(study, model), study.parts["held_out"].of_classes(EVEN).x
        probabilities = study.judge.probabilities(x)
        even = study.judge.features(x[probabilities.argmax(1) % 2 == 0])
        return {
            "request": request,
            "forget_rate": metrics.forget_rate(probabilities, forget),
            "fid_even": metrics.frechet_distance(generated=even, reference=study.judge.features(real)),
            "nfe": model.num_evaluations,
        }

    def _sequence_figure(self) -> tuple[Path, str]:
        records = self.sequence()
        path = bars(
            self.out / "sequence.png",
            [record["request"] for record in records],
            {"samples judged even": [record["fid_even"] for record in records]},
            ylabel="Fréchet distance to real even digits",
        )
        return path, "Forgetting 1, 3, 5, 7 and 9 in turn on one model, beside one joint request."
