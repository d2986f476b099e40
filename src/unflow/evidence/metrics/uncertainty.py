"""Confidence intervals of shares and distances, and a test of equal class shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.evidence.metrics.distances import Array, as_double, as_features
from unflow.ground.errors import InputError
from unflow.mathematics.shares import LEVEL, Interval, quantile, share_interval


def difference_interval(
    count: float, n: int, other_count: float, other_n: int, level: float = LEVEL
) -> Interval:
    r"""Newcombe's interval of the difference p - q of the shares of two independent samples.

        p - q - sqrt((p - l_p)^2 + (u_q - q)^2),    p - q + sqrt((u_p - p)^2 + (q - l_q)^2)

    l and u are the ends of Wilson's interval of each share (Newcombe, Statistics in Medicine 17, 1998,
    method 10).

    Args:
        count: number of samples that count in the first sample.
        n: size of the first sample, >= 1.
        other_count: number of samples that count in the second sample.
        other_n: size of the second sample, >= 1.
        level: confidence level, in (0, 1).

    Returns:
        An interval within [-1, 1]; the shares differ significantly if it excludes 0.

    Raises:
        InputError: as ``share_interval``.
    """
    p, q = count / max(n, 1), other_count / max(other_n, 1)
    first, second = share_interval(count, n, level), share_interval(other_count, other_n, level)
    return Interval(
        p - q - math.hypot(p - first.low, second.high - q), p - q + math.hypot(first.high - p, q - second.low)
    )


def samples_to_resolve(difference: float, share: float, level: float = LEVEL) -> int:
    r"""Return the sample size that resolves a difference of two shares near ``share``.

        n = ceil(2 z^2 p (1 - p) / difference^2)

    Args:
        difference: half the length of the difference's interval, in (0, 1); 0.005 is half a percentage point.
        share: p, in [0, 1]; it is clipped to [0.01, 0.99].
        level: confidence level, in (0, 1).

    Returns:
        Samples per row.

    Raises:
        InputError: for numbers out of range.
    """
    if not 0 < difference < 1 or not 0 <= share <= 1:
        raise InputError(f"got difference={difference}, share={share}; expected numbers in (0, 1), in [0, 1]")
    p = min(max(share, 0.01), 0.99)
    return math.ceil(2 * quantile(level) ** 2 * p * (1 - p) / difference**2)


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: Float[Array, "_ _"],
    repeats: int = 100,
    generator: torch.Generator,
    level: float = LEVEL,
) -> Interval:
    r"""Return the normal bootstrap interval of a statistic of independent samples.

        T ± z sd(T*),    T*: the statistic of rows drawn with replacement from each sample

    (Efron and Tibshirani, 1993, chapter 13.) Its centre is T, not the mean of T*: a distance between two
    samples is biased upwards, and a distance between resamples twice as much.

    Args:
        statistic: function of one tensor [n, d] per sample.
        samples: features [n, d] each; each sample is resampled separately.
        repeats: number of resamples, >= 2.
        generator: draws the rows.
        level: confidence level, in (0, 1).

    Raises:
        InputError: for fewer than two repeats, a level out of range, or samples that are not features.
    """
    if repeats < 2:
        raise InputError(f"got repeats={repeats}; expected 2 or more resamples")
    rows = [as_features(x, "bootstrapped") for x in samples]
    values = [statistic(*(_resample(x, generator) for x in rows)) for _ in range(repeats)]
    value, half = statistic(*rows), quantile(level) * float(torch.tensor(values).double().std())
    return Interval(value - half, value + half)


class ChiSquare(NamedTuple):
    """A test of homogeneity."""

    statistic: float
    dof: int
    p_value: float


def same_shares(counts: Sequence[int], reference_counts: Sequence[int], minimum: float = 5.0) -> ChiSquare:
    """Pearson's chi-square test of the hypothesis that two samples have the same class shares.

    Classes with fewer than ``minimum`` expected samples in either sample are merged, as the chi-square
    approximation requires (Cochran, Biometrics 10, 1954).

    Args:
        counts: samples per class in one sample, >= 0, with a positive sum.
        reference_counts: samples per class in an independent sample.
        minimum: smallest expected number of samples of a class that is not merged.

    Returns:
        The statistic, its degrees of freedom, and the p-value. If only one class is left, there is nothing
        to test: (0, 0, 1).

    Raises:
        InputError: for different lengths, negative numbers, or no samples.
    """
    from scipy import stats  # its import takes a second

    if len(counts) != len(reference_counts):
        raise InputError(
            f"got counts of {len(counts)} and {len(reference_counts)} classes; expected the same"
        )
    table = as_double([counts, reference_counts])
    if bool((table < 0).any()) or bool((table.sum(1) == 0).any()):
        raise InputError(
            f"got counts {table.long().tolist()}; expected numbers >= 0, and samples on both sides"
        )
    table = _merge_rare(table[:, table.sum(0) > 0], minimum)
    if table.shape[1] < 2:
        return ChiSquare(0.0, 0, 1.0)
    result = stats.chi2_contingency(table.numpy(), correction=False)
    return ChiSquare(float(result.statistic), int(result.dof), float(result.pvalue))


def _merge_rare(table: Tensor, minimum: float) -> Tensor:
    """Merge the rarest classes of a table [2, classes] until each expected count is ``minimum`` or more."""
    table = table[:, table.sum(0).argsort()]
    smaller = table.sum(1).min() / table.sum()  # share of the smaller sample
    expected = table.sum(0) * smaller
    rare = int((expected < minimum).sum())
    while 0 < rare < table.shape[1] and float(expected[:rare].sum()) < minimum:
        rare += 1
    return table if rare == 0 else torch.cat([table[:, :rare].sum(1, keepdim=True), table[:, rare:]], 1)


def _resample(x: Tensor, generator: torch.Generator) -> Tensor:
    return x[torch.randint(len(x), (len(x),), generator=generator)]
