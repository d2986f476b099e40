"""The probe before a training: no false alarm, and nothing that it leaves behind."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.energies import BlackBox, CallableEnergy, ClassLogOdds, ScoreLogOdds
from unflow.ground.errors import InputError
from unflow.models import Chain, Flow, FlowMap, GenerativeModel, Generator, Labelled
from unflow.models.classifier import Classifier
from unflow.models.probe import draw_probe, probe_energy, probe_judge, probe_model, undisturbed
from unflow.nets import NETS, AdaptedVelocity, new_net
from unflow.training.checks import FAMILIES
from unflow.training.derivatives import find_fixed_label, probe_method, probe_problem
from unflow.training.method import Problem, fixed_names, trainable_copy

SIZES: dict[str, dict[str, Any]] = {
    "mlp": {"shape": (2,), "width": 8, "depth": 2, "num_times": 1},
    "unet": {"shape": (1, 8, 8), "widths": (8, 8), "num_times": 1},
    "dit": {"shape": (1, 8, 8), "width": 24, "depth": 1, "heads": 2, "patch": 4, "num_times": 1},
}


def make_flow(name: str) -> Flow:
    known = dict(SIZES[name])
    return Flow(new_net({"net": name, **known}, 0), known["shape"], steps=2)


@pytest.mark.parametrize("name", SIZES)
def test_the_networks_of_unflow_pass(name: str) -> None:
    assert name in NETS
    probe_model(make_flow(name))


class Spoilt(nn.Module):
    """Draws from every random generator and counts in a buffer, in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(2, 2), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1  # type: ignore[has-type]
        torch.rand(3), random.random(), np.random.rand()
        y: Tensor = self.layer(x)
        return y


def test_a_probe_leaves_random_generators_buffers_and_modes_as_they_were() -> None:
    net = Spoilt().train()
    before = (torch.random.get_rng_state(), random.getstate(), repr(np.random.get_state()), net.seen.clone())
    with undisturbed(net) as disturbed:
        net(torch.zeros(3, 2))
        assert disturbed.drew_randomly()
        assert disturbed.find_changed() == "seen"
        assert not net.training
    assert net.training
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == repr(np.random.get_state())
    assert torch.equal(before[3], net.seen)


def test_a_black_box_is_not_called_by_the_probe() -> None:
    box = BlackBox(lambda x: (x[:, 0] > 0).astype(float))
    probe_energy(ScoreLogOdds(box), torch.randn(7, 2, generator=uf.stream(0)))
    assert box.calls == 0


def test_an_energy_that_is_flat_at_the_samples_is_no_step_function() -> None:
    model = Generator(nn.Identity(), (2,))
    far = CallableEnergy(lambda x: torch.relu(x[:, 0] - 50), lower_bound=0.0)
    target = uf.Target(model, far)
    probe_method(uf.methods.UOT(), Problem(model=Generator(nn.Linear(2, 2), (2,)), target=target))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_of_every_family_passes(family: str) -> None:
    nets: dict[str, GenerativeModel] = {
        "flow": make_flow("mlp"),
        "flow_map": FlowMap(
            new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 2, "num_times": 2}, 0), (2,)
        ),
        "generator": Generator(
            new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 2, "num_times": 0}, 0), (2,)
        ),
    }
    probe_model(nets[family])
    assert draw_probe(nets[family]).shape == (7, 2)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(3, 2), nn.Embedding(3, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([x, t[:, None]], 1)) + self.table(label)
        return y


def test_random_labels_are_no_fixed_label_and_a_fixed_one_asks_for_consent() -> None:
    fixed = Flow(AdaptedVelocity(Conditional(), (2,), "x, t, label", label=1), (2,), steps=2)
    labelled = Labelled(fixed, [0.5, 0.25, 0.25])
    probe_model(labelled)
    probe_model(Chain(fixed, make_flow("mlp")))
    assert find_fixed_label(fixed) == 1
    assert find_fixed_label(labelled) is None
    target = uf.Target(fixed, CallableEnergy(lambda x: x[:, 0].square(), lower_bound=0.0))
    method = uf.methods.ERFM(place="prior", weighting="resample", steps=2, bank_size=256, batch_size=16)
    with pytest.raises(InputError, match=r"fixed label 1 for ERFM.*one_label=True"):
        uf.unlearn(target, method)
    uf.unlearn(target, method, one_label=True)
    assert "fixed label" in str(uf.plan(target, {"x": method}).methods[0].obstacle)
    assert uf.plan(target, {"x": method}, one_label=True).methods[0].obstacle is None


def test_a_judge_answers_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    judge, x = Classifier(net, ["a", "b"]).train(), torch.randn(9, 2, generator=uf.stream(0))
    probe_judge(judge, x, "the judge")
    assert torch.equal(judge.probabilities(x), judge.probabilities(x))
    assert judge.training


# Fixed weights


def make_fixed() -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    return Generator(net, (2,))


GUIDE = nn.Linear(2, 2, bias=False)
nn.init.eye_(GUIDE.weight)

METHODS = {
    "uot": uf.methods.UOT(steps=3, bank_size=256, batch_size=16),
    "latent_transport": uf.methods.LatentTransport(steps=3, bank_size=256, batch_size=16),
    "saliency": uf.methods.Saliency(steps=3, bank_size=256, batch_size=16, learning_rate=1e-2),
    "selective_amnesia": uf.methods.SelectiveAmnesia(steps=3, bank_size=256, batch_size=16, fisher_batches=2),
    "weight_extrapolation": uf.methods.WeightExtrapolation(steps=3, bank_size=256, batch_size=16),
    "relabel": uf.methods.Relabel(steps=3, bank_size=256, batch_size=16),
    "gradient_ascent": uf.methods.GradientAscent(steps=3, batch_size=16),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_weight_that_its_owner_has_fixed_stays_unless_it_is_named(name: str) -> None:
    model = make_fixed()
    target = uf.Target(model, ClassLogOdds(GUIDE, 1, 1.0))
    result = uf.unlearn(target, METHODS[name])
    before, after = dict(model.named_parameters()), dict(result.model.named_parameters())
    assert fixed_names(model) == fixed_names(result.model) == {"net.0.weight", "net.0.bias"}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"net.2.weight", "net.2.bias"}
    named = uf.unlearn(target, METHODS[name], train_only=["0.weight"]).model
    assert not torch.equal(named.get_parameter("net.0.weight"), before["net.0.weight"])
    assert torch.equal(named.get_parameter("net.2.weight"), before["net.2.weight"])
    assert fixed_names(model) == fixed_names(named)


def test_adapters_leave_fixed_layers_alone_and_a_plan_counts_what_is_trained() -> None:
    model = make_fixed()
    target = uf.Target(model, ClassLogOdds(GUIDE, 1, 1.0))
    result = uf.unlearn(target, METHODS["latent_transport"], adapters=uf.LowRank(1)).model
    assert torch.equal(result.get_parameter("net.0.weight"), model.get_parameter("net.0.weight"))
    assert not torch.equal(result.get_parameter("net.2.weight"), model.get_parameter("net.2.weight"))
    assert uf.plan(target, {}).trained == 18


def test_a_network_that_was_frozen_as_a_whole_is_trained() -> None:
    model = make_fixed().requires_grad_(False)
    assert fixed_names(model) == frozenset()
    assert all(weight.requires_grad for weight in trainable_copy(model).parameters())


def test_a_problem_of_a_shipped_kind_passes() -> None:
    model = Generator(new_net({"net": "mlp", "shape": (2,), "width": 8, "depth": 2, "num_times": 0}, 0), (2,))
    probe_problem(Problem(model=model, target=uf.Target(model, ClassLogOdds(GUIDE, 1, 1.0))))


class Wobbling(nn.Module):
    """A classifier whose features drop out in evaluation mode; its logits do not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(2, 8), nn.Linear(8, 2)

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.body(x), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.body(x))
        return y


def test_an_audit_refuses_a_judge_whose_features_differ_between_calls() -> None:
    x = torch.randn(120, 2, generator=uf.stream(0))
    data = uf.data.LabelledData("points", x, (x[:, 0] > 0).long(), ["left", "right"])
    model = make_fixed()
    with pytest.raises(InputError, match=r"the judge \(its features\) gives another output"):
        uf.audit(
            model,
            original=model,
            judge=Classifier(Wobbling(), ["left", "right"]),
            held_out=data,
            training=data,
            forget=[0],
            n=100,
        )


def test_a_network_with_dropout_is_trained_the_same_whatever_was_drawn_before() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    model = Generator(net.requires_grad_(True), (2,))
    target = uf.Target(model, ClassLogOdds(GUIDE, 1, 1.0))
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            results.append(uf.unlearn(target, METHODS["relabel"]).model)
            assert torch.equal(before, torch.random.get_rng_state())
    one, other = (dict(result.named_parameters()) for result in results)
    assert all(torch.equal(one[name], other[name]) for name in one)
