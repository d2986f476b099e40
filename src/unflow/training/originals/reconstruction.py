"""The loss of an autoencoder: squared error, perceptual distance, and latents that separate classes."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.models.classifier import Classifier, apply_affine
from unflow.nets import ConvAutoencoder, ResNet


class FrozenCritic(nn.Module):
    """A frozen copy of a classifier, and the distance between images in its feature maps.

    Args:
        critic: a classifier of images whose network is a ``nets.ResNet``.

    Raises:
        InputError: for another network.
    """

    def __init__(self, critic: Classifier) -> None:
        super().__init__()
        net = critic.net
        if not isinstance(net, ResNet):
            raise InputError(f"got a {type(net).__name__} as critic; expected a classifier of net: resnet")
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenCritic:
        """Stay in evaluation mode, so that the batch statistics do not follow the reconstructions."""
        return self

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return sum_l E ||u(m_l(x)) - u(m_l(y))||^2 of images x and y, [batch, *shape] each.

        m_l are the critic's feature maps, u(m) = m/|m| over channels; the mean is over pixels and images, and
        all layers have weight 1 (arXiv 1801.03924, Eq. 1 without w). The distance has gradients.
        """
        first, second = (map(normalize_channels, self.net.maps(images)) for images in (x, y))
        return torch.stack([(a - b).square().sum(1).mean() for a, b in zip(first, second, strict=True)]).sum()

    def forward(self, x: Tensor) -> Tensor:
        """Return the critic's logits of images x, [batch, classes], with gradients."""
        logits: Tensor = self.net(x)
        return logits


def normalize_channels(maps: Tensor) -> Tensor:
    """Return maps [batch, channels, h, w] with channel vectors scaled to length 1; a vector 0 stays 0."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-3).rsqrt()


class ReconstructionLoss(nn.Module):
    """E ||y - x||^2 / dim + a d(y, x) + b CE(read(z), label) + c CE(critic(decode(z')), read(z')).

    z = encode(x) and y = decode(z + noise). z' are latents with more noise, half of them mixtures of two
    latents: a flow's samples may also lie there, and the critic should see the class that ``read`` predicts.
    The last term trains the decoder alone: an encoder trained by it separates classes less well.

    Args:
        net: the network of an autoencoder.
        critic: for a and c.
        reader: read, from latents to logits, for b and c.
        perceptual: a.
        labels: b.
        consistency: c.
    """

    def __init__(
        self,
        net: ConvAutoencoder,
        critic: FrozenCritic | None = None,
        reader: nn.Linear | None = None,
        *,
        perceptual: float = 0.0,
        labels: float = 0.0,
        consistency: float = 0.0,
    ) -> None:
        super().__init__()
        self.net, self.critic, self.reader = net, critic, reader
        self.perceptual, self.labels, self.consistency = perceptual, labels, consistency

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        label: Tensor | None = None,
        far: Tensor | None = None,
        turn: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of images x [batch, *shape].

        Args:
            x: images.
            noise: of z, [batch, latent].
            label: [batch], for b.
            far: noise of z', [batch, latent], for c.
            turn: [batch, 4], the parameters of ``apply_affine``, for c.
        """
        z = self.net.encode(x)
        y = self.net.decode(z + noise)
        loss = (y - x).square().mean()
        if self.perceptual:
            assert self.critic is not None
            loss = loss + self.perceptual * self.critic.distance(y, x)
        if self.labels:
            assert self.reader is not None
            assert label is not None
            loss = loss + self.labels * nnf.cross_entropy(self.reader(z), label)
        if self.consistency:
            assert far is not None
            assert turn is not None
            loss = loss + self.consistency * self._inconsistency(mix_latents(z.detach()) + far, turn)
        return loss

    def _inconsistency(self, z: Tensor, turn: Tensor) -> Tensor:
        assert self.critic is not None
        assert self.reader is not None
        read = self.reader(z).argmax(1)
        return nnf.cross_entropy(self.critic(apply_affine(self.net.decode(z), turn)), read)


def mix_latents(z: Tensor) -> Tensor:
    """Return latents z [batch, latent], those of the second half mixed with the first: (a + b)/sqrt 2."""
    half = len(z) // 2
    first, second = z[: len(z) - half], z[len(z) - half :]
    return torch.cat([first, (first[:half] + second) / 2**0.5])
