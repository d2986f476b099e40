"""Energies state what to forget: F(x) is one number per sample, and is larger for samples to forget.

Energies combine, and a combined energy is a combined request:

    A | B   forget A and forget B: the sum (weights exp(-F) multiply)
    A & B   forget only samples that are both: the minimum
    -A      forget everything but A
    2 * A   the same request at twice the strength

Raw log-odds cancel in a sum (a sample that is surely A is surely not B), so the union refuses unbounded
energies: bound them first with ``Softplus`` or the ``margin`` of ``ClassLogOdds``.
"""

from unflow.energies.anchor import Anchor, AnchorLogOdds, features_of
from unflow.energies.attribute import AttributeLogOdds
from unflow.energies.balanced import Balanced, retained_probabilities
from unflow.energies.base import (
    Decoded,
    Decoder,
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
from unflow.energies.black_box import BlackBox, ScoreLogOdds
from unflow.energies.class_log_odds import ClassLogOdds, check_classes
from unflow.energies.condition import ConditionEnergy
from unflow.energies.estimator import EstimatorLogOdds, LinearClassifier
from unflow.energies.functions import CallableEnergy, Region
from unflow.energies.imagenet import ImageNetClassifier
from unflow.energies.mixture import MixtureLogOdds
from unflow.energies.onnx_log_odds import OnnxLogOdds

__all__ = [
    "Anchor",
    "AnchorLogOdds",
    "AttributeLogOdds",
    "Balanced",
    "BlackBox",
    "CallableEnergy",
    "ClassLogOdds",
    "ConditionEnergy",
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
