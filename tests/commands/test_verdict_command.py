"""The last line of `unflow unlearn` and `unflow train`, and the exit code of `--require`."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import unflow as uf
from unflow.commands.cli import main
from unflow.data import load_data, split_data, write_split
from unflow.disk import bundle
from unflow.ground.files import read_json, read_yaml
from unflow.nets import new_net

UNLEARN = "unlearn --model model --energy classifier:guide --forget 1 --margin 0 --out out "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A one-step model of four clusters in the plane, and a guide that numbers them by quarters."""
    monkeypatch.chdir(tmp_path)
    net = new_net({"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": 2}, 0)
    for weight in net.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=uf.stream(1))
    bundle.save(uf.FlowMap(net, (2,)).eval(), Path("model"))
    guide = new_net({"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": 0, "outputs": 2}, 0)
    optimizer = torch.optim.Adam(guide.parameters(), 0.02)
    x = 2 * torch.randn(2000, 2, generator=uf.stream(2))
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(guide(x), (x[:, 0] > 0.5).long()).backward()
        optimizer.step()
    bundle.save(uf.models.classifier.Classifier(guide, ["left", "right"]).eval(), Path("guide"))
    return tmp_path


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the last line."""
    capsys.readouterr()
    code = main(shlex.split(line))
    return code, capsys.readouterr().out.splitlines()[-1]


def test_a_run_that_does_nothing_ends_with_code_1_where_forgetting_is_required(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--settings.learning_rate 1e-12 --settings.steps 10 --settings.bank_size 512"
    line = f"{UNLEARN} --method latent_transport {options}"
    code, first = run(line + " --require forgotten,sharp", capsys)
    assert code == 1
    assert first.startswith("did not forget: ")
    assert bundle.is_complete(folder / "out")
    assert read_json(folder / "out" / "lineage.json")["self_measure"]["verdict"] == first
    written = (folder / "out" / "model.safetensors").stat().st_mtime_ns
    assert run(line + " --require forgotten", capsys) == (1, first)
    assert run(line, capsys) == (0, first)
    assert (folder / "out" / "model.safetensors").stat().st_mtime_ns == written
    assert "require" not in read_yaml(folder / "out" / "config.yaml")


def test_an_exact_filter_meets_every_requirement(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = run(UNLEARN + "--method reject --require forgotten,sharp,diverse,kept", capsys)
    assert line.startswith("forgot: forgotten by the guide ")
    assert code == 0


def test_an_unknown_requirement_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(UNLEARN + "--method reject --require sharper")) == 2
    assert "got the requirement 'sharper'; expected names among forgotten, sharp" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train digits-guide --settings.steps 100 --split split.json", "% ["),
        (
            "train digits-guide --settings.steps 1 --settings.learning_rate 1e-9",
            "the classifier is near chance: correct",
        ),
        (
            "train digits-flow --settings.steps 2 --split split.json",
            "the flow draws samples no better than noise",
        ),
    ],
)
def test_training_ends_with_its_quality(
    command: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("digits")
    write_split(split_data(data, 0), data, tmp_path / "split.json")
    code, line = run(f"{command} --out out", capsys)
    assert code == 0
    assert words in line
    assert ("held-out samples" in line) == ("--split" in command)
    assert run(f"{command} --out out", capsys) == (0, line)
