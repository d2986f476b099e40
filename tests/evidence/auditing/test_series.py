"""A series of strengths: which latents are shown, and what is said of all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.evidence.auditing import Evidence, Samples
from unflow.evidence.auditing.series import EACH, series, write_series
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Generator
from unflow.models.classifier import Classifier


class Down(nn.Module):
    """x = z - by."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, z: Tensor) -> Tensor:
        return z - self.by


class Sign(nn.Module):
    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x, x], 1)


def evidence() -> Evidence:
    data = LabelledData("line", torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), ["left", "right"])
    return Evidence(Classifier(Sign(), ["left", "right"]), [1], data, data)


MODELS = {2.0: Generator(Down(2.0), (1,)), 0.0: Generator(Down(0.0), (1,)), 1.0: Generator(Down(1.0), (1,))}


def original(n: int = 1000) -> Samples:
    z = torch.randn(n, 1, generator=stream(1))
    return Samples(MODELS[0.0].push_batches(z), z)


def test_strengths_ascend_and_the_latents_are_the_first_forgotten_and_the_first_others() -> None:
    before = original()
    found = series(MODELS, before, evidence())
    assert found.strength.tolist() == [0, 1, 2]
    assert before.z is not None
    right = before.z[:, 0] > 0
    expected = torch.cat([right.nonzero()[:EACH, 0], (~right).nonzero()[:EACH, 0]])
    assert torch.equal(found.rows, expected)
    assert torch.equal(found.x, torch.stack([before.z[expected] - k for k in range(3)]))
    assert torch.equal(found.label, (found.x[..., 0] > 0).long())
    exact = [float((before.z > k).double().mean()) for k in range(3)]
    assert found.forget_rate.tolist() == pytest.approx(exact)


def test_it_is_written_whole(tmp_path: Path) -> None:
    found = series(MODELS, original(), evidence())
    path = write_series(found, "generator", tmp_path / "samples")
    assert [file.name for file in path.parent.iterdir()] == ["generator-strengths.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert {name: file[name].shape for name in file.files} == {
            "strength": (3,),
            "rows": (16,),
            "x": (3, 16, 1),
            "label": (3, 16),
            "forget_rate": (3,),
        }


def test_samples_without_latents_are_refused() -> None:
    with pytest.raises(InputError, match="without latents"):
        series(MODELS, Samples(torch.zeros(4, 1)), evidence())
