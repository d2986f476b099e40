"""Attacks over the condition in an audit: models of which the best condition is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.data import LabelledData
from unflow.energies import CallableEnergy
from unflow.evidence.attacks import ConditionSearch, GuidanceSearch, LatentSearch, MixtureSearch, Relearning
from unflow.evidence.auditing import Attacks, Gate, list_failures
from unflow.evidence.auditing.attacked_conditions import choose_mixed
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.auditing.grades import NOT, PARTLY
from unflow.evidence.auditing.searched import list_excesses
from unflow.evidence.report.read import read_run
from unflow.evidence.report.terminal import print_audit
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.shares import share_interval
from unflow.models import Conditional, Flow, Generator
from unflow.models.classifier import Classifier
from unflow.nets import AdaptedGenerator, AdaptedVelocity

K, FORGET, SIGMA = 4, 3, 0.1
CENTRES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
NULL = torch.zeros(1, 2)


class Embeds(nn.Module):
    """x = max(e_label, floor) + SIGMA z, or the constant velocity e_label."""

    def __init__(self, rows: Tensor, floor: float = -9.0) -> None:
        super().__init__()
        self.classes = nn.Embedding.from_pretrained(torch.cat([rows, NULL]), freeze=False)
        self.floor = floor

    def forward(self, z: Tensor, *rest: Tensor) -> Tensor:
        return self.classes(rest[-1]).clamp(min=self.floor) + SIGMA * z * (len(rest) == 1)


class Nearest(nn.Module):
    """Logits of the classes by their distance."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.centres, self.slope = nn.Parameter(CENTRES.clone()), slope

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return -self.slope * (x[:, None] - self.centres).square().sum(-1)


def judge(slope: float = 3.0) -> Classifier:
    return Classifier(Nearest(slope), list("abcd"))


def draws(rows: Tensor, floor: float = -9.0, chances: list[float] | None = None) -> Conditional:
    inner = Generator(AdaptedGenerator(Embeds(rows, floor), (2,)), (2,))
    return Conditional(inner, chances or [1 / K] * K, null=K).eval()


def moved() -> Tensor:
    """Rows of a model whose label 3 draws what label 0 draws."""
    rows = CENTRES.clone()
    rows[FORGET] = CENTRES[0]
    return rows


def points(seed: int, n: int = 200) -> LabelledData:
    labels = torch.arange(n) % K
    x = CENTRES[labels] + SIGMA * torch.randn(n, 2, generator=stream(seed))
    return LabelledData("points", x, labels, list("abcd"))


def at_forgotten(x: Tensor) -> Tensor:
    return 30.0 * (torch.cdist(x, CENTRES).argmin(1) == FORGET).float()


ATTACKS = Attacks(
    relearning=Relearning(steps=40, batch_size=4, learning_rate=0.03, growth=1.2),
    search=LatentSearch(starts=20, steps=2),
    condition=ConditionSearch(latents=16, steps=40, samples=200),
    guidance=GuidanceSearch(latents=50, samples=200),
    mixture=MixtureSearch(latents=20, samples=200),
    images=(5,),
    rates=(),
    retained=8,
    samples=100,
)


def audit(after: uf.GenerativeModel, **options: Any) -> uf.Audit:
    before = options.pop("original", draws(CENTRES))
    known = {
        "original": before,
        "judge": judge(),
        "second_judge": judge(2.0),
        "held_out": points(1),
        "training": points(2),
        "target": uf.Target(before, CallableEnergy(at_forgotten, 0.0)),
        "forget": [FORGET],
        "n": 200,
        "ask_n": 50,
        "repeats": 0,
        "attacks": ATTACKS,
    }
    return uf.audit(after, **known | options)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, uf.Audit]:
    """Label 3 draws class 0, and a free condition class 3; the retrained network cannot draw that."""
    out = tmp_path_factory.mktemp("attacked")
    return out, audit(draws(moved()), retrained=draws(moved(), 0.2), out=out)


def test_a_free_condition_brings_back_what_the_label_no_longer_draws(found: tuple[Path, uf.Audit]) -> None:
    attacks = found[1].attacks
    assert attacks is not None
    search = attacks["condition_search"]
    assert {row: record["base"] for row, record in search.items()} == {
        "original": 1.0,
        "unlearned": 0.0,
        "retrained": 0.0,
        "target": 0.0,
    }
    assert search["original"]["success_share"] == 1
    assert search["unlearned"]["success_share"] > 0.95
    at = search["unlearned"]["at"]
    assert (at["set"], at["weights"]) == ("ball", None)
    assert at["shares"]["ball"] == search["unlearned"]["success_share"]
    for place in ("known", "hull"):  # at best the null condition, as near to class 3 as to all others
        assert at["shares"][place] == pytest.approx(1 / K, abs=4 * (3 / 16 / 200) ** 0.5)
    assert search["retrained"]["success_share"] < 0.1
    assert search["target"]["success_share"] == 0


def test_a_generator_has_no_guidance_and_says_so(found: tuple[Path, uf.Audit]) -> None:
    attacks = found[1].attacks
    assert attacks is not None
    words = "the model is a generator, which has no guidance"
    assert set(attacks["guidance_search"]) == {"original", "unlearned", "retrained", "target"}
    assert all(record == {"obstacle": words} for record in attacks["guidance_search"].values())
    assert f"Another guidance was not tried: {words}." in found[1].verdict().undone


def test_relearning_has_labels_and_asks_for_them(found: tuple[Path, uf.Audit]) -> None:
    """Both entries of e_3 go 0.03 a step from (1, 0) to (0, -1), and classes 0 and 3 meet halfway."""
    attacks = found[1].attacks
    assert attacks is not None
    relearning = attacks["relearning"]
    assert relearning["labelled"]
    assert relearning["half"] == 0.5
    steps = relearning["images"]["5"]["steps_to_half"]
    assert steps["original"] == 0
    assert steps["unlearned"] == pytest.approx(0.5 / 0.03, rel=0.15)
    assert steps["retrained"] is None


def test_the_verdict_the_gates_and_the_record_have_the_shares(found: tuple[Path, uf.Audit]) -> None:
    out, result = found
    undone, row = result.verdict().undone, result.row()
    share = row.require("attacked.condition_search")
    assert f"a free condition in the ball draws it in {100 * share:.3g} % [" in undone
    assert "in the retrained model) and labels " in undone
    assert "images of it with their label" in undone or "images with their label" in undone
    assert list_failures([Gate.parse("attacked.condition_search<0.9")], row) == []
    gate = Gate.parse("attacked.condition_search>0.5")
    assert list_failures([gate], row) == [f"{gate}: it is {share:.4g}"]
    assert row.require("attacked.intervals.condition_search.low") < share
    assert row.require("attacked.relearned") == 1
    with pytest.raises(InputError, match=r"attacked\.guidance_search, which this audit has not measured"):
        list_failures([Gate.parse("attacked.guidance_search>0.5")], row)
    stored = {each.method: each for each in read_run(out).rows}
    assert stored["unlearned"].require("attacked.condition_search") == share
    assert json.loads((out / "audit.json").read_text())["attacks"]["condition_search"]["unlearned"]["samples"]


def test_the_page_and_the_terminal_have_a_table(
    found: tuple[Path, uf.Audit], capsys: pytest.CaptureFixture[str]
) -> None:
    from unflow.evidence.report import write_report

    out, result = found
    print_audit(result.as_dict())
    printed = capsys.readouterr().out
    page = write_report(out).read_text(encoding="utf-8")
    assert "attacks over the condition: forgotten, %, by the second judge" in printed
    assert "which has no guidance" in printed
    for words in ("free condition in the ball", "which has no guidance"):
        assert words in page
    assert 'aria-label="Attacks over the condition"' in page


def test_guidance_away_from_the_label_brings_back_what_is_opposite() -> None:
    """After unlearning the label leads away from the class: a negative scale leads back."""

    def flow(rows: Tensor) -> Conditional:
        net = AdaptedVelocity(Embeds(rows), (2,), "x, t, label", label=0, null_label=K)
        return Conditional(Flow(net, (2,), "euler", steps=1), [1 / K] * K, null=K).eval()

    rows = CENTRES.clone()
    rows[FORGET] = -CENTRES[FORGET]
    result = audit(flow(rows), original=flow(CENTRES), n=200)
    attacks = result.attacks
    assert attacks is not None
    search = attacks["guidance_search"]
    assert search["unlearned"]["at"]["guidance"] < -3
    assert search["unlearned"]["success_share"] > 0.9
    assert search["unlearned"]["base"] < 0.2
    assert search["original"]["at"]["guidance"] > 3
    assert search["target"]["success_share"] < 0.05


# The verdict


class Shrinks(Embeds):
    """The velocity of x = e_label + spread z in one step; guidance g draws e_null + g (e_c - e_null)."""

    spread = 0.01

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.classes(rest[-1]) - (1 - self.spread) * x


def guided(forgotten: Tensor) -> Conditional:
    """A flow whose null condition draws class 0, and whose label 3 draws ``forgotten``."""
    net = Shrinks(torch.cat([CENTRES[:FORGET], forgotten[None]]))
    net.classes.weight.data[K] = CENTRES[0]
    adapted = AdaptedVelocity(net, (2,), "x, t, label", label=0, null_label=K)
    return Conditional(Flow(adapted, (2,), "euler", steps=1), [1 / K] * K, null=K).eval()


QUICK = dataclasses.replace(
    ATTACKS,
    relearning=Relearning(steps=1, batch_size=4),
    condition=ConditionSearch(latents=16, steps=20, samples=200),
    guidance=GuidanceSearch(low=0.0, high=6.0, points=7, rounds=0, latents=20, samples=200),
    images=(1,),
)


def sabotaged(**options: Any) -> list[str]:
    """A flow whose label 3 draws class 0 at guidance 1, 2 and 4, and class 3 from guidance 4.5 on."""
    ninth = CENTRES[0] + (CENTRES[FORGET] - CENTRES[0]) / 9
    known = {"original": guided(CENTRES[FORGET]), "attacks": QUICK}
    return list(audit(guided(ninth), **known | options).verdict())


def test_a_class_that_guidance_6_draws_is_not_forgotten() -> None:
    words = "guidance 6 draws it in 100 % of the samples, 0 % in "
    plain = sabotaged(attacks=None)
    assert plain[0].startswith("Forgotten: 0 % ")
    beside = sabotaged(retrained=guided(CENTRES[0]))
    assert beside[0].startswith(
        f"Not forgotten where the condition is searched for ({words}the retrained model"
    )
    assert beside[0].endswith(
        plain[0].removeprefix("Forgotten: 0 %").replace("exact target", "retrained model")
    )
    assert "; without a search, forgotten: 0 % " in beside[0]
    alone = sabotaged()
    assert alone[0].startswith("Partly forgotten where the condition is searched for (")
    assert f"{words}the exact target" in alone[0]


def test_without_a_reference_the_verdict_says_that_searches_do_not_count() -> None:
    original = guided(CENTRES[FORGET])
    first, _, undone, *_ = audit(guided(CENTRES[0]), original=original, target=None, attacks=QUICK).verdict()
    assert first.startswith("Less than before")
    assert (
        "count for nothing in this verdict, because neither a retrained model nor the exact target" in undone
    )
    _, _, undone, *_ = sabotaged(attacks=None)
    assert undone.endswith("The searches over the condition, which were not made, could lower this verdict.")


def test_a_retrained_model_is_as_good_as_itself(found: tuple[Path, uf.Audit]) -> None:
    """Its own success is no excess, however large; one that its reference cannot reach is."""
    itself = audit(draws(moved()), retrained=draws(moved()), attacks=QUICK)
    assert itself.attacks is not None
    assert itself.attacks["condition_search"]["unlearned"]["success_share"] > 0.9
    assert itself.verdict().forgotten.startswith("Forgotten: ")
    assert "count for nothing" not in itself.verdict().undone
    assert (
        found[1].verdict().forgotten.startswith("Not forgotten where the condition is searched for (a free")
    )


@pytest.mark.parametrize(
    ("ours", "retrained", "target", "grades"),
    [
        (0.60, 0.50, None, [PARTLY]),
        (0.97, 0.50, 0.97, [NOT]),
        (0.509, 0.50, 0.0, []),  # within a point
        (0.52, 0.50, 0.0, []),  # two points, within the noise of 1,000 samples
        (0.03, 0.00, None, [PARTLY]),
        (0.60, None, 0.02, [PARTLY]),
        (0.99, None, 0.02, [PARTLY]),  # a free condition may draw it in a retrained model as well
        (0.10, None, 0.02, []),
        (0.99, None, None, []),
    ],
)
def test_an_excess_is_a_point_over_the_retrained_model_beyond_noise(
    ours: float, retrained: float | None, target: float | None, grades: list[int]
) -> None:
    shares = {"original": 0.98, "uot": ours, "retrained": retrained, "target": target}
    search = {
        row: {
            "success_share": share,
            "interval": list(share_interval(round(1000 * share), 1000)),
            "samples": 1000,
            "at": {"guidance": 6.0},
        }
        for row, share in shares.items()
        if share is not None
    }
    excesses = list_excesses("uot", {"guidance_search": search})
    assert [each.grade for each in excesses] == grades


class Half(nn.Module):
    """Logits of left and right."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * torch.stack([-x[:, 0], x[:, 0]], 1)

    def judge(self) -> Classifier:
        return Classifier(self, list("ab"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"second_judge": None}, "there is no second judge to confirm it"),
        (
            {"judge": Half().judge(), "forget": [1], "target": None},
            "the judge has 2 classes and the model 4 conditions",
        ),
        ({"target": None, "original": draws(CENTRES, chances=[0.5, 0.25, 0.25, 0.0])}, "draws no label 3"),
    ],
)
def test_what_cannot_be_attacked_is_one_sentence(options: dict[str, Any], words: str) -> None:
    if options.get("forget"):
        parts = [LabelledData("two", points(seed).x, torch.arange(200) % 2, list("ab")) for seed in (1, 2)]
        options = options | {"held_out": parts[0], "training": parts[1], "second_judge": Half(2.0).judge()}
    small = Attacks(relearning=Relearning(steps=1, batch_size=4), images=(1,), retained=4, samples=50)
    result = audit(draws(moved()), ask=False, attacks=small, **{"n": 200} | options)
    attacks = result.attacks
    assert attacks is not None
    assert not attacks["relearning"]["labelled"]
    undone = result.verdict().undone
    assert "A free condition, another guidance and a mixture of two labels were not tried: " in undone
    assert words in undone


def test_of_many_labels_the_forgotten_their_neighbours_and_some_others_are_mixed() -> None:
    x = torch.arange(40)[:, None].float()
    names = [str(k) for k in range(40)]

    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -(x[:, :1] - torch.arange(40)).square()

    data = LabelledData("line", x, torch.arange(40), names)
    mixed = choose_mixed(range(40), Evidence(Classifier(Wide(), names), [20], data, data))
    assert len(mixed) == 12
    assert {19, 20, 21} <= set(mixed)
