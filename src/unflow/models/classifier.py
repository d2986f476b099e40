"""Classifiers: one guides unlearning through the energy; another, the judge, measures the result."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Int
from torch import Tensor, nn

from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError, shorten
from unflow.ground.logits import logits_of_classes
from unflow.nets import build_net, net_config
from unflow.nets.modes import evaluating


class Classifier(nn.Module):
    """A network with logits and features, and the class names that it was trained with.

    Args:
        net: maps [batch, *shape] to logits [batch, num_classes] and has ``features(x)``; for two classes it
            may return one number per sample, the logit of class 1.
        class_names: one per logit.
    """

    def __init__(self, net: nn.Module, class_names: list[str]) -> None:
        super().__init__()
        self.net, self.class_names = net, list(class_names)

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return len(self.class_names)

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch num_classes"]:
        """Return logits."""
        logits: Tensor = self.net(x)
        return logits_of_classes(logits) if self.num_classes == 2 and isinstance(logits, Tensor) else logits

    @torch.no_grad()
    def probabilities(
        self, x: Float[Tensor, " n *shape"], batch_size: int = 2048
    ) -> Float[Tensor, " n num_classes"]:
        """Return class probabilities of many samples, in evaluation mode."""
        with evaluating(self):
            return torch.cat([self(chunk).softmax(1) for chunk in in_batches(x, batch_size)])

    @torch.no_grad()
    def features(
        self, x: Float[Tensor, " n *shape"], batch_size: int = 2048
    ) -> Float[Tensor, " n num_features"]:
        """Return the inputs of the last layer; distances between images are measured in them."""
        extract = self.net.features
        assert callable(extract)
        with evaluating(self):
            return torch.cat([extract(chunk) for chunk in in_batches(x, batch_size)])

    def accuracy(self, x: Float[Tensor, " n *shape"], labels: Int[Tensor, " n"]) -> float:
        """Return the share of samples whose most probable class is the label.

        Raises:
            InputError: for no samples.
        """
        if len(x) == 0:
            raise InputError("got no samples to measure a classifier's accuracy on")
        return float((self.probabilities(x).argmax(1) == labels).float().mean())

    def config(self) -> dict[str, Any]:
        """Return the architecture as plain data."""
        return {"classifier": net_config(self.net), "class_names": self.class_names}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Classifier:
        """Rebuild the architecture, with fresh weights."""
        names, net = config["class_names"], config["classifier"]
        outputs = net.get("outputs") if isinstance(net, dict) and "net" in net else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"got class_names={shorten(repr(names))}; expected a list of texts")
        if outputs is not None and outputs != len(names):
            raise InputError(f"got {len(names)} class_names for {outputs!r} outputs; expected as many")
        return Classifier(build_net(net), names)


class Features(nn.Module):
    """The inputs of a classifier's last layer, with gradient: an extractor for anchors, trained with labels.

    Args:
        classifier: a classifier whose network has ``features``.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch num_features"]:
        """Return the features."""
        extract = self.classifier.net.features
        assert callable(extract)
        features: Tensor = extract(x)
        return features


class CachedJudge:
    """A judge that computes the features of each set of samples once and keeps them.

    Args:
        classifier: one whose network has ``features`` and a last layer ``last``, as ``nets.ConvNet`` has.
        memory: how many sets are kept; the oldest is dropped first.
    """

    def __init__(self, classifier: Classifier, memory: int = 4) -> None:
        self.classifier, self.memory = classifier, memory
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.classifier.num_classes

    def features(self, x: Float[Tensor, " n *shape"]) -> Float[Tensor, " n num_features"]:
        """Return ``Classifier.features``."""
        for samples, features in self._seen:
            if samples is x:
                return features
        self._seen = [*self._seen, (x, self.classifier.features(x))][-self.memory :]
        return self._seen[-1][1]

    @torch.no_grad()
    def probabilities(self, x: Float[Tensor, " n *shape"]) -> Float[Tensor, " n num_classes"]:
        """Return ``Classifier.probabilities``."""
        last = self.classifier.net.last
        assert isinstance(last, nn.Module)
        logits: Tensor = last(self.features(x))
        return (logits_of_classes(logits) if self.num_classes == 2 else logits).softmax(1)


def apply_affine(
    x: Float[Tensor, " batch c h w"], numbers: Float[Tensor, " batch 4"]
) -> Float[Tensor, " batch c h w"]:
    """Rotate, scale and shift each image a little, by ``numbers`` from a standard normal law.

    Standard deviations: 6 degrees, 6 %, and 5 % of the width in each direction. Border pixels are repeated.
    """
    angle, scale = 0.1 * numbers[:, 0], 1 + 0.06 * numbers[:, 1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift_x, shift_y = 0.1 * numbers[:, 2], 0.1 * numbers[:, 3]
    theta = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).reshape(-1, 2, 3)
    grid = nnf.affine_grid(theta, list(x.shape), align_corners=False)
    return nnf.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mirror_randomly(
    x: Float[Tensor, " batch c h w"], generator: torch.Generator
) -> Float[Tensor, " batch c h w"]:
    """Mirror each image left to right with probability 1/2."""
    is_mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(is_mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
