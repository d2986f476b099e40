"""The audit: original, unlearned, retrained and exact target side by side, by an independent judge."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unflow import metrics
from unflow.bundle import versions
from unflow.classifiers import Classifier
from unflow.data import LabelledData
from unflow.energies import Energy, evaluate
from unflow.errors import InputError
from unflow.files import sha256_module, write_json
from unflow.metrics.fidelity import fidelity
from unflow.metrics.forgetting import check_request
from unflow.models import GenerativeModel
from unflow.progress import Progress
from unflow.target import Target
from unflow.training import stream

SCHEMA = 1
JUDGE_SEED_OFFSET = 1000
"""Between the seed of a run and its judge's: the judge's is never the guide's."""
REFERENCES = ("original", "target", "retrained")
"""Rows that are compared with, not judged."""
MIN_SAMPLES = 100
MMD_ROWS = 2000
"""Rows of each side in one MMD, whose cost is quadratic in them."""
MMD_SIZE, MMD_REPEATS = 300, 10


@dataclass(frozen=True)
class Samples:
    """What a row is measured on.

    Attributes:
        x: samples, [n, *shape].
        z: their latents, [n, *prior_shape]; None where there are none.
        inference_ms: milliseconds per sample, where sampling was timed.
    """

    x: Tensor
    z: Tensor | None = None
    inference_ms: float | None = None


@dataclass(frozen=True)
class Entry:
    """One row to be: a method's samples and what is known of how they came about."""

    method: str
    samples: Samples
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    original_recoverable: bool = False
    data_used: Sequence[str] = ()
    cost: dict[str, float | int | None] = field(default_factory=dict)


class Judge(Protocol):
    """What an audit asks of a judge: a ``Classifier``, or exact geometry in the plane."""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        ...

    def probabilities(self, x: Tensor) -> Tensor:
        """Return class probabilities [n, num_classes] of samples [n, *shape]."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return what distances are measured in, [n, num_features]."""
        ...


@dataclass(frozen=True)
class Evidence:
    """What all rows of an audit are measured against, the same for each.

    Attributes:
        judge: a classifier (or exact geometry) that had no part in the request.
        forget: forgotten classes.
        held_out: real samples that neither generator, guide nor judge has seen.
        training: real samples that the generators were trained on.
        energy: F of the request, for the histogram of energies in ``samples/``; None without one.
        extractor: what to call the judge's features in tables.
        bandwidth: sigma of the MMD; None: the median distance of the retained held-out features.
        c2st: a name in ``metrics.CLASSIFIERS``.
    """

    judge: Judge
    forget: Sequence[int]
    held_out: LabelledData
    training: LabelledData
    energy: Energy | None = None
    extractor: str = "judge features"
    bandwidth: float | None = None
    c2st: str = "logistic"

    def __post_init__(self) -> None:
        check_request(self.forget, self.judge.num_classes)

    @property
    def retain(self) -> LabelledData:
        """Held-out samples of the retained classes."""
        return self.held_out.without_classes(self.forget)


def draw_samples(model: GenerativeModel, z: Tensor) -> Samples:
    """Push latents through a model and time it."""
    started = time.perf_counter()
    x = model.push_batches(z)
    return Samples(x, z, 1000 * (time.perf_counter() - started) / len(z))


class FamilyAudit:
    """All rows of one model family.

    Args:
        family: flow, flow_map or generator.
        evidence: judge and reference sets.
        original: samples of the model before.
        target: two independent sets of exact samples of q*, for the rows and for the floor.
        retrained: samples of the retrained model; None where it was not trained.
    """

    def __init__(
        self,
        family: str,
        evidence: Evidence,
        original: Samples,
        target: tuple[Samples, Samples] | None,
        retrained: Samples | None,
    ) -> None:
        self.family, self.evidence, self.original = family, evidence, original
        judge = evidence.judge
        self._original_labels = judge.probabilities(original.x).argmax(1)
        self._kept = [k for k in range(judge.num_classes) if k not in set(evidence.forget)]
        self._retain = judge.features(evidence.retain.x)
        self._training = judge.features(evidence.training.x)
        self._held_out = judge.features(evidence.held_out.x)
        self._target = judge.features(target[0].x) if target else None
        self._second_target = judge.features(target[1].x) if target else None
        self._retrained = judge.features(retrained.x) if retrained else None
        self._target_counts = (
            metrics.class_counts(judge.probabilities(target[0].x).argmax(1), judge.num_classes)
            if target
            else None
        )
        self.bandwidth = evidence.bandwidth or metrics.median_bandwidth(self._retain, stream(0, 7))

    def floor(self) -> dict[str, float | None]:
        """Return the distances between two independent exact-target sets: what no method can beat."""
        if self._target is None or self._second_target is None:
            return {"fid_target": None, "mmd_target": None, "c2st_target": None}
        return self._distances(self._second_target, self._target, "target")

    def row(self, entry: Entry) -> dict[str, Any]:
        """Return one row of audit.json."""
        evidence, x = self.evidence, entry.samples.x
        probabilities, features = evidence.judge.probabilities(x), evidence.judge.features(x)
        labels = probabilities.argmax(1)
        forgotten = metrics.forget_rate(probabilities, evidence.forget)
        counts = metrics.class_counts(labels, evidence.judge.num_classes)
        before = torch.isin(self._original_labels, torch.tensor(list(evidence.forget)))
        n_before = round(float(before.float().mean()) * len(x))
        near = fidelity(generated=features, reference=self._retain)
        # The target's own samples cannot be their own reference: its row uses the second set.
        target = self._second_target if entry.method == "target" else self._target
        retrained = None if entry.method == "retrained" else self._retrained
        # A retrained model maps the same latents by another map: before -> after means nothing there.
        comparable = entry.method not in REFERENCES and self._same_latents(entry)
        moved = labels if comparable else None
        mmd_retain = metrics.repeated_mmd(
            generated=features, reference=self._retain, bandwidth=self.bandwidth,
            size=min(MMD_SIZE, len(self._retain), len(features)), repeats=MMD_REPEATS,
            generator=stream(entry.seed, 8),
        )  # fmt: skip
        return {
            "method": entry.method, "family": self.family, "seed": entry.seed, "n": len(x),
            "options": entry.options, "forget_rate": forgotten,
            "leakage": metrics.leakage(probabilities, evidence.forget),
            "retention_rate": 1 - forgotten,
            "pul": metrics.pul(n_before, round(forgotten * len(x))),
            **self._distances(features, self._retain, "retain"),
            **self._distances(features, retrained, "retrained"),
            **self._distances(features, target, "target"),
            "extractor": evidence.extractor,
            "mmd_retain": mmd_retain.mean, "mmd_retain_sd": mmd_retain.sd,
            "mmd_bandwidth": self.bandwidth,
            "tv_target": None, **near._asdict(),
            "off_data": metrics.off_data(
                samples=features, training=self._training, held_out=self._held_out
            ),
            "judge_confidence": metrics.judge_confidence(probabilities),
            "class_counts": counts,
            "retained_share_tv": self._share_tv(counts),
            "transition": self._transition(moved), "stayed_share": self._stayed(moved),
            "original_recoverable": entry.original_recoverable,
            "data_used": list(entry.data_used),
            "cost": COST | {"inference_ms": entry.samples.inference_ms} | entry.cost,
        }  # fmt: skip

    def _distances(self, generated: Tensor, reference: Tensor | None, name: str) -> dict[str, Any]:
        if reference is None:
            return {f"{kind}_{name}": None for kind in ("fid", "mmd", "c2st")}
        return {
            f"fid_{name}": metrics.frechet_distance(generated=generated, reference=reference),
            f"mmd_{name}": metrics.mmd(
                generated=generated[:MMD_ROWS], reference=reference[:MMD_ROWS], bandwidth=self.bandwidth
            ),
            f"c2st_{name}": metrics.c2st_auc(
                generated=generated, reference=reference, classifier=self.evidence.c2st
            ),
        }

    def _same_latents(self, entry: Entry) -> bool:
        ours, theirs = self.original.z, entry.samples.z
        return ours is not None and theirs is not None and torch.equal(ours, theirs)

    def _share_tv(self, counts: list[int]) -> float | None:
        if self._target_counts is None or not sum(counts[k] for k in self._kept):
            return None  # a wrecked model may have no retained sample left to take shares of
        return metrics.retained_share_tv(counts, self._target_counts, self.evidence.forget)

    def _transition(self, labels: Tensor | None) -> list[list[int]] | None:
        if labels is None:
            return None
        classes = self.evidence.judge.num_classes
        return metrics.transition_matrix(self._original_labels, labels, classes).tolist()

    def _stayed(self, labels: Tensor | None) -> float | None:
        if labels is None or not torch.isin(self._original_labels, torch.tensor(self._kept)).any():
            return None
        return metrics.stayed_share(self._original_labels, labels, self.evidence.forget)

    def save_samples(self, entry: Entry, folder: Path) -> Path:
        """Write ``<family>-<method>.npz``: x, z where there is one, and what judge and energy say."""
        evidence, samples = self.evidence, entry.samples
        probabilities = evidence.judge.probabilities(samples.x)
        arrays = {
            "x": samples.x, "label": probabilities.argmax(1),
            "probability": probabilities[:, list(evidence.forget)].sum(1),
        }  # fmt: skip
        if samples.z is not None:
            arrays["z"] = samples.z
        if evidence.energy is not None:
            arrays["energy"] = evaluate(evidence.energy, samples.x)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.family}-{entry.method}.npz"
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{k: v.numpy() for k, v in arrays.items()})
        partial.replace(path)
        return path


COST: dict[str, float | int | None] = dict.fromkeys(
    ("train_seconds", "unlearn_seconds", "retrain_seconds_5pct", "steps", "nfe", "inference_ms",
     "peak_rss_mb")
)  # fmt: skip
"""Keys of a row's cost; null until measured."""


def judge_record(
    judge: Classifier, guide: Classifier | None, held_out: LabelledData, *, name: str,
    judge_data: str | None, guide_data: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the judge's entry in audit.json: accuracy, and how independent it is of the guide.

    The correlation of errors is the phi coefficient of "judge is wrong" and "guide is wrong" over the
    held-out samples, in [-1, 1]; null where one of them makes no error there. Independent means other
    weights and other training samples; null where the samples of one are not known.

    Args:
        judge: the judge.
        guide: the classifier behind the energy; None without one.
        held_out: real labelled samples that neither has seen.
        name: of the judge.
        judge_data: hash of the samples that the judge was trained on; None if unknown.
        guide_data: the same for the guide.
    """
    wrong = judge.probabilities(held_out.x).argmax(1) != held_out.labels
    correlation, independent = None, None
    if guide is not None:
        guide_wrong = guide.probabilities(held_out.x).argmax(1) != held_out.labels
        correlation = _phi(wrong, guide_wrong)
        if judge_data is not None and guide_data is not None:
            independent = judge_data != guide_data and sha256_module(judge) != sha256_module(guide)
    return {
        "name": name, "accuracy": 1 - float(wrong.float().mean()), "sha256": sha256_module(judge),
        "independent_of_guide": independent, "error_correlation_with_guide": correlation,
        "n_held_out": len(held_out),
    }  # fmt: skip


def _phi(a: Tensor, b: Tensor) -> float | None:
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    norm = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / norm if norm > 0 else None


@dataclass(frozen=True)
class Audit:
    """The content of audit.json (schema 1)."""

    judge: dict[str, Any]
    floor: dict[str, dict[str, float | None]]
    rows: list[dict[str, Any]]
    request: dict[str, Any]
    class_names: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "schema": SCHEMA, "judge": self.judge, "floor": self.floor, "rows": self.rows,
            "request": self.request, "class_names": self.class_names, "notes": self.notes,
            "versions": versions(),
        }  # fmt: skip

    def write(self, path: Path) -> Path:
        """Write audit.json; NaN is refused."""
        write_json(path, self.as_dict())
        return path


def audit_family(
    family: str,
    evidence: Evidence,
    entries: Sequence[Entry],
    second_target: Samples | None,
    samples_folder: Path | None = None,
) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
    """Return the floor and the rows of one family; the entry "original" must be among the entries.

    Args:
        family: flow, flow_map or generator.
        evidence: judge and reference sets.
        entries: rows to be; "target" and "retrained" among them serve as references too.
        second_target: an exact-target set independent of the entry "target".
        samples_folder: where to save the samples of every row.
    """
    by_method = {entry.method: entry.samples for entry in entries}
    if "original" not in by_method:
        raise InputError("got no samples of the original model to audit against; expected one entry")
    target = by_method.get("target")
    pair = (target, second_target) if target is not None and second_target is not None else None
    auditor = FamilyAudit(family, evidence, by_method["original"], pair, by_method.get("retrained"))
    rows = []
    with Progress(f"audit {family}", len(entries)) as progress:
        for done, entry in enumerate(entries, 1):
            rows.append(auditor.row(entry))
            if samples_folder is not None:
                auditor.save_samples(entry, samples_folder)
            progress.advance(done)
    return auditor.floor(), rows


def find_notes(rows: Sequence[dict[str, Any]], judge: dict[str, Any]) -> list[str]:
    """Return warnings in words: what in these rows should make a reader suspicious."""
    notes = []
    if judge["independent_of_guide"] is False:
        notes.append("The judge is not independent of the guide: its forget rates prove little.")
    reference = {r["family"]: r for r in rows if r["method"] == "retrained"}
    for row in rows:
        where = f"{row['family']} {row['method']}"
        if row["method"] in REFERENCES:
            continue
        if row["family"] in reference:
            retrained = reference[row["family"]]["forget_rate"]
            slack = 2 * math.sqrt(max(retrained * (1 - retrained), 1 / row["n"]) / row["n"])
            if row["forget_rate"] < retrained - slack:
                notes.append(
                    f"{where} leaves less of the forgotten classes ({row['forget_rate']:.2%}) than "
                    f"retraining does ({retrained:.2%}): over-forgetting, not a better result."
                )
        if row["original_recoverable"]:
            notes.append(f"{where} holds the original inside: suppression that can be taken off.")
    return notes


def audit(
    model: GenerativeModel,
    *,
    original: GenerativeModel,
    judge: Classifier,
    forget: Sequence[int],
    held_out: LabelledData,
    training: LabelledData,
    target: Target | None = None,
    retrained: GenerativeModel | None = None,
    guide: Classifier | None = None,
    judge_data: str | None = None,
    guide_data: str | None = None,
    method: str = "unlearned",
    n: int = 4000,
    seed: int = 0,
    out: str | Path | None = None,
) -> Audit:
    """Compare a model with the original, and with the exact target and a retrained model if given.

    Args:
        model: after unlearning.
        original: before; shares its latents with ``model``.
        judge: an independent classifier.
        forget: forgotten classes.
        held_out: real labelled samples for statistics.
        training: real samples that the models were trained on (for off_data).
        target: the request, for exact samples of q* by rejection.
        retrained: trained without the forgotten classes.
        guide: the classifier behind the energy, for the record of independence.
        judge_data: hash of the judge's training samples, if known.
        guide_data: hash of the guide's.
        method: name of the row.
        n: samples per row.
        seed: of latents and rejection.
        out: folder for audit.json and samples/; None writes nothing.

    Raises:
        InputError: for unknown classes, or n under 100.
    """
    if (model.family, model.prior_shape) != (original.family, original.prior_shape):
        raise InputError(
            f"got a {model.family} with latents {list(model.prior_shape)} to audit against a "
            f"{original.family} with latents {list(original.prior_shape)}; expected the model that it was "
            "made from as original"
        )
    if n < MIN_SAMPLES:
        raise InputError(f"got n={n} samples to audit; expected {MIN_SAMPLES} or more")
    evidence = Evidence(judge, forget, held_out, training, target.energy if target else None)
    z = original.prior(n, stream(seed, 99))
    entries = [
        Entry("original", draw_samples(original, z), seed),
        Entry(method, draw_samples(model, z), seed,
              original_recoverable=model.original_recoverable),
    ]  # fmt: skip
    second = None
    if target is not None:
        first, second = (target_samples(target, n, seed, k) for k in (0, 1))
        entries.append(Entry("target", first, seed))
    if retrained is not None:
        entries.append(Entry("retrained", draw_samples(retrained, z), seed))
    folder = None if out is None else Path(out)
    floor, rows = audit_family(
        original.family, evidence, entries, second, folder / "samples" if folder else None
    )
    record = judge_record(
        judge,
        guide,
        held_out,
        name=type(judge.net).__name__,
        judge_data=judge_data,
        guide_data=guide_data,
    )
    words = {"forget": list(forget), "words": describe(target, forget)}
    result = Audit(record, {original.family: floor}, rows, words, judge.class_names, find_notes(rows, record))
    if folder is not None:
        result.write(folder / "audit.json")
    return result


def describe(target: Target | None, forget: Sequence[int]) -> str:
    """Return the request in words."""
    return target.energy.describe() if target else f"class {' or '.join(map(str, forget))}"


def target_samples(target: Target, n: int, seed: int, which: int) -> Samples:
    """Return the ``which``-th independent set of n exact samples of q*."""
    bank = target.sample(n, stream(seed, 100 + which))
    return Samples(bank.x, bank.z)
