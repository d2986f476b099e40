"""Latent transport: identity in, identity out; what is inside the result; stages that resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.disk.bundle import load
from unflow.energies import CallableEnergy, Energy
from unflow.ground.errors import InputError
from unflow.ground.files import read_json_lines, read_tensors
from unflow.ground.streams import derive_seed, stream
from unflow.methods import LatentFlow, LatentTransport
from unflow.methods.latent_transport import LATENT_COUPLINGS
from unflow.models import Chain, Flow, FlowMap, Generator
from unflow.nets import MLP
from unflow.target import Target
from unflow.training.checks import check_method
from unflow.training.loop import EARLIER, METRICS, PREPARED, fit
from unflow.training.method import Problem
from unflow.unlearning.unlearn import unlearn


def right(x: Tensor) -> Tensor:
    return nn.functional.softplus(6 * x[:, 0])


def energy(differentiable: bool = True) -> Energy:
    return CallableEnergy(right, 0.0, differentiable)


def flow_map() -> FlowMap:
    """x = z + a little, on the plane."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP((2,), 64, 2, num_times=2)
        nn.init.normal_(net.last.weight, std=0.02)
    return FlowMap(net, (2,)).eval().requires_grad_(False)


def problem(black_box: bool = False, strength: float = 1.0) -> Problem:
    model = flow_map()
    return Problem(model=model, target=Target(model, energy(not black_box), strength))


SMALL: dict[str, Any] = {"steps": 12, "batch_size": 16, "bank_size": 256}
LONGER: dict[str, Any] = {"steps": 300, "bank_size": 4096}


@pytest.mark.parametrize("coupling", LATENT_COUPLINGS)
def test_every_coupling_obeys_the_laws_of_methods(coupling: str, tmp_path: Path) -> None:
    """Among them: stopped in every stage and resumed, it ends in the same bits."""
    method = LatentTransport(**SMALL, coupling=coupling, flow_steps=8)
    check_method(method, problem(), tmp_path)


@pytest.mark.parametrize("pairs", ["shift", "exact_ot", "residual"])
def test_a_latent_flow_obeys_the_laws_of_methods(pairs: Any, tmp_path: Path) -> None:
    check_method(LatentFlow(**SMALL, pairs=pairs, block_size=64, width=8), problem(), tmp_path)


@pytest.mark.parametrize("coupling", LATENT_COUPLINGS)
def test_distilling_the_identity_leaves_the_model_to_the_bit(coupling: str, tmp_path: Path) -> None:
    method = LatentTransport(**SMALL, coupling=coupling, flow_steps=2)
    model = fit(method, problem(strength=0.0), tmp_path, log_every=1).model
    assert all(map(torch.equal, model.parameters(), flow_map().parameters()))
    assert {record["loss"] for record in read_json_lines(tmp_path / METRICS)} == {0.0}


def test_nothing_of_the_original_is_in_a_distilled_model_and_all_of_it_in_a_chain() -> None:
    distilled = fit(LatentTransport(**SMALL), problem()).model
    chain = fit(LatentFlow(**SMALL, width=8, block_size=64), problem()).model
    assert isinstance(distilled, FlowMap)
    assert (distilled.original_recoverable, distilled.num_evaluations) == (False, 1)
    assert isinstance(chain, Chain)
    assert (chain.original_recoverable, chain.family, chain.num_evaluations) == (True, "flow_map", 17)
    assert all(map(torch.equal, chain.after.parameters(), flow_map().parameters()))


def test_a_chain_with_a_flow_of_latents_is_the_same_from_disk(tmp_path: Path) -> None:
    target = problem().target
    assert target is not None
    model = unlearn(target, LatentFlow(**SMALL, width=8, block_size=64), tmp_path).model
    again, z = load(tmp_path), torch.randn(20, 2, generator=stream(1))
    assert (again.family, again.config()) == (model.family, model.config())
    assert torch.equal(again.push(z), model.push(z))


def test_a_fresh_flow_of_latents_moves_nothing() -> None:
    z = torch.randn(20, 2, generator=stream(1))
    link = Flow(MLP((2,), 8, 1), (2,), steps=3)
    assert torch.equal(link.push_batches(z), z)


def mean_energy(model: nn.Module, n: int = 4000) -> float:
    assert isinstance(model, FlowMap | Chain)
    return float(right(model.sample(n, stream(9))).mean())


@pytest.mark.parametrize(
    "method",
    [
        LatentTransport(**LONGER, learning_rate=5e-3),
        LatentTransport(**LONGER, learning_rate=5e-3, coupling="flow_redraw", flow_steps=200),
        LatentFlow(**LONGER, width=64, learning_rate=8e-3),
    ],
    ids=["shift", "flow_redraw", "chain"],
)
def test_a_black_box_is_forgotten_in_the_plane(method: LatentTransport | LatentFlow) -> None:
    """Mean energy 1.9 before, about 0.15 under q*: most of the way, without a gradient of the energy."""
    asked = problem(black_box=True)
    assert asked.target is not None
    exact = float(right(asked.target.sample(4000, stream(8)).x).mean())
    before, after = mean_energy(flow_map()), mean_energy(fit(method, asked).model)
    assert before - exact > 1
    assert after - exact < 0.15 * (before - exact)


@pytest.mark.parametrize("coupling", ["project", "flow_project"])
def test_a_projection_by_a_black_box_is_refused_before_training(coupling: str, tmp_path: Path) -> None:
    method = LatentTransport(**SMALL, coupling=coupling)
    with pytest.raises(InputError, match=f"coupling={coupling} with an energy that has no gradient.*write"):
        fit(method, problem(black_box=True), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_uniform_prior_is_refused_by_flows_of_latents_and_served_by_others() -> None:
    net = MLP((2,), 8, 1, num_times=0)
    model = Generator(net, (2,), prior="uniform").eval()
    nn.init.normal_(net.last.weight, generator=stream(1))
    asked = Problem(model=model, target=Target(model, energy()))
    refused = [
        LatentTransport(**SMALL, coupling=name) for name in ("flow", "flow_redraw", "redraw", "project")
    ]
    for method in (LatentFlow(**SMALL, block_size=64), *refused):
        with pytest.raises(InputError, match=r"uniform prior.*expected a normal one: write coupling=shift"):
            fit(method, asked)
    for coupling in ("shift", "maximal"):
        assert isinstance(fit(LatentTransport(**SMALL, coupling=coupling), asked).model, Generator)


def test_the_lineage_says_how_much_moved_and_how_long_latents_are(tmp_path: Path) -> None:
    target = problem().target
    assert target is not None
    facts = unlearn(target, LatentTransport(**SMALL), tmp_path).lineage["facts"]
    assert facts.keys() == {"moved_share", "matched_share", "norm_before", "norm_after"}
    assert 0.3 < facts["moved_share"] < 0.8
    assert 0 < facts["matched_share"] < 0.3 * facts["moved_share"]
    for name in ("norm_before", "norm_after"):
        assert facts[name] == pytest.approx(1.25, abs=0.3)  # of a normal in the plane


def test_where_nothing_moves_the_lineage_has_no_norms() -> None:
    target = problem(strength=0.0).target
    assert target is not None
    facts = unlearn(target, LatentTransport(**SMALL)).lineage["facts"]
    shares = dict.fromkeys(("moved_share", "matched_share"), 0.0)
    assert facts == shares | {"norm_before": None, "norm_after": None}


def test_the_training_before_is_that_of_the_flow_alone_with_a_seed_of_its_own(tmp_path: Path) -> None:
    """What is prepared after it is, bit for bit, what the flow that was fitted alone gives."""
    method, asked = LatentTransport(**SMALL, coupling="flow", flow_steps=4), problem()
    first = method.earlier(asked)
    assert first is not None
    alone = fit(first, asked, seed=derive_seed(5, 2)).model
    expected = method.prepare(dataclasses.replace(asked, earlier=alone), stream(5, 0))
    fit(method, asked, tmp_path, seed=5)
    found, _ = read_tensors(tmp_path / PREPARED)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_every_partner_gives_the_output_that_is_regressed_on() -> None:
    """y = G0(z'), and z' = z where z stayed."""
    prepared = LatentTransport(**SMALL, coupling="maximal").prepare(problem(), stream(1))
    moved = prepared["moved"]
    assert torch.equal(prepared["y"], flow_map().push_batches(prepared["partner"]))
    assert torch.equal(prepared["z"][~moved], prepared["partner"][~moved])


def test_stages_keep_their_own_folders_until_the_model_is_saved(tmp_path: Path) -> None:
    target = problem().target
    assert target is not None
    method = LatentTransport(**SMALL, coupling="flow", flow_steps=10)
    counted: list[int] = []
    fit(method, problem(), tmp_path / "a", on_step=counted.append)
    assert counted == list(range(1, 23))
    assert {file.name for file in (tmp_path / "a" / EARLIER).iterdir()} == {
        "checkpoint.safetensors",
        "prepared.safetensors",
        "metrics.jsonl",
    }
    result = unlearn(target, method, tmp_path / "b")
    assert {file.name for file in (tmp_path / "b" / EARLIER).iterdir()} == {"metrics.jsonl"}
    assert result.lineage["steps"] == 22


def test_an_earlier_stage_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit(LatentTransport(**SMALL, coupling="flow", flow_steps=10), problem(), tmp_path)
    with pytest.raises(InputError, match=r"earlier.*steps: 10 -> 11"):
        fit(LatentTransport(**SMALL, coupling="flow", flow_steps=11), problem(), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coupling": "shfit"}, "coupling 'shfit'; expected one of maximal, shift, match"),
        ({"flow_steps": 0}, "flow_steps=0; expected 1 or more"),
        ({"bank_size": 100}, "batch_size=256 for 100 latents"),
    ],
)
def test_bad_hyper_parameters_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LatentTransport(**options)


def test_bad_hyper_parameters_of_the_flow_are_refused() -> None:
    with pytest.raises(InputError, match="pairs='ot'; expected 'shift', 'exact_ot' or 'residual'"):
        LatentFlow(pairs="ot")  # type: ignore[arg-type]  # refused
    with pytest.raises(InputError, match="batch_size=256 for 100 latents"):
        LatentFlow(bank_size=100)
