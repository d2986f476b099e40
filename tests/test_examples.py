"""The examples run as they stand, on small settings, and end as their story says."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import unflow as uf
from unflow.disk.bundle import is_complete, read_lineage
from unflow.ground.files import sha256_module

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {
    "third_party_gan": ["--gan-steps", "60", "--steps", "20"],
    "flow_with_time_reversed": ["--flow-steps", "60", "--steps", "20"],
    "a_diffusers_model": ["--flow-steps", "20", "--steps", "4", "--bank", "256", "--samples", "60"],
    "a_black_box_scorer": ["--decoder-steps", "200", "--steps", "20", "--bank", "1024"],
    "a_queue_of_requests": ["--decoder-steps", "300", "--steps", "20", "--bank", "2048", "--samples", "300"],
    "reversing_a_request": ["--flow-steps", "100", "--steps", "10", "--bank", "1024", "--samples", "200"],
}


def command(name: str, out: Path) -> dict[str, Any]:
    return {
        "args": [sys.executable, str(EXAMPLES / f"{name}.py"), *SMALL[name], "--out", str(out)],
        "env": os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"},
        "text": True,
        "stderr": subprocess.PIPE,
        "stdout": subprocess.PIPE,
    }


def run(name: str, out: Path) -> str:
    """Return what an example prints; it runs as a script does, in this process, which has torch already."""
    file, printed = EXAMPLES / f"{name}.py", StringIO()
    words = [str(file), *SMALL[name], "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.syspath_prepend(EXAMPLES)
        patch.setattr(sys, "argv", words)
        with redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("default")
            runpy.run_path(str(file), run_name="__main__")
    return printed.getvalue()


class Told(dict[str, tuple[Path, str]]):
    """Example -> the folder that it wrote and what it printed; each is run once, when it is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, name: str) -> tuple[Path, str]:
        out = self.root / name
        self[name] = out, run(name, out)
        return self[name]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles name the functions of the examples; here they can be imported."""
    monkeypatch.syspath_prepend(EXAMPLES)


def hash_of(bundle: Path) -> str:
    return sha256_module(uf.load(bundle, trust_code=True))


def test_every_example_is_run() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_an_example_tells_its_story(name: str, told: Told) -> None:
    out, printed = told[name]
    assert "before" in printed
    assert "after" in printed
    assert list(out.rglob("model.safetensors"))


@pytest.mark.parametrize("name", ["third_party_gan", "flow_with_time_reversed"])
def test_an_example_that_is_run_again_finds_its_result_and_says_the_same(name: str, told: Told) -> None:
    out, printed = told[name]
    (made,) = out.rglob("lineage.json")
    before = made.read_bytes()
    assert run(name, out) == printed
    assert made.read_bytes() == before


def test_the_gans_checkpoint_comes_back_in_its_layout_and_without_its_discriminator(told: Told) -> None:
    out, _ = told["third_party_gan"]
    before, after = (torch.load(out / f"{name}.pth", weights_only=True) for name in ("gan", "gan-forgotten"))
    assert before.keys() == {"generator", "discriminator", "step"}
    assert after.keys() == {"generator"}
    assert after["generator"].keys() == before["generator"].keys()
    assert any(not torch.equal(after["generator"][k], before["generator"][k]) for k in after["generator"])


# A model of diffusers


def test_diffusers_loads_what_comes_back_and_finds_the_trained_weights_in_it(told: Told) -> None:
    out, _ = told["a_diffusers_model"]
    before, after = (
        diffusers.UNet2DModel.from_pretrained(out / name, low_cpu_mem_usage=False)
        for name in ("original", "forgotten")
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(out / "forgotten")
    assert scheduler.config.num_train_timesteps == 1000
    kept, changed = (net.state_dict() for net in (before, after))
    assert kept.keys() == changed.keys()
    assert not torch.equal(kept["conv_in.weight"], changed["conv_in.weight"])
    model: Any = uf.load(out / "bundle")
    trained = model.net.net.unet.state_dict()
    assert all(torch.equal(changed[name], trained[name]) for name in trained)


# A black box


def test_a_method_that_needs_a_gradient_is_refused_and_the_black_box_is_asked_of_each_sample_once(
    told: Told,
) -> None:
    out, printed = told["a_black_box_scorer"]
    assert "UOT follows the gradient of the energy, and this energy has none" in printed
    assert {file.name for file in out.iterdir()} == {"decoder.pth", "forgotten"}
    calls, images = re.findall(r"called (\d+) times in this run, for ([\d,]+) images", printed)[0]
    assert 1024 <= int(images.replace(",", "")) <= 256 * int(calls)
    assert read_lineage(out / "forgotten")["request"]["words"] == "score moderation service v1 (margin 1)"


# A queue of requests

FIRST_QUEUE = [f"alone-{number}" for number in range(1, 6)]


@pytest.mark.usefixtures("builders")
def test_each_request_of_a_queue_names_the_one_before_by_the_hash_of_its_weights(told: Told) -> None:
    out, printed = told["a_queue_of_requests"]
    chain = ["original", *FIRST_QUEUE]
    hashes = [hash_of(out / name) for name in chain]
    assert len(set(hashes)) == len(chain)
    assert [read_lineage(out / name)["parent"] for name in chain] == [None, *hashes[:-1]]
    way = [line.split()[0] for line in printed.partition("way back")[2].splitlines()[1:]]
    assert way == [digest[:12] for digest in reversed(hashes)]


@pytest.mark.usefixtures("builders")
def test_a_queue_that_is_killed_goes_on_to_the_same_bits_and_makes_nothing_twice(
    told: Told, tmp_path: Path
) -> None:
    whole, printed = told["a_queue_of_requests"]
    with subprocess.Popen(**command("a_queue_of_requests", tmp_path)) as process:
        while process.poll() is None and not is_complete(tmp_path / FIRST_QUEUE[1]):
            time.sleep(0.01)
        process.kill()
    assert not is_complete(tmp_path / "at-once")
    made = (tmp_path / FIRST_QUEUE[1] / "lineage.json").read_bytes()
    continued = run("a_queue_of_requests", tmp_path)
    assert (tmp_path / FIRST_QUEUE[1] / "lineage.json").read_bytes() == made
    assert re.sub(r"\d+\.\d s", "", continued) == re.sub(r"\d+\.\d s", "", printed)
    for name in ("alone-5", "again-5", "at-once"):
        assert hash_of(tmp_path / name) == hash_of(whole / name)


# A request that is withdrawn


@pytest.mark.usefixtures("builders")
def test_what_was_before_a_request_is_there_in_the_same_bits_and_not_in_weights_that_were_changed(
    told: Told,
) -> None:
    out, printed = told["reversing_a_request"]
    original = hash_of(out / "original")
    after = uf.load(out / "flow-after", trust_code=True)
    assert isinstance(after, uf.Chain)
    assert sha256_module(after.base) == original
    assert "in the same bits as the original: yes" in printed
    assert read_lineage(out / "first")["parent"] == read_lineage(out / "second")["parent"] == original
    assert read_lineage(out / "first-and-second")["parent"] == hash_of(out / "first")
    holders = re.findall(r"^  ([\w-]+)/", printed.partition("still be recovered from")[2], re.MULTILINE)
    assert holders == ["flow-after", "original"]


@pytest.mark.usefixtures("builders")
def test_a_flow_run_backwards_returns_to_where_it_started(told: Told) -> None:
    from reversing_a_request import reverse_flow

    chain: Any = uf.load(told["reversing_a_request"][0] / "flow-after", trust_code=True)
    after = chain.after
    x = torch.randn(50, 1, 8, 8, generator=uf.stream(0))
    there = after.push_batches(x)
    back = reverse_flow(after).push_batches(there)
    assert float((back - x).abs().max()) < 0.02 * float((there - x).abs().max())
