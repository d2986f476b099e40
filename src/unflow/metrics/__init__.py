"""Evidence: pure functions from features, judged probabilities or labels to numbers.

    forgetting       how much of the forgotten classes is left
    fidelity         whether samples lie on the data, and the data finds samples
    distances        how far apart two sets of features are
    redistribution   where the forgotten mass went

No function knows a file or a model. What cannot be measured raises ``InputError`` or is ``None``.
All four of fidelity's numbers in one pass: ``metrics.fidelity.fidelity(generated=, reference=)``.
"""

from unflow.metrics.distances import (
    CLASSIFIERS,
    RepeatedMMD,
    c2st_auc,
    frechet_distance,
    median_bandwidth,
    mmd,
    repeated_mmd,
    total_variation,
)
from unflow.metrics.fidelity import (
    DensityCoverage,
    Fidelity,
    Manifold,
    PrecisionRecall,
    coverage,
    density_coverage,
    off_data,
    precision_recall,
)
from unflow.metrics.forgetting import forget_rate, judge_confidence, leakage, pul
from unflow.metrics.redistribution import (
    class_counts,
    retained_share_tv,
    stayed_share,
    transition_matrix,
)

__all__ = [
    "CLASSIFIERS",
    "DensityCoverage",
    "Fidelity",
    "Manifold",
    "PrecisionRecall",
    "RepeatedMMD",
    "c2st_auc",
    "class_counts",
    "coverage",
    "density_coverage",
    "forget_rate",
    "frechet_distance",
    "judge_confidence",
    "leakage",
    "median_bandwidth",
    "mmd",
    "off_data",
    "precision_recall",
    "pul",
    "repeated_mmd",
    "retained_share_tv",
    "stayed_share",
    "total_variation",
    "transition_matrix",
]
