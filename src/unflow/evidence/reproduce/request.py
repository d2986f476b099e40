"""A request to forget: every method carries it out on a study's original, and an audit compares them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.data.toy import GeometryJudge
from unflow.disk import bundle
from unflow.energies import Balanced, ClassLogOdds, Energy
from unflow.energies.calibration import Tempered, balance_classes
from unflow.evidence import metrics
from unflow.evidence.auditing import (
    MMD_ROWS,
    AuditRow,
    Entry,
    Evidence,
    Family,
    Samples,
    assemble_audit,
    draw_samples,
    floor_samples,
    judge_record,
    target_samples,
)
from unflow.evidence.auditing.costs import guided_cost, trained_cost
from unflow.evidence.reproduce.study import Study
from unflow.ground.files import read_json, stage
from unflow.ground.streams import Stream, stream
from unflow.methods import SFD
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.training.method import Method
from unflow.training.snapshots import Snapshots
from unflow.unlearning.problems import select_real_samples
from unflow.unlearning.unlearn import GUIDE_DATA, Unlearned, unlearn

CLEAN = ("retrained", "retrained_mixture")
"""Rows of which no stage has read a sample of the forgotten classes: autoencoder and critic are trained again
too. The second trains a forgotten label on the retained mixture."""
INNER = "retrained_inner"
"""The row whose flow (and distillation) is trained again, in the latents of the original's autoencoder."""
RETRAINED = (*CLEAN, INNER)

ROWS = (
    "retrained",
    INNER,
    "fine_tune",
    "ot_fm",
    "erfm",
    "erfm_prior",
    "erfm_resample",
    "erfm_resample_prior",
    "gradient_ascent",
    "neg_grad_plus",
)
"""The rows that are trained for every request; original and target need no training."""

RETAINED_FOLDER = "retained"
"""Folder of the clean rows and of their autoencoder, within that of the request."""
MARGIN = 5.0
"""Margin of the energies of models without conditions, in nats; the same for every dataset."""
NUM_BALANCE = 4000
"""Samples of the original on which the energy is balanced."""
MAX_TRAINING = 10_000
"""Training samples to which distances are measured for ``off_data``."""
WATCHED = 1000
"""Held-out samples on which the retrained model's validation loss is measured."""


class Request:
    """One request to forget, carried out on a study's original by every method.

    Args:
        study: the study whose models the request uses.
        forget: classes to forget.
        name: folder of the request.
        energy: F; None: the calibrated guide's log-odds of the classes; if ``is_balanced``,
            balanced over the model's samples (``calibration``).
        energy_data: names of the data from which F is made, for the record.
        strength: lam.
        margin: of the default energy, in nats; None: ``default_margin``.
        model: the model that must forget; None: the study's original.
        rows: names of methods; None: ``default_rows``. Without an autoencoder, ``retrained_inner`` would be
            ``retrained``, and is left out.
    """

    default_rows: ClassVar[Sequence[str]] = ROWS
    is_balanced: ClassVar[bool] = True
    """Whether the default energy keeps the share of each retained class."""
    default_margin: ClassVar[float] = MARGIN
    """Margin of the default energy, in nats of a calibrated guide."""

    def __init__(
        self,
        study: Study,
        forget: Sequence[int],
        name: str,
        *,
        energy: Energy | None = None,
        energy_data: tuple[str, ...] = GUIDE_DATA,
        strength: float = 1.0,
        margin: float | None = None,
        model: GenerativeModel | None = None,
        rows: Sequence[str] | None = None,
    ) -> None:
        self.study, self.forget, self.name, self.out = study, tuple(forget), name, study.out / name
        rows = self.default_rows if rows is None else rows
        self.rows = tuple(row for row in rows if row != INNER or study.recipe.autoencoder_net is not None)
        self.model = model or self.original
        self.energy_seconds, self.energy_data = 0.0, energy_data
        self.energy = energy or self._make_energy(strength, self.default_margin if margin is None else margin)
        self.target = Target(self.model, self.energy, strength)

    @property
    def original(self) -> GenerativeModel:
        """The study's flow."""
        return self.study.flow

    def _make_energy(self, strength: float, margin: float) -> Energy:
        record = stage(self.out / "energy.json", lambda: self._balance(strength, margin))
        self.energy_seconds = record["seconds"]
        guide = Tempered(self.study.guide, record["temperature"])
        plain, offsets = ClassLogOdds(guide, self.forget, margin), record["offsets"]
        return Balanced(plain, guide, self.forget, offsets) if offsets else plain

    def _balance(self, strength: float, margin: float) -> dict[str, Any]:
        _ = self.study.guide  # train it before the clock starts: its seconds are counted separately
        started = time.perf_counter()
        guide = self.study.calibrated_guide
        offsets: list[float] = []
        if self.is_balanced and len(self.study.class_names) - len(self.forget) > 1:
            x = self.model.sample(NUM_BALANCE, stream(self.study.seed, Stream.BALANCE))
            plain = ClassLogOdds(guide, self.forget, margin)
            offsets = balance_classes(plain, guide, self.forget, x, strength).offsets.tolist()
        return {
            "temperature": float(guide.temperature),
            "margin": margin,
            "offsets": offsets,
            "seconds": time.perf_counter() - started,
        }

    def run_row(self, name: str) -> Unlearned:
        """Carry out the method of a row, or load its result from disk."""
        kept = self.snapshots if name == "retrained" else None
        return self.run_method(name, self.find_method(name), self.find_folder(name), snapshots=kept)

    def find_method(self, name: str) -> Method:
        """Return the method of a row."""
        return self.study.recipe.find_method("retrained" if name == INNER else name)

    def find_folder(self, name: str) -> str:
        """Return the folder of a row's result, within that of the request."""
        return f"{RETAINED_FOLDER}/{name}" if name in CLEAN else name

    @cached_property
    def retained(self) -> Study:
        """The study without the forgotten classes, in a folder of the request."""
        return self.study.without_classes(self.forget, self.out / RETAINED_FOLDER)

    def find_study(self, name: str) -> Study:
        """Return the study in whose latents a row's model draws: a clean row has its own."""
        return self.retained if name in CLEAN else self.study

    @property
    def snapshots(self) -> Snapshots:
        """Models of ``retrained`` on the way of its last stage."""
        return Snapshots(self.out / RETAINED_FOLDER / "snapshots")

    def run_method(
        self,
        name: str,
        method: Method,
        folder: str,
        *,
        target: Target | None = None,
        snapshots: Snapshots | None = None,
    ) -> Unlearned:
        """Carry out a method in a folder of the request, or load its result from there.

        Args:
            name: of the row.
            method: its method.
            folder: within that of the request.
            target: of another model than the request's; None: ``find_target``.
            snapshots: where to keep models on the way; None keeps none.
        """
        study, source, target = self.study, self.find_study(name), target or self.find_target(method)
        held_out = source.encode_part("held_out").without_classes(self.forget)
        watched = held_out.rows(torch.arange(min(WATCHED, len(held_out))))
        teacher = study.flow if isinstance(method, SFD) else None
        rows = select_real_samples(method, target, self.forget, source.encode_part("train"), watched, teacher)
        return unlearn(
            target,
            method,
            self.out / folder,
            seed=study.seed,
            name=name,
            device=study.device,
            guide_data=self.energy_data if target is self.target else (),
            data=rows,
            teacher=teacher,
            snapshots=snapshots,
            self_measure=0 if name in CLEAN else None,  # the energy knows no latents but the original's
        )

    def find_target(self, method: Method) -> Target:
        """Return the target that a method is given: that of the request."""
        return self.target

    def find_model(self, name: str) -> GenerativeModel:
        """Return the model of a row; "original" is the request's original."""
        return self.model if name == "original" else self.run_row(name).model

    def find_images_model(self, name: str) -> GenerativeModel:
        """Return the model of a row with its decoder: the clean rows have their own."""
        return self.find_study(name).add_decoder(self.find_model(name))

    def draw_latents(self, name: str = "original") -> Tensor:
        """Return the latents of a row: each retrained row has its own, all other models share theirs.

        Two models that draw from the same latents have dependent samples, which hides how different they are.
        """
        path = (Stream.RETRAINED, RETRAINED.index(name)) if name in RETRAINED else (Stream.LATENTS,)
        return self.target.model.prior(self.study.recipe.n, stream(self.study.seed, *path))

    def make_entry(self, name: str) -> Entry:
        """Return the samples and the cost of one row."""
        result, study = self.run_row(name), self.study
        return Entry(
            name,
            draw_samples(self.find_study(name).add_decoder(result.model), self.draw_latents(name)),
            study.seed,
            original_recoverable=result.model.original_recoverable,
            data_used=result.lineage["data_used"],
            cost=guided_cost(
                result.lineage,
                result.model,
                study.read_seconds("guide") + self.energy_seconds,
                self.read_seconds_before(name),
            ),
        )

    def read_seconds_before(self, name: str) -> float:
        """Return the seconds of a row's stages before its last: of a clean row's autoencoder and critic."""
        return self.retained.encoding_seconds if name in CLEAN else 0.0

    def measure_snapshots(self) -> list[dict[str, float]]:
        """Return what retraining had reached when it stopped early: one record per model that it kept.

        Returns:
            step; seconds, of all stages until then; forget_rate and fid_retain, as in the row ``retrained``.
        """
        model, z = self.find_model("retrained"), self.draw_latents("retrained")
        steps = bundle.read_lineage(self.out / self.find_folder("retrained"))["steps"]
        before = self.read_seconds_before("retrained")
        return [
            {"step": found.step, "seconds": before + found.seconds}
            | self._measure_quality(self.retained.add_decoder(found.model).push_batches(z))
            for found in self.snapshots.load(model, steps)
        ]

    def _measure_quality(self, x: Tensor) -> dict[str, float]:
        judge = self.study.judge
        distance = metrics.frechet_distance(generated=judge.features(x), reference=self._all_retain_features)
        return {
            "forget_rate": metrics.forget_rate(judge.probabilities(x), self.forget),
            "fid_retain": distance,
        }

    def make_entries(self) -> list[Entry]:
        """Return the rows original, target and all methods."""
        study = self.study
        original = Entry(
            "original",
            draw_samples(study.add_decoder(self.model), self.draw_latents()),
            study.seed,
            data_used=["train_images"],
            cost=self.read_original_cost(),
        )
        target = Entry(
            "target", self.draw_target(0), study.seed, original_recoverable=True, data_used=self.energy_data
        )
        return [original, target, *(self.make_entry(name) for name in self.rows)]

    def read_original_cost(self) -> dict[str, Any]:
        """Return the cost of training the original, its autoencoder and critic included."""
        lineage = bundle.read_lineage(self.study.out / "flow")
        seconds = self.study.encoding_seconds + lineage["seconds"]
        return trained_cost(lineage, self.model) | {"train_seconds": seconds}

    def draw_target(self, which: int) -> Samples:
        """Return the ``which``-th independent set of exact samples of q*, decoded."""
        return self._decode(target_samples(self.target, self.study.recipe.n, self.study.seed, which))

    def draw_floor(self, which: int) -> Samples:
        """Return the ``which``-th of further such sets, between which the floor is measured."""
        return self._decode(floor_samples(self.target, self.study.recipe.n, self.study.seed, which))

    def _decode(self, samples: Samples) -> Samples:
        return dataclasses.replace(samples, x=self.study.decode(samples.x))

    def make_evidence(self) -> Evidence:
        """Return the judge and the data with which all rows are measured."""
        study, planar = self.study, self.study.planar is not None
        return Evidence(
            study.judge,
            self.forget,
            study.parts["held_out"],
            study.parts["train"].rows(torch.arange(min(MAX_TRAINING, len(study.parts["train"])))),
            extractor="coordinates" if planar else f"judge features ({study.recipe.judge_net['net']})",
            bandwidth=1.0 if planar else None,
            c2st="knn" if planar else "logistic",
            second_extractor=study.extractor,
        )

    def audit(self) -> dict[str, Any]:
        """Return the content of audit.json; make it if it is not on disk."""
        file = self.out / "audit.json"
        if file.is_file():
            return dict(read_json(file))
        evidence = self.make_evidence()
        family = Family(self.model.family, self.make_entries(), self.draw_target(1), self.draw_floor)
        words = {"forget": list(self.forget), "words": self.energy.describe(), "seed": self.study.seed}
        return assemble_audit(
            [family],
            evidence,
            [self.make_judge_record()],
            words,
            self.study.class_names,
            self.out,
            lambda entry, row: self.measure_further(evidence, entry, row) | self._measure_stops(entry),
        ).as_dict()

    def _measure_stops(self, entry: Entry) -> dict[str, Any]:
        return {"snapshots": self.measure_snapshots()} if entry.method == "retrained" else {}

    def measure_further(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return the entries that this experiment adds to a row of the audit."""
        return {"as_in_paper": self.measure_as_in_paper(evidence, entry, row)}

    def measure_as_in_paper(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return ContinualFlow's metrics: a classifier's rates, the biased MMD, ms for 5,000 samples."""
        study = self.study
        classifier = evidence.judge if study.planar is None else study.classifier_judge
        judged = classifier.probabilities(entry.samples.x)
        biased = metrics.mmd(
            generated=evidence.judge.features(entry.samples.x)[:MMD_ROWS],
            reference=self._retain_features,
            bandwidth=row.require("mmd_bandwidth"),
            unbiased=False,
        )
        milliseconds = row.number("cost.inference_ms")
        return {
            "mmd": biased,
            "retain_accuracy": self._retain_accuracy,
            "forget_rate": metrics.forget_rate(judged, self.forget),
            "leakage": metrics.leakage(judged, self.forget),
            "train_seconds": row.seconds,
            "inference_ms": None if milliseconds is None else 5000 * milliseconds,
        }

    def _measure_judge(self, real: LabelledData) -> dict[str, float]:
        """Return the judge's accuracy, and the share of retained images that it calls forgotten."""
        judge, retain = self.study.classifier_judge, real.without_classes(self.forget).x
        return {
            "accuracy": judge.accuracy(real.x, real.labels),
            "forget_rate": metrics.forget_rate(judge.probabilities(retain), self.forget),
        }

    def _measure_reconstructions(self, held_out: LabelledData) -> dict[str, dict[str, float]]:
        autoencoder = self.study.autoencoder
        if autoencoder is None:
            return {}
        x = autoencoder.decode_batches(self.study.encode_part("held_out").x)
        return {"reconstructed": self._measure_judge(dataclasses.replace(held_out, x=x))}

    @cached_property
    def _retain(self) -> LabelledData:
        return self.study.parts["held_out"].without_classes(self.forget)

    @cached_property
    def _all_retain_features(self) -> Tensor:
        """Features of all held-out samples of the retained classes."""
        return self.study.judge.features(self._retain.x)

    @cached_property
    def _retain_features(self) -> Tensor:
        return self.study.judge.features(self._retain.x[:MMD_ROWS])

    @cached_property
    def _retain_accuracy(self) -> float:
        """The paper's metric: the classifier's accuracy on real retained samples, the same in every row."""
        return self.study.classifier_judge.accuracy(self._retain.x, self._retain.labels)

    def make_judge_record(self) -> dict[str, Any]:
        """Return the judge's accuracy and independence; for images also its accuracy on reconstructions."""
        study, held_out = self.study, self.study.parts["held_out"]
        record = judge_record(
            study.classifier_judge,
            None,
            held_out,
            name=study.recipe.judge_net["net"],
            judge_data=study.parts["judge"].fingerprint,
            guide_data=study.parts["train"].fingerprint,
            forget=self.forget,
        )
        if study.planar is None:
            return record | {"real": self._measure_judge(held_out)} | self._measure_reconstructions(held_out)
        accuracy = GeometryJudge(study.planar).accuracy(held_out.x, held_out.labels)
        geometry = {
            "name": "exact geometry",
            "accuracy": accuracy,
            "sha256": None,
            "independent_of_guide": True,
        }
        return record | geometry | {"classifier": record}
