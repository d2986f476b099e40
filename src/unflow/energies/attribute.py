"""Log-odds of an attribute: a linear probe, on the features of any extractor, fitted to labelled images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.anchor import features_of
from unflow.energies.base import Energy, check_margin, frozen
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError


class AttributeLogOdds(Energy):
    r"""Log-odds of an attribute, linear in the features of a frozen network; at least 0.

        L(x) = <w, phi(x)> + b,    F = softplus(L + margin) >= 0

    ``fitted`` estimates w and b from images with the attribute and images without it.

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...], which are flattened; it is copied
            and frozen.
        weight: w, [d].
        bias: b.
        margin: >= 0, in nats.
        name: of the attribute, for lineage and reports.

    Raises:
        InputError: for a weight that is not a finite vector, numbers out of these ranges, and (on the first
            call) features of another size.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        extractor: nn.Module,
        weight: Tensor,
        bias: float,
        margin: float = 0.0,
        name: str = "an attribute",
    ) -> None:
        super().__init__()
        check_margin(margin)
        if weight.ndim != 1 or not torch.isfinite(weight).all() or not math.isfinite(bias):
            raise InputError(
                f"got a probe of shape {list(weight.shape)} with bias {bias}; expected one finite vector [d] "
                "and a finite number"
            )
        self.extractor, self.margin, self.name = frozen(extractor), margin, name
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", torch.tensor(float(bias)).to(weight))

    @classmethod
    def fitted(
        cls,
        extractor: nn.Module,
        positive: Float[Tensor, " n *shape"],
        negative: Float[Tensor, " m *shape"],
        margin: float = 0.0,
        share: float = 0.5,
        C: float = 1.0,
        name: str = "an attribute",
    ) -> AttributeLogOdds:
        r"""Return the log-odds that logistic regression estimates from two sets of images.

        Features are standardised, and both sets have the same total weight for any sizes, so that

            <w, phi(x)> + b = log p(x | attribute) - log p(x | none) + log(share / (1 - share))

        Args:
            extractor: phi.
            positive: images with the attribute, [n, *shape].
            negative: images without it, [m, *shape].
            margin: >= 0, in nats.
            share: about the share of the model's samples with the attribute, in (0, 1).
            C: > 0, the inverse of the ridge penalty; choose it smaller for few images and many features.
            name: of the attribute.

        Raises:
            InputError: for no images of either kind, numbers out of these ranges, or features that are not
                finite.
        """
        from sklearn.linear_model import LogisticRegression

        if not 0 < share < 1 or not C > 0:
            raise InputError(f"got share={share} and C={C}; expected a share in (0, 1) and C > 0")
        if len(positive) == 0 or len(negative) == 0:
            raise InputError(
                f"got {len(positive)} images with the attribute and {len(negative)} without; expected 1 or "
                "more of each"
            )
        phi = torch.cat([_extract_features(extractor, x) for x in (positive, negative)])
        if not torch.isfinite(phi).all():
            raise InputError("the features of the images are NaN or infinite; expected finite numbers")
        mean, scale = phi.mean(0), phi.std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        labels = [1] * len(positive) + [0] * len(negative)
        probe = LogisticRegression(C=C, class_weight="balanced", max_iter=1000)
        probe.fit(((phi - mean) / scale).numpy(), labels)
        w = torch.as_tensor(probe.coef_[0]) / scale
        b = float(probe.intercept_[0]) - float(w @ mean) + math.log(share / (1 - share))
        return cls(extractor, w.to(positive), b, margin, name)

    @property
    def lower_bound(self) -> float:
        """0."""
        return 0.0

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the bounded log-odds, [batch]."""
        L = features_of(self.extractor, x, len(self.weight)) @ self.weight + self.bias
        return nnf.softplus(L + self.margin)

    def describe(self) -> str:
        """Return the attribute and the margin."""
        return f"{self.name} (linear probe, margin {self.margin:g})"


@torch.no_grad()
def _extract_features(extractor: nn.Module, x: Tensor) -> Tensor:
    extractor = frozen(extractor)
    return torch.cat([features_of(extractor, chunk) for chunk in in_batches(x, 256)]).double().cpu()
