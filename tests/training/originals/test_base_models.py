"""The width of the network of a base model, chosen for the samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unflow.data import LabelledData
from unflow.training.originals.base_models import choose_width


def images(side: int) -> LabelledData:
    return LabelledData("images", torch.zeros(2, 1, side, side), torch.arange(2), ["a", "b"])


@pytest.mark.parametrize(("side", "width"), [(1, 256), (8, 256), (16, 256), (17, 320), (28, 832)])
def test_an_mlp_velocity_is_at_least_as_wide_as_a_sample(side: int, width: int) -> None:
    for kind in ("flow", "flow_map"):
        found = choose_width(kind, {"net": "mlp", "depth": 4}, images(side))
        assert found == {"net": "mlp", "width": width, "depth": 4}


def test_a_width_of_the_user_is_kept_and_a_narrow_one_gives_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    net: dict[str, Any] = {"net": "mlp", "width": 784}
    assert choose_width("flow", net, images(28)) == net
    assert capsys.readouterr().err == ""
    narrow = {"net": "mlp", "width": 256}
    assert choose_width("flow", narrow, images(28)) == narrow
    line = "got width=256 for samples of 784 numbers; expected 784 or more, or samples keep some of the noise"
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(
    ("kind", "net"),
    [("flow", {"net": "unet"}), ("classifier", {"net": "mlp"}), ("autoencoder", {"net": "mlp"})],
)
def test_other_networks_and_kinds_stay_as_they_are(kind: str, net: dict[str, Any]) -> None:
    assert choose_width(kind, net, images(28)) == net
