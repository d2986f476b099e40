"""`unflow audit`: what cannot be audited is refused in one sentence, before a file is written."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import unflow as uf
from unflow import bundle
from unflow.cli import main
from unflow.data import load_data, split_data, write_split
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
    assert f"got {model}, which has no model card; expected the folder of a whole bundle" in sentence


def test_a_gate_on_nothing_is_refused_at_once(refused: Callable[[str], str]) -> None:
    sentence = refused(DIGITS.replace("after", "nowhere") + " --fail-if 'pul<50,forget_rat>0.02'")
    assert sentence.endswith("got a gate on forget_rat, which no audit measures; did you mean forget_rate?")
