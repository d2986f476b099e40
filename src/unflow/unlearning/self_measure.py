"""The self-measure of an unlearning, on fresh samples of the original and the result.

It reads no data and no judge. The guide of the request counts the forgotten samples, so the numbers contain
its errors; ``unflow audit`` measures with an independent judge.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unflow.energies import ConditionEnergy
from unflow.energies.unread import Unread
from unflow.ground.errors import InputError
from unflow.ground.progress import hide_progress
from unflow.ground.streams import Stream, stream
from unflow.mathematics.shares import share_interval
from unflow.mathematics.sharpness import Neighbourhood, edge_contrast, flatten_small, has_edges
from unflow.models import GenerativeModel
from unflow.nets.modes import moved_to
from unflow.target import Target
from unflow.unlearning.forgotten import Votes, count_votes
from unflow.unlearning.verdict import Asked, Ratio, SelfMeasure, Share

NUM_SAMPLES, NUM_OF_FLOW, NUM_OF_LARGE = 2000, 1000, 500
"""Fresh samples of a one-step model; of a flow; of a model with more than ``LARGE`` weights."""
LARGE = 30_000_000
LEAST = 50
"""Accepted samples of the original, at least, that sharpness is compared with; latents of the moved part."""
NUM_ASKED, MOST_ASKED = 500, 3
"""Samples of one condition, and conditions, at most, that a conditional model is asked for."""
FEW_POINTS = 1000
"""Samples, at most, between which distances of images are measured."""


@torch.no_grad()
def measure_unlearning(
    target: Target,
    result: GenerativeModel,
    *,
    seed: int = 0,
    n: int | None = None,
    losses: Sequence[Mapping[str, float]] = (),
    device: str = "cpu",
) -> SelfMeasure:
    """Measure a result on fresh samples, without data and without a judge.

    Args:
        target: of the request, with the original model.
        result: the model after unlearning.
        seed: of the samples; their random stream is their own.
        n: latents, >= 100; None: ``NUM_SAMPLES`` of a one-step model, ``NUM_OF_FLOW`` of a flow,
            ``NUM_OF_LARGE`` of a large model.
        losses: logged records of the training, in order.
        device: on which the networks run.

    Raises:
        InputError: for n under 100.
    """
    n = choose_n(target.model) if n is None else n
    check_n(n)
    loss = compare_losses(losses)
    if isinstance(target.energy, ConditionEnergy):
        words = "the request is a condition, so no guide says what is drawn: an audit's judge does"
        return SelfMeasure(n=n, loss=loss, obstacle=words)
    if any(isinstance(part, Unread) for part in target.energy.modules()):
        return SelfMeasure(
            n=n, loss=loss, obstacle="the request has no energy, so nothing counts as forgotten"
        )
    with hide_progress(), moved_to((target.model, result, target.energy), device):
        generator = stream(seed, Stream.SELF_MEASURE)
        z = target.model.prior(n, generator)
        others = target.model.prior(n, generator)
        before, after = target.model.push_batches(z), result.push_batches(z)
        found = SelfMeasure(n=n, loss=loss, unchanged=torch.equal(before, after))
        broken = int((~after.flatten(1).isfinite().all(1)).sum())
        if broken:
            return dataclasses.replace(found, not_finite=broken)
        reference = target.model.push_batches(others)
        # Votes of the two sets of the original, in one call: weights have one kappa.
        votes = count_votes(target, torch.cat([before, reference]), after)
        found = _compare(found, before, after, reference, votes, generator)
        return dataclasses.replace(found, asked=_ask(target, result, z, votes.before[:n], generator))


def _ask(
    target: Target, result: GenerativeModel, z: Tensor, forgotten: Tensor, generator: torch.Generator
) -> tuple[Asked, ...]:
    """Return the shares of a conditional model at the conditions that draw mostly what is to be forgotten."""
    model = target.model.conditional
    if model is None or result.conditional is None:
        return ()
    label = model.conditions(z)
    counts = torch.bincount(label, minlength=model.num_conditions)
    shares = torch.bincount(label, forgotten.to(z.device).double(), minlength=model.num_conditions) / counts
    found = []
    for c in (shares > 0.5).nonzero()[:, 0].tolist()[:MOST_ASKED]:
        asked = model.ask(z[:NUM_ASKED], c)
        exact = target.sample(len(asked), generator, label=c).x
        samples = (target.model.push_batches(asked), result.push_batches(asked), exact)
        votes = count_votes(target, torch.cat([samples[0], samples[2]]), samples[1])
        before, exactly = votes.before.cpu().tensor_split(2)
        found.append(Asked(c, _count_share(before), _count_share(votes.after.cpu()), _count_share(exactly)))
    return tuple(found)


def choose_n(model: GenerativeModel) -> int:
    """Return the default number of latents."""
    if sum(weight.numel() for weight in model.parameters()) > LARGE:
        return NUM_OF_LARGE
    return NUM_OF_FLOW if model.family == "flow" else NUM_SAMPLES


def check_n(n: int) -> None:
    """Raise InputError for too few samples."""
    if n < 100:
        raise InputError(f"got {n} samples for the self-measure; expected 100 or more, or 0 for none")


def _compare(
    found: SelfMeasure,
    before: Tensor,
    after: Tensor,
    reference: Tensor,
    votes: Votes,
    generator: torch.Generator,
) -> SelfMeasure:
    """Return the measure with its shares and ratios."""
    n = len(before)
    accepted = (torch.rand(2 * n, generator=generator).to(votes.acceptance) < votes.acceptance).cpu()
    kept = accepted[:n]
    forgotten = votes.before.cpu()
    changed = (votes.label_before[:n] != votes.label_after).cpu()[kept]
    found = dataclasses.replace(
        found,
        guide=votes.words,
        before=_count_share(forgotten[:n]),
        after=_count_share(votes.after.cpu()),
        target=_weigh_share(forgotten, votes.ratio.cpu()),
        changed=float(changed.double().mean()) if len(changed) else None,
        is_image=has_edges(before.shape[1:]),
    )
    exact, base = reference[accepted[n:].to(reference.device)], before[kept.to(before.device)]
    if min(len(exact), len(base)) < LEAST:
        return found
    left = ~votes.after.to(after.device)  # samples that are still forgotten ones lie apart from the target's
    rest, moved = after[left], after[left & ~kept.to(after.device)]
    if len(rest) < LEAST:
        return found
    ratios: dict[str, Any] = {**measure_ratios(rest, moved if len(moved) >= LEAST else None, exact, base)}
    return dataclasses.replace(found, **ratios)


def _count_share(inside: Tensor) -> Share:
    """Return the share of True."""
    count = int(inside.sum())
    return Share(count / len(inside), *share_interval(count, len(inside)))


def _weigh_share(inside: Tensor, weights: Tensor) -> Share:
    """Return the weighted share, with the interval of as many samples as the weights are worth."""
    weights = weights.double()
    value = min(max(float((weights * inside).sum() / weights.sum()), 0.0), 1.0)
    size = max(1, round(float(weights.sum() ** 2 / weights.square().sum())))
    return Share(value, *share_interval(value * size, size))


def measure_ratios(
    after: Tensor, moved: Tensor | None, exact: Tensor, base: Tensor
) -> dict[str, Ratio | None]:
    """Return sharpness, distance, reach and gap of all outputs and of the moved ones."""
    # Few dimensions have noisier distances, and take less time.
    most = FEW_POINTS if has_edges(after.shape[1:]) else len(after)
    around = Neighbourhood.around(flatten_small(exact[:most]))
    m = len(around.points)
    x, y = flatten_small(after[:most]), flatten_small(base[:most])
    apart = None if moved is None else flatten_small(moved[:most])
    near = around.log_distances(y)
    distance = _divide_logs(around.log_distances(x), near)
    same = min(m, len(x), len(y))
    found: dict[str, Ratio | None] = {
        "distance": distance,
        "reach": _divide_logs(around.log_reach(x[:same]), around.log_reach(y[:same])),
        "gap": _divide_logs(around.log_gaps(x[:same]), around.log_gaps(y[:same])),
        "distance_moved": None if apart is None else _divide_logs(around.log_distances(apart), near),
        "gap_moved": None,
    }
    if apart is not None:
        few = min(len(apart), len(y))
        found["gap_moved"] = _divide_logs(around.log_gaps(apart[:few]), around.log_gaps(y[:few]))
    if not has_edges(after.shape[1:]):
        return found | {"sharpness": _invert(distance), "sharpness_moved": _invert(found["distance_moved"])}
    sharp = edge_contrast(torch.cat([exact, base]))
    return found | {
        "sharpness": _divide_means(edge_contrast(after), sharp),
        "sharpness_moved": None if moved is None else _divide_means(edge_contrast(moved), sharp),
    }


def _divide_means(x: Tensor, y: Tensor) -> Ratio | None:
    """Return mean(x) / mean(y) for independent numbers > 0."""
    above, below = float(x.mean()), float(y.mean())
    if below <= 0:
        return None
    relative = float(x.var()) / len(x) + (above / below) ** 2 * float(y.var()) / len(y)
    return Ratio(above / below, math.sqrt(relative) / below)


def _divide_logs(x: Tensor, y: Tensor) -> Ratio:
    """Return exp(mean(x) - mean(y)) for independent logarithms."""
    value = math.exp(float(x.mean()) - float(y.mean()))
    return Ratio(value, value * math.sqrt(float(x.var()) / len(x) + float(y.var()) / len(y)))


def _invert(ratio: Ratio | None) -> Ratio | None:
    return None if ratio is None else Ratio(1 / ratio.value, ratio.error / ratio.value**2)


def compare_losses(records: Sequence[Mapping[str, float]]) -> tuple[float, float, str] | None:
    """Return the loss of the first record and the mean of the last third, and whether it fell.

    "rose" and "fell" are changes of more than three standard errors and 1 %, by the noise between successive
    records at the end. None for fewer than three records, and for methods with several losses, which need
    not fall.
    """
    values = [float(record["loss"]) for record in records if "loss" in record]
    if len(values) < 3:
        return None
    loss = torch.tensor(values, dtype=torch.float64)
    tail = max(1, len(values) // 3)  # a run may have diverged by its second record, so the first stands alone
    first, last = float(loss[0]), float(loss[-tail:].mean())
    bends = loss[-tail - 2 :].diff(n=2).abs()  # second differences: a trend is no noise
    noise = float(bends.median()) / (0.6745 * math.sqrt(6)) * math.sqrt(1 + 1 / tail)
    if abs(last - first) <= max(3 * noise, 0.01 * abs(first)):
        return first, last, "did not change"
    return first, last, "fell" if last < first else "rose"
