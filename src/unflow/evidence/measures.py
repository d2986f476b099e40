"""The table of measures: key, heading, unit, definition and function of every number in a row of an audit.

audit.json, the gates, the terminal, the report and the glossary are made from ``MEASURES``. A new metric is
one function in ``unflow.evidence.metrics`` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from unflow.evidence import metrics
from unflow.evidence.metrics.fidelity import Fidelity, fidelity
from unflow.evidence.metrics.forgetting import is_forgotten
from unflow.ground.streams import Stream, stream

MMD_ROWS = 2000
"""Rows of each side in one MMD, whose cost is quadratic in them."""
EXTRACTED_ROWS = 2000
"""Samples of each side in a distance by an extractor that is no judge."""
FEWEST_APPEARANCES = 40
"""Samples of each side below which no network is trained to tell them apart."""
MMD_SIZE, MMD_REPEATS = 300, 10
"""Rows of each side, and repetitions, of the repeated MMD."""


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Features by an extractor that no guide or judge has shaped, of at most ``EXTRACTED_ROWS`` samples each.

    Attributes:
        own: of the row's samples, [n, num_features].
        retain: of held-out retain data.
        target: of exact target samples that are not the row's own; None without a target.
    """

    own: Tensor
    retain: Tensor
    target: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The samples of one row, and the sets that its measures compare them with.

    Features are the judge's, [n, num_features]; probabilities are the judge's, [n, num_classes].

    Attributes:
        probabilities: of the samples.
        features: of the samples.
        second_probabilities: of the samples, by the second judge; None without one.
        forget: forgotten classes.
        original_labels: judged classes of the original model's samples, [n].
        same_latents: whether the row's samples came from the original's latents, one by one, through a model
            that was made from the original.
        retain: features of held-out retain data, with their neighbourhoods.
        training: features of the generators' training data.
        held_out: features of all held-out data.
        target: features of exact target samples that are not the row's own; None without a target.
        target_counts: class counts of exact target samples; None without a target.
        retrained: features of the retrained model's samples; None without one, and in its own row.
        bandwidth: sigma of the MMD's Gaussian kernel.
        c2st: name of the two-sample classifier, in ``metrics.CLASSIFIERS``.
        seed: of the repeated MMD.
        x: the samples themselves, [n, *shape].
        target_x: the exact target samples whose features are ``target``.
        retain_x: the held-out retain data whose features are ``retain``.
        extracted: features by an extractor that is no judge; None without one.
    """

    probabilities: Tensor
    features: Tensor
    second_probabilities: Tensor | None
    forget: Sequence[int]
    original_labels: Tensor
    same_latents: bool
    retain: metrics.Manifold
    training: Tensor
    held_out: Tensor
    target: Tensor | None
    target_counts: list[int] | None
    retrained: Tensor | None
    bandwidth: float
    c2st: str
    seed: int
    x: Tensor | None = None
    target_x: Tensor | None = None
    retain_x: Tensor | None = None
    extracted: Extracted | None = None

    @cached_property
    def labels(self) -> Tensor:
        """Judged classes of the samples, [n]."""
        return self.probabilities.argmax(1)

    @cached_property
    def class_counts(self) -> list[int]:
        """Samples per judged class."""
        return metrics.class_counts(self.labels, self.probabilities.shape[1])

    @cached_property
    def forget_rate(self) -> float:
        """Share of samples judged forgotten, in [0, 1]."""
        return metrics.forget_rate(self.probabilities, self.forget)

    @cached_property
    def fidelity(self) -> Fidelity:
        """Precision, recall, density and coverage against held-out retain data."""
        return fidelity(generated=self.features, reference=self.retain)

    @cached_property
    def repeated_mmd(self) -> metrics.RepeatedMMD:
        """Mean and standard deviation of the squared MMD to held-out retain data, over random subsets."""
        return metrics.repeated_mmd(
            generated=self.features,
            reference=self.retain.points,
            bandwidth=self.bandwidth,
            size=min(MMD_SIZE, len(self.retain.points), len(self.features)),
            repeats=MMD_REPEATS,
            generator=stream(self.seed, Stream.MMD),
        )

    @cached_property
    def transition(self) -> list[list[int]] | None:
        """Counts of (class before, class after) over the same latents; None where latents differ."""
        if not self.same_latents:
            return None
        num_classes = self.probabilities.shape[1]
        return metrics.transition_matrix(self.original_labels, self.labels, num_classes).tolist()


def _pul(o: Observed) -> float | None:
    original = float(is_forgotten(o.original_labels, o.forget).double().mean())
    return metrics.pul(round(original * len(o.features)), round(o.forget_rate * len(o.features)))


def _frechet(o: Observed, reference: Tensor | None) -> float | None:
    return None if reference is None else metrics.frechet_distance(generated=o.features, reference=reference)


def _mmd(o: Observed, reference: Tensor | None) -> float | None:
    if reference is None:
        return None
    return metrics.mmd(generated=o.features[:MMD_ROWS], reference=reference[:MMD_ROWS], bandwidth=o.bandwidth)


def _c2st(o: Observed, reference: Tensor | None) -> float | None:
    if reference is None:
        return None
    return metrics.c2st_auc(generated=o.features, reference=reference, classifier=o.c2st)


def _extracted_to_target(o: Observed) -> float | None:
    if o.extracted is None or o.extracted.target is None:
        return None
    return metrics.frechet_distance(generated=o.extracted.own, reference=o.extracted.target)


def _extracted_to_retain(o: Observed) -> float | None:
    if o.extracted is None:
        return None
    return metrics.frechet_distance(generated=o.extracted.own, reference=o.extracted.retain)


def _appearance(o: Observed, reference: Tensor | None, x: Tensor | None) -> float | None:
    if o.x is None or reference is None or x is None or min(len(x), len(o.x)) < FEWEST_APPEARANCES:
        return None
    test = metrics.appearance_c2st(generated=(o.features, o.x), reference=(reference, x), seed=o.seed)
    return test.auc


def _second_forget_rate(o: Observed) -> float | None:
    if o.second_probabilities is None:
        return None
    return metrics.forget_rate(o.second_probabilities, o.forget)


def _judges_disagree(o: Observed) -> float | None:
    if o.second_probabilities is None:
        return None
    return metrics.disagreement(o.labels, o.second_probabilities.argmax(1), o.forget)


def _share_tv(o: Observed) -> float | None:
    retained = [count for k, count in enumerate(o.class_counts) if k not in set(o.forget)]
    if o.target_counts is None or not sum(retained):
        return None  # a destroyed model may draw no retained class, and then it has no shares
    return metrics.retained_share_tv(o.class_counts, o.target_counts, o.forget)


def _stayed(o: Observed) -> float | None:
    if not o.same_latents or bool(is_forgotten(o.original_labels, o.forget).all()):
        return None
    return metrics.stayed_share(o.original_labels, o.labels, o.forget)


def _sharpness(o: Observed) -> float | None:
    if o.x is None or o.target_x is None:
        return None
    return metrics.sharpness_ratio(generated=o.x, reference=o.target_x)


Better = Literal["lower", "higher", "target", "half", "one", ""]
"""Good values: lower, higher, near the target's or the retrained model's, near 0.5, near 1, or none."""


@dataclass(frozen=True)
class Measure:
    """One number of an audit's row.

    Attributes:
        key: its name in audit.json and in gates.
        heading: its name in tables, and its term in the glossary.
        better: which values are good.
        definition: one or two sentences.
        compute: its value for the samples of a row, None where it cannot be measured; None for a number that
            is recorded and not computed from samples.
        unit: after ``scale``; "" for none.
        scale: tables show the stored number times this.
        decimals: in tables.
        reference: the paper, as an arXiv number.
        terminal: whether the terminal's table, model cards and means over seeds have it.
        page: whether the report's table has it.
        floor: whether two sets of exact target samples are compared by it too.
        optional: whether the report leaves it out where no row has it.
    """

    key: str
    heading: str
    better: Better
    definition: str
    compute: Callable[[Observed], float | None] | None = None
    unit: str = ""
    scale: float = 1.0
    decimals: int = 3
    reference: str = ""
    terminal: bool = False
    page: bool = False
    floor: bool = False
    optional: bool = False

    @property
    def title(self) -> str:
        """The heading with its unit."""
        return f"{self.heading}, {self.unit}" if self.unit else self.heading

    def write(self, value: float | None, sd: float | None = None) -> str:
        """Return a stored number as tables show it, "mean ± sd" with its standard deviation, "–" for None."""
        if value is None:
            return "–"
        spread = "" if sd is None else f" ± {self.scale * sd:.{self.decimals}f}"
        return f"{self.scale * value:.{self.decimals}f}{spread}"


MEASURES = (
    Measure(
        "forget_rate", "forgotten left", "target",
        "The forget rate: share of samples that the judge assigns to a forgotten class. A value near the "
        "retrained model's is right; a smaller one is over-forgetting.",
        lambda o: o.forget_rate, unit="%", scale=100, decimals=2, terminal=True, page=True,
    ),
    Measure(
        "second_forget_rate", "forgotten left, second judge", "target",
        "Share of samples that the second judge assigns to a forgotten class.",
        _second_forget_rate, unit="%", scale=100, decimals=2,
    ),
    Measure(
        "judges_disagree", "judges disagree", "lower",
        "Share of samples that only one of the two judges assigns to a forgotten class.",
        _judges_disagree, unit="%", scale=100, decimals=2,
    ),
    Measure(
        "leakage", "leakage", "target",
        "Mean probability that the judge gives to the forgotten classes.",
        lambda o: metrics.leakage(o.probabilities, o.forget), unit="%", scale=100, decimals=2, page=True,
    ),
    Measure(
        "retention_rate", "retention", "target",
        "Share of samples that the judge assigns to a retained class.",
        lambda o: 1 - o.forget_rate, unit="%", scale=100, decimals=2,
    ),
    Measure(
        "pul", "PUL", "target",
        "Percentage unlearned: by how much the count of forgotten samples fell against the original. The "
        "judge's errors cap it.",
        _pul, unit="%", decimals=1, reference="2603.16489", terminal=True, page=True,
    ),
    Measure(
        "fid_target", "FD to target", "lower",
        "Fréchet distance, in the judge's features, to exact samples of q*. Lower is closer; compare "
        "with the floor.",
        lambda o: _frechet(o, o.target), decimals=2, terminal=True, page=True, floor=True,
    ),
    Measure(
        "fid_retain", "FD to real retained", "lower",
        "Fréchet distance, in the judge's features, to real, held-out retain data.",
        lambda o: _frechet(o, o.retain.points), decimals=2, terminal=True, page=True,
    ),
    Measure(
        "fid_retrained", "FD to retrained", "lower",
        "Fréchet distance to samples of the retrained model, a reference that does not depend on the "
        "energy or its margin.",
        lambda o: _frechet(o, o.retrained), decimals=2, page=True,
    ),
    Measure(
        "extracted_fid_target", "FD to target, second extractor", "lower",
        "Fréchet distance to exact samples of q* in features that no guide or judge has shaped (EfficientNet-"
        "Lite0, of 2,000 samples of each side). The row of the exact target has the floor.",
        _extracted_to_target, decimals=1, page=True, optional=True,
    ),
    Measure(
        "extracted_fid_retain", "FD to real retained, second extractor", "lower",
        "Fréchet distance to real, held-out retain data in the same features.",
        _extracted_to_retain, decimals=1, page=True, optional=True,
    ),
    Measure(
        "mmd_target", "MMD² to target", "lower",
        "Unbiased squared maximum mean discrepancy to exact target samples, Gaussian kernel; may be "
        "slightly negative.",
        lambda o: _mmd(o, o.target), decimals=4, page=True, floor=True,
    ),
    Measure(
        "mmd_retain", "MMD² to real retained", "lower",
        "Unbiased squared maximum mean discrepancy to held-out retain data, the mean over random subsets.",
        lambda o: o.repeated_mmd.mean, decimals=4,
    ),
    Measure(
        "mmd_retain_sd", "MMD² to real retained, sd", "",
        "Standard deviation of that distance over the subsets.", lambda o: o.repeated_mmd.sd, decimals=4,
    ),
    Measure(
        "mmd_retrained", "MMD² to retrained", "lower",
        "Unbiased squared maximum mean discrepancy to samples of the retrained model.",
        lambda o: _mmd(o, o.retrained), decimals=4,
    ),
    Measure("mmd_bandwidth", "MMD bandwidth", "", "Sigma of the Gaussian kernel.", lambda o: o.bandwidth),
    Measure(
        "c2st_target", "c2st", "half",
        "Cross-fitted AUC of a classifier that tells the samples from exact target samples: 0.5 means it "
        "cannot.",
        lambda o: _c2st(o, o.target), reference="1610.06545", terminal=True, page=True, floor=True,
    ),
    Measure(
        "c2st_retain", "c2st to real retained", "half",
        "Cross-fitted AUC of a classifier that tells the samples from held-out retain data.",
        lambda o: _c2st(o, o.retain.points), reference="1610.06545",
    ),
    Measure(
        "c2st_retrained", "c2st to retrained", "half",
        "Cross-fitted AUC of a classifier that tells the samples from those of the retrained model.",
        lambda o: _c2st(o, o.retrained), reference="1610.06545",
    ),
    Measure(
        "c2st_appearance_target", "c2st of features and pixels", "half",
        "AUC of a network that tells the samples from exact target samples by the judge's features, the "
        "principal components of the pixels and the distance from their span, on held-out halves.",
        lambda o: _appearance(o, o.target, o.target_x), reference="1610.06545", page=True,
    ),
    Measure(
        "c2st_appearance_retain", "c2st of features and pixels, to real retained", "half",
        "AUC of the same network against held-out retain data. Where a decoder draws all images, it is near "
        "1 for every row.",
        lambda o: _appearance(o, o.retain.points, o.retain_x), reference="1610.06545", page=True,
    ),
    Measure("tv_target", "TV to target", "lower", "Total variation to the exact target, on a grid."),
    Measure(
        "precision", "precision", "higher",
        "Share of samples that lie in the neighbourhoods of real retain data (k = 5).",
        lambda o: o.fidelity.precision, reference="1904.06991", page=True,
    ),
    Measure(
        "recall", "recall", "higher",
        "Share of real retain data that lies in the neighbourhoods of samples (k = 5).",
        lambda o: o.fidelity.recall, reference="1904.06991", page=True,
    ),
    Measure(
        "density", "density", "higher",
        "Mean number of neighbourhoods of real retain data that a sample lies in, over k = 5.",
        lambda o: o.fidelity.density, reference="2002.09797",
    ),
    Measure(
        "coverage", "coverage", "higher",
        "Share of real retain data that has a sample in its own neighbourhood (k = 5): falls when modes "
        "are lost.",
        lambda o: o.fidelity.coverage, reference="2002.09797", terminal=True, page=True,
    ),
    Measure(
        "off_data", "off data", "lower",
        "Share of samples farther from every training point than 99 % of held-out points are.",
        lambda o: metrics.off_data(samples=o.features, training=o.training, held_out=o.held_out),
        unit="%", scale=100, decimals=2, terminal=True, page=True,
    ),
    Measure(
        "sharpness", "sharpness", "one",
        "Mean edge contrast of the images relative to exact target samples. Blurred images, averages of two "
        "images and noise are below 1. Not measured for samples that are no images.",
        _sharpness, terminal=True, page=True,
    ),
    Measure(
        "judge_confidence", "judge confidence", "higher",
        "Mean of the judge's largest class probability.", lambda o: metrics.judge_confidence(o.probabilities),
    ),
    Measure(
        "retained_share_tv", "share TV", "lower",
        "Total variation between the class shares among retained classes and the target's: 0 means "
        "forgetting moved nothing else.",
        _share_tv, terminal=True, page=True,
    ),
    Measure(
        "stayed_share", "stayed", "higher",
        "Share of the latents that gave a retained class and still give the same class.",
        _stayed, unit="%", scale=100, decimals=1, terminal=True,
    ),
)  # fmt: skip
"""Every number that is computed from the samples of a row."""

COSTS = (
    Measure(
        "cost.train_seconds", "train", "lower", "Seconds to train the row's model from scratch.",
        unit="s", decimals=1,
    ),
    Measure(
        "cost.unlearn_seconds", "unlearn", "lower",
        "Seconds from the request to the unlearned model: guide, bank, rejection and distillation included.",
        unit="s", decimals=1, page=True,
    ),
    Measure(
        "cost.retrain_seconds_5pct", "retrain, early", "lower",
        "Seconds of retraining until its held-out loss is within 5 % of the best.", unit="s", decimals=1,
    ),
    Measure("cost.steps", "steps", "", "Optimiser steps.", decimals=0),
    Measure("cost.nfe", "NFE", "lower", "Network evaluations per sample.", decimals=0, page=True),
    Measure("cost.inference_ms", "ms per sample", "lower", "Milliseconds to draw one sample."),
    Measure(
        "cost.peak_rss_mb", "peak memory", "lower", "Largest resident memory of the process.",
        unit="MB", decimals=0,
    ),
)  # fmt: skip
"""What a row has cost, in the order of its record."""

SECONDS = Measure(
    "seconds", "seconds", "lower",
    "Seconds of unlearning, everything included; of training for the original and the retrained model.",
    unit="", decimals=1, terminal=True,
)  # fmt: skip
"""The one number of cost that the terminal shows."""

TERMINAL = (*(measure for measure in MEASURES if measure.terminal), SECONDS)
"""Columns of the terminal, of model cards and of means over seeds."""
PAGE = tuple(measure for measure in (*MEASURES, *COSTS) if measure.page)
"""Columns of the report's table."""
KNOWN = {measure.key: measure for measure in (*MEASURES, *COSTS, SECONDS)}


def measure_row(observed: Observed) -> dict[str, float | None]:
    """Return every measure of a row by its key."""
    return {each.key: None if each.compute is None else each.compute(observed) for each in MEASURES}


def measure_floor(observed: Observed) -> dict[str, float | None]:
    """Return the distances between two independent sets of exact target samples.

    Args:
        observed: one set as the samples, the other one as the target.
    """
    return {each.key: each.compute(observed) for each in MEASURES if each.floor and each.compute is not None}


NO_FLOOR: Mapping[str, None] = {each.key: None for each in MEASURES if each.floor}
"""The floor of an audit without a target."""
