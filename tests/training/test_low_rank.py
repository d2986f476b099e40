"""Adapters: the original at first, a change of low rank at last, and the owner's own network all along."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trained_weights import CHANGING, Right, model, problem, small
from torch import Tensor, nn

import unflow as uf
from unflow.ground.errors import InputError
from unflow.ground.files import read_tensors
from unflow.methods import UNLEARNERS, UOT
from unflow.models import FlowMap, Generator
from unflow.nets import MLP
from unflow.training.loop import fit
from unflow.training.losses import OutputLoss
from unflow.training.low_rank import LowRank, LowRankSum, find_adaptable_layers
from unflow.training.method import Part, Parts, Problem
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.trained_weights import adapt, merge

READ_WEIGHTS = ("saliency", "selective_amnesia")


class Pictures(nn.Module):
    """A decoder with layers of every kind: linear, convolutions, a norm, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 12)
        self.grow = nn.ConvTranspose2d(3, 5, 2, stride=2)
        self.norm = nn.GroupNorm(1, 5)
        self.paint = nn.Conv2d(5, 2, 3, padding=1)
        self.light = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        h = self.norm(self.grow(self.first(z).reshape(-1, 3, 2, 2)).relu())
        return self.paint(h) + self.light


@pytest.fixture(scope="module")
def pictures() -> Generator:
    torch.manual_seed(3)
    return Generator(Pictures(), (3,))


def part_of(net: Any, decay: float = 0.9) -> Part:
    trained = copy.deepcopy(net).requires_grad_(True)
    return Part(OutputLoss(trained), trained, 1e-2, decay=decay)


def adapted(net: nn.Module, adapters: LowRank, patterns: list[str] | None = None) -> Parts:
    parts = {"model": part_of(net)}
    adapt(parts, [net], adapters, patterns, uf.stream(0))
    return parts


def target_of(net: uf.GenerativeModel) -> uf.Target:
    return uf.Target(net, uf.energies.Region(lambda x: x.flatten(1).mean(1) > 0, height=4.0))


def rank_of(change: Tensor) -> int:
    """The rank, up to what float32 rounds of a sum that is no exact product any more."""
    sizes = torch.linalg.svdvals(change.double().flatten(1))
    return int((sizes > 1e-5 * sizes.max()).sum())


# Laws


def test_adapters_start_as_the_original_to_the_bit(pictures: Generator) -> None:
    z = pictures.prior(7, uf.stream(1))
    for net in adapted(pictures, LowRank(2))["model"].networks.values():
        assert torch.equal(net(z), pictures(z))


def test_rank_times_rows_plus_columns_numbers_are_trained_and_have_moments(pictures: Generator) -> None:
    (part,) = adapted(pictures, LowRank(2)).values()
    trained = [weight for weight in part.net.parameters() if weight.requires_grad]
    sizes = [(12, 3), (3, 5 * 2 * 2), (2, 5 * 3 * 3)]
    expected = sum(LowRank(2).parameters(m, n) for m, n in sizes)
    assert sum(weight.numel() for weight in trained) == expected == 2 * sum(m + n for m, n in sizes)
    part.loss(pictures.prior(4, uf.stream(0)), torch.ones(4, 2, 4, 4)).backward()
    part.optimizer.step()
    assert {id(weight) for weight in part.optimizer.state} == {id(weight) for weight in trained}


def test_the_average_shares_what_is_not_trained(pictures: Generator) -> None:
    (part,) = adapted(pictures, LowRank(2)).values()
    averages = dict(part.average.named_parameters())
    for name, weight in part.net.named_parameters():
        assert (averages[name] is weight) == (not weight.requires_grad), name


@pytest.mark.parametrize("shape", [(6, 4), (3, 8), (5, 2, 3)])
def test_from_the_smaller_side_on_the_product_is_any_matrix(shape: tuple[int, ...]) -> None:
    weight, wanted = torch.randn(2, *shape, generator=uf.stream(2), dtype=torch.float64)
    m, n = weight.flatten(1).shape
    update = LowRankSum(weight, LowRank(min(m, n), alpha=3.0), uf.stream(0)).double()
    change = (wanted - weight).flatten(1)
    solution = torch.linalg.lstsq(update.A.T, change.T / update.scale).solution.T
    if m < n:  # any B A: set A to the change itself
        update.A.data, solution = change / update.scale, torch.eye(m, dtype=torch.float64)
    update.B.data = solution
    torch.testing.assert_close(update(weight), wanted)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (4.0, 1.0), (2.0, 0.5)])
def test_the_product_is_scaled_by_alpha_over_rank(alpha: float | None, scale: float) -> None:
    update = LowRankSum(torch.zeros(6, 5), LowRank(4, alpha), uf.stream(0))
    torch.nn.init.normal_(update.B, generator=uf.stream(1))
    torch.testing.assert_close(update(torch.zeros(6, 5)), scale * update.B @ update.A)


def test_merged_weights_give_what_adapters_gave_under_the_names_and_in_the_order_of_the_original(
    pictures: Generator,
) -> None:
    parts = adapted(pictures, LowRank(2))
    for update in [each for each in parts["model"].average.modules() if isinstance(each, LowRankSum)]:
        torch.nn.init.normal_(update.B, generator=uf.stream(1))
    z = pictures.prior(7, uf.stream(1))
    before = parts["model"].average(z)
    merge(parts)
    after = parts["model"].average
    assert torch.equal(after(z), before)
    assert not torch.allclose(before, pictures(z))
    assert [name for name, _ in after.named_parameters()] == [name for name, _ in pictures.named_parameters()]
    assert [type(each) for each in after.modules()] == [type(each) for each in pictures.modules()]


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize("name", [name for name in CHANGING if name not in READ_WEIGHTS])
def test_every_method_changes_weights_by_the_rank_and_no_others(name: str) -> None:
    family = next(each for each in ("flow_map", "flow") if each in UNLEARNERS[name].families)
    before: Any = model(family)
    nn.init.normal_(before.net.last.weight, generator=uf.stream(4))  # at 0 no gradient would pass it
    target = uf.Target(before, uf.energies.ClassLogOdds(Right(), [1], 1.0))
    reads = UNLEARNERS[name].reads(Problem(model=before, target=target))
    real = {key: x for key, x in problem(family).items() if key in reads}
    method: Any = small(name)
    method = dataclasses.replace(method, learning_rate=0.1)
    result = uf.unlearn(target, method, adapters=LowRank(2), train_only=["layers"], **real)
    assert result.lineage["adapters"] == {"rank": 2, "alpha": None}
    after = dict(result.model.named_parameters())
    change = {key: after[key] - weight for key, weight in before.named_parameters()}
    chosen = {f"net.{key}" for key in find_adaptable_layers(before.net) if "layers" in key}
    assert {key for key, each in change.items() if each.any()} == chosen
    trainings = 2 if name == "latent_transport_uot" else 1
    assert {rank_of(change[key]) for key in chosen} == {2 * trainings}


def test_a_trained_generator_is_its_owners_class_with_plain_weights(
    pictures: Generator, tmp_path: Path
) -> None:
    method = uf.methods.LatentTransport(steps=3, batch_size=16, bank_size=256)
    result = uf.unlearn(target_of(pictures), method, adapters=LowRank(1))
    net, original = result.module(), pictures.net
    assert isinstance(original, Pictures)
    assert isinstance(net, Pictures)
    assert type(net) is Pictures
    fresh = Pictures()
    fresh.load_state_dict(net.state_dict(), strict=True)
    z = pictures.prior(5, uf.stream(0))
    assert torch.equal(fresh(z), result.model(z))
    assert rank_of(net.paint.weight - original.paint.weight) == 1
    assert all(not weight.requires_grad for weight in net.parameters())


class Stopped(Exception):  # noqa: N818
    pass


def stop(step: int) -> None:
    if step == 5:
        raise Stopped


@pytest.mark.parametrize("partial", [{"adapters": LowRank(2)}, {"train_only": ("last",)}])
def test_a_stopped_training_ends_in_the_same_bits(partial: dict[str, object], tmp_path: Path) -> None:
    flow_map = FlowMap(MLP((2,), 16, 2, num_times=2), (2,))
    target = uf.Target(flow_map, uf.energies.ClassLogOdds(Right(), [1], 1.0))
    method = UOT(steps=8, batch_size=16, bank_size=256, width=8, pool="tilted")
    job = Problem(model=flow_map, target=target, **partial)  # type: ignore[arg-type]
    whole = fit(method, job, seed=1).model.state_dict()
    with pytest.raises(Stopped):
        fit(method, job, tmp_path, seed=1, checkpoint_every=3, on_step=stop)
    resumed = fit(method, job, tmp_path, seed=1, checkpoint_every=3).model.state_dict()
    assert whole.keys() == flow_map.state_dict().keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_adapters_holds_no_weight_that_is_fixed(tmp_path: Path) -> None:
    flow = uf.Flow(MLP((2,), 16, 2), (2,))
    job = Problem(model=flow, data=torch.randn(64, 2, generator=uf.stream(0)), adapters=LowRank(2))
    fit(FlowMatching(steps=2, batch_size=16), job, tmp_path)
    tensors, _ = read_tensors(tmp_path / "checkpoint.safetensors")
    learned = {name.rsplit("/", 1)[1] for name in tensors if "/net/" in name and "angles" not in name}
    assert learned
    assert {name.rsplit(".", 1)[1] for name in learned} == {"A", "B"}


# What takes no adapter


def test_a_shared_weight_and_one_made_of_others_take_no_adapter() -> None:
    first, second, third = (nn.Linear(4, 4) for _ in range(3))
    second.weight = first.weight
    net = nn.Sequential(first, second, nn.utils.parametrizations.spectral_norm(third), nn.Linear(4, 2))
    assert list(find_adaptable_layers(net)) == ["3.weight"]


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ({"rank": 0}, "got rank=0"),
        ({"rank": 2, "alpha": 0.0}, "got alpha=0"),
        ({"rank": 2, "alpha": float("nan")}, "alpha=nan"),
        ({"rank": 2, "alpha": "4"}, "alpha='4'"),
        ({"rank": 2, "alpha": True}, "alpha=True"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"rank": "4"}, "rank='4'"),
        ({"rank": True}, "rank=True"),
        ({"rank": float("nan")}, "rank=nan"),
    ],
)
def test_adapters_that_cannot_be_are_refused(adapters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"{words}.*; expected"):
        LowRank(**adapters)


def test_adapters_are_a_low_rank() -> None:
    target = uf.Target(model("flow_map"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    with pytest.raises(InputError, match=r"got adapters=4; .*write adapters=LowRank\(8\)"):
        uf.unlearn(target, small("latent_transport"), adapters=4)
    with pytest.raises(InputError, match="got adapters=4"):
        uf.plan(target, {}, adapters=4)


@pytest.mark.parametrize(
    ("name", "patterns", "words"),
    [
        (
            "latent_transport",
            ["bias"],
            "'bias' of weights to train, which matches none; expected one of net.first",
        ),
        ("latent_transport", [], "got no names of weights"),
        ("reject", None, "leaves the model's weights alone"),
        ("saliency", None, "got low-rank adapters for Saliency"),
        ("selective_amnesia", None, "got low-rank adapters for SelectiveAmnesia"),
    ],
)
def test_what_adapters_cannot_do_is_refused_before_anything_is_written(
    name: str, patterns: list[str] | None, words: str, tmp_path: Path
) -> None:
    target = uf.Target(model("flow_map"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    out = tmp_path / "out"
    with pytest.raises(InputError, match=words):
        uf.unlearn(target, small(name), out, train_only=patterns, adapters=LowRank(2))
    assert not out.exists()


def test_a_retrained_model_starts_afresh_and_takes_no_adapter() -> None:
    target = uf.Target(model("flow"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    retain = torch.randn(64, 2, generator=uf.stream(0))
    with pytest.raises(InputError, match="starts them afresh"):
        uf.unlearn(target, small("retrained"), retain=retain, adapters=LowRank(2))


def test_a_network_without_layers_that_take_one_is_refused() -> None:
    net = nn.Sequential(nn.LayerNorm(3))
    with pytest.raises(InputError, match="without weights of linear or convolution layers; expected some"):
        adapted(net, LowRank(1))


def test_another_rank_is_another_result(tmp_path: Path) -> None:
    target = uf.Target(model("flow_map"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    uf.unlearn(target, small("latent_transport"), tmp_path, adapters=LowRank(2))
    for other in (None, LowRank(3), LowRank(2, alpha=8.0)):
        with pytest.raises(InputError, match="adapters"):
            uf.unlearn(target, small("latent_transport"), tmp_path, adapters=other)
    again = uf.unlearn(target, small("latent_transport"), tmp_path, adapters=LowRank(2))
    assert again.lineage["adapters"]["rank"] == 2
