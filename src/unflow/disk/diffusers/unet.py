"""UNet2DModel as the network of a velocity or of a one-step generator, and the sizes of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unflow.disk.diffusers.package import Config, new_module
from unflow.ground.errors import InputError

UNET = "UNet2DModel"
PIXELS = 2**19
"""The most pixels in one chunk: 128 images of 64 x 64, or 8 of 256 x 256."""


def apply_in_chunks(function: Callable[..., Tensor], pixels: int, *inputs: Tensor) -> Tensor:
    """Return function(*inputs), in chunks of a few rows if no gradient is kept.

    ``GenerativeModel.push_batches`` pushes thousands of rows at once, which is too much for large images.

    Args:
        function: a function of each row alone.
        pixels: pixels of one row at the resolution where the function needs most memory.
        inputs: [batch, ...] each.
    """
    if torch.is_grad_enabled():
        return function(*inputs)
    rows = max(1, PIXELS // pixels)
    return torch.cat([function(*part) for part in zip(*(torch.split(x, rows) for x in inputs), strict=True)])


class LabelledUNet(nn.Module):
    """u(x, time): a UNet2DModel of diffusers with one fixed class label, or without one.

    Only first derivatives in reverse mode exist: on the CPU, PyTorch's attention has no second and no
    forward-mode derivative, so ``torch.func.jvp`` (and ``methods.MeanFlow``) fails on a U-Net with attention.

    Args:
        unet: the options of UNet2DModel.
        label: the class to draw, in [0, num_class_embeds); None for a network without classes.

    Raises:
        InputError: for a label that the network does not have, or a network with another form of time or
            output.
    """

    def __init__(self, unet: Config, label: int | None = None) -> None:
        super().__init__()
        self.unet: Any = new_module(UNET, unet)
        self.label = label
        _check_form(self.options)
        _check_label(self.options.num_class_embeds, label)

    @property
    def options(self) -> Any:
        """All options of the UNet2DModel, as attributes."""
        return self.unet.config

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return u [batch, channels, h, w] for x of that shape and times [batch] in diffusers' units."""
        return apply_in_chunks(self._run, x.shape[-2] * x.shape[-1], x, time)

    def _run(self, x: Tensor, time: Tensor) -> Tensor:
        label = None if self.label is None else torch.full((len(x),), self.label, device=x.device)
        u: Tensor = self.unet(x, time, class_labels=label, return_dict=False)[0]
        return u


def sample_shape(options: Any, sample_size: int | Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the shape [channels, h, w] of the outputs of a UNet2DModel or an AutoencoderKL.

    Args:
        options: the options of the module, as attributes.
        sample_size: h and w, or one number for both; None: ``options.sample_size``.

    Raises:
        InputError: without a size, or for a size that the module cannot halve often enough.
    """
    size = options.sample_size if sample_size is None else sample_size
    if size is None:
        raise InputError(
            "got a model whose config.json has no sample_size; expected one: write sample_size=32"
        )
    sides = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    factor = shrinkage(options.block_out_channels)
    if len(sides) != 2 or any(side < 1 or side % factor for side in sides):
        raise InputError(
            f"got sample_size={size} for a network that divides its sides by {factor}; expected a height and "
            f"width that are multiples of that: write sample_size={8 * factor}"
        )
    return (options.in_channels, *sides)


def shrinkage(widths: Sequence[int]) -> int:
    """Return 2^(resolutions - 1): a network of these ``block_out_channels`` divides the sides by it."""
    return int(2 ** (len(widths) - 1))


def _check_form(options: Any) -> None:
    if options.in_channels != options.out_channels:
        raise InputError(
            f"got a UNet2DModel of {options.in_channels} channels in and {options.out_channels} out; "
            "expected as many out as in (one that also predicts a variance is a diffusion model, not a flow)"
        )
    if options.time_embedding_type != "positional" or options.class_embed_type is not None:
        raise InputError(
            f"got a UNet2DModel with time_embedding_type={options.time_embedding_type} and "
            f"class_embed_type={options.class_embed_type}; expected positional and None"
        )


def _check_label(num_classes: int | None, label: int | None) -> None:
    if num_classes is None and label is not None:
        raise InputError(f"got label={label} for a network without classes; expected none: leave label out")
    if num_classes is not None and (label is None or not 0 <= label < num_classes):
        raise InputError(
            f"got label={label} for a network of {num_classes} classes; expected the class to draw: write "
            f"label=0 to label={num_classes - 1}"
        )
