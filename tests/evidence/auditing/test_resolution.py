"""What an audit can tell apart: how many samples it needs, and which differences are noise."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.evidence import metrics
from unflow.evidence.auditing.resolution import FEWEST, MOST, PILOT, differences, samples_needed
from unflow.evidence.report.terminal import format_differences
from unflow.evidence.row import read_rows
from unflow.ground.streams import stream
from unflow.models import Generator
from unflow.models.classifier import Classifier


class Shift(nn.Module):
    """x = z + by."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, z: Tensor) -> Tensor:
        return z + self.by


class Sign(nn.Module):
    """Class 1 is the right half of the line."""

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x, x], 1)


JUDGE = Classifier(Sign(), ["left", "right"])


def needed(share: float, difference: float) -> int:
    by = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share)))
    return samples_needed(Generator(Shift(by), (1,)), JUDGE, [1], difference, seed=0)


# How many samples


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_so_many_samples_resolve_the_difference_at_the_models_rate(share: float) -> None:
    n = needed(share, 0.005)
    assert n >= metrics.samples_to_resolve(0.005, share)
    low, high = metrics.difference_interval(round(share * n), n, round(share * n), n)
    assert (high - low) / 2 <= 0.0052  # Newcombe's interval is a little wider than the normal one


def test_the_pilot_is_taken_at_its_worst() -> None:
    """A guess from few samples may be low: the upper end of its interval counts."""
    x = torch.randn(PILOT, 1, generator=stream(0, 98)) - 2.0537
    count = int((x > 0).sum())
    upper = metrics.share_interval(count, PILOT).high
    assert needed(0.02, 0.005) == metrics.samples_to_resolve(0.005, upper)


def test_finer_differences_and_larger_shares_need_more_within_bounds() -> None:
    sizes = [needed(0.02, difference) for difference in (0.1, 0.01, 0.007, 0.0001)]
    assert sizes[0] == FEWEST
    assert sizes[-1] == MOST
    assert all(a <= b for a, b in itertools.pairwise(sizes))
    assert needed(0.4, 0.02) > needed(0.1, 0.02)
    assert needed(0.6, 0.02) == needed(0.9, 0.02)  # past a half the widest share is taken


# Which differences are noise


def row(method: str, count: int, n: int = 1000, fid: tuple[float, float] | None = None) -> dict[str, Any]:
    interval = None if fid is None else [fid[0] - fid[1], fid[0] + fid[1]]
    return {
        "method": method,
        "family": "flow",
        "n": n,
        "forget_rate": count / n,
        "fid_retain": None if fid is None else fid[0],
        "intervals": {"fid_retain": interval},
    }


def found(rows: list[dict[str, Any]], measure: str = "forget_rate") -> dict[str, dict[str, Any]]:
    return {
        record["reference"]: record for record in differences(read_rows(rows)) if record["measure"] == measure
    }


def test_a_difference_is_resolved_where_its_interval_leaves_zero_out() -> None:
    records = found([row("original", 100), row("retrained", 12), row("uot", 10)])
    assert records["original"]["resolved"]
    assert records["original"]["difference"] == pytest.approx(-0.09)
    assert records["original"]["interval"] == list(metrics.difference_interval(10, 1000, 100, 1000))
    assert not records["retrained"]["resolved"]


def test_the_samples_that_would_resolve_it_do() -> None:
    record = found([row("retrained", 12), row("uot", 10)])["retrained"]
    n = record["n_to_resolve"]
    assert n == metrics.samples_to_resolve(0.002, 0.011)
    again = found(
        [
            row("retrained", round(0.012 * 1.1 * n), round(1.1 * n)),
            row("uot", round(0.011 * n), round(1.1 * n)),
        ]
    )
    assert again["retrained"]["resolved"]


def test_equal_shares_can_never_be_told_apart() -> None:
    record = found([row("retrained", 10), row("uot", 10)])["retrained"]
    assert (record["difference"], record["resolved"], record["n_to_resolve"]) == (0, False, None)


def test_distances_are_held_to_both_their_intervals() -> None:
    rows = [
        row("original", 1, fid=(2.0, 0.3)),
        row("retrained", 1, fid=(2.9, 0.4)),
        row("uot", 1, fid=(3.0, 0.4)),
    ]
    records = found(rows, "fid_retain")
    assert records["original"]["interval"] == pytest.approx([0.5, 1.5])
    assert records["original"]["resolved"]
    assert not records["retrained"]["resolved"]


def test_a_distance_without_an_interval_and_another_family_are_not_compared() -> None:
    rows = [row("original", 1, fid=(2.0, 0.3)), row("uot", 1), {**row("retrained", 1), "family": "flow_map"}]
    assert found(rows, "fid_retain") == {}
    assert set(found(rows)) == {"original"}


def test_the_terminal_says_it_beside_the_retrained_model_or_else_the_target() -> None:
    rows = [row("original", 100), row("target", 11), row("uot", 10)]
    (line,) = format_differences({"rows": rows, "differences": differences(read_rows(rows))})
    assert line.startswith("flow uot - target: forgotten left -0.10 points [-1.0")
    needed = metrics.samples_to_resolve(0.001, 0.0105)
    assert line.endswith(f"not resolved; {needed:,} samples per row would resolve it")
    rows.append(row("retrained", 60))
    (line,) = format_differences({"rows": rows, "differences": differences(read_rows(rows))})
    assert line.startswith("flow uot - retrained: forgotten left -5.00 points [")
    assert "not resolved" not in line
