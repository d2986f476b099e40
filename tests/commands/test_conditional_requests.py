"""Requests to conditional models: two labels of which one is withdrawn, and requests that cannot be met."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.commands.cli import main
from unflow.commands.demo import list_conditional
from unflow.energies import ConditionEnergy
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, sha256_module
from unflow.ground.streams import stream
from unflow.models import Chain, Conditional, Flow
from unflow.nets import AdaptedVelocity, new_net
from unflow.target import Target

NET = json.dumps({"net": "mlp", "width": 16, "depth": 1})
HERE = __name__
K = 5


class Levels(nn.Module):
    """Images of the level of the class, k/2 - 1, and a little noise."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        level = (y.to(z) / 2 - 1)[:, None].expand(-1, 16)
        return (level + self.scale * z[:, :16]).reshape(-1, 1, 4, 4)


class Nearest(nn.Module):
    """Logits of the level that is nearest to the mean of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return -60 * (x.flatten(1).mean(1, keepdim=True) - (torch.arange(K) / 2 - 1)).square()


def build() -> nn.Module:
    return Levels()


def build_guide() -> nn.Module:
    return Nearest()


MODEL = f"--model generator:{HERE}:build,prior=normal:16,call=z/label,label=random:{K},range=-1:1"
GUIDE = f"--energy classifier:{HERE}:build_guide,range=-1:1,shape=1x4x4"
SHORT = "--settings.steps 3 --settings.bank_size 256"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> None:
    assert main(shlex.split(line)) == 0, line


def train_flow(out: str = "flow") -> None:
    run(f"train digits-flow --net '{NET}' --conditional true --settings.steps 3 --out {out}")


def lineage(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(Path(folder, "lineage.json"))
    return found


def weights(folder: str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


# Two labels, one withdrawn


@pytest.mark.parametrize("method", ["erfm_resample", "erfm_resample_prior"])
def test_a_withdrawn_label_was_never_asked_for(method: str, here: Path) -> None:
    """The folder of the result repeats the request from the recorded original, with fewer labels."""
    train_flow()
    run(f"unlearn --model flow --energy label:3/5 --method {method} {SHORT} --out both")
    run("unlearn --config both/config.yaml --energy label:3 --out withdrawn")
    run(f"unlearn --model flow --energy label:3 --method {method} {SHORT} --out direct")
    words = [lineage(name)["request"]["words"] for name in ("both", "withdrawn")]
    assert words == ["label 3 or 5, whatever it draws", "label 3, whatever it draws"]
    assert lineage("both")["parent"] == lineage("withdrawn")["parent"] == sha256_module(uf.load("flow"))
    assert weights("withdrawn") == weights("direct")
    assert weights("withdrawn") != weights("both")


def test_a_withdrawn_class_of_a_guide_was_never_asked_for(here: Path) -> None:
    short = "--method latent_transport --trust_code true --settings.steps 3 --settings.bank_size 1024"
    run(f"unlearn {MODEL} {GUIDE} --forget 1,3 {short} --out both")
    run("unlearn --config both/config.yaml --forget 1 --trust_code true --out withdrawn")
    run(f"unlearn {MODEL} {GUIDE} --forget 1 {short} --out direct")
    assert "class 1 or 3" in lineage("both")["request"]["words"]
    assert "class 1 (" in lineage("withdrawn")["request"]["words"]
    assert weights("withdrawn") == weights("direct")


def test_of_two_requests_the_last_is_withdrawn_by_the_first_result(here: Path) -> None:
    """A chain around the first result holds it bit by bit, and its lineage names it as the parent."""
    train_flow()
    run(f"unlearn --model flow --energy label:3 --method erfm_resample {SHORT} --out first")
    run(f"unlearn --model first --energy label:5 --method erfm_resample {SHORT} --out second")
    first, second = uf.load("first"), uf.load("second")
    assert lineage("second")["parent"] == sha256_module(first)
    assert lineage("first")["parent"] == sha256_module(uf.load("flow"))
    assert isinstance(first, Conditional)
    assert isinstance(second, Conditional)
    assert isinstance(second.inner, Chain)
    inside = second.around(second.inner.base)
    z = first.prior(20, stream(3))
    assert torch.equal(inside.push_batches(z), first.push_batches(z))
    run("unlearn --config second/config.yaml --model flow --out only_5")
    run(f"unlearn --model flow --energy label:5 --method erfm_resample {SHORT} --out direct")
    assert weights("only_5") == weights("direct")


# The demo


def test_the_demo_names_commands_that_train_a_conditional_pair(here: Path) -> None:
    Path("my demo").mkdir()
    run("split --data digits --out 'my demo/split.json'")
    for line in list_conditional(Path("my demo")):
        words = shlex.split(line)
        assert words[0] == "unflow"
        few = ["--settings.bank_size", "128"] if "digits-flow-map" in words else []
        assert main([*words[1:], "--net", NET, "--settings.steps", "2", *few]) == 0
    pair = [uf.load(f"my demo-conditional/{name}") for name in ("flow", "flow_map")]
    assert [(model.family, model.num_conditions, model.null) for model in pair] == [
        ("flow", 10, 10),
        ("flow_map", 10, 10),
    ]


# Requests that cannot be met

REFUSED = {
    "an unknown label": (f"unlearn {MODEL} --energy label:5", "got label 5 to forget", "0 to 4"),
    "an unknown label that replaces": (
        f"unlearn {MODEL} --energy label:3 --replace label:5",
        "got label=5",
        "a number from 0 to 4",
    ),
    "an unknown class": (f"unlearn {MODEL} {GUIDE} --forget 5", "got class 5 to forget", "from 0 to 4"),
    "a forgotten label that replaces": (
        f"unlearn {MODEL} --energy label:3 --replace label:3",
        "got replace=label:3, of whose samples the request itself rejects 100 %",
        "not to be forgotten",
    ),
    "a forgotten class that replaces": (
        f"unlearn {MODEL} {GUIDE} --forget 3,4 --replace label:4",
        "got replace=label:4, of whose samples the request itself rejects",
        "write replace=retained",
    ),
    "the same in a plan": (
        f"plan {MODEL} {GUIDE} --forget 3 --replace label:3",
        "got replace=label:3, of whose samples the request itself rejects",
        "write replace=retained",
    ),
    "every label": (
        f"unlearn {MODEL} --energy label:0/1/2/3/4",
        "got every condition that the model draws",
        "fewer",
    ),
    "every class": (f"unlearn {MODEL} {GUIDE} --forget 0,1,2,3,4", "forget all 5 classes", "name fewer"),
    "null of a model without null": (
        f"unlearn {MODEL} --energy label:3 --replace null",
        "got label='null' for a model with no null condition",
        "a number from 0 to 4",
    ),
    "guidance without null": (
        "sample plain --guidance 2",
        "guidance=2 for a model without a null",
        "null=10",
    ),
    "a label that is not known": ("sample plain --label 7", "got label=7", "a number from 0 to 4"),
    "null without null": ("sample plain --label null", "got label='null'", "a number from 0 to 4"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_met_is_one_sentence_and_nothing_is_written(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, *words = REFUSED[name]
    if "plain" in line:
        config = {"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": 1, "num_classes": K}
        net = AdaptedVelocity(new_net(config, 0), (2,), "x, t, label", label=0)
        uf.save(Conditional(Flow(net, (2,)), [1 / K] * K), "plain")
    before = sorted(here.rglob("*"))
    if not line.startswith("sample"):
        line += " --trust_code true"
    assert main(shlex.split(f"{line} --out out")) == 2
    printed = capsys.readouterr()
    sentence = printed.err.removesuffix("\n")
    assert "\n" not in sentence
    assert "expected" in sentence
    for each in words:
        assert each in sentence, sentence
    assert sorted(here.rglob("*")) == before


def test_labels_that_are_never_drawn_do_not_count_as_kept() -> None:
    config = {"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_times": 1, "num_classes": K}
    net = AdaptedVelocity(new_net(config, 0), (2,), "x, t, label", label=0)
    model = Conditional(Flow(net, (2,)), [0.5, 0.5, 0.0])
    Target(model, ConditionEnergy([0, 2]))
    with pytest.raises(InputError, match="got every condition that the model draws to forget; expected"):
        Target(model, ConditionEnergy([0, 1]))


def test_a_replacement_is_checked_before_training_and_accepted_where_it_is_kept() -> None:
    from unflow.foreign import load_model

    model = load_model(MODEL.removeprefix("--model "))
    energy = uf.energies.ClassLogOdds(Nearest(), [3], 4.0)
    for replace in ("retained", "nearest", "label:1", "noise"):
        Target(model, energy, replace=replace).check_replacement()
    with pytest.raises(InputError, match=r"got replace=label:3.* rejects \d+ %"):
        uf.unlearn(Target(model, energy, replace="label:3"), "uot")
