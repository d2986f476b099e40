"""Relearning: exact curves of one weight, what is left alone, and what cannot be learned from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from unflow.energies import Region
from unflow.evidence.attacks import Relearning, find_original, models_inside
from unflow.evidence.attacks.relearning import Point, steps_to
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Chain, Conditional, Filtered, Flow, FlowMap, GenerativeModel, Generator, Latent
from unflow.models.autoencoder import Autoencoder
from unflow.nets import MLP, AdaptedGenerator, AdaptedVelocity, new_net


class Shift(nn.Module):
    """x = z / 100 + b."""

    def __init__(self, b: float) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.full((2,), b))

    def forward(self, z: Tensor) -> Tensor:
        return z / 100 + self.b


def shift(b: float) -> Generator:
    return Generator(Shift(b), (2,)).eval().requires_grad_(False)


def place(model: GenerativeModel) -> float:
    return float(model.sample(500, stream(9)).mean())


IMAGES = torch.full((3, 2), 1.0)
SLOW = Relearning(steps=200, batch_size=16, learning_rate=0.01)


@pytest.mark.parametrize("far", [0.5, 1.0])
def test_one_weight_comes_back_in_as_many_steps_as_it_is_far(far: float) -> None:
    """Adam's steps on a slope are as long as its rate: half of the way takes far / 2 / 0.01 steps."""
    curve = SLOW(shift(1 - far), IMAGES, place, stream(1))
    steps = steps_to(curve, 1 - far / 2)
    assert steps == pytest.approx(far / 2 / 0.01, rel=0.1)
    assert curve[-1].value == pytest.approx(1, abs=0.1)


def test_the_model_stays_as_it_is_and_the_curve_is_the_same_again() -> None:
    model: Any = shift(0.0)
    curves = [Relearning(steps=9, batch_size=4)(model, IMAGES, place, stream(1)) for _ in range(2)]
    assert curves[0] == curves[1]
    assert curves[0][0] == Point(0, place(model))
    assert float(model.net.b.sum()) == 0
    assert not model.net.b.requires_grad


def test_the_nearest_images_draw_and_the_others_do_not() -> None:
    """Two modes, two images: each mode goes to its own; pairs at random would meet in the middle."""

    class Modes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Parameter(torch.tensor([-1.0, 1.0]))

        def forward(self, z: Tensor) -> Tensor:
            return self.b[(z[:, :1] > 0).long()]

    model = Generator(Modes(), (1,))
    wide: list[float] = []

    def width(attacked: GenerativeModel) -> float:
        wide.append(float(attacked.sample(400, stream(2)).std(correction=0)))
        return wide[-1]

    Relearning(steps=150, learning_rate=0.02)(model, torch.tensor([[-2.0], [2.0]]), width, stream(3))
    assert wide[0] == pytest.approx(1, abs=0.01)
    assert wide[-1] > 1.5


def velocity() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP((2,), 32, 1)


def average_velocity() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP((2,), 32, 1, num_times=2)


@pytest.mark.parametrize("family", ["flow", "flow_map", "chain"])
def test_every_family_relearns(family: str) -> None:
    models: dict[str, GenerativeModel] = {
        "flow": Flow(velocity(), (2,), steps=4),
        "flow_map": FlowMap(average_velocity(), (2,)),
        "chain": Chain(Flow(velocity(), (2,), steps=4), FlowMap(average_velocity(), (2,))),
    }
    images = torch.randn(50, 2, generator=stream(5)) * 0.1 + 2
    curve = Relearning(steps=120, learning_rate=0.01)(models[family], images, place, stream(1))
    assert curve[0].value == pytest.approx(0, abs=0.1)
    assert curve[-1].value > 1.5


def test_behind_a_decoder_it_is_the_inner_model_that_relearns() -> None:
    net = new_net({"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}, 0)
    autoencoder = Autoencoder(net)
    before = [p.clone() for p in autoencoder.parameters()]
    image = torch.randn(1, 1, 4, 4, generator=stream(6)) + 3

    def inner_place(attacked: GenerativeModel) -> float:
        assert isinstance(attacked, Latent)
        return place(attacked.inner)

    attack, encoded = Relearning(steps=150, learning_rate=0.03), float(autoencoder.encode(image).mean())
    curve = attack(Latent(shift(encoded + 1), autoencoder), image, inner_place, stream(1))
    assert [curve[0].value, curve[-1].value] == pytest.approx([encoded + 1, encoded], abs=0.1)
    assert all(map(torch.equal, autoencoder.parameters(), before))


def test_a_free_decoder_learns_the_images_that_a_frozen_one_cannot_draw() -> None:
    """The images lie outside of what the frozen decoder can draw, so only a free one reaches them."""
    net = new_net({"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}, 0)
    model: Any = Latent(shift(0.0), Autoencoder(net))
    before = copy.deepcopy(model.state_dict())
    image = torch.full((1, 1, 4, 4), 2.0)

    def away(attacked: GenerativeModel) -> float:
        return float((attacked.sample(50, stream(9)) - image).square().mean())

    ends = [
        Relearning(steps=60, learning_rate=0.03, free_decoder=free)(model, image, away, stream(1))[-1].value
        for free in (False, True)
    ]
    assert ends[1] < ends[0] / 2
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in before.items())
    plain = [SLOW, Relearning(steps=200, batch_size=16, learning_rate=0.01, free_decoder=True)]
    assert len({tuple(attack(shift(0.0), IMAGES, place, stream(1))) for attack in plain}) == 1


# Labels


class Rows(nn.Module):
    """x = z / 100 + e_label, or the constant velocity e_label."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.classes = nn.Embedding.from_pretrained(rows.clone(), freeze=False)
        self.scale = 0.01

    def forward(self, z: Tensor, *rest: Tensor) -> Tensor:
        return self.scale * z * (len(rest) == 1) + self.classes(rest[-1])


def conditional(rows: Tensor, family: str) -> Any:
    if family == "generator":
        inner: GenerativeModel = Generator(AdaptedGenerator(Rows(rows), (2,)), (2,))
    else:
        inner = Flow(AdaptedVelocity(Rows(rows), (2,), "x, t, label", label=0), (2,), steps=2)
    return Conditional(inner, [1 / len(rows)] * len(rows)).eval()


def asked_place(attacked: GenerativeModel) -> float:
    return float(attacked.sample(4000, stream(9), label=1).mean())


@pytest.mark.parametrize("family", ["generator", "flow"])
def test_labelled_images_move_their_label_alone(family: str) -> None:
    """Steps of Adam on a slope are as long as its rate, however far; the velocity's slope is noisy."""
    model = conditional(torch.tensor([[-3.0, -3.0], [0.0, 0.0], [3.0, 3.0]]), family)
    seen: list[Tensor] = []

    def measure(attacked: Any) -> float:
        seen.append(attacked.state_dict()["inner.net.net.classes.weight"].clone())
        return asked_place(attacked)

    curve = SLOW(model, IMAGES, measure, stream(1), torch.full((len(IMAGES),), 1))
    steps = steps_to(curve, 0.5)
    assert steps == pytest.approx(50, rel=0.1 if family == "generator" else 0.5)
    assert curve[-1].value > 0.85
    assert torch.equal(seen[0][[0, 2]], seen[-1][[0, 2]])


def test_a_label_is_paired_with_its_own_images_though_others_are_nearer() -> None:
    """Labels 0 and 1 draw -1 and 1, and their images lie at 3 and -3: each crosses the other's place."""
    model = conditional(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), "generator")
    images = torch.tensor([[3.0, 3.0], [-3.0, -3.0]])
    attack = Relearning(steps=120, batch_size=16, learning_rate=0.1)
    curve = attack(model, images, asked_place, stream(1), torch.tensor([0, 1]))
    assert curve[0].value == pytest.approx(1, abs=0.01)
    assert curve[-1].value == pytest.approx(-3, abs=0.2)


# Curves


def test_a_curve_is_straight_between_its_points() -> None:
    curve = [Point(0, 0.0), Point(10, 0.1), Point(20, 0.5), Point(30, 0.2)]
    assert steps_to(curve, 0.3) == pytest.approx(15)
    assert steps_to(curve, 0.1) == pytest.approx(10)
    assert steps_to(curve, 0.0) == 0
    assert steps_to(curve, 0.6) is None


@given(st.integers(1, 2000), st.floats(1.05, 4))
def test_the_curve_is_taken_at_growing_steps_and_at_the_last(steps: int, growth: float) -> None:
    at = Relearning(steps=steps, growth=growth).measured_at
    assert at == sorted(set(at))
    assert (at[0], at[-1]) == (0, steps)


# What is inside


def test_what_can_be_taken_off_is_found_and_changed_weights_hold_nothing() -> None:
    flow, after = Flow(velocity(), (2,)), FlowMap(average_velocity(), (2,))
    chain = Chain(flow, after)
    filtered = Filtered(chain, Region(lambda x: x[:, 0] > 0))
    assert models_inside(shift(0.0)) == models_inside(flow) == []
    assert models_inside(chain) == [flow, after]
    assert models_inside(filtered) == [chain, flow, after]


def flow(seed: int) -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Flow(MLP((2,), 8, 1), (2,), steps=2)


def test_of_two_links_of_one_architecture_only_the_original_is_the_original() -> None:
    """A flow of latents before the original has its shapes, and maps noise to moved noise."""
    original, moved = flow(0), flow(1)
    for order in ((moved, original), (original, moved)):
        chain = copy.deepcopy(Chain(*order))
        found = find_original(chain, original)
        assert found is (chain.base, chain.after)[order.index(original)]
        assert find_original(chain, chain) is None
        assert find_original(Filtered(chain, Region(lambda x: x[:, 0] > 0)), original) is found
    assert find_original(Chain(moved, flow(2)), original) is None
    assert find_original(original, original) is None


def test_one_changed_weight_is_another_model() -> None:
    original = flow(0)
    chain: Any = copy.deepcopy(Chain(flow(1), original))
    next(chain.after.parameters()).data.view(-1)[0] += 1e-6
    assert find_original(chain, original) is None


def test_a_decoder_and_conditions_are_not_compared() -> None:
    net = new_net({"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}, 0)
    original, moved = Latent(flow(0), Autoencoder(net)), Latent(flow(1), Autoencoder(net))
    chain = Latent(Chain(moved.inner, original.inner), Autoencoder(net))
    found = find_original(chain, original)
    assert isinstance(found, Latent)
    assert found.inner is original.inner
    asked = conditional(torch.eye(2), "flow")
    wrapped = Filtered(Conditional(copy.deepcopy(asked.inner), [0.9, 0.1]), Region(lambda x: x[:, 0] > 0))
    assert find_original(wrapped, asked) is wrapped.model


class Times(nn.Module):
    """x = factor z, without weights."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


def test_models_without_weights_are_compared_by_their_samples() -> None:
    original, other = Generator(Times(2.0), (2,)), Generator(Times(3.0), (2,))
    chain = Chain(other, Generator(Times(2.0), (2,)))
    assert find_original(chain, original) is chain.after
    assert find_original(chain, Generator(Times(4.0), (2,))) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "rate=0.0"),
        ({"growth": 1.0}, "growth=1.0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Relearning(**options)


@pytest.mark.parametrize("images", [torch.ones(0, 2), torch.ones(3, 4)])
def test_images_that_do_not_fit_are_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match=r"images of shape.*expected 1 or more of \[2\]"):
        SLOW(shift(0.0), images, place, stream(1))
