"""The audit's own arithmetic: the judge's record, the notes, and whole audits of tiny models."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.data import LabelledData
from unflow.energies import ClassLogOdds
from unflow.evidence import metrics
from unflow.evidence.auditing import (
    MIN_SAMPLES,
    Attacks,
    Entry,
    Evidence,
    FamilyAudit,
    Samples,
    find_notes,
    judge_record,
)
from unflow.evidence.auditing import record as auditing_record
from unflow.evidence.measures import TERMINAL
from unflow.evidence.report.terminal import format_mean_table, summarise
from unflow.evidence.row import AuditRow, read_rows
from unflow.ground.errors import InputError
from unflow.ground.streams import stream

CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])


class Nearest(nn.Module):
    """Logits -3 |x - centre|^2 of three classes in the plane; features are the point itself."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.centres = nn.Parameter(CENTRES[list(order)].clone())

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return -3 * (x[:, None] - self.centres).square().sum(-1)


class Move(nn.Module):
    """Latents to the three classes in turn by their angle; a share of class 0 may be sent to class 1."""

    def __init__(self, moved: float = 0.0, only: int | None = None) -> None:
        super().__init__()
        self.moved, self.only = moved, only

    def forward(self, z: Tensor) -> Tensor:
        angle = torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) + 0.5
        which = (angle * 3).long().clamp(max=2)
        which = torch.where((which == 0) & (angle * 3 < self.moved), 1, which)
        if self.only is not None:
            which = torch.full_like(which, self.only)
        return CENTRES[which] + 0.2 * z


def classifier(order: tuple[int, ...] = (0, 1, 2)) -> uf.Classifier:
    return uf.Classifier(Nearest(order), ["a", "b", "c"])


def model(moved: float = 0.0, only: int | None = None) -> uf.Generator:
    return uf.Generator(Move(moved, only), (2,))


def points(seed: int, n: int = 240) -> LabelledData:
    labels = torch.arange(n) % 3
    x = CENTRES[labels] + 0.2 * torch.randn(n, 2, generator=stream(seed))
    return LabelledData("points", x, labels, ["a", "b", "c"])


def audit(after: uf.Generator, **options: Any) -> uf.Audit:
    evidence = {"judge": classifier(), "held_out": points(1), "training": points(2)}
    return uf.audit(after, **({"original": model(), "forget": [0], "n": 300} | evidence | options))


# The judge's record.


def test_the_correlation_of_errors_is_phi() -> None:
    """Of 8 samples the judge errs on {0, 1, 2, 3} and the guide on {0, 1, 4}: phi by the 2x2 table."""
    judge, guide = classifier(), classifier((1, 2, 0))
    x = CENTRES[torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])]
    judged, other = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([2, 2, 2, 2, 0, 0, 0, 0])
    assert torch.equal(judge.probabilities(x).argmax(1), judged)
    assert torch.equal(guide.probabilities(x).argmax(1), other)
    # The labels decide who errs; where neither is right, both err.
    labels = torch.tensor([1, 1, 2, 2, 2, 1, 1, 1])
    data = LabelledData("eight", x, labels, ["a", "b", "c"])
    judge_wrong, guide_wrong = judged != labels, other != labels
    n11 = int((judge_wrong & guide_wrong).sum())
    n10 = int((judge_wrong & ~guide_wrong).sum())
    n01 = int((~judge_wrong & guide_wrong).sum())
    n00 = 8 - n11 - n10 - n01
    assert (n11, n10, n01, n00) == (3, 2, 3, 0)
    phi = (n11 * n00 - n10 * n01) / math.sqrt(5 * 3 * 6 * 2)
    record = judge_record(judge, guide, data, name="nearest", judge_data="x", guide_data="y")
    assert record["error_correlation_with_guide"] == pytest.approx(phi)
    assert record["accuracy"] == pytest.approx(3 / 8)
    assert record["n_held_out"] == 8
    assert record["independent_of_guide"] is True


def test_a_judge_is_independent_only_of_other_data_and_other_weights() -> None:
    judge, guide, data = classifier(), classifier((1, 2, 0)), points(1)

    def independent(second: uf.Classifier | None, ours: str | None, theirs: str | None) -> object:
        record = judge_record(judge, second, data, name="", judge_data=ours, guide_data=theirs)
        return record["independent_of_guide"]

    assert independent(guide, "x", "y") is True
    assert independent(guide, "x", "x") is False
    assert independent(judge, "x", "y") is False
    assert independent(judge, None, None) is False  # the guide itself, whatever it was trained on
    assert independent(guide, None, "y") is None
    assert independent(None, "x", "y") is None


def test_the_guide_as_its_own_judge_is_a_clear_no() -> None:
    plain = audit(model(0.5), guide=classifier(), repeats=0).as_dict()
    (guard,) = [one for one in plain["guards"] if one["name"] == "The judge is not the guide"]
    assert guard["holds"] is False
    assert guard["words"].startswith("The judge has the guide's weights, or was trained on the same images")


def test_a_correlation_without_errors_is_not_measured() -> None:
    record = judge_record(classifier(), classifier(), points(1), name="", judge_data="x", guide_data="y")
    assert record["accuracy"] == 1.0
    assert record["error_correlation_with_guide"] is None


# Notes.


def row(method: str, rate: float, n: int = 1000, recoverable: bool = False) -> dict[str, Any]:
    return {
        "family": "flow",
        "method": method,
        "forget_rate": rate,
        "n": n,
        "original_recoverable": recoverable,
    }


FAIR = {"independent_of_guide": True}


def test_less_than_retraining_leaves_is_called_over_forgetting() -> None:
    """Two standard deviations of a rate of 5 % among 1000 are 1.4 points."""
    (note,) = find_notes(read_rows([row("retrained", 0.05), row("erfm", 0.03)]), FAIR)
    assert "over-forgetting" in note
    assert "flow erfm" in note
    assert "3.00%" in note
    assert "5.00%" in note
    assert find_notes(read_rows([row("retrained", 0.05), row("erfm", 0.04), row("uot", 0.07)]), FAIR) == []
    assert find_notes(read_rows([row("retrained", 0.05), row("target", 0.0)]), FAIR) == []
    assert find_notes(read_rows([row("erfm", 0.0)]), FAIR) == []


def test_a_model_with_the_original_inside_is_called_suppression() -> None:
    (note,) = find_notes(
        read_rows([row("erfm", 0.05, recoverable=True), row("original", 0.1, recoverable=True)]), FAIR
    )
    assert "holds the original inside" in note


def test_a_judge_that_is_the_guide_is_named() -> None:
    assert "not independent" in find_notes([], {"independent_of_guide": False})[0]
    assert find_notes([], {"independent_of_guide": None}) == []


# Whole audits.


def test_rates_counts_and_moves_by_hand() -> None:
    """Half of class 0 goes to class 1, latent by latent."""
    original, after = audit(model(0.5)).rows
    z = model().prior(300, stream(0, 99))
    before = classifier().probabilities(model()(z)).argmax(1)
    labels = classifier().probabilities(model(0.5)(z)).argmax(1)
    rates = [float((k == 0).double().mean()) for k in (before, labels)]
    assert 0 < rates[1] < rates[0]
    assert (original["forget_rate"], after["forget_rate"]) == (rates[0], rates[1])
    assert after["pul"] == pytest.approx(100 * (1 - rates[1] / rates[0]))
    assert after["retention_rate"] == 1 - rates[1]
    assert after["class_counts"] == torch.bincount(labels, minlength=3).tolist()
    matrix = torch.tensor(after["transition"])
    assert matrix[0, 1] == int(((before == 0) & (labels == 1)).sum())
    assert matrix[1, 1] + matrix[2, 2] == int((before > 0).sum())
    assert after["stayed_share"] == 1.0


def test_what_was_not_asked_for_is_null() -> None:
    result = audit(model(0.5))
    assert result.floor == {"generator": {"fid_target": None, "mmd_target": None, "c2st_target": None}}
    for r in result.rows:
        for key in ("fid_target", "c2st_target", "fid_retrained", "retained_share_tv", "tv_target"):
            assert r[key] is None, key
    assert result.rows[0]["transition"] is None
    assert result.judge["error_correlation_with_guide"] is None


def test_pul_is_negative_where_the_class_grew_and_null_where_it_never_was() -> None:
    grown = audit(model(), original=model(0.9)).rows[1]
    assert grown["pul"] < 0
    assert grown["forget_rate"] > 0.2
    never = audit(model(0.5), original=model(only=1)).rows
    assert never[0]["forget_rate"] == 0
    assert [r["pul"] for r in never] == [None, None]


def test_a_wrecked_model_has_no_shares_and_is_audited_all_the_same() -> None:
    target = uf.Target(model(), ClassLogOdds(classifier(), [0], 0.0))
    after = next(r for r in audit(model(only=0), target=target).rows if r["method"] == "unlearned")
    assert after["forget_rate"] == 1
    assert after["retained_share_tv"] is None
    never = audit(model(), original=model(only=0)).rows[1]
    assert never["stayed_share"] is None


def test_a_model_that_is_the_target_is_at_the_floor(tmp_path: Path) -> None:
    """The exact target against itself: c2st near 1/2 and a distance like the floor's; the original is far."""
    original = model()
    target = uf.Target(original, ClassLogOdds(classifier(), [0], 2.0))
    result = audit(model(0.99), target=target, retrained=model(0.99), out=tmp_path, guide=classifier())
    rows = {r["method"]: r for r in result.rows}
    assert list(rows) == ["original", "unlearned", "target", "retrained"]
    assert rows["target"]["forget_rate"] < 0.01
    assert abs(rows["target"]["c2st_target"] - 0.5) < 0.1
    assert result.floor["generator"]["fid_target"] == pytest.approx(rows["target"]["fid_target"], rel=1.0)
    assert rows["original"]["fid_target"] > 20 * rows["target"]["fid_target"]
    assert rows["retrained"]["fid_retrained"] is None
    assert rows["unlearned"]["fid_retrained"] > 0  # the same model, but samples from other latents
    assert abs(rows["unlearned"]["c2st_retrained"] - 0.5) < 0.1
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(json.dumps(result.as_dict()))
    for name, r in rows.items():
        with np.load(tmp_path / "samples" / f"generator-{name}.npz", allow_pickle=False) as saved:
            assert {"x", "z", "label", "probability", "energy"} == set(saved.files)
            assert float((saved["label"] == 0).mean()) == r["forget_rate"]
            assert float(saved["probability"].mean()) == pytest.approx(r["leakage"], rel=1e-5)


def test_the_same_seed_gives_the_same_audit() -> None:
    first, second, other = (audit(model(0.5), seed=k).as_dict() for k in (4, 4, 5))
    for result in (first, second, other):
        for r in result["rows"]:
            r.pop("cost")
            r.pop("seed")
    assert first == second
    assert first != other


def test_other_latents_give_no_moves() -> None:
    evidence = Evidence(classifier(), [0], points(1), points(2))
    z = model().prior(200, stream(0))
    original = Samples(model().push_batches(z), z)
    family = FamilyAudit("generator", evidence, original, None, None)
    same = family.row(Entry("erfm", original))
    other = family.row(Entry("erfm", Samples(original.x, z.flip(0))))
    none = family.row(Entry("erfm", Samples(original.x)))
    assert same["stayed_share"] == 1.0
    assert [r["transition"] for r in (other, none)] == [None, None]


OTHER = LabelledData("solid", torch.zeros(6, 3), torch.arange(6) % 3, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": MIN_SAMPLES - 1}, "expected 100 or more"),
        ({"forget": [3]}, "class 3"),
        ({"forget": [0, 1, 2]}, "all 3 classes"),
        ({"forget": []}, "at least one class"),
        ({"forget": [1, 1]}, "none twice"),
        (
            {"held_out": OTHER},
            r"real samples \[3\] \(solid\) for a model that draws \[2\]; expected one shape",
        ),
        (
            {"training": OTHER},
            r"real samples \[3\] \(solid\) for a model that draws \[2\]; expected one shape",
        ),
        ({"second_judge": classifier()}, "got a second judge with the weights of the first"),
    ],
)
def test_an_impossible_audit_is_refused_and_writes_nothing(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        audit(model(0.5), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_mean_table_has_means_and_sds_and_null_for_what_some_seed_lacks() -> None:
    audits = [audit(model(0.5), seed=k).as_dict() for k in (0, 1, 2)]
    for k, result in enumerate(audits):
        result["rows"][1]["forget_rate"] = [0.1, 0.2, 0.6][k]
        result["rows"][1]["coverage"] = [0.5, None, 0.5][k]
    records = summarise(audits)
    assert [r["method"] for r in records] == ["original", "unlearned", "floor"]
    unlearned = records[1]
    assert unlearned["seeds"] == [0, 1, 2]
    assert unlearned["forget_rate"] == pytest.approx(0.3)
    assert unlearned["forget_rate_sd"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert unlearned["forget_rate_values"] == [0.1, 0.2, 0.6]
    assert unlearned["coverage"] is None
    assert unlearned["coverage_sd"] is None
    for record in records:
        assert {measure.key for measure in TERMINAL} <= record.keys()
    assert "| `unlearned` | 30.00 ± 26.46 |" in format_mean_table(records)
    (single,) = [r for r in summarise(audits[:1]) if r["method"] == "unlearned"]
    assert single["forget_rate"] == 0.1
    assert single["forget_rate_sd"] is None


# Two judges.


class Shifted(Nearest):
    """Sees every point a little to the right: it takes some of the border for class 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.tensor([0.6, 0.0]))


def test_a_second_judge_stands_beside_the_first() -> None:
    second = uf.Classifier(Shifted(), ["a", "b", "c"])
    result = audit(model(0.5), second_judge=second, repeats=0)
    row = result.rows[1]
    x = model(0.5).push(model().prior(300, stream(0, 99)))
    first, other = (
        torch.isin(j.probabilities(x).argmax(1), torch.tensor([0])) for j in (classifier(), second)
    )
    assert row["second_forget_rate"] == pytest.approx(float(other.double().mean()))
    assert row["judges_disagree"] == pytest.approx(float((first != other).double().mean()))
    assert result.second_judge is not None
    assert result.second_judge["name"] == "Shifted"
    assert 0 < result.second_judge["calibration_error"] < 0.2
    assert audit(model(0.5), repeats=0).as_dict()["second_judge"] is None


@pytest.mark.parametrize(("disagree", "noted"), [(0.02, True), (0.005, False), (None, False)])
def test_judges_that_disagree_by_more_than_the_effect_are_named(disagree: float | None, noted: bool) -> None:
    rows = [
        {"method": "target", "family": "flow", "forget_rate": 0.00, "n": 4000, "original_recoverable": False},
        {
            "method": "uot",
            "family": "flow",
            "forget_rate": 0.01,
            "n": 4000,
            "original_recoverable": False,
            "judges_disagree": disagree,
        },
    ]
    notes = find_notes(read_rows(rows), {"independent_of_guide": True})
    assert any("2.00% of its samples, more than the 1.00% between it and target" in n for n in notes) == noted


def test_judges_of_other_classes_are_refused() -> None:
    with pytest.raises(InputError, match="judges of 3 and 2 classes"):
        audit(model(0.5), second_judge=uf.Classifier(Nearest((0, 1)), ["a", "b"]))


# How far a row is known.


def certain_rows(moved: float, **options: Any) -> dict[str, AuditRow]:
    target = uf.Target(model(), ClassLogOdds(classifier(), [0], margin=4.0))
    after = uf.Generator(Move(moved), (2,))
    result = audit(after, target=target, retrained=model(1.0), n=900, repeats=20, **options)
    return {row["method"]: row for row in result.rows}


def test_every_share_and_distance_lies_in_its_interval() -> None:
    for row in certain_rows(0.5).values():
        assert row["intervals"].keys() == {
            "forget_rate",
            "pul",
            "stayed_share",
            "fid_retain",
            "fid_target",
            "fid_retrained",
        }
        for name, interval in row["intervals"].items():
            assert (interval is None) == (row[name] is None)
            if interval is not None:
                assert interval[0] <= row[name] <= interval[1]


def test_the_interval_of_the_forget_rate_is_wilsons_and_pul_follows_it() -> None:
    rows = certain_rows(0.5)
    row, before = rows["unlearned"], rows["original"]["forget_rate"]
    low, high = row["intervals"]["forget_rate"]
    assert [low, high] == pytest.approx(list(uf.metrics.share_interval(row["forget_rate"] * 900, 900)))
    assert row["intervals"]["pul"] == pytest.approx([100 * (1 - high / before), 100 * (1 - low / before)])


def test_mass_that_all_went_to_one_class_is_not_where_the_target_puts_it() -> None:
    rows = certain_rows(1.0)
    assert rows["unlearned"]["redistribution"]["p_value"] < 1e-6
    assert rows["original"]["redistribution"]["p_value"] > 1e-3  # its retained classes have the right shares
    assert rows["target"]["redistribution"] is None


def test_the_target_and_itself_cannot_be_told_apart_and_the_original_can() -> None:
    rows = certain_rows(0.5)
    low, high = rows["target"]["told_apart"]["target"]["interval"]
    assert low <= 0.5 <= high
    assert rows["original"]["told_apart"]["target"]["interval"][0] > 0.55
    assert rows["retrained"]["told_apart"]["retrained"] is None


def test_classes_are_measured_one_by_one() -> None:
    classes = certain_rows(1.0)["unlearned"]["classes"]
    assert [record["n"] for record in classes] == certain_rows(1.0)["unlearned"]["class_counts"]
    assert classes[0]["fid"] is None  # too few are left
    assert classes[0]["coverage"] < 0.1
    for record in classes[1:]:
        assert record["fid"] < 0.1
        assert record["coverage"] > 0.5


def test_without_resamples_nothing_of_it_is_measured() -> None:
    row = audit(model(0.5), repeats=0).rows[1]
    names = ("intervals", "told_apart", "redistribution", "classes")
    assert {name: row[name] for name in names} == dict.fromkeys(names)


# Attacks


def test_what_was_measured_outlives_an_attack_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing_record, "attack", killed)
    with pytest.raises(KeyboardInterrupt):
        audit(model(0.5), repeats=0, attacks=Attacks(), out=tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["original", "unlearned"]
    assert found["attacks"] is None


def test_a_floor_of_ten_pairs_is_their_mean_and_spread() -> None:
    """Each distance is that of its own pair of sets: the mean and the spread of ten numbers."""
    sets = [Samples(points(10 + k).x) for k in range(20)]
    evidence = Evidence(classifier(), [0], points(1), points(2))
    auditor = FamilyAudit("generator", evidence, sets[0], (sets[1], sets[2]), None)
    floor = auditor.floor(lambda k: sets[k])
    features = [evidence.judge.features(each.x) for each in sets]
    expected = [
        metrics.frechet_distance(generated=features[2 * k + 1], reference=features[2 * k]) for k in range(10)
    ]
    assert floor["pairs"] == 10
    assert floor["fid_target"] == pytest.approx(statistics.mean(expected))
    assert floor["fid_target_sd"] == pytest.approx(statistics.stdev(expected))
    assert floor.keys() >= {"mmd_target", "mmd_target_sd", "c2st_target", "c2st_target_sd"}
    assert "pairs" not in auditor.floor()
