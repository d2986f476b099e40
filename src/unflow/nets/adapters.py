"""Wrappers of third-party networks, which convert their images to those of unflow: [c, h, w] in [-1, 1]."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.description import net_config

Range = tuple[float, float]
"""The values of black and of white: (-1, 1), (0, 1) or (0, 255)."""


class Wrapper(nn.Module):
    """Wraps a third-party network to adapt its times, labels, ranges or shapes."""

    @property
    @abstractmethod
    def wrapped(self) -> nn.Module:
        """The third-party network."""


def unwrap(net: nn.Module) -> nn.Module:
    """Return a network without any wrappers."""
    while isinstance(net, Wrapper):
        net = net.wrapped
    return net


class _ImageWrapper(Wrapper):
    """Adapts the range and shape of a network's images."""

    name: ClassVar[str]
    """Its key in ``nets.ADAPTERS``."""

    def __init__(
        self,
        net: nn.Module,
        value_range: Range | None = None,
        shape: Sequence[int] | None = None,
        axes: str | None = None,
    ) -> None:
        super().__init__()
        self.net, self.value_range = net, to_range(value_range)
        self.shape, self.axes = None if shape is None else tuple(shape), check_axes(axes)

    @property
    def wrapped(self) -> nn.Module:
        """The network."""
        return self.net

    @property
    def config(self) -> dict[str, Any]:
        """The description from which ``build_net`` rebuilds it."""
        return {
            "net": self.name,
            "of": net_config(self.net),
            "value_range": None if self.value_range is None else list(self.value_range),
            "shape": None if self.shape is None else list(self.shape),
            **({} if self.axes is None else {"axes": self.axes}),
        }

    def reshape(self, x: Tensor, whose: str) -> Tensor:
        """Return x [batch, ...] in the declared shape, if any; ``whose`` starts the error message.

        Axes of length 1 and flat vectors change nothing in the order of the numbers. Any other change of the
        shape would mix pixels, and is refused.
        """
        if self.shape is None:
            return x
        if len(x) and x[:1].numel() != math.prod(self.shape):
            raise InputError(
                f"{whose} of shape {list(x.shape[1:])}, and shape={list(self.shape)} was declared; expected "
                "as many numbers in both"
            )
        own, declared = ([n for n in each if n != 1] for each in (x.shape[1:], self.shape))
        if own != declared and min(len(own), len(declared)) > 1:
            raise InputError(
                f"{whose} of shape {list(x.shape[1:])}, and shape={list(self.shape)} was declared: as many "
                "numbers in another order; expected the same axes: write axes=hwc if the network's images "
                "have their channels last"
            )
        return x.reshape(len(x), *self.shape)


class WritesAs(_ImageWrapper):
    """Converts the samples y that a generator's network returns: 2 (y - low) / (high - low) - 1, reshaped.

    Args:
        net: maps [batch, ...] to [batch, ...].
        value_range: low and high of the samples that ``net`` returns; None: they are not converted.
        shape: of one sample; None: the shape that ``net`` returns.
        axes: order of the axes of the images that ``net`` returns: "hwc" for channels last; None: unchanged.

    Raises:
        InputError: for a range that is empty or not finite; on a call, for another number of entries than
            ``shape`` has, or the same number in another order.
    """

    name = "writes_as"

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return samples [batch, *shape] in [-1, 1]."""
        y = self.net(*inputs)
        check_tensor(y)
        y = self.reshape(self._permute(y), "the network returned samples")
        if self.value_range is None:
            return y
        low, high = self.value_range
        return 2 * (y - low) / (high - low) - 1

    def _permute(self, y: Tensor) -> Tensor:
        """Return images [batch, c, h, w]."""
        if self.axes is None:
            return y
        if y.ndim == 2 and self.shape is not None and len(self.shape) == 3:
            y = y.reshape(len(y), *(self.shape["chw".index(axis)] for axis in self.axes))
        require_image(y, self.axes, "the network returned samples")
        return y.permute(0, *(1 + self.axes.index(axis) for axis in "chw"))


class ReadsAs(_ImageWrapper):
    """Converts the samples x for a classifier's network: low + (high - low) (x + 1) / 2, reshaped.

    Args:
        net: maps [batch, *shape] to logits [batch, num_classes].
        value_range: low and high of the samples that ``net`` was trained on; None: x is not converted.
        shape: of one sample for ``net``, for example (784,); None: the shape of x.
        axes: order of the axes of the images that ``net`` reads: "hwc" for channels last; None: as they are.

    Raises:
        InputError: for a range that is empty or not finite; on a call, for another number of entries than
            ``shape`` has, or the same number in another order.
    """

    name = "reads_as"

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, [batch, num_classes]."""
        logits: Tensor = self.net(self._convert(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return the network's own ``features``, or the input of the last linear layer that runs; [batch, d].

        Raises:
            InputError: for a network that has neither.
        """
        own = getattr(self.net, "features", None)
        if inspect.ismethod(own):
            features: Tensor = own(self._convert(x))
            return features.flatten(1)
        return read_by_last_linear(self.net, self._convert(x))

    def _convert(self, x: Tensor) -> Tensor:
        if self.axes is not None:
            require_image(x, "chw", "the classifier was given samples")
            x = x.permute(0, *(1 + "chw".index(axis) for axis in self.axes))
        x = self.reshape(x, "the classifier was given samples")
        if self.value_range is None:
            return x
        low, high = self.value_range
        return low + (high - low) * (x + 1) / 2


def check_axes(axes: str | None) -> str | None:
    """Return the order of the axes of an image.

    Raises:
        InputError: unless it is c, h and w in some order, or None.
    """
    if axes is not None and sorted(str(axes)) != ["c", "h", "w"]:
        raise InputError(f"got axes={axes}; expected channels, height and width in an order: write axes=hwc")
    return axes


def require_image(x: Tensor, axes: str, whose: str) -> None:
    """Raise InputError unless x [batch, ...] has three axes; ``whose`` starts the error message."""
    if x.ndim != 4:
        raise InputError(
            f"{whose} of shape {list(x.shape[1:])}; expected images with the axes {', '.join(axes)}: leave "
            "axes= out, or declare shape= as well"
        )


def check_tensor(samples: object) -> None:
    """Raise InputError if the output of a network is not a tensor."""
    if not isinstance(samples, Tensor):
        raise InputError(
            f"the network returned a {type(samples).__name__}; expected a tensor, one row for each sample: "
            "name a function whose network returns that alone"
        )


def read_by_last_linear(net: nn.Module, x: Tensor) -> Tensor:
    """Return the input of the last layer that runs in the network's call with x; [batch, d].

    Layers are linear or convolutions. The order is that of the call, not that of the attributes: a network
    may list its head first, or hold heads that it does not use.

    Raises:
        InputError: for a network without such a layer, or whose last one is not applied once to each sample.
    """
    layer, features = trace_last_layer(net, x)
    if layer is None:
        raise InputError(
            f"got a {type(net).__name__} without a method features and without a linear layer that runs; "
            "expected one of them, to measure distances between features: give it features(x) -> [batch, d]"
        )
    if len(features) != len(x):
        raise InputError(
            f"got {len(features)} rows into the last layer of the {type(net).__name__} for {len(x)} samples; "
            "expected one for each: give it features(x) -> [batch, d]"
        )
    return features.flatten(1)


def trace_last_layer(net: nn.Module, x: Tensor) -> tuple[nn.Module | None, Tensor]:
    """Return the linear or convolution layer that runs last in the network's call with x, and its input."""
    last: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        last[:] = [(layer, inputs[0])]

    layers = [part for part in net.modules() if isinstance(part, _LAYERS)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    return last[0] if last else (None, x)


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def to_range(value_range: Sequence[float] | None) -> Range | None:
    """Return a range as two numbers.

    Raises:
        InputError: unless it is two finite numbers, the smaller one first.
    """
    if value_range is None:
        return None
    ends = [float(end) for end in value_range]
    if len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
        raise InputError(
            f"got the range {list(value_range)}; expected the values of black and of white: (0, 1)"
        )
    return ends[0], ends[1]
