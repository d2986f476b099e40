"""The audit asks: shares, distances and verdict of conditional models whose law per label is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.data import LabelledData
from unflow.energies import CallableEnergy, ConditionEnergy
from unflow.evidence.auditing import Gate, list_failures
from unflow.evidence.auditing.asked import Questions, find_neighbours, plan_questions
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.auditing.gates import ASKED, NUMBERS
from unflow.evidence.report.read import read_run
from unflow.evidence.report.terminal import print_audit
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.shares import share_interval
from unflow.models import Conditional, Flow, Generator
from unflow.models.classifier import Classifier
from unflow.nets import AdaptedGenerator, AdaptedVelocity

K, FORGET, SIGMA = 5, 3, 0.15
ANGLES = torch.tensor([350.0, 72.0, 144.0, 216.0, 270.0]) * math.pi / 180
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
"""Label 4 is nearest to the forgotten 3, then 2, then 0."""


class Mixture(nn.Module):
    """Label c draws the Gaussian k with the chance ``law[c, k]``; the last row is the null condition."""

    law: Tensor
    centres: Tensor

    def __init__(self, law: Tensor) -> None:
        super().__init__()
        self.register_buffer("law", law)
        self.register_buffer("centres", CENTRES.clone())

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        place = torch.special.ndtr(z[:, :1].double())
        k = (place > self.law.double().cumsum(1)[label]).sum(1).clamp(max=K - 1)
        return self.centres[k] + SIGMA * z[:, 1:3]


class Nearest(nn.Module):
    """Logits of the classes by their distance; the features are the point itself."""

    def __init__(self, order: tuple[int, ...] = tuple(range(K))) -> None:
        super().__init__()
        self.centres = nn.Parameter(CENTRES[list(order)].clone())

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return -3 * (x[:, None] - self.centres).square().sum(-1)


def judge(order: tuple[int, ...] = tuple(range(K))) -> Classifier:
    return Classifier(Nearest(order), list("abcde"))


CHANCES = [0.245, 0.245, 0.245, 0.02, 0.245]
"""Label 3 is rare, so the marginal rate says little of it."""


def law(forgotten: float = 1.0, null: float | None = None, own: float = 1.0) -> Tensor:
    """The original's law, with P(3 | 3) = ``forgotten`` and P(k | k) = ``own``, P(k + 1 | k) = 1 - own."""
    found = torch.eye(K)
    found[FORGET] = (1 - forgotten) / (K - 1)
    found[FORGET, FORGET] = forgotten
    for k in range(K):
        if k != FORGET:
            found[k, k], found[k, (k + 1) % K] = own, 1 - own
    p = torch.tensor(CHANCES)
    if null is not None:
        p = torch.full((K,), (1 - null) / (K - 1))
        p[FORGET] = null
    return torch.cat([found, p[None]])


def model(table: Tensor, chances: list[float] | None = None) -> Conditional:
    inner = Generator(AdaptedGenerator(Mixture(table), (3,)), (3,))
    return Conditional(inner, CHANCES if chances is None else chances, null=K)


def points(seed: int, n: int = 400) -> LabelledData:
    labels = torch.arange(n) % K
    x = CENTRES[labels] + SIGMA * torch.randn(n, 2, generator=stream(seed))
    return LabelledData("points", x, labels, list("abcde"))


def near_forgotten(x: Tensor) -> Tensor:
    """30 nats at the forgotten Gaussian, 0 elsewhere."""
    return 30.0 * (torch.cdist(x, CENTRES).argmin(1) == FORGET).float()


def audit(after: uf.GenerativeModel, **options: Any) -> uf.Audit:
    before = options.pop("original", model(law()))
    known = {
        "original": before,
        "judge": judge(),
        "held_out": points(1),
        "training": points(2),
        "target": uf.Target(before, CallableEnergy(near_forgotten, 0.0)),
        "forget": [FORGET],
        "n": 1000,
        "repeats": 0,
    }
    return uf.audit(after, **known | options)


def test_a_model_that_still_draws_the_label_it_is_asked_for_is_not_forgotten() -> None:
    """Labels 0 to 2 no longer draw the class, so the marginal rate falls from 9 % to 2 %; its label does."""
    table = law()
    table[:FORGET] = 0.9 * table[:FORGET]
    table[:FORGET, FORGET] = 0.1
    found = audit(model(law()), original=model(table), ask_n=1000, n=4000)
    row = found.row()
    assert row.require("forget_rate") == pytest.approx(CHANCES[FORGET], abs=0.01)
    assert row.require("asked.forgotten") > 0.99
    assert list_failures([Gate.parse("forget_rate>0.03")], row) == []
    (failure,) = list_failures([Gate.parse("asked.forgotten>0.02")], row)
    assert failure == "asked.forgotten>0.02: it is 1"
    verdict = found.verdict()
    assert verdict.forgotten.startswith("Not forgotten where it is asked for; at random, partly forgotten: ")
    assert verdict.asked.startswith("Asked for d, it still draws it: 100 % [99.6, 100] of the samples are d")


def test_a_share_between_the_original_and_the_target_is_partly_forgotten() -> None:
    found = audit(model(law(0.3)), ask_n=500)
    share = found.row().require("asked.forgotten")
    assert 0.3 in share_interval(share * 500, 500)
    assert found.verdict().asked.startswith("Asked for d, it draws it less often: ")


def test_the_answers_are_the_known_law_before_and_after() -> None:
    found = audit(model(law(0.1, null=0.05, own=0.9)), ask_n=3000).as_dict()
    asked = {row["method"]: row["asked"] for row in found["rows"]}
    goal = asked["target"]

    def within(value: float, exact: float, n: int) -> bool:
        return abs(value - exact) <= 4 * math.sqrt(exact * (1 - exact) / n) + 1e-3

    assert (asked["original"]["forgotten"], asked["original"]["own"]) == pytest.approx((1.0, 1.0), abs=2e-3)
    assert within(asked["unlearned"]["forgotten"], 0.1, 3000)
    assert within(asked["unlearned"]["own"], 0.9, 12_000)
    assert within(asked["unlearned"]["null"], 0.05, 3000)
    assert within(asked["original"]["null"], CHANCES[FORGET], 3000)
    assert (goal["forgotten"], goal["null"]) == (0.0, 0.0)
    assert asked["unlearned"]["ua"] == pytest.approx(1 - asked["unlearned"]["forgotten"])
    assert asked["unlearned"]["ra"] == asked["unlearned"]["own"]
    for record in asked["unlearned"]["conditions"]:
        low, high = record["forgotten_interval"]
        assert low <= record["forgotten"] <= high
        if record["label"] not in ("null", FORGET):
            assert within(record["own"], 0.9, 3000)
    assert [record["label"] for record in goal["conditions"]] == [0, 1, 2, 3, 4, "null"]


def test_the_distance_of_a_label_is_that_of_two_gaussians() -> None:
    """Label 0 shifted by 0.2 of the distance to label 1: the squared shift, at equal covariances."""

    class Shifted(Mixture):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            return super().forward(z, label) + 0.3 * (label == 0)[:, None]

    after = Conditional(Generator(AdaptedGenerator(Shifted(law()), (3,)), (3,)), CHANCES, null=K)
    found = audit(after, ask_n=2000).row().asked
    assert found is not None
    by_label = {record["label"]: record for record in found["conditions"]}
    assert by_label[0]["fd_target"] == pytest.approx(2 * 0.3**2, rel=0.1)
    assert by_label[0]["fd_real"] == pytest.approx(2 * 0.3**2, rel=0.3)
    assert by_label[1]["fd_target"] < 1e-3


def test_what_is_unchanged_is_at_the_floor_and_what_is_the_target_is_forgotten() -> None:
    exact = law(0.0)
    exact[FORGET] = torch.tensor(CHANCES)
    exact[FORGET, FORGET] = 0
    exact[FORGET] /= exact[FORGET].sum()
    exact[K] = exact[FORGET]
    found = audit(model(exact))
    row, target = found.row().asked, found.rows[2].asked
    assert row is not None
    assert target is not None
    assert (row["forgotten"], row["null"]) == (0.0, 0.0)
    assert row["fd_target"] < 3 * target["fd_target"]
    assert "it no longer draws it" in found.verdict().asked
    assert found.verdict().forgotten.startswith("Forgotten")


def test_neighbours_are_those_that_the_judge_confuses_most() -> None:
    evidence = Evidence(judge(), [FORGET], points(1), points(2))
    assert find_neighbours(evidence, range(K)) == [4, 2, 0]
    found = audit(model(law(0.0, own=0.9)))
    assert found.as_dict()["questions"]["neighbours"] == [4, 2, 0]
    assert found.verdict().neighbours.startswith(
        "The judge's nearest other classes are drawn when they are asked for: e in "
    )


class Steered(nn.Module):
    """A constant velocity, so that guidance g carries label c to x + g centre(c)."""

    def __init__(self, forgets: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.forgets = forgets

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        centres = torch.cat([CENTRES, torch.zeros(1, 2)])
        if self.forgets:
            centres[FORGET] = 0.4 * CENTRES[FORGET] + 0.6 * CENTRES[0]
        return self.scale * centres[label].expand(len(x), -1)


def test_a_flow_is_asked_at_three_guidances() -> None:
    def flow(forgets: bool) -> Conditional:
        net = AdaptedVelocity(Steered(forgets), (2,), "x, t, label", label=0, null_label=K)
        return Conditional(Flow(net, (2,), steps=2), [1 / K] * K)

    found = audit(flow(True), original=flow(False), n=500, ask_n=200)
    asked = {row.method: row.asked for row in found.rows if row.asked}
    assert found.as_dict()["questions"]["guidance"] == [1.0, 2.0, 4.0]
    before = asked["original"]["guidance"]
    assert before["1"] < before["2"] < before["4"]  # guidance carries the samples out to the centre
    assert asked["unlearned"]["guided"] == max(asked["unlearned"]["guidance"].values())
    assert asked["target"]["guidance"] == {}
    assert "by guidance" in found.verdict().asked


def test_a_generator_has_no_guidance() -> None:
    found = audit(model(law(0.0)))
    assert found.as_dict()["questions"]["guidance"] == []
    with pytest.raises(InputError, match=r"got a gate on asked\.guided, which this audit has not measured"):
        list_failures([Gate.parse("asked.guided>0.02")], found.row())


# Work


def test_all_questions_together_draw_no_more_than_a_row_of_the_audit() -> None:
    evidence = Evidence(judge(), [FORGET], points(1), points(2))
    found = plan_questions(model(law()), model(law()), evidence, 6000)
    assert found is not None
    assert (found.labels, found.null, found.n) == (tuple(range(K)), True, 1000)


def test_of_many_labels_the_forgotten_ones_their_neighbours_and_some_others_are_asked() -> None:
    k = 200

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def features(self, x: Tensor) -> Tensor:
            return x

        def forward(self, x: Tensor) -> Tensor:
            return -self.scale * (x[:, :1] - torch.arange(k)).square()

    class Line(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            return label[:, None] + 0.1 * z

    inner = Generator(AdaptedGenerator(Line(), (1,)), (1,))
    wide = Conditional(inner, [1 / k] * k)
    x = torch.arange(k)[:, None].float()
    data = LabelledData("line", x, torch.arange(k), [str(i) for i in range(k)])
    evidence = Evidence(Classifier(Wide(), [str(i) for i in range(k)]), [100], data, data)
    found = plan_questions(wide, wide, evidence, 2000)
    assert found is not None
    assert (len(found.labels), found.n) == (40, 50)
    assert {100, *found.neighbours} <= set(found.labels)
    assert set(found.neighbours) >= {99, 101}
    assert found.num_conditions == k


def test_too_few_samples_of_a_label_are_refused() -> None:
    with pytest.raises(InputError, match="got ask_n=10 samples of each condition; expected 50 or more"):
        audit(model(law()), ask_n=10)


# What was not asked


class FewClasses(Nearest):
    """The first four logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :4]


def few() -> dict[str, Any]:
    data = points(1)
    keep = data.labels < 4
    four = dataclasses.replace(data, x=data.x[keep], labels=data.labels[keep], class_names=list("abcd"))
    return {"judge": Classifier(FewClasses(), list("abcd")), "held_out": four}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ask": False}, "it was left out (`--ask false`)"),
        (few(), "the judge has 4 classes and the model 5 conditions"),
        ({"judge": judge((1, 2, 3, 4, 0))}, "the judge's classes do not match the labels (asked for label 0"),
        (
            {"original": model(law(), [0.25, 0.25, 0.25, 0.0, 0.25]), "target": None},
            "the original draws no label 3",
        ),
    ],
)
def test_an_audit_that_did_not_ask_says_so(options: dict[str, Any], words: str) -> None:
    found = audit(model(law(0.0)), **options)
    assert found.row().asked is None
    assert found.verdict().asked.startswith("The model is conditional, but was not asked for its labels: ")
    assert words in found.verdict().asked
    with pytest.raises(
        InputError, match=r"got a gate on asked\.forgotten, which this audit has not measured"
    ):
        list_failures([Gate.parse("asked.forgotten>0.02")], found.row())


def test_a_label_that_is_no_longer_drawn_is_not_forgotten_by_that() -> None:
    found = audit(model(law(), [0.25, 0.25, 0.25, 0.0, 0.25]))
    assert "the audited model draws no label 3, though its network may still know it" in found.verdict().asked


def test_a_model_without_conditions_has_no_such_sentence() -> None:
    class Plain(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return CENTRES[(z[:, 0].abs() * 50).long() % K] + SIGMA * z[:, 1:3]

    plain = Generator(Plain(), (3,))
    found = audit(plain, original=plain, target=None)
    assert (found.questions, found.as_dict()["questions"]) == (None, None)
    assert (found.verdict().asked, found.verdict().neighbours) == ("", "")
    assert len(found.as_dict()["verdicts"]["generator-unlearned"]) == 3


def test_a_weak_model_is_no_judge_of_other_classes() -> None:
    weak = law(0.3)
    weak[:FORGET] = 0.1 + 0.2 * torch.eye(K)[:FORGET] + 0.2 * torch.eye(K)[4]
    collapsed = torch.zeros(K + 1, K)
    collapsed[:, 1] = 0.9
    collapsed[:, FORGET] = 0.1
    for table in (weak, collapsed):
        assert audit(model(table), original=model(table)).row().asked is not None


# Files


def test_the_energy_of_a_label_is_audited_and_asked(tmp_path: Path) -> None:
    before = model(law())
    target = uf.Target(before, ConditionEnergy([FORGET]))
    found = audit(model(law(0.0)), original=before, target=target, out=tmp_path / "run")
    assert found.row().asked is not None
    assert (tmp_path / "run" / "samples" / "generator-unlearned-asked.npz").is_file()


def test_the_answers_are_written_read_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = audit(model(law(0.3)), out=tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert [row.asked for row in run.rows] == [row.asked for row in found.rows]
    print_audit(found.as_dict())
    printed = capsys.readouterr().out
    assert "asked for each label" in printed
    assert "d (forgotten)" in printed
    assert "e (neighbour)" in printed


def test_every_gate_of_an_answer_is_a_number_of_the_row() -> None:
    net = AdaptedVelocity(Steered(), (2,), "x, t, label", label=0, null_label=K)
    flow = Conditional(Flow(net, (2,), steps=2), [1 / K] * K)
    row = audit(flow, original=flow, n=200, ask_n=50).row()
    assert {f"asked.{name}" for name in ASKED} <= set(NUMBERS)
    assert {f"asked.{name}" for name in ASKED} <= row.numbers().keys()
    assert {name for name in NUMBERS if name.startswith("asked.")} == {
        name for name in row.numbers() if name.startswith("asked.")
    }


def test_questions_without_labels_are_none() -> None:
    assert Questions(obstacle="no").as_dict()["labels"] == []
