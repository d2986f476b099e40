"""OT-FM: pairs of the model's samples and retain data, and the chain that follows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.methods import OTFM
from unflow.models import Chain, Flow
from unflow.nets import MLP
from unflow.training.loop import fit
from unflow.training.method import Problem


def flow() -> Flow:
    """N(0, 1) on the line: a fresh velocity is 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Flow(MLP((1,), 32, 2), (1,))


def retain() -> Tensor:
    return 2 + 0.5 * torch.randn(4096, 1, generator=stream(9))


def small(**options: Any) -> OTFM:
    return OTFM(**({"steps": 4, "batch_size": 32, "block_size": 64, "bank_size": 160} | options))


def test_the_sources_are_the_models_samples_and_the_plan_permutes_retain_data_in_blocks() -> None:
    """On the line the best plan is the monotone one; marginals are those of independent pairs exactly."""
    original, real = flow(), retain()
    problem = Problem(model=original, retain=real)
    planned, apart = (small(coupling=c).prepare(problem, stream(3)) for c in ("exact_ot", "independent"))
    x0 = original.sample(160, stream(3))
    assert torch.equal(planned["x0"], x0)
    assert torch.equal(apart["x0"], x0)
    assert bool(torch.isin(planned["x1"], real).all())
    blocks = zip(x0.split(64), planned["x1"].split(64), apart["x1"].split(64), strict=True)
    for source, pairs, drawn in blocks:
        assert torch.equal(pairs[source[:, 0].argsort()], drawn.sort(0).values)
        assert float((pairs - source).square().sum()) < float((drawn - source).square().sum())


def test_pairs_are_drawn_together() -> None:
    x0 = torch.arange(40.0)[:, None]
    batch = small().draw({"x0": x0, "x1": x0 + 100}, stream(0))
    assert torch.equal(batch["x1"], batch["x0"] + 100)
    assert len(batch["t"]) == 32


def test_samples_are_carried_to_the_retain_data_by_the_monotone_transport() -> None:
    """No energy is read: N(0, 1) -> N(2, 0.5^2) is x -> 2 + x / 2."""
    original = flow()
    problem = Problem(model=original, retain=retain())
    method = OTFM(
        steps=400, batch_size=128, bank_size=4096, learning_rate=5e-3, average=0.98, integration_steps=4
    )
    model = fit(method, problem).model
    assert isinstance(model, Chain)
    z = torch.linspace(-1.5, 1.5, 31)[:, None]
    torch.testing.assert_close(model.push(z), 2 + z / 2, rtol=0, atol=0.15)
    assert model.num_evaluations > original.num_evaluations
    assert torch.equal(model.base.push(z), original.push(z))
    assert model.original_recoverable


def test_what_it_reads_is_retain_data_alone() -> None:
    assert OTFM().reads(Problem(model=flow())) == {"retain"}
    with pytest.raises(InputError, match="OTFM needs retain"):
        OTFM().check(Problem(model=flow(), data=retain(), forget=retain()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coupling": "exact_to"}, "'exact_to'.*exact_ot"),
        ({"bank_size": 48}, r"batch_size=64 for 48 samples \(bank_size\)"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(**options)
