"""The shell asks conditional models: train, unlearn, sample, and the specification of a generator G(z, y)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.commands.cli import main
from unflow.energies import ConditionEnergy
from unflow.foreign import load_energy, load_model
from unflow.ground.errors import InputError
from unflow.ground.files import read_json
from unflow.ground.streams import stream
from unflow.models import Conditional

NET = json.dumps({"net": "mlp", "width": 16, "depth": 1})
HERE = __name__


class Asked(nn.Module):
    """Images of the value of the class, as an index or a one-hot vector."""

    def __init__(self, one_hot: bool = False) -> None:
        super().__init__()
        self.one_hot, self.scale = one_hot, nn.Parameter(torch.tensor(0.3))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        k = y.argmax(1) if self.one_hot else y
        level = (k.to(z) / 2 - 1)[:, None].expand(-1, 16)
        return (level + self.scale * z[:, :16]).clamp(-1, 1).reshape(-1, 1, 4, 4)


def build() -> nn.Module:
    return Asked()


def build_one_hot() -> nn.Module:
    return Asked(one_hot=True)


LINE = f"generator:{HERE}:build,prior=normal:16,call=z/label,label=random:5,range=-1:1"


def test_a_conditional_flow_is_trained_unlearned_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow, after, drawn = (str(tmp_path / name) for name in ("flow", "after", "drawn"))
    words = ["train", "--kind", "flow", "--net", NET, "--settings.steps", "5", "--conditional", "true"]
    assert main([*words, "--out", flow]) == 0
    model = uf.load(flow)
    assert isinstance(model, Conditional)
    assert (model.num_conditions, model.null) == (10, 10)
    assert model.names == tuple("0123456789")
    words = ["unlearn", "--model", flow, "--energy", "label:3", "--replace", "label:5"]
    small = ["--settings.steps", "3", "--settings.bank_size", "256"]
    assert main([*words, "--method", "erfm_resample_prior", *small, "--out", after]) == 0
    assert read_json(tmp_path / "after" / "lineage.json")["request"] == {
        "words": "label 3, whatever it draws",
        "strength": 1.0,
        "divergence": "kl",
        "replace": "label:5",
    }
    assert "no guide says what is drawn" in capsys.readouterr().out
    assert main(["sample", after, "--out", drawn, "--n", "4", "--label", "3", "--guidance", "2"]) == 0
    x = torch.from_numpy(np.load(tmp_path / "drawn" / "samples.npz")["x"])
    z = torch.from_numpy(np.load(tmp_path / "drawn" / "samples.npz")["z"])
    found: Any = uf.load(after)
    assert bool((found.conditions(z) == 3).all())
    assert torch.equal(x, found.with_guidance(2.0).push_batches(z))


def test_one_step_models_of_a_guidance_are_trained_and_asked(tmp_path: Path) -> None:
    flow, small = str(tmp_path / "flow"), ["--net", NET, "--conditional", "true", "--settings.steps", "3"]
    assert main(["train", "digits-flow", *small, "--out", flow]) == 0
    distilled = ["digits-flow-map", "--teacher", flow, "--settings.bank_size", "128"]
    for name, words in (("distilled", distilled), ("mean-flow", ["digits-mean-flow"])):
        out, drawn = tmp_path / name, tmp_path / f"{name}-drawn"
        assert main(["train", *words, *small, "--settings.guidance", "2", "--out", str(out)]) == 0
        model = uf.load(out)
        assert isinstance(model, Conditional)
        assert (model.family, model.num_conditions, model.null) == ("flow_map", 10, 10)
        assert (model.num_evaluations, model.guidance) == (1, 1.0)
        assert read_json(out / "lineage.json")["settings"]["guidance"] == 2
        for label, asked in (("3", 3), ("null", 10)):
            folder = str(drawn / label)
            assert main(["sample", str(out), "--out", folder, "--n", "4", "--label", label]) == 0
            z = torch.from_numpy(np.load(drawn / label / "samples.npz")["z"])
            assert bool((model.conditions(z) == asked).all())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits-mean-flow --settings.guidance 2", "got guidance=2 for a model without conditions"),
        ("digits-flow --settings.guidance 2", "settings.guidance"),
        ("digits-mean-flow --guidance 2", "did you mean settings.guidance?"),
        ("digits-flow-map --conditional true --teacher flow", "got a teacher without conditions"),
        ("digits-flow-map --teacher asked", "write --conditional true"),
        ("digits-guide --conditional true", "got conditional for the kind classifier"),
        ("digits-mean-flow --conditional true --settings.guidance inf", "guidance inf; expected"),
    ],
)
def test_guidance_that_does_not_fit_is_one_sentence(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    teachers = {"flow": "false", "asked": "true"}
    for name in teachers.keys() & set(words.split()):
        small = ["--net", NET, "--settings.steps", "2", "--conditional", teachers[name]]
        assert main(["train", "digits-flow", *small, "--out", name]) == 0
    capsys.readouterr()
    assert main(["train", *words.split(), "--out", "out"]) == 2
    sentence = " ".join(capsys.readouterr().err.split())
    assert message in sentence
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "12"], "got label=12; expected a condition that the model draws"),
        (
            ["--label", "cat"],
            "got label='cat' for a model with no null condition and no names; expected a number from 0",
        ),
        (["--guidance", "2"], "got guidance=2 for a generator, which draws in one step"),
        (["--label", "null"], "got label='null' for a model with no null condition"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", LINE, "--out", str(tmp_path / "out"), "--n", "2", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_generator_of_a_latent_and_a_label_is_declared_in_a_line(one_hot: bool) -> None:
    line = LINE.replace(":build,", ":build_one_hot,") + ",one_hot=true" if one_hot else LINE
    model = load_model(line)
    assert isinstance(model, Conditional)
    for k in (0, 4):
        mean = float(model.sample(200, stream(0), label=k).mean())
        assert mean == pytest.approx(k / 2 - 1, abs=0.15)


def test_the_energy_of_a_label_is_declared_by_its_number() -> None:
    model = load_model(LINE)
    energy = load_energy("label:1/3", None, 4.0, model)
    assert isinstance(energy, ConditionEnergy)
    assert energy.forget == (1, 3)
    with pytest.raises(InputError, match="got label 9 to forget; expected one of the model's conditions"):
        load_energy("label:9", None, 4.0, model)
    with pytest.raises(InputError, match="got --energy label:cat; expected numbers of conditions"):
        load_energy("label:cat", None, 4.0, model)
