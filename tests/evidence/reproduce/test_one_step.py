"""Requests made of one-step models, end to end on tiny settings and data made here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experiments import few_points, image_recipe, small, write_cifar10, write_mnist

import unflow.evidence.reproduce.uot_2d as plane
from unflow.commands.cli import main
from unflow.data.cifar10 import CIFAR10_CLASSES
from unflow.disk.bundle import read_lineage
from unflow.evidence.attacks import LatentSearch, LinearProbe, MembershipInference, Relearning
from unflow.evidence.auditing import Attacks
from unflow.evidence.reproduce import UOT2D, UOTCIFAR10, UOTMNIST, ablation, anchors, trade_off
from unflow.evidence.reproduce.one_step import (
    BASELINES,
    GENERATOR_ROWS,
    ONE_STEP_ROWS,
    OURS,
    GeneratorRequest,
    OneStepRequest,
)
from unflow.evidence.reproduce.study import Recipe
from unflow.ground.files import sha256_module
from unflow.methods import UNLEARNERS, UOT, LatentFlow, LatentTransport, ResidualMatching
from unflow.methods.baselines.gradient_ascent import GradientAscent
from unflow.methods.baselines.reject import Reject
from unflow.methods.baselines.relabel import Relabel
from unflow.methods.baselines.saliency import Saliency
from unflow.methods.baselines.selective_amnesia import SelectiveAmnesia
from unflow.methods.baselines.weight_extrapolation import WeightExtrapolation
from unflow.training.method import Method
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.gan import GAN

__all__ = ["few_points"]  # a fixture that every test here uses too

BANK: dict[str, Any] = {"bank_size": 512, "batch_size": 32}


def one_step(recipe: Recipe) -> Recipe:
    """Return a recipe with a flow map, and few steps for every row."""
    rows: dict[str, Method] = {
        "uot": UOT(steps=6, **BANK),
        "uot_tilted": UOT(steps=6, pool="tilted", share=0.3, **BANK),
        "latent_transport_uot": UOT(steps=6, pool="tilted", **BANK),
        "uot_laws": UOT(steps=6, width=16, **BANK),
        "latent_transport": LatentTransport(steps=6, **BANK),
        "latent_transport_chain": LatentFlow(steps=6, block_size=64, **BANK),
        "gradient_ascent": GradientAscent(steps=2, batch_size=16),
        "relabel": Relabel(steps=4, **BANK),
        "saliency": Saliency(steps=4, **BANK),
        "selective_amnesia": SelectiveAmnesia(steps=4, fisher_batches=2, **BANK),
        "weight_extrapolation": WeightExtrapolation(steps=4, **BANK),
        "reject": Reject(),
    }
    return Recipe(
        **{name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
        | {
            "flow_map_net": {"net": "mlp", "width": 16, "depth": 1},
            "distill": Distill(steps=20, batch_size=32, bank_size=64),
            "methods": recipe.methods | rows,
        }
    )


@pytest.fixture(autouse=True)
def few_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trade_off, "STRENGTHS", (0.5, 1.0))
    monkeypatch.setattr(trade_off, "KNOBS", {"gradient_ascent": ("steps", (1, 2))})
    kept = {"default": None, "divergence": None, "tau": "10", "margin": "0", "strength": "0.5"}
    few = tuple(v for v in ablation.VARIANTS if v.factor in kept and kept[v.factor] in (None, v.value))
    monkeypatch.setattr(ablation, "VARIANTS", few)
    monkeypatch.setattr(anchors, "COUNTS", (5,))
    monkeypatch.setattr(anchors, "NUM_FIT", 400)
    monkeypatch.setattr(anchors, "KINDS", {kind: anchors.KINDS[kind] for kind in ("cosine", "grown")})
    monkeypatch.setattr(plane, "NUM_LAW", 2000)
    monkeypatch.setattr(plane, "CELLS", 12)
    monkeypatch.setattr(plane, "TAUS", (0.0, 3.0))


@pytest.fixture(scope="module")
def mnist_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("mnist") / "data")


class Latents(UOTMNIST):
    """The requests to a flow map of latents."""

    request_type = OneStepRequest


@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_one_step_requests_end_to_end_and_again(tmp_path: Path, mnist_data: Path) -> None:
    settings: dict[str, Any] = {
        "out": tmp_path / "uot",
        "seeds": [1, 2],
        "only": Latents.choose_requests([3, 5]),
        "data": mnist_data,
        "recipe": one_step(image_recipe()),
    }
    rows = Latents(**settings).run()
    made = {(row["dataset"], row["seed"], row["method"]) for row in rows}
    assert made == {
        ("mnist-3", seed, name) for seed in (1, 2) for name in ("original", "target", *ONE_STEP_ROWS)
    } | {("mnist-5", 1, name) for name in ("original", "target", *OURS, *BASELINES)}
    assert {row["family"] for row in rows} == {"flow_map"}
    for row in rows:
        assert ("snapshots" in row) == (row["method"] == "retrained")
        for stop in row.get("snapshots", [])[-1:]:  # at the end of the training: the row itself
            assert {key: row[key] for key in ("fid_retain", "forget_rate")} == {
                key: stop[key] for key in ("fid_retain", "forget_rate")
            }
    written = {file.name for file in (tmp_path / "uot").iterdir()}
    assert written >= {
        "table.json",
        "table.md",
        "report.html",
        "rows-mnist-3.png",
        "rows-mnist-5.png",
        "redistribution-mnist-3.png",
        "trade-off-mnist-3.png",
        "trade-off-mnist-3.json",
    }
    text = (tmp_path / "uot" / "table.md").read_text()
    for title in (
        "mean over all classes",
        "worth forgetting",
        "One factor",
        "softplus",
        "Forgetting against",
    ):
        assert title in text
    assert "--classes 3,5" in (tmp_path / "uot" / "report.html").read_text()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "uot").rglob("model.safetensors")}
    assert Latents(**settings).run() == json.loads(json.dumps(rows))
    assert before == {file: file.stat().st_mtime_ns for file in before}
    attacks = Attacks(
        relearning=Relearning(steps=2, batch_size=4),
        search=LatentSearch(starts=6, steps=2),
        membership=MembershipInference(images=20, samples=100, steps=1),
        probe=LinearProbe(images=20, latents=200),
        images=(1,),
        rates=(),
        samples=100,
    )
    settings["only"] = Latents.choose_requests([3])
    assert len(Latents(**settings, attacks=attacks).run()) == 2 * (2 + len(ONE_STEP_ROWS))
    text = (tmp_path / "uot" / "table.md").read_text()
    table = text.split("## What could bring it back, mnist-3, seeds [1, 2]")[1].split("\n##")[0].strip()
    lines = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in table.splitlines()
    }
    assert set(lines) >= {"`original`", *(f"`{name}`" for name in ONE_STEP_ROWS)}
    assert lines["`original`"][3:5] == ["0 ± 0", "0 ± 0"]  # it has all of it from the start
    assert lines["`reject`"][3:5] == ["–", "–"]  # behind the filter are the original's weights
    assert lines["`reject`"][1] != "–"
    assert lines["`uot`"][1] == "–"
    assert len(list((tmp_path / "uot").rglob("attacks/*.json"))) == 2 * (1 + len(ONE_STEP_ROWS))
    assert "--attack true" in (tmp_path / "uot" / "report.html").read_text()


def pixels() -> Recipe:
    """Return a recipe with a generator of images, and few steps for some rows."""
    found = one_step(image_recipe())
    rows = {"residual_matching": ResidualMatching(steps=4, start_steps=4, width=2, **BANK)}
    return Recipe(
        generator_net={"net": "conv_generator", "latent": 8, "width": 8, "depth": 2, "hidden": 16},
        gan=GAN(steps=40, batch_size=32, learning_rate=4e-3, critic_rate=4e-3, width=4, average=0.9),
        guide_net={"net": "convnet", "width": 8},
        guide=Classification(steps=60, batch_size=32),
        judge_net=found.judge_net,
        judge=found.judge,
        n=found.n,
        methods=found.methods | rows,
    )


@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_requests_to_a_generator_of_images(
    tmp_path: Path, mnist_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original and ``retrained`` are GANs of the same recipe, the latter without the forgotten class."""
    rows = ("retrained", "residual_matching")
    monkeypatch.setattr(GeneratorRequest, "default_rows", rows)
    only = UOTMNIST.choose_requests([3])
    experiment = UOTMNIST(out=tmp_path, seeds=[1], only=only, data=mnist_data, recipe=pixels())
    request = experiment.make_request("mnist-3", 1)
    found = {row["method"]: row for row in request.audit()["rows"]}
    assert set(found) == {"original", "target", *rows}
    assert {row["family"] for row in found.values()} == {"generator"}
    folders = (tmp_path / "seed-1/generator", request.out / "retained/retrained")
    original, again = map(read_lineage, folders)
    assert again["data"] == {"train": request.study.parts["train"].without_classes([3]).fingerprint}
    for key in ("kind", "net", "method", "settings", "seed"):
        assert original[key] == again[key]
    for name, lineage in (("original", original), ("retrained", again)):
        assert found[name]["cost"]["train_seconds"] == pytest.approx(lineage["seconds"])
    assert len(found["retrained"]["snapshots"]) == 10
    seen = experiment.measure_agreement()
    assert seen[0]["reconstructed"] is None
    assert 0 <= seen[0]["agreement"] <= 100


def test_the_rows_of_a_generator_train_generators() -> None:
    for name in GENERATOR_ROWS[1:]:
        assert "generator" in UNLEARNERS[name].families
    for name in sorted(set(ONE_STEP_ROWS) - set(GENERATOR_ROWS) - {"retrained_inner"}):
        assert "generator" not in UNLEARNERS[name].families


@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_uot_cifar10_end_to_end_with_a_critic(tmp_path: Path) -> None:
    colours = {
        name: (60 * (k % 3), 60 * (k // 3 % 3), 120 * (k == 9)) for k, name in enumerate(CIFAR10_CLASSES)
    }
    images = write_cifar10(tmp_path / "data", 60, colours)
    recipe = dataclasses.replace(
        one_step(image_recipe()),
        critic_net={"net": "resnet", "width": 8, "depth": 2},
        critic=Classification(steps=10, batch_size=32, flip=True),
        autoencoder=Autoencoding(
            steps=10, batch_size=32, flip=True, perceptual=1.0, labels=1.0, consistency=1.0
        ),
    )
    only = UOTCIFAR10.choose_requests([8])
    experiment = UOTCIFAR10(out=tmp_path / "cifar", seeds=[1], only=only, data=images, recipe=recipe)
    rows = experiment.run()
    assert {row["method"] for row in rows} == {"original", "target", *ONE_STEP_ROWS}
    assert {row["dataset"] for row in rows} == {"cifar10-ship"}
    seen = read_lineage(tmp_path / "cifar" / "seed-1" / "autoencoder")
    critic = experiment.make_study(1).critic
    assert critic is not None
    assert seen["critic"] == sha256_module(critic)
    written = {file.name for file in (tmp_path / "cifar").iterdir()}
    assert written >= {
        "table.json",
        "report.html",
        "rows-cifar10-ship.png",
        "redistribution-cifar10-ship.png",
    }


@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_uot_2d_end_to_end(tmp_path: Path) -> None:
    experiment = UOT2D(out=tmp_path / "2d", seeds=[1], only=("moons",), recipe=one_step(small()))
    rows = experiment.run()
    rows_of_points = set(ONE_STEP_ROWS) - {"retrained_inner"}  # there is no autoencoder
    assert {row["method"] for row in rows} == {"original", "target", *rows_of_points}
    assert all(0 <= row["tv_target"] <= 1 for row in rows)
    target, original = (next(r for r in rows if r["method"] == name) for name in ("target", "original"))
    assert target["tv_target"] < original["tv_target"]
    text = (tmp_path / "2d" / "table.md").read_text()
    for title in ("On a line", "chi2", "The optimum of the objective", "Divergence x pool x source"):
        assert title in text
    assert (tmp_path / "2d" / "points-moons.png").is_file()


@pytest.fixture
def request_of_moons(tmp_path: Path) -> OneStepRequest:
    return UOT2D(
        out=tmp_path / "2d", seeds=[1], only=("moons",), recipe=one_step(small())
    ).make_first_request("moons")


def test_the_original_of_a_one_step_request_cost_a_flow_and_its_distillation(
    request_of_moons: OneStepRequest,
) -> None:
    cost, study = request_of_moons.read_original_cost(), request_of_moons.study
    assert cost["train_seconds"] == pytest.approx(study.read_seconds("flow") + study.read_seconds("flow_map"))
    assert cost["nfe"] == 1


def test_the_retrained_model_is_trained_as_the_original_was_and_paid_for(
    request_of_moons: OneStepRequest,
) -> None:
    entry, out = request_of_moons.make_entry("retrained"), request_of_moons.study.out
    folder = out / "request" / "retained"
    flow, flow_map = (read_lineage(folder / name) for name in ("retrained-flow", "retrained"))
    original = read_lineage(out / "flow_map")
    assert flow_map["settings"] == original["settings"]
    assert flow_map["net"] == original["net"]
    assert flow_map["teacher"] != original["teacher"]
    assert entry.cost["train_seconds"] == pytest.approx(flow["seconds"] + flow_map["seconds"])
    assert entry.data_used == ["retain_images"]


def test_a_request_by_images_records_what_it_has_seen(request_of_moons: OneStepRequest) -> None:
    anchors.measure_images(request_of_moons, 5, "guide", "cosine")
    anchors.measure_images(request_of_moons, 5, "latents", "cosine")
    folder = request_of_moons.out / "anchors"
    assert read_lineage(folder / "5-guide-cosine" / "uot_tilted")["data_used"] == [
        "5 forget images",
        "guide_images",
    ]
    assert read_lineage(folder / "5-latents-cosine" / "uot_tilted")["data_used"] == ["5 forget images"]


def test_the_measures_of_the_original_find_nothing_forgotten_and_everything_in_place(
    request_of_moons: OneStepRequest,
) -> None:
    seen = request_of_moons.measure(request_of_moons.model)
    assert seen["pul"] == 0
    assert seen["stayed"] == 100
    assert seen["left"] > 20


def test_the_optimum_without_a_transport_cost_is_the_exact_target(request_of_moons: Any) -> None:
    exact = request_of_moons.compute_exact_law()
    assert float((request_of_moons.compute_optimum(0.0) - exact).abs().sum() / 2) < 0.01
    moved = float((request_of_moons.compute_optimum(30.0) - exact).abs().sum() / 2)
    assert moved > 0.1


def test_forgotten_latents_come_first_in_the_pictures(request_of_moons: OneStepRequest) -> None:
    from unflow.evidence.reproduce.one_step_images import draw_mixed_latents

    z = draw_mixed_latents(request_of_moons)
    labels = request_of_moons.study.judge.probabilities(request_of_moons.model.push(z)).argmax(1)
    forgotten = torch.isin(labels, torch.tensor(request_of_moons.forget))
    assert forgotten.tolist() == [True] * 8 + [False] * 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["uot-mnist", "--classes", "3,10"], "got class 10"),
        (["uot-mnist", "--classes", "three"], "--classes 'three'"),
        (["uot-mnist", "--classes", "3", "--dataset", "mnist-3"], "expected only one of them"),
        (["continualflow-2d", "--classes", "1"], "expected --dataset"),
        (["uot-mnist"], "--data DIR"),
        (["uot-2d", "--attack", "true"], "got --attack for uot-2d"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_written(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
