"""What a row has cost: its own training, and the guide's where it follows the energy."""

from __future__ import annotations

from typing import Any

import pytest

from unflow.evidence.auditing.costs import guided_cost, trained_cost
from unflow.models import Chain, Flow
from unflow.nets import MLP

FLOW = Flow(MLP((2,), 8, 1), (2,), "heun", steps=3)
LINEAGE: dict[str, Any] = {
    "method": "erfm",
    "steps": 10,
    "peak_rss_mb": 200.0,
    "seconds": 2.5,
    "data_used": ["guide: train_images"],
    "seed": 4,
}


def test_every_trained_model_has_steps_memory_and_evaluations() -> None:
    expected = {"steps": 10, "peak_rss_mb": 200.0, "nfe": 6}
    assert trained_cost(LINEAGE, FLOW) == expected
    assert trained_cost(LINEAGE, Chain(FLOW, FLOW)) == expected | {"nfe": 12}


@pytest.mark.parametrize(
    ("data_used", "seconds"),
    [(["guide: train_images"], 9.5), (["guide"], 9.5), (["forget_images", "retain_images"], 2.5), ([], 2.5)],
)
def test_the_guide_is_paid_by_those_who_follow_the_energy(data_used: list[str], seconds: float) -> None:
    found = guided_cost(LINEAGE | {"data_used": data_used}, FLOW, guide_seconds=7.0)
    assert found == trained_cost(LINEAGE, FLOW) | {"unlearn_seconds": seconds}


def test_retraining_is_training_with_its_time_to_five_percent() -> None:
    lineage = LINEAGE | {"method": "retrained", "data_used": ["retain_images"], "seconds_to_5pct": 1.5}
    expected = {"train_seconds": 2.5, "retrain_seconds_5pct": 1.5}
    assert guided_cost(lineage, FLOW, guide_seconds=7.0) == trained_cost(LINEAGE, FLOW) | expected
    lineage.pop("seconds_to_5pct")
    assert guided_cost(lineage, FLOW, 7.0)["retrain_seconds_5pct"] is None
