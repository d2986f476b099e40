"""Confidence intervals of a row's shares and distances, and its tests against the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unflow.evidence import metrics
from unflow.evidence.metrics import Interval
from unflow.ground.streams import Stream, stream


def share_intervals(shares: Mapping[str, tuple[float | None, int]]) -> dict[str, list[float] | None]:
    """Return Wilson's interval of each (share, number of samples); None for a share that is None."""
    return {
        name: None if share is None or n == 0 else list(metrics.share_interval(share * n, n))
        for name, (share, n) in shares.items()
    }


def pul_interval(forgotten: Interval | list[float], original_share: float) -> list[float] | None:
    """Return the interval of the PUL that follows from an interval of the forget rate.

    The original's share counts as exact, since both shares are of the same latents.
    """
    if original_share == 0:
        return None
    low, high = forgotten
    return [100 * (1 - high / original_share), 100 * (1 - low / original_share)]


def distance_intervals(
    features: Tensor, references: Mapping[str, Tensor | None], repeats: int, seed: int
) -> dict[str, list[float] | None]:
    """Return the bootstrap interval of the Fréchet distance to each set of features.

    Args:
        features: features of the row, [n, d].
        references: name -> features [m, d], or None without such a reference.
        repeats: number of resamples; 0 for no intervals.
        seed: of the resamples.
    """

    def distance(x: Tensor, y: Tensor) -> float:
        return metrics.frechet_distance(generated=x, reference=y)

    return {
        f"fid_{name}": None
        if reference is None or repeats == 0
        else list(
            metrics.bootstrap_interval(
                distance, features, reference, repeats=repeats, generator=stream(seed, Stream.BOOTSTRAP, k)
            )
        )
        for k, (name, reference) in enumerate(references.items())
    }


def run_two_sample_tests(
    features: Tensor, references: Mapping[str, Tensor | None], classifier: str, seed: int
) -> dict[str, dict[str, Any] | None]:
    """Return the held-out two-sample test against each reference: its AUC, and the interval of it.

    Args:
        features: features of the row, [n, d].
        references: name -> features [m, d], or None without such a reference.
        classifier: as in ``metrics.c2st_auc``.
        seed: of the halves.
    """
    tests: dict[str, dict[str, Any] | None] = {}
    for name, reference in references.items():
        tests[name] = None
        if reference is not None:
            test = metrics.held_out_c2st(
                generated=features, reference=reference, seed=seed, classifier=classifier
            )
            tests[name] = {"auc": test.auc, "interval": list(test.interval())}
    return tests


def redistribution_test(
    counts: Sequence[int], target_counts: Sequence[int] | None, forget: Sequence[int]
) -> dict[str, Any] | None:
    """Return the chi-square test that the retained classes have the exact target's shares.

    Args:
        counts: samples of the row per class.
        target_counts: exact target samples per class; None without a target.
        forget: forgotten classes, which the test leaves out.
    """
    if target_counts is None:
        return None
    kept = [k for k in range(len(counts)) if k not in set(forget)]
    ours, theirs = ([c[k] for k in kept] for c in (counts, target_counts))
    if not sum(ours) or not sum(theirs):
        return None
    return metrics.same_shares(ours, theirs)._asdict()


MIN_OF_A_CLASS = 50


def class_distances(
    features: Tensor, labels: Tensor, manifold: metrics.Manifold, reference_labels: Tensor, num_classes: int
) -> list[dict[str, Any]]:
    """Return, per class, the Fréchet distance to the reference and the coverage of the reference.

    The distance of few samples is biased upwards: compare it with a row of as many samples.

    Args:
        features: features of the row, [n, d].
        labels: judged classes of the row, [n].
        manifold: of the reference's features, [m, d].
        reference_labels: classes of the reference, [m].
        num_classes: that the judge knows.

    Returns:
        One record per class: "n" samples in it; "fid" between samples of the class, None with fewer than
        ``MIN_OF_A_CLASS`` on a side; "coverage" of the reference's, None where it has none.
    """
    near = metrics.covered(generated=features, reference=manifold)
    records = []
    for k in range(num_classes):
        ours, theirs = labels == k, reference_labels == k
        enough = min(int(ours.sum()), int(theirs.sum())) >= MIN_OF_A_CLASS
        records.append(
            {
                "n": int(ours.sum()),
                "fid": metrics.frechet_distance(generated=features[ours], reference=manifold.points[theirs])
                if enough
                else None,
                "coverage": float(near[theirs].double().mean()) if theirs.any() else None,
            }
        )
    return records
