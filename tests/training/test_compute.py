"""How steps are computed changes rounding and nothing else: micro-batches, torch.compile."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.ground.errors import InputError
from unflow.methods import UNLEARNERS
from unflow.models import Flow, FlowMap, GenerativeModel
from unflow.nets import MLP
from unflow.training.compute import Compute
from unflow.training.loop import fit
from unflow.training.method import Method, Problem
from unflow.training.originals.flow_matching import FlowMatching

SHARING = {
    name: method
    for name, method in UNLEARNERS.items()
    if getattr(method, "shares_batches", False) and not method.needs_conditional
}
SMALL = {"steps": 4, "batch_size": 16, "bank_size": 256, "block_size": 16, "fisher_batches": 4}


def small(name: str, **options: Any) -> Method:
    method = UNLEARNERS[name]
    known = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{k: v for k, v in (SMALL | options).items() if k in known})


def model(family: str) -> GenerativeModel:
    torch.manual_seed(11)
    net = MLP((2,), width=8, depth=2, num_times={"flow": 1, "flow_map": 2}[family])
    nn.init.normal_(net.last.weight, generator=uf.stream(4))
    return Flow(net, (2,), steps=2) if family == "flow" else FlowMap(net, (2,))


class Right(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-3 * x[:, 0], 3 * x[:, 0] - 2], 1)


def forgotten(name: str, family: str, **how: Any) -> uf.Unlearned:
    before = model(family)
    target = uf.Target(before, uf.energies.ClassLogOdds(Right(), [1], 1.0))
    x = torch.randn(300, 2, generator=uf.stream(5))
    real = {"retain": x[x[:, 0] < 0.5], "forget": x[x[:, 0] >= 0.5]}
    reads = UNLEARNERS[name].reads(Problem(model=before, target=target))
    start = (
        {"start": "original"} if name == "latent_transport_uot" else {}
    )  # the training before has its own sizes
    return uf.unlearn(target, small(name, **start), **{k: v for k, v in real.items() if k in reads}, **how)


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Micro-batches


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (name, family)
        for name, method in SHARING.items()
        for family in sorted(method.families - {"generator"})
    ],
)
def test_micro_batches_give_the_weights_of_the_whole_batch(
    name: str, family: str, double_precision: None
) -> None:
    whole, parts = (forgotten(name, family, micro_batches=k).model.state_dict() for k in (1, 4))
    before = model(family).state_dict()
    assert whole.keys() == parts.keys()
    for key, tensor in whole.items():
        torch.testing.assert_close(parts[key], tensor, rtol=1e-7, atol=1e-7, msg=key)
    changed = (
        [key for key, tensor in before.items() if not torch.allclose(whole[key], tensor, atol=1e-5, rtol=0)]
        if whole.keys() == before.keys()
        else list(whole)
    )
    assert changed


def test_only_a_micro_batch_is_in_the_network_at_a_time() -> None:
    net, rows = MLP((2,), width=8, depth=1), list[int]()
    net.first.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    method = FlowMatching(steps=3, batch_size=24)
    fit(method, Problem(model=Flow(net, (2,)), data=torch.randn(64, 2)), micro_batches=3)
    assert rows == [8] * 3 * 3


def test_numbers_go_to_every_micro_batch_and_rows_to_one() -> None:
    x, y = torch.arange(6.0), torch.arange(12.0).reshape(6, 2)
    parts: list[Any] = list(Compute(micro_batches=3).split_batch((x, 0.5, y)))
    assert [part[1] for part in parts] == [0.5] * 3
    assert torch.equal(torch.cat([part[0] for part in parts]), x)
    assert torch.equal(torch.cat([part[2] for part in parts]), y)
    assert [len(part[0]) for part in parts] == [2] * 3


def flow_matching(batch_size: int = 16) -> tuple[Method, Problem]:
    problem = Problem(model=model("flow"), data=torch.randn(64, 2, generator=uf.stream(0)))
    return FlowMatching(steps=2, batch_size=batch_size), problem


def test_a_record_and_loose_keywords_say_the_same_of_the_machine() -> None:
    method, problem = flow_matching()
    record = fit(method, problem, compute=Compute(micro_batches=2)).model.state_dict()
    loose = fit(method, problem, micro_batches=2).model.state_dict()
    assert all(torch.equal(loose[key], tensor) for key, tensor in record.items())
    with pytest.raises(InputError, match=r"got compute=\.\.\. and also micro_batches, which"):
        fit(method, problem, compute=Compute(), micro_batches=2)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "got 0 micro-batches for batches of 16"), (5, "got 5 micro-batches for batches of 16")],
)
def test_micro_batches_that_do_not_divide_a_batch_are_refused(count: int, words: str) -> None:
    with pytest.raises(InputError, match=f"{words}; expected a divisor"):
        fit(*flow_matching(), micro_batches=count)


@pytest.mark.parametrize("name", ["neg_grad_plus"])
def test_a_loss_that_is_no_mean_over_rows_takes_no_micro_batches(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a mean over rows; expected 1"):
        forgotten(name, "flow", micro_batches=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_whose_rows_see_each_other_takes_no_micro_batches() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    target = uf.Target(uf.Generator(net, (3,)), uf.energies.Region(lambda x: x[:, 0] > 0, height=4.0))
    with pytest.raises(InputError, match=r"batch normalisation.*; expected 1"):
        uf.unlearn(target, small("latent_transport"), micro_batches=2)


# Compiling

OF_TORCH = (
    "ignore::DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
"""What torch warns of while it compiles, about itself."""


@pytest.mark.parametrize(
    ("name", "family", "words"),
    [
        ("fine_tune", "flow_map", "MeanFlow, whose loss has a forward-mode derivative"),
        ("neg_grad_plus", "flow_map", "AscentDescent, whose loss has a forward-mode derivative"),
        ("retrained", "flow_map", "MeanFlow, whose loss has a forward-mode derivative"),
    ],
)
def test_a_loss_that_cannot_be_compiled_is_refused(
    name: str, family: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"got compile=True for {words}.*; expected compile=False"):
        forgotten(name, family, compile=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gradient_penalty_cannot_be_compiled() -> None:
    assert uf.methods.UOT().uncompilable() == ""
    assert "second derivative" in uf.methods.UOT(r1=0.1).uncompilable()
    with pytest.raises(InputError, match=r"second derivative.*; expected compile=False"):
        uf.unlearn(
            uf.Target(model("flow_map"), uf.energies.ClassLogOdds(Right(), [1])),
            small("uot", r1=1.0),
            compile=True,
        )


def test_a_machine_that_cannot_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Any:
        raise RuntimeError("InvalidCxxCompiler: no working compiler\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        InputError, match=r"\(InvalidCxxCompiler: no working compiler\); expected a C\+\+ compiler"
    ):
        fit(*flow_matching(), compile=True)


@pytest.mark.filterwarnings(*OF_TORCH)
def test_what_goes_through_torch_compile_keeps_its_weights_and_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the backend that compiles nothing: the same operations, the same bits."""
    import lightning_fabric  # noqa: F401 - it looks at torch.compile, once

    plain, seen = torch.compile, list[str]()

    def watched(what: Any, **_: Any) -> Any:
        seen.append(type(what).__name__)
        return plain(what, backend="eager")

    monkeypatch.setattr(torch, "compile", watched)
    compiled = forgotten("uot", "flow_map", compile=True, out=tmp_path)
    assert {"PotentialLoss", "GeneratorLoss"} <= set(seen)
    expected = forgotten("uot", "flow_map").model.state_dict()
    found = uf.load(tmp_path).state_dict()
    assert found.keys() == expected.keys() == compiled.model.state_dict().keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_TORCH)
@pytest.mark.parametrize(("name", "family"), [("erfm_prior", "flow"), ("latent_transport", "flow_map")])
def test_a_compiled_training_ends_in_the_weights_of_one_that_is_not(name: str, family: str) -> None:
    try:
        compiled = forgotten(name, family, compile=True, micro_batches=2).model.state_dict()
    except InputError as error:
        pytest.skip(str(error))
    expected = forgotten(name, family).model.state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(compiled[key], tensor, rtol=1e-3, atol=1e-4, msg=key)


WAITS = """
import os, subprocess, sys, time
from unflow.training import compute
if "LOCAL_RANK" not in os.environ:
    compute._end_with_first_process()
    words = [sys.executable, "-c", sys.argv[1], sys.argv[1]]
    child = subprocess.Popen(words, env={**os.environ, "LOCAL_RANK": "1"})
    print(child.pid, flush=True)
    time.sleep(300)
time.sleep(float(os.environ.get("LATE", 0)))
compute._end_with_first_process()
time.sleep(300)
"""


@pytest.mark.parametrize("late", [0.0, 3.0])
def test_the_second_process_ends_when_the_first_is_killed_even_before_they_are_connected(late: float) -> None:
    """The pipe of standard output closes when both have ended."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS, WAITS],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {"LATE": str(late)},
    ) as first:
        assert first.stdout is not None
        second = int(first.stdout.readline())
        first.kill()
        started = time.monotonic()
        assert first.stdout.read() == ""
        assert time.monotonic() - started < 120
    time.sleep(2.0)
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
