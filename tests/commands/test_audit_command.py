"""`unflow audit`: what cannot be audited is refused in one sentence, before a file is written."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unflow as uf
from unflow.commands.audit import models_by_strength
from unflow.commands.cli import main
from unflow.data import LabelledData, load_data, split_data, write_npz, write_split
from unflow.disk import bundle
from unflow.ground.errors import InputError
from unflow.ground.files import read_json
from unflow.models import Flow
from unflow.nets import new_net

SHAPE = (1, 16, 16)
DIGITS = "audit after --original before --judge judge --forget 3 --split split.json --n 100 --out audited"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models and a judge of images of 16 x 16, and a split of the digits, of 8 x 8."""
    folder = tmp_path_factory.mktemp("audits")
    digits = load_data("digits")
    write_split(split_data(digits, 0), digits, folder / "split.json")
    for seed, name in enumerate(("before", "after")):
        net = new_net({"net": "mlp", "shape": list(SHAPE), "width": 4, "depth": 1}, seed)
        bundle.save(Flow(net, SHAPE), folder / name)
    judge = new_net({"net": "convnet", "shape": list(SHAPE), "outputs": 10, "width": 8, "depth": 2}, 0)
    bundle.save(uf.Classifier(judge, [str(k) for k in range(10)]), folder / "judge")
    return folder


LINEAGE: dict[str, Any] = {
    "request": {"words": "class 3", "strength": 1.0, "divergence": "kl"},
    "parent": "a",
    "method": "uot",
    "family": "flow",
    "settings": {"steps": 2},
    "seed": 0,
    "data": {},
    "energy": "b",
}
OTHERS: dict[str, Any] = {
    "parent": "c",
    "method": "erfm",
    "settings": {"steps": 3},
    "seed": 1,
    "data": {"retain": "d"},
    "energy": "c",
    "train_only": ["head"],
    "adapters": {"rank": 8},
    "precision": "bf16-mixed",
    "request": LINEAGE["request"] | {"divergence": "chi2"},
}


@pytest.fixture
def refused(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Return the one sentence that a command ends with; nothing was written."""

    def refusal(line: str) -> str:
        monkeypatch.chdir(bundles)
        there = sorted(bundles.rglob("*"))
        assert main(shlex.split(line)) == 2
        assert sorted(bundles.rglob("*")) == there
        (sentence,) = capsys.readouterr().err.splitlines()
        return sentence

    return refusal


def test_data_of_another_shape_than_the_models_leaves_no_folder(refused: Callable[[str], str]) -> None:
    assert refused(DIGITS).endswith(
        "got real samples [1, 8, 8] (digits) for a model that draws [1, 16, 16]; expected one shape: name "
        "the data that it was trained on"
    )


@pytest.mark.parametrize("model", ["generator:nobody.nets:G@gan.pth,prior=normal:6", "split.json", "nowhere"])
def test_a_card_is_refused_at_once_for_what_has_none(model: str, refused: Callable[[str], str]) -> None:
    sentence = refused(DIGITS.replace("after", model) + " --card true")
    assert f"got {model}, which has no model card; expected the folder of a complete bundle" in sentence


def test_a_gate_on_nothing_is_refused_at_once(refused: Callable[[str], str]) -> None:
    sentence = refused(DIGITS.replace("after", "nowhere") + " --fail-if 'pul<50,forget_rat>0.02'")
    assert sentence.endswith("got a gate on forget_rat, which no audit measures; did you mean forget_rate?")


@pytest.fixture(scope="module")
def strengths(bundles: Path) -> Path:
    """Bundles of one request at two strengths, of others, and of the same strength again."""
    at_two = {"request": LINEAGE["request"] | {"strength": 2.0}}
    changes: dict[str, Any] = {"asked": {}, "two": at_two, "again": {}} | {
        f"other-{name}": at_two | {name: value} for name, value in OTHERS.items()
    }
    model = bundle.load(bundles / "after")
    for name, change in changes.items():
        bundle.save(model, bundles / name, LINEAGE | change)
    return bundles


def test_strengths_of_one_request_are_found(strengths: Path) -> None:
    found = models_by_strength(str(strengths / "asked"), [str(strengths / "two")], bundle.load)
    assert list(found) == [1.0, 2.0]


@pytest.mark.parametrize("name", OTHERS)
def test_a_slider_has_no_result_that_came_about_otherwise(name: str, strengths: Path) -> None:
    with pytest.raises(InputError, match=rf"other-{name}, which has another {name} than .*asked; expected"):
        models_by_strength(str(strengths / "asked"), [str(strengths / f"other-{name}")], bundle.load)


@pytest.mark.parametrize("name", ["again", "asked"])
def test_a_strength_twice_is_refused(name: str, strengths: Path, refused: Callable[[str], str]) -> None:
    sentence = refused(DIGITS.replace("after", "asked") + f" --strengths two,{name}")
    assert (
        f"got --strengths {name} of strength 1, which another bundle has; expected each strength" in sentence
    )


def test_a_bundle_that_no_request_made_has_no_strength(
    strengths: Path, refused: Callable[[str], str]
) -> None:
    sentence = refused(DIGITS.replace("after", "asked") + " --strengths before")
    assert (
        "got --strengths and before, which no request made; expected what `unflow unlearn` wrote" in sentence
    )


JUDGE_OF_POINTS = """
import torch
from torch import nn


class Directions(nn.Module):
    def features(self, x):
        return x

    def forward(self, x):
        return 9 * torch.stack([x[:, 0], x[:, 1], -x.sum(1)], 1)
"""


def test_a_model_of_points_is_audited_on_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("judge_of_points.py").write_text(JUDGE_OF_POINTS)
    x = torch.randn(400, 2, generator=uf.stream(0))
    labels = torch.stack([x[:, 0], x[:, 1], -x.sum(1)], 1).argmax(1)
    write_npz(LabelledData("plane", x, labels, ["right", "up", "down"]), "plane.npz")
    for seed, name in enumerate(("before", "after")):
        net = new_net({"net": "mlp", "shape": [2], "width": 4, "depth": 1}, seed)
        bundle.save(Flow(net, (2,)), name)
    assert main(shlex.split("split --data npz:plane.npz --out split.json")) == 0
    line = (
        "audit after --original before --judge classifier:judge_of_points:Directions,names=right/up/down "
        "--forget 1 --data npz:plane.npz --split split.json --n 100 --attack false --out audited"
    )
    assert main(shlex.split(line)) == 0, capsys.readouterr().err
    after = read_json(Path("audited", "audit.json"))["rows"][1]
    judged = torch.from_numpy(np.load("audited/samples/flow-unlearned.npz")["x"])
    assert judged.shape == (100, 2)
    up = torch.stack([judged[:, 0], judged[:, 1], -judged.sum(1)], 1).argmax(1) == 1
    assert after["forget_rate"] == pytest.approx(float(up.double().mean()))
    assert "</html>" in Path("audited", "report.html").read_text()
