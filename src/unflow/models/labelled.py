"""Labelled: a class-conditional model whose latents include the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.models.base import GenerativeModel
from unflow.models.flow import Flow
from unflow.models.flow_map import FlowMap
from unflow.nets.adapted import Adapted


class Labelled(GenerativeModel):
    r"""x = G(noise; y): a random label for each sample, the same over its whole trajectory.

        z = (noise, u),    y = k where Phi^-1(p_0 + ... + p_(k-1)) < u <= Phi^-1(p_0 + ... + p_k)

    u is one more normal entry of a latent. So y is a function of z alone, exactly independent of the noise,
    and a method that moves latents can change the label. The gradient along u is zero.

    Args:
        inner: a flow of an ``AdaptedVelocity``, or a flow map of an ``AdaptedAverageVelocity``, not changed;
            y replaces its label.
        probabilities: p_k of label k, each >= 0; they sum to 1.

    Raises:
        InputError: for another model, for numbers that are no probabilities, or for more labels than the
            network has.
    """

    thresholds: Tensor

    def __init__(self, inner: GenerativeModel, probabilities: Sequence[float]) -> None:
        net = _labelled_net(inner)
        p = torch.as_tensor(probabilities, dtype=torch.float64)
        _check_probabilities(p)
        net.check_label(len(p) - 1)
        super().__init__((inner.dim + 1,), inner.sample_shape)
        self.inner, self.family, self.probabilities = inner, inner.family, p.tolist()
        shares = p.cumsum(0) / p.cumsum(0)[-1]  # 1 where all later labels have probability 0
        self.register_buffer("thresholds", torch.special.ndtri(shares[:-1]).to(inner.device, inner.dtype))

    def labels(self, z: Float[Tensor, " batch prior"]) -> Int[Tensor, " batch"]:
        """Return the label of each latent."""
        return torch.bucketize(z[:, -1].contiguous(), self.thresholds.to(z.dtype))

    def push(self, z: Float[Tensor, " batch *prior"]) -> Float[Tensor, " batch *shape"]:
        """Push the noise of each latent with its label."""
        noise, net = z[:, :-1].reshape(-1, *self.sample_shape), _labelled_net(self.inner)
        given = net.with_labels(self.labels(z))
        if isinstance(self.inner, FlowMap):
            return self.inner.with_average_velocity(given).push(noise)
        assert isinstance(self.inner, Flow)
        return self.inner.with_velocity(given).push(noise)

    @property
    def num_evaluations(self) -> int:
        """That of the inner model."""
        return self.inner.num_evaluations

    def config(self) -> dict[str, Any]:
        """Return the inner architecture and the probabilities as plain data."""
        return {"model": "labelled", "inner": self.inner.config(), "probabilities": self.probabilities}


def _labelled_net(inner: GenerativeModel) -> Adapted:
    net = inner.net if isinstance(inner, Flow | FlowMap) else None
    if not isinstance(net, Adapted):
        raise InputError(
            f"got a {type(inner).__name__} to label; expected a Flow of an AdaptedVelocity, or a FlowMap of "
            "an AdaptedAverageVelocity"
        )
    if net.label is None:
        raise InputError(
            "got a network that is called without a label; expected one that takes a label: write "
            'label=0 and arguments="..., label" where it is adapted'
        )
    return net


def _check_probabilities(p: Tensor) -> None:
    if p.ndim != 1 or len(p) == 0 or not bool((p >= 0).all()) or abs(float(p.sum()) - 1) > 1e-4:
        raise InputError(
            f"got class probabilities of shape {list(p.shape)} that sum to {float(p.sum()):g}; expected a "
            "list of numbers >= 0 that sum to 1"
        )
