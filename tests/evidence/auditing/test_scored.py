"""Membership inference and the linear probe in an audit: a memory, and models that never read the class."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attacked_conditions import Half
from torch import Tensor, nn

import unflow as uf
from unflow.data import LabelledData
from unflow.energies import Region
from unflow.evidence.attacks import LatentSearch, LinearProbe, MembershipInference, Relearning
from unflow.evidence.auditing import Attacks, Gate, list_failures
from unflow.evidence.auditing.scored import compare_scores
from unflow.evidence.report import write_report
from unflow.evidence.report.read import read_run
from unflow.evidence.report.terminal import print_audit
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Filtered, Generator
from unflow.models.classifier import Classifier

D = 4
ATTACKS = Attacks(
    relearning=Relearning(steps=1, batch_size=4),
    search=LatentSearch(starts=4, steps=1),
    membership=MembershipInference(images=60, samples=1000, steps=3),
    probe=LinearProbe(images=100, latents=600),
    images=(1,),
    rates=(1e-5, 1e-3),
    retained=4,
    samples=200,
)


def data(seed: int, n: int = 160) -> LabelledData:
    x = torch.randn(n, D, generator=stream(seed))
    return LabelledData("plane", x, (x[:, 0] > 0).long(), ["left", "right"])


TRAIN, HELD_OUT = data(1), data(2)
RIGHT, LEFT = TRAIN.of_classes([1]).x, TRAIN.of_classes([0]).x


class Memory(nn.Module):
    """A point of the training set for each latent: of the class of its first entry, or always left.

    The hidden activations are the latents, or those without the first entry.
    """

    def __init__(self, right: Tensor, hidden: list[int]) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.stack([LEFT[:60], right[:60]]))
        self.inside, self.out = nn.Linear(D, len(hidden), bias=False), nn.Linear(len(hidden), D)
        self.inside.weight.data = torch.eye(D)[hidden]
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor) -> Tensor:
        number = (torch.special.ndtr(z[:, 1]) * 60).long().clamp(max=59)
        found: Tensor = self.points[(z[:, 0] > 0).long(), number] + self.out(self.inside(z))
        return found


def memory(right: Tensor, hidden: list[int]) -> Generator:
    return Generator(Memory(right, hidden), (D,)).eval().requires_grad_(False)


ORIGINAL = memory(RIGHT, [0, 1])
CLEAN = memory(LEFT, [2, 3])
"""It draws left alone, and its activations do not contain the entry that decides the original's class."""
TRACES = memory(LEFT, [0, 1])
"""It draws left alone, with the original's activations."""


def audit(after: Any = TRACES, **options: Any) -> uf.Audit:
    known = {
        "original": ORIGINAL,
        "judge": Classifier(Half(8.0), ["left", "right"]),
        "second_judge": Classifier(Half(5.0), ["left", "right"]),
        "held_out": HELD_OUT,
        "training": TRAIN,
        "forget": [1],
        "n": 300,
        "repeats": 0,
        "attacks": ATTACKS,
    }
    return uf.audit(after, **known | options)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, uf.Audit]:
    out = tmp_path_factory.mktemp("scored")
    return out, audit(retrained=CLEAN, out=out)


def scores(result: uf.Audit, attack: str, row: str, score: str) -> dict[str, Any]:
    assert result.attacks is not None
    one: dict[str, Any] = result.attacks[attack][row]["scores"][score]
    return one


def test_a_memory_tells_its_training_images_and_a_clean_model_does_not(found: tuple[Path, uf.Audit]) -> None:
    result = found[1]
    low, _ = scores(result, "membership", "original", "distance")["interval"]
    assert low > 0.7  # it holds 60 of about 80 training points of the class: 0.75 + 0.25 / 2
    assert scores(result, "membership", "original", "distance")["worse"]
    for row in ("retrained", "unlearned"):
        one = scores(result, "membership", row, "distance")
        low, high = one["interval"]
        assert abs(one["auc"] - 0.5) < high - low  # four standard errors
    assert scores(result, "membership", "unlearned", "distance")["difference"] == 0
    assert result.attacks is not None
    assert result.attacks["membership"]["unlearned"]["positive"] == 60


def test_activations_that_still_hold_the_class_are_worse_than_retrained(found: tuple[Path, uf.Audit]) -> None:
    result = found[1]
    ours, clean = (scores(result, "linear_probe", row, "last") for row in ("unlearned", "retrained"))
    assert ours["auc"] > 0.999
    assert clean["interval"][0] < 0.5 < clean["interval"][1]
    assert ours["worse"]
    assert ours["resolved"]
    assert "worse" not in clean


def test_the_verdict_keeps_its_grade_and_is_qualified(found: tuple[Path, uf.Audit]) -> None:
    first, _, undone, *_ = found[1].verdict()
    assert first.startswith(
        "Forgotten, but worse than retrained (a linear probe in the last layer: AUC 1.00, 0."
    )
    assert " in the retrained model): 0 % " in first
    assert "Membership inference tells training images of it from other images of it with AUC 0." in undone
    assert "A linear probe tells it from the other classes by hidden activations with AUC 1.00 [" in undone
    same = audit(CLEAN, retrained=CLEAN).verdict()
    assert same.forgotten.startswith("Forgotten: ")
    alone = audit().verdict()
    assert alone.forgotten.startswith("Less than before: ")
    assert "in the retrained model" not in alone.undone


def test_gates_the_page_and_the_terminal_have_the_numbers(
    found: tuple[Path, uf.Audit], capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = found
    row = result.row()
    assert list_failures([Gate.parse("attacked.linear_probe_last>0.9")], row)
    assert list_failures([Gate.parse("attacked.worse_than_retrained>=1")], row)
    assert row.require("attacked.intervals.membership_distance.low") < 0.5
    with pytest.raises(
        InputError, match=r"attacked\.membership_null_loss, which this audit has not measured"
    ):
        list_failures([Gate.parse("attacked.membership_null_loss>0.6")], row)
    assert json.loads((out / "audit.json").read_text())["attacks"]["linear_probe"]["unlearned"]["scores"]
    assert read_run(out).rows
    print_audit(result.as_dict())
    printed = capsys.readouterr().out
    page = write_report(out).read_text(encoding="utf-8")
    assert "what the weights tell: AUC" in printed
    for words in (
        'aria-label="Relearning at other rates"',
        "rate 0.001",
        'aria-label="Membership and probe"',
        "probe: last layer",
        "1.00 [1.00, 1.00]*",
    ):
        assert words in page
    assert "1.00 [1.00, 1.00]*" in printed


def test_where_an_attack_is_impossible_the_audit_says_why() -> None:
    few = HELD_OUT.rows(
        torch.cat([(HELD_OUT.labels == 1).nonzero()[:5, 0], (HELD_OUT.labels == 0).nonzero()[:, 0]])
    )
    filtered = Filtered(ORIGINAL, Region(lambda x: x[:, 0] > 0, height=20.0))
    result = audit(filtered, held_out=few)
    undone = result.verdict().undone
    assert "Membership inference was not possible: a part of the data has 5 images" in undone
    assert "A linear probe was not possible: a Filtered contains the activations of another model." in undone
    assert result.attacks is not None
    assert result.attacks["membership"]["unlearned"] == {
        "obstacle": "a part of the data has 5 images of the forgotten classes, of 10 or more"
    }


def pair(shift: float, seed: int, n: int = 100) -> list[list[float]]:
    generator = stream(seed)
    return [
        (torch.randn(n, generator=generator) + shift).tolist(),
        torch.randn(n, generator=generator).tolist(),
    ]


def test_a_row_that_equals_the_retrained_one_is_rarely_called_worse() -> None:
    """Two scores of each row, of independent noise: at most 5 % of the rows, by Bonferroni's correction."""
    worse, runs = 0, 300
    for k in range(runs):
        records = {
            row: {"scores": {"distance": pair(0.0, 4 * k + j), "loss": pair(0.0, 4 * k + 2 + j)}}
            for j, row in enumerate(("unlearned", "retrained"))
        }
        found = compare_scores(records)["unlearned"]["scores"]
        worse += any(each["worse"] for each in found.values())
    assert worse / runs <= 0.06


def test_a_score_below_a_half_is_an_attack_as_well() -> None:
    records = {
        "unlearned": {"scores": {"loss": pair(-2.0, 1)}},
        "retrained": {"scores": {"loss": pair(0.0, 2)}},
    }
    assert compare_scores(records)["unlearned"]["scores"]["loss"]["worse"]
    swapped = {"unlearned": records["retrained"], "retrained": records["unlearned"]}
    assert not compare_scores(swapped)["unlearned"]["scores"]["loss"]["worse"]


def test_scores_of_images_are_not_compared_with_scores_of_latents() -> None:
    records: dict[str, Any] = {
        "unlearned": {"points": "images", "scores": {"last": pair(2.0, 1)}},
        "retrained": {"points": "latents", "scores": {"last": pair(0.0, 2)}},
    }
    assert "worse" not in compare_scores(records)["unlearned"]["scores"]["last"]


def test_attacks_repeat_to_the_bit() -> None:
    quick = dataclasses.replace(ATTACKS, probe=LinearProbe(images=20, latents=100))
    first, again = (audit(attacks=quick).attacks for _ in range(2))
    assert first == again
