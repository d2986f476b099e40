"""What stands around a network of somebody else's, so that its images are unflow's: [c, h, w] in [-1, 1]."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.description import net_config
from unflow.nets.owned import Around

Range = tuple[float, float]
"""What is black and what is white, as (-1, 1), (0, 1) or (0, 255)."""


class _Around(Around):
    """What stands around a network: the range of its images, and their shape."""

    name: ClassVar[str]
    """In ``nets.ADAPTERS``."""

    def __init__(
        self, net: nn.Module, value_range: Range | None = None, shape: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.net, self.value_range = net, checked_range(value_range)
        self.shape = None if shape is None else tuple(shape)

    @property
    def owned(self) -> nn.Module:
        """The network."""
        return self.net

    @property
    def config(self) -> dict[str, Any]:
        """The description from which ``build_net`` makes it again."""
        return {
            "net": self.name,
            "of": net_config(self.net),
            "value_range": None if self.value_range is None else list(self.value_range),
            "shape": None if self.shape is None else list(self.shape),
        }

    def shaped(self, x: Tensor, whose: str) -> Tensor:
        """Return x [batch, ...] in the shape that was declared, if one was."""
        if self.shape is None:
            return x
        if len(x) and x[:1].numel() != math.prod(self.shape):
            raise InputError(
                f"{whose} of shape {list(x.shape[1:])}, and shape={list(self.shape)} was declared; expected "
                "as many numbers in both"
            )
        return x.reshape(len(x), *self.shape)


class WritesAs(_Around):
    """A generator's network that writes samples its own way: y -> 2 (y - low) / (high - low) - 1, reshaped.

    Args:
        net: maps [batch, ...] to [batch, ...].
        value_range: low and high of what ``net`` returns; None: its numbers are taken as they are.
        shape: of one sample; None: as ``net`` returns it.

    Raises:
        InputError: for a range that is empty or not finite; on a call, for another number of entries than
            ``shape`` has.
    """

    name = "writes_as"

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return samples [batch, *shape] in [-1, 1]."""
        y = self.net(*inputs)
        check_tensor(y)
        y = self.shaped(y, "the network returned samples")
        if self.value_range is None:
            return y
        low, high = self.value_range
        return 2 * (y - low) / (high - low) - 1


class ReadsAs(_Around):
    """A classifier's network that reads samples its own way: x -> low + (high - low) (x + 1) / 2, reshaped.

    Args:
        net: maps [batch, *shape] to logits [batch, num_classes].
        value_range: low and high of what ``net`` was trained on; None: it is given x as it is.
        shape: of what it reads, like (784,); None: as x comes.

    Raises:
        InputError: for a range that is empty or not finite; on a call, for another number of entries than
            ``shape`` has.
    """

    name = "reads_as"

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, [batch, num_classes]."""
        return self.net(self._read(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the network's own ``features``, else what its last linear layer reads; [batch, d].

        Raises:
            InputError: for a network that has neither.
        """
        own = getattr(self.net, "features", None)
        if inspect.ismethod(own):
            return own(self._read(x)).flatten(1)
        return read_by_last_linear(self.net, self._read(x))

    def _read(self, x: Tensor) -> Tensor:
        x = self.shaped(x, "the classifier was given samples")
        if self.value_range is None:
            return x
        low, high = self.value_range
        return low + (high - low) * (x + 1) / 2


def check_tensor(samples: object) -> None:
    """Raise InputError for what a network returned, if it is no tensor of samples."""
    if not isinstance(samples, Tensor):
        raise InputError(
            f"the network returned a {type(samples).__name__}; expected a tensor, one row for each sample: "
            "name a function whose network returns that alone"
        )


def read_by_last_linear(net: nn.Module, x: Tensor) -> Tensor:
    """Return what the last linear layer of a network reads when the network is given x; [batch, d].

    Raises:
        InputError: for a network without one, or one that is never used.
    """
    last = last_linear(net)
    if last is None:
        raise InputError(
            f"got a {type(net).__name__} without a method features and without a linear layer; expected one "
            "of them, in whose features distances are measured: give it features(x) -> [batch, d]"
        )
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        net(x)
    finally:
        handle.remove()
    if not seen:
        raise InputError(
            f"the last linear layer of the {type(net).__name__} is never used; give it features(x)"
        )
    return seen[-1].flatten(1)


def last_linear(net: nn.Module) -> nn.Linear | None:
    """Return the linear layer that a network lists last, or None."""
    return next((part for part in reversed(list(net.modules())) if isinstance(part, nn.Linear)), None)


def checked_range(value_range: Sequence[float] | None) -> Range | None:
    """Return a range as two numbers.

    Raises:
        InputError: for anything but two finite numbers, the smaller one first.
    """
    if value_range is None:
        return None
    ends = [float(end) for end in value_range]
    if len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
        raise InputError(
            f"got the range {list(value_range)}; expected what is black and what is white: (0, 1)"
        )
    return ends[0], ends[1]
