"""Metrics: pure functions from features, judged probabilities or labels to numbers.

    forgetting       how much of the forgotten classes is left
    fidelity         whether samples lie on the data, and whether they cover it
    distances        how far apart two sets of features are
    auc              the area under the ROC curve, and the difference of two
    two_sample       a classifier two-sample test with the standard error of its AUC
    judging          how reliable the judge is
    sharpness        whether samples are as sharp as others
    redistribution   where the mass of the forgotten classes went
    uncertainty      confidence intervals and tests of the numbers above

No function reads a file or runs a model. A quantity that cannot be measured raises ``InputError`` or is
``None``. ``metrics.fidelity.fidelity(generated=, reference=)`` computes all four fidelity metrics at once.
"""

from unflow.evidence.metrics.auc import AUC, auc_difference, auc_with_variance, measure_auc
from unflow.evidence.metrics.distances import (
    CLASSIFIERS,
    RepeatedMMD,
    c2st_auc,
    frechet_distance,
    median_bandwidth,
    mmd,
    repeated_mmd,
    total_variation,
)
from unflow.evidence.metrics.fidelity import (
    DensityCoverage,
    Fidelity,
    Manifold,
    PrecisionRecall,
    coverage,
    covered,
    density_coverage,
    off_data,
    precision_recall,
)
from unflow.evidence.metrics.forgetting import forget_rate, judge_confidence, leakage, pul
from unflow.evidence.metrics.judging import calibration_error, disagreement
from unflow.evidence.metrics.redistribution import (
    class_counts,
    retained_share_tv,
    stayed_share,
    transition_matrix,
)
from unflow.evidence.metrics.sharpness import sharpness_ratio
from unflow.evidence.metrics.two_sample import C2ST, appearance_c2st, held_out_c2st
from unflow.evidence.metrics.uncertainty import (
    ChiSquare,
    bootstrap_interval,
    difference_interval,
    same_shares,
    samples_to_resolve,
)
from unflow.mathematics.shares import Interval, share_interval

__all__ = [
    "AUC",
    "C2ST",
    "CLASSIFIERS",
    "ChiSquare",
    "DensityCoverage",
    "Fidelity",
    "Interval",
    "Manifold",
    "PrecisionRecall",
    "RepeatedMMD",
    "appearance_c2st",
    "auc_difference",
    "auc_with_variance",
    "bootstrap_interval",
    "c2st_auc",
    "calibration_error",
    "class_counts",
    "coverage",
    "covered",
    "density_coverage",
    "difference_interval",
    "disagreement",
    "forget_rate",
    "frechet_distance",
    "held_out_c2st",
    "judge_confidence",
    "leakage",
    "measure_auc",
    "median_bandwidth",
    "mmd",
    "off_data",
    "precision_recall",
    "pul",
    "repeated_mmd",
    "retained_share_tv",
    "same_shares",
    "samples_to_resolve",
    "share_interval",
    "sharpness_ratio",
    "stayed_share",
    "total_variation",
    "transition_matrix",
]
