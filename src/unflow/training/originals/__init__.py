"""Trainings of base models, classifiers and autoencoders: one paper, one file."""

from __future__ import annotations

from unflow.training.method import Method
from unflow.training.originals.autoencoding import Autoencoding
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import FlowMatching
from unflow.training.originals.gan import GAN
from unflow.training.originals.mean_flow import MeanFlow

__all__ = ["GAN", "TRAINERS", "Autoencoding", "Classification", "Distill", "FlowMatching", "MeanFlow"]

TRAINERS: dict[str, Method] = {
    "flow_matching": FlowMatching(),
    "mean_flow": MeanFlow(),
    "distill": Distill(),
    "gan": GAN(),
    "classification": Classification(),
    "autoencoding": Autoencoding(),
}
"""Name -> the training of a base model, classifier or autoencoder, with its defaults."""
