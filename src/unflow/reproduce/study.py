"""A study: one data set, one seed; what is trained once, and the requests that are then made of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unflow import bundle, metrics
from unflow.auditing import (
    MMD_ROWS,
    Audit,
    Entry,
    Evidence,
    Judge,
    audit_family,
    draw_samples,
    find_notes,
    judge_record,
    target_samples,
)  # fmt: skip
from unflow.autoencoders import Autoencoder
from unflow.base_models import train_model
from unflow.calibration import Tempered, balanced, calibrated
from unflow.classifiers import Classifier, LooksOnce
from unflow.costs import guided_cost, trained_cost
from unflow.data import LabelledData
from unflow.data.toy import GeometryJudge, PlanarSet
from unflow.energies import Balanced, ClassLogOdds, Energy
from unflow.files import read_json, write_json
from unflow.methods import UNLEARNERS, Autoencoding, Classification, FlowMatching, Method, Problem
from unflow.methods.baselines.fine_tune import FineTune
from unflow.methods.baselines.neg_grad_plus import NegGradPlus
from unflow.methods.baselines.retrain import Retrain
from unflow.models import Flow, GenerativeModel, Latent
from unflow.table import seconds_of
from unflow.target import Target
from unflow.training import stream
from unflow.unlearning import Unlearned, unlearn

ROWS = (
    "retrained", "fine_tune", "ot_fm", "erfm", "erfm_prior", "erfm_resample", "erfm_resample_prior",
    "gradient_ascent", "neg_grad_plus",
)  # fmt: skip
"""What is trained for every request; original and target need no training."""

JUDGE_SEED_OFFSET = 1000
"""The judge's seed is never the guide's."""
MARGIN = 5.0
"""Of the default energy, in nats of a calibrated guide; the same for every data set."""
NUM_BALANCE = 4000
"""Samples of the original over which a request is balanced."""
MAX_TRAINING = 10_000
"""Training samples to which distances are measured for ``off_data``."""
WATCHED = 1000
"""Held-out samples on which the retrained model's loss is watched."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How everything about one data set is trained.

    Attributes:
        flow_net: network of the flow, without its shape.
        flow: training of the original; the retrained model has the same.
        guide_net, guide: the classifier behind the energies, on what the flow makes (points, latents).
        judge_net, judge: the classifier that judges samples; in the plane it only stands beside the
            exact geometry.
        autoencoder_net, autoencoder: for flows of latents; None for flows of the data themselves.
        n: samples per row.
        methods: row name -> method, in place of a default one (small settings in tests).
    """

    flow_net: dict[str, Any]
    flow: FlowMatching
    guide_net: dict[str, Any]
    guide: Classification
    judge_net: dict[str, Any]
    judge: Classification
    autoencoder_net: dict[str, Any] | None = None
    autoencoder: Autoencoding | None = None
    n: int = 5000
    methods: dict[str, Method] = field(default_factory=dict)

    def method(self, name: str) -> Method:
        """Return a row's method: the library's default, with the original's way of pairing and training."""
        if name in self.methods:
            return self.methods[name]
        method = UNLEARNERS[name]
        if isinstance(method, Retrain):
            names = ("steps", "batch_size", "learning_rate", "average", "coupling")
            return Retrain(**{key: getattr(self.flow, key) for key in names})
        if isinstance(method, FineTune | NegGradPlus):
            return dataclasses.replace(method, coupling=self.flow.coupling)
        return method


class Study:
    """What is trained once for a data set and a seed; each part finds itself on disk or is made.

    Args:
        recipe: how.
        parts: train (generators and the guide), judge, held_out (statistics; never trained on).
        seed: of data, training and judge.
        out: folder.
        device: cpu, cuda or mps.
        planar: the set in the plane whose exact geometry judges; None for images.
    """

    def __init__(
        self, recipe: Recipe, parts: dict[str, LabelledData], seed: int, out: Path, device: str = "cpu",
        planar: PlanarSet | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.parts, self.seed, self.out, self.device = recipe, parts, seed, out, device
        self.planar = planar
        self._latents: dict[str, LabelledData] = {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.parts["train"].class_names

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """Trained on the images of all classes, without labels; None for data in the plane."""
        net, method = self.recipe.autoencoder_net, self.recipe.autoencoder
        if net is None or method is None:
            return None
        model = self._train("autoencoder", net, method, self.parts["train"], "autoencoder")
        assert isinstance(model, Autoencoder)
        return model

    @cached_property
    def classifier_judge(self) -> Classifier:
        """A classifier of samples, trained on its own part with its own seed."""
        recipe, seed = self.recipe, self.seed + JUDGE_SEED_OFFSET
        model = self._train("classifier", recipe.judge_net, recipe.judge, self.parts["judge"], "judge", seed)
        assert isinstance(model, Classifier)
        return model

    @cached_property
    def judge(self) -> Judge:
        """The exact geometry in the plane, the classifier for images."""
        return LooksOnce(self.classifier_judge) if self.planar is None else GeometryJudge(self.planar)

    @cached_property
    def guide(self) -> Classifier:
        """The classifier behind the energies: it sees what the flow makes, points or latents."""
        model = self._train(
            "classifier", self.recipe.guide_net, self.recipe.guide, self.guide_rows[0], "guide"
        )
        assert isinstance(model, Classifier)
        return model

    @cached_property
    def guide_rows(self) -> tuple[LabelledData, LabelledData]:
        """Training samples for the guide, and a tenth that only its calibration sees."""
        data = self.latents("train")
        order = torch.randperm(len(data), generator=stream(self.seed, 40))
        held = len(data) // 10
        return data.rows(order[held:]), data.rows(order[:held])

    @cached_property
    def calibrated_guide(self) -> Tempered:
        """The guide, no surer than it is right on the tenth that it has not seen."""
        unseen = self.guide_rows[1]
        return calibrated(self.guide, unseen.x, unseen.labels)

    @cached_property
    def flow(self) -> Flow:
        """The original: a flow of points or latents of all classes."""
        model = self._train("flow", self.recipe.flow_net, self.recipe.flow, self.latents("train"), "flow")
        assert isinstance(model, Flow)
        return model

    def _train(
        self, kind: str, net: dict[str, Any], method: Method, data: LabelledData, name: str,
        seed: int | None = None,
    ) -> bundle.Bundled:  # fmt: skip
        part = "judge" if name == "judge" else "train"
        return train_model(
            kind, net, method, data, self.out / name, seed=self.seed if seed is None else seed,
            part=part, device=self.device, label=name,
        )  # fmt: skip

    def latents(self, part: str) -> LabelledData:
        """Return a part as the flow sees it: encoded, if there is an autoencoder."""
        if self.autoencoder is None:
            return self.parts[part]
        if part not in self._latents:
            data = self.parts[part]
            self._latents[part] = dataclasses.replace(data, x=self.autoencoder.encode(data.x))
        return self._latents[part]

    def whole(self, model: GenerativeModel) -> GenerativeModel:
        """Return a flow of latents with the decoder after it; a flow of points as it is."""
        return model if self.autoencoder is None else Latent(model, self.autoencoder)

    def seconds(self, name: str) -> float:
        """Return how long the training of one part took."""
        return float(bundle.read_lineage(self.out / name)["seconds"])


class Request:
    """One request to forget, made of a study's original by every method.

    Args:
        study: what is there.
        forget: classes to forget.
        name: folder of the request.
        energy: F; None: the calibrated guide's log-odds of the classes with ``MARGIN``, balanced over
            the model's samples (``calibration``).
        strength: lam.
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
        strength: float = 1.0,
        model: GenerativeModel | None = None,
        rows: Sequence[str] = ROWS,
    ) -> None:
        self.study, self.forget, self.name, self.rows = study, tuple(forget), name, tuple(rows)
        self.out = study.out / name
        self.model: GenerativeModel = model or study.flow
        self.energy_seconds = 0.0
        self.energy = energy or self._calibrated(strength)
        self.target = Target(self.model, self.energy, strength)

    def _calibrated(self, strength: float) -> Energy:
        record = stage(self.out / "energy.json", lambda: self._balance(strength))
        self.energy_seconds = record["seconds"]
        guide = Tempered(self.study.guide, record["temperature"])
        return Balanced(ClassLogOdds(guide, self.forget, MARGIN), guide, self.forget, record["offsets"])

    def _balance(self, strength: float) -> dict[str, Any]:
        started = time.perf_counter()
        guide = self.study.calibrated_guide
        offsets = [0.0]  # one retained class is in balance by itself
        if len(self.study.class_names) - len(self.forget) > 1:
            x = self.model.sample(NUM_BALANCE, stream(self.study.seed, 41))
            plain = ClassLogOdds(guide, self.forget, MARGIN)
            offsets = balanced(plain, guide, self.forget, x, strength).offsets.tolist()
        return {
            "temperature": float(guide.temperature), "margin": MARGIN, "offsets": offsets,
            "seconds": time.perf_counter() - started,
        }  # fmt: skip

    def unlearned(self, name: str) -> Unlearned:
        """Carry one method out, or find its result on disk."""
        study, method = self.study, self.study.recipe.method(name)
        reads = method.reads(Problem(model=self.target.model))
        train = study.latents("train")
        held_out = study.latents("held_out").without_classes(self.forget).x[:WATCHED]
        return unlearn(
            self.target, method, self.out / name, seed=study.seed, name=name, device=study.device,
            retain=train.without_classes(self.forget).x if "retain" in reads else None,
            forget=train.of_classes(self.forget).x if "forget" in reads else None,
            held_out=held_out if isinstance(method, Retrain) else None,
            guide_data=("guide: train_images, train_labels",),
        )  # fmt: skip

    def z(self) -> Tensor:
        """Return the latents of every row but the target's."""
        return self.target.model.prior(self.study.recipe.n, stream(self.study.seed, 99))

    def entry(self, name: str) -> Entry:
        """Return one row to be."""
        result, study = self.unlearned(name), self.study
        return Entry(
            name, draw_samples(study.whole(result.model), self.z()), study.seed,
            original_recoverable=result.model.original_recoverable,
            data_used=result.lineage["data_used"],
            cost=guided_cost(result.lineage, result.model, study.seconds("guide") + self.energy_seconds),
        )  # fmt: skip

    def entries(self) -> list[Entry]:
        """Return original, target and all methods."""
        study, model = self.study, self.target.model
        lineage = bundle.read_lineage(study.out / "flow")
        cost = trained_cost(lineage, model) | {"train_seconds": lineage["seconds"]}
        original = Entry(
            "original", draw_samples(study.whole(model), self.z()), study.seed,
            data_used=["train_images"], cost=cost,
        )  # fmt: skip
        target = Entry("target", self.target_samples(0), study.seed, original_recoverable=True,
                       data_used=["guide: train_images, train_labels"])  # fmt: skip
        return [original, target, *(self.entry(name) for name in self.rows)]

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
            study.judge, self.forget, study.parts["held_out"],
            study.parts["train"].rows(torch.arange(min(MAX_TRAINING, len(study.parts["train"])))),
            extractor="coordinates" if planar else "judge features (convnet)",
            bandwidth=1.0 if planar else None, c2st="knn" if planar else "logistic",
        )  # fmt: skip

    def audit(self) -> dict[str, Any]:
        """Return the content of audit.json, measured or found on disk."""
        file = self.out / "audit.json"
        if file.is_file():
            return dict(read_json(file))
        evidence = self.evidence()
        entries, second = self.entries(), self.target_samples(1)
        floor, rows = audit_family("flow", evidence, entries, second, self.out / "samples")
        for row, entry in zip(rows, entries, strict=True):
            row["as_in_paper"] = self.as_in_paper(evidence, entry, row)
        record = self.judge_record()
        words = {"forget": list(self.forget), "words": self.energy.describe(), "seed": self.study.seed}
        result = Audit(record, {"flow": floor}, rows, words, self.study.class_names, find_notes(rows, record))
        result.write(file)
        return result.as_dict()

    def as_in_paper(self, evidence: Evidence, entry: Entry, row: dict[str, Any]) -> dict[str, Any]:
        """Return what the paper prints: a classifier's rates, the biased MMD, ms for 5,000 samples.

        Its retain accuracy is that of the classifier on real retained samples, the same in every row.
        """
        study, retain = self.study, evidence.retain
        classifier = evidence.judge if study.planar is None else study.classifier_judge
        judged = classifier.probabilities(entry.samples.x)
        rows = slice(MMD_ROWS)
        biased = metrics.mmd(
            generated=evidence.judge.features(entry.samples.x)[rows],
            reference=evidence.judge.features(retain.x[rows]), bandwidth=row["mmd_bandwidth"], unbiased=False,
        )  # fmt: skip
        milliseconds = row["cost"]["inference_ms"]
        return {
            "mmd": biased, "retain_accuracy": study.classifier_judge.accuracy(retain.x, retain.labels),
            "forget_rate": metrics.forget_rate(judged, self.forget),
            "leakage": metrics.leakage(judged, self.forget), "train_seconds": seconds_of(row),
            "inference_ms": None if milliseconds is None else 5000 * milliseconds,
        }  # fmt: skip

    def judge_record(self) -> dict[str, Any]:
        """Return the judge's accuracy and independence."""
        study, held_out = self.study, self.study.parts["held_out"]
        record = judge_record(
            study.classifier_judge, None, held_out, name="convnet",
            judge_data=study.parts["judge"].fingerprint, guide_data=study.parts["train"].fingerprint,
        )  # fmt: skip
        if study.planar is None:
            return record
        accuracy = GeometryJudge(study.planar).accuracy(held_out.x, held_out.labels)
        geometry = {"name": "exact geometry", "accuracy": accuracy, "sha256": None,
                    "independent_of_guide": True}  # fmt: skip
        return record | geometry | {"classifier": record}


def stage(file: Path, make: Callable[[], Any]) -> Any:
    """Return the plain data in a file, or make and write it."""
    if not file.is_file():
        value = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, value)
    return read_json(file)
