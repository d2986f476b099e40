"""Potentials on the features of the classifier behind the energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from unflow.energies import Decoded, Energy
from unflow.ground.errors import InputError
from unflow.models.classifier import Classifier
from unflow.nets import new_net

FeatureMap = Callable[[Tensor], Tensor]


class FeaturePotential(nn.Module):
    """v(phi(x)): an MLP on frozen features.

    Args:
        features: phi: [batch, *shape] -> [batch, num_features]; neither trained nor registered.
        width: of the MLP.
        depth: of the MLP.
        num_features: number of features of one sample.
        seed: of the MLP's weights.
    """

    def __init__(self, features: FeatureMap, num_features: int, width: int, depth: int, seed: int) -> None:
        super().__init__()
        self._features = (features,)  # the tuple keeps the weights of phi from being registered
        sizes: dict[str, Any] = {"width": width, "depth": depth, "num_times": 0, "outputs": 1}
        self.head = new_net({"net": "mlp", "shape": [num_features], **sizes}, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return v(phi(x)), [batch, 1]."""
        (features,) = self._features
        value: Tensor = self.head(features(x).flatten(1))
        return value


def find_features(energy: Energy) -> FeatureMap:
    """Return phi, the hidden features of the first classifier in an energy.

    Raises:
        InputError: for an energy without a classifier.
    """
    if isinstance(energy, Decoded):
        inner, autoencoder = find_features(energy.energy), cast(Any, energy.autoencoder)
        return lambda x: inner(autoencoder.decode(x))
    for module in energy.modules():
        if isinstance(module, Classifier) and hasattr(module.net, "features"):
            return cast(FeatureMap, module.net.features)
    raise InputError(
        f"got an energy without a Classifier whose features a potential could read ({energy.describe()}); "
        "expected potential='samples'"
    )
