"""From audits to table.json (a list of rows) and table.md (means over seeds, beside the paper's rows)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from statistics import fmean
from typing import Any

from unflow.evidence import metrics
from unflow.evidence.report.terminal import Columns, format_cell, format_pipe_table, list_titles, mean_sd
from unflow.evidence.row import read_rows, row_from_dict

Row = dict[str, Any]

RATIOS: Columns = {
    "seconds_ratio": ("/ retraining", 1, 3),
    "seconds_ratio_equal": ("/ retraining to equal quality", 1, 3),
}
"""The two references of time: the whole recipe, and the first snapshot of it that is as good as the row."""
NEVER = "never"
"""The second ratio of a row that is better than every snapshot of retraining."""

COLUMNS: Columns = {
    "forget_rate": ("forgotten left %", 100, 2),
    "off_data": ("off data %", 100, 2),
    "c2st_retain": ("c2st retain", 1, 3),
    "fid_retain": ("FD retain", 1, 4),
    "fid_retrained": ("FD retrained", 1, 4),
    "mmd_retain": ("MMD retain x 1e3", 1000, 3),
    "fid_target": ("FD target", 1, 4),
    "fid_target_ratio": ("/ floor", 1, 2),
    "c2st_appearance_target": ("c2st pixels, target", 1, 3),
    "c2st_appearance_retain": ("c2st pixels, real", 1, 3),
    "extracted_fid_target": ("FD target, Lite0", 1, 1),
    "extracted_fid_retain": ("FD retain, Lite0", 1, 1),
    "coverage": ("coverage", 1, 3),
    "share_tv_target": ("share TV target", 1, 3),
    "share_tv_retrained": ("share TV retrained", 1, 3),
    "seconds": ("seconds", 1, 1),
    **RATIOS,
}
"""Key -> title, factor, decimals. FD: Fréchet distance in the features that the row names."""

PAPER_COLUMNS: Columns = {
    "mmd": ("MMD (biased)", 1, 4),
    "retain_accuracy": ("retain accuracy", 1, 4),
    "forget_rate": ("forget rate", 1, 4),
    "leakage": ("leakage", 1, 4),
    "train_seconds": ("seconds", 1, 1),
    "inference_ms": ("ms / 5,000", 1, 3),
}
"""The paper's metrics, measured as in the paper: by a classifier, and with the biased MMD."""

ONE_STEP_COLUMNS: Columns = {
    "forget_rate": ("forgotten left %", 100, 2),
    "pul": ("PUL %", 1, 2),
    "fid_retain": ("u-FID", 1, 2),
    "fid_retrained": ("FD retrained", 1, 2),
    "fid_target": ("FD target", 1, 2),
    "fid_target_ratio": ("/ floor", 1, 2),
    "c2st_appearance_target": ("c2st pixels, target", 1, 3),
    "c2st_appearance_retain": ("c2st pixels, real", 1, 3),
    "extracted_fid_target": ("FD target, Lite0", 1, 1),
    "extracted_fid_retain": ("FD retain, Lite0", 1, 1),
    "coverage": ("coverage", 1, 3),
    "share_tv_target": ("share TV target", 1, 3),
    "stayed_share": ("stayed %", 100, 1),
    "judge_confidence": ("judge sure %", 100, 1),
    "seconds": ("seconds", 1, 1),
    **RATIOS,
}
"""Columns for one-step models. u-FID: Fréchet distance to real retained samples."""

REFERENCE_ROWS = (
    "original is the model before; no stage of retrained has read what is to be forgotten, its autoencoder "
    "and critic included; retrained_inner (for images) is trained again in the latents of the original's "
    "autoencoder, which has seen all classes; target holds exact samples of the law that was asked for, "
    "drawn by rejection from the original."
)
SECONDS = (
    "Seconds are those of this run on this machine: compare ratios, not seconds. / retraining: seconds "
    "divided by those of all stages of retrained. / retraining to equal quality: divided by the seconds of "
    "retrained when it stops early, at the first tenth of its last stage at which neither its Fréchet "
    "distance to real retained samples nor its share of forgotten samples is larger than the row's; for a "
    "row that over-forgets, the share is that of finished retraining. never: it is not as near to real "
    "samples even at the end. (k of n): the mean over the k runs of n in which it becomes as good."
)
READS = {
    "train_images": "all images",
    "retain_images": "retained images",
    "forget_images": "forgotten images",
    "teacher": "the flow behind the original",
    "guide: train_images, train_labels": "guide",
}
"""Name in ``data_used`` -> word of the column "reads"."""
READS_NOTE = (
    "reads: what a row was given beside the original; guide is a classifier, trained on images and labels. A "
    "dash: the label alone."
)
OVER_FORGETS = (
    "over-forgets: the row draws fewer forgotten samples than the retrained model, by more than two standard "
    "errors, in so many of its runs. That is a miss, as too many would be."
)
FLOOR = (
    "The floor is the distance between two independent sets of exact target samples of the same size, the "
    "mean over ten pairs; the spread of / floor contains that of the pairs."
)

CONTINUALFLOW_INTRO = (
    "Means ± standard deviations over seeds of data, training and judge. The row erfm_resample is the "
    "library's default method; erfm is the paper's own weighting and chain.",
    REFERENCE_ROWS,
)
EXTRACTORS = (
    "c2st pixels: the AUC of a network that tells the samples from exact target samples, and from real "
    "retained ones, by features, pixels and their distance from the principal components. Lite0: features of "
    "EfficientNet-Lite0, trained on ImageNet, of 2,000 samples; a dash where it was not asked for."
)

CONTINUALFLOW_NOTES = (
    SECONDS,
    READS_NOTE,
    OVER_FORGETS,
    FLOOR,
    EXTRACTORS,
    "The paper's retain accuracy is its classifier's accuracy on real retained samples; by that definition "
    "it is the same for every generator.",
)

ONE_STEP_INTRO = (
    "Means ± standard deviations over seeds of data, training and judge. The rows uot (the paper's pool) and "
    "uot_tilted are our reading of arXiv 2603.16489; latent_transport is ours; the others are baselines.",
    REFERENCE_ROWS,
)
ONE_STEP_NOTES = (
    SECONDS,
    READS_NOTE,
    OVER_FORGETS,
    FLOOR,
    EXTRACTORS,
    "u-FID is the Fréchet distance to real retained samples, in the judge's features.",
    "stayed: of the latents whose sample the judge gives to a retained class before, the share that it "
    "gives to the same class after; it is not defined for a retrained model, which maps latents otherwise.",
)

REFERENCES = ("original", "target", "retrained")


def collect_rows(audit: dict[str, Any], dataset: str) -> list[Row]:
    """Return an audit's rows for table.json, with the ratios that need the retrained row."""
    forget = audit["request"]["forget"]
    retrained = next((row for row in audit["rows"] if row["method"] == "retrained"), None)
    rows = []
    for row, judged in zip(audit["rows"], read_rows(audit["rows"]), strict=True):
        own = {"dataset": dataset, "source": "measured", **row, "seconds": judged.seconds}
        own["over_forgets"] = judged.over_forgets
        own["share_tv_target"] = row["retained_share_tv"]
        own |= _divide_by_floor(row["fid_target"], audit["floor"][row["family"]])
        own["share_tv_retrained"] = own["seconds_ratio"] = own["seconds_ratio_equal"] = None
        if retrained is not None:
            own["share_tv_retrained"] = _measure_share_tv(
                row["class_counts"], retrained["class_counts"], forget
            )
            if own["seconds"] is not None:
                own["seconds_ratio"] = own["seconds"] / row_from_dict(retrained).require("seconds")
                own["seconds_ratio_equal"] = _compare_with_stops(own, retrained["snapshots"])
        rows.append(own)
    return rows


def _divide_by_floor(distance: float, floor: Mapping[str, float | None]) -> Row:
    """Return a distance over the floor, with the standard deviation that the floor's gives it."""
    least, spread = floor["fid_target"], floor.get("fid_target_sd")
    if not least:
        return {"fid_target_ratio": None, "fid_target_ratio_sd": None}
    ratio = distance / least
    sd = None if spread is None else ratio * spread / least
    return {"fid_target_ratio": ratio, "fid_target_ratio_sd": sd}


def _compare_with_stops(row: Row, snapshots: Sequence[dict[str, float]]) -> float | str:
    """Return a row's seconds divided by those of the first snapshot of retraining that is as good.

    A row that over-forgets is compared at the rate of finished retraining: forgetting more is no advantage.
    """
    rate = max(row["forget_rate"], snapshots[-1]["forget_rate"])
    for found in snapshots:
        if found["fid_retain"] <= row["fid_retain"] and found["forget_rate"] <= rate:
            return float(row["seconds"] / found["seconds"])
    return NEVER


def _measure_share_tv(counts: Sequence[int], reference: Sequence[int], forget: Sequence[int]) -> float | None:
    kept = [k for k in range(len(counts)) if k not in set(forget)]
    if not sum(counts[k] for k in kept) or not sum(reference[k] for k in kept):
        return None  # a broken model may have no retained sample left
    return metrics.retained_share_tv(counts, reference, forget)


def read_paper_rows(table: str, datasets: Sequence[str]) -> list[Row]:
    """Return the paper's rows of some datasets: mean and standard deviation of each metric.

    Args:
        table: a file in ``papers/``.
        datasets: names in its first column.
    """
    text = (files("unflow.evidence.reproduce") / "papers" / table).read_text()
    rows = []
    for line in csv.DictReader(io.StringIO(text)):
        if line["dataset"] not in datasets:
            continue
        values = {k: float(v) for k, v in line.items() if k not in ("dataset", "method")}
        method = {"retrain": "retrained"}.get(line["method"], line["method"])
        rows.append({"dataset": line["dataset"], "source": "paper", "method": method, "as_in_paper": values})
    return rows


def average_rows(rows: Sequence[Row], columns: Columns = COLUMNS) -> list[Row]:
    """Return one record per dataset and method: mean and standard deviation over seeds of every column.

    A column that the rows do not have is left out, such as one that is younger than their table.
    """
    records = []
    for dataset, method in dict.fromkeys((row["dataset"], row["method"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["method"]) == (dataset, method)]
        record: Row = {"dataset": dataset, "method": method, "seeds": [row["seed"] for row in own]}
        record["reads"] = _list_data(own[0].get("data_used") or ())
        record["over_forgets"] = sum(row.get("over_forgets", False) for row in own)
        for key in columns:
            if key in own[0]:
                record |= _average(key, [row[key] for row in own])
        record |= _add_spread(record, "fid_target_ratio", [row.get("fid_target_ratio_sd") for row in own])
        if "as_in_paper" in own[0]:
            paper: Row = {}
            for key in PAPER_COLUMNS:
                paper |= mean_sd(key, [row["as_in_paper"][key] for row in own])
            record["as_in_paper"] = paper
        records.append(record)
    order = {method: place for place, method in enumerate(REFERENCES)}
    names = list(dict.fromkeys(record["dataset"] for record in records))
    return sorted(records, key=lambda r: (names.index(r["dataset"]), order.get(r["method"], len(order))))


def _add_spread(record: Row, key: str, spreads: Sequence[float | None]) -> Row:
    """Return the standard deviation of a mean's values with that of each value by itself, where it is known.

    sd^2 = var over seeds + mean of the values' own variances
    """
    known = [spread for spread in spreads if spread is not None]
    if key not in record or not known or len(known) < len(spreads):
        return {}
    return {f"{key}_sd": math.hypot(record[f"{key}_sd"] or 0.0, math.sqrt(fmean(sd**2 for sd in known)))}


def _average(key: str, values: Sequence[Any]) -> Row:
    """Return the mean and standard deviation of the values that are not ``NEVER``, and how many those are."""
    reached = [value for value in values if value != NEVER]
    if len(reached) == len(values):
        return mean_sd(key, values)
    return mean_sd(key, reached) | {f"{key}_reached": f"{len(reached)} of {len(values)}"}


def pool_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the rows of several datasets under one name, so that they are averaged together."""
    return [row | {"dataset": name} for row in rows]


def format_means(records: Sequence[Row], dataset: str, columns: Columns = COLUMNS) -> str:
    """Return the means of one dataset as Markdown."""
    own = [record for record in records if record["dataset"] == dataset]
    columns = {key: words for key, words in columns.items() if key in own[0]}
    lines = [[_name_row(r), *(_format_mean(r, key, columns) for key in columns), r["reads"]] for r in own]
    head = [f"{dataset}, seeds {sorted(set(own[0]['seeds']))}", *list_titles(columns), "reads"]
    return format_pipe_table(head, lines)


def _list_data(data_used: Sequence[str]) -> str:
    """Return what a row has read beside samples of the original, as tables say it."""
    return ", ".join(READS.get(name, name) for name in data_used) or "–"


def _name_row(record: Row) -> str:
    """Return the name of a method, marked where it over-forgets."""
    n = record.get("over_forgets", 0)
    return f"`{record['method']}`" + (f" (over-forgets {n} of {len(record['seeds'])})" if n else "")


def _format_mean(record: Row, key: str, columns: Columns) -> str:
    reached = record.get(f"{key}_reached")
    if reached is None:
        return format_cell(record, key, columns)
    return NEVER if record[key] is None else f"{format_cell(record, key, columns)} ({reached})"


def format_paper_table(
    records: Sequence[Row], published: Sequence[Row], dataset: str, as_published: str
) -> str:
    """Return our rows, measured as in the paper, beside the paper's rows, as Markdown.

    Args:
        records: from ``average_rows``.
        published: from ``read_paper_rows``.
        dataset: our name of the dataset.
        as_published: the paper's name of the dataset.
    """
    lines = []
    for record in (r for r in records if r["dataset"] == dataset):
        lines.append(
            [
                f"`{record['method']}`",
                *(format_cell(record["as_in_paper"], k, PAPER_COLUMNS) for k in PAPER_COLUMNS),
            ]
        )
    for row in (r for r in published if r["dataset"] == as_published):
        lines.append(
            [
                f"{row['method']} (paper)",
                *(format_cell(row["as_in_paper"], k, PAPER_COLUMNS) for k in PAPER_COLUMNS),
            ]
        )
    return format_pipe_table([dataset, *list_titles(PAPER_COLUMNS)], lines)
