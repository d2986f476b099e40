"""Membership inference and the linear probe in an audit: AUCs beside the retrained model's, and the verdict.

Both read what is left in the weights, not what the model draws. They leave the grade of the verdict as it is;
a row that is told more surely than the retrained model is called worse than retrained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unflow.evidence.attacks.condition_rows import ImpossibleAttackError
from unflow.evidence.attacks.linear_probe import LinearProbe, reads_images
from unflow.evidence.attacks.membership import MembershipInference
from unflow.evidence.attacks.scores import Scores
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.auditing.grades import FULLY, read_grade
from unflow.evidence.metrics.auc import auc_difference, measure_auc
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.evidence.row import AuditRow
from unflow.evidence.score_attacks import list_scores, list_worse
from unflow.ground.streams import Stream, stream
from unflow.mathematics.shares import LEVEL
from unflow.models import GenerativeModel
from unflow.models.conditional import NULL

Record = dict[str, Any]
Pair = Sequence[Sequence[float]]
Arrays = tuple[np.ndarray, np.ndarray]


def attack_scores(
    model: GenerativeModel,
    original: GenerativeModel,
    evidence: Evidence,
    membership: MembershipInference,
    probe: LinearProbe,
    seed: int,
    *,
    labelled: bool,
) -> dict[str, Record]:
    """Score real images, and latents, by one model; return a record for each of ``SCORE_ATTACKS``.

    A record has the "scores" of both groups by name, or the "obstacle", a sentence; that of the probe also
    whether its "points" are images or latents.

    Args:
        model: to attack; it is not changed.
        original: whose samples tell the classes of latents.
        evidence: judge, request, training images and held-out ones.
        membership: settings.
        probe: settings.
        seed: of images, latents and noise.
        labelled: as in ``attack_one``.
    """

    def infer() -> dict[str, Scores]:
        members, others = (
            part.of_classes(evidence.forget) for part in (evidence.training, evidence.held_out)
        )
        generator = stream(seed, Stream.MEMBERSHIP)
        return membership(model, members, others, evidence.judge.features, generator, labelled=labelled)

    def read() -> dict[str, Scores]:
        generator = stream(seed, Stream.LINEAR_PROBE)
        points = _find_points(model, original, evidence, probe.latents, seed)
        return probe(model, *points, generator)

    points = "images" if reads_images(model) else "latents"
    return {"membership": _run(infer), "linear_probe": {"points": points, **_run(read)}}


def _run(scores: Callable[[], Mapping[str, Scores]]) -> Record:
    try:
        return {"scores": {name: each.as_lists() for name, each in scores().items()}}
    except ImpossibleAttackError as error:
        return {"obstacle": str(error)}


def _find_points(
    model: GenerativeModel, original: GenerativeModel, evidence: Evidence, n: int, seed: int
) -> tuple[Any, Any]:
    """Return the points of the forgotten classes and of the others: real images, or latents."""
    if reads_images(model):
        x = evidence.held_out.x
        forgotten = is_forgotten(evidence.held_out.labels, evidence.forget)
        return x[forgotten], x[~forgotten]
    if model.prior_shape != original.prior_shape:
        raise ImpossibleAttackError("its latents have another shape than the original's")
    z = original.prior(n, stream(seed, Stream.LINEAR_PROBE, 1))
    if original.conditional is not None and original.conditional.null is not None:
        z = original.conditional.ask(z, NULL)
    judged = evidence.judge.probabilities(original.push_batches(z)).argmax(1).cpu()
    forgotten = is_forgotten(judged, evidence.forget).to(z.device)
    return z[forgotten], z[~forgotten]


# Beside the retrained model


def compare_scores(records: Mapping[str, Record]) -> dict[str, Record]:
    """Return the AUC of each score of each row, and its difference from the retrained model's.

    The intervals are 95 %; those of the differences together, by Bonferroni's correction for the number of
    scores of the row. A difference is "resolved" if its interval excludes 0. A row is "worse" if it is also
    farther from 0.5: an attacker may use a score that is smaller for the group as well.

    Args:
        records: row name -> result of one of ``SCORE_ATTACKS``.

    Returns:
        Row name -> "scores": name -> "auc", "interval", and beside a retrained model "difference",
        "difference_interval", "resolved", "worse"; and the numbers of points "positive" and "negative"; or
        the "obstacle".
    """
    retrained = records.get("retrained") or {}
    return {
        row: _compare(record, {} if row == "retrained" else retrained) if "scores" in record else record
        for row, record in records.items()
    }


def _compare(record: Record, retrained: Record) -> Record:
    scores, beside = record["scores"], retrained.get("scores") or {}
    if retrained.get("points") != record.get("points"):
        beside = {}  # the retrained model is of another family: its scores are of other points
    level = 1 - (1 - LEVEL) / max(len(set(scores) & set(beside)), 1)
    found, sizes = {}, (0, 0)
    for name, pair in scores.items():
        ours = _as_arrays(pair)
        found[name] = _measure(ours) | (
            _subtract(ours, _as_arrays(beside[name]), level) if name in beside else {}
        )
        sizes = len(ours[0]), len(ours[1])
    return {**record, "scores": found, "positive": sizes[0], "negative": sizes[1]}


def _as_arrays(pair: Pair) -> Arrays:
    positive, negative = (np.asarray(each) for each in pair)
    return positive, negative


def _measure(scores: Arrays) -> Record:
    auc = measure_auc(*scores)
    return {"auc": auc.auc, "interval": list(auc.interval())}


def _subtract(ours: Arrays, theirs: Arrays, level: float) -> Record:
    difference, interval = auc_difference(ours, theirs, level)
    auc, beside = (measure_auc(*each).auc for each in (ours, theirs))
    resolved = not interval.low <= 0 <= interval.high
    return {
        "difference": difference,
        "difference_interval": list(interval),
        "resolved": resolved,
        "worse": resolved and abs(auc - 0.5) > abs(beside - 0.5),
    }


def list_score_numbers(attacks: Mapping[str, Any], row: str) -> Record:
    """Return the AUCs of one row for gates, and the number of scores by which it is worse than retrained.

    Args:
        attacks: record of the attacks.
        row: its name.
    """
    found = {f"{attack}_{score}": record for attack, score, record in list_scores(attacks, row)}
    compared = any("worse" in record for record in found.values())
    return {
        **{name: record["auc"] for name, record in found.items()},
        **({"worse_than_retrained": len(list_worse(attacks, row))} if compared else {}),
        "intervals": {name: record["interval"] for name, record in found.items()},
    }


# The verdict


def add_scores(
    found: Mapping[str, Sequence[str]], rows: Sequence[AuditRow], attacks: Mapping[str, Any] | None
) -> dict[str, list[str]]:
    """Return verdicts whose first sentence says by which scores a row is worse than retrained.

    Args:
        found: sentences about each row.
        rows: of the audit.
        attacks: record of the attacks; None where there were none.
    """
    methods = {row.key: row.method for row in rows}
    return {
        key: [_qualify(first, list_worse(attacks or {}, methods[key])), *rest]
        for key, (first, *rest) in found.items()
    }


def _qualify(sentence: str, worse: Sequence[str]) -> str:
    """Return "Forgotten, but worse than retrained (...): ..."; the grade itself stays."""
    if not worse:
        return sentence
    grade, rest = sentence.split(": ", 1)
    joined = "but" if read_grade(grade) == FULLY else "and"
    return f"{grade}, {joined} worse than retrained ({'; '.join(worse)}): {rest}"
