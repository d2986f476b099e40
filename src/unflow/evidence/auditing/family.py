"""The rows of an audit: every method of one model family against the same references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unflow.energies import evaluate
from unflow.evidence import metrics
from unflow.evidence.auditing.certainty import (
    class_distances,
    distance_intervals,
    pul_interval,
    redistribution_test,
    run_two_sample_tests,
    share_intervals,
)
from unflow.evidence.auditing.evidence import Entry, Evidence, Samples
from unflow.evidence.metrics.fidelity import fidelity
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.errors import InputError
from unflow.ground.files import write_arrays
from unflow.ground.progress import Progress
from unflow.ground.streams import Stream, stream

REFERENCES = ("original", "target", "retrained")
"""Rows that are compared with, not judged."""
MMD_ROWS = 2000
"""Rows of each side in one MMD, whose cost is quadratic in them."""
MMD_SIZE, MMD_REPEATS = 300, 10


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
        self._original_share = float(is_forgotten(self._original_labels, evidence.forget).double().mean())
        self._kept = [k for k in range(judge.num_classes) if k not in set(evidence.forget)]
        self._retain = judge.features(evidence.retain.x)
        self._retain_manifold = metrics.Manifold.from_features(self._retain)
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
        self.bandwidth = evidence.bandwidth or metrics.median_bandwidth(
            self._retain, stream(0, Stream.BANDWIDTH)
        )

    @cached_property
    def _held_out_manifold(self) -> metrics.Manifold:
        return metrics.Manifold.from_features(self._held_out)

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
        near = fidelity(generated=features, reference=self._retain_manifold)
        # The target's own samples cannot be their own reference: its row uses the second set.
        target = self._second_target if entry.method == "target" else self._target
        retrained = None if entry.method == "retrained" else self._retrained
        # A retrained model maps the same latents by another map: before -> after means nothing there.
        comparable = entry.method not in REFERENCES and self._same_latents(entry)
        moved = labels if comparable else None
        mmd_retain = metrics.repeated_mmd(
            generated=features,
            reference=self._retain,
            bandwidth=self.bandwidth,
            size=min(MMD_SIZE, len(self._retain), len(features)),
            repeats=MMD_REPEATS,
            generator=stream(entry.seed, Stream.MMD),
        )
        row = {
            "method": entry.method,
            "family": self.family,
            "seed": entry.seed,
            "n": len(x),
            "options": entry.options,
            "forget_rate": forgotten,
            **self._second_look(x, labels),
            "leakage": metrics.leakage(probabilities, evidence.forget),
            "retention_rate": 1 - forgotten,
            "pul": metrics.pul(round(self._original_share * len(x)), round(forgotten * len(x))),
            **self._distances(features, self._retain, "retain"),
            **self._distances(features, retrained, "retrained"),
            **self._distances(features, target, "target"),
            "extractor": evidence.extractor,
            "mmd_retain": mmd_retain.mean,
            "mmd_retain_sd": mmd_retain.sd,
            "mmd_bandwidth": self.bandwidth,
            "tv_target": None,
            **near._asdict(),
            "off_data": metrics.off_data(samples=features, training=self._training, held_out=self._held_out),
            "judge_confidence": metrics.judge_confidence(probabilities),
            "class_counts": counts,
            "retained_share_tv": self._share_tv(counts),
            "transition": self._transition(moved),
            "stayed_share": self._stayed(moved),
            "original_recoverable": entry.original_recoverable,
            "data_used": list(entry.data_used),
            "cost": COST | {"inference_ms": entry.samples.inference_ms} | entry.cost,
        }
        return row | self._certainty(row, features, labels, target, retrained)

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

    def _second_look(self, x: Tensor, labels: Tensor) -> dict[str, float | None]:
        evidence = self.evidence
        if evidence.second is None:
            return {"second_forget_rate": None, "judges_disagree": None}
        probabilities = evidence.second.probabilities(x)
        return {
            "second_forget_rate": metrics.forget_rate(probabilities, evidence.forget),
            "judges_disagree": metrics.disagreement(labels, probabilities.argmax(1), evidence.forget),
        }

    def _certainty(
        self,
        row: dict[str, Any],
        features: Tensor,
        labels: Tensor,
        target: Tensor | None,
        retrained: Tensor | None,
    ) -> dict[str, Any]:
        evidence, seed = self.evidence, row["seed"]
        if evidence.repeats == 0:
            return dict.fromkeys(("intervals", "told_apart", "redistribution", "classes"))
        asked = {"target": target, "retrained": retrained}
        intervals = share_intervals(
            {
                "forget_rate": (row["forget_rate"], row["n"]),
                "stayed_share": (
                    row["stayed_share"],
                    int((~is_forgotten(self._original_labels, evidence.forget)).sum()),
                ),
            }
        )
        assert intervals["forget_rate"] is not None
        intervals["pul"] = pul_interval(intervals["forget_rate"], self._original_share)
        references = {"retain": self._retain, **asked}
        intervals |= distance_intervals(features, references, evidence.repeats, seed)
        wanted = None if row["method"] == "target" else self._target_counts  # not against itself
        return {
            "intervals": intervals,
            "told_apart": run_two_sample_tests(features, asked, evidence.c2st, seed),
            "redistribution": redistribution_test(row["class_counts"], wanted, evidence.forget),
            "classes": class_distances(
                features,
                labels,
                self._held_out_manifold,
                evidence.held_out.labels,
                evidence.judge.num_classes,
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
            "x": samples.x,
            "label": probabilities.argmax(1),
            "probability": probabilities[:, list(evidence.forget)].sum(1),
        }
        if samples.z is not None:
            arrays["z"] = samples.z
        if evidence.energy is not None:
            arrays["energy"] = evaluate(evidence.energy, samples.x)
        path = folder / f"{self.family}-{entry.method}.npz"
        return write_arrays(path, {name: value.numpy() for name, value in arrays.items()})


COST: dict[str, float | int | None] = dict.fromkeys(
    (
        "train_seconds",
        "unlearn_seconds",
        "retrain_seconds_5pct",
        "steps",
        "nfe",
        "inference_ms",
        "peak_rss_mb",
    )
)
"""Keys of a row's cost; null until measured."""


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
