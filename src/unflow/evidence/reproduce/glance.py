"""A row at a glance: what sweeps and ablations print, in a second instead of an audit's ten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unflow.evidence import metrics
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.models import GenerativeModel


def glance(request: OneStepRequest, model: GenerativeModel) -> dict[str, Any]:
    """Return what an audit says of a model first: by the judge, from the request's own latents.

    Args:
        request: whose original, target and real samples the model is held to.
        model: after unlearning.

    Returns:
        left, pul, stayed in percent; fid_retain, fid_target (judge features); share_tv in [0, 1].
    """
    judge, forget = request.study.judge, request.forget
    x = request.study.whole(model).push_batches(request.z())
    before, wanted = request.judged_original, request.judged_target
    labels, features = judge.probabilities(x).argmax(1), judge.features(x)
    counts, counts_wanted = (metrics.class_counts(own, judge.num_classes) for own in (labels, wanted))
    left, left_before = (_forgotten(own, forget) for own in (labels, before))
    return {
        "left": 100 * left / len(labels),
        "pul": metrics.pul(left_before, left),
        "fid_retain": metrics.frechet_distance(generated=features, reference=request.retain_features),
        "fid_target": metrics.frechet_distance(generated=features, reference=request.target_features),
        "share_tv": metrics.retained_share_tv(counts, counts_wanted, forget),
        "stayed": 100 * metrics.stayed_share(before, labels, forget),
    }


def _forgotten(labels: Tensor, forget: tuple[int, ...]) -> int:
    return int(torch.isin(labels, torch.tensor(forget)).sum())
