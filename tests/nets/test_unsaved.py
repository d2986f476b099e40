"""A network with tensors that no file holds must be the same when its builder is called again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unflow.ground.errors import InputError
from unflow.nets import build_net
from unflow.nets.unsaved import check_rebuilt, list_unsaved

NETWORKS = """
import torch
from torch import nn

class Fixed(nn.Linear):
    def __init__(self, seed=None, persistent=False):
        super().__init__(2, 2)
        chance = torch.Generator()
        chance.seed() if seed is None else chance.manual_seed(seed)
        self.register_buffer("drawn", torch.randn(3, generator=chance), persistent=persistent)

def spectral():
    return nn.utils.spectral_norm(nn.Linear(2, 2))

def modern():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with third-party networks, whose weights have no seed."""
    name = f"unsaved_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def check(module: str, function: str, **options: object) -> None:
    """Build and check."""
    config = {"builder": f"{module}:{function}", "options": options}
    check_rebuilt(build_net(config), config, "it")


def test_a_drawn_tensor_without_a_seed_is_refused_by_name(module: str) -> None:
    with pytest.raises(InputError, match="other numbers in drawn at each call"):
        check(module, "Fixed")


@pytest.mark.parametrize("options", [{"seed": 3}, {"persistent": True}])
def test_a_seeded_or_stored_tensor_passes(module: str, options: dict[str, object]) -> None:
    check(module, "Fixed", **options)


@pytest.mark.parametrize("function", ["spectral", "modern"])
def test_weights_that_follow_from_stored_ones_pass_without_a_seed(module: str, function: str) -> None:
    check(module, function)
    assert list_unsaved(build_net({"builder": f"{module}:{function}"})) == {}


def test_the_global_generator_is_left_alone(module: str) -> None:
    config = {"builder": f"{module}:Fixed", "options": {"seed": 3}}
    net, before = build_net(config), torch.random.get_rng_state()
    check_rebuilt(net, config, "it")
    assert torch.equal(before, torch.random.get_rng_state())
