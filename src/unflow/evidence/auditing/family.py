"""The rows of an audit: every method of one model family against the same references."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
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
from unflow.evidence.measures import (
    COSTS,
    EXTRACTED_ROWS,
    NO_FLOOR,
    Extracted,
    Observed,
    measure_floor,
    measure_row,
)
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.evidence.row import REFERENCES, AuditRow, judge_rows
from unflow.ground.errors import InputError
from unflow.ground.files import write_arrays
from unflow.ground.progress import Progress
from unflow.ground.streams import Stream, stream

FLOOR = "floor"
"""Name of the entry that is a set of exact target samples beside another."""
FLOOR_PAIRS = 10
"""Pairs of independent sets of exact target samples between which a floor is measured."""
NO_COST: Mapping[str, float | int | None] = {measure.key.removeprefix("cost."): None for measure in COSTS}
"""The cost of a row before anything of it is known."""


class FamilyAudit:
    """All rows of one model family.

    Args:
        family: flow, flow_map or generator.
        evidence: judge and reference sets.
        original: samples of the original model.
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
        self.family, self.evidence, self.original, self._target_samples = family, evidence, original, target
        judge = evidence.judge
        self._original_labels = judge.probabilities(original.x).argmax(1)
        self._retain = metrics.Manifold.from_features(judge.features(evidence.retain.x))
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
            self._retain.points, stream(0, Stream.BANDWIDTH)
        )

    def observe(self, entry: Entry) -> Observed:
        """Return the samples of a row with everything that its measures compare them with."""
        evidence, x = self.evidence, entry.samples.x
        return Observed(
            probabilities=evidence.judge.probabilities(x),
            features=evidence.judge.features(x),
            second_probabilities=None if evidence.second is None else evidence.second.probabilities(x),
            forget=evidence.forget,
            original_labels=self._original_labels,
            # A retrained model maps the same latents in its own way: there is no class before and after.
            same_latents=entry.method not in REFERENCES and self._has_same_latents(entry),
            retain=self._retain,
            training=self._training,
            held_out=self._held_out,
            # The target's own samples cannot be their own reference: its row uses the second set.
            target=self._second_target if entry.method == "target" else self._target,
            target_counts=self._target_counts,
            retrained=None if entry.method == "retrained" else self._retrained,
            bandwidth=self.bandwidth,
            c2st=evidence.c2st,
            seed=entry.seed,
            x=x,
            target_x=self._target_x(entry),
            retain_x=evidence.retain.x,
            extracted=self._extract(entry),
        )

    def _extract(self, entry: Entry) -> Extracted | None:
        """Return the features of the second extractor; None without one, and for the pairs of the floor."""
        if self.evidence.second_extractor is None or entry.method == FLOOR:
            return None
        pair = self._extracted_targets
        return Extracted(
            own=self._extract_features(entry.samples.x),
            retain=self._extracted_retain,
            target=None if pair is None else pair[1 if entry.method == "target" else 0],
        )

    def _extract_features(self, x: Tensor) -> Tensor:
        assert self.evidence.second_extractor is not None
        return self.evidence.second_extractor.features(x[:EXTRACTED_ROWS])

    @cached_property
    def _extracted_retain(self) -> Tensor:
        return self._extract_features(self.evidence.retain.x)

    @cached_property
    def _extracted_targets(self) -> tuple[Tensor, Tensor] | None:
        pair = self._target_samples
        return (
            None if pair is None else (self._extract_features(pair[0].x), self._extract_features(pair[1].x))
        )

    def _target_x(self, entry: Entry) -> Tensor | None:
        """Return exact target samples that are not the row's own."""
        pair = self._target_samples
        return None if pair is None else pair[1 if entry.method == "target" else 0].x

    def floor(self, draw: Callable[[int], Samples] | None = None) -> Mapping[str, float | None]:
        """Return the distances between independent sets of exact target samples, the least of any row.

        Args:
            draw: returns the k-th of ``2 * FLOOR_PAIRS`` further sets. Each distance is then the mean over
                the pairs, its standard deviation over them has the key with "_sd", and "pairs" is their
                number. None: the distances of the one pair that the rows are compared with.
        """
        if self._target_samples is None:
            return NO_FLOOR
        if draw is None:
            return measure_floor(self.observe(Entry(FLOOR, self._target_samples[1])))
        pairs = [self._measure_pair(draw(2 * k), draw(2 * k + 1)) for k in range(FLOOR_PAIRS)]
        found: dict[str, float | None] = {"pairs": FLOOR_PAIRS}
        for key in pairs[0]:
            values = [pair[key] for pair in pairs]
            known = [value for value in values if value is not None]
            is_known = len(known) == len(values)
            found[key] = fmean(known) if is_known else None
            found[f"{key}_sd"] = stdev(known) if is_known else None
        return found

    def _measure_pair(self, first: Samples, second: Samples) -> dict[str, float | None]:
        """Return the distances of one set of exact target samples to another."""
        observed = self.observe(Entry(FLOOR, second))
        features = self.evidence.judge.features(first.x)
        return measure_floor(dataclasses.replace(observed, target=features, target_x=first.x))

    def row(self, entry: Entry) -> AuditRow:
        """Return one row, without the verdicts that other rows give it."""
        observed = self.observe(entry)
        measures = measure_row(observed)
        return AuditRow(
            family=self.family,
            method=entry.method,
            seed=entry.seed,
            n=len(entry.samples.x),
            options=entry.options,
            measures=measures,
            extractor=self.evidence.extractor,
            class_counts=observed.class_counts,
            transition=observed.transition,
            original_recoverable=entry.original_recoverable,
            data_used=list(entry.data_used),
            cost={**NO_COST, "inference_ms": entry.samples.inference_ms, **entry.cost},
            **self._measure_certainty(entry, observed, measures),
        )

    def _measure_certainty(
        self, entry: Entry, observed: Observed, measures: Mapping[str, float | None]
    ) -> dict[str, Any]:
        evidence = self.evidence
        if evidence.repeats == 0:
            return {}
        was_retained = ~is_forgotten(self._original_labels, evidence.forget)
        asked = {"target": observed.target, "retrained": observed.retrained}
        intervals = share_intervals(
            {
                "forget_rate": (observed.forget_rate, len(observed.features)),
                "stayed_share": (measures["stayed_share"], int(was_retained.sum())),
            }
        )
        assert intervals["forget_rate"] is not None
        original_share = float((~was_retained).double().mean())
        intervals["pul"] = pul_interval(intervals["forget_rate"], original_share)
        references = {"retain": self._retain.points, **asked}
        intervals |= distance_intervals(observed.features, references, evidence.repeats, entry.seed)
        wanted = None if entry.method == "target" else self._target_counts  # not against itself
        return {
            "intervals": intervals,
            "told_apart": run_two_sample_tests(observed.features, asked, evidence.c2st, entry.seed),
            "redistribution": redistribution_test(observed.class_counts, wanted, evidence.forget),
            "classes": class_distances(
                observed.features,
                observed.labels,
                self._held_out_manifold,
                evidence.held_out.labels,
                evidence.judge.num_classes,
            ),
        }

    @cached_property
    def _held_out_manifold(self) -> metrics.Manifold:
        return metrics.Manifold.from_features(self._held_out)

    def _has_same_latents(self, entry: Entry) -> bool:
        ours, theirs = self.original.z, entry.samples.z
        return ours is not None and theirs is not None and torch.equal(ours, theirs)

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
            arrays["energy"] = evaluate(
                evidence.energy, samples.x, varies=False
            )  # a row of one class does not
        path = folder / f"{self.family}-{entry.method}.npz"
        return write_arrays(path, {name: value.numpy() for name, value in arrays.items()})


def audit_family(
    family: str,
    evidence: Evidence,
    entries: Sequence[Entry],
    second_target: Samples | None,
    samples_folder: Path | None = None,
    draw_floor: Callable[[int], Samples] | None = None,
) -> tuple[Mapping[str, float | None], list[AuditRow]]:
    """Return the floor and the rows of one family; the entry "original" must be among the entries.

    Args:
        family: flow, flow_map or generator.
        evidence: judge and reference sets.
        entries: rows to be; "target" and "retrained" among them serve as references too.
        second_target: an exact-target set independent of the entry "target".
        samples_folder: where to save the samples of every row.
        draw_floor: as in ``FamilyAudit.floor``.
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
    return auditor.floor(draw_floor), judge_rows(rows)
