"""Experiments with conditional models, end to end on tiny settings and data made here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experiments import few_points, image_recipe, write_mnist
from test_one_step import one_step

from unflow.commands.cli import main
from unflow.evidence.attacks import ConditionSearch, LatentSearch, MixtureSearch, Relearning
from unflow.evidence.auditing import Attacks
from unflow.evidence.reproduce import CONDITIONAL
from unflow.evidence.reproduce.conditional import (
    FLOW_ROWS,
    MARGIN,
    ONE_STEP_ROWS,
    AskedOneStepRequest,
    AskedRequest,
)
from unflow.evidence.reproduce.study import Recipe
from unflow.methods import ESD, SFD, ConceptAblation, Retrain
from unflow.models import Conditional
from unflow.training.method import Method
from unflow.training.originals.classification import Classification

__all__ = ["few_points"]  # a fixture that every test here uses too


def recipe() -> Recipe:
    rows: dict[str, Method] = {
        "retrained_mixture": Retrain(steps=8, batch_size=32, mixture=True),
        "esd": ESD(steps=2, batch_size=16),
        "concept_ablation": ConceptAblation(steps=4, batch_size=16, bank_size=64),
        "sfd_short": SFD(steps=2, batch_size=16),
    }
    found = one_step(image_recipe())
    net = {"net": "mlp", "width": 16, "depth": 1}
    judge = Classification(steps=40, batch_size=32, deform=False)
    return dataclasses.replace(
        found, methods=found.methods | rows, n=100, n_asked=50, judge_net=net, judge=judge
    )


def read_table(text: str, title: str) -> dict[str, list[str]]:
    """Return the cells of a table of table.md by the name of the row."""
    table = text.split(f"## {title}\n\n")[1].split("\n\n", maxsplit=1)[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    return {name.split(" (over-forgets")[0].strip("`"): row for name, *row in cells}


@pytest.fixture(scope="module")
def mnist_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("mnist") / "data")


@pytest.mark.filterwarnings("ignore:the effective sample size")
@pytest.mark.parametrize(
    ("name", "dataset", "methods"),
    [
        ("continualflow-mnist", "mnist-forget-0", ("retrained_mixture", "erfm_resample")),
        ("uot-mnist", "mnist-3", ("retrained_mixture", "latent_transport")),
        pytest.param("continualflow-mnist", "mnist-forget-0", FLOW_ROWS, marks=pytest.mark.slow),
        pytest.param("uot-mnist", "mnist-3", ONE_STEP_ROWS, marks=pytest.mark.slow),
    ],
)
def test_every_row_is_asked_for_each_label(
    name: str,
    dataset: str,
    methods: tuple[str, ...],
    tmp_path: Path,
    mnist_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guided = name == "continualflow-mnist"
    monkeypatch.setattr(AskedRequest if guided else AskedOneStepRequest, "default_rows", methods)
    settings: dict[str, Any] = {"seeds": [1], "only": (dataset,), "data": mnist_data, "recipe": recipe()}
    experiment = CONDITIONAL[name](out=tmp_path / "out", **settings)
    rows = experiment.run()
    assert {row["method"] for row in rows} == {"original", "target", *methods}
    study = experiment.make_request(dataset, 1).study
    for model in (study.flow, *([] if guided else [study.flow_map])):
        assert isinstance(model, Conditional)
        assert (model.num_conditions, model.null) == (10, 10)
    for row in rows:
        asked = row["asked"]
        assert [record["label"] for record in asked["conditions"]] == [*range(10), "null"]
        assert asked["n"] == 50
        assert set(asked["guidance"]) == ({"1", "2", "4"} if guided and row["method"] != "target" else set())
        is_made_from_it = row["method"] not in ("original", "target", "retrained", "retrained_mixture")
        assert (row["transition"] is not None) == is_made_from_it
    text = (tmp_path / "out" / "table.md").read_text()
    lines = read_table(text, f"{dataset}, asked for each label")
    for row in rows:
        cells = lines[row["method"]]
        assert cells[0] == f"{100 * row['asked']['forgotten']:.2f}"
        assert (cells[1] == "–") == (not row["asked"]["guidance"])
        assert cells[4] == f"{100 * row['asked']['null']:.2f}"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "--conditional true" in page
    assert (tmp_path / "out" / f"asked-{dataset}.png").is_file()
    assert CONDITIONAL[name](out=tmp_path / "out", **settings).run() == json.loads(json.dumps(rows))


def test_the_retrained_rows_differ_in_the_label_of_the_forgotten_class(
    tmp_path: Path, mnist_data: Path
) -> None:
    """Its input keeps its initial weights in one row, and is trained in the other."""
    kind = CONDITIONAL["continualflow-mnist"]
    settings: dict[str, Any] = {"only": ("mnist-forget-0",), "data": mnist_data, "recipe": recipe()}
    request = kind(out=tmp_path / "out", seeds=[1], **settings).make_request("mnist-forget-0", 1)
    z = request.model.prior(20, torch.Generator().manual_seed(0))
    never, mixture = (request.find_model(name) for name in ("retrained", "retrained_mixture"))
    for k, same in ((0, False), (4, False)):
        asked = request.model.require_conditional().ask(z, k)
        assert torch.equal(never.push_batches(asked), mixture.push_batches(asked)) == same


def test_the_energy_of_a_conditional_request_keeps_the_surest_sample_of_every_label(
    tmp_path: Path, mnist_data: Path
) -> None:
    """Offsets that balance the classes would accept the labels with the smaller ones less often."""
    kind = CONDITIONAL["uot-mnist"]
    settings: dict[str, Any] = {"only": ("mnist-3",), "data": mnist_data, "recipe": recipe()}
    target = kind(out=tmp_path / "out", seeds=[1], **settings).make_request("mnist-3", 1).target
    assert target.energy.lower_bound == 0
    # F = softplus(log-odds + margin) falls to its bound as the guide grows sure that x is retained
    logits = torch.zeros(10, 10).fill_diagonal_(40.0)
    energy = torch.nn.functional.softplus(_log_odds(logits, 3) + MARGIN)
    accepted = target.acceptance(energy)
    assert accepted[3] < 1e-6
    assert torch.all(accepted[torch.arange(10) != 3] > 1 - 1e-6)


def _log_odds(logits: torch.Tensor, forget: int) -> torch.Tensor:
    others = logits[:, torch.arange(logits.shape[1]) != forget]
    return logits[:, forget] - others.logsumexp(1)


def test_what_has_no_conditional_experiment_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["reproduce", "continualflow-2d", "--conditional", "true", "--out", str(tmp_path / "out")]) == 2
    )
    message = "got --conditional for continualflow-2d, which has no conditional original; expected one of"
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the effective sample size")
def test_the_attacks_over_the_condition_have_columns(
    tmp_path: Path, mnist_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AskedOneStepRequest, "default_rows", ("retrained", "latent_transport"))
    attacks = Attacks(
        relearning=Relearning(steps=2, batch_size=4),
        search=LatentSearch(starts=6, steps=2),
        condition=ConditionSearch(latents=8, steps=2, samples=50),
        mixture=MixtureSearch(weights=(0.5,), latents=8, samples=50),
        images=(1,),
        samples=100,
    )
    settings: dict[str, Any] = {"only": ("mnist-3",), "data": mnist_data, "recipe": recipe()}
    CONDITIONAL["uot-mnist"](out=tmp_path / "out", seeds=[1], attacks=attacks, **settings).run()
    lines = read_table(
        (tmp_path / "out" / "table.md").read_text(), "What could bring it back, mnist-3, seeds [1]"
    )
    assert lines[""][3:6] == ["a free condition %", "another guidance %", "a mixture of two labels %"]
    for name in ("original", "retrained", "latent_transport"):
        free, guidance, mixture = lines[name][3:6]
        assert guidance == "–"  # a model of one step has none
        assert 0 <= float(free) <= 100
        assert 0 <= float(mixture) <= 100
