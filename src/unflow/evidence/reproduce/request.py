"""A request to forget, made of a study's original by every method, and audited."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

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
    assemble_audit,
    draw_samples,
    judge_record,
    target_samples,
)
from unflow.evidence.auditing.costs import guided_cost, trained_cost
from unflow.evidence.reproduce.study import Study
from unflow.ground.files import read_json, stage
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.training.method import Method
from unflow.unlearning.unlearn import GUIDE_DATA, Unlearned, rows_read, unlearn

ROWS = (
    "retrained",
    "fine_tune",
    "ot_fm",
    "erfm",
    "erfm_prior",
    "erfm_resample",
    "erfm_resample_prior",
    "gradient_ascent",
    "neg_grad_plus",
)
"""What is trained for every request; original and target need no training."""

MARGIN = 5.0
"""Of the default energy, in nats of a calibrated guide; the same for every data set."""
NUM_BALANCE = 4000
"""Samples of the original over which a request is balanced."""
MAX_TRAINING = 10_000
"""Training samples to which distances are measured for ``off_data``."""
WATCHED = 1000
"""Held-out samples on which the retrained model's loss is watched."""


class Request:
    """One request to forget, made of a study's original by every method.

    Args:
        study: what is there.
        forget: classes to forget.
        name: folder of the request.
        energy: F; None: the calibrated guide's log-odds of the classes with ``MARGIN``, balanced over
            the model's samples (``calibration``).
        energy_data: what went into F, for the record.
        strength: lam.
        margin: of the default energy, in nats; None: ``MARGIN``.
        model: what must forget; None: the study's original.
        rows: methods.
    """

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
        rows: Sequence[str] = ROWS,
    ) -> None:
        self.study, self.forget, self.name, self.rows = study, tuple(forget), name, tuple(rows)
        self.out = study.out / name
        self.model: GenerativeModel = model or study.flow
        self.energy_seconds, self.energy_data = 0.0, energy_data
        self.energy = energy or self._calibrated(strength, MARGIN if margin is None else margin)
        self.target = Target(self.model, self.energy, strength)

    def _calibrated(self, strength: float, margin: float) -> Energy:
        record = stage(self.out / "energy.json", lambda: self._balance(strength, margin))
        self.energy_seconds = record["seconds"]
        guide = Tempered(self.study.guide, record["temperature"])
        return Balanced(ClassLogOdds(guide, self.forget, margin), guide, self.forget, record["offsets"])

    def _balance(self, strength: float, margin: float) -> dict[str, Any]:
        _ = self.study.guide  # its own training counts as the guide's seconds, not as these
        started = time.perf_counter()
        guide = self.study.calibrated_guide
        offsets = [0.0]  # one retained class is in balance by itself
        if len(self.study.class_names) - len(self.forget) > 1:
            x = self.model.sample(NUM_BALANCE, stream(self.study.seed, Stream.BALANCE))
            plain = ClassLogOdds(guide, self.forget, margin)
            offsets = balance_classes(plain, guide, self.forget, x, strength).offsets.tolist()
        return {
            "temperature": float(guide.temperature),
            "margin": margin,
            "offsets": offsets,
            "seconds": time.perf_counter() - started,
        }

    def unlearned(self, name: str) -> Unlearned:
        """Carry one row's method out, or find its result on disk."""
        return self.carried_out(name, self.study.recipe.method(name), name)

    def carried_out(self, name: str, method: Method, folder: str) -> Unlearned:
        """Carry any method out in a folder of the request, or find its result there."""
        study = self.study
        held_out = study.latents("held_out").without_classes(self.forget)
        watched = held_out.rows(torch.arange(min(WATCHED, len(held_out))))
        rows = rows_read(method, self.target, self.forget, study.latents("train"), watched)
        return unlearn(
            self.target,
            method,
            self.out / folder,
            seed=study.seed,
            name=name,
            device=study.device,
            guide_data=self.energy_data,
            **rows,
        )

    def model_of(self, name: str) -> GenerativeModel:
        """Return the model of a row, or the original."""
        return self.model if name == "original" else self.unlearned(name).model

    def z(self) -> Tensor:
        """Return the latents of every row but the target's."""
        return self.target.model.prior(self.study.recipe.n, stream(self.study.seed, Stream.LATENTS))

    def entry(self, name: str) -> Entry:
        """Return one row to be."""
        result, study = self.unlearned(name), self.study
        return Entry(
            name,
            draw_samples(study.whole(result.model), self.z()),
            study.seed,
            original_recoverable=result.model.original_recoverable,
            data_used=result.lineage["data_used"],
            cost=guided_cost(result.lineage, result.model, study.seconds("guide") + self.energy_seconds),
        )

    def entries(self) -> list[Entry]:
        """Return original, target and all methods."""
        study = self.study
        original = Entry(
            "original",
            draw_samples(study.whole(self.model), self.z()),
            study.seed,
            data_used=["train_images"],
            cost=self.original_cost(),
        )
        target = Entry(
            "target",
            self.target_samples(0),
            study.seed,
            original_recoverable=True,
            data_used=self.energy_data,
        )
        return [original, target, *(self.entry(name) for name in self.rows)]

    def original_cost(self) -> dict[str, Any]:
        """Return what training the original has cost."""
        lineage = bundle.read_lineage(self.study.out / "flow")
        return trained_cost(lineage, self.model) | {"train_seconds": lineage["seconds"]}

    def target_samples(self, which: int) -> Any:
        """Return the ``which``-th independent set of exact samples of q*, decoded."""
        samples = target_samples(self.target, self.study.recipe.n, self.study.seed, which)
        autoencoder = self.study.autoencoder
        if autoencoder is None:
            return samples
        return dataclasses.replace(samples, x=autoencoder.decode_batches(samples.x))

    def evidence(self) -> Evidence:
        """Return what all rows are measured against."""
        study, planar = self.study, self.study.planar is not None
        return Evidence(
            study.judge,
            self.forget,
            study.parts["held_out"],
            study.parts["train"].rows(torch.arange(min(MAX_TRAINING, len(study.parts["train"])))),
            extractor="coordinates" if planar else f"judge features ({study.recipe.judge_net['net']})",
            bandwidth=1.0 if planar else None,
            c2st="knn" if planar else "logistic",
        )

    def audit(self) -> dict[str, Any]:
        """Return the content of audit.json, measured or found on disk."""
        file = self.out / "audit.json"
        if file.is_file():
            return dict(read_json(file))
        evidence = self.evidence()
        family = Family(self.model.family, self.entries(), self.target_samples(1))
        words = {"forget": list(self.forget), "words": self.energy.describe(), "seed": self.study.seed}
        return assemble_audit(
            [family],
            evidence,
            [self.judge_record()],
            words,
            self.study.class_names,
            self.out,
            lambda entry, row: self.further(evidence, entry, row),
        ).as_dict()

    def further(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return what a row of this experiment holds beyond an audit's."""
        return {"as_in_paper": self.as_in_paper(evidence, entry, row)}

    def as_in_paper(self, evidence: Evidence, entry: Entry, row: AuditRow) -> dict[str, Any]:
        """Return what ContinualFlow prints: a classifier's rates, the biased MMD, ms for 5,000 samples."""
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

    def _recognised(self, real: LabelledData) -> dict[str, float]:
        """Return the judge's accuracy, and the share of retained images that it calls forgotten."""
        judge, retain = self.study.classifier_judge, real.without_classes(self.forget).x
        return {
            "accuracy": judge.accuracy(real.x, real.labels),
            "forget_rate": metrics.forget_rate(judge.probabilities(retain), self.forget),
        }

    def _reconstructions(self, held_out: LabelledData) -> dict[str, dict[str, float]]:
        autoencoder = self.study.autoencoder
        if autoencoder is None:
            return {}
        x = autoencoder.decode_batches(self.study.latents("held_out").x)
        return {"reconstructed": self._recognised(dataclasses.replace(held_out, x=x))}

    @cached_property
    def _retain(self) -> LabelledData:
        return self.study.parts["held_out"].without_classes(self.forget)

    @cached_property
    def _retain_features(self) -> Tensor:
        return self.study.judge.features(self._retain.x[:MMD_ROWS])

    @cached_property
    def _retain_accuracy(self) -> float:
        """The paper's: of the classifier on real retained samples, the same in every row."""
        return self.study.classifier_judge.accuracy(self._retain.x, self._retain.labels)

    def judge_record(self) -> dict[str, Any]:
        """Return the judge's accuracy and independence; for images also what the autoencoder leaves of it."""
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
            return record | {"real": self._recognised(held_out)} | self._reconstructions(held_out)
        accuracy = GeometryJudge(study.planar).accuracy(held_out.x, held_out.labels)
        geometry = {
            "name": "exact geometry",
            "accuracy": accuracy,
            "sha256": None,
            "independent_of_guide": True,
        }
        return record | geometry | {"classifier": record}
