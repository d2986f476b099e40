"""Retrained conditional models: what a forgotten label learns, and that no forgotten sample is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from gaussians import CENTRES, SHARES, Gaussians, Velocities, draw_labelled
from unflow.commands.cli import main
from unflow.data import LabelledData
from unflow.energies.unread import Unread
from unflow.ground.errors import InputError, TrainingDivergedError
from unflow.ground.files import read_json
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS, Distill, FlowMatching, MeanFlow, Retrain
from unflow.methods.baselines.spare_labels import SpareLabels, spread_spare
from unflow.models import Conditional, Flow, FlowMap
from unflow.nets import AdaptedAverageVelocity, AdaptedVelocity, build_net, net_config, new_net
from unflow.training.checks import check_method
from unflow.training.loop import fit
from unflow.training.method import Problem, Training, settings
from unflow.unlearning.problems import RealSamples, select_real_samples

K, FORGET, NULL, N = 3, 1, 3, 6000
COMMON: dict[str, Any] = {"steps": 12, "batch_size": 16, "learning_rate": 3e-3, "average": 0.9}
NET = {"net": "mlp", "shape": [2], "width": 8, "depth": 1, "num_classes": K}
ROWS = {"retrained": Retrain(**COMMON), "retrained_mixture": Retrain(**COMMON, mixture=True)}


def flow(null: int | None = NULL) -> Conditional:
    net = AdaptedVelocity(new_net({**NET, "num_times": 1}, 0), (2,), "x, t, label", label=0)
    return Conditional(Flow(net, (2,), steps=2), SHARES, null)


def flow_map() -> Conditional:
    net = new_net({**NET, "num_times": 2}, 0)
    adapted = AdaptedAverageVelocity(net, (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(adapted, (2,)), SHARES, NULL)


MODELS = {"flow": flow, "flow_map": flow_map}
CASES = [(row, family) for row in sorted(ROWS) for family in sorted(MODELS)]


def retained(n: int = 200) -> Problem:
    x, label = draw_labelled(n)
    kept = label != FORGET
    return Problem(model=flow(), retain=x[kept], retain_labels=label[kept])


def unlearned(model: Conditional, method: Retrain, data: RealSamples, **options: Any) -> Conditional:
    target = uf.Target(model, Unread(f"class {FORGET}"))
    found = uf.unlearn(target, method, data=data, self_measure=0, **options).model
    assert isinstance(found, Conditional)
    return found


def inner_net(model: nn.Module) -> Any:
    assert isinstance(model, Conditional)
    assert isinstance(model.inner, Flow | FlowMap)
    net: Any = model.inner.net
    return net.net


# What a forgotten label learns


TRAININGS: dict[str, Training] = {
    "flow": FlowMatching(steps=150, batch_size=256, learning_rate=0.2, average=0.95, null_share=0.3),
    "flow_map": MeanFlow(
        steps=150, batch_size=256, learning_rate=0.2, average=0.95, null_share=0.3, power=0.0
    ),
}


def known(family: str) -> Conditional:
    """Gaussian classes without a centre yet, but that of the forgotten label."""
    start = torch.zeros(K + 1, 2)
    start[FORGET] = 7.0
    if family == "flow":
        velocity = AdaptedVelocity(Velocities(start), (2,), "x, t, label", label=0)
        return Conditional(Flow(velocity, (2,)), SHARES, NULL)
    average = AdaptedAverageVelocity(Gaussians(start), (2,), "x, start, end, label", label=0)
    return Conditional(FlowMap(average, (2,)), SHARES, NULL)


def learn(family: str, loop: Training) -> Tensor:
    x, label = draw_labelled(N)
    kept = label != FORGET
    centres: Tensor = inner_net(
        fit(loop, Problem(model=known(family), data=x[kept], labels=label[kept])).model
    ).centres
    return centres.detach()


def mixture() -> Tensor:
    p = torch.tensor(SHARES) * (torch.arange(K) != FORGET)
    return p @ CENTRES / p.sum()


@pytest.mark.parametrize("family", sorted(TRAININGS))
def test_a_spare_label_learns_the_mixture_of_all_samples_and_the_others_their_own(family: str) -> None:
    found = learn(family, SpareLabels.around(TRAININGS[family]))
    exact = torch.cat([CENTRES, mixture()[None]])
    exact[FORGET] = mixture()
    torch.testing.assert_close(found, exact, atol=0.2, rtol=0)


@pytest.mark.parametrize("family", sorted(TRAININGS))
def test_a_label_without_samples_is_not_trained(family: str) -> None:
    found = learn(family, TRAININGS[family])
    assert found[FORGET].tolist() == [7.0, 7.0]
    others = torch.arange(K + 1) != FORGET
    exact = torch.cat([CENTRES, mixture()[None]])
    torch.testing.assert_close(found[others], exact[others], atol=0.2, rtol=0)


def test_spare_labels_are_as_frequent_as_their_shares() -> None:
    found = spread_spare(
        torch.zeros(20_000).long(), torch.tensor([4, 2]), torch.tensor([0.1, 0.3]), stream(3)
    )
    shares = torch.bincount(found, minlength=5).double() / len(found)
    assert shares.tolist() == pytest.approx([0.6, 0, 0.3, 0, 0.1], abs=0.015)


def test_a_batch_has_the_shares_of_the_original_and_the_null_condition() -> None:
    problem = retained(4000)
    _, own = ROWS["retrained_mixture"].training(problem, 0)
    loop = SpareLabels.around(FlowMatching(batch_size=2500))
    batch = loop.draw(loop.prepare(own, stream(0)), stream(1))
    shares = torch.bincount(batch["label"], minlength=K + 1).double() / 2500
    assert shares.tolist() == pytest.approx([*(0.9 * p for p in SHARES), 0.1], abs=0.03)


# No forgotten sample is read


def poisoned(n: int) -> LabelledData:
    """Labelled samples, of which every number of a forgotten one is NaN."""
    x, label = draw_labelled(n)
    x[label == FORGET] = torch.nan
    return LabelledData("poisoned", x, label, ["a", "b", "c"])


@pytest.mark.parametrize(("row", "family"), CASES)
def test_no_stage_reads_a_sample_of_the_forgotten_class(row: str, family: str, tmp_path: Path) -> None:
    """A sample that is NaN makes every loss, average or code that contains it NaN."""
    model, method = MODELS[family](), ROWS[row]
    target = uf.Target(model, Unread(f"class {FORGET}"))
    data = select_real_samples(method, target, (FORGET,), poisoned(200), poisoned(60))
    assert data.forget is None
    found = unlearned(model, method, data, out=tmp_path / "out")
    assert all(bool(weight.isfinite().all()) for weight in found.parameters())
    assert read_json(tmp_path / "out" / "lineage.json")["data_used"] == ["retain_images"]


@pytest.mark.parametrize("family", sorted(MODELS))
def test_a_forgotten_sample_that_is_read_is_noticed(family: str) -> None:
    data = poisoned(200)
    with pytest.raises(TrainingDivergedError):
        unlearned(MODELS[family](), ROWS["retrained"], RealSamples(retain=data.x, retain_labels=data.labels))


def test_a_distilled_map_reads_no_sample_at_all() -> None:
    method, model = ROWS["retrained"], flow_map()
    target = uf.Target(model, Unread(f"class {FORGET}"))
    data = select_real_samples(method, target, (FORGET,), poisoned(200), poisoned(60), flow())
    assert data.present() == {}
    found = unlearned(model, method, data, teacher=flow())
    assert all(bool(weight.isfinite().all()) for weight in found.parameters())


# The training


@pytest.mark.parametrize(("row", "family"), CASES)
def test_it_obeys_the_laws_of_methods(row: str, family: str, tmp_path: Path) -> None:
    check_method(ROWS[row], dataclasses.replace(retained(), model=MODELS[family]()), tmp_path)


@pytest.mark.parametrize("family", sorted(MODELS))
def test_the_input_of_a_label_without_samples_keeps_its_initial_weights(family: str) -> None:
    problem = dataclasses.replace(retained(), model=MODELS[family]())
    fresh = new_net(net_config(inner_net(problem.model)), 5)
    columns = {row: inner_net(fit(ROWS[row], problem, seed=5).model).first.weight[:, -K:] for row in ROWS}
    initial: Any = fresh
    same = {row: (found == initial.first.weight[:, -K:]).all(0).tolist() for row, found in columns.items()}
    assert same == {"retrained": [False, True, False], "retrained_mixture": [False, False, False]}


def test_each_family_has_the_training_of_its_original_and_all_labels() -> None:
    method = Retrain(**COMMON, guidance=2.0)
    mean_flow, own = method.training(dataclasses.replace(retained(), model=flow_map()), 0)
    distill, _ = method.training(Problem(model=flow_map(), teacher=flow()), 0)
    matching, _ = Retrain(**COMMON).training(retained(), 0)
    assert [type(each) for each in (mean_flow, distill, matching)] == [MeanFlow, Distill, FlowMatching]
    assert settings(mean_flow)["guidance"] == settings(distill)["guidance"] == 2.0
    assert isinstance(own.model, Conditional)
    assert (own.model.probabilities, own.model.null) == (flow_map().probabilities, NULL)
    assert [r.mixture for r in (UNLEARNERS["retrained"], UNLEARNERS["retrained_mixture"])] == [False, True]  # type: ignore[attr-defined]


class Joined(nn.Module):
    """A velocity that takes a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor, row: Tensor) -> Tensor:
        found: Tensor = self.linear(x) + row
        return found


def named_net() -> nn.Module:
    return build_net({"builder": f"{__name__}:Joined", "options": {}})


def test_the_table_of_conditions_is_kept() -> None:
    """Text embeddings say what a condition is; they are no weights."""
    table = torch.randn(K, 2, generator=stream(1))
    adapted = AdaptedVelocity(named_net(), (2,), "x, t, label", label=0, table=table)
    _, own = Retrain(**COMMON).training(
        dataclasses.replace(retained(), model=Conditional(Flow(adapted, (2,)), SHARES)), 0
    )
    assert isinstance(own.model, Conditional)
    assert isinstance(own.model.inner, Flow)
    found: Any = own.model.inner.net
    assert torch.equal(found.table, table)


# Commands


def test_the_command_retrains_both_ways_and_the_plan_lists_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--settings.steps", "3"]
    net = ["--net", '{"net": "mlp", "width": 16, "depth": 1}']
    assert main(["train", "digits-flow", *net, *small, "--conditional", "true", "--out", "flow"]) == 0
    for row in sorted(ROWS):
        words = ["unlearn", "--model", "flow", "--forget", "3", "--data", "digits", "--method", row]
        assert main([*words, *small, "--out", row]) == 0
        lineage = read_json(Path(row, "lineage.json"))
        assert (lineage["method"], lineage["data_used"]) == (row, ["retain_images"])
        found = uf.load(row)
        assert isinstance(found, Conditional)
        assert found.drawn == list(range(10))
    assert not torch.equal(inner_net(uf.load("retrained")).first.weight, inner_net(found).first.weight)
    capsys.readouterr()
    words = ["plan", "--model", "flow", "--energy", "label:3", "--forget", "3", "--data", "digits"]
    assert main([*words, "--methods", "retrained,retrained_mixture"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("retrained")]
    assert sorted(row for row, _ in rows) == sorted(ROWS)
    assert all(second != "no:" for _, second in rows)


# Bad input


REFUSED: dict[str, tuple[Retrain, Problem, str]] = {
    "no labels": (
        ROWS["retrained"],
        dataclasses.replace(retained(), retain_labels=None),
        "Retrain needs retain_labels",
    ),
    "every label is retained": (
        ROWS["retrained_mixture"],
        dataclasses.replace(retained(), retain=torch.randn(64, 2), retain_labels=torch.arange(64) % K),
        "got retained samples of every label",
    ),
    "a mixture without conditions": (
        ROWS["retrained_mixture"],
        Problem(model=Flow(new_net({**NET, "num_classes": 0}, 0), (2,)), retain=torch.randn(64, 2)),
        "got a model without conditions for Retrain",
    ),
    "a mixture with a teacher": (
        ROWS["retrained_mixture"],
        Problem(model=flow_map(), teacher=flow()),
        "got mixture=True with a teacher",
    ),
    "the guidance of a flow": (
        Retrain(guidance=2.0),
        retained(),
        "got guidance=2 to retrain a flow; expected it for a conditional flow map",
    ),
    "the guidance of a model without conditions": (
        Retrain(guidance=2.0),
        Problem(model=Flow(new_net({**NET, "num_classes": 0}, 0), (2,)), retain=torch.randn(64, 2)),
        "got guidance=2 to retrain a flow without conditions",
    ),
    "an unknown label": (
        ROWS["retrained_mixture"],
        dataclasses.replace(retained(), retain_labels=retained().retain_labels.add(3)),  # type: ignore[union-attr]
        "got the label 5 for a model of 3 conditions",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_does_not_fit_is_refused_in_one_sentence(name: str) -> None:
    method, problem, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        fit(method, problem)
