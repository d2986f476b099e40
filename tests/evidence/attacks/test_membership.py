"""Membership inference: a model that has memorised its training set, and one that has never read it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.energies import Region
from unflow.evidence.attacks import MembershipInference
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Conditional, Filtered, Flow, Generator, Latent
from unflow.models.autoencoder import Autoencoder
from unflow.nets import AdaptedGenerator, AdaptedVelocity, new_net

D = 8
ATTACK = MembershipInference(images=40, samples=500, steps=20, learning_rate=0.1)


def points(seed: int, n: int = 60, label: int = 0) -> LabelledData:
    x = torch.randn(n, D, generator=stream(seed))
    return LabelledData("points", x, torch.full((n,), label), ["a", "b"])


MEMBERS, OTHERS = points(1), points(2)


class Memory(nn.Module):
    """Return the training point whose number the first entry of a latent selects."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, z: Tensor) -> Tensor:
        place = torch.special.ndtr(z[:, 0]) * len(self.x)
        return self.x[place.long().clamp(max=len(self.x) - 1)]


class Scale(nn.Module):
    """x = factor z."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


class ExactVelocity(nn.Module):
    """The velocity (E[x1 | x_t] - x) / (1 - t) of the flow whose data are these points."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        s = t[:, None]
        away = (x[:, None] - s[..., None] * self.x).square().sum(-1)
        mean = (-away / (2 * (1 - s).square())).softmax(1) @ self.x
        return (mean - x) / (1 - s)


def identity(x: Tensor) -> Tensor:
    return x


def run(model: Any, **options: Any) -> dict[str, Any]:
    return ATTACK(model, MEMBERS, OTHERS, identity, stream(3), **options)


def test_a_generator_that_returns_its_training_set_is_told_exactly() -> None:
    found = run(Generator(Memory(MEMBERS.x), (D,)))
    assert found["distance"].auc == (1.0, 0.0)
    assert found["distance"].positive.abs().max() < 1e-6
    assert "loss" not in found  # a table has no gradient along z


def test_a_flow_of_its_training_set_has_a_smaller_loss_on_it() -> None:
    flow = Flow(ExactVelocity(MEMBERS.x), (D,), steps=2)
    assert run(flow)["loss"].auc.auc > 0.99


@pytest.mark.parametrize("family", ["generator", "flow"])
def test_a_model_that_is_independent_of_the_split_tells_nothing(family: str) -> None:
    inner = {"generator": Generator(Scale(1.0), (D,)), "flow": Flow(ExactVelocity(points(4).x), (D,))}[family]
    for name, scores in run(inner).items():
        low, high = scores.auc.interval()
        assert low < 0.5 < high, name


def test_a_reconstruction_reaches_what_the_model_draws_and_nothing_else() -> None:
    """x = G(z) with the second half of x held at 0: the error is that of the second half."""

    class Half(Scale):
        def forward(self, z: Tensor) -> Tensor:
            return self.factor * torch.cat([z[:, : D // 2], torch.zeros_like(z[:, D // 2 :])], 1)

    attack = MembershipInference(images=60, samples=500, steps=300, learning_rate=0.1)
    found = attack(Generator(Half(1.0), (D,)), MEMBERS, OTHERS, identity, stream(3))["loss"]
    exact = -MEMBERS.x[:, D // 2 :].square().sum(1) / D
    torch.testing.assert_close(found.positive.sort().values, exact.double().sort().values, atol=1e-3, rtol=0)


def test_a_filter_has_no_loss_and_the_model_stays_as_it_was() -> None:
    filtered = Filtered(Generator(Scale(1.0), (D,)), Region(lambda x: x[:, 0] > 0, height=20.0))
    assert set(run(filtered)) == {"distance"}
    model: Any = Generator(Scale(1.0), (D,))
    first, again = run(model), run(model)
    assert all(torch.equal(a.positive, again[name].positive) for name, a in first.items())
    assert model.net.factor.item() == 1.0
    assert model.net.factor.grad is None


def test_the_loss_of_a_latent_flow_is_that_of_the_encoded_images() -> None:
    net = new_net({"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}, 0)
    autoencoder = Autoencoder(net).requires_grad_(False)
    x = [torch.randn(30, 1, 4, 4, generator=stream(k)) for k in (1, 2)]
    members, others = (LabelledData("x", each, torch.zeros(30).long(), ["a"]) for each in x)
    flow = Flow(ExactVelocity(autoencoder.encode(members.x)), (2,), steps=2)
    behind = ATTACK(Latent(flow, autoencoder), members, others, lambda y: y.flatten(1), stream(3))["loss"]
    first, second = (LabelledData("z", autoencoder.encode(each), torch.zeros(30).long(), ["a"]) for each in x)
    inner = ATTACK(flow, first, second, identity, stream(3))["loss"]
    torch.testing.assert_close(behind.positive, inner.positive)


# Conditions


class ByLabel(nn.Module):
    """Velocity or sample of label 0: the memory of the training set; of others: of other points."""

    def __init__(self, flow: bool) -> None:
        super().__init__()
        kind: Any = ExactVelocity if flow else Memory
        self.parts = nn.ModuleList([kind(MEMBERS.x), kind(points(5).x), kind(points(6).x)])

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        *t, label = rest
        each = torch.stack([part(x, *t) for part in self.parts])
        return each[label, torch.arange(len(x))]


@pytest.mark.parametrize("family", ["generator", "flow"])
def test_a_conditional_model_is_scored_at_the_label_and_at_null(family: str) -> None:
    net = ByLabel(family == "flow")
    inner: Any
    if family == "flow":
        inner = Flow(AdaptedVelocity(net, (D,), "x, t, label", label=0, null_label=2), (D,), steps=2)
    else:
        inner = Generator(AdaptedGenerator(net, (D,)), (D,))
    found = run(Conditional(inner, [0.5, 0.5], null=2))
    name = "loss" if family == "flow" else "distance"
    assert found[name].auc.auc > 0.99
    low, high = found[f"null_{name}"].auc.interval()
    assert low < 0.5 < high
    undrawn = run(Conditional(inner, [0.0, 1.0], null=2))
    assert {each.split("_")[0] for each in undrawn} == {"null"}
    assert set(run(Conditional(inner, [0.5, 0.5], null=2), labelled=False)) == set(undrawn)


def test_too_few_images_and_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="has 9 images of the forgotten classes, of 10 or more"):
        ATTACK(Generator(Scale(1.0), (D,)), MEMBERS, points(2, 9), identity, stream(1))
    for options, words in (({"images": 9}, "images=9"), ({"learning_rate": 0.0}, "learning_rate=0.0")):
        with pytest.raises(InputError, match=words):
            MembershipInference(**options)
