"""Methods on conditional models: the law q*(x | c) of what they train on, and small runs."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.energies import CallableEnergy, ConditionEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS, UOT, LatentTransport
from unflow.methods.conditional_latents import ConditionalLatents, LabelMap, choose_given
from unflow.methods.conditional_pairs import ConditionalPairs, draw_given, favour_changed, pair_within
from unflow.models import Chain, Conditional, Flow, FlowMap
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, new_net
from unflow.target import Target
from unflow.training.losses import ConditionalVelocityLoss, VelocityLoss

K, FORGET, N = 4, 1, 16_000
CENTRES = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
SHARES = [0.4, 0.3, 0.2, 0.1]


class Straight(nn.Module):
    """x = c + 0.2 z in one step or in many: the velocity centre(c) - 0.8 z of the noise, as U(z; 0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor, start: Tensor, end: Tensor, label: Tensor) -> Tensor:
        return CENTRES[label] + (self.scale - 1) * x


def one_step() -> Conditional:
    net = AdaptedAverageVelocity(Straight(), (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(net, (2,)), SHARES)


def flow(seed: int = 0) -> Conditional:
    config = {"net": "mlp", "shape": [2], "width": 32, "depth": 2, "num_times": 1, "num_classes": K}
    net = AdaptedVelocity(new_net(config, seed), (2,), "x, t, label", label=0, null_label=K)
    return Conditional(Flow(net, (2,), "euler", 4), SHARES)


def rejects(x: Tensor) -> Tensor:
    """w = 0.02 at the forgotten centre, 0.7 in the upper half of centre 0, else 1."""
    k = torch.cdist(x, CENTRES).argmin(1)
    w = torch.where(k == FORGET, 0.02, torch.where((k == 0) & (x[:, 1] > 0), 0.7, 1.0))
    return -w.log()


def cells(x: Tensor) -> Tensor:
    k = torch.cdist(x, CENTRES).argmin(1)
    return torch.bincount(2 * k + (x[:, 1] > CENTRES[k, 1]).long(), minlength=2 * K).double() / len(x)


def exact(c: int, replace: str = "retained") -> Tensor:
    """q*(cell | c), by the formula with two tries."""
    w = torch.ones(2 * K, dtype=torch.float64)
    w[2 * FORGET : 2 * FORGET + 2], w[1] = 0.02, 0.7
    own = torch.zeros(K, 2 * K, dtype=torch.float64)
    for k in range(K):
        own[k, 2 * k : 2 * k + 2] = 0.5 * w[2 * k : 2 * k + 2]
    mixture = torch.tensor(SHARES, dtype=torch.float64) @ own
    r = {"retained": mixture / mixture.sum(), "label:2": own[2] / own[2].sum()}[replace]
    b = 1 - float(own[c].sum())
    return own[c] * (1 + b) + b**2 * r


def tv(x: Tensor, law: Tensor) -> float:
    return float((cells(x) - law).abs().sum() / 2)


def target_of(model: Conditional, replace: str = "retained") -> Target:
    return Target(model, CallableEnergy(rejects, 0.0), replace=replace)


# Latents of a one-step model


@pytest.mark.parametrize("replace", ["retained", "label:2"])
def test_the_outputs_of_moved_latents_have_the_law_of_each_condition(replace: str) -> None:
    model = one_step()
    latents = ConditionalLatents(target_of(model, replace), model, N, stream(1))
    found = latents.couple()
    for c in range(K):
        rows = latents.label == c
        assert tv(found.y[rows], exact(c, replace)) < 3 / float(rows.sum()) ** 0.5, c
    assert torch.equal(found.y[~found.moved], latents.bank.x[~found.moved])
    torch.testing.assert_close(model.push(found.z), found.y)


def test_most_latents_of_a_forgotten_condition_are_carried_by_the_map() -> None:
    model = one_step()
    latents = ConditionalLatents(target_of(model), model, N, stream(1))
    found = latents.couple()
    here = (latents.label == FORGET) & found.moved
    assert float(found.matched[here].double().mean()) < 0.25
    rows = choose_given(found, latents.label, 0.25, stream(2))
    assert torch.equal(latents.label[rows], latents.label)
    assert not bool(found.matched[rows][here].any())


def test_the_label_map_carries_normal_noise_to_normal_noise_and_an_independent_label() -> None:
    noise = torch.randn(N, 6, generator=stream(3))
    through = LabelMap(torch.tensor([0, 2, 3]), torch.tensor([0.5, 0.2, 0.3]), 6)
    to, label = through.forward(noise)
    assert torch.bincount(label).tolist() == pytest.approx([0.5 * N, 0, 0.2 * N, 0.3 * N], rel=0.05)
    for k in (0, 2, 3):
        part = to[label == k]
        torch.testing.assert_close(part.mean(0), torch.zeros(6), atol=0.07, rtol=0)
        torch.testing.assert_close(part.T.cov(), torch.eye(6), atol=0.1, rtol=0)
    torch.testing.assert_close(through.inverse(to, label), noise, atol=2e-3, rtol=0)


@pytest.mark.parametrize("replace", ["nearest", "noise"])
def test_other_replacements_leave_only_what_the_request_keeps(replace: str) -> None:
    model = one_step()
    latents = ConditionalLatents(target_of(model, replace), model, 2000, stream(1))
    found = latents.couple()
    gone = found.moved & (latents.label == FORGET)
    at = torch.cdist(found.y[gone], CENTRES)[:, FORGET] < 1
    assert float(at.double().mean()) < (0.02 if replace == "nearest" else 0.2)


# Pairs for flow matching


@pytest.mark.parametrize("in_place", [True, False])
def test_pairs_have_the_law_of_each_condition_and_x0_does_not_change(in_place: bool) -> None:
    """Of a flow whose samples are those of the one-step model."""
    model = one_step()
    pairs = ConditionalPairs(target_of(model), model, N, in_place=in_place)
    drawn, weighed = pairs.resample(128, stream(1)), pairs.weigh(stream(1))
    for c in range(K):
        rows = drawn["label"] == c
        assert tv(drawn["x1"][rows], exact(c)) < 3 / float(rows.sum()) ** 0.5
        here = weighed["label"] == c
        k = torch.cdist(weighed["x1"][here], CENTRES).argmin(1)
        share = torch.bincount(k, weighed["weight"][here].double(), minlength=K)
        law = exact(c).reshape(K, 2).sum(1)
        assert float((share / share.sum() - law).abs().sum() / 2) < 3 / float(rows.sum()) ** 0.5
        if in_place:
            assert float(drawn["x0"][rows].mean()) == pytest.approx(0, abs=0.06)
    anchored = drawn["anchor"] > 0
    assert bool(anchored.any()) == in_place
    assert float(anchored[drawn["label"] == FORGET].double().mean()) < 0.1


def test_a_plan_stays_within_the_condition() -> None:
    x, label = torch.randn(400, 2, generator=stream(0)), torch.arange(400) % 3
    moved = torch.rand(400, generator=stream(1)) < 0.5
    paired = pair_within(x, x.flip(0), label, moved, 64, stream(2))
    assert torch.equal(paired[~moved], x.flip(0)[~moved])
    for c in range(3):
        rows = moved & (label == c)
        assert sorted(paired[rows].tolist()) == sorted(x.flip(0)[rows].tolist())


def test_half_of_the_draws_favour_conditions_that_change() -> None:
    label = torch.arange(400) % 4
    kept = (label != FORGET).float()
    chance = favour_changed(label, kept)
    assert float(chance.sum()) == pytest.approx(1)
    assert float(chance[label == FORGET].sum()) == pytest.approx(0.5 + 0.125)
    even = torch.full((400,), 1 / 400).double()
    torch.testing.assert_close(favour_changed(label, torch.ones(400)), even)


def test_rows_without_their_condition_are_drawn_evenly() -> None:
    label = torch.arange(400) % 4
    chance = favour_changed(label, (label != FORGET).float())
    prepared = {"label": label, "chance": chance, "null": torch.tensor([K])}
    rows, found, dropped = draw_given(prepared, 4000, 0.5, stream(0))
    assert torch.equal(found == K, dropped)
    shares = torch.bincount(label[rows][dropped], minlength=4) / int(dropped.sum())
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.04)


def test_the_loss_at_conditions_is_that_of_the_network_and_the_anchor_is_its_optimum() -> None:
    net: Any = flow().inner.net
    for k, weight in enumerate(net.parameters()):
        weight.data = 0.3 * torch.randn(weight.shape, generator=stream(1, k))
    net.requires_grad_(False)
    x0, x1 = torch.randn(64, 2, generator=stream(0)), torch.randn(64, 2, generator=stream(2))
    t, label = torch.rand(64, generator=stream(3)), torch.arange(64) % (K + 1)
    loss = ConditionalVelocityLoss(net, None, net)
    plain = VelocityLoss(net.with_labels(label))(x0, x1, t)
    torch.testing.assert_close(loss(x0, x1, t, label), plain)
    assert float(loss(x0, x1, t, label, torch.ones(64))) == 0.0
    assert float(loss(x0, x1, t, label, torch.full((64,), 0.5))) == pytest.approx(float(plain) / 4)


# Small runs

SMALL: dict[str, Any] = {"steps": 3, "batch_size": 32, "bank_size": 64, "learning_rate": 1e-3}


@pytest.mark.parametrize("name", ["erfm", "erfm_resample", "erfm_prior", "erfm_resample_prior"])
@pytest.mark.parametrize("replace", ["retained", "label:2", "null", "nearest", "noise"])
def test_flows_are_trained_at_their_conditions(name: str, replace: str) -> None:
    model = flow()
    target = Target(model, ConditionEnergy([FORGET]), replace=replace)
    after = uf.unlearn(
        target, dataclasses.replace(UNLEARNERS[name], **{**SMALL, "block_size": 32}), self_measure=0
    ).model
    assert isinstance(after, Conditional)
    assert isinstance(after.inner, Chain if "prior" not in name else Flow)
    for label in (0, FORGET, "null"):
        assert bool(after.sample(5, stream(0), label=label, guidance=2.0).isfinite().all())
    assert not torch.equal(after.sample(5, stream(0), label=FORGET), model.sample(5, stream(0), label=FORGET))


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize("name", ["latent_transport", "uot", "uot_tilted", "latent_transport_uot"])
def test_one_step_models_are_trained_at_their_conditions(name: str) -> None:
    config = {"net": "mlp", "shape": [2], "width": 32, "depth": 2, "num_times": 2, "num_classes": K}
    net = AdaptedAverageVelocity(new_net(config, 0), (2,), "x, start, end, label", label=0)
    model = Conditional(FlowMap(net, (2,)), SHARES)
    method = dataclasses.replace(UNLEARNERS[name], **SMALL)
    after = uf.unlearn(Target(model, CallableEnergy(lambda x: x[:, 0].square(), 0.0)), method, self_measure=0)
    assert isinstance(after.model, Conditional)
    assert not torch.equal(after.model.sample(5, stream(0)), model.sample(5, stream(0)))


def test_an_energy_of_the_condition_is_refused_by_methods_that_follow_samples() -> None:
    model = one_step()
    with pytest.raises(InputError, match="follows the gradient of the energy, and this energy has none"):
        uf.unlearn(Target(model, ConditionEnergy([1])), UOT(steps=2))


def test_the_potential_of_features_knows_no_condition() -> None:
    with pytest.raises(InputError):
        uf.unlearn(target_of(one_step()), UOT(steps=2, pool="tilted", potential="features"))


def test_the_self_measure_asks_for_the_forgotten_condition() -> None:
    method = LatentTransport(steps=3, bank_size=512)
    result = uf.unlearn(target_of(one_step()), method)
    assert result.measure is not None
    (asked,) = result.measure.asked
    assert asked.label == FORGET
    assert asked.before.value > 0.95
    assert asked.target.value < 0.1
    assert "asked for 1: " in result.verdict
