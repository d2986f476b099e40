"""Bad input: exit code 2, one sentence that says what to write instead, and nothing written."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import unflow as uf
from unflow.commands.cli import main
from unflow.commands.run_folders import run_folder
from unflow.data import load_data, split_data, write_split
from unflow.energies import CallableEnergy, ClassLogOdds
from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.streams import stream
from unflow.nets import MLP
from unflow.training.loop import CHECKPOINT

SMALL = """--net '{"net": "mlp", "width": 16, "depth": 1}' --settings.steps 2"""
MAKE = {
    "guide": f"digits-guide --split split.json {SMALL}",
    "judge": "digits-judge --split split.json --seed 1000 --settings.steps 2",
    "flow": f"digits-flow --split split.json {SMALL}",
    "map": f"digits-mean-flow --split split.json {SMALL}",
}


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder in ``folder``, with its bytes."""
    entries = sorted(folder.rglob("*"))
    return {str(e.relative_to(folder)): e.read_bytes() if e.is_file() else None for e in entries}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small bundles of every kind, made by the commands."""
    folder = tmp_path_factory.mktemp("made")
    data = load_data("digits")
    write_split(split_data(data, 0), data, folder / "split.json")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, words in MAKE.items():
            assert main(["train", *shlex.split(words), "--out", name]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of those bundles, as the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def refused(line: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command line that must be refused; return the sentence."""
    before = contents(Path.cwd())
    capsys.readouterr()
    code = main(shlex.split(line))
    explain = capsys.readouterr()
    assert code == 2, explain.err
    assert explain.out == ""
    sentence = explain.err.removesuffix("\n")
    assert "\n" not in sentence
    assert sentence.startswith("unflow")
    for word in words:
        assert word in sentence, sentence
    assert contents(Path.cwd()) == before
    return sentence


UNLEARN = "unlearn --model flow --energy classifier:guide --out out"
AUDIT = "audit flow --original flow --judge judge --forget 3 --split split.json --n 100 --out out"
AUTOENCODER = "train --kind autoencoder --net.net conv_autoencoder --method autoencoding"
EVERY = "0,1,2,3,4,5,6,7,8,9"

LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    # commands, recipes, methods, options: the nearest name
    "unknown command": ("dmo", ("'dmo'", "did you mean demo?")),
    "unlike any command": ("frobnicate", ("expected one of demo, split, encode, train",)),
    "unknown recipe": ("train digits-gide --out out", ("'digits-gide'", "did you mean digits-guide?")),
    "unlike any recipe": ("train zzz --out out", ("expected a YAML file or one of", "digits-flow")),
    "unknown method": (f"{UNLEARN} --forget 3 --method erm", ("'erm'", "did you mean erfm?")),
    "unknown trainer": ("train digits-flow --method mean_flw --out out", ("did you mean mean_flow?",)),
    "unknown flag": ("demo --forgt 3 --out out", ("forgt", "did you mean forget?")),
    "unknown setting": (f"{UNLEARN} --forget 3 --settings.stepss 3", ("did you mean settings.steps?",)),
    "setting at the top": (
        f"{UNLEARN} --forget 3 --method erfm --coupling exact_ot",
        ("settings.coupling?",),
    ),
    "option of no options": ("doctor --out out", ("out", "takes none")),
    "out forgotten": ("train digits-guide", ("required", "out")),
    # values of the wrong type or out of range
    "steps in words": (f"{UNLEARN} --forget 3 --settings.steps many", ("--settings.steps many", "int")),
    "seed of 1.5": ("train digits-guide --seed 1.5 --out out", ("--seed 1.5", "int")),
    "n in words": ("demo --n many --out out", ("--n many", "int")),
    "unknown divergence": ("demo --divergence tv --out out", ("'kl', 'softplus', 'chi2'",)),
    "unknown flow map": ("demo --flow_map mean --out out", ("'distill', 'mean_flow'",)),
    "no steps": ("train digits-guide --settings.steps 0 --out out", ("steps=0", "1 or more")),
    "negative rate": ("train digits-guide --settings.learning_rate -1 --out out", ("learning_rate=-1.0",)),
    **{
        f"{what}: {line.split()[0]}": (f"{line} {flags}", words)
        for line in (UNLEARN + " --forget 3", AUDIT, "demo --out out")
        for what, flags, words in (
            ("unknown class", "--forget 12", ("class 12", "from 0 to 9")),
            ("negative class", "--forget=-1", ("class -1", "from 0 to 9")),
            ("every class", f"--forget {EVERY}", ("all 10 classes", "name fewer")),
            ("a class twice", "--forget 3,3", ("[3, 3]", "none twice")),
            ("classes in words", "--forget abc", ("'abc'", "3 or 3,5")),
            ("negative seed", "--seed -1", ("seed=-1", ">= 0")),
        )
    },
    **{
        f"{what}: {line.split()[0]}": (f"{line} {flags}", words)
        for line in (UNLEARN + " --forget 3", AUDIT + " --energy classifier:guide", "demo --out out")
        for what, flags, words in (
            ("negative strength", "--strength -1", ("strength=-1.0", ">= 0")),
            ("negative margin", "--margin -2", ("margin=-2.0", ">= 0")),
        )
    },
    "negative seed: train": ("train digits-guide --seed -1 --out out", ("seed=-1", ">= 0")),
    "negative seed: sample": ("sample flow --seed -1 --out out", ("seed=-1", ">= 0")),
    "few samples: demo": ("demo --n 5 --out out", ("n=5", "100 or more")),
    "few samples: audit": (f"{AUDIT} --n 20", ("n=20", "100 or more")),
    "no samples": ("sample flow --n 0 --out out", ("n=0", "1 or more")),
    "no seeds": ("demo --seeds 0 --out out", ("seeds=0", "1 or more")),
    # data
    "unknown data": ("train digits-guide --data mnst --out out", ("'mnst'", "digits")),
    "no split": (f"{AUDIT} --split nowhere.json", ("nowhere.json is missing",)),
    "unknown part": ("train digits-guide --split split.json --part jduge --out out", ("'jduge'", "judge")),
    "batch larger than the data": (
        "train digits-guide --settings.batch_size 5000 --out out",
        ("batch_size=5000", "1797 labelled samples", "batch_size=1797 or less"),
    ),
    "batch larger than the forget data": (
        f"{UNLEARN} --forget 3 --method gradient_ascent --data digits --settings.batch_size 500",
        ("batch_size=500", "forget samples"),
    ),
    "batch larger than the bank": (f"{UNLEARN} --forget 3 --settings.batch_size 90000", ("bank_size",)),
    "devices that do not divide": (
        "train digits-guide --devices 3 --out out",
        ("3 devices", "batches of 128"),
    ),
    "no devices": ("train digits-guide --devices 0 --out out", ("0 devices",)),
    "unknown device": ("train digits-guide --device tpv --out out", ("'tpv'", "cpu")),
    "unknown device: demo": ("demo --device tpv --out out", ("'tpv'", "cpu")),
    # models and methods that do not fit
    "no bundle": ("sample nowhere --out out", ("nowhere is not a complete bundle", "model.safetensors")),
    "classifier as generator": ("sample guide --out out", ("guide holds a classifier", "generative")),
    "classifier to unlearn": (f"{UNLEARN} --forget 3 --model guide", ("holds a classifier",)),
    "classifier as teacher": ("train digits-flow-map --teacher guide --out out", ("holds a classifier",)),
    "flow map as teacher": ("train digits-flow-map --teacher map --out out", ("FlowMap", "expected a Flow")),
    "no teacher": ("train digits-flow-map --out out", ("needs a trained flow", "--teacher DIR")),
    "no critic": (f"{AUTOENCODER} --settings.perceptual 1 --out out", ("Autoencoding needs critic",)),
    "a critic that cannot be looked into": (
        f"{AUTOENCODER} --settings.perceptual 1 --critic guide --out out",
        ("got a MLP as critic", "net: resnet"),
    ),
    "generator as guide": (f"{UNLEARN} --forget 3 --energy classifier:flow", ("expected a classifier",)),
    "generator as judge": (f"{AUDIT} --judge flow", ("expected a classifier",)),
    "energy without its kind": (f"{UNLEARN} --forget 3 --energy guide", ("'guide'", "classifier:DIR")),
    "erfm on a flow map": (f"{UNLEARN} --forget 3 --model map --method erfm", ("flow_map", "expected flow")),
    "uot on a flow": (f"{UNLEARN} --forget 3 --method uot", ("family flow", "flow_map or generator")),
    "fine_tune without data": (
        f"{UNLEARN} --forget 3 --method fine_tune",
        ("reads real samples", "--data digits"),
    ),
    "retrained without data": (
        f"{UNLEARN} --forget 3 --method retrained",
        ("reads real samples", "--data digits"),
    ),
    **{
        f"{method} on a flow": (f"{UNLEARN} --forget 3 --method {method}", ("family flow", "flow_map or"))
        for method in ("relabel", "saliency", "selective_amnesia")
    },
    "weight_extrapolation without data": (
        f"{UNLEARN} --forget 3 --method weight_extrapolation",
        ("reads real samples", "--data digits"),
    ),
    "retrained map without data or teacher": (
        f"{UNLEARN} --forget 3 --model map --method retrained",
        ("reads real samples", "--data digits"),
    ),
    "a flow map as the teacher of one": (
        f"{UNLEARN} --forget 3 --model map --method retrained --teacher map",
        ("FlowMap", "expected a Flow"),
    ),
    "a steps setting where nothing is trained": (
        f"{UNLEARN} --forget 3 --method reject --settings.steps 3",
        ("settings.steps",),
    ),
    "a filter that lets nothing pass": (
        f"{UNLEARN} --forget 3 --method reject --strength 1000 --margin 100",
        ("rejected all of 16384", "lower the strength or the margin"),
    ),
    "devices where nothing is trained": (
        f"{UNLEARN} --forget 3 --method reject --devices 2",
        ("devices for Reject", "trains nothing"),
    ),
    "gradient_ascent without data": (f"{UNLEARN} --forget 3 --method gradient_ascent", ("--data digits",)),
    "plan after weighting": (
        f"{UNLEARN} --forget 3 --method erfm_resample --settings.weighting importance",
        ("resample",),
    ),
    "a flow by classification": ("train digits-guide --kind flow --out out", ("Classification", "kind flow")),
    "a classifier by flow matching": ("train digits-flow --kind classifier --out out", ("FlowMatching",)),
    "unknown network": ("""train digits-flow --net '{"net": "mpl"}' --out out""", ("'mpl'", "mlp")),
    "unknown option of a network": (
        """train digits-flow --net '{"net": "mlp", "widht": 8}' --out out""",
        ("mlp", "widht"),
    ),
    "nothing accepted": (
        f"{AUDIT} --energy classifier:guide --strength 1000 --margin 100",
        ("accepted none of 1000", "acceptance probability", "lower the strength or the margin"),
    ),
    "a bank of nothing": (
        f"{UNLEARN} --forget 3 --settings.bank_size 0",
        ("got 0 samples (bank_size); expected 1 or more",),
    ),
    "a family that does not fit, before data that are not there": (
        f"{UNLEARN} --forget 3 --model map --method ot_fm",
        ("does not train models of the family flow_map",),
    ),
    "unknown device: unlearn": (f"{UNLEARN} --forget 3 --device tpv", ("'tpv'", "cpu")),
    "unknown device: plan, before anything is loaded": (
        "plan --model nowhere --energy classifier:guide --forget 3 --device tpv",
        ("'tpv'", "cpu"),
    ),
    "a teacher that is not read": (
        f"{UNLEARN} --forget 3 --method erfm --teacher flow",
        ("--teacher for erfm", "leave --teacher out"),
    ),
    "no names of weights": (
        f"{UNLEARN} --forget 3 --train_only ''",
        ("no names of weights", "expected one or"),
    ),
    "a rank for a flow after the model": (
        f"{UNLEARN} --forget 3 --method erfm_resample --rank 2",
        ("write erfm_resample_prior or fine_tune",),
    ),
    # folders
    "a plan into a file's folder": (
        "plan --model flow --energy classifier:guide --forget 3 --out split.json/deep/plan.json",
        ("split.json is not a writable folder", "choose another --out"),
    ),
    "report without an audit": ("report flow", ("flow has no audit.json", "unflow audit")),
    "report of nothing": ("report nowhere", ("nowhere has no audit.json",)),
    "out of another command": ("sample flow --out guide", ("a run of `unflow train`", "another --out")),
    "out of another seed": (
        f"train digits-guide --split split.json {SMALL} --seed 1 --out guide",
        ("another configuration", "seed: 0 -> 1"),
    ),
    "out of other settings": (
        f"train digits-guide --split split.json {SMALL} --settings.steps 3 --out guide",
        ("(settings.steps: 2 -> 3)", "undo the change, or choose another --out"),
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_refused_command_says_what_to_write_and_writes_nothing(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, words = LINES[name]
    refused(line, capsys, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("forgett: 3\n", ("forgett", "did you mean forget?")),
        ("n: many\n", ("n many", "int")),
        ("forget: [3\n", ("mine.yaml is not valid YAML", "line 2")),
        ("- 3\n", ("mine.yaml", "options of the command")),
    ],
)
def test_a_bad_yaml_file_is_refused(
    text: str, words: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.yaml").write_text(text)
    refused("demo --config mine.yaml --out out", capsys, *words)


def test_an_unknown_key_of_a_recipe_is_refused_with_the_nearest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.yaml").write_text("kind: flow\nnet: {net: mlp}\nsettings: {stps: 3}\n")
    refused("train mine.yaml --out out", capsys, "stps", "did you mean settings.steps?")
    refused("train --config nowhere.yaml --out out", capsys, "nowhere.yaml")


def test_a_folder_that_is_no_run_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.tex").write_text("years of work")
    (here / "file").write_text("a file")
    for command in ("train digits-guide", "sample flow", "demo"):
        refused(f"{command} --out thesis", capsys, "thesis is not empty", "choose another --out")
        refused(f"{command} --out file", capsys, "file is a file")


def test_a_refusal_inside_a_run_leaves_the_run_as_it_was(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check comes after the folder was opened; the run's own files stay."""
    assert main(shlex.split("sample flow --n 2 --out drawn")) == 0
    refused("sample flow --n 3 --out drawn", capsys, "n: 2 -> 3")
    refused("train digits-guide --settings.batch_size 5000 --out deep/er/out", capsys, "batch_size=5000")


DIVERGING = "train digits-guide --split split.json --settings.learning_rate 1e30 --settings.steps"


def test_a_training_that_diverges_is_one_sentence_and_leaves_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    prepared = f"{UNLEARN} --forget 3 --settings.learning_rate 1e30 --settings.steps 4"
    for line in (f"{DIVERGING} 60 --out deep/er/out", f"{prepared} --logger csv"):
        capsys.readouterr()
        assert main(shlex.split(line)) == 1
        lines = capsys.readouterr().err.splitlines()
        (sentence,) = [said for said in lines if ": warning: " not in said]  # of a guide of two steps
        assert "write a smaller learning_rate (--settings.learning_rate in the shell)" in sentence
        assert contents(here) == before


def test_a_checkpoint_from_before_the_divergence_is_kept(tmp_path: Path) -> None:
    def diverge() -> None:
        with run_folder(tmp_path / "out", {"command": "train"}) as out:
            (out / CHECKPOINT).touch()
            raise TrainingDivergedError("nan")

    with pytest.raises(TrainingDivergedError, match=r"^nan; .*keeps a checkpoint.* choose another --out$"):
        diverge()
    assert set(contents(tmp_path / "out")) == {"config.yaml", CHECKPOINT}


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00")


def pickle(folder: Path) -> None:
    torch.save({"first.weight": torch.zeros(3)}, folder / "model.safetensors")


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config.get("net") or config["classifier"])["width"] = 24
    (folder / "config.json").write_text(json.dumps(config))


def unname(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config.get("net") or config["classifier"])["net"] = "transformer"
    (folder / "config.json").write_text(json.dumps(config))


def flip(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))


def unfinish(folder: Path) -> None:
    (folder / "config.json").unlink()


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def other_format(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 99}))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"format": 1, ')


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut, "truncated or damaged"),
    (cut_header, "truncated or damaged"),
    (pickle, "a pickle"),
    (widen, "another architecture"),
    (unname, "'transformer'"),
    (flip, "does not match the hash"),
    (unfinish, "not a complete bundle"),
    (lose_weights, "model.safetensors is missing"),
    (other_format, "format 99"),
    (no_json, "not valid JSON"),
]


@pytest.mark.parametrize(("damage", "word"), DAMAGE, ids=[d.__name__ for d, _ in DAMAGE])
def test_a_damaged_bundle_is_refused(
    damage: Callable[[Path], None], word: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("flow", "guide"):
        damage(here / name)
    refused("sample flow --out out", capsys, word, "flow")
    (here / "flow").rename(here / "broken")
    refused(f"{UNLEARN.replace('--model flow', '--model map')} --forget 3", capsys, word, "guide")


# The same in Python.


@pytest.fixture(scope="module")
def flow() -> uf.Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return uf.Flow(MLP((2,), 8, 1), (2,))


SMALL_ERFM = uf.methods.ERFM(steps=2, batch_size=16, bank_size=64, block_size=64, width=8, depth=1)

ENERGIES: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = [
    ("one per entry", lambda x: x.square(), r"shape \[64, 2\] for 64 samples.*expected \[64\]"),
    (
        "one for all",
        lambda x: x.square().mean(),
        r"returned the shape \[\] for 7 samples; expected \[7, \.\.\.\]",
    ),
    ("nan", lambda x: x[:, 0] * math.nan, "returned NaN or infinite numbers for 7 samples"),
    ("infinite", lambda x: torch.where(x[:, 0] > 0, math.inf, 0.0), "NaN or infinite"),
    ("constant", lambda x: torch.full((len(x),), 2.0), r"same number \(2\) for all 64"),
    ("under its bound", lambda x: x[:, 0] - 100, "under its stated lower bound"),
]


@pytest.mark.parametrize(("function", "words"), [e[1:] for e in ENERGIES], ids=[e[0] for e in ENERGIES])
def test_what_cannot_be_an_energy_is_refused(
    function: Callable[[torch.Tensor], torch.Tensor], words: str, flow: uf.Flow, tmp_path: Path
) -> None:
    target = uf.Target(flow, CallableEnergy(function, 0.0))
    with pytest.raises(InputError, match=words):
        uf.unlearn(target, SMALL_ERFM, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_raw_log_odds_are_refused_where_a_bounded_energy_is_needed(flow: uf.Flow) -> None:
    energy = ClassLogOdds(torch.nn.Linear(2, 3), [1], margin=None)
    with pytest.raises(InputError, match=r"without a lower bound.*give ClassLogOdds a margin"):
        uf.unlearn(uf.Target(flow, energy), SMALL_ERFM)
    with pytest.raises(InputError, match="a union of requests"):
        _ = energy | ClassLogOdds(torch.nn.Linear(2, 3), [2])


def test_rejection_that_accepts_nothing_says_the_rate_and_what_to_lower(flow: uf.Flow) -> None:
    target = uf.Target(flow, CallableEnergy(lambda x: 500 + x[:, 0].square(), 0.0), strength=3.0)
    with pytest.raises(InputError, match=r"none of 1000.*probability 0.*lower the strength or the margin"):
        target.sample(10, stream(0))


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_that_is_no_number_above_zero_is_refused(strength: float, flow: uf.Flow) -> None:
    with pytest.raises(InputError, match="strength="):
        uf.Target(flow, CallableEnergy(lambda x: x[:, 0].square(), 0.0), strength)


def test_another_guide_is_another_request(tmp_path: Path) -> None:
    """A result in the folder that came of other energy weights is refused, not returned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = uf.FlowMap(uf.nets.MLP((2,), 8, 1, num_times=2), (2,))
        guides = [torch.nn.Linear(2, 3) for _ in range(2)]
    method = uf.methods.UOT(steps=2, batch_size=8, bank_size=64, width=8)
    first, second = (uf.Target(model, uf.energies.ClassLogOdds(guide, 1)) for guide in guides)
    uf.unlearn(first, method, tmp_path)
    assert uf.unlearn(first, method, tmp_path).lineage["seconds"] > 0
    with pytest.raises(uf.InputError, match="holds another result"):
        uf.unlearn(second, method, tmp_path)
