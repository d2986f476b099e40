"""Asks conditional models for each condition: what they draw when they are asked for what is forgotten.

UA (unlearning accuracy) is 1 - the judge's accuracy on samples asked for with the forgotten labels, and RA
(retaining accuracy) its mean accuracy on those asked for with the retained labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.evidence import metrics
from unflow.evidence.auditing.evidence import Evidence
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.errors import InputError
from unflow.ground.files import write_arrays
from unflow.ground.progress import Progress
from unflow.ground.streams import Stream, stream
from unflow.mathematics.shares import share_interval
from unflow.models import GenerativeModel
from unflow.models.base import Askable
from unflow.models.conditional import NULL
from unflow.target import Target

GUIDANCE = (1.0, 2.0, 4.0)
"""Guidance scales at which a flow with a null condition is asked for the forgotten labels."""
LEAST = 50
"""Samples of a condition, at least; more conditions than the budget allows are not all asked for."""
BUDGET = 2000
"""Samples of all conditions of a model, at least."""
NUM_NEIGHBOURS = 3
"""Retained classes that the judge confuses most with the forgotten ones."""
FEWEST_REAL = 10
"""Real samples of a label, at least, to which a distance is measured."""
SHOWN = 6
"""Samples of a condition that are stored for the report."""


@dataclass(frozen=True)
class Questions:
    """What the models of an audit are asked for.

    Attributes:
        n: samples of each condition.
        labels: conditions that are asked for, ascending; the forgotten ones and their neighbours are among
            them.
        guidance: scales at which the forgotten labels are asked for; empty for models without guidance.
        null: whether the null condition is asked for.
        neighbours: the retained labels that the judge confuses most with the forgotten ones.
        num_conditions: of the model.
        obstacle: why nothing was asked, in words; None where it was.
    """

    n: int = 0
    labels: Sequence[int] = ()
    guidance: Sequence[float] = ()
    null: bool = False
    neighbours: Sequence[int] = ()
    num_conditions: int = 0
    obstacle: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def plan_questions(
    original: GenerativeModel,
    model: GenerativeModel,
    evidence: Evidence,
    budget: int,
    *,
    ask: bool = True,
    n: int | None = None,
) -> Questions | None:
    """Return what to ask the models of an audit; None for models without conditions.

    Without n, all questions together draw about as many samples of a model as the audit's row has. A sample
    at a guidance other than 1 counts twice, since it takes twice as many evaluations.

    Args:
        original: before unlearning.
        model: after unlearning.
        evidence: judge, request and real data.
        budget: samples per row of the audit; at least ``BUDGET`` are used.
        ask: whether to ask.
        n: samples of each condition, >= ``LEAST``; None: chosen by the budget.

    Raises:
        InputError: for n under ``LEAST``.
    """
    if n is not None and n < LEAST:
        raise InputError(f"got ask_n={n} samples of each condition; expected {LEAST} or more")
    before, after = original.conditional, model.conditional
    if before is None:
        return None
    obstacle = _find_obstacle(before, after, evidence) if ask else "it was left out (`--ask false`)"
    if obstacle is not None or after is None:
        return Questions(num_conditions=before.num_conditions, obstacle=obstacle)
    known = before.drawn
    neighbours = find_neighbours(evidence, known)
    null = before.null is not None and after.null is not None
    guidance = GUIDANCE if null and _is_guided(original) and _is_guided(model) else ()
    further = null + sum(2 if g != 1 else 1 for g in guidance) * len(evidence.forget)
    room = max(budget, BUDGET)
    if n is None:
        most = max(room // LEAST - further, len(evidence.forget) + len(neighbours))
        labels = choose_labels(known, [*evidence.forget, *neighbours], most)
        n = max(room // (len(labels) + further), LEAST)
    else:
        labels = tuple(known)
    return Questions(n, labels, guidance, null, tuple(neighbours), before.num_conditions)


def _find_obstacle(before: Askable, after: Askable | None, evidence: Evidence) -> str | None:
    """Return why the models cannot be asked and judged; None where they can."""
    if after is None:
        return "the original takes conditions, and the audited model does not"
    if (obstacle := find_label_obstacle(before, evidence)) is not None:
        return obstacle
    drawn = before.drawn
    if missing := [k for k in drawn if k not in after.drawn]:
        return f"the audited model draws no label {missing[0]}, though its network may still know it"
    return None


def find_label_obstacle(original: Askable, evidence: Evidence) -> str | None:
    """Return why the labels of the original are not the judge's classes; None where they may be."""
    known, classes = original.num_conditions, evidence.judge.num_classes
    if known != classes:
        return f"the judge has {classes} classes and the model {known} conditions, so they do not correspond"
    if missing := [k for k in evidence.forget if k not in original.drawn]:
        return f"the original draws no label {missing[0]}"
    return None


def _is_guided(model: GenerativeModel) -> bool:
    """Return whether a model can be sampled at another guidance."""
    try:
        return model.with_guidance(GUIDANCE[-1]).family == "flow"
    except InputError:
        return False


def choose_labels(known: Sequence[int], first: Sequence[int], most: int) -> tuple[int, ...]:
    """Return at most ``most`` labels: the first ones, and others that are spread evenly."""
    others = [k for k in known if k not in first]
    room = max(most - len(first), 0)
    if len(others) > room:
        others = [others[i * len(others) // room] for i in range(room)]
    return tuple(sorted({*first, *others}))


@torch.no_grad()
def find_neighbours(evidence: Evidence, labels: Sequence[int]) -> list[int]:
    """Return the retained labels that the judge confuses most with the forgotten ones, the most first.

    The confusion of k is E[p(k | x)] over real samples x of forgotten classes, plus E[p(forgotten | x)] over
    real samples of k.
    """
    data = evidence.held_out
    p = evidence.judge.probabilities(data.x).cpu()
    real, forgotten = data.labels.cpu(), list(evidence.forget)
    is_of = is_forgotten(real, forgotten)
    given = p[is_of].mean(0) if bool(is_of.any()) else torch.zeros(p.shape[1]).to(p)
    confusion = {}
    for k in labels:
        if k not in forgotten:
            own = p[real == k]
            confusion[k] = float(given[k]) + (float(own[:, forgotten].sum(1).mean()) if len(own) else 0.0)
    return sorted(confusion, key=lambda k: -confusion[k])[:NUM_NEIGHBOURS]


# Answers


@dataclass(frozen=True)
class Answers:
    """Samples of a model, by what it was asked for.

    Attributes:
        asked: label of each sample, -1 for the null condition, [m].
        x: samples at the model's own guidance, [m, *sample_shape].
        guided: guidance -> samples asked for with the forgotten labels.
    """

    asked: Tensor
    x: Tensor
    guided: Mapping[float, Tensor]


@torch.no_grad()
def ask_models(
    questions: Questions,
    models: Mapping[str, GenerativeModel],
    target: Target | None,
    evidence: Evidence,
    seed: int,
    samples_folder: Path | None = None,
    decode: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[Questions, dict[str, dict[str, Any]]]:
    """Ask the models of an audit, and return the questions and the record of each row.

    All models draw from the same noise. The exact target answers as well: its shares are the goal, and its
    distances, between two independent sets, the floor.

    Args:
        questions: what to ask for.
        models: row name -> model, "original" among them. A model that draws no such label is not asked.
        target: the request; None without an energy.
        evidence: judge, request and real data.
        seed: of the latents.
        samples_folder: where to write the first samples of each condition; None writes nothing.
        decode: maps exact samples of the target to those of the models, for a request in latents.
    """
    asked = _list_asked(questions)
    askable = {name: model for name, model in models.items() if _knows(model, questions)}
    answers: dict[str, Answers] = {}
    with Progress("ask for each condition", len(askable) + 2 * (target is not None)) as progress:
        for name, model in askable.items():
            answers[name] = _draw_answers(questions, model, asked, evidence.forget, seed)
            progress.advance(len(answers))
        second = None
        if target is not None:
            answers["target"], second = (_draw_target(target, asked, seed, k, decode) for k in (1, 2))
            progress.advance(len(answers) + 1)
    if obstacle := _find_mismatch(answers["original"], evidence, questions.labels):
        return Questions(num_conditions=questions.num_conditions, obstacle=obstacle), {}
    exact = None if target is None else answers["target"].x
    records = {}
    for name, found in answers.items():
        reference = None if second is None else second.x if name == "target" else exact
        records[name] = _measure_answers(questions, found, reference, evidence)
        if samples_folder is not None:
            _save_answers(found, evidence, samples_folder / f"{models['original'].family}-{name}-asked.npz")
    return questions, records


def _list_asked(questions: Questions) -> Tensor:
    """Return the label of each sample, -1 for the null condition."""
    labels = [*questions.labels, *([-1] if questions.null else [])]
    return torch.tensor(labels).repeat_interleave(questions.n)


def _knows(model: GenerativeModel, questions: Questions) -> bool:
    inside = model.conditional
    if inside is None or (questions.null and inside.null is None):
        return False
    return set(questions.labels) <= set(inside.drawn)


def _ask(model: GenerativeModel, z: Tensor, asked: Tensor) -> Tensor:
    """Return latents that ask for labels, -1 for the null condition."""
    inside = model.require_conditional()
    conditions = asked if inside.null is None else torch.where(asked < 0, inside.null, asked)
    return inside.ask(z, conditions.to(z.device))


def _draw_answers(
    questions: Questions, model: GenerativeModel, asked: Tensor, forget: Sequence[int], seed: int
) -> Answers:
    x = model.push_batches(_ask(model, model.prior(len(asked), stream(seed, Stream.ASKED)), asked))
    again = torch.tensor(list(forget)).repeat_interleave(questions.n)
    guided = {}
    for g in questions.guidance:
        at = model.with_guidance(g)
        z = at.prior(len(again), stream(seed, Stream.ASKED, 0))
        guided[g] = at.push_batches(_ask(at, z, again)).cpu()
    return Answers(asked, x.cpu(), guided)


def _draw_target(
    target: Target, asked: Tensor, seed: int, which: int, decode: Callable[[Tensor], Tensor]
) -> Answers:
    """Return exact samples of q*(x | c); one bank for all conditions shares the draws that replace."""
    generator = stream(seed, Stream.ASKED, which)
    z = _ask(target.model, target.model.prior(len(asked), generator), asked)
    return Answers(asked, decode(target.replaced(target.score(z, varies=False), generator).x).cpu(), {})


def _find_mismatch(answers: Answers, evidence: Evidence, labels: Sequence[int]) -> str | None:
    """Return that most labels of the original are other classes of the judge; None where they are not.

    A weak model, whose samples are of many classes, or of one for all labels, is none: the labels must be
    different other classes, each in over half of its samples.
    """
    judged = evidence.judge.probabilities(answers.x).argmax(1).cpu()
    modes = {k: judged[answers.asked == k].mode().values.item() for k in labels}
    sure = [k for k in labels if float((judged[answers.asked == k] == modes[k]).double().mean()) > 0.5]
    other = [k for k in sure if modes[k] != k]
    if 2 * len({modes[k] for k in other}) <= len(labels):
        return None
    return (
        f"the judge's classes do not match the labels (asked for label {other[0]}, the original draws its "
        f"class {modes[other[0]]})"
    )


# Measures


def _measure_answers(
    questions: Questions, answers: Answers, reference: Tensor | None, evidence: Evidence
) -> dict[str, Any]:
    """Return the record of one row."""
    judge, forget, n = evidence.judge, list(evidence.forget), questions.n
    judged, features = judge.probabilities(answers.x).argmax(1).cpu(), judge.features(answers.x).cpu()
    exact = None if reference is None else judge.features(reference).cpu()
    own, bad = judged == answers.asked, is_forgotten(judged, forget)
    conditions = []
    for label in _list_conditions(questions):
        rows = answers.asked == (-1 if label == NULL else label)
        real = None if label == NULL else _real_features(evidence, int(label))
        record: dict[str, Any] = {"label": label, "own": None, "forgotten": float(bad[rows].double().mean())}
        record["forgotten_interval"] = _interval(int(bad[rows].sum()), n)
        if label != NULL:
            record |= {
                "own": float(own[rows].double().mean()),
                "own_interval": _interval(int(own[rows].sum()), n),
            }
        record["fd_target"] = None if exact is None else _distance(features[rows], exact[rows])
        record["fd_real"] = None if real is None else _distance(features[rows], real)
        conditions.append(record)
    guided = {
        g: is_forgotten(judge.probabilities(x).argmax(1).cpu(), forget) for g, x in answers.guided.items()
    }
    return _summarise(questions, conditions, guided, forget)


def _summarise(
    questions: Questions, conditions: list[dict[str, Any]], guided: Mapping[float, Tensor], forget: list[int]
) -> dict[str, Any]:
    """Return the record of one row: means over the labels, the worst ones, and each condition."""
    n, by_label = questions.n, {record["label"]: record for record in conditions}
    gone = [by_label[k] for k in forget]
    kept = [record for k, record in by_label.items() if k != NULL and k not in forget]
    near = [by_label[k] for k in questions.neighbours]
    null = by_label.get(NULL)
    shares = {
        "forgotten": (_mean(gone, "forgotten"), n * len(gone)),
        "own": (_mean(kept, "own"), n * len(kept)),
        "neighbours": (_mean(near, "own"), n * len(near)),
        "null": (None if null is None else null["forgotten"], n),
    }
    found: dict[str, Any] = {name: share for name, (share, _) in shares.items()}
    found["least_own"] = min((record["own"] for record in kept), default=None)
    found["ua"], found["ra"] = 1 - (_mean(gone, "own") or 0.0), found["own"]
    found["fd_target"], found["fd_real"] = _mean(kept, "fd_target"), _mean(kept, "fd_real")
    found["guidance"] = {f"{g:g}": float(bad.double().mean()) for g, bad in guided.items()}
    found["guided"] = max(found["guidance"].values(), default=None)
    found["n"] = n
    found["intervals"] = {
        name: _interval(round(share * m), m) for name, (share, m) in shares.items() if share is not None
    } | {f"guidance.{g:g}": _interval(int(bad.sum()), len(bad)) for g, bad in guided.items()}
    return found | {"conditions": conditions}


def _list_conditions(questions: Questions) -> Iterator[int | str]:
    yield from questions.labels
    if questions.null:
        yield NULL


def _mean(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [float(record[name]) for record in records if record[name] is not None]
    return sum(values) / len(values) if values else None


def _interval(count: int, n: int) -> list[float]:
    return list(share_interval(count, n))


def _real_features(evidence: Evidence, label: int) -> Tensor | None:
    """Return the features of held-out real samples of a label; None for too few of them."""
    data: LabelledData = evidence.held_out
    x = data.x[data.labels == label]
    return evidence.judge.features(x).cpu() if len(x) >= FEWEST_REAL else None


def _distance(features: Tensor, reference: Tensor) -> float:
    return metrics.frechet_distance(generated=features, reference=reference)


def _save_answers(answers: Answers, evidence: Evidence, path: Path) -> None:
    """Write the first samples of each condition: x, the condition (-1: null), and the judged class."""
    order = torch.cat(
        [(answers.asked == k).nonzero()[:SHOWN, 0] for k in sorted(set(answers.asked.tolist()))]
    )
    x = answers.x[order]
    arrays = {
        "x": x,
        "condition": answers.asked[order],
        "label": evidence.judge.probabilities(x).argmax(1).cpu(),
    }
    write_arrays(path, {name: value.numpy() for name, value in arrays.items()})
