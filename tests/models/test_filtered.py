"""Filtered and Reject: the law is q* exactly, push is a function of each row, and a bundle holds both."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.commands.cli import main
from unflow.disk.bundle import read_lineage
from unflow.energies import (
    AttributeLogOdds,
    Balanced,
    CallableEnergy,
    ClassLogOdds,
    Decoded,
    Energy,
    Softplus,
    frozen,
)
from unflow.energies.calibration import Tempered
from unflow.ground.errors import InputError
from unflow.ground.files import sha256_module
from unflow.ground.streams import stream
from unflow.mathematics.divergences import DIVERGENCES, KL
from unflow.methods import ERFM, UOT, FineTune, Reject
from unflow.models import Filtered, from_config
from unflow.models.classifier import Features
from unflow.models.filtered import hash_latent
from unflow.models.saved_energies import build_energy, describe_energy
from unflow.nets import MLP, new_net
from unflow.training.loop import fit

SIZES = torch.tensor([0.4, 0.3, 0.2, 0.1])
"""Masses of four atoms."""


class Atoms(nn.Module):
    """z ~ U[-1, 1] to one of the atoms 0, 1, 2, 3 with masses SIZES."""

    def __init__(self) -> None:
        super().__init__()
        self.edges: Tensor
        self.register_buffer("edges", 2 * SIZES.cumsum(0)[:-1] - 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.bucketize(z, self.edges).to(z.dtype)


def atoms() -> uf.Generator:
    return uf.Generator(Atoms(), (1,), prior="uniform")


def energies(x: Tensor) -> Tensor:
    return torch.tensor([0.0, 0.5, 1.5, 6.0])[x[:, 0].long()]


ENERGY = CallableEnergy(energies, 0.0)
N = 10000


def shares(x: Tensor) -> Tensor:
    return torch.bincount(x.flatten().long(), minlength=4) / len(x)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("strength", [0.7, 2.0])
def test_the_law_is_the_target_on_a_finite_support(name: str, strength: float) -> None:
    """Every share within 4 standard errors of q*, of 10,000 samples."""
    divergence, model = DIVERGENCES[name](), atoms()
    F = energies(torch.arange(4.0)[:, None])
    kappa = divergence.multiplier(strength * F, SIZES)
    exact = SIZES * divergence.tilt(kappa - strength * F)
    found = shares(Filtered(model, ENERGY, strength, divergence, kappa).sample(N, stream(1)))
    error = (exact * (1 - exact) / N).sqrt()
    assert float(exact.sum()) == pytest.approx(1)
    assert bool(((found - exact).abs() <= 4 * error + 1e-9).all()), (found, exact)


def test_coins_and_later_draws_are_independent_of_the_latent() -> None:
    """What is drawn after z has the same law whatever z was: rejected rows of one atom spread as q*."""
    model = Filtered(atoms(), ENERGY, strength=2.0)
    z = atoms().prior(N, stream(2))
    before, after = atoms().push(z)[:, 0].long(), model.push(z)[:, 0].long()
    weight = torch.exp(-2 * energies(torch.arange(4.0)[:, None]))
    target = SIZES * weight / (SIZES * weight).sum()
    for atom in range(4):
        rows = after[before == atom]
        kept = float(weight[atom])
        exact = (1 - kept) * target
        exact[atom] += kept
        found = torch.bincount(rows, minlength=4) / len(rows)
        error = (exact * (1 - exact) / len(rows)).sqrt()
        assert bool(((found - exact).abs() <= 4 * error + 1e-9).all()), (atom, found, exact)


def shaken(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=stream(8))
    return net


def flow_map() -> uf.FlowMap:
    return uf.FlowMap(shaken(MLP((2,), 8, 1, num_times=2)), (2,)).eval()


def guide() -> uf.Classifier:
    net = shaken(MLP((2,), 8, 1, num_times=0, outputs=3))
    return uf.Classifier(net, ["a", "b", "c"])


def filtered(**options: Any) -> Filtered:
    return Filtered(flow_map(), ClassLogOdds(guide(), [1], margin=2.0), **options)


def test_a_row_is_pushed_alike_in_every_batch_order_and_precision() -> None:
    model = filtered()
    z = model.prior(200, stream(3))
    x = model.push(z)
    assert torch.equal(model.push(z), x)
    assert not torch.equal(x, model.model.push(z))  # some were rejected
    torch.testing.assert_close(model.push(z.flip(0)).flip(0), x)
    torch.testing.assert_close(torch.cat([model.push(row) for row in z.split(1)]), x)
    torch.testing.assert_close(model.push_batches(z, 7), x)
    torch.testing.assert_close(copy.deepcopy(model).double().push(z.double()).float(), x)


@torch.no_grad()
def test_an_accepted_row_is_the_models_and_every_row_comes_from_some_latent() -> None:
    model = filtered()
    z = model.prior(500, stream(3))
    x, original = model.push(z), model.model.push(z)
    same = (x == original).all(1)
    chance = torch.exp(-model.energy(original))
    assert float(same.float().mean()) == pytest.approx(float(chance.mean()), abs=0.08)
    assert float(model.energy(x).mean()) < float(model.energy(original).mean())


def test_the_key_of_a_latent_is_its_own_and_its_coins_are_uniform() -> None:
    z = torch.randn(4000, 2, generator=stream(0))
    assert hash_latent(z[0]) == hash_latent(z[0].clone()) == hash_latent(z[0].double())
    keys = [hash_latent(row) for row in z]
    assert len({seed for _, seed in keys}) == len(z)
    counts = torch.histc(torch.tensor([coin for coin, _ in keys]), 10, 0, 1)
    assert float(((counts - 400) ** 2 / 400).sum()) < 30  # chi-square, 9 degrees of freedom


def test_gradients_pass_through_the_row_that_was_accepted() -> None:
    model = filtered()
    z = model.prior(50, stream(3)).requires_grad_(True)
    x = model.push(z)
    x.sum().backward()
    assert z.grad is not None
    at_once = (x == model.model.push(z)).all(1)
    assert bool((z.grad[at_once] != 0).any(1).all())
    assert bool((z.grad[~at_once] == 0).all())
    assert 0 < int(at_once.sum()) < 50


def test_the_energy_stays_in_evaluation_mode() -> None:
    classifier = nn.Sequential(guide().net, nn.Dropout(0.9))
    model = Filtered(flow_map(), ClassLogOdds(classifier, [1], margin=2.0)).train()
    assert model.training
    assert not any(part.training for part in model.energy.modules())
    z = model.prior(50, stream(1))
    assert torch.equal(model.push(z), model.push(z))


def test_it_says_what_it_is() -> None:
    model = filtered()
    assert model.original_recoverable
    assert (model.family, model.num_evaluations) == ("flow_map", 1)
    assert (model.prior_shape, model.sample_shape) == ((2,), (2,))
    assert torch.equal(model.prior(5, stream(1)), model.model.prior(5, stream(1)))


# What is refused


def test_what_lets_nothing_pass_is_refused_and_not_waited_for() -> None:
    model = Filtered(flow_map(), CallableEnergy(lambda x: 50 + x[:, 0].square(), 0.0), rounds=3)
    with pytest.raises(InputError, match=r"rejected 5 of 5 latents in all of 3 rounds.*lower the strength"):
        model.sample(5, stream(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Filtered(flow_map(), ClassLogOdds(guide(), [1], None)),
            "without a lower bound.*for a filter",
        ),
        (lambda: Filtered(filtered(), ENERGY), r"filtered model to filter.*A \| B"),
        (lambda: Filtered(flow_map(), ENERGY, rounds=0), "rounds=0; expected 1 or more"),
        (lambda: Reject(rounds=0), "rounds=0; expected 1 or more"),
        (lambda: Reject(bank_size=0), "bank_size=0; expected 1 or more"),
    ],
)
def test_an_impossible_filter_is_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("method", [Reject(), UOT(), ERFM(), FineTune()])
def test_a_filtered_model_is_not_unlearned_again(method: uf.methods.Method) -> None:
    model = filtered()
    with pytest.raises(InputError, match=r"got a filtered model for .*expected the model inside.*A \| B"):
        method.check(uf.Problem(model=model, target=uf.Target(model, ENERGY), retain=torch.zeros(9, 2)))


# Reject


@pytest.mark.parametrize("divergence", list(DIVERGENCES))
def test_reject_is_the_exact_target(divergence: str) -> None:
    """The law of the method is that of ``Target.sample``, within 4 standard errors."""
    target = uf.Target(atoms(), ENERGY, 0.7, DIVERGENCES[divergence]())
    model = uf.unlearn(target, Reject(bank_size=N), seed=3).model
    exact, found = shares(target.sample(N, stream(4)).x), shares(model.sample(N, stream(5)))
    error = (2 * exact * (1 - exact) / N).sqrt() + 1e-3  # and kappa of the bank is not quite kappa
    assert bool(((found - exact).abs() <= 4 * error).all())


def test_reject_changes_no_weight_and_takes_no_step() -> None:
    model = flow_map()
    result = uf.unlearn(uf.Target(model, ClassLogOdds(guide(), [1], 2.0)), Reject(bank_size=500))
    assert isinstance(result.model, Filtered)
    assert sha256_module(result.model.model) == sha256_module(model)
    assert result.model.model is not model
    assert (result.lineage["steps"], result.lineage["settings"]) == (0, {"rounds": 1000, "bank_size": 500})
    assert result.lineage["seconds"] > 0


@pytest.mark.parametrize(
    "way",
    [{"devices": 2}, {"micro_batches": 4}, {"precision": "bf16-mixed"}, {"compile": True}, {"loggers": [1]}],
)
def test_reject_takes_no_way_of_training(way: dict[str, Any]) -> None:
    model = flow_map()
    problem = uf.Problem(model=model, target=uf.Target(model, ClassLogOdds(guide(), [1], 2.0)))
    with pytest.raises(InputError, match=f"got {next(iter(way))} for Reject, which trains nothing; expected"):
        fit(Reject(), problem, **way)
    assert fit(Reject(), problem, loggers=[]).steps == 0
    with pytest.raises(InputError, match="'tpv'"):
        fit(Reject(), problem, device="tpv")


def test_reject_refuses_a_request_that_leaves_nothing() -> None:
    model = flow_map()
    target = uf.Target(model, CallableEnergy(lambda x: 500 + x[:, 0].square(), 0.0))
    with pytest.raises(InputError, match=r"rejected all of 100 samples.*lower the strength or the margin"):
        uf.unlearn(target, Reject(bank_size=100))


# On disk


def autoencoder() -> uf.Autoencoder:
    net = {"net": "conv_autoencoder", "shape": [1, 4, 4], "latent": 2, "width": 8, "depth": 1}
    return uf.Autoencoder(shaken(new_net(net, 0))).eval()


def of_images() -> Energy:
    net = {"net": "mlp", "shape": [1, 4, 4], "width": 8, "depth": 1, "num_times": 0, "outputs": 3}
    return ClassLogOdds(uf.Classifier(shaken(new_net(net, 1)), ["a", "b", "c"]), [2], 1.0)


DESCRIBED: dict[str, Energy] = {
    "class log-odds": ClassLogOdds(guide(), [1], 2.0),
    "of two classes": ClassLogOdds(guide(), [0, 2], 0.0),
    "of a bare network": ClassLogOdds(guide().net, [1], 2.0),
    "softplus": Softplus(ClassLogOdds(guide(), [1], None), 3.0),
    "scaled": 2.5 * ClassLogOdds(guide(), [1], 2.0),
    "sum": ClassLogOdds(guide(), [1], 2.0) | Softplus(ClassLogOdds(guide(), [0], None)),
    "minimum": ClassLogOdds(guide(), [1], 2.0) & ClassLogOdds(guide(), [0], 1.0),
    "tempered": ClassLogOdds(Tempered(guide(), 1.7), [1], 2.0),
    "balanced": Balanced(ClassLogOdds(guide(), [1], 2.0), Tempered(guide(), 1.7), [1], [0.0, -0.4]),
    "decoded": Decoded(of_images(), autoencoder()),
    "attribute": AttributeLogOdds(torch.nn.Flatten(), torch.tensor([1.0, -2.0]), 0.5, 1.0, "being right"),
    "attribute of features": AttributeLogOdds(Features(guide()), torch.linspace(-1, 1, 8), -0.5),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_filtered_model_is_a_bundle_with_its_energy(name: str, tmp_path: Path) -> None:
    energy = frozen(DESCRIBED[name])
    assert isinstance(energy, Energy)
    model = Filtered(flow_map(), energy, 1.5, KL(), 0.25, rounds=999)
    loaded = uf.load(uf.save(model, tmp_path))
    assert isinstance(loaded, Filtered)
    assert loaded.config() == model.config()
    assert loaded.energy.describe() == energy.describe()
    assert sha256_module(loaded) == sha256_module(model)
    z = model.prior(60, stream(1))
    with torch.no_grad():
        assert torch.equal(loaded.push(z), model.push(z))
        assert torch.equal(loaded.energy(z), energy(z))


@pytest.mark.parametrize("name", DESCRIBED)
def test_an_energy_is_rebuilt_from_plain_data(name: str) -> None:
    energy = DESCRIBED[name]
    rebuilt = build_energy(describe_energy(energy))
    assert type(rebuilt) is type(energy)
    rebuilt.load_state_dict(energy.state_dict())
    assert rebuilt.lower_bound == energy.lower_bound
    x = torch.randn(9, 2, generator=stream(2))
    assert torch.equal(rebuilt.eval()(x), energy.eval()(x))


def test_the_bundle_of_a_rejecting_model_is_found_again(tmp_path: Path) -> None:
    model = uf.Latent(flow_map(), autoencoder())
    target = uf.Target(model, of_images())
    made = uf.unlearn(target, Reject(bank_size=200), tmp_path)
    loaded = uf.unlearn(target, Reject(bank_size=200), tmp_path).model
    assert isinstance(loaded, uf.Latent)
    assert isinstance(loaded.inner, Filtered)
    assert loaded.original_recoverable
    assert sha256_module(loaded) == sha256_module(made.model)
    z = model.prior(20, stream(1))
    assert torch.equal(loaded.push_batches(z), made.model.push_batches(z))


def test_the_command_makes_a_filter_and_another_samples_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uf.save(flow_map(), "map")
    uf.save(guide(), "guide")
    unlearn = "unlearn --model map --energy classifier:guide --forget 1 --margin 2 --method reject --out out"
    assert main([*unlearn.split(), "--settings.bank_size", "300"]) == 0
    assert main(["sample", "out", "--n", "20", "--out", "drawn"]) == 0
    loaded = uf.load("out")
    assert isinstance(loaded, Filtered)
    assert read_lineage(Path("out"))["settings"] == {"rounds": 1000, "bank_size": 300}


UNDESCRIBED: dict[str, Energy] = {
    "a function": ENERGY,
    "part of a sum": ClassLogOdds(guide(), [1], 2.0) | ENERGY,
    "inside softplus": Softplus(ENERGY),
}


@pytest.mark.parametrize("name", UNDESCRIBED)
def test_an_energy_that_no_file_can_hold_is_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    model = Filtered(atoms(), UNDESCRIBED[name])
    with pytest.raises(InputError, match=r"energy that cannot be described in a file \(callable energies\)"):
        describe_energy(model.energy)
    target = uf.Target(flow_map(), CallableEnergy(lambda x: x[:, 0].square(), 0.0))
    with pytest.raises(InputError, match=r"cannot be described in a file.*keep the model in memory"):
        uf.unlearn(target, Reject(bank_size=50), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_classifier_or_divergence_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"Linear that cannot be described.*net.config ="):
        describe_energy(ClassLogOdds(nn.Linear(2, 3), [1]))

    class Mine(KL):
        pass

    with pytest.raises(InputError, match=r"got a Mine that cannot be described.*kl, softplus, chi2"):
        Filtered(flow_map(), ClassLogOdds(guide(), [1], 2.0), 1.0, Mine()).config()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"energy": {"energy": "region", "of": {}}}, "got the energy 'region'"),
        ({"energy": {"of": {}}}, "incomplete or has extra entries"),
        ({"divergence": "tv"}, "the divergence 'tv'"),
        ({"round": 3}, "incomplete or has extra entries"),
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, object], words: str) -> None:
    config = filtered().config() | change
    with pytest.raises(InputError, match=words):
        from_config(config)


def test_an_energy_that_is_not_finite_lets_nothing_pass() -> None:
    model = Filtered(atoms(), CallableEnergy(lambda x: torch.where(x[:, 0] > 2, math.nan, x[:, 0]), 0.0))
    with pytest.raises(InputError, match="the energy is NaN or infinite for"):
        model.sample(100, stream(1))


def test_strength_0_is_the_original() -> None:
    model = filtered(strength=0.0)
    z = model.prior(100, stream(1))
    assert torch.equal(model.push(z), model.model.push(z))
    assert math.isclose(model.kappa, 0.0)
