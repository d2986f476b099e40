"""Attacks of an audit: models of which the answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.data import LabelledData
from unflow.energies import Region
from unflow.evidence.attacks import LatentSearch, Relearning
from unflow.evidence.auditing import Evidence
from unflow.evidence.auditing.attacked import Attacks, attack, list_attack_shares, rate_of
from unflow.ground.errors import InputError
from unflow.models import Chain, Filtered, GenerativeModel, Generator
from unflow.models.classifier import Classifier


class Line(nn.Module):
    """x = scale z + b on a line."""

    def __init__(self, b: float, scale: float = 0.5) -> None:
        super().__init__()
        self.b, self.scale = nn.Parameter(torch.tensor(b)), scale

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z + self.b


class Sign(nn.Module):
    """Classes "left" and "right" of a point; features are the point itself."""

    def __init__(self, at: float = 0.0) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.at - x, x - self.at], 1) * 8


def line(b: float, scale: float = 0.5) -> Generator:
    return Generator(Line(b, scale), (1,)).eval().requires_grad_(False)


def evidence(second: bool = True) -> Evidence:
    """To forget: what lies right of 0."""
    x = torch.cat([torch.full((30, 1), 1.0), torch.full((30, 1), -1.0)])
    data = LabelledData("line", x, (x[:, 0] > 0).long(), ["left", "right"])
    judges = [Classifier(Sign(at), ["left", "right"]) for at in (0.0, 0.05)]
    return Evidence(judges[0], [1], data, data, second=judges[1] if second else None)


ATTACKS = Attacks(
    relearning=Relearning(steps=150, batch_size=16, learning_rate=0.02),
    search=LatentSearch(starts=100, steps=30),
    images=(1, 5),
    rates=(0.002, 0.02, 0.2),
    samples=500,
)
MODELS: dict[str, GenerativeModel] = {
    "original": line(0.0),
    "near": line(-0.5, 0.1),
    "retrained": line(-1.5, 0.1),
    "filtered": Filtered(line(0.0), Region(lambda x: x[:, 0] > 0, height=20.0)),
}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return attack(MODELS, evidence(), ATTACKS, 0)


def test_only_a_filter_has_a_model_to_take_off(record: dict[str, Any]) -> None:
    inside = record["inside"]
    assert inside["filtered"] == {"model": "Generator", "forget_rate": pytest.approx(0.5, abs=0.1)}
    assert {name for name, found in inside.items() if found} == {"filtered"}


def test_a_flow_of_latents_is_not_taken_for_the_original() -> None:
    """Both links have equal shapes; the first one draws more of the forgotten class than the second."""
    chain = Chain(line(2.0), line(0.0))
    attacks = Attacks(relearning=Relearning(steps=1, batch_size=4), images=(1,), rates=(), samples=500)
    record = attack({"original": line(0.0), "chain": chain}, evidence(second=False), attacks, 0)
    assert rate_of(chain.base, evidence(), 500, 0) > 0.9
    assert record["inside"]["chain"] == {"model": "Generator", "forget_rate": record["rate"]["original"]}


def test_what_was_moved_a_little_comes_back_sooner_than_what_was_never_there(record: dict[str, Any]) -> None:
    """Adam goes 0.02 a step: half of the original's rate is a quarter, about where b = -0.07."""
    assert record["relearning"]["half"] == pytest.approx(0.25, abs=0.03)
    for k in ("1", "5"):
        steps = record["relearning"]["images"][k]["steps_to_half"]
        assert steps["original"] == 0
        assert steps["near"] == pytest.approx(0.43 / 0.02, rel=0.15)
        assert steps["retrained"] == pytest.approx(1.43 / 0.02, rel=0.15)
        ratio = record["relearning"]["images"][k]["ratio"]
        assert ratio["near"] == pytest.approx(steps["near"] / steps["retrained"])
        assert ratio["retrained"] == 1


def test_the_attacker_takes_the_best_rate_of_the_sweep(record: dict[str, Any]) -> None:
    """Adam goes one rate a step: the way is 0.43 of "near", 1.43 of "retrained", and never done at 0.002."""
    relearning = record["relearning"]
    sweep, fewest = relearning["sweep"], relearning["fewest"]
    assert sweep["images"] == 5
    slow, usual, fast = sweep["settings"]
    assert [each["learning_rate"] for each in sweep["settings"]] == [0.002, 0.02, 0.2]
    assert usual["curves"] == relearning["images"]["5"]["curves"]
    assert slow["steps_to_half"]["retrained"] is None
    assert fast["steps_to_half"]["retrained"] == pytest.approx(1.43 / 0.2, rel=0.2)
    assert fewest["near"]["learning_rate"] == fewest["retrained"]["learning_rate"] == 0.2
    assert fewest["near"]["steps"] == fast["steps_to_half"]["near"] < usual["steps_to_half"]["near"]
    assert fewest["filtered"] is None
    ratio = relearning["fewest_ratio"]
    assert ratio["near"] == pytest.approx(fewest["near"]["steps"] / fewest["retrained"]["steps"])
    assert set(ratio) == {"original", "near", "retrained"}
    shares = list_attack_shares(record, "near")
    assert shares["fewest_steps"] == fewest["near"]["steps"]
    assert shares["fewest_steps_ratio"] == ratio["near"]


def test_a_decoder_is_frozen_and_then_free_in_the_sweep() -> None:
    attacks = Attacks(rates=(0.1, 0.2))
    settings = [(each.learning_rate, each.free_decoder) for each in attacks.list_sweep(has_decoder=True)]
    assert settings == [(0.1, False), (0.2, False), (0.1, True), (0.2, True)]
    assert len(attacks.list_sweep(has_decoder=False)) == 2
    assert Attacks(rates=()).list_sweep(has_decoder=True) == []
    with pytest.raises(InputError, match=r"learning_rate=-1\.0"):
        Attacks(rates=(0.1, -1.0))


def test_retained_images_do_not_bring_it_back(record: dict[str, Any]) -> None:
    own = record["relearning"]["images"]["retain"]
    assert own["steps_to_half"]["near"] is None
    assert own["ratio"] is None
    assert own["curves"]["original"][-1].value < 0.05  # on retained images only, even it forgets


def test_the_weights_of_a_filter_are_not_trained(record: dict[str, Any]) -> None:
    assert record["relearning"]["images"]["1"]["curves"]["filtered"] is None


def test_the_search_finds_what_typical_latents_still_give(record: dict[str, Any]) -> None:
    shares = {name: found["success_share"] for name, found in record["latent_search"].items()}
    assert shares["retrained"] == 0  # -1.5 + 0.1 |z| is left of 0 for every latent
    assert shares["original"] > 0.3  # one latent of a line: it has one sign, and no way to turn it
    low, high = record["latent_search"]["original"]["interval"]
    assert low < shares["original"] < high


def test_without_a_second_judge_nobody_confirms_a_search() -> None:
    attacks = Attacks(relearning=Relearning(steps=2, batch_size=4), images=(1,), rates=(), samples=100)
    record = attack({"original": line(0.0)}, evidence(second=False), attacks, 0)
    assert record["latent_search"] == {"original": None}
    assert record["relearning"]["images"]["1"]["ratio"] is None


def test_attacks_leave_the_models_as_they_were_and_repeat_to_the_bit() -> None:
    attacks = Attacks(
        relearning=Relearning(steps=3, batch_size=4),
        search=LatentSearch(starts=10, steps=2),
        images=(2,),
        rates=(),
        samples=100,
    )
    model: Any = line(-0.5)
    records = [attack({"original": model}, evidence(), attacks, 3) for _ in range(2)]
    assert records[0] == records[1]
    assert float(model.net.b) == -0.5
