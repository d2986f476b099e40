"""Third-party models: named by one specification, checked before use, unlearned, audited."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import unflow as uf
from unflow.commands.cli import main
from unflow.data import load_data, split_data, write_split
from unflow.foreign import (
    check_reads,
    family_of,
    load_classifier,
    load_model,
    parse_specification,
    with_options,
)
from unflow.ground.errors import InputError
from unflow.models import Generator, family_of_config, plain_module
from unflow.models.classifier import Classifier
from unflow.nets import ReadsAs, WritesAs, build_net, builders, net_config
from unflow.nets.adapters import read_by_last_linear
from unflow.unlearning.defaults import default_method

PACKAGE = '''
"""Third-party code."""

import torch
from torch import nn


class Decoder(nn.Module):
    """Flat images of 64 numbers in [0, 1] from 6 latents."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 64), nn.Sigmoid())

    def forward(self, z):
        return self.layers(z)


def build(width: int = 16):
    return Decoder(width)


def judge(outputs: int = 10):
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, outputs))


class Overshooting(nn.Module):
    """Images in [low, 1], but for some numbers of each."""

    def __init__(self, many: int = 0, low: float = -1) -> None:
        super().__init__()
        self.many, self.low, self.layers = many, low, nn.Sequential(nn.Linear(6, 64), nn.Sigmoid())

    def forward(self, z):
        x = self.low + (1 - self.low) * self.layers(10 * z)
        return torch.cat([x[:, self.many :], torch.full_like(x[:, : self.many], 1.3)], 1)


def number():
    return 3
'''

MODEL = "generator:outsiders.nets:build@gan.pth,prior=normal:6,range=0:1,shape=1x8x8"
GUIDE = "classifier:outsiders.nets:judge@guide.safetensors,range=0:1,shape=64"


@pytest.fixture
def outsiders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a third-party package and weights."""
    (tmp_path / "outsiders").mkdir()
    (tmp_path / "outsiders" / "__init__.py").touch()
    (tmp_path / "outsiders" / "nets.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    from outsiders.nets import build, judge  # type: ignore[import-not-found]
    from safetensors.torch import save_file

    sys.path.remove(str(tmp_path))  # what a script finds beside it, unflow must find by itself
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gan, guide, other = build(), judge(), judge()
    torch.save({"generator": {f"module.{k}": v for k, v in gan.state_dict().items()}}, "gan.pth")
    save_file(guide.state_dict(), "guide.safetensors")
    save_file(other.state_dict(), "judge.safetensors")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("outsiders"):
            del sys.modules[name]


# Specifications


def test_a_specification_is_parsed_and_the_path_of_a_folder_is_none(tmp_path: Path) -> None:
    line = parse_specification("generator:a.b:c@x/w.pth,prior=normal:64,width=3", ("generator",))
    assert line is not None
    assert line.what == line.source
    assert str(line) == "generator:a.b:c@x/w.pth,prior=normal:64,width=3"
    assert (line.kind, line.source, line.weights) == ("generator", "a.b:c", Path("x/w.pth"))
    assert line.options == {"prior": "normal:64", "width": "3"}
    assert line.take({"prior": str}) == ({"prior": "normal:64"}, {"width": 3})
    assert parse_specification(str(tmp_path), ("generator",)) is None
    assert parse_specification("runs/base", ("generator",)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classifier:a:b", "of the kind classifier; expected generator or flow or"),
        ("generator:a,prior=normal:3", "expected generator:PACKAGE.MODULE:FUNCTION"),
        ("flow:a:b", "without the shape of one sample"),
        ("flow:a:b,shape=2,noise_at=one", "got noise_at=one .* expected a whole number"),
        ("generator:a:b,prior", "got 'prior' .* expected name=value"),
        ("generator:a:b,3=4", "got '3=4'"),
        ("generator:a:b@w.pth,prior=normal", "got the prior 'normal'; expected normal:64"),
        ("generator:a:b,prior=cauchy:3", "got the prior 'cauchy:3'"),
        ("generator:a:b,prior=normal:3,range=1:0", r"range .*1.*0"),
        ("generator:a:b,prior=normal:3,range=black", "got the range 'black'"),
        ("generator:a:b,prior=normal:0", "got the shape '0'"),
        ("generator:a:b,prior=normal:3,shape=28", "got 'a:b' .*ModuleNotFoundError"),
        ("generator:a:b", "without its prior; .* write prior=normal:64"),
    ],
)
def test_a_string_that_specifies_no_model_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_model(text)


def test_commas_within_brackets_belong_to_a_value() -> None:
    line = parse_specification("flow:a.b:c@w.pth,dim=[1, 8, 8],of={a: [2, 3], b: 4},depth=2")
    assert line is not None
    assert line.take({})[1] == {"dim": [1, 8, 8], "of": {"a": [2, 3], "b": 4}, "depth": 2}


def test_weights_and_prior_may_be_given_apart(tmp_path: Path) -> None:
    text = with_options("generator:a:b,width=3", Path("w.pth"), "normal:64")
    assert text == "generator:a:b@w.pth,width=3,prior=normal:64"
    assert with_options("runs/base", None, None) == "runs/base"
    with pytest.raises(InputError, match="twice"):
        with_options("generator:a:b@w.pth", Path("v.pth"), None)
    with pytest.raises(InputError, match="twice"):
        with_options("generator:a:b,prior=normal:3", None, "normal:64")
    with pytest.raises(InputError, match="only with generator"):
        with_options(str(tmp_path), Path("w.pth"), None)


# Adapters


def test_samples_of_any_range_and_shape_become_images_in_minus_one_to_one() -> None:
    net = WritesAs(nn.Identity(), (0, 255), (1, 2, 2))
    y = torch.tensor([[0.0, 255.0, 127.5, 51.0]])
    assert torch.allclose(net(y), torch.tensor([-1.0, 1.0, 0.0, -0.6]).reshape(1, 1, 2, 2))
    back = ReadsAs(nn.Flatten(), (0, 255), (4,))
    assert torch.allclose(back(net(y)), y)
    assert torch.equal(ReadsAs(nn.Identity())(y), y)
    assert torch.equal(WritesAs(nn.Identity())(y), y)
    with pytest.raises(InputError, match=r"shape=\[3\] was declared"):
        ReadsAs(nn.Identity(), None, (3,))(y)
    for wrong in ((1, 0), (0, float("inf")), (0, 1, 2), (0, 0)):
        with pytest.raises(InputError, match="range"):
            WritesAs(nn.Identity(), wrong)  # type: ignore[arg-type]


def test_features_are_the_networks_own_or_what_its_last_linear_layer_reads() -> None:
    first, last = nn.Linear(4, 3), nn.Linear(3, 2)
    net, x = nn.Sequential(first, nn.Tanh(), last), torch.randn(5, 4)
    assert torch.equal(ReadsAs(net).features(x), torch.tanh(first(x)))

    class Named(nn.Module):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :2, None]

    assert torch.equal(ReadsAs(Named()).features(x), x[:, :2])
    with pytest.raises(InputError, match="without a linear layer"):
        read_by_last_linear(nn.Flatten(), x)


def test_adapters_are_rebuilt_from_their_description() -> None:
    inner = build_net({"builder": "torch.nn:Linear", "options": {"in_features": 4, "out_features": 4}})
    for kind in (ReadsAs, WritesAs):
        net = kind(inner, (0, 1), (4,))
        config = json.loads(json.dumps(net_config(net)))
        assert builders(config) == ["torch.nn:Linear"]
        again = build_net(config)
        again.load_state_dict(net.state_dict())
        x = torch.randn(3, 4)
        assert torch.equal(again(x), net(x))


# Loading


def test_a_generator_and_a_classifier_are_loaded_from_a_specification(outsiders: Path) -> None:
    model, guide = load_model(MODEL), load_classifier(GUIDE)
    assert isinstance(model, Generator)
    assert model.sample_shape == (1, 8, 8)
    assert guide.class_names == [str(k) for k in range(10)]
    x = model.sample(20, uf.stream(0))
    assert -1 <= float(x.min()) < float(x.max()) <= 1
    own = torch.load("gan.pth", weights_only=True)["generator"]
    z = model.prior(3, uf.stream(1))
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid())
    net.load_state_dict({k.removeprefix("module.layers."): v for k, v in own.items()})
    assert torch.allclose(model.push(z), 2 * net(z).reshape(3, 1, 8, 8) - 1, atol=1e-6)
    check_reads(guide, model)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MODEL.replace("range=0:1,", ""), "as if black were 0; expected their range: write range=0:1"),
        (MODEL.replace("range=0:1", "range=0:0.2"), r"draws numbers from .* far outside the range 0:0.2"),
        (MODEL.replace("shape=1x8x8", "shape=1x7x7"), r"shape=\[1, 7, 7\] was declared"),
        (MODEL.replace("normal:6", "normal:7"), "does not run on latents of shape"),
        (MODEL.replace("gan.pth", "none.pth"), "got no file none.pth"),
        (MODEL.replace("prior", "depth=3,prior"), "does not take these options"),
        (MODEL.replace("prior", "width=32,prior"), "does not fit a Decoder"),
        (MODEL.replace("nets:build", "nets:number"), "returned a int; expected a torch.nn.Module"),
        (MODEL.replace("nets:build", "nets:none"), "expected package.module:function"),
    ],
)
def test_a_specification_that_the_model_contradicts_is_refused(
    text: str, words: str, outsiders: Path
) -> None:
    with pytest.raises(InputError, match=words):
        load_model(text)


def test_a_few_numbers_outside_of_the_range_are_no_other_range(outsiders: Path) -> None:
    line = "generator:outsiders.nets:Overshooting,prior=normal:6,shape=1x8x8,many="
    assert float(load_model(f"{line}3").sample(4, uf.stream(0)).max()) > 1.2  # and nothing is clipped
    with pytest.raises(InputError, match="6 % of them far outside the range -1:1"):
        load_model(f"{line}4")
    line = "generator:outsiders.nets:Overshooting,prior=normal:6,shape=1x8x8,low="
    with pytest.raises(InputError, match=r"numbers from -0\.10 to 1\.00, as if black were 0"):
        load_model(f"{line}-0.1")
    load_model(f"{line}-0.1,range=0:1")


def test_a_classifier_that_does_not_read_the_samples_is_refused_before_training(outsiders: Path) -> None:
    model = load_model(MODEL)
    with pytest.raises(InputError, match="declare the shape that it reads, like shape=784"):
        check_reads(load_classifier(GUIDE.replace(",shape=64", "")), model)
    with pytest.raises(InputError, match=r"expected logits \[2, 2\]"):
        check_reads(load_classifier(f"{GUIDE},names=cat/dog"), model)
    with pytest.raises(InputError, match="write names=cat/dog"):
        load_classifier("classifier:torch.nn:Flatten")


# From start to end


def test_a_third_party_generator_is_unlearned_sampled_and_audited_from_the_shell(
    outsiders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits")
    write_split(split_data(data, 0), data, Path("split.json"))
    model = MODEL.replace("@gan.pth,prior=normal:6", "")
    unlearn = [
        "unlearn",
        "--model",
        model,
        "--weights",
        "gan.pth",
        "--prior",
        "normal:6",
        "--energy",
        GUIDE,
        "--forget",
        "3",
        "--method",
        "uot",
        "--settings.steps",
        "4",
        "--settings.bank_size",
        "256",
        "--out",
        "forgotten",
    ]
    assert main(unlearn) == 0, capsys.readouterr().err
    assert main(unlearn) == 0  # found again
    assert main(["sample", "forgotten", "--n", "5", "--out", "drawn"]) == 0
    with np.load("drawn/samples.npz", allow_pickle=False) as file:
        assert file["x"].shape == (5, 1, 8, 8)
    judge = GUIDE.replace("guide.", "judge.")
    audit = [
        "audit",
        "forgotten",
        "--original",
        MODEL,
        "--judge",
        judge,
        "--energy",
        GUIDE,
        "--forget",
        "3",
        "--split",
        "split.json",
        "--n",
        "100",
        "--attack",
        "false",
        "--out",
        "audited",
    ]
    assert main(audit) == 0, capsys.readouterr().err
    rows = json.loads(Path("audited/audit.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "uot", "target"]
    assert main(["audit", MODEL, *audit[2:-1], "itself"]) == 0, capsys.readouterr().err
    rows = json.loads(Path("itself/audit.json").read_text())["rows"]
    assert rows[0]["forget_rate"] == rows[1]["forget_rate"]
    assert rows[1]["method"] == "unlearned"


def test_the_default_method_is_one_that_fits_the_model_and_takes_any_energy(
    outsiders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = {"net": "mlp", "shape": [2], "width": 4, "depth": 1}
    flow, one_step = uf.Flow(build_net(net), (2,)), uf.FlowMap(build_net({**net, "num_times": 2}), (2,))
    models = {"flow": flow, "map": one_step, "chain": uf.Chain(flow, flow), "first": uf.Chain(flow, one_step)}
    for name, model in models.items():
        uf.save(model, name)
        assert family_of(name) == family_of_config(model.config()) == model.family
    for name in ("flow", "chain", "nothing", "flow:a:b,shape=2"):
        assert default_method(family_of(name)) == "energy_guidance"
    for name in ("map", "first", MODEL, "flow_map:a:b,shape=2"):
        assert default_method(family_of(name)) == "residual_matching"
    small = "--settings.steps 2 --settings.bank_size 256"
    words = f"unlearn --model {MODEL} --energy {GUIDE} --forget 3 {small} --out out"
    assert main(shlex.split(words)) == 0, capsys.readouterr().err
    assert json.loads(Path("out/lineage.json").read_text())["method"] == "residual_matching"


def test_the_owner_gets_the_network_back_with_its_weights_in_their_old_places(
    outsiders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from outsiders.nets import Decoder

    target = uf.Target(load_model(MODEL), uf.energies.ClassLogOdds(load_classifier(GUIDE), [3], 2.0))
    result = uf.unlearn(target, uf.methods.UOT(steps=2, bank_size=256), out="forgotten")
    net = result.module()
    assert type(net) is Decoder
    assert main(shlex.split("export forgotten --like gan.pth --out after.pth")) == 0
    before, after = (torch.load(name, weights_only=True) for name in ("gan.pth", "after.pth"))
    assert after.keys() == before.keys() == {"generator"}
    assert after["generator"].keys() == before["generator"].keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(after["generator"][f"module.{name}"], tensor)
        assert not torch.equal(before["generator"][f"module.{name}"], tensor)
    assert main(shlex.split("export forgotten --like gan.pth --out after.pth")) == 2
    assert "is there already" in capsys.readouterr().err
    again = load_model(MODEL.replace("gan.pth", "after.pth"))
    z = again.prior(3, uf.stream(0))
    assert torch.equal(again.push(z), result.model.push(z))


def test_a_chain_is_more_than_one_network() -> None:
    model = Generator(nn.Linear(2, 2), (2,))
    flow = uf.Flow(build_net({"net": "mlp", "shape": [2], "width": 4, "depth": 1}), (2,))
    assert plain_module(model) is model.net
    with pytest.raises(InputError, match="got a Chain, which is more than one network"):
        plain_module(uf.Chain(model, flow))


def test_a_bundle_that_names_code_runs_it_only_with_consent(
    outsiders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uf.save(load_model(MODEL), "bundle")
    assert uf.load("bundle").sample_shape == (1, 8, 8)  # named in this process, by the line
    monkeypatch.setattr("unflow.nets.description._TRUSTED", set())
    with pytest.raises(InputError, match=r"is built by outsiders\.nets:build, .*trust_code=True"):
        uf.load("bundle")
    assert main(["sample", "bundle", "--out", "drawn"]) == 2
    assert "--trust_code true" in capsys.readouterr().err
    assert not Path("drawn").exists()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(outsiders)])
    monkeypatch.delitem(sys.modules, "outsiders.nets")
    monkeypatch.delitem(sys.modules, "outsiders")
    assert main(["sample", "bundle", "--trust_code", "true", "--out", "drawn"]) == 0
    config = json.loads(Path("bundle/config.json").read_text())
    config["net"]["of"] = {"builder": "subprocess:run", "options": {"args": ["touch", "done"]}}
    Path("bundle/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="subprocess:run"):
        uf.load("bundle")
    assert not Path("done").exists()


def test_a_third_party_classifier_is_a_bundle_too(outsiders: Path) -> None:
    guide = load_classifier(GUIDE)
    uf.save(guide, "guide")
    again = uf.load_classifier("guide")
    assert isinstance(again, Classifier)
    x = load_model(MODEL).sample(4, uf.stream(0))
    assert torch.equal(again(x), guide(x))
    assert torch.equal(again.features(x), guide.features(x))


# Conventions that are declared, not guessed

STRANGERS = '''
import torch
from torch import nn


class ReadsItsConfig(nn.Module):
    """A network of diffusers: its config is read-only, and read in every call."""

    def __init__(self, width=4):
        super().__init__()
        self._width, self.layer = width, nn.Linear(3, 2)

    @property
    def config(self):
        return {"width": self._width}

    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None]], 1)) * self.config["width"]


class OwnConfig(nn.Module):
    """A network of transformers: its config is an object."""

    def __init__(self):
        super().__init__()
        self.config, self.layer = type("Config", (), {"scale": 2.0})(), nn.Linear(3, 2)

    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None]], 1)) * self.config.scale


class Latents(nn.Module):
    """A velocity of latents [4, 4, 4] with large numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x, t):
        return self.layer(x) + 5


class HeadFirst(nn.Module):
    """A classifier that lists its head first, and holds a head that it does not use."""

    def __init__(self):
        super().__init__()
        self.head, self.body, self.spare = nn.Linear(5, 3), nn.Linear(2, 5), nn.Linear(5, 9)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))
'''


@pytest.fixture
def strangers(outsiders: Path) -> Iterator[Path]:
    (outsiders / "unfamiliar.py").write_text(STRANGERS)
    importlib.invalidate_caches()
    yield outsiders
    sys.modules.pop("unfamiliar", None)


@pytest.mark.parametrize("name", ["ReadsItsConfig", "OwnConfig"])
def test_a_network_keeps_its_own_config_and_is_described_all_the_same(name: str, strangers: Path) -> None:
    model = load_model(f"flow:unfamiliar:{name},shape=2")
    assert net_config(plain_module(model)) == {"builder": f"unfamiliar:{name}", "options": {}}
    uf.save(model, "bundle")
    again, z = uf.load("bundle", trust_code=True), model.prior(3, uf.stream(0))
    assert torch.equal(again.push_batches(z), model.push_batches(z))


def test_a_flow_of_latents_declares_that_its_numbers_have_no_range(strangers: Path) -> None:
    line = "flow:unfamiliar:Latents,shape=4x4x4"
    with pytest.raises(InputError, match=r"outside the range -1:1; .*range=any for latents") as refusal:
        load_model(line)
    assert "range=LOW" not in str(refusal.value)
    assert load_model(f"{line},range=any").sample_shape == (4, 4, 4)
    with pytest.raises(InputError, match=r"got range= for the flow .*range=any for latents"):
        load_model(f"{line},range=0:1")


def test_features_and_classes_are_those_of_the_layer_that_runs_last(strangers: Path) -> None:
    guide = load_classifier("classifier:unfamiliar:HeadFirst,shape=2")
    x = torch.randn(4, 2, generator=uf.stream(0))
    assert guide.num_classes == 3
    assert isinstance(guide.net, ReadsAs)
    body = guide.net.wrapped.get_submodule("body")
    assert torch.equal(guide.features(x), torch.tanh(body(x)))


def test_axes_are_permuted_when_asked_and_never_reshaped() -> None:
    x = torch.randn(2, 3, 4, 5, generator=uf.stream(0))
    last = x.permute(0, 2, 3, 1)
    assert torch.equal(WritesAs(nn.Identity(), None, (3, 4, 5), "hwc")(last), x)
    assert torch.equal(WritesAs(nn.Identity(), None, (3, 4, 5), "hwc")(last.flatten(1)), x)
    assert torch.equal(ReadsAs(nn.Identity(), None, None, "hwc")(x), last)
    assert torch.equal(ReadsAs(nn.Identity(), None, (60,), "hwc")(x), last.flatten(1))
    assert torch.equal(WritesAs(nn.Identity(), None, (3, 4, 5))(x.flatten(1)), x)
    assert torch.equal(WritesAs(nn.Identity(), None, (1, 4, 5))(x[:, 0, :, :, None])[:, 0], x[:, 0])
    for net, y in (
        (WritesAs(nn.Identity(), None, (3, 4, 5)), last),
        (ReadsAs(nn.Identity(), None, (4, 5, 3)), x),
    ):
        with pytest.raises(InputError, match=r"as many numbers in another order; .*axes=hwc"):
            net(y)
    with pytest.raises(InputError, match="got axes=bhwc; expected"):
        WritesAs(nn.Identity(), axes="bhwc")
