"""Energies of samples near a few images: the similarity of features to their mean."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.base import Energy, check_margin, frozen
from unflow.ground.errors import InputError

Kernel = Literal["cosine", "rbf"]


class Anchor(Energy):
    r"""Similarity of a sample's features to an anchor, the forget cost of arXiv 2603.16489.

        cosine: F(x) = <u, v> / (||u|| ||v||) in [-1, 1],    u = phi(x) - centre, v = anchor - centre
        rbf:    F(x) = exp(-||u - v||^2 / 2 radius^2) in (0, 1]

    It penalises all samples to some degree, so its strength must be tuned: see ``AnchorLogOdds``.

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...], which are flattened; it is copied
            and frozen.
        anchor: mean feature of k images of what to forget, [d].
        kernel: "cosine" or "rbf".
        centre: subtracted from all features before the cosine, [d]; None: 0.
        radius: of the rbf kernel, > 0.

    Raises:
        InputError: for an unknown kernel, an anchor that is not a finite vector or equals the centre of a
            cosine, a radius that is not positive, and (on the first call) features of another size.
    """

    anchor: Tensor
    centre: Tensor

    def __init__(
        self,
        extractor: nn.Module,
        anchor: Tensor,
        kernel: Kernel = "cosine",
        centre: Tensor | None = None,
        radius: float = 1.0,
    ) -> None:
        super().__init__()
        if kernel not in ("cosine", "rbf"):
            raise InputError(f"got the kernel {kernel!r}; expected cosine or rbf")
        if anchor.ndim != 1 or not torch.isfinite(anchor).all():
            raise InputError(f"got an anchor of shape {list(anchor.shape)}; expected one finite vector [d]")
        centre = torch.zeros_like(anchor) if centre is None else centre
        if centre.shape != anchor.shape or not torch.isfinite(centre).all():
            raise InputError(
                f"got a centre of shape {list(centre.shape)} for an anchor of shape {list(anchor.shape)}; "
                "expected a finite vector of the same shape"
            )
        if kernel == "cosine" and torch.equal(anchor, centre):
            raise InputError("got an anchor at the centre of the cosine; expected another, or kernel rbf")
        if not (radius > 0 and math.isfinite(radius)):
            raise InputError(f"got radius={radius}; expected a finite number > 0")
        self.extractor, self.kernel, self.radius = frozen(extractor), kernel, radius
        self.register_buffer("anchor", anchor.detach().clone())
        self.register_buffer("centre", centre.detach().clone())

    @property
    def lower_bound(self) -> float:
        """-1 for the cosine, 0 for rbf."""
        return -1.0 if self.kernel == "cosine" else 0.0

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the similarity, [batch]."""
        u = features_of(self.extractor, x, len(self.anchor)) - self.centre
        v = (self.anchor - self.centre)[None]
        if self.kernel == "cosine":
            return nnf.cosine_similarity(u, v, dim=1).clamp(-1, 1)
        return torch.exp(-(u - v).square().sum(1) / (2 * self.radius**2))

    def describe(self) -> str:
        """Return the kernel."""
        return f"similarity to an anchor ({self.kernel})"


class AnchorLogOdds(Energy):
    r"""Log-odds that a similarity is drawn from the upper of two laws; with a margin, at least 0.

        F(x) = softplus((similarity(x) - threshold) / temperature + margin) >= 0

    For two normal laws of the same variance these are the exact log-odds; ``anchoring.add_threshold``
    estimates threshold and temperature from the model's own samples.

    Args:
        similarity: an anchor, or any energy.
        threshold: similarity at which both laws are equally likely.
        temperature: > 0; similarity per nat.
        margin: >= 0, in nats.

    Raises:
        InputError: for numbers out of these ranges.
    """

    threshold: Tensor
    temperature: Tensor

    def __init__(self, similarity: Energy, threshold: float, temperature: float, margin: float = 0.0) -> None:
        super().__init__()
        if not math.isfinite(threshold):
            raise InputError(f"got threshold={threshold}; expected a finite number")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"got temperature={temperature}; expected a finite number > 0")
        check_margin(margin)
        self.similarity, self.margin = similarity, margin
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @property
    def lower_bound(self) -> float:
        """0."""
        return 0.0

    @property
    def differentiable(self) -> bool:
        """As the similarity."""
        return self.similarity.differentiable

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the bounded log-odds, [batch]."""
        return nnf.softplus((self.similarity(x) - self.threshold) / self.temperature + self.margin)

    def describe(self) -> str:
        """Return the similarity and the margin."""
        return f"{self.similarity.describe()} (log-odds, margin {self.margin:g})"


def features_of(
    extractor: nn.Module, x: Float[Tensor, " batch *shape"], size: int | None = None
) -> Float[Tensor, " batch d"]:
    """Return phi(x) flattened, [batch, d].

    Raises:
        InputError: for features that are not one row per sample, or not d = ``size`` numbers per row.
    """
    features: Tensor = extractor(x)
    if features.ndim < 2 or len(features) != len(x):
        raise InputError(
            f"the extractor returned shape {list(features.shape)} for {len(x)} samples; "
            f"expected [{len(x)}, ...] features"
        )
    features = features.flatten(1)
    if size is not None and features.shape[1] != size:
        raise InputError(
            f"the extractor returned {features.shape[1]} features; expected {size}, as the anchor has"
        )
    return features
