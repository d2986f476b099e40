"""The self-measure of an unlearning: fresh samples of the original and the result, and a verdict in a sentence.

It reads no data and no judge. The guide of the request counts the forgotten samples, so its errors are in the
numbers; ``unflow audit`` measures with an independent judge.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unflow.energies.unread import Unread
from unflow.ground.errors import InputError
from unflow.ground.progress import hide_progress
from unflow.ground.streams import Stream, stream
from unflow.mathematics.sharpness import Neighbourhood, edge_contrast, flatten_small, has_edges
from unflow.mathematics.shares import share_interval
from unflow.models import GenerativeModel
from unflow.target import Target
from unflow.unlearning.forgotten import Votes, count_votes

NUM_SAMPLES, NUM_OF_FLOW, NUM_OF_LARGE = 2000, 1000, 500
"""Fresh samples of a one-step model; of a flow; of a model with more than ``LARGE`` weights."""
LARGE = 30_000_000
LEAST = 50
"""Accepted samples of the original, at least, that sharpness is compared with; latents of the moved part."""
FEW_POINTS = 1000
"""Samples, at most, between which distances of images are measured."""

TOLERATED_SHARE = 0.005
"""Points of forgotten samples above the target's that still count as forgotten."""
SHARP = (0.97, 1.03)
"""Edge contrast of images, relative to exact samples of the target, that counts as sharp."""
SHARP_MOVED = (0.9, 1.1)
"""The same of the samples at rejected latents, whose classes may differ from the target's."""
FAR, FAR_MOVED = 1.1, 1.25
"""Largest distance of images to exact samples of the target, relative to that of others: all, moved ones."""
FAR_POINT, FAR_MOVED_POINT = 1.05, 1.2
"""The same of samples that are no images, whose only measure of sharpness it is."""
SPARSE, REPEATED = 1.15, 0.25
"""Largest distance of the target's samples to the result's; least gap between the result's samples."""
CHANGED = 0.1
"""Largest share of kept samples whose class may change."""
ERRORS = 2.0
"""Standard errors by which a number must exceed its limit before it is a fault."""

REQUIREMENTS = ("forgotten", "sharp", "diverse", "kept")
"""What ``--require`` may name."""


@dataclass(frozen=True)
class Ratio:
    """A ratio with its standard error, about 1 for exact samples of the target."""

    value: float
    error: float

    def is_above(self, limit: float) -> bool:
        """Return whether the ratio exceeds a limit by more than noise."""
        return self.value - ERRORS * self.error > limit

    def is_below(self, limit: float) -> bool:
        """Return whether the ratio is under a limit by more than noise."""
        return self.value + ERRORS * self.error < limit


@dataclass(frozen=True)
class Share:
    """A share of samples with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SelfMeasure:
    """The numbers of a self-measure. None means "could not be measured"; ``obstacle`` says why.

    All samples are fresh. The original and the result have the same latents z. Rejection divides these
    latents into kept ones, whose samples of the original are exact samples of the target, and moved ones.
    Ratios are of the result's samples that do not count as forgotten, against exact samples of the target.
    Those of moved latents count as faults only if the result forgot: else these latents did not move.

    Attributes:
        n: latents.
        guide: how a sample counts as forgotten, in words.
        before: share of the original's samples that the guide calls forgotten.
        after: the same of the result's.
        target: the same under the target's weights.
        changed: share of kept latents whose class by the guide (or side of the acceptance 1/2) changed.
        sharpness: edge contrast of images relative to the target's; for other samples 1 / ``distance``.
        sharpness_moved: the same of moved latents alone.
        distance: distance to exact samples of the target, relative to that between such samples.
        distance_moved: the same of moved latents alone.
        reach: distance from exact samples of the target to the result's, relative to that between such
            samples: larger where the result misses a part of them.
        gap: distance between nearest samples of the result, relative to that of the target's: near 0 where
            samples repeat each other.
        gap_moved: the same of moved latents alone.
        is_image: whether ``sharpness`` is an edge contrast.
        unchanged: whether every sample of the result is the original's.
        not_finite: samples of the result with NaN or infinite entries.
        loss: first and last logged loss, and "fell", "rose" or "did not change"; None for methods with
            several losses, or without logged ones.
        obstacle: why nothing could be measured.
    """

    n: int
    guide: str = ""
    before: Share | None = None
    after: Share | None = None
    target: Share | None = None
    changed: float | None = None
    sharpness: Ratio | None = None
    sharpness_moved: Ratio | None = None
    distance: Ratio | None = None
    distance_moved: Ratio | None = None
    reach: Ratio | None = None
    gap: Ratio | None = None
    gap_moved: Ratio | None = None
    is_image: bool = False
    unchanged: bool = False
    not_finite: int = 0
    loss: tuple[float, float, str] | None = None
    obstacle: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as lineage.json records them, with the verdict."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    @property
    def forgotten(self) -> bool | None:
        """Whether the result forgot, up to ``TOLERATED_SHARE`` and noise; None if the numbers cannot tell."""
        if self.unchanged or self.not_finite:
            return False
        if self.before is None or self.after is None or self.target is None:
            return None
        limit = self.target.high + TOLERATED_SHARE
        if self.before.low <= limit:
            return None  # the original itself cannot be told from the target
        if self.after.low > limit:
            return False
        return None if self.after.high >= self.before.low else True

    @property
    def over_forgets(self) -> bool:
        """Whether the share of forgotten samples is under the target's by more than noise."""
        return self.after is not None and self.target is not None and self.after.high < self.target.low

    @property
    def sharp(self) -> bool | None:
        """Whether the samples are as sharp as the target's and lie among them; None if not measured."""
        return self._judge(self.sharpness, _find_blur(self))

    @property
    def diverse(self) -> bool | None:
        """Whether the samples cover the target's and do not repeat each other; None if not measured."""
        return self._judge(self.reach, _find_collapse(self))

    @property
    def kept(self) -> bool | None:
        """Whether at most ``CHANGED`` of the kept samples changed their class; None if not measured."""
        return self._judge(self.changed, _find_changes(self))

    def of_moved(self, name: str) -> Ratio | None:
        """Return a ratio of the moved latents ("sharpness", "distance", "gap"); None unless they moved."""
        found: Ratio | None = getattr(self, f"{name}_moved")
        return None if self.forgotten is False else found

    def _judge(self, measured: object, fault: str) -> bool | None:
        if self.not_finite:
            return False
        return None if measured is None else not fault

    def list_failures(self, required: Sequence[str]) -> list[str]:
        """Return the required properties that do not hold or could not be measured."""
        return [name for name in required if getattr(self, name) is not True]

    @property
    def verdict(self) -> str:
        """One sentence: forgot or not, the faults, and the numbers."""
        return f"{self._headline()}: {'; '.join(self._list_numbers())}"

    def _headline(self) -> str:
        words = {True: "forgot", False: "did not forget", None: "cannot know"}[self.forgotten]
        if self.forgotten and self.over_forgets:
            words = "forgot, further than asked"
        faults = [find(self) for find in (_find_blur, _find_collapse, _find_changes)]
        named = [fault for fault in faults if fault]
        if not named:
            return words
        first = ", ".join(named[:-1])
        return f"{words}, and {first + ' and ' if first else ''}{named[-1]}"

    def _list_numbers(self) -> Iterator[str]:
        if self.obstacle is not None:
            yield self.obstacle
        if self.not_finite:
            yield f"{self.not_finite:,} of {self.n:,} samples are NaN or infinite"
        if self.unchanged:
            yield "no output changed"
        if self.before is not None and self.after is not None and self.target is not None:
            yield (
                f"{self.guide} {_percent(self.before.value)} -> {_percent(self.after.value)} "
                f"{_interval(self.after)} of {self.n:,} fresh samples (exact target "
                f"{_percent(self.target.value)} {_interval(self.target)})"
            )
        if self.sharpness is not None:
            yield self._describe_sharpness(self.sharpness)
        if self.changed is not None:
            yield f"{_percent(self.changed)} of kept samples changed"
        if self.loss is not None:
            first, last, word = self.loss
            yield f"the loss {word} ({first:.3g} -> {last:.3g})"

    def _describe_sharpness(self, sharpness: Ratio) -> str:
        """Return the sharpness, and those other ratios that are out of their limits."""
        words = f"sharpness {sharpness.value:.2f}"
        moved = self.of_moved("sharpness")
        if moved is not None:
            words += f" ({moved.value:.2f} of moved samples)"
        shown = {
            "distance to the target": (self.distance, FAR, 0.0),
            "distance of moved samples to the target": (self.of_moved("distance"), FAR_MOVED, 0.0),
            "reach": (self.reach, SPARSE, 0.0),
            "gap between samples": (self.gap, math.inf, REPEATED),
            "gap between moved samples": (self.of_moved("gap"), math.inf, REPEATED),
        }
        for name, (ratio, most, least) in shown.items():
            if ratio is not None and (ratio.is_above(most) or ratio.is_below(least)):
                words += f", {name} {ratio.value:.2f}"
        return words


def _find_blur(found: SelfMeasure) -> str:
    """Return the fault of samples that are blurred, over-sharp, noisy or off the target; "" if there is none."""
    if _repeats(found):  # few images, whose sharpness is their own; a mean image is far less sharp
        low = SHARP_MOVED[0] if found.is_image else 1 / FAR_MOVED_POINT
        return "blurred" if found.sharpness is not None and found.sharpness.is_below(low) else ""
    if not found.is_image:
        limits = ((found.distance, FAR_POINT), (found.of_moved("distance"), FAR_MOVED_POINT))
        return "blurred" if any(ratio is not None and ratio.is_above(most) for ratio, most in limits) else ""
    for ratio, (low, high) in ((found.sharpness, SHARP), (found.of_moved("sharpness"), SHARP_MOVED)):
        if ratio is not None and ratio.is_below(low):
            return "blurred"
        if ratio is not None and ratio.is_above(high):
            return "over-sharpened"
    limits = ((found.distance, FAR), (found.of_moved("distance"), FAR_MOVED))
    far = any(ratio is not None and ratio.is_above(most) for ratio, most in limits)
    return "went off the target's samples" if far else ""


def _find_collapse(found: SelfMeasure) -> str:
    """Return the fault of samples that repeat each other or miss a part of the target; "" if there is none."""
    misses = found.reach is not None and found.reach.is_above(SPARSE)
    return "lost diversity" if misses or _repeats(found) else ""


def _repeats(found: SelfMeasure) -> bool:
    return any(ratio is not None and ratio.is_below(REPEATED) for ratio in (found.gap, found.of_moved("gap")))


def _find_changes(found: SelfMeasure) -> str:
    return "changed kept samples" if found.changed is not None and found.changed > CHANGED else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(share: Share) -> str:
    return f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"


def read_measure(record: Mapping[str, Any]) -> SelfMeasure:
    """Return a self-measure from lineage.json."""
    own = {each.name: each.type for each in dataclasses.fields(SelfMeasure)}
    values: dict[str, Any] = {name: record[name] for name in own if record.get(name) is not None}
    for name, value in values.items():
        if isinstance(value, Mapping):
            values[name] = (Share if "Share" in str(own[name]) else Ratio)(**value)
        elif name == "loss":
            values[name] = tuple(value)
    return SelfMeasure(**values)


def check_requirements(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of requirements.

    Raises:
        InputError: for an unknown one.
    """
    unknown = [name for name in names if name not in REQUIREMENTS]
    if unknown:
        raise InputError(
            f"got the requirement {unknown[0]!r}; expected names among {', '.join(REQUIREMENTS)}, like "
            "forgotten,sharp"
        )
    return tuple(names)


# Measuring


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
    if any(isinstance(part, Unread) for part in target.energy.modules()):
        return SelfMeasure(
            n=n, loss=loss, obstacle="the request has no energy, so nothing counts as forgotten"
        )
    with hide_progress(), _on_device((target.model, result, target.energy), device):
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
        return _compare(found, before, after, reference, votes, generator)


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
    return dataclasses.replace(
        found, **_measure_ratios(rest, moved if len(moved) >= LEAST else None, exact, base)
    )


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


def _measure_ratios(
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
    records at the end. None for fewer than three records, and for methods with several losses, which need not fall.
    """
    values = [float(record["loss"]) for record in records if "loss" in record]
    if len(values) < 3:
        return None
    loss = torch.tensor(values, dtype=torch.float64)
    tail = max(1, len(values) // 3)  # a run may have diverged by its second record, so the first stands alone
    first, last = float(loss[0]), float(loss[-tail:].mean())
    noise = float(loss[-tail - 1 :].diff().abs().median()) / 0.954 * math.sqrt(1 + 1 / tail)
    if abs(last - first) <= max(3 * noise, 0.01 * abs(first)):
        return first, last, "did not change"
    return first, last, "fell" if last < first else "rose"


@contextmanager
def _on_device(modules: Sequence[nn.Module], device: str) -> Iterator[None]:
    """Move modules to a device, and back to their own devices at the end."""
    homes = [(module, next(module.parameters(), torch.empty(0)).device) for module in modules]
    for module, _ in homes:
        module.to(device)
    try:
        yield
    finally:
        for module, home in homes:
            module.to(home)
