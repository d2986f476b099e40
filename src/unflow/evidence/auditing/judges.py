"""The record of a judge: its accuracy, and its independence of the guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.evidence import metrics
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.files import sha256_module
from unflow.models.classifier import Classifier

JUDGE_SEED_OFFSET = 1000
"""The judge's seed is the run's plus this, so that it differs from the guide's."""


def judge_record(
    judge: Classifier,
    guide: Classifier | None,
    held_out: LabelledData,
    *,
    name: str,
    judge_data: str | None,
    guide_data: str | None,
    forget: Sequence[int] = (),
) -> dict[str, Any]:
    """Return a judge's entry in audit.json: accuracy, calibration and independence of the guide.

    The correlation of errors is the phi coefficient of "judge is wrong" and "guide is wrong" over the
    held-out samples, in [-1, 1]; null if one of them makes no error there. An independent judge has other
    weights and other training samples than the guide. Where the training samples of one are unknown, the
    same weights mean false, and other weights mean null.

    Args:
        judge: the judge.
        guide: the classifier behind the energy; None without one.
        held_out: real labelled samples that neither has seen.
        name: of the judge.
        judge_data: hash of the judge's training samples; None if unknown.
        guide_data: the same for the guide.
        forget: forgotten classes, for the share of real retained samples that the judge assigns to them.
    """
    probabilities = judge.probabilities(held_out.x)
    judged = probabilities.argmax(1)
    wrong = judged != held_out.labels
    correlation, independent, differs = None, None, None
    if guide is not None:
        guide_said = guide.probabilities(held_out.x).argmax(1)
        correlation = _phi(wrong, guide_said != held_out.labels)
        differs = metrics.disagreement(judged, guide_said)
        independent = _independent(is_same_judge(judge, guide, held_out.x), judge_data, guide_data)
    return {
        "name": name,
        "accuracy": 1 - float(wrong.float().mean()),
        "sha256": sha256_module(judge),
        "calibration_error": metrics.calibration_error(probabilities, held_out.labels),
        "independent_of_guide": independent,
        "error_correlation_with_guide": correlation,
        "disagreement_with_guide": differs,
        "false_alarm_rate": _false_alarms(probabilities, held_out.labels, forget) if forget else None,
        "n_held_out": len(held_out),
    }


def is_same_judge(one: Classifier, other: Classifier, x: Tensor) -> bool:
    """Return whether two classifiers have the same weights and the same outputs on samples x [n, *shape].

    Networks of different code may share weights, or have none, so the outputs are compared as well.
    """
    if sha256_module(one) != sha256_module(other):
        return False
    return torch.equal(one.probabilities(x), other.probabilities(x))


def _independent(same: bool, judge_data: str | None, guide_data: str | None) -> bool | None:
    if same:
        return False  # the training samples do not matter then
    return None if judge_data is None or guide_data is None else judge_data != guide_data


def _false_alarms(probabilities: Tensor, labels: Tensor, forget: Sequence[int]) -> float:
    return metrics.forget_rate(probabilities[~is_forgotten(labels, forget)], forget)


def _phi(a: Tensor, b: Tensor) -> float | None:
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    norm = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / norm if norm > 0 else None
