"""The numbers of a self-measure of an unlearning, and the verdict that they give, in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unflow.ground.errors import InputError
from unflow.mathematics.sharpness import REPEATED

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
SHARP_FEW = 0.7
"""Least sharpness of moved samples that repeat each other: that of single images differs."""
SPARSE = 1.15
"""Largest distance of the target's samples to the result's."""
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


@dataclass(frozen=True)
class Asked:
    """The share of forgotten samples among those of one condition that the model was asked for.

    Attributes:
        label: the condition.
        before: of the original.
        after: of the result.
        target: of exact samples of q*(x | c).
    """

    label: int
    before: Share
    after: Share
    target: Share

    @property
    def forgotten(self) -> bool:
        """Whether the share is the target's, up to ``TOLERATED_SHARE`` and noise."""
        return self.after.low <= self.target.high + TOLERATED_SHARE

    @property
    def words(self) -> str:
        """The shares in words."""
        return (
            f"asked for {self.label}: {_percent(self.before.value)} -> {_percent(self.after.value)} "
            f"{_interval(self.after)} (exact target {_percent(self.target.value)})"
        )


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
        asked: of a conditional model: the conditions of which the original draws mostly what is to be
            forgotten.
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
    asked: tuple[Asked, ...] = ()
    obstacle: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as lineage.json records them, with the verdict."""
        found = dataclasses.asdict(self)
        return {**found, "asked": list(found["asked"]), "verdict": self.verdict}

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
        if self.after.low > limit or not all(each.forgotten for each in self.asked):
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
        yield from (each.words for each in self.asked)
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
    """Return the fault of blurred, over-sharp, noisy or strange samples; "" if there is none."""
    if _repeats(found):  # few images, whose sharpness is their own; a mean image is far less sharp
        low = SHARP_MOVED[0] if found.is_image else 1 / FAR_MOVED_POINT
        limits = ((found.sharpness, low), (found.of_moved("sharpness"), SHARP_FEW))
        return (
            "blurred" if any(ratio is not None and ratio.is_below(least) for ratio, least in limits) else ""
        )
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
    """Return the fault of samples that repeat each other or miss a part of the target; else ""."""
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
        if name == "asked":
            values[name] = tuple(_read_asked(each) for each in value)
        elif isinstance(value, Mapping):
            values[name] = (Share if "Share" in str(own[name]) else Ratio)(**value)
        elif name == "loss":
            values[name] = tuple(value)
    return SelfMeasure(**values)


def _read_asked(record: Mapping[str, Any]) -> Asked:
    shares = {name: Share(**record[name]) for name in ("before", "after", "target")}
    return Asked(record["label"], **shares)


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
