"""Rows, means and Markdown of reproduced tables."""

from __future__ import annotations

import math
from typing import Any

import pytest

from unflow.evidence.report.terminal import mean_sd
from unflow.evidence.reproduce.results import (
    COLUMNS,
    PAPER_COLUMNS,
    average_rows,
    collect_rows,
    format_means,
    format_paper_table,
    pool_rows,
    read_paper_rows,
)


def audit(seed: int = 1) -> dict[str, Any]:
    def row(method: str, counts: list[int], seconds: float | None, left: float) -> dict[str, Any]:
        values = dict.fromkeys(COLUMNS, 0.5) | {"forget_rate": left, "class_counts": counts}
        kind = "train_seconds" if method in ("original", "retrained") else "unlearn_seconds"
        cost = {"train_seconds": None, "unlearn_seconds": None, kind: seconds}
        return values | {
            "method": method,
            "family": "flow",
            "seed": seed,
            "retained_share_tv": 0.1,
            "cost": cost,
            "as_in_paper": dict.fromkeys(PAPER_COLUMNS, 0.25),
        }

    stops = [
        {"step": 1, "seconds": 4.0, "forget_rate": 0.4, "fid_retain": 0.5},
        {"step": 2, "seconds": 10.0, "forget_rate": 0.1, "fid_retain": 0.4},
        {"step": 3, "seconds": 20.0, "forget_rate": 0.02 * seed, "fid_retain": 0.5},
    ]
    rows = [
        row("erfm", [10, 45, 45], 5.0, 0.1),
        row("original", [40, 30, 30], 20.0, 0.4),
        row("retrained", [0, 25, 75], 20.0, 0.02 * seed) | {"snapshots": stops},
        row("target", [0, 50, 50], None, 0.0),
    ]
    return {"request": {"forget": [0]}, "rows": rows, "floor": {"flow": {"fid_target": 0.25}}}


def test_rows_know_their_ratio_to_retraining_and_the_shares_of_the_retrained() -> None:
    rows = {row["method"]: row for row in collect_rows(audit(), "circles")}
    assert rows["erfm"]["seconds_ratio"] == 0.25
    assert rows["original"]["seconds_ratio"] == rows["retrained"]["seconds_ratio"] == 1.0
    assert rows["target"]["seconds_ratio"] is None
    assert {row["fid_target_ratio"] for row in rows.values()} == {2.0}
    assert rows["erfm"]["share_tv_retrained"] == pytest.approx(0.25)  # (1/2, 1/2) against (1/4, 3/4)
    assert rows["retrained"]["share_tv_retrained"] == 0
    assert {row["source"] for row in rows.values()} == {"measured"}
    assert {row["dataset"] for row in rows.values()} == {"circles"}


def test_the_second_ratio_is_to_the_first_stop_that_is_as_good_in_both_respects() -> None:
    rows = {row["method"]: row["seconds_ratio_equal"] for row in collect_rows(audit(), "circles")}
    assert rows == {"original": 5.0, "erfm": 0.5, "retrained": 1.0, "target": None}
    found = audit()
    found["rows"][0]["fid_retain"] = 0.3
    (erfm,) = (row for row in collect_rows(found, "circles") if row["method"] == "erfm")
    assert erfm["seconds_ratio_equal"] == "never"
    found["rows"][0] |= {"fid_retain": 0.5, "forget_rate": 0.0}  # over-forgets: as the last stop, not "never"
    (erfm,) = (row for row in collect_rows(found, "circles") if row["method"] == "erfm")
    assert erfm["seconds_ratio_equal"] == 0.25
    del found["rows"][2]
    assert {row["seconds_ratio_equal"] for row in collect_rows(found, "circles")} == {None}


@pytest.mark.parametrize(
    ("ratios", "cell"),
    [
        ([0.5, 0.25], "0.375 ± 0.177"),
        ([0.5, "never"], "0.500 (1 of 2)"),
        (["never", "never"], "never"),
        ([0.5, None], "–"),
    ],
)
def test_a_mean_says_in_how_many_runs_retraining_became_as_good(ratios: list[Any], cell: str) -> None:
    rows = collect_rows(audit(1), "circles")[:1] + collect_rows(audit(2), "circles")[:1]
    for row, ratio in zip(rows, ratios, strict=True):
        row["seconds_ratio_equal"] = ratio
    assert format_means(average_rows(rows), "circles").splitlines()[2].endswith(f"| {cell} | – |")


def test_a_table_without_the_column_is_still_read() -> None:
    rows = collect_rows(audit(1), "circles")
    for row in rows:
        del row["seconds_ratio_equal"]
    assert format_means(average_rows(rows), "circles").splitlines()[0].endswith("| / retraining | reads |")


def test_several_data_sets_are_averaged_as_one() -> None:
    rows = collect_rows(audit(1), "circles") + collect_rows(audit(3), "moons")
    records = average_rows(pool_rows(rows, "both"))
    assert {record["dataset"] for record in records} == {"both"}
    assert records[2]["forget_rate"] == pytest.approx(0.04)
    assert format_means(records, "both").startswith("| both, seeds [1, 3] |")


def test_means_are_over_seeds_with_references_first() -> None:
    rows = collect_rows(audit(1), "circles") + collect_rows(audit(3), "circles")
    records = average_rows(rows)
    assert [record["method"] for record in records] == ["original", "target", "retrained", "erfm"]
    retrained = records[2]
    assert retrained["seeds"] == [1, 3]
    assert retrained["forget_rate"] == pytest.approx(0.04)
    assert retrained["forget_rate_sd"] == pytest.approx(0.02 * 2**0.5)
    assert retrained["as_in_paper"]["mmd"] == 0.25


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 3.0], (2.0, 2**0.5)), ([2.0], (2.0, None)), ([1.0, None], (None, None)), ([None], (None, None))],
)
def test_a_mean_of_what_was_not_always_measured_is_null(
    values: list[float | None], expected: tuple[float | None, float | None]
) -> None:
    record = mean_sd("x", values)
    assert (record["x"], record["x_sd"]) == pytest.approx(expected)


def test_the_papers_rows_are_its_figures() -> None:
    rows = read_paper_rows("continualflow_table3.csv", ["circles", "moons"])
    assert {row["dataset"] for row in rows} == {"circles", "moons"}
    (erfm,) = (row for row in rows if (row["dataset"], row["method"]) == ("circles", "erfm"))
    assert erfm["source"] == "paper"
    assert erfm["as_in_paper"]["forget_rate"] == 0.0173
    assert erfm["as_in_paper"]["forget_rate_sd"] == 0.0106
    assert [row["method"] for row in rows[:3]] == ["retrained", "fine_tune", "erfm"]
    images = read_paper_rows("continualflow_table1.csv", ["mnist", "cifar10"])
    assert len(images) == 6
    assert images[-1]["as_in_paper"]["forget_rate"] == 0.1704


def test_tables_have_a_line_per_row_and_the_papers_beside() -> None:
    records = average_rows(collect_rows(audit(1), "circles") + collect_rows(audit(2), "circles"))
    ours = format_means(records, "circles").splitlines()
    assert ours[0].startswith("| circles, seeds [1, 2] | forgotten left % |")
    assert [line.split("|")[1].strip() for line in ours[2:]] == [
        "`original`",
        "`target`",
        "`retrained`",
        "`erfm`",
    ]
    assert "3.00 ± 1.41" in ours[4]  # 100 x (0.02, 0.04)
    assert "| – |" in ours[3]  # rejection has no training time
    published = read_paper_rows("continualflow_table3.csv", ["circles"])
    beside = format_paper_table(records, published, "circles", "circles").splitlines()
    assert len(beside) == 2 + 4 + 3
    assert beside[-1].startswith("| erfm (paper) | 0.0021 ± 0.0002 |")
    assert len({line.count("|") for line in ours}) == len({line.count("|") for line in beside}) == 1


def test_the_spread_of_the_floor_is_in_that_of_the_ratio() -> None:
    """FD 0.5 over a floor of 0.25 ± 0.05 is 2 ± 0.4; two seeds that agree have no other spread."""
    runs = [audit(1), audit(3)]
    for run in runs:
        run["floor"]["flow"]["fid_target_sd"] = 0.05
    rows = [row for run in runs for row in collect_rows(run, "circles")]
    (record,) = (r for r in average_rows(rows) if r["method"] == "erfm")
    assert record["fid_target_ratio"] == pytest.approx(2)
    assert record["fid_target_ratio_sd"] == pytest.approx(0.4)
    own = [row for row in rows if row["method"] == "erfm"]
    own[1]["fid_target_ratio"] = 3.0  # its own spread is still 0.4
    (record,) = average_rows(own)
    assert record["fid_target_ratio_sd"] == pytest.approx(math.hypot(0.4, 0.5**0.5))


def test_a_row_says_what_it_has_read() -> None:
    run = audit()
    for row in run["rows"]:
        if row["method"] == "erfm":
            row["data_used"] = ["guide: train_images, train_labels", "retain_images", "my_images"]
    table = format_means(average_rows(collect_rows(run, "circles")), "circles").splitlines()
    assert table[0].endswith("| reads |")
    (erfm,) = (line for line in table if "`erfm`" in line)
    assert erfm.endswith("| guide, retained images, my_images |")


def test_a_row_that_over_forgets_is_marked() -> None:
    """4,000 samples: 4 % against 0.5 % is far beyond two standard errors, 0.6 % is not."""
    found = []
    for rate in (0.005, 0.039):
        run = audit(4)
        by_name = {row["method"]: row for row in run["rows"]}
        by_name["retrained"] |= {"forget_rate": 0.04, "n": 4000}
        by_name["erfm"] |= {"forget_rate": rate, "n": 4000}
        found += collect_rows(run, "circles")
    assert "| `erfm` (over-forgets 1 of 2) |" in format_means(average_rows(found), "circles")
    assert "`retrained` (" not in format_means(average_rows(found), "circles")
