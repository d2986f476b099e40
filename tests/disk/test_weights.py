"""Weights that somebody else saved: found wherever they are nested, refused where they do not fit."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unflow.disk.weights import load_weights, read_weights, write_weights
from unflow.ground.errors import InputError


def net(seed: int, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Sequential(nn.Linear(width, 2)))
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made.eval()


def under(before: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {before + name: tensor for name, tensor in state.items()}


SOURCE = net(1)
STATE: dict[str, Tensor] = dict(SOURCE.state_dict())
OTHER = dict(net(2).state_dict())

PARTLY = {name.replace("2.", "2.module.", 1) if name[0] == "2" else name: t for name, t in STATE.items()}
OPTIMISER = {"state": {0: {"exp_avg": torch.zeros(5, 3)}}, "param_groups": [{"lr": 1.0}]}
LIGHTNING = {"state_dict": under("generator.", STATE), "pytorch-lightning_version": "2"}

FILES: dict[str, tuple[Any, str]] = {
    "as it is": (STATE, ""),
    "ordered": (OrderedDict(STATE), ""),
    "nested": ({"state_dict": STATE, "epoch": 3, "name": "gan", "lr": 1e-3, "done": [1, 2]}, "state_dict"),
    "nested twice": ({"model": {"net": STATE}}, "model.net"),
    "data parallel": (under("module.", STATE), ""),
    "compiled": (under("_orig_mod.", STATE), ""),
    "compiled and parallel": (under("module._orig_mod.", STATE), ""),
    "a part that was wrapped": (PARTLY, ""),
    "lightning": (LIGHTNING, "state_dict.generator"),
    "beside its critic": ({"generator": STATE, "critic": {"0.weight": torch.zeros(9, 9)}}, "generator"),
    "with the optimiser": ({"model": STATE, "optimizer": OPTIMISER}, "model"),
    "beside its average": ({"model": OTHER, "model_ema": STATE}, "model_ema"),
    "beside an average that keeps the model, too": (
        {
            "model": OTHER,
            "ema": {"online_model.net": OTHER, "ema_model": {"net": STATE}, "step": torch.ones(())},
        },
        "ema.ema_model.net",
    ),
    "without batch counts": ({name: t for name, t in STATE.items() if not name.endswith("tracked")}, ""),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_are_found_wherever_they_are(name: str, tmp_path: Path) -> None:
    content, before = FILES[name]
    torch.save(content, tmp_path / "weights.pth")
    filled = net(3)
    assert load_weights(filled, tmp_path / "weights.pth") == before
    z = torch.randn(4, 3)
    assert torch.equal(filled(z), SOURCE(z))


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    save_file(under("module.", STATE), tmp_path / "weights.safetensors")
    filled = net(3)
    load_weights(filled, tmp_path / "weights.safetensors")
    assert all(torch.equal(filled.state_dict()[name], tensor) for name, tensor in STATE.items())


def test_the_average_is_taken_unless_it_is_not_wanted(tmp_path: Path) -> None:
    torch.save({"g": OTHER, "g_ema": STATE}, tmp_path / "w.pt")
    filled = net(3)
    assert load_weights(filled, tmp_path / "w.pt", ema=False) == "g"
    assert torch.equal(filled.state_dict()["0.weight"], OTHER["0.weight"])


def test_of_several_models_one_must_be_named(tmp_path: Path) -> None:
    torch.save({"a": OTHER, "b": STATE}, tmp_path / "w.pt")
    filled = net(3)
    before = filled.state_dict()["0.weight"].clone()
    with pytest.raises(InputError, match=r"several models of this shape \('a', 'b'\)"):
        load_weights(filled, tmp_path / "w.pt")
    assert torch.equal(filled.state_dict()["0.weight"], before)
    assert load_weights(filled, tmp_path / "w.pt", key="b") == "b"
    assert torch.equal(filled.state_dict()["0.weight"], STATE["0.weight"])


def test_the_networks_precision_stays(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    filled = net(3).double()
    load_weights(filled, tmp_path / "w.pt")
    assert filled.state_dict()["0.weight"].dtype == torch.float64
    assert torch.equal(filled.state_dict()["0.weight"], STATE["0.weight"].double())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dict(net(1, width=6).state_dict()), r"0.weight is \[6, 3\], not \[5, 3\]; .* and \d more"),
        ({name: t for name, t in STATE.items() if name != "2.0.bias"}, "2.0.bias is missing"),
        ({**STATE, "3.weight": torch.zeros(1)}, "3.weight is unknown"),
        ({"model": {**STATE, "3.weight": torch.zeros(1)}}, "3.weight is unknown below 'model'"),
        ({"conv.weight": torch.zeros(2)}, "its names are conv.weight, ...; expected 0.weight, 0.bias"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_filled(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    filled = net(3)
    before = filled.state_dict()["0.weight"].clone()
    with pytest.raises(InputError, match=rf"does not fit a Sequential: .*{words}"):
        load_weights(filled, tmp_path / "w.pt")
    assert torch.equal(filled.state_dict()["0.weight"], before)


def test_a_key_that_is_not_there_is_refused(tmp_path: Path) -> None:
    torch.save({"a": STATE}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"0.weight is missing"):
        load_weights(net(3), tmp_path / "w.pt", key="b")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-here"),))


@pytest.mark.parametrize("content", [Evil(), SOURCE, {"state_dict": STATE, "args": argparse.Namespace(lr=1)}])
def test_a_file_with_python_objects_is_refused_and_nothing_in_it_runs(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"holds more than tensors.*save `model.state_dict"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "was-here").exists()


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no file .*weights.pth; expected weights"):
        read_weights(tmp_path / "weights.pth")
    torch.save(STATE, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(InputError, match=r"w.pth (is damaged|holds more than tensors)"):
            read_weights(tmp_path / "w.pth")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="got no tensors in"):
        read_weights(tmp_path / "w.pth")


# And back


@pytest.mark.parametrize("name", FILES)
def test_weights_are_written_where_they_were_and_nothing_else_is(name: str, tmp_path: Path) -> None:
    content, _ = FILES[name]
    torch.save(content, tmp_path / "before.pth")
    new = net(7)
    write_weights(new, tmp_path / "after.pth", like=tmp_path / "before.pth")
    before, after = (read_weights(tmp_path / file) for file in ("before.pth", "after.pth"))
    assert after.keys() <= before.keys()
    filled = net(8)
    load_weights(filled, tmp_path / "after.pth")
    old = [tensor for tensor in (*STATE.values(), *OTHER.values()) if tensor.dtype == torch.float32]
    for key, tensor in new.state_dict().items():
        assert torch.equal(filled.state_dict()[key], tensor) or key.endswith("tracked")
    trained = [tensor for key, tensor in after.items() if "running" not in key and "tracked" not in key]
    assert not any(torch.equal(a, b) for a in trained for b in old if a.shape == b.shape)


def test_without_a_file_to_be_like_names_are_the_networks_own(tmp_path: Path) -> None:
    for ending in (".safetensors", ".pt"):
        write_weights(SOURCE, tmp_path / f"w{ending}")
        found = read_weights(tmp_path / f"w{ending}")
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_weights_are_not_written_over_a_file_or_under_another_ending(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    with pytest.raises(InputError, match="is there already; expected a new file"):
        write_weights(SOURCE, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"expected a name that ends in \.safetensors"):
        write_weights(SOURCE, tmp_path / "w.npz")
