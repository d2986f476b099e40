"""Some of a model's weights are trained, the others stay in the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import unflow as uf
from unflow.commands.option_groups import split_patterns
from unflow.ground.errors import InputError
from unflow.methods import UNLEARNERS
from unflow.models import Flow, FlowMap, GenerativeModel
from unflow.nets import MLP
from unflow.training.method import Method, Problem, Trained

LAST = "last|head|out|layers.2"
LOSSES = {name: method for name, method in UNLEARNERS.items() if isinstance(method, Trained)}


def small(name: str) -> Method:
    import dataclasses

    known = {"steps": 2, "batch_size": 16, "bank_size": 256, "potential": "samples", "finish_steps": 2}
    method = UNLEARNERS[name]
    names = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{k: v for k, v in known.items() if k in names})


def model(family: str) -> GenerativeModel:
    torch.manual_seed(11)
    times = {"flow": 1, "flow_map": 2}[family]
    net = MLP((2,), width=8, depth=2, num_times=times)
    return Flow(net, (2,), steps=2) if family == "flow" else FlowMap(net, (2,))


def problem(family: str) -> dict[str, torch.Tensor]:
    x = torch.randn(300, 2, generator=uf.stream(5))
    return {"retain": x[x[:, 0] < 0.5], "forget": x[x[:, 0] >= 0.5]}


class Right(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-3 * x[:, 0], 3 * x[:, 0] - 2], 1)


CHANGING = (
    "erfm_prior",
    "erfm_resample_prior",
    "uot",
    "uot_tilted",
    "latent_transport",
    "latent_transport_uot",
    "relabel",
    "saliency",
    "gradient_ascent",
    "fine_tune",
    "neg_grad_plus",
    "weight_extrapolation",
)


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize("name", CHANGING)
def test_only_the_named_weights_change(name: str) -> None:
    family = next(each for each in ("flow_map", "flow") if each in UNLEARNERS[name].families)
    before = model(family)
    target = uf.Target(before, uf.energies.ClassLogOdds(Right(), [1], 1.0))
    reads = UNLEARNERS[name].reads(Problem(model=before, target=target))
    real = {key: x for key, x in problem(family).items() if key in reads}
    last = list(dict(before.named_parameters()))[-1]
    result = uf.unlearn(target, small(name), train_only=[last.removeprefix("net.") + "$"], **real)
    assert result.lineage["train_only"]
    after = dict(result.model.named_parameters())
    changed = [key for key, weight in before.named_parameters() if not torch.equal(weight, after[key])]
    assert changed == [last]


def test_a_method_with_a_network_of_its_own_has_nothing_to_train_partly() -> None:
    target = uf.Target(model("flow"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    with pytest.raises(
        InputError,
        match=r"leaves the model's weights alone.*; expected one that changes.*erfm_resample_prior",
    ):
        uf.unlearn(target, small("erfm"), train_only=["weight"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "got no names of weights"),
        (("",), "or an empty one"),
        (("head", " "), "or an empty one"),
        ("head", "expected a list of regular expressions"),
        ((1,), "expected a list of regular expressions"),
        (("nothing",), "matches none; expected one of"),
        (("(",), "regular expression"),
    ],
)
def test_names_that_name_nothing_are_refused(names: tuple[str, ...], words: str) -> None:
    target = uf.Target(model("flow_map"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    with pytest.raises(InputError, match=words):
        uf.unlearn(target, small("latent_transport"), train_only=names)
    with pytest.raises(InputError, match=words):
        uf.plan(target, {}, train_only=names)


def test_commas_within_brackets_belong_to_a_pattern() -> None:
    assert split_patterns("layers.[0,2], head.{1,3}$") == ["layers.[0,2]", "head.{1,3}$"]
    assert split_patterns("head,") == ["head", ""]


def test_all_weights_are_another_result_than_some(tmp_path: Path) -> None:
    target = uf.Target(model("flow_map"), uf.energies.ClassLogOdds(Right(), [1], 1.0))
    method = small("latent_transport")
    for names, others in (["weight"], None), (None, ["weight"]):
        out = tmp_path / str(names)
        uf.unlearn(target, method, out, train_only=names)
        with pytest.raises(InputError, match="train_only"):
            uf.unlearn(target, method, out, train_only=others)
