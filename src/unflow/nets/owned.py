"""A network of somebody else's, and what stands around it."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class Around(nn.Module):
    """What stands around a network of somebody else's: its times, labels, ranges or shapes."""

    @property
    @abstractmethod
    def owned(self) -> nn.Module:
        """The network, as its owner wrote it."""


def owned(net: nn.Module) -> nn.Module:
    """Return a network without anything of unflow's around it."""
    while isinstance(net, Around):
        net = net.owned
    return net
