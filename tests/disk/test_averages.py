"""Moving averages of weights are found in the layouts in which packages store them, by names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from unflow.disk.averages import is_average_key
from unflow.disk.weights import load_weights, read_weights, write_weights
from unflow.ground.errors import InputError


def net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Linear(5, 2)))
        for parameter in made.parameters():
            nn.init.normal_(parameter)
    return made.eval()


MODEL, AVERAGE = net(1), net(2)
RAW, MEAN = dict(MODEL.state_dict()), dict(AVERAGE.state_dict())
WEIGHTS = [name for name, _ in MODEL.named_parameters()]
SHADOW = [MEAN[name].clone() for name in WEIGHTS]


def joined(separator: str) -> dict[str, Tensor]:
    return {name.replace(".", separator): MEAN[name] for name in WEIGHTS}


def averaged() -> dict[str, Tensor]:
    model = AveragedModel(AVERAGE)
    return dict(model.state_dict())


LAYOUTS: dict[str, tuple[Any, str]] = {
    "a list of shadow parameters": (
        {
            "model": RAW,
            "ema": {
                "decay": 0.99,
                "num_updates": 7,
                "shadow_params": SHADOW,
                "collected_params": [RAW[name] for name in WEIGHTS],
            },
        },
        "ema.shadow_params",
    ),
    "names without dots": (
        {"state_dict": RAW | {f"model_ema.{name}": t for name, t in joined("").items()}},
        "state_dict.model_ema",
    ),
    "names without dots, apart": (
        {"model": RAW, "model_ema": {**joined(""), "decay": torch.ones(())}},
        "model_ema",
    ),
    "underscores for dots": ({"model": RAW, "ema": joined("_")}, "ema"),
    "torch's AveragedModel": ({"model": RAW, "smooth": averaged()}, "smooth"),
    "parameters without buffers": ({"net": RAW, "netEMA": {name: MEAN[name] for name in WEIGHTS}}, "netEMA"),
    "another word": ({"net": RAW, "net_avg": MEAN}, "net_avg"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_average_is_found_in_every_layout_and_written_back_to_its_place(name: str, tmp_path: Path) -> None:
    content, key = LAYOUTS[name]
    if "state_dict" in content:  # Lightning keeps the network below a name beside its average
        content = {
            "state_dict": {f"model.{k}" if k in RAW else k: t for k, t in content["state_dict"].items()}
        }
    torch.save(content, tmp_path / "w.pt")
    filled = net(3)
    assert load_weights(filled, tmp_path / "w.pt") == key
    for own, tensor in filled.named_parameters():
        assert torch.equal(tensor, MEAN[own])
    new = net(4)
    write_weights(new, tmp_path / "after.pt", like=tmp_path / "w.pt")
    assert read_weights(tmp_path / "after.pt").keys() <= read_weights(tmp_path / "w.pt").keys()
    again = net(5)
    load_weights(again, tmp_path / "after.pt")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), new.parameters(), strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_weights_without_their_average_are_loaded_on_request(name: str, tmp_path: Path) -> None:
    content, _ = LAYOUTS[name]
    if "state_dict" in content:
        content = {
            "state_dict": {f"model.{k}" if k in RAW else k: t for k, t in content["state_dict"].items()}
        }
    torch.save(content, tmp_path / "w.pt")
    filled = net(3)
    load_weights(filled, tmp_path / "w.pt", ema=False)
    assert torch.equal(filled.state_dict()["0.weight"], RAW["0.weight"])


@pytest.mark.parametrize(
    "key", ["schema", "cinema_net", "remake", "exp_avg", "ema.online_model", "grandma", "G"]
)
def test_a_word_that_contains_the_name_of_an_average_names_none(key: str) -> None:
    assert not is_average_key(key)


@pytest.mark.parametrize(
    "key", ["ema", "G_ema", "netEMA", "ema_0.9999", "model_ema", "emaModel", "swa", "EMA"]
)
def test_a_whole_word_names_an_average(key: str) -> None:
    assert is_average_key(key)


def test_two_models_are_asked_about_though_one_contains_the_letters(tmp_path: Path) -> None:
    torch.save({"cinema": RAW, "theatre": MEAN}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"several models of this shape .*write key="):
        load_weights(net(3), tmp_path / "w.pt")


def test_an_average_with_unknown_names_is_asked_about(tmp_path: Path) -> None:
    strange = {f"w{k}": tensor for k, tensor in enumerate(SHADOW)}
    torch.save({"model": RAW, "ema": strange}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"holds an average of these weights below 'ema'.*write key=model"):
        load_weights(net(3), tmp_path / "w.pt")
    assert load_weights(net(3), tmp_path / "w.pt", key="model") == "model"


def test_the_average_of_another_network_is_left_alone(tmp_path: Path) -> None:
    torch.save({"model": RAW, "critic_ema": {"0.weight": torch.zeros(9, 9)}}, tmp_path / "w.pt")
    assert load_weights(net(3), tmp_path / "w.pt") == "model"


def test_lists_of_an_optimizer_are_no_average(tmp_path: Path) -> None:
    torch.save({"model": RAW, "optimizer": {"exp_avgs": SHADOW, "fp32": SHADOW}}, tmp_path / "w.pt")
    assert load_weights(net(3), tmp_path / "w.pt") == "model"
