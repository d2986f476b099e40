"""The results of the attacks: a table of models, and the forget rate during relearning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unflow.evidence.condition_attacks import CONDITION_ATTACKS, describe_found
from unflow.evidence.report.read import Run
from unflow.evidence.report.svg import FORGET, FOURTH, INK, KEEP, MUTED, THIRD, draw_chart
from unflow.evidence.report.words import MISSING, format_number, row_label
from unflow.evidence.score_attacks import SCORE_ATTACKS, list_scores

if TYPE_CHECKING:
    from markupsafe import Markup

COLOURS = {"original": MUTED, "retrained": INK}
SCORE_HEADINGS = {
    ("membership", "distance"): "membership: distance",
    ("membership", "loss"): "membership: loss",
    ("membership", "null_distance"): "membership: distance, null",
    ("membership", "null_loss"): "membership: loss, null",
    ("linear_probe", "middle"): "probe: middle layer",
    ("linear_probe", "last"): "probe: last layer",
}
"""Column headings of the AUCs, in order."""
OTHERS = (KEEP, FORGET, THIRD, FOURTH)


@dataclass(frozen=True)
class AttackResults:
    """The content of the page's section on attacks.

    Attributes:
        headings: column headings of the table, without the first column.
        rows: name and cells, one per model.
        half: the forget rate at which relearning counts as successful, in percent.
        curves: caption and chart, one per set of images.
        labelled: whether relearning had labels, and asked for the forgotten ones.
        conditions: name and cells of the attacks over the condition, one per model; empty for other models.
        obstacles: reasons why such an attack was impossible, each once.
        sweep_headings: settings of the sweep of relearning.
        sweep: name and steps in each setting, one per model; empty for audits of earlier versions.
        score_headings: columns of the table of AUCs.
        scores: name and cells of membership inference and the linear probe, one per model; empty for audits
            of earlier versions.
        score_obstacles: reasons why one of these was impossible.
    """

    headings: list[str]
    rows: list[tuple[str, list[str]]]
    half: str
    curves: list[tuple[str, Markup]]
    labelled: bool = False
    conditions: list[tuple[str, list[str]]] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)
    sweep_headings: list[str] = field(default_factory=list)
    sweep: list[tuple[str, list[str]]] = field(default_factory=list)
    score_headings: list[str] = field(default_factory=list)
    scores: list[tuple[str, list[str]]] = field(default_factory=list)
    score_obstacles: list[str] = field(default_factory=list)


def read_attacks(run: Run) -> AttackResults | None:
    """Return the attack results of an audit, or None if it has none."""
    attacks = run.audit.get("attacks")
    if not attacks:
        return None
    images = attacks["relearning"]["images"]
    names = list(attacks["inside"])
    return AttackResults(
        headings=[
            "original inside: % forgotten",
            "search: % that succeed",
            *(f"steps, {_caption(k)}" for k in images),
        ],
        rows=[(row_label(name), _format_cells(attacks, name)) for name in names],
        half=format_number(100 * attacks["relearning"]["half"], 1),
        curves=[
            (_caption(k), _draw_curves(k, record["curves"], attacks["relearning"]["half"], f"relearn{i}"))
            for i, (k, record) in enumerate(images.items())
        ],
        labelled=bool(attacks["relearning"].get("labelled")),
        conditions=list_condition_attacks(attacks),
        obstacles=list_obstacles(attacks, CONDITION_ATTACKS),
        sweep_headings=[_name_setting(setting) for setting in _list_settings(attacks)],
        sweep=list_sweep(attacks),
        score_headings=list_score_headings(attacks),
        scores=list_score_attacks(attacks),
        score_obstacles=list_obstacles(attacks, SCORE_ATTACKS),
    )


def list_condition_attacks(attacks: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return name and cells of each attacked row: the share without a search, and that of each attack."""
    records = [attacks.get(attack) or {} for attack in CONDITION_ATTACKS]
    lines = []
    for name in dict.fromkeys(name for record in records for name in record):
        found = [record.get(name) for record in records]
        bases = [one["base"] for one in found if one is not None and one.get("base") is not None]
        plain = format_number(100 * bases[0], 1) if bases else MISSING
        lines.append((row_label(name), [plain, *map(_format_reached, CONDITION_ATTACKS, found)]))
    return lines


def list_score_headings(attacks: Mapping[str, Any]) -> list[str]:
    """Return the headings of the table of membership inference and the linear probe."""
    return [SCORE_HEADINGS[attack, score] for attack, score in _list_measured(attacks)]


def list_score_attacks(attacks: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return name and cells of each attacked row: "0.53 [0.47, 0.59]"; a star if worse than retrained."""
    names = dict.fromkeys(name for attack in SCORE_ATTACKS for name in attacks.get(attack) or {})
    lines = []
    for name in names:
        found = {(attack, score): record for attack, score, record in list_scores(attacks, name)}
        lines.append((row_label(name), [_format_auc(found.get(each)) for each in _list_measured(attacks)]))
    return lines


def list_sweep(attacks: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return name and steps to half in each setting of the sweep of relearning, for each attacked row."""
    settings, most = _list_settings(attacks), attacks["relearning"]["steps"]
    return [
        (row_label(name), [_format_steps(setting, name, most, decimals=1) for setting in settings])
        for name in (settings[0]["curves"] if settings else ())
    ]


def _list_settings(attacks: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sweep = attacks["relearning"].get("sweep")
    return list(sweep["settings"]) if sweep else []


def _name_setting(setting: Mapping[str, Any]) -> str:
    return f"rate {setting['learning_rate']:g}{', decoder trained' if setting['free_decoder'] else ''}"


def _list_measured(attacks: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return attack and score of each column: those that some row has."""
    rows = {name for attack in SCORE_ATTACKS for name in attacks.get(attack) or {}}
    found = {(attack, score) for row in rows for attack, score, _ in list_scores(attacks, row)}
    return [each for each in SCORE_HEADINGS if each in found]


def _format_auc(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return MISSING
    low, high = (format_number(end, 2) for end in record["interval"])
    return f"{format_number(record['auc'], 2)} [{low}, {high}]{'*' if record.get('worse') else ''}"


def list_obstacles(attacks: Mapping[str, Any], which: Sequence[str]) -> list[str]:
    """Return the reasons why some attacks were impossible, each once: "retrained: ..."."""
    found = [
        f"{row_label(name)}: {record['obstacle']}."
        for attack in which
        for name, record in (attacks.get(attack) or {}).items()
        if record.get("obstacle")
    ]
    return list(dict.fromkeys(found))


def _format_reached(attack: str, record: Mapping[str, Any] | None) -> str:
    if record is None or record.get("obstacle"):
        return MISSING
    return f"{_format_share(record)} at {describe_found(attack, record)}"


def _format_cells(attacks: Mapping[str, Any], name: str) -> list[str]:
    inside, search = attacks["inside"][name], attacks["latent_search"].get(name)
    relearning = attacks["relearning"]
    return [
        MISSING if inside is None else format_number(100 * inside["forget_rate"], 1),
        MISSING if search is None else _format_share(search),
        *(_format_steps(record, name, relearning["steps"]) for record in relearning["images"].values()),
    ]


def _format_share(search: Mapping[str, Any]) -> str:
    low, high = (format_number(100 * end, 1) for end in search["interval"])
    return f"{format_number(100 * search['success_share'], 1)} [{low}, {high}]"


def _format_steps(record: Mapping[str, Any], name: str, most: int, decimals: int = 0) -> str:
    if record["curves"].get(name) is None:
        return MISSING
    steps = record["steps_to_half"].get(name)
    return f"> {most}" if steps is None else format_number(steps, decimals)


def _caption(k: str) -> str:
    return "retained images only" if k == "retain" else f"{k} forgotten image{'' if k == '1' else 's'}"


def _draw_curves(k: str, curves: Mapping[str, list[Any] | None], half: float, name: str) -> Markup:
    known = {row: points for row, points in curves.items() if points}
    ends = ", ".join(
        f"{row_label(row)} {format_number(100 * points[-1][1], 1)} %" for row, points in known.items()
    )
    others = iter(OTHERS * 8)
    description = f"Forget rate while relearning from {_caption(k)}; at the end: {ends}"
    with draw_chart(name, description) as chart:
        axes = chart.axes
        for row, points in known.items():
            colour = COLOURS.get(row) or next(others)
            x, y = [1 + step for step, _ in points], [100 * value for _, value in points]
            axes.plot(x, y, color=colour, label=row_label(row))
        axes.axhline(100 * half, color=MUTED, linewidth=0.8, linestyle=(0, (2, 1.5)))
        axes.set_xscale("log")
        ticks = [1, 4, 11, 31, 101, 301]
        shown = [t for t in ticks if t <= max(1 + points[-1][0] for points in known.values())]
        axes.set_xticks(shown, [str(t - 1) for t in shown])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, None)
        axes.set_xlabel("step")
        axes.set_ylabel("% judged forgotten")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.figure.legend(loc="outside upper left", ncols=3, columnspacing=1.0, borderpad=0.1)
    return chart.svg
