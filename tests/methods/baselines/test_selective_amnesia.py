"""SelectiveAmnesia: its Fisher information in closed form, its elastic pull, its surrogates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy, Region
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import SelectiveAmnesia
from unflow.methods.baselines.regression import TwoSidedLoss
from unflow.methods.baselines.selective_amnesia import ElasticLoss, fisher_information
from unflow.models import FlowMap, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.loop import fit
from unflow.training.method import Problem

SMALL: dict[str, Any] = {
    "steps": 80,
    "batch_size": 32,
    "bank_size": 1024,
    "learning_rate": 3e-3,
    "fisher_batches": 50,
}


def linear(n: int = 3, outputs: int = 2) -> Generator:
    net = nn.Linear(n, outputs)
    nn.init.normal_(net.weight, generator=stream(1))
    nn.init.zeros_(net.bias)
    return Generator(net, (n,))


def network() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 16, 2, num_times=2)
        nn.init.normal_(net.last.weight, std=0.3)
    model = FlowMap(net, (2,))
    return Problem(model=model, target=Target(model, Region(lambda x: x[:, 0] > 0.5, 30.0)))


# The Fisher information


def test_the_fisher_information_of_a_linear_model_is_the_second_moment_of_its_inputs() -> None:
    """x = W z + b, dim outputs: ||dx/dW_ij||^2 = z_j^2 and ||dx/db_i||^2 = 1, each over dim.

    Over 4,000 draws of e a square of a normal number has a relative error of sqrt(2 / 4000) = 2.2 %.
    """
    model = linear()
    latents = [torch.randn(8, 3, generator=stream(2, k)) * torch.tensor([1.0, 2.0, 0.5]) for k in range(4000)]
    found = fisher_information(model, latents, stream(3))
    moments = torch.cat(latents).square().mean(0)
    torch.testing.assert_close(found["net.weight"], (moments / 2).expand(2, 3), rtol=0.12, atol=0)
    torch.testing.assert_close(found["net.bias"], torch.full((2,), 0.5), rtol=0.12, atol=0)


def test_it_is_the_mean_square_of_the_score_of_a_gaussian_output() -> None:
    """E (d/dtheta -||x - G(z)||^2 / 2)^2 at x = G(z) + e: one pass per batch, against one per entry."""
    model: Any = network().model
    z = model.prior(16, stream(4)).double()
    model = model.double()
    found = fisher_information(model, [z] * 800, stream(5))
    exact = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in z.split(1):
        for entry in model.push(row).flatten():
            gradients = torch.autograd.grad(entry, list(model.parameters()), retain_graph=True)
            for name, gradient in zip(exact, gradients, strict=True):
                exact[name] += gradient.square() / (len(z) * model.dim)
    total, known = (torch.cat([part.flatten() for part in parts.values()]) for parts in (found, exact))
    assert float((total - known).norm() / known.norm()) < 0.12
    assert float(total.sum() / known.sum()) == pytest.approx(1, abs=0.05)
    assert bool((total[known == 0] == 0).all())


def test_a_parameter_without_part_in_the_output_has_no_information() -> None:
    model = linear()
    model.net.unused = nn.Parameter(torch.ones(3))
    assert fisher_information(model, [torch.randn(4, 3)], stream(0))["net.unused"].tolist() == [0, 0, 0]


# The penalty


def test_the_loss_is_both_errors_plus_lam_fisher_times_the_squared_change() -> None:
    model: Any = linear(1, 1)
    with torch.no_grad():
        model.net.weight.fill_(2.0)
    fisher = [torch.full((1, 1), 3.0), torch.full((1,), 5.0)]
    loss = ElasticLoss(TwoSidedLoss(model, 1.0), model, fisher, lam=0.1)
    z = torch.ones(4, 1)
    assert loss(z, z, z, z).item() == pytest.approx(1 + 1)  # nothing has changed yet
    with torch.no_grad():
        model.net.weight.fill_(4.0)
        model.net.bias.fill_(-1.0)
    assert loss(z, z, z, z).item() == pytest.approx(4 + 4 + 0.1 * (3 * 4 + 5 * 1))


def test_a_linear_model_reaches_the_minimum_of_the_quadratic() -> None:
    """x = b (weight 0 held by F): b* = (s + b0 + lam F b0) / (2 + lam F) for surrogates of mean s."""

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Parameter(torch.tensor([1.0]))

        def forward(self, z: Tensor) -> Tensor:
            return self.b + 0 * z

    model = Generator(Shift(), (1,))
    energy = CallableEnergy(lambda x: 0.5 + 0 * x[:, 0] + 1e-3 * NOISE(len(x)), 0.0)
    method = SelectiveAmnesia(
        steps=800,
        batch_size=64,
        learning_rate=2e-2,
        lam=2.0,
        surrogate="noise",
        bank_size=512,
        fisher_batches=400,
    )
    prepared = method.prepare(Problem(model=model, target=Target(model, energy)), stream(1, 0))
    F = float(prepared["fisher/net.b"])  # a batch of 64 equal rows: E[(sum_b e_b)^2] / 64 = 1
    assert abs(F - 1) < 0.25
    found: Any = fit(method, Problem(model=model, target=Target(model, energy)), seed=1).model
    assert float(found.net.b) == pytest.approx((0 + 1 + 2 * F) / (2 + 2 * F), abs=0.03)


def NOISE(n: int) -> Tensor:
    """Some numbers, the same at every call: an energy may not be constant."""
    return torch.rand(n, generator=torch.Generator().manual_seed(0))


def test_the_change_in_the_norm_of_the_penalty_shrinks_with_lam_and_the_bare_loss_grows() -> None:
    """P = sum F (theta - theta*)^2 and L of the minima of L + lam P: P falls and L rises with lam, and
    L + lam P <= L(theta*).

    The plain distance of the weights obeys no such law: what F does not see moves freely.
    """
    problem, options = network(), SMALL | {"average": 0.9}
    prepared = SelectiveAmnesia(**options).prepare(problem, stream(1, 0))
    start = dict(problem.model.named_parameters())
    middle = prepared["range"].mean()

    @torch.no_grad()
    def bare_loss(model: nn.Module) -> float:
        """Up to the variance of the surrogate, which no model changes."""
        forgotten, retained = (model(prepared[f"{kind}/z"]) for kind in ("forget", "retain"))
        error = (retained - prepared["retain/y"]).square().mean()
        return float((forgotten - middle).square().mean() + error)

    @torch.no_grad()
    def penalty(model: nn.Module) -> float:
        moved = {name: (p - start[name]).square() for name, p in model.named_parameters()}
        return sum(float((prepared[f"fisher/{name}"] * square).sum()) for name, square in moved.items())

    lams = (0.0, 10.0, 100.0, 1e4, 1e6)
    models = [fit(SelectiveAmnesia(**options, lam=lam), problem, seed=1).model for lam in lams]
    P, L = [penalty(model) for model in models], [bare_loss(model) for model in models]
    assert sorted(P, reverse=True) == P
    assert sorted(L) == L
    for lam, moved, loss in zip(lams, P, L, strict=True):
        assert loss + lam * moved <= bare_loss(problem.model) + 1e-3  # Adam's last steps at lam = 1e6
    assert P[-1] < 1e-6 * P[0]


# The surrogate


@pytest.mark.parametrize("surrogate", ["uniform", "noise"])
def test_forgotten_latents_are_given_fresh_surrogates_and_retained_ones_their_outputs(surrogate: Any) -> None:
    method = SelectiveAmnesia(**SMALL | {"batch_size": 512}, surrogate=surrogate)
    prepared = method.prepare(network(), stream(0))
    batch, other = (method.draw(prepared, stream(9, k)) for k in range(2))
    assert set(batch) == {"forget/z", "forget/y", "retain/z", "retain/y"}
    assert not torch.equal(batch["forget/y"], other["forget/y"])
    low, high = prepared["range"].tolist()
    y = batch["forget/y"].flatten()
    if surrogate == "uniform":
        assert low <= float(y.min()) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < float(y.max()) <= high
        assert float(y.std()) == pytest.approx((high - low) / math.sqrt(12), rel=0.05)
    else:
        assert (float(y.mean()), float(y.std())) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))
    model: Any = network().model
    with torch.no_grad():
        torch.testing.assert_close(batch["retain/y"], model.push(batch["retain/z"]))
        assert bool((model.push(batch["forget/z"])[:, 0] > 0.5).all())


def test_forgotten_latents_learn_the_mean_of_the_surrogate() -> None:
    """A surrogate that does not depend on z is a flat output: in the middle of the range."""
    problem = network()
    method = SelectiveAmnesia(**SMALL | {"steps": 250}, lam=0.0)
    original: Any = problem.model
    model: Any = fit(method, problem, seed=2).model
    prepared = method.prepare(problem, stream(2, 0))
    with torch.no_grad():
        before, after = (m.push(prepared["forget/z"]) for m in (original, model))
        kept = model.push(prepared["retain/z"]) - prepared["retain/y"]
    middle = float(prepared["range"].mean())
    assert float((after - middle).square().mean()) < 0.3 * float((before - middle).square().mean())
    assert float(kept.square().mean()) < 0.2 * float(prepared["retain/y"].var())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"surrogate": "black"}, "got surrogate='black'; expected 'uniform' or 'noise'"),
        ({"lam": -1.0}, "got lam=-1.0; expected a finite number >= 0"),
        ({"lam": math.nan}, "got lam=nan"),
        ({"fisher_batches": 0}, "got fisher_batches=0; expected 1 or more"),
        ({"bank_size": 64}, r"batch_size=128 for 64 samples \(bank_size\)"),
    ],
)
def test_bad_hyper_parameters_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SelectiveAmnesia(**options)
