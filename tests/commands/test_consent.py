"""No file runs third-party code without consent: a planted builder is tried in every path."""

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from unflow.commands.cli import main
from unflow.data import load_data
from unflow.disk import bundle
from unflow.energies import ClassLogOdds
from unflow.evidence.reproduce import demo
from unflow.evidence.reproduce.demo import Demo
from unflow.evidence.reproduce.recipes import PLANAR
from unflow.evidence.reproduce.study import Study
from unflow.ground.errors import InputError
from unflow.models import Flow, Generator
from unflow.models.autoencoder import Autoencoder
from unflow.models.classifier import Classifier
from unflow.nets import MLP, ConvAutoencoder
from unflow.target import Target
from unflow.training.originals.classification import Classification
from unflow.unlearning.unlearn import unlearn

GUIDE = {"net": "mlp", "width": 4, "depth": 1, "num_times": 0}
SHELL = "--settings.steps 2 --settings.batch_size 8"


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the planted builder makes; nothing else makes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "third.py").write_text("open('planted', 'w').close()\n")
    return tmp_path / "planted"


def awake(net: nn.Module) -> nn.Module:
    """A network whose last layer is not zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        weight.data.normal_(generator=generator)
    return net


@pytest.fixture
def models(planted: Path) -> None:
    """Complete bundles of each kind."""
    bundle.save(Flow(awake(MLP([1, 8, 8], 4, 1)), [1, 8, 8]), "flow", {"method": "flow_matching"})
    bundle.save(Classifier(awake(MLP([1, 8, 8], 4, 1, 0, 10)), list("0123456789")), "guide")
    bundle.save(Autoencoder(ConvAutoencoder([1, 8, 8], latent=4, width=8, depth=1)), "autoencoder")
    main(["split", "--out", "split.json"])


def touch(planted: Path) -> dict[str, object]:
    """A description of a "network" whose builder makes the planted file."""
    return {"builder": "subprocess:run", "options": {"args": ["touch", str(planted)]}}


def plant(folder: str | Path, planted: Path) -> None:
    """Replace every network in a bundle's config.json by the planted builder; all other files stay."""
    file = Path(folder) / "config.json"

    def replace(value: object) -> object:
        if isinstance(value, dict) and "net" in value and isinstance(value["net"], str):
            return touch(planted)
        return {key: replace(each) for key, each in value.items()} if isinstance(value, dict) else value

    config = replace(json.loads(file.read_text()))
    assert "subprocess:run" in json.dumps(config)
    file.write_text(json.dumps(config))


def refuses(command: str, planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(command.split()) == 2, command
    error = capsys.readouterr().err
    assert not planted.exists(), f"{command} ran code: {error}"
    assert "consent" in error or "class_path" in error, error


def test_the_planted_builder_runs_with_consent_so_that_these_tests_can_fail(
    planted: Path, models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("flow", planted)
    assert main(["sample", "flow", "--out", "drawn", "--n", "2", "--trust_code", "true"]) == 2
    assert planted.exists()


BUNDLES = {
    "flow": [
        "sample flow --out drawn",
        "export flow --out drawn.pth",
        "plan --model flow --energy classifier:guide --forget 3",
        "unlearn --model flow --energy classifier:guide --forget 3 --out drawn",
        "audit flow --original flow --judge guide --forget 3 --split split.json --out drawn",
        f"train digits-flow-map --teacher flow --out drawn {SHELL}",
    ],
    "guide": [
        "plan --model flow --energy classifier:guide --forget 3",
        "unlearn --model flow --energy classifier:guide --forget 3 --out drawn",
        "unlearn --model flow --energy images:pictures,extractor=guide --out drawn",
        "audit flow --original flow --judge guide --forget 3 --split split.json --out drawn",
        "judge --guide guide --split split.json --out drawn",
        "train critic.yaml --critic guide --out drawn",
    ],
    "autoencoder": [
        "sample flow --autoencoder autoencoder --out drawn",
        "encode --autoencoder autoencoder --data digits --out drawn.npz",
        "unlearn --model flow --autoencoder autoencoder --energy classifier:guide --forget 3 --out drawn",
    ],
}


@pytest.mark.parametrize(
    ("folder", "command"), [(folder, each) for folder, commands in BUNDLES.items() for each in commands]
)
def test_a_bundle_runs_no_code_without_consent(
    folder: str, command: str, planted: Path, models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Path("pictures").mkdir()
    Image.new("L", (8, 8), 200).save("pictures/a.png")
    recipe = {"kind": "autoencoder", "method": "autoencoding", "net": {"net": "conv_autoencoder"}}
    Path("critic.yaml").write_text(yaml.safe_dump(recipe))
    plant(folder, planted)
    refuses(command, planted, capsys)
    assert not Path("drawn").exists()


RESULTS = {
    "unlearn": (
        "unlearn --model flow --energy classifier:guide --forget 3 --out done --method fine_tune "
        "--settings.steps 2 --data digits",
        "done",
    ),
    "reject": (
        "unlearn --model flow --energy classifier:guide --forget 3 --out done --method reject",
        "done",
    ),
    "train": (f"train digits-flow --out done {SHELL}", "done"),
    "judge": ("judge --split split.json --steps 2 --out done", "done/second"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_finished_result_runs_no_code_when_the_command_is_repeated(
    name: str, planted: Path, models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = RESULTS[name]
    assert main(command.split()) == 0, capsys.readouterr().err
    plant(folder, planted)
    refuses(command, planted, capsys)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_demo_loads_no_planted_result(
    planted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GUIDE", "JUDGE"):
        monkeypatch.setattr(demo, name, Classification(steps=2))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Demo, "train_base", interrupt)
        assert main(["demo", "--out", "done"]) == 130
    plant("done/guide", planted)
    refuses("demo --out done", planted, capsys)


def test_a_reproduction_loads_no_planted_result(planted: Path) -> None:
    digits = load_data("digits")
    small = Classification(steps=2, batch_size=8, deform=False)

    def study() -> Study:
        recipe = dataclasses.replace(PLANAR, guide=small, guide_net=GUIDE)
        return Study(recipe, {"train": digits, "judge": digits, "held_out": digits}, 0, Path("done"))

    assert study().guide.num_classes == 10
    plant("done/guide", planted)
    with pytest.raises(InputError, match="consent"):
        _ = study().guide
    assert not planted.exists()


def test_the_functions_of_python_load_no_planted_result(planted: Path, models: None) -> None:
    target = Target(bundle.load("flow"), ClassLogOdds(bundle.load_classifier("guide"), (3,), 1.0), 1.0)
    again: Callable[[], object] = lambda: unlearn(target, "reject", "done")  # noqa: E731
    again()
    plant("done", planted)
    with pytest.raises(InputError, match="consent"):
        again()
    plant("flow", planted)
    with pytest.raises(InputError, match="consent"):
        bundle.write_card("flow", {})  # type: ignore[arg-type]
    assert not planted.exists()


def test_a_result_may_build_the_networks_of_the_model_in_hand(
    planted: Path, monkeypatch: pytest.MonkeyPatch, models: None
) -> None:
    Path("mine.py").write_text(
        "from unflow.nets import MLP\n\ndef build(width=4):\n    return MLP([2], width, 1, 0)\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    net = awake(importlib.import_module("mine").build())
    vars(net)["config"] = {"builder": "mine:build", "options": {"width": 4}}
    guide = Classifier(awake(MLP([2], 4, 1, 0, 2)), ["a", "b"])
    target = Target(Generator(net, [2]), ClassLogOdds(guide, (1,), 1.0), 1.0)
    for _ in range(2):
        unlearn(target, "reject", "done")
    config = json.loads(Path("done/config.json").read_text())
    config["inner"]["net"]["options"] = {"width": 5}
    Path("done/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="consent"):  # another call of the same function is other code
        unlearn(target, "reject", "done")


@pytest.mark.parametrize(
    ("content", "command"),
    [
        ({"kind": "flow", "net": "TOUCH"}, f"train FILE --out done {SHELL}"),
        ({"kind": "flow", "net": "TOUCH", "trust_code": True}, f"train FILE --out done {SHELL}"),
        ({"kind": "flow", "net": {"net": "reads_as", "of": "TOUCH"}}, f"train FILE --out done {SHELL}"),
        ({"kind": "flow", "net": "TOUCH"}, f"train --config FILE --out done {SHELL}"),
        ({"model": "generator:third:build,prior=normal:2"}, "sample --config FILE --out done"),
        ({"model": "flow:third:build,shape=2"}, "export --config FILE --out done.pth"),
        ({"model": "planted-flow", "trust_code": True}, "sample --config FILE --out done"),
        ({"model": "planted-flow", "trust_code": True}, "sample --trust_code false --config FILE --out done"),
        (
            {"model": "flow", "energy": "score:third:build", "out": "done"},
            "unlearn --config FILE --method erfm_resample_prior",
        ),
        (
            {"model": "flow", "energy": "estimator:third:build", "trust_code": True, "forget": "3"},
            "plan --config FILE",
        ),
        ({"model": "flow", "energy": "classifier:third:build", "forget": "3"}, "plan --config FILE"),
        (
            {"judge": "classifier:third:build", "original": "flow", "forget": "3"},
            "audit flow --split split.json --out done --config FILE",
        ),
        ({"attacks": {"class_path": "third.Attacks"}}, "reproduce uot-2d --out done --config FILE"),
        (
            {"attacks": {"relearning": {"class_path": "third.Attacks"}}},
            "reproduce uot-2d --out done --config FILE",
        ),
        ({"attacks": '{"class_path": "third.Attacks"}'}, "reproduce uot-2d --out done --config FILE"),
        ({"class_path": "third.Attacks"}, "reproduce uot-2d --out done --attacks FILE"),
    ],
)
def test_a_file_of_options_runs_no_code_without_consent(
    content: dict[str, object],
    command: str,
    planted: Path,
    models: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    bundle.save(bundle.load("flow"), "planted-flow")
    plant("planted-flow", planted)
    text = yaml.safe_dump(content).replace("TOUCH", "&a " + json.dumps(touch(planted)), 1)
    Path("options.yaml").write_text(text)
    refuses(command.replace("FILE", "options.yaml"), planted, capsys)
    assert not Path("done").exists()


def test_a_word_on_the_command_line_is_consent_for_its_function_alone(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text("from torch import nn\n\ndef build():\n    return nn.Tanh()\n")
    words = "prior=normal:1x8x8"
    assert main(["sample", f"generator:own:build,{words}", "--out", "drawn", "--n", "2"]) == 0
    Path("options.yaml").write_text(f"model: generator:third:build,{words}\n")
    refuses("sample --config options.yaml --out own:build", planted, capsys)
    Path("options.yaml").write_text(f"model: generator:third:build,{words}\n")
    words = "sample --config options.yaml --out second --n 2 --trust_code true"
    main(words.split())
    assert planted.exists()


def test_a_recipe_trains_a_third_party_network_with_consent(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("owned.py").write_text(
        "from unflow.nets import MLP\n\ndef build():\n    return MLP([1, 8, 8], 4, 1)\n"
    )
    recipe = {"kind": "flow", "net": {"builder": "owned:build", "options": {}}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = f"train recipe.yaml --out done {SHELL}"
    refuses(command, planted, capsys)
    for _ in range(2):
        assert main([*command.split(), "--trust_code", "true"]) == 0, capsys.readouterr().err
