"""Samples of one request at several strengths, from the same latents, for the slider of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unflow.evidence import metrics
from unflow.evidence.auditing.evidence import Evidence, Samples
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.errors import InputError
from unflow.ground.files import write_arrays
from unflow.models import GenerativeModel

EACH = 8
"""Number of latents shown whose original sample is of a forgotten class, and of the others."""


class Series(NamedTuple):
    """Samples at several strengths.

    Attributes:
        strength: ascending, [s].
        rows: which of the audit's latents are shown, [m].
        x: their samples, [s, m, *sample_shape].
        label: as the judge sees them, [s, m].
        forget_rate: over all latents of the audit, [s].
    """

    strength: Tensor
    rows: Tensor
    x: Tensor
    label: Tensor
    forget_rate: Tensor


def series(models: Mapping[float, GenerativeModel], original: Samples, evidence: Evidence) -> Series:
    """Return the samples of the same request at several strengths, from the original's latents.

    Args:
        models: strength -> model; the original belongs in it at strength 0.
        original: samples of the original with their latents.
        evidence: judge and request.

    Raises:
        InputError: for an original without latents.
    """
    if original.z is None:
        raise InputError("got samples without latents for a series of strengths; expected their z")
    forgotten = is_forgotten(evidence.judge.probabilities(original.x).argmax(1), evidence.forget)
    rows = torch.cat([forgotten.nonzero()[:EACH, 0], (~forgotten).nonzero()[:EACH, 0]])
    shown, labels, rates = [], [], []
    for strength in sorted(models):
        x = models[strength].push_batches(original.z)
        p = evidence.judge.probabilities(x)
        shown.append(x[rows])
        labels.append(p.argmax(1)[rows])
        rates.append(metrics.forget_rate(p, evidence.forget))
    return Series(
        torch.tensor(sorted(models)), rows, torch.stack(shown), torch.stack(labels), torch.tensor(rates)
    )


def write_series(found: Series, family: str, folder: Path) -> Path:
    """Write ``<family>-strengths.npz``."""
    arrays = {name: np.asarray(value.cpu()) for name, value in found._asdict().items()}
    return write_arrays(folder / f"{family}-strengths.npz", arrays)
