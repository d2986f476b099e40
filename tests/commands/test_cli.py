"""The command line: fast help, the whole chain of commands, recipes, and a kill -9 in the middle."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import unflow
from unflow.commands.arguments import find_recipe
from unflow.commands.cli import COMMANDS, format_usage, main
from unflow.commands.train import add_arguments, name_network
from unflow.data import DATASETS, PARTS, load_data, split_data, write_split
from unflow.disk import bundle
from unflow.evidence.auditing.gates import NUMBERS
from unflow.evidence.row import numbers_in
from unflow.ground.files import read_json, read_json_lines
from unflow.models import Flow
from unflow.models.autoencoder import Autoencoder
from unflow.nets import new_net
from unflow.training.originals import TRAINERS
from unflow.training.originals.base_models import KINDS, new_model

SMALL_NET = """--net '{"net": "mlp", "width": 16, "depth": 1}'"""
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


def unflow_process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unflow", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=ENVIRONMENT,
        cwd=cwd,
    )


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--net", "mlp", "--out", "a b"], ["--net.net", "mlp", "--out", "a b"]),
        (["--net=unet"], ["--net.net=unet"]),
        (["--net", "{net: mlp}"], ["--net", "{net: mlp}"]),
        (["--net.net", "mlp"], ["--net.net", "mlp"]),
        (["--net"], ["--net"]),
    ],
)
def test_a_network_may_be_named_without_its_description(given: list[str], read: list[str]) -> None:
    assert name_network(given) == read


# Help.


def test_help_names_every_command_and_imports_no_torch(tmp_path: Path) -> None:
    """Start-up is what a user waits for at every typing error."""
    script = (
        "import sys\nfrom unflow.commands.cli import main\n"
        "main(['--help'])\nmain(['--version'])\nmain(['dmo'])\n"
        "heavy = {'torch', 'numpy', 'jsonargparse', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{format_usage()}\nunflow {unflow.__version__}\n"
    assert "did you mean demo?" in done.stderr
    for name, what in COMMANDS.items():
        assert name in done.stdout
        assert what in done.stdout


@pytest.mark.parametrize(
    ("module", "heavy"), [("unflow.commands", "torch"), ("unflow.methods", "torch._dynamo")]
)
def test_what_every_command_imports_leaves_out_what_takes_seconds(module: str, heavy: str) -> None:
    code = f"import sys, {module}; assert {heavy!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out == format_usage() + "\n"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unflow {version('unflow')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert COMMANDS[name].split()[0] in text
    assert (name == "doctor") != ("--out" in text)


def test_doctor_prints_versions_threads_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("python", "torch threads", torch.__version__, "cuda", "OMP_WAIT_POLICY", "extra [dev]"):
        assert word in text


# Recipes.


RECIPES = sorted(
    entry.name.removesuffix(".yaml")
    for entry in files("unflow.commands.recipes").iterdir()
    if entry.name.endswith(".yaml") and "kind" in yaml.safe_load(entry.read_text())
)
"""Those of `unflow train`; a recipe of `unflow unlearn` has no kind of model."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_names_what_exists(name: str) -> None:
    recipe = yaml.safe_load(Path(find_recipe(name)).read_text())
    assert recipe["kind"] in KINDS
    assert recipe["method"] in TRAINERS
    assert recipe["data"] in DATASETS
    assert recipe.get("part", "train") in PARTS
    data = load_data(recipe["data"])
    model = new_model(recipe["kind"], recipe["net"], data, seed=0)
    shape = (2, 10) if recipe["kind"] == "classifier" else data.x[:2].shape
    x = data.x.new_zeros(2, *model.prior_shape) if recipe["kind"] == "generator" else data.x[:2]
    assert model(x).shape == shape


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_a_whole_command(name: str) -> None:
    """Only --out is left to say, and every hyper-parameter in it reaches the method."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    rest = add_arguments(parser, [name, "--out", "somewhere"])
    values = parser.instantiate(parser.parse_args(rest))
    recipe = yaml.safe_load(Path(find_recipe(name)).read_text())
    values.settings = values.settings.make()
    assert type(values.settings) is type(TRAINERS[recipe["method"]])
    for key, value in recipe.get("settings", {}).items():
        assert getattr(values.settings, key) == value


# The chain of commands.


CHAIN = (
    "train digits-guide --split split.json --settings.steps 40 --out guide",
    "train digits-judge --split split.json --settings.steps 40 --seed 1000 --out judge",
    "train digits-judge --split split.json --settings.steps 40 --seed 2000 --out second",
    f"train digits-flow --split split.json {SMALL_NET} --settings.steps 40 --out flow",
    f"train digits-flow-map --split split.json {SMALL_NET} --teacher flow --settings.steps 20 "
    "--settings.bank_size 256 --out map",
    f"train digits-mean-flow --split split.json {SMALL_NET} --settings.steps 4 --out mean-flow",
    "unlearn --model flow --energy classifier:guide --forget 3 --method erfm_resample --settings.steps 10 "
    "--settings.bank_size 1024 --settings.width 16 --out flow-without-3",
    "unlearn --model map --energy classifier:guide --forget 3,5 --method uot_tilted --settings.steps 5 "
    "--settings.bank_size 512 --margin 2 --strength 0.5 --divergence softplus --out map-without-3-5",
    "unlearn --model flow --energy classifier:guide --forget 3 --method fine_tune --data digits "
    "--split split.json --settings.steps 5 --out flow-tuned",
    "unlearn --model flow --energy classifier:guide --forget 3 --method retrained --data digits "
    "--split split.json --settings.steps 20 --out flow-retrained",
    "sample flow-without-3 --n 10 --seed 4 --out drawn",
    "audit flow-without-3 --original flow --judge judge --forget 3 --split split.json --n 150 "
    "--energy classifier:guide --retrained flow-retrained --second-judge second --out audited "
    "--fail-if forget_rate>1 --attacks.relearning.steps 3 --attacks.search.starts 10 "
    "--attacks.search.steps 2 --attacks.samples 100 --attacks.images [1,2] --attacks.rates [1e-4]",
    "report audited --out page.html",
)
BUNDLES = (
    "guide",
    "judge",
    "flow",
    "map",
    "mean-flow",
    "flow-without-3",
    "map-without-3-5",
    "flow-retrained",
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all commands of the chain, each of which succeeded."""
    folder = tmp_path_factory.mktemp("chain")
    data = load_data("digits")
    write_split(split_data(data, 0), data, folder / "split.json")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in CHAIN:
            assert main(shlex.split(line)) == 0, line
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("name", BUNDLES)
def test_train_and_unlearn_write_bundles_with_config_and_log(name: str, chain: Path) -> None:
    found = {p.name for p in (chain / name).iterdir()}
    assert found == {
        "model.safetensors",
        "config.json",
        "README.md",
        "lineage.json",
        "config.yaml",
        "metrics.jsonl",
    }
    load = bundle.load_classifier if name in ("guide", "judge") else bundle.load
    assert not load(chain / name).training
    config = yaml.safe_load((chain / name / "config.yaml").read_text())
    lineage = bundle.read_lineage(chain / name)
    assert config["settings"] == lineage["settings"]
    assert read_json_lines(chain / name / "metrics.jsonl")[-1]["step"] == config["settings"]["steps"]


def test_the_request_of_the_command_line_is_in_the_lineage(chain: Path) -> None:
    lineage = bundle.read_lineage(chain / "map-without-3-5")
    assert lineage["request"] == {
        "words": "class 3 or 5 (margin 2)",
        "strength": 0.5,
        "divergence": "softplus",
    }
    assert lineage["parent"] == bundle.read_lineage(chain / "map")["weights_sha256"]
    assert lineage["method"] == "uot_tilted"


def test_samples_are_the_models_at_their_latents(chain: Path) -> None:
    import torch

    with np.load(chain / "drawn" / "samples.npz", allow_pickle=False) as file:
        x, z = torch.from_numpy(file["x"]), torch.from_numpy(file["z"])
    assert x.shape == (10, 1, 8, 8)
    assert torch.equal(bundle.load(chain / "flow-without-3").push_batches(z), x)
    assert (chain / "drawn" / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_audit_has_its_four_rows_and_the_report_its_page(chain: Path) -> None:
    audit = read_json(chain / "audited" / "audit.json")
    assert [row["method"] for row in audit["rows"]] == ["original", "erfm_resample", "target", "retrained"]
    assert audit["judge"]["independent_of_guide"] is True
    assert audit["rows"][1]["fid_target"] is not None
    assert audit["second_judge"]["accuracy"] > 0.3
    assert audit["rows"][1]["intervals"]["forget_rate"][0] <= audit["rows"][1]["forget_rate"]
    assert audit["attacks"]["relearning"]["images"].keys() == {"1", "2", "retain"}
    assert audit["attacks"]["latent_search"]["retrained"]["starts"] == 10
    assert audit["attacks"]["inside"]["erfm_resample"]["model"] == "Flow"
    assert all(set(numbers_in(row)) <= set(NUMBERS) for row in audit["rows"])  # whatever is there has a gate
    for row in audit["rows"]:
        assert (chain / "audited" / "samples" / f"flow-{row['method']}.npz").is_file()
    for page in (chain / "audited" / "report.html", chain / "page.html"):
        assert "</html>" in page.read_text()


def test_every_command_again_finds_its_result(
    chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command in the same folder continues a run; a finished one is left as it is."""
    monkeypatch.chdir(chain)
    before = {name: (chain / name / "model.safetensors").stat().st_mtime_ns for name in BUNDLES}
    for line in CHAIN[:-2]:
        assert main(shlex.split(line)) == 0, line
    assert before == {name: (chain / name / "model.safetensors").stat().st_mtime_ns for name in BUNDLES}


def latent_models(folder: Path) -> Autoencoder:
    """Write an autoencoder of digits, and a flow of its latents before and after."""
    size = {"net": "conv_autoencoder", "latent": 3, "width": 8, "depth": 1, "shape": [1, 8, 8]}
    decoder = Autoencoder(new_net(size, 0)).eval()
    bundle.save(decoder, folder / "decoder")
    for seed, name in enumerate(("before", "after")):
        flow = Flow(new_net({"net": "mlp", "shape": [3], "width": 8, "depth": 1}, seed), (3,))
        bundle.save(flow, folder / name)
    return decoder


def test_models_of_latents_are_sampled_and_audited_behind_their_decoder(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    decoder = latent_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split("sample after --autoencoder decoder --n 5 --out drawn")) == 0
    with np.load(tmp_path / "drawn" / "samples.npz", allow_pickle=False) as file:
        x, z = torch.from_numpy(file["x"]), torch.from_numpy(file["z"])
    assert torch.equal(decoder.decode_batches(bundle.load("after").push_batches(z)), x)
    words = shlex.split(
        f"audit after --original before --retrained before --judge {chain / 'judge'} --forget 3 "
        f"--split {chain / 'split.json'} --n 100 --attack false"
    )
    assert main([*words, "--autoencoder", "decoder", "--out", "audited"]) == 0
    rows = read_json(tmp_path / "audited" / "audit.json")["rows"]
    assert [row["method"] for row in rows] == ["original", "unlearned", "retrained"]
    assert rows[0]["forget_rate"] == rows[1]["forget_rate"]  # one model at the same latents
    assert abs(rows[0]["forget_rate"] - rows[2]["forget_rate"]) < 0.3  # retrained: at latents of its own
    capsys.readouterr()
    wrong = [*words, "--autoencoder", "decoder", "--out", "no", "--original", str(chain / "flow")]
    assert main(wrong) == 2
    assert "expected equal shapes" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


# Processes.


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(read_json_lines(path)) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run never got there"
        time.sleep(0.005)


def curve(folder: Path) -> list[dict[str, Any]]:
    records = read_json_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def train_flow(out: Path | str, steps: int) -> list[str]:
    return [
        "train",
        "digits-flow",
        "--settings.steps",
        str(steps),
        *shlex.split(SMALL_NET),
        "--out",
        str(out),
    ]


AGAIN = [*shlex.split(next(line for line in CHAIN if line.startswith("audit"))), "--attack", "false"]


def test_an_audit_ends_with_its_verdict_and_a_gate_with_code_1(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain)
    again = [*AGAIN[: AGAIN.index("--out") + 1], str(tmp_path / "a"), *AGAIN[AGAIN.index("--out") + 2 :]]
    again[again.index("--fail-if") + 1] = "forget_rate>=0,pul<-1e6"
    assert main(again) == 1
    printed = capsys.readouterr().out
    assert "of its samples are still 3, against the original's" in printed
    assert "The original is still inside: anyone with the file can take it out." in printed
    assert printed.count("failed: ") == 1
    assert "failed: forget_rate>=0: it is " in printed
    again[again.index("--fail-if") + 1] = "forget>0"
    again[again.index("--out") + 1] = str(tmp_path / "b")
    assert main(again) == 2
    assert "did you mean forget_rate?" in capsys.readouterr().err


def test_only_the_same_request_has_other_strengths(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain)
    again = [*AGAIN[: AGAIN.index("--out") + 1], str(tmp_path / "c"), *AGAIN[AGAIN.index("--out") + 2 :]]
    refusals = {"flow-tuned": "another method", "flow": "which no request made"}
    for other, words in refusals.items():
        assert main([*again, "--strengths", other]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(train_flow(folder, 1200)) == 0
    return folder


@pytest.mark.parametrize("lines", [1, 14])
def test_a_command_killed_and_given_again_ends_in_the_same_file(
    lines: int, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL before and after the first checkpoint (step 500; a line of metrics every 50 steps)."""
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "unflow", *train_flow(out, 1200)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_lines(out / "metrics.jsonl", lines, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not bundle.is_complete(out)
    if lines > 10:
        assert (out / "checkpoint.safetensors").is_file()
    assert main(train_flow(out, 1200)) == 0
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    for name in ("model.safetensors", "config.json", "config.yaml"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert curve(out) == curve(whole)


def test_bad_input_leaves_a_process_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    done = unflow_process("demo", "--forget", "12", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "unflow demo: got class 12 to forget; expected classes from 0 to 9\n"
    assert not list(tmp_path.iterdir())


def test_two_devices_write_one_whole_bundle(tmp_path: Path) -> None:
    done = unflow_process(*train_flow("two", 20), "--devices", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: two") == 1
    assert main(train_flow(tmp_path / "one", 20)) == 0
    first, second = (bundle.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for key, value in first.items():
        assert np.allclose(value, second[key], atol=1e-5), key
    assert not list((tmp_path / "two").glob(".*.partial"))


def test_options_are_spelled_as_usual() -> None:
    """Dashes for underscores, and a switch without a value."""
    from jsonargparse import ArgumentParser

    from unflow.commands import demo
    from unflow.commands.runner import normalise_spelling

    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(demo.run)
    given = ["--flow-map", "mean_flow", "--full", "--out=a-b", "--n", "200"]
    values = parser.parse_args(normalise_spelling(parser, given))
    assert (values.flow_map, values.full, str(values.out), values.n) == ("mean_flow", True, "a-b", 200)
    assert normalise_spelling(parser, ["--full", "false", "--no-such"]) == ["--full", "false", "--no-such"]
    assert normalise_spelling(parser, ["--seed", "0", "--full"])[-1] == "--full=true"
    assert normalise_spelling(parser, []) == []
