"""Features of a dataset, with an optional cache."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unflow.data.cache import FEATURES, write_entry
from unflow.data.dataset import LabelledData
from unflow.ground.errors import InputError
from unflow.ground.files import read_tensors, sha256_module, sha256_text
from unflow.nets.modes import evaluating


def compute_features(
    extractor: nn.Module, data: LabelledData, cache: str | Path | None = None, batch_size: int = 256
) -> Tensor:
    """Return the features of all samples, float32 [n, d] on the CPU, in evaluation mode and without gradient.

    The key of a cache entry consists of the extractor's structure and weights and the fingerprint of the
    data, so the features are computed again if one of them changes. Memory: 4 d bytes per sample, and one
    batch on the extractor's device.

    Args:
        extractor: samples [batch, *shape] -> features [batch, d], as ``models.classifier.Features``.
        data: the samples.
        cache: the cache folder, made if needed; nothing is cached if omitted.
        batch_size: samples per batch, >= 1; it does not change the features beyond float rounding.

    Raises:
        InputError: for an extractor that is not a module, no samples, features of another shape, or a damaged
            entry.
    """
    if not isinstance(extractor, nn.Module):
        raise InputError(
            f"got an extractor of the type {type(extractor).__name__}; expected a torch.nn.Module, whose "
            "weights can be hashed: write one whose forward returns the features"
        )
    if len(data) == 0 or batch_size < 1:
        raise InputError(
            f"got {len(data)} samples and batch_size={batch_size}; expected 1 or more: write batch_size=256"
        )
    if cache is None:
        return _compute(extractor, data.x, batch_size)
    key = sha256_text(f"{extractor!r} {sha256_module(extractor)} {data.fingerprint}")
    path = Path(cache) / f"{FEATURES}{key[:32]}.safetensors"
    if not path.is_file():
        write_entry(path, {"features": _compute(extractor, data.x, batch_size)}, {"data": data.name})
    return read_tensors(path)[0]["features"]


@torch.no_grad()
def _compute(extractor: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    weight = next(extractor.parameters(), x)
    with evaluating(extractor):
        return torch.cat(
            [_check_features(extractor(rows.to(weight.device)), rows) for rows in torch.split(x, batch_size)]
        )


def _check_features(features: object, rows: Tensor) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(rows):
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(
            f"got features {found} for {len(rows)} samples; expected a tensor [batch, d]: "
            "write nn.Sequential(extractor, nn.Flatten())"
        )
    return features.float().cpu()
