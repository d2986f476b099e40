"""What a potential looks at: samples, or what the classifier behind the energy sees in them."""

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
        features: phi: [batch, *shape] -> [batch, num_features]; not trained, and not a part of the module.
        width: of the MLP.
        depth: of the MLP.
        num_features: entries of phi(x).
        seed: of the MLP's weights.
    """

    def __init__(self, features: FeatureMap, num_features: int, width: int, depth: int, seed: int) -> None:
        super().__init__()
        self._features = (features,)  # in a tuple, so that no weight of phi is registered
        sizes: dict[str, Any] = {"width": width, "depth": depth, "num_times": 0, "outputs": 1}
        self.head = new_net({"net": "mlp", "shape": [num_features], **sizes}, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return v(phi(x)), [batch, 1]."""
        (features,) = self._features
        return self.head(features(x).flatten(1))


def features_behind(energy: Energy) -> FeatureMap:
    """Return phi, the hidden features of the first classifier in an energy.

    Raises:
        InputError: for an energy without one.
    """
    if isinstance(energy, Decoded):
        inner, autoencoder = features_behind(energy.energy), cast(Any, energy.autoencoder)
        return lambda x: inner(autoencoder.decode(x))
    for module in energy.modules():
        if isinstance(module, Classifier) and hasattr(module.net, "features"):
            return cast(FeatureMap, module.net.features)
    raise InputError(
        f"got an energy without a Classifier whose features a potential could read ({energy.describe()}); "
        "expected potential='samples'"
    )
