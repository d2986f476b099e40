"""A GAN learns known laws, obeys the laws of trainings, and refuses what it cannot train."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Flow, Generator
from unflow.nets import MLP, ConvGenerator
from unflow.training.checks import check_method
from unflow.training.critics import ClassCritic, mark_penalised
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals import GAN, FlowMatching
from unflow.training.originals.base_models import new_model, train_model
from unflow.training.originals.gan import LabelledPairLoss


class Affine(nn.Module):
    """G(z) = a z + b, from the identity: its law is N(b, a^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        return self.a * z + self.b


def points(x: Tensor) -> LabelledData:
    return LabelledData("points", x, torch.zeros(len(x), dtype=torch.long), ["all"])


def test_it_learns_a_gaussian(tmp_path: Path) -> None:
    """W2(N(b, a^2), N(2, 0.5^2))^2 = (b - 2)^2 + (|a| - 0.5)^2, 4.25 at the start."""
    data = 2 + 0.5 * torch.randn(4000, 1, generator=stream(0))
    method = GAN(
        steps=300, batch_size=64, learning_rate=3e-2, critic_rate=2e-2, width=2, average=0.95, labels=0
    )
    model = fit(method, Problem(model=Generator(Affine(), (1,)), data=data), tmp_path, seed=0).model
    assert isinstance(model, Generator)
    assert isinstance(model.net, Affine)
    a, b = model.net.a.item(), model.net.b.item()
    assert math.hypot(b - 2, abs(a) - 0.5) < 0.1


def test_an_mlp_learns_both_modes_of_a_mixture(tmp_path: Path) -> None:
    """Each mode of an equal mixture of N(-2, 0.3^2) and N(2, 0.3^2) has a third of the samples or more."""
    sign = 2 * torch.randint(2, (4000, 1), generator=stream(4)) - 1
    data = points(2.0 * sign + 0.3 * torch.randn(4000, 1, generator=stream(0)))
    net = {"net": "mlp", "latent": 2, "width": 32, "depth": 1}
    method = GAN(steps=300, batch_size=64, learning_rate=4e-3, critic_rate=4e-3, width=4, average=0.95)
    model = train_model("generator", net, method, data, tmp_path / "gan", seed=1)
    assert isinstance(model, Generator)
    x = model.sample(2000, stream(3))
    for mode in (-2.0, 2.0):
        assert float(((x - mode).abs() < 1).float().mean()) > 1 / 3


def test_a_critic_of_classes_adds_its_logits_and_learns_the_labels() -> None:
    """D = log(e^x + e^-x) for the logits (x, -x), and the cross entropy of y = 3 is log(1 + e^-6)."""
    net = nn.Linear(1, 2, bias=False)
    net.weight = nn.Parameter(torch.tensor([[1.0], [-1.0]]))
    critic, x, y = ClassCritic(net), torch.zeros(4, 1), torch.full((4, 1), 3.0)
    D = math.log(2), math.log(2 * math.cosh(3.0))
    torch.testing.assert_close(critic(torch.cat([x, y]))[:, 0], torch.tensor([D[0]] * 4 + [D[1]] * 4))
    label = torch.zeros(4, dtype=torch.long)
    value = LabelledPairLoss(critic, 0.5)(x, y, mark_penalised(4), 0.0, label)
    expected = math.log1p(math.exp(D[0] - D[1])) + 0.5 * math.log1p(math.exp(-6.0))
    assert value.item() == pytest.approx(expected)


def test_labels_without_weight_are_not_read() -> None:
    x = torch.zeros(64, 1)
    problem = Problem(model=Generator(Affine(), (1,)), data=x)
    GAN(labels=0).check(problem)
    with pytest.raises(InputError, match="needs labels"):
        GAN().check(problem)


def images(n: int, seed: int) -> LabelledData:
    """Return bright left or right halves, [n, 1, 8, 8], with a little noise; three in four are left."""
    label = (torch.arange(n) % 4 == 0).long()
    x = torch.full((n, 1, 8, 8), -0.8)
    x[label == 0, ..., :4] = 0.8
    x[label == 1, ..., 4:] = 0.8
    return LabelledData(
        "halves", x + 0.05 * torch.randn(x.shape, generator=stream(seed)), label, ["left", "right"]
    )


def test_convolutions_learn_images(tmp_path: Path) -> None:
    """At the start every pixel is 0.8 or more away from them."""
    data = images(256, 0)
    net = {"net": "conv_generator", "latent": 8, "width": 8, "depth": 1}
    method = GAN(steps=150, batch_size=32, learning_rate=4e-3, critic_rate=4e-3, width=8, average=0.95)
    model = train_model("generator", net, method, data, tmp_path / "gan", seed=1)
    assert isinstance(model, Generator)
    x = model.sample(500, stream(3))
    right = (x[..., 4:].mean((1, 2, 3)) > x[..., :4].mean((1, 2, 3))).long()
    clean = torch.stack([data.x[data.labels == k].mean(0) for k in (0, 1)])
    assert float((x - clean[right]).abs().mean()) < 0.15


@pytest.mark.parametrize("labels", [0.0, 1.0])
def test_images_obey_the_laws_of_trainings(labels: float, tmp_path: Path) -> None:
    """Among them: stopped and resumed, it ends in the same bits."""
    model = new_model(
        "generator", {"net": "conv_generator", "latent": 3, "width": 8, "depth": 1}, images(64, 0), 0
    )
    data = images(64, 0)
    method = GAN(steps=12, batch_size=16, width=2, labels=labels)
    check_method(method, Problem(model=model, data=data.x, labels=data.labels), tmp_path)


def test_a_generator_has_the_network_of_its_samples() -> None:
    of_images = new_model("generator", {"net": "conv_generator", "depth": 1}, images(4, 0), 0)
    assert isinstance(of_images.net, ConvGenerator)
    assert of_images.prior_shape == (64,)
    assert of_images.sample_shape == (1, 8, 8)
    of_points = new_model("generator", {"net": "mlp", "latent": 3}, points(torch.zeros(4, 2)), 0)
    assert isinstance(of_points.net, MLP)
    assert of_points.prior_shape == (3,)
    assert of_points.sample_shape == (2,)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ({"net": "mlp"}, r"got the network mlp for a generator of samples of shape \[1, 8, 8\]"),
        ({"net": "unet"}, "got the network unet"),
        ({"net": "conv_generator", "depth": 4}, r"got images \[8, 8\] and depth=4 for a generator"),
        ({"net": "conv_generator", "width": 12}, "width=12 for a generator"),
        ({"net": "conv_generator", "latent": 0}, "latent=0"),
        ({"net": "conv_generator", "hidden": 0}, "hidden=0"),
    ],
)
def test_an_unfit_network_is_refused(net: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        new_model("generator", net, images(4, 0), 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"r1": -1.0}, "got r1=-1"), ({"critic_rate": 0.0}, "critic_rate=0"), ({"labels": -1.0}, "labels=-1")],
)
def test_unfit_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GAN(**options)


def test_another_prior_and_another_model_are_refused(tmp_path: Path) -> None:
    x = torch.zeros(64, 1)
    with pytest.raises(InputError, match="got the prior uniform for GAN"):
        GAN(labels=0).check(Problem(model=Generator(Affine(), (1,), "uniform"), data=x))
    with pytest.raises(InputError, match="does not train models of the family flow"):
        GAN().check(Problem(model=Flow(MLP((1,), 8, 1), (1,)), data=x))
    with pytest.raises(InputError, match="GAN does not train the kind flow; expected"):
        train_model("flow", {"net": "mlp"}, GAN(), points(x), tmp_path)
    with pytest.raises(InputError, match="FlowMatching does not train the kind generator; expected gan"):
        train_model("generator", {"net": "mlp"}, FlowMatching(), points(x), tmp_path)
