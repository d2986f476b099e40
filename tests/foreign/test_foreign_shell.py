"""Every kind of specification on the command line: planned, unlearned, sampled, audited, exported."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import unflow as uf
from onnx_models import linear_onnx
from unflow.commands.cli import main
from unflow.data import image_files, load_data, split_data, write_split
from unflow.energies import ClassLogOdds, Energy, EstimatorLogOdds, LinearClassifier
from unflow.energies.anchoring import add_threshold, grow_request, make_anchor
from unflow.foreign import guide_behind, guide_of, list_energy_data, load_energy, load_model
from unflow.ground.errors import InputError
from unflow.models.autoencoder import Autoencoder, Encoding
from unflow.models.classifier import Classifier, Features
from unflow.nets import ReadsAs, new_net

PACKAGE = '''
"""Third-party code."""

import joblib
import torch
from torch import nn


class Decoder(nn.Module):
    """Images of 64 numbers in [0, 1] from 6 latents."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid())

    def forward(self, z):
        return self.layers(z)


class Velocity(nn.Module):
    """Of images [1, 8, 8], at one time or between two."""

    def __init__(self, times=1):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64 + times, 16), nn.SiLU(), nn.Linear(16, 64))

    def forward(self, x, *times):
        rows = torch.cat([x.flatten(1), *(t.reshape(len(x), 1) for t in times)], 1)
        return 0.3 * torch.tanh(self.layers(rows)).reshape(x.shape) - x


def judge():
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def trunk(width=5):
    return nn.Linear(64, width)


def dark(images):
    return 1 - images.mean((1, 2, 3)) / 255


def guide(path):
    return joblib.load(path)


class Pairs(Decoder):
    def forward(self, z):
        return self.layers(z), z


def refuses():
    raise RuntimeError("no such network")


def broken(images):
    return {}["a"]
'''

GAN = "generator:visitors.nets:Decoder@gan.pth,prior=normal:6,range=0:1,shape=1x8x8"
FLOW = "flow:visitors.nets:Velocity@flow.pth,shape=1x8x8,integrator=euler,steps=1"
FLOW_MAP = "flow_map:visitors.nets:Velocity@map.pth,shape=1x8x8,times=2"
JUDGE = "classifier:visitors.nets:judge@judge.safetensors,range=0:1,shape=64"
SCORE = "score:visitors.nets:dark,reads=uint8"
ONNX = "onnx:guide.onnx,range=-1:1,shape=64"
TREE = "estimator:visitors.nets:guide@tree.joblib,range=0:1"
LOGISTIC = "estimator:logistic.joblib,range=-1:1 --trust_code true"
IMAGES = "images:shots,extractor=visitors.nets:trunk,range=-1:1,shape=64,width=3,samples=400"
SMALL = "--settings.steps 2 --settings.bank_size 256 --settings.batch_size 32"


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: a third-party package, weights, guides, images and a split."""
    folder, before = tmp_path_factory.mktemp("visitors"), Path.cwd()
    (folder / "visitors").mkdir()
    (folder / "visitors" / "nets.py").write_text(PACKAGE)
    (folder / "visitors" / "__init__.py").touch()
    path = [*sys.path]
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    write_files()
    sys.path[:] = path  # unflow must find modules of the working directory by itself
    yield folder
    os.chdir(before)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("visitors")]:
        del sys.modules[name]


def write_files() -> None:
    from safetensors.torch import save_file
    from visitors.nets import Decoder, Velocity, judge  # type: ignore[import-not-found]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        gan = {name: 4 * weight for name, weight in Decoder().state_dict().items()}  # of many images
        torch.save({"generator": gan}, "gan.pth")
        torch.save({"state_dict": Velocity().state_dict()}, "flow.pth")
        torch.save(Velocity(2).state_dict(), "map.pth")
        save_file(judge().state_dict(), "judge.safetensors")
    rng = np.random.default_rng(0)
    onnx.save(linear_onnx(rng.normal(size=(64, 10)).astype("float32")), "guide.onnx")
    data = load_data("digits")
    write_split(split_data(data, 0), data, Path("split.json"))
    rows, labels = data.x.flatten(1).numpy(), data.labels.numpy()
    joblib.dump(LogisticRegression(C=1e-3).fit(rows, labels), "logistic.joblib")
    joblib.dump(DecisionTreeClassifier(max_depth=4).fit((rows + 1) / 2, labels), "tree.joblib")
    Path("cut.joblib").write_bytes(Path("tree.joblib").read_bytes()[:100])
    Path("visitors/syntax.py").write_text("def f(:")
    Path("visitors/fails.py").write_text("1 / 0")
    torch.save(Decoder(), "whole.pth")
    Path("half").mkdir()
    Path("half/model_index.json").touch()
    Path("shots").mkdir()
    for k, pixels in enumerate(rng.integers(0, 256, (3, 8, 8), dtype="uint8")):
        Image.fromarray(pixels).save(f"shots/{k}.png")


def done(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must succeed; return what it printed."""
    code = main(shlex.split(line))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; return the sentence. Nothing is written."""
    before = {str(path) for path in Path.cwd().rglob("*") if "__pycache__" not in path.parts}
    code = main(shlex.split(line))
    printed = capsys.readouterr().err
    assert code == 2, printed
    assert printed.count("\n") == 1
    assert {str(path) for path in Path.cwd().rglob("*") if "__pycache__" not in path.parts} == before
    return printed


# Energies


@pytest.mark.parametrize(
    ("name", "energy", "words"),
    [
        ("onnx", ONNX, "class 3"),
        ("score", SCORE, "score visitors.nets:dark"),
        ("tree", TREE, "class 3 by a DecisionTreeClassifier"),
        ("logistic", LOGISTIC, "class 3"),
        ("images", IMAGES, "what is near a few images"),
    ],
)
def test_every_kind_of_energy_is_forgotten_and_audited(
    name: str, energy: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = "" if name in ("score", "images") else "--forget 3"
    done(
        f"unlearn --model {GAN} --energy {energy} {classes} --method latent_transport {SMALL} --out {name}",
        capsys,
    )
    lineage = json.loads(Path(name, "lineage.json").read_text())
    assert lineage["request"]["words"].startswith(words)
    done(
        f"audit {name} --original {GAN} --judge {JUDGE} --forget 3 --energy {energy} --split split.json "
        f"--n 100 --attack false --out {name}-audited",
        capsys,
    )
    rows = json.loads(Path(f"{name}-audited", "audit.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "latent_transport", "target"]


def of(text: str, forget: tuple[int, ...] | None = (3,), trust_code: bool = False) -> Energy:
    return load_energy(text, forget, 1.0, load_model(GAN), trust_code)


def test_an_estimator_is_its_log_odds_and_a_linear_one_has_a_gradient() -> None:
    x = load_model(GAN).sample(20, uf.stream(0))
    tree, linear = joblib.load("tree.joblib"), joblib.load("logistic.joblib")
    found = of(TREE)
    assert torch.equal(found(x), EstimatorLogOdds(tree, 3, 1.0, features=ReadsAs(nn.Flatten(), (0, 1)))(x))
    assert not found.differentiable
    found = of("estimator:logistic.joblib,range=-1:1", trust_code=True)
    assert torch.equal(found(x), ClassLogOdds(LinearClassifier(linear), 3, 1.0)(x))
    assert found.differentiable
    found = of("estimator:logistic.joblib,range=-1:1,output=decision_function", trust_code=True)
    assert torch.allclose(found(x), ClassLogOdds(LinearClassifier(linear), 3, 1.0)(x), atol=1e-4)
    assert not found.differentiable


def test_images_become_the_energy_that_is_grown_from_them() -> None:
    model = load_model(GAN)
    shots, drawn = image_files("shots", (1, 8, 8)), model.sample(400, uf.stream(0, 71))
    x, flat = model.sample(20, uf.stream(1)), nn.Flatten()
    found = of("images:shots,extractor=flatten,samples=400,share=0.2,rank=4", None)
    same = grow_request(flat, shots, drawn, uf.stream(0, 72), share=0.2, rank=4, margin=1.0)
    assert torch.equal(found(x), same(x))
    found = of("images:shots,extractor=flatten,samples=400,way=thresholded,kernel=rbf", None)
    assert torch.equal(found(x), add_threshold(make_anchor(flat, shots, drawn, "rbf"), drawn, 1.0)(x))


def test_images_lead_to_the_half_of_a_model_that_they_are_of() -> None:
    """A model of two kinds of images, nearly black and nearly white ones; two black ones are named."""

    class Halves(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return (0.8 * z[:, :1].sign() + 0.1 * torch.tanh(z)).reshape(-1, 1, 8, 8)

    model = uf.Generator(Halves(), (64,))
    Path("black").mkdir()
    for k in range(2):
        Image.fromarray(np.full((8, 8), 25 + k, "uint8")).save(f"black/{k}.png")
    line = "images:black,extractor=flatten,samples=600,share=0.4"
    F = load_energy(line, None, 2.0, model)
    x = model.sample(200, uf.stream(5))
    black = x.mean((1, 2, 3)) < 0
    kept = uf.Target(model, F).acceptance(F(x))
    assert float(kept[black].mean()) < 0.02
    assert float(kept[~black].mean()) > 0.98


def test_an_extractor_may_be_a_bundle_whose_classifier_is_then_known_as_the_guide() -> None:
    net = {"net": "mlp", "shape": [1, 8, 8], "width": 8, "depth": 1, "num_times": 0, "outputs": 10}
    guide = Classifier(new_net(net, 0), [str(k) for k in range(10)]).eval()
    coder = {"net": "conv_autoencoder", "latent": 3, "width": 8, "depth": 1, "shape": [1, 8, 8]}
    room = Autoencoder(new_net(coder, 0)).eval()
    uf.save(guide, "guide")
    uf.save(room, "room")
    x = load_model(GAN).sample(4, uf.stream(0))
    shots, drawn = image_files("shots", (1, 8, 8)), load_model(GAN).sample(400, uf.stream(0, 71))
    for name, phi in (("guide", Features(guide)), ("room", Encoding(room))):
        line = f"images:shots,extractor={name},samples=400,way=thresholded"
        found = of(line, None)
        assert torch.equal(found(x), add_threshold(make_anchor(phi, shots, drawn), drawn, 1.0)(x))
        assert (guide_behind(found) is not None) == (name == "guide")
    assert guide_of("images:shots,extractor=guide") == "guide"
    assert guide_of("images:shots,extractor=flatten") is None
    assert "guide: its features" in list_energy_data("images:shots,extractor=guide")
    assert list_energy_data("images:shots,extractor=flatten") == ("images of what to forget",)
    assert torch.equal(Encoding(room)(x), room.encode(x))


def test_images_in_files_are_the_models_samples(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype="uint8").reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    x = image_files(tmp_path / "grey.png", (1, 8, 8))
    assert torch.equal(x[0, 0], torch.from_numpy(pixels / 127.5 - 1).float())
    assert torch.equal(image_files(tmp_path, (3, 8, 8)), x.expand(-1, 3, -1, -1))
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "grey.png")
    assert torch.equal(image_files(tmp_path, (1, 8, 8)), x)
    assert image_files(tmp_path, (3, 4, 4)).shape == (1, 3, 4, 4)
    Image.fromarray(np.stack([pixels, pixels, 0 * pixels], -1)).save(tmp_path / "red.png")
    with pytest.raises(InputError, match="in colour"):
        image_files(tmp_path, (1, 8, 8))
    for shape in ((2,), (1, 8, 4), (2, 8, 8)):
        with pytest.raises(InputError, match="expected square images"):
            image_files(tmp_path, shape)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt; expected images"):
        image_files(tmp_path, (1, 8, 8))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="which is empty"):
        image_files(tmp_path / "none", (1, 8, 8))


# Models


@pytest.mark.parametrize(
    ("name", "model", "method", "weights"),
    [("flow", FLOW, "erfm_resample_prior", "flow.pth"), ("map", FLOW_MAP, "latent_transport", "map.pth")],
)
def test_every_kind_of_model_is_planned_unlearned_sampled_and_given_back(
    name: str, model: str, method: str, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = f"--model {model} --energy {SCORE}"
    printed = done(f"plan {request} --methods {method},reject --out {name}-plan.json", capsys)
    assert "rejection keeps" in printed
    done(f"unlearn {request} --method {method} {SMALL} --out {name}-after", capsys)
    done(f"sample {name}-after --n 3 --seed 1 --out {name}-drawn", capsys)
    done(f"export {name}-after --like {weights} --out {name}-after.pth", capsys)
    z = uf.load(f"{name}-after").prior(3, uf.stream(1, 99))
    with np.load(Path(f"{name}-drawn", "samples.npz"), allow_pickle=False) as file:
        drawn = torch.from_numpy(file["x"])
    given_back = load_model(model.replace(weights, f"{name}-after.pth"))
    assert torch.allclose(given_back.push_batches(z), drawn, atol=1e-6)
    assert not torch.allclose(load_model(model).push_batches(z), drawn, atol=1e-4)


def test_a_folder_of_diffusers_is_planned_unlearned_sampled_and_given_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            add_attention=False,
            block_out_channels=(4, 4),
            layers_per_block=1,
            norm_num_groups=2,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained("pipeline")
    request = f"--model diffusers:pipeline,integrator=euler,steps=1 --energy {SCORE}"
    done(f"plan {request} --methods reject", capsys)
    small = "--settings.steps 1 --settings.bank_size 16 --settings.batch_size 8 --settings.block_size 16"
    done(f"unlearn {request} --method erfm_resample_prior {small} --out unet-after", capsys)
    done("sample unet-after --n 2 --out unet-drawn", capsys)
    weights = "pipeline/unet/diffusion_pytorch_model.safetensors"
    done(f"export unet-after --like {weights} --out unet-after.safetensors", capsys)
    from safetensors.torch import load_file

    before, after = load_file(weights), load_file("unet-after.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


# Wrong specifications


UNLEARN = f"unlearn --method latent_transport {SMALL} --out out"
WRONG: dict[str, tuple[str, str]] = {
    "a kind that does not exist": (
        f"--model {GAN} --forget 3".replace("generator", "generater"),
        "did you mean gen",
    ),
    "an energy of no kind": (f"--model {GAN} --energy onx:guide.onnx --forget 3", "did you mean onnx:...?"),
    "an option misspelt": (f"--model {GAN.replace(',range=', ',rnage=')}", "'rnage'; did you mean range=?"),
    "an option of no score": (
        f"--model {GAN} --energy {SCORE.replace('reads', 'read')}",
        "got read= for score",
    ),
    "words for a number": (f"--model {GAN} --energy {SCORE},batch_size=many", "expected a whole number"),
    "a value that is no YAML": (f"--model {GAN},width=[3", "got width=[3"),
    "a module of no grammar": (f"--model {GAN.replace('nets', 'syntax')}", "(SyntaxError: "),
    "a module that fails": (f"--model {GAN.replace('nets', 'fails')}", "(ZeroDivisionError: "),
    "a function that fails": (
        f"--model {GAN.replace('Decoder', 'refuses')}",
        "(RuntimeError: no such network)",
    ),
    "a network of tuples": (
        f"--model {GAN.replace('Decoder', 'Pairs')}",
        "returned a tuple; expected a tensor",
    ),
    "a network that asserts": (
        f"--model {GAN.replace('normal:6', 'normal:3')}",
        "does not run on latents of shape [3]",
    ),
    "a range that nothing fills": (
        f"--model {GAN.replace('0:1', '0:255')}",
        "in the range 0:255; expected images that cover it",
    ),
    "a pickled network": (f"--model {GAN.replace('gan', 'whole')}", "(a visitors.nets.Decoder is in it)"),
    "weights as a model": ("--model gan.pth", "generator:PACKAGE.MODULE:FUNCTION@gan.pth"),
    "diffusers without its kind": ("--model half", "write diffusers:half"),
    "no label": (f"--model {FLOW},label=three", "got label=three; expected label=3"),
    "no number of labels": (f"--model {FLOW},label=random:0", "expected label=3, or label=random:10"),
    "no energy": (f"--model {GAN} --forget 3", "write --energy classifier:DIR"),
    "a classifier and no classes": (f"--model {GAN} --energy {JUDGE}", "write --forget 3, or --forget 3,5"),
    "an estimator and no classes": (f"--model {GAN} --energy {TREE}", "got no classes to forget"),
    "a score that fails": (f"--model {GAN} --energy score:visitors.nets:broken", "(KeyError: 'a')"),
    "an estimator's file without consent": (
        f"--model {GAN} --energy estimator:tree.joblib --forget 3",
        "--trust_code true",
    ),
    "a damaged estimator": (
        f"--model {GAN} --energy estimator:cut.joblib --forget 3 --trust_code true",
        "cannot be read",
    ),
    "an estimator of no file": (f"--model {GAN} --energy estimator:tree.onnx --forget 3", ".joblib, .pkl"),
    "an estimator's unknown class": (f"--model {GAN} --energy {TREE} --forget 10", "from 0 to 9"),
    "an option of no estimator": (
        f"--model {GAN} --energy {TREE},outputs=x --forget 3",
        "did you mean output=?",
    ),
    "images and nothing that tells them apart": (
        f"--model {GAN} --energy images:shots",
        "expected extractor=",
    ),
    "images of no extractor": (
        f"--model {GAN} --energy images:shots,extractor=flaten",
        "imagenet or flatten",
    ),
    "weights behind a score": (
        f"--model {GAN} --energy score:visitors.nets:dark@w.pth",
        "got @w.pth for score:visitors.nets:dark, which takes no weights",
    ),
    "weights behind images": (
        f"--model {GAN} --energy images:shots@w.pth,extractor=flatten",
        "got @w.pth after",
    ),
    "an option given twice": (f"--model {GAN},prior=normal:7 --energy {ONNX} --forget 3", "got prior= twice"),
    "a range that flows do not have": (
        f"--model flow:visitors.nets:Velocity,shape=1x8x8,range=0:1 --energy {ONNX} --forget 3",
        "got range= for the flow visitors.nets:Velocity",
    ),
    **{
        f"a model of a range and {name} of none": (
            f"--model {GAN} --energy {energy}",
            "write range=0:1, or range=-1:1",
        )
        for name, energy in {
            "a classifier": "classifier:visitors.nets:judge,shape=64 --forget 3",
            "an ONNX file": "onnx:guide.onnx,shape=64 --forget 3",
            "an estimator": "estimator:logistic.joblib --trust_code true --forget 3",
            "an extractor": "images:shots,extractor=visitors.nets:trunk,shape=64",
        }.items()
    },
    "images of an option of another way": (
        f"--model {GAN} --energy images:shots,extractor=flatten,kernel=rbf",
        "got kernel= for way=grown; expected it for thresholded: write way=thresholded",
    ),
    "images that an extractor does not read": (
        f"--model {GAN} --energy images:shots,extractor=visitors.nets:trunk,range=-1:1",
        "does not run on images",
    ),
    "images that are nowhere": (f"--model {GAN} --energy images:nowhere,extractor=flatten", "got no nowhere"),
    "images another way": (
        f"--model {GAN} --energy images:shots,extractor=flatten,way=x",
        "grown or thresholded",
    ),
    "weights of no name": (f"--model {GAN} --energy {SCORE} --train_only head", "which matches none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_specification_is_refused_in_one_sentence_and_nothing_is_written(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, sentence = WRONG[name]
    assert sentence in refused(f"{UNLEARN} {words}", capsys)


def test_an_audit_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    audit = f"audit {GAN} --original {GAN} --judge {JUDGE} --n 100 --out out"
    assert "the judge needs classes" in refused(f"{audit} --split split.json", capsys)
    assert "write --split split.json" in refused(f"{audit} --forget 3", capsys)


def test_real_samples_need_classes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"--model {FLOW} --energy {SCORE} --data digits"
    assert "--data needs classes" in refused(f"plan {asked} --methods fine_tune", capsys)
    unlearn = f"unlearn {asked} --method fine_tune --settings.steps 1 --out out"
    assert "fine_tune needs classes" in refused(unlearn, capsys)
