"""Models of latents from the shell: encoded images; flows that are trained on them, decoded and unlearned."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import unflow as uf
from unflow.commands.cli import main
from unflow.data import LabelledData, load_data, read_split
from unflow.data.npz import read_npz, write_latents
from unflow.foreign import load_model
from unflow.ground.errors import InputError
from unflow.models import Latent
from unflow.models.autoencoder import Autoencoder
from unflow.nets import new_net

PACKAGE = '''
"""Third-party code: a velocity of three latents that are far from [-1, 1]."""

import torch
from torch import nn


class Velocity(nn.Module):
    def __init__(self, spread=6.0):
        super().__init__()
        self.layer, self.spread = nn.Linear(4, 3), spread

    def forward(self, x, t):
        return self.spread * torch.tanh(self.layer(torch.cat([x, t[:, None]], 1)))


class Pictures(nn.Module):
    """Of latents [4, 4, 4]."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x, t):
        return 6 * torch.tanh(self.layer(x))


def bright(images):
    return ((images.mean((1, 2, 3)) + 1) / 2).clip(0, 1)
'''
FLOW = "flow:latents_pkg.nets:Velocity,shape=3,steps=2"
SMALL = "--settings.steps 2 --settings.bank_size 256 --settings.batch_size 32"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: a third-party flow, and an autoencoder of the digits."""
    (tmp_path / "latents_pkg").mkdir()
    (tmp_path / "latents_pkg" / "nets.py").write_text(PACKAGE)
    (tmp_path / "latents_pkg" / "__init__.py").touch()
    path = [*sys.path]
    monkeypatch.chdir(tmp_path)
    size = {"net": "conv_autoencoder", "latent": 3, "width": 8, "depth": 1, "shape": [1, 8, 8]}
    uf.save(Autoencoder(new_net(size, 0)).eval(), "coder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("latents_pkg")]:
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


def test_a_dataset_is_encoded_with_its_labels_rows_and_split(capsys: pytest.CaptureFixture[str]) -> None:
    done("split --data digits --out split.json", capsys)
    printed = done("encode --autoencoder coder --data digits --split split.json --out latents.npz", capsys)
    assert "1797 of shape [3]" in printed
    images, latents = load_data("digits"), load_data("npz:latents.npz")
    assert torch.equal(latents.x, uf.load_autoencoder("coder").encode(images.x))
    assert torch.equal(latents.labels, images.labels)
    assert latents.class_names == images.class_names
    before, after = read_split("split.json"), read_split("latents.split.json")
    for part, rows in before.parts.items():
        assert torch.equal(rows, after.parts[part])
        assert torch.equal(after.of(latents, part).x, latents.x[rows])
    again = Path("latents.npz").read_bytes()
    done("encode --autoencoder coder --data digits --split split.json --out latents.npz", capsys)
    assert Path("latents.npz").read_bytes() == again


def test_a_flow_of_encoded_digits_is_trained_decoded_unlearned_and_audited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done("split --data digits --out split.json", capsys)
    done("encode --autoencoder coder --split split.json --out latents.npz", capsys)
    done("train digits-judge --split split.json --settings.steps 2 --out judge", capsys)
    done("train digits-guide --split split.json --settings.steps 2 --out guide", capsys)
    recipe = "train digits-flow --data npz:latents.npz --split latents.split.json --net.width 16"
    done(f"{recipe} --settings.steps 2 --out flow", capsys)
    request = "--model flow --autoencoder coder --energy classifier:guide --forget 3"
    done(f"plan {request} --methods erfm_resample", capsys)
    done(f"unlearn {request} --method erfm_resample {SMALL} --out after", capsys)
    assert isinstance(uf.load("after"), Latent)
    assert yaml.safe_load(Path("after/config.yaml").read_text())["autoencoder"] == "coder"
    done("unlearn --config after/config.yaml --out after", capsys)
    done("sample after --n 4 --out drawn", capsys)
    with np.load("drawn/samples.npz") as file:
        assert file["x"].shape == (4, 1, 8, 8)
    audit = "audit after --original flow --autoencoder coder --judge judge --forget 3 --split split.json"
    done(f"{audit} --n 100 --attack false --out audited", capsys)
    rows = json.loads(Path("audited/audit.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "erfm_resample"]


def test_a_third_party_flow_of_latents_is_decoded_by_its_specification(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"{FLOW},decoder=coder"
    model = load_model(line)
    assert isinstance(model, Latent)
    assert model.sample_shape == (1, 8, 8)
    assert load_model(f'{FLOW},decoder="coder",range=any').sample_shape == (1, 8, 8)
    energy = "--energy score:latents_pkg.nets:bright"
    done(f"unlearn --model {line} {energy} --method erfm_resample {SMALL} --out after", capsys)
    done("sample after --trust_code true --n 2 --out drawn", capsys)
    with np.load("drawn/samples.npz") as file:
        assert file["x"].shape == (2, 1, 8, 8)


def test_latents_of_pictures_may_leave_the_range_of_images() -> None:
    line = "flow:latents_pkg.nets:Pictures,shape=4x4x4,steps=2"
    with pytest.raises(InputError, match="range=any"):
        load_model(line)
    assert load_model(f"{line},range=any").sample_shape == (4, 4, 4)


def test_latents_of_any_shape_are_read_back(tmp_path: Path) -> None:
    for shape in ((3,), (4, 2, 2), (2, 3, 3), (5, 7)):
        x = 9 * torch.randn(6, *shape)
        data = LabelledData("latents", x, torch.arange(6) % 2, ["a", "b"])
        write_latents(data, tmp_path / "latents.npz")
        assert torch.equal(read_npz(tmp_path / "latents.npz").x, x)
        with pytest.raises(InputError, match="NaN"):
            write_latents(LabelledData("latents", x / 0, data.labels, ["a", "b"]), tmp_path / "no.npz")


def test_what_cannot_be_encoded_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    done("split --data digits --out split.json", capsys)
    done("encode --autoencoder coder --out latents.npz", capsys)
    assert not Path("latents.split.json").exists()
    line = "encode --autoencoder coder"
    assert ".npz" in refused(f"{line} --out latents.pt", capsys)
    assert "is not a complete bundle" in refused("encode --autoencoder none --out no.npz", capsys)
    assert "expected equal shapes" in refused(f"{line} --data npz:latents.npz --out no.npz", capsys)
    assert "other data" in refused(f"{line} --data npz:latents.npz --split split.json --out no.npz", capsys)
    other = {"net": "conv_autoencoder", "latent": 3, "width": 8, "depth": 1, "shape": [1, 8, 8]}
    uf.save(Autoencoder(new_net(other, 1)).eval(), "other")
    assert "holds other data" in refused("encode --autoencoder other --out latents.npz", capsys)
    assert not Path("no.npz").exists()
