"""What to forget: an energy F(x), one number per sample, larger where forgetting is wanted more.

Energies form an algebra, and the algebra is about requests:

    A | B   forget A or B: the sum (weights exp(-F) multiply)
    A & B   forget only what is both: the minimum
    -A      forget everything but A
    2 * A   the same request, pressed twice as hard

Sums of *raw* log-odds cancel (a sure A is a sure not-B), so the union refuses unbounded energies:
bound them first with ``Softplus`` or the ``margin`` of ``ClassLogOdds``.
"""

from unflow.energies.anchor import Anchor, AnchorLogOdds, features_of
from unflow.energies.attribute import AttributeLogOdds
from unflow.energies.balanced import Balanced, retained_probabilities
from unflow.energies.base import (
    Energy,
    Minimum,
    Negative,
    Scaled,
    Softplus,
    Sum,
    check_margin,
    evaluate,
    frozen,
    require_bounded,
    require_finite,
)
from unflow.energies.black_box import BlackBox
from unflow.energies.class_log_odds import ClassLogOdds, check_classes
from unflow.energies.decoded import Decoded, Decoder
from unflow.energies.estimator import EstimatorLogOdds
from unflow.energies.functions import CallableEnergy, Region
from unflow.energies.imagenet import ImageNetClassifier
from unflow.energies.linear import LinearClassifier
from unflow.energies.mixture import MixtureLogOdds
from unflow.energies.onnx_log_odds import OnnxLogOdds
from unflow.energies.score_log_odds import ScoreLogOdds

__all__ = [
    "Anchor",
    "AnchorLogOdds",
    "AttributeLogOdds",
    "Balanced",
    "BlackBox",
    "CallableEnergy",
    "ClassLogOdds",
    "Decoded",
    "Decoder",
    "Energy",
    "EstimatorLogOdds",
    "ImageNetClassifier",
    "LinearClassifier",
    "Minimum",
    "MixtureLogOdds",
    "Negative",
    "OnnxLogOdds",
    "Region",
    "Scaled",
    "ScoreLogOdds",
    "Softplus",
    "Sum",
    "check_classes",
    "check_margin",
    "evaluate",
    "features_of",
    "frozen",
    "require_bounded",
    "require_finite",
    "retained_probabilities",
]
