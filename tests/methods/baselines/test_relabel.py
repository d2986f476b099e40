"""Relabel and Saliency: the law of perfectly fitted pairs, the optimum of a linear model, the mask's bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy, Region
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import Relabel, Saliency
from unflow.methods.baselines.regression import TwoSidedLoss, split_bank
from unflow.methods.baselines.saliency import forget_gradient, mask_salient
from unflow.models import Flow, FlowMap, GenerativeModel, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem


class Line(nn.Module):
    """x = a z + b."""

    def __init__(self, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([a])), nn.Parameter(torch.tensor([b]))

    def forward(self, z: Tensor) -> Tensor:
        return self.a * z + self.b


def right(x: Tensor) -> Tensor:
    return 3 * nn.functional.softplus(4 * x[:, 0])


def problem_of(model: GenerativeModel, energy: CallableEnergy | Region | None = None) -> Problem:
    return Problem(model=model, target=Target(model, energy or CallableEnergy(right, 0.0)))


def line() -> Problem:
    return problem_of(Generator(Line(), (1,)))


def network() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 16, 2, num_times=2)
        nn.init.normal_(net.last.weight, std=0.3)
    return problem_of(FlowMap(net, (2,)))


SMALL: dict[str, Any] = {"steps": 60, "batch_size": 32, "bank_size": 1024, "learning_rate": 3e-3}


# Who is forgotten


def test_the_retained_outputs_and_the_pairs_have_the_law_of_the_target() -> None:
    """Every latent with the output it is regressed on: if all were fitted, the law of G would be q*.

    On a grid of 40 cells; 40,000 exact samples of q* are themselves 0.01 to 0.015 from it.
    """
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    density = torch.exp(-(grid[:, 0] ** 2) / 2 - right(grid))
    exact = (
        torch.histogram(grid[:, 0], torch.linspace(-5, 5, 41).double(), weight=density).hist / density.sum()
    )
    prepared = Relabel(bank_size=40000).prepare(line(), stream(0))
    assert 0.4 < len(prepared["forget/z"]) / 40000 < 0.9
    both = torch.cat([prepared["forget/y"], prepared["retain/y"]])
    for outputs in (prepared["retain/y"], both):
        found = torch.histogram(outputs[:, 0].double(), torch.linspace(-5, 5, 41).double()).hist / len(
            outputs
        )
        assert float((found - exact).abs().sum() / 2) < 0.03


def test_latents_are_told_apart_by_rejection_each_with_its_own_output() -> None:
    problem = problem_of(Generator(Line(2.0, 1.0), (1,)), Region(lambda x: x[:, 0] > 2, height=60.0))
    forgotten, retained = split_bank(problem, 5000, stream(1))
    assert len(forgotten.x) + len(retained.x) == 5000
    assert bool((forgotten.x > 2).all())
    assert bool((retained.x <= 2).all())
    for bank in (forgotten, retained):
        torch.testing.assert_close(bank.x, 2 * bank.z + 1)


def test_partners_are_retained_outputs_and_drawn_anew_for_every_seed() -> None:
    one, same, other = (Relabel(**SMALL).prepare(line(), stream(seed)) for seed in (3, 3, 4))
    assert torch.isin(one["forget/y"], one["retain/y"]).all()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["forget/y"][:50], other["forget/y"][:50])


@pytest.mark.parametrize(
    ("height", "strength", "words"),
    [(20.0, 0.0, "keeps all of 1024.*raise the strength"), (1e4, 1.0, "keeps none of 1024.*lower the")],
)
def test_nothing_to_forget_or_to_keep_is_refused(height: float, strength: float, words: str) -> None:
    model = Generator(Line(), (1,))
    energy = CallableEnergy(lambda x: height + x[:, 0].square(), 0.0)
    with pytest.raises(InputError, match=words):
        fit(Relabel(**SMALL), Problem(model=model, target=Target(model, energy, strength)))


# The loss and its optimum


def test_the_loss_is_the_forget_term_plus_alpha_times_the_retain_term() -> None:
    model = Generator(Line(2.0), (1,))
    z, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    found = TwoSidedLoss(model, 0.5)(z, y, z, 2 * z + 2)
    assert found.item() == pytest.approx((1 + 9) / 2 + 0.5 * 4)


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_a_linear_model_reaches_the_weighted_least_squares_solution(alpha: float) -> None:
    """x = a z + b: the minimiser of E_f (a z + b - y)^2 + alpha E_r (a z + b - y)^2, solved on the bank."""
    problem = line()
    options: dict[str, Any] = {"steps": 600, "batch_size": 256, "learning_rate": 2e-2, "bank_size": 4096}
    method = Relabel(**options, alpha=alpha, average=0.99)
    found: Any = fit(method, problem, seed=2).model.net
    prepared = method.prepare(problem, stream(2, 0))
    kinds = ("forget", "retain")
    z, y = (torch.cat([prepared[f"{kind}/{name}"] for kind in kinds]).double() for name in ("z", "y"))
    n = [len(prepared[f"{kind}/z"]) for kind in kinds]
    weight = torch.cat([torch.full((n[0],), 1 / n[0]), torch.full((n[1],), alpha / n[1])]).double().sqrt()
    design = torch.cat([z, torch.ones_like(z)], dim=1)
    a, b = torch.linalg.lstsq(weight[:, None] * design, weight[:, None] * y).solution.flatten().tolist()
    assert (found.a.item(), found.b.item()) == (pytest.approx(a, abs=0.03), pytest.approx(b, abs=0.03))
    assert abs(a - 1) > 0.2


def test_a_heavy_alpha_keeps_the_original_and_none_forgets_the_retained() -> None:
    def move(alpha: float) -> float:
        model = fit(Relabel(**SMALL, alpha=alpha, average=0.9), network(), seed=1).model
        assert isinstance(model, FlowMap)
        kept = Relabel(**SMALL).prepare(network(), stream(1, 0))
        with torch.no_grad():
            return float((model.push(kept["retain/z"]) - kept["retain/y"]).square().mean())

    assert move(100.0) < 0.2 * move(0.0)


@pytest.mark.parametrize("kind", [Relabel, Saliency])
@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_a_negative_alpha_is_refused(kind: type[Relabel] | type[Saliency], alpha: float) -> None:
    with pytest.raises(InputError, match=r"got alpha=.*expected a finite number >= 0"):
        kind(alpha=alpha)


@pytest.mark.parametrize("kind", [Relabel, Saliency])
def test_a_flow_is_refused_before_any_training(kind: type[Relabel] | type[Saliency]) -> None:
    flow = Flow(MLP((2,), 8, 1), (2,))
    with pytest.raises(InputError, match=f"{kind.__name__} does not train models of the family flow"):
        kind().check(problem_of(flow))
    with pytest.raises(InputError, match=r"batch_size=64 for 32 samples \(bank_size\)"):
        kind(batch_size=64, bank_size=32)


# Saliency


def test_all_weights_salient_is_relabelling_in_the_same_bits() -> None:
    relabel_latents = fit(Relabel(**SMALL), network(), seed=5).model.state_dict()
    everything = fit(Saliency(**SMALL, share=1.0), network(), seed=5).model.state_dict()
    assert all(torch.equal(everything[name], weights) for name, weights in relabel_latents.items())


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_exactly_the_masked_weights_move_and_the_others_keep_every_bit(share: float) -> None:
    problem, method = network(), Saliency(**SMALL, share=share)
    masks = method.prepare(problem, stream(5, 0))
    before = problem.model.state_dict()
    after = fit(method, problem, seed=5).model.state_dict()
    moved = {name: after[name] != before[name] for name in before}
    masked = {name: masks[f"mask/{name}"] for name in before}
    for name in before:
        assert not bool((moved[name] & ~masked[name]).any()), name
    total = sum(mask.numel() for mask in masked.values())
    assert sum(int(mask.sum()) for mask in masked.values()) == round(share * total)
    # A unit that is dead for the whole training has no gradient to move by.
    assert sum(int(m.sum()) for m in moved.values()) > 0.95 * share * total


def test_the_salient_are_the_largest_gradients_over_all_layers_together() -> None:
    gradient = {"a": torch.tensor([[0.1, -5.0], [3.0, 0.2]]), "b": torch.tensor([-4.0, 0.0])}
    masks = mask_salient(gradient, 0.5)
    assert masks["a"].tolist() == [[False, True], [True, False]]
    assert masks["b"].tolist() == [True, False]
    assert sum(int(mask.sum()) for mask in mask_salient(gradient, 0.01).values()) == 1


def test_the_gradient_of_the_mask_is_that_of_the_forget_term_at_the_original() -> None:
    """x = a z + b: dL/da = 2 E[z (a z + b - y)], dL/db = 2 E[a z + b - y], in batches or at once."""
    model = Generator(Line(2.0, 1.0), (1,))
    z, y = torch.randn(2, 50, 1, generator=stream(3))
    error = 2 * z + 1 - y
    for batch_size in (50, 7):
        model.zero_grad()
        found = forget_gradient(model, z, y, batch_size)
        torch.testing.assert_close(found["net.a"], (2 * z * error).mean(0))
        torch.testing.assert_close(found["net.b"], (2 * error).mean(0))


def test_a_parameter_without_part_in_the_output_is_never_salient() -> None:
    model = Generator(Line(), (1,))
    model.net.unused = nn.Parameter(torch.ones(3))
    z, y = torch.randn(2, 50, 1, generator=stream(3))
    masks = mask_salient(forget_gradient(model, z, y), 0.4)
    assert masks["net.unused"].tolist() == [False] * 3


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"got share=.*expected a number in \(0, 1\]"):
        Saliency(share=share)
