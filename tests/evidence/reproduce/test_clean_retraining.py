"""The retrained rows read nothing of what is forgotten, in any stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experiments import few_points, image_recipe, small
from test_one_step import one_step
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.disk.bundle import read_lineage
from unflow.energies.unread import Unread
from unflow.evidence import metrics
from unflow.evidence.auditing import draw_samples
from unflow.evidence.auditing.family import FamilyAudit
from unflow.evidence.reproduce.one_step import OneStepRequest
from unflow.evidence.reproduce.request import RETRAINED, Request
from unflow.evidence.reproduce.study import Recipe, Study
from unflow.ground.errors import TrainingDivergedError
from unflow.methods import Retrain
from unflow.models import Conditional, GenerativeModel, Latent
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals import base_models
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.base_models import new_conditional, new_model
from unflow.training.originals.classification import Classification
from unflow.unlearning import unlearn as unlearning

__all__ = ["few_points"]  # a fixture that every test here uses too

FORGOTTEN = 2


def recipe() -> Recipe:
    """Return a recipe with every stage that a study can have: critic, labels, autoencoder, flow, flow map."""
    found = one_step(image_recipe())
    return dataclasses.replace(
        found,
        critic_net={"net": "resnet", "width": 4, "depth": 2},
        critic=Classification(steps=6, batch_size=32),
        autoencoder=Autoencoding(steps=6, batch_size=32, perceptual=1.0, labels=1.0, consistency=1.0),
        methods=found.methods | {"retrained_mixture": Retrain(steps=8, batch_size=32, mixture=True)},
        n=64,
    )


def poisoned(n: int, seed: int) -> LabelledData:
    """Return noise of three classes; every pixel of the last class is NaN."""
    x = 2 * torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) - 1
    labels = torch.arange(n) % 3
    x[labels == FORGOTTEN] = torch.nan
    return LabelledData("poisoned", x, labels, ["one", "two", "three"])


def make_study(out: Path, conditional: bool = False) -> Study:
    parts = {name: poisoned(96, seed) for seed, name in enumerate(("train", "judge", "held_out"))}
    return Study(recipe(), parts, 1, out, conditional=conditional)


def make_request(study: Study, kind: type[Request]) -> Request:
    """Return a request whose original is untrained: no model can be trained on the poisoned images."""
    latents = dataclasses.replace(study.parts["train"], x=torch.zeros(96, 4))
    made = new_conditional if study.conditional else new_model
    assert study.recipe.flow_net is not None
    study.__dict__["flow"] = flow = made("flow", study.recipe.flow_net, latents, 0)
    net = study.recipe.flow_map_net
    assert net is not None
    model = flow if kind is Request else made("flow_map", net, latents, 0)
    return kind(study, [FORGOTTEN], "request", energy=Unread("three"), model=model)


class Reader:
    """Notes the problem of every training."""

    def __init__(self, fit: Any) -> None:
        self.fit = fit
        self.problems: list[Problem] = []

    def __call__(self, method: Any, problem: Problem, *args: Any, **options: Any) -> Any:
        self.problems.append(problem)
        return self.fit(method, problem, *args, **options)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    found = Reader(fit)
    for module in (base_models, unlearning):
        monkeypatch.setattr(module, "fit", found)
    return found


def is_finite(model: nn.Module) -> bool:
    return all(bool(x.isfinite().all()) for x in model.state_dict().values())


def networks(model: GenerativeModel) -> list[nn.Module]:
    assert isinstance(model, Latent)
    return [model.inner, model.autoencoder]


@pytest.mark.parametrize("kind", [Request, OneStepRequest])
@pytest.mark.parametrize(
    ("name", "conditional"), [("retrained", False), ("retrained", True), ("retrained_mixture", True)]
)
def test_no_stage_of_a_retrained_row_reads_an_image_of_the_forgotten_class(
    name: str, conditional: bool, kind: type[Request], tmp_path: Path, reader: Reader
) -> None:
    """What critic, autoencoder, flow and flow map read is finite, and so are their weights."""
    request = make_request(make_study(tmp_path, conditional), kind)
    model = request.find_images_model(name)
    stages = ["critic", "autoencoder", "flow", *(["flow_map"] if kind is OneStepRequest else [])]
    assert len(reader.problems) == len(stages)
    for problem in reader.problems:
        read = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
        tensors = {key: x for key, x in read.items() if isinstance(x, Tensor)}
        assert {"data", "retain"} & set(tensors)
        for key, x in tensors.items():
            assert bool(x.isfinite().all()), key
            assert key not in ("labels", "retain_labels") or FORGOTTEN not in x.tolist()
            assert len(x) <= 64  # two classes of three
    assert request.retained.critic is not None
    for network in (*networks(model), request.retained.critic):
        assert is_finite(network)
    samples = draw_samples(model, request.draw_latents()).x
    assert bool(samples.isfinite().all())
    assert samples.shape[1:] == (1, 16, 16)


@pytest.mark.parametrize("name", ["retrained_inner", "original"])
def test_the_autoencoder_of_the_other_rows_reads_every_class(name: str, tmp_path: Path) -> None:
    request = make_request(make_study(tmp_path), Request)
    with pytest.raises(TrainingDivergedError):
        request.find_images_model(name)


def test_a_retrained_conditional_model_draws_each_label_as_often_as_the_original(tmp_path: Path) -> None:
    """It is distilled without an image of the forgotten class, which keeps its share of the labels."""
    request = make_request(make_study(tmp_path, conditional=True), OneStepRequest)
    model = request.find_model("retrained")
    assert isinstance(model, Conditional)
    assert isinstance(request.model, Conditional)
    assert model.probabilities == request.model.probabilities
    assert FORGOTTEN in model.drawn


def healthy(out: Path) -> Study:
    study = make_study(out)
    parts = {k: dataclasses.replace(part, x=part.x.nan_to_num(0.5)) for k, part in study.parts.items()}
    found = Study(study.recipe, parts, 1, out)
    _ = found.guide  # an entry reads how long it took
    return found


@pytest.mark.parametrize("kind", [Request, OneStepRequest])
def test_a_retrained_row_has_its_own_decoder_and_pays_for_all_of_its_stages(
    kind: type[Request], tmp_path: Path
) -> None:
    request = make_request(healthy(tmp_path), kind)
    clean, inner = (request.find_images_model(name) for name in ("retrained", "retrained_inner"))
    original = networks(request.find_images_model("original"))[1]
    assert same(networks(inner)[1], original)
    assert not same(networks(clean)[1], original)
    out, last = tmp_path / "request", ["flow"] if kind is OneStepRequest else []
    folders = [out / "retained" / name for name in ("critic", "autoencoder", "retrained")]
    folders += [out / "retained" / "retrained-flow" for _ in last]
    seconds = sum(read_lineage(folder)["seconds"] for folder in folders)
    assert request.make_entry("retrained").cost["train_seconds"] == pytest.approx(seconds)
    own = [out / "retrained_inner", *(out / "retrained_inner-flow" for _ in last)]
    seconds = sum(read_lineage(folder)["seconds"] for folder in own)
    assert request.make_entry("retrained_inner").cost["train_seconds"] == pytest.approx(seconds)


def test_each_retrained_row_draws_from_latents_of_its_own(tmp_path: Path) -> None:
    request = make_request(make_study(tmp_path), Request)
    latents = [request.draw_latents(name) for name in ("original", *RETRAINED)]
    for k, one in enumerate(latents):
        assert one.shape == latents[0].shape
        assert not any(bool(torch.isin(one, other).any()) for other in latents[:k])
    assert torch.equal(request.draw_latents("erfm"), latents[0])


@pytest.mark.parametrize("kind", [Request, OneStepRequest])
def test_retraining_that_stops_at_the_end_is_the_retrained_row(kind: type[Request], tmp_path: Path) -> None:
    request = make_request(healthy(tmp_path), kind)
    entry = request.make_entry("retrained")
    found = request.measure_snapshots()
    steps = 8 if kind is Request else 20
    assert [record["step"] for record in found] == request.snapshots.list_steps(steps)
    seconds = [record["seconds"] for record in found]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(entry.cost["train_seconds"], abs=0.2)
    observed = FamilyAudit("flow", request.make_evidence(), entry.samples, None, None).observe(entry)
    assert found[-1]["forget_rate"] == observed.forget_rate
    pair = {"generated": observed.features, "reference": observed.retain.points}
    assert found[-1]["fid_retain"] == metrics.frechet_distance(**pair)
    assert found[0]["fid_retain"] != found[-1]["fid_retain"]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("made", "count"), [(recipe(), 2), (small(), 1)])
def test_without_an_autoencoder_there_is_one_retrained_row(made: Recipe, count: int, tmp_path: Path) -> None:
    study = Study(made, make_study(tmp_path).parts, 1, tmp_path)
    assert made.flow_net is not None
    model = new_model("flow", made.flow_net, study.parts["train"], 0)
    request = Request(study, [FORGOTTEN], "request", energy=Unread("three"), model=model)
    assert [row for row in request.rows if row in RETRAINED] == ["retrained", "retrained_inner"][:count]
