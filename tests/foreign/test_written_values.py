"""Values as people write them, from the shell: numbers, quotes, home folders, YAML files, long lines."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import unflow as uf
from unflow.commands.cli import main
from unflow.commands.runner import parse
from unflow.data import load_data, split_data, write_split
from unflow.foreign import load_energy, load_model, with_options
from unflow.foreign.energies import guide_of
from unflow.foreign.specification import parse_specification
from unflow.ground.errors import InputError
from unflow.models.classifier import Classifier
from unflow.nets import new_net

PACKAGE = '''
"""Third-party code."""

import torch
from torch import nn

GIVEN = {}


class Decoder(nn.Module):
    """Images [channels, 8, 8] in [0, 1] from 6 latents."""

    def __init__(self, channels=1, **given):
        super().__init__()
        GIVEN.clear()
        GIVEN.update(given)
        layers = nn.Linear(6, 16), nn.Sigmoid(), nn.Linear(16, 64 * channels), nn.Sigmoid()
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        return self.layers(z)


def dark(images):
    return 1 - (images.mean((1, 2, 3)) + 1) / 2
'''
ODD = "runs, old@2"
GAN = "generator:writers.nets:Decoder,prior=normal:6,range=0:1,shape=1x8x8"
LOADED = GAN.replace(":Decoder", ":Decoder@gan.safetensors")
REQUEST = f"--model {GAN} --weights gan.safetensors --energy score:writers.nets:dark"
SMALL = "--settings.steps 2 --settings.bank_size 256 --settings.batch_size 32"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, which is the home folder too, with a third-party package in it."""
    (tmp_path / "writers").mkdir()
    (tmp_path / "writers" / "nets.py").write_text(PACKAGE)
    (tmp_path / "writers" / "__init__.py").touch()
    (tmp_path / ODD).mkdir()
    path = [*sys.path]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, str(tmp_path))
    from writers.nets import Decoder  # type: ignore[import-not-found]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file({name: 4 * w for name, w in Decoder().state_dict().items()}, "gan.safetensors")
    sys.path[:] = path  # unflow must find modules of the working directory by itself
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("writers")]:
        del sys.modules[name]


def done(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    code = main(shlex.split(line))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    code = main(shlex.split(line))
    printed = capsys.readouterr().err
    assert code == 2, printed
    assert printed.count("\n") == 1
    return printed


def save_guide(folder: str) -> None:
    net = {"net": "mlp", "shape": [1, 8, 8], "width": 8, "depth": 1, "num_times": 0, "outputs": 10}
    uf.save(Classifier(new_net(net, 0), [str(k) for k in range(10)]).eval(), folder)


# Specification strings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("inf", float("inf")),
        ("010", 10),
        ('"010"', "010"),
        ("[1e-3, 08]", [1e-3, 8]),
        ("'a,b@c'", "a,b@c"),
        ("16:9", "16:9"),
        ("None", None),
    ],
)
def test_an_option_of_a_function_is_the_value_that_is_written(text: str, value: Any) -> None:
    load_model(f"{GAN},given={text}")
    from writers.nets import GIVEN

    assert dict(GIVEN) == {"given": value}
    assert type(GIVEN["given"]) is type(value)


def test_a_tilde_is_the_home_folder_in_every_path_of_a_specification(here: Path) -> None:
    save_guide("guide")
    model = load_model(GAN.replace(":Decoder", ":Decoder@~/gan.safetensors") + ",file=~/notes.txt")
    from writers.nets import GIVEN

    assert dict(GIVEN) == {"file": str(here / "notes.txt")}
    assert load_energy("classifier:~/guide", (3,), 1.0, model).describe().startswith("class 3")
    assert uf.load_classifier("~/guide").num_classes == 10
    assert isinstance(uf.from_pretrained("~/guide"), Classifier)
    for kind in ("onnx", "estimator", "images", "diffusers"):
        spec = parse_specification(f"{kind}:~/some/file")
        assert spec is not None
        assert spec.source == str(here / "some/file")


def test_a_path_in_quotes_may_have_commas_and_at_signs(here: Path) -> None:
    save_guide(f"{ODD}/guide,1")
    weights = f"{ODD}/w,1@2.safetensors"
    Path("gan.safetensors").rename(weights)
    line = GAN.replace(":Decoder", f':Decoder@"{weights}"')
    spec = parse_specification(line)
    assert spec is not None
    assert spec.weights == Path(weights)
    same = [load_model(line).sample(2, uf.stream(0)) for _ in range(2)]
    assert torch.equal(*same)
    again = with_options("generator:writers.nets:Decoder,range=0:1", Path(weights), "normal:6")
    assert parse_specification(again) == parse_specification(
        f"generator:writers.nets:Decoder@'{weights}',range=0:1,prior=normal:6"
    )
    model = load_model(GAN)
    for guide in (
        f"classifier:'{ODD}/guide,1'",
        f'classifier:"~/{ODD}/guide,1"',
        f"classifier:{ODD}/guide,1",
    ):
        assert load_energy(guide, (3,), 1.0, model).describe().startswith("class 3")
        assert Path(str(guide_of(guide))).is_dir()
    Path(ODD, "shots").mkdir()
    Image.fromarray(np.zeros((8, 8), "uint8")).save(f"{ODD}/shots/0.png")
    images = f"images:'{ODD}/shots',extractor='{ODD}/guide,1',samples=300,way=thresholded"
    assert load_energy(images, None, 1.0, model).differentiable
    assert guide_of(images) == f"{ODD}/guide,1"


def test_an_apostrophe_is_no_quote() -> None:
    spec = parse_specification("onnx:it's/guide.onnx,names=cat's/dog's")
    assert spec is not None
    assert (spec.source, dict(spec.options)) == ("it's/guide.onnx", {"names": "cat's/dog's"})


def test_a_dataset_in_quotes_is_a_path_without_a_size(here: Path) -> None:
    for label in ("a", "b"):
        Path("scans@4", label).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(np.full((8, 8), 60 * k, "uint8")).save(f"scans@4/{label}/{k}.png")
    assert load_data('folder:"scans@4"').x.shape == (6, 1, 8, 8)
    assert load_data("folder:'~/scans@4'@2").x.shape == (6, 1, 2, 2)
    assert load_data("folder:~/scans@4@2").x.shape == (6, 1, 2, 2)
    with pytest.raises(InputError):
        load_data("folder:scans@4")


@pytest.mark.parametrize("kind", ["model", "energy", "data"])
def test_a_line_longer_than_a_file_name_is_read_as_a_line(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = f"{GAN},given={'x' * 5000}"
    assert load_model(long).sample_shape == (1, 8, 8)
    text = "".join("x/" for _ in range(5000))
    lines = {
        "model": f"sample {text} --out drawn",
        "energy": f"plan --model {GAN} --energy classifier:{text} --forget 3",
        "data": f"split --data {text} --out split.json",
    }
    refused(lines[kind], capsys)
    refused(lines[kind].replace("x/", "xy"), capsys)


# Files of options, and options


@pytest.mark.parametrize(
    ("written", "classes"), [("3", (3,)), ("[3, 5]", (3, 5)), ("3,5", (3, 5)), ("'3'", (3,)), ("[3]", (3,))]
)
def test_classes_are_a_number_a_list_or_a_text_in_yaml(written: str, classes: tuple[int, ...]) -> None:
    Path("options.yaml").write_text(f"forget: {written}\nmodel: {GAN}\nenergy: score:writers.nets:dark\n")
    assert read_options_of("plan", "--config options.yaml")["request"].classes == classes
    line = f"--model m --forget '{written.strip(chr(39))}'"
    assert read_options_of("plan", line)["request"].classes == classes


def read_options_of(command: str, line: str) -> dict[str, Any]:
    """Return the parsed arguments of a command's function."""
    import importlib

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    return parse(parser, importlib.import_module(f"unflow.commands.{command}"), shlex.split(line))


def test_a_tilde_is_the_home_folder_in_every_option(here: Path) -> None:
    Path("options.yaml").write_text("split: ~/split.json\nmodel: ~/m\nenergy: classifier:~/g\n")
    found = read_options_of("unlearn", "--config=~/options.yaml --out=~/o --weights=~/w --cache ~/c")
    assert found["out"] == here / "o"
    assert found["original"].weights == here / "w"
    assert found["rows"].split == here / "split.json"
    assert found["rows"].cache == here / "c"
    assert found["original"].model == str(here / "m")
    assert found["request"].specification.source == str(here / "g")
    Path("recipe.yaml").write_text("kind: flow\nnet: {net: mlp, file: ~/n}\nout: ~/o\n")
    found = read_options_of("train", "~/recipe.yaml")
    assert found["out"] == here / "o"
    assert found["net"] == {"net": "mlp", "file": str(here / "n")}


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_runs_own_configuration_repeats_and_continues_it(
    start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done(f"unlearn {REQUEST} --method latent_transport {SMALL} --forget 3 --out a", capsys)
    config = Path("mine.yaml")
    config.write_text(start + Path("a/config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert "expected your consent" in refused("unlearn --config mine.yaml --out b", capsys)
    done("unlearn --config mine.yaml --trust_code true --out b", capsys)
    done("unlearn --config a/config.yaml --trust_code true --out a", capsys)
    hashes = {json.loads(Path(run, "lineage.json").read_text())["sha256"] for run in "ab"}
    assert len(hashes) == 1
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
    printed = refused("sample --config a/config.yaml --out c", capsys)
    assert "records a run of `unflow unlearn`" in printed
    assert "Traceback" not in printed


def test_an_audits_and_a_trainings_own_configuration_repeat_them(capsys: pytest.CaptureFixture[str]) -> None:
    data = load_data("digits")
    write_split(split_data(data, 0), data, Path("split.json"))
    done("train digits-guide --settings.steps 2 --split split.json --out guide", capsys)
    done("train guide/config.yaml --out again", capsys)
    assert Path("guide/config.yaml").read_text() == Path("again/config.yaml").read_text()
    request = f"--original {LOADED} --judge guide --forget 3 --split split.json --n 100"
    for attack in ("false", "true --attacks.relearning.steps 1 --attacks.images [20] --attacks.samples 50"):
        done(f"audit {LOADED} {request} --attack {attack} --out {attack[:4]}", capsys)
        done(f"audit --config {attack[:4]}/config.yaml --trust_code true --out {attack[:4]}", capsys)


@pytest.mark.parametrize("content", ["seed: 3".encode("utf-16"), "out: Zoë".encode("latin-1")])
def test_a_recipe_in_another_encoding_is_refused(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_bytes(content)
    for line in ("train recipe.yaml --out o", f"sample {GAN} --config recipe.yaml --out o"):
        assert "not valid YAML in UTF-8" in refused(line, capsys)


def test_a_file_in_the_home_folder_is_no_consent(capsys: pytest.CaptureFixture[str]) -> None:
    Path("writers.nets:Decoder.yaml").write_text("net: {net: mlp, class_path: os.system}\n")
    for word in ("--config=~/writers.nets:Decoder.yaml", "--config ~/writers.nets:Decoder.yaml"):
        assert "class_path" in refused(f"train {word} --out o", capsys)
    Path("writers.nets:Decoder.yaml").write_text("kind: flow\nnet: {builder: 'writers.nets:Decoder'}\n")
    assert "trust_code" in refused("train ~/writers.nets:Decoder.yaml --out o", capsys)


def test_numbers_in_a_recipe_are_decimal() -> None:
    Path("recipe.yaml").write_text("kind: flow\nnet: {net: mlp, width: 064}\nout: o\nseed: 010\n")
    found = read_options_of("train", "recipe.yaml")
    assert found["seed"] == 10
    assert found["net"]["width"] == 64


# Samples of two channels


@pytest.mark.parametrize("channels", [2, 4])
def test_samples_of_any_number_of_channels_are_drawn(
    channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = GAN.replace("1x8x8", f"{channels}x8x8")
    done(f"sample {line},channels={channels} --n 9 --out drawn", capsys)
    with np.load("drawn/samples.npz") as file:
        assert file["x"].shape == (9, channels, 8, 8)
    with Image.open("drawn/samples.png") as picture:
        assert picture.size == (4 * 8 * (8 * channels + 2), 4 * 2 * 10)
