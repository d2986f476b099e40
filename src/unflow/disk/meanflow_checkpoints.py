r"""Public MeanFlow checkpoints of ImageNet-256 into a DiT, and back.

The layout is that of the PyTorch reimplementations of MeanFlow (arXiv 2505.13447) on the SiT backbone; one is
github.com/zhuyu-cs/MeanFlow (MIT). Their time runs from data at 0 to noise at 1:

    z_r = z_t - (t - r) u(z_t, r, t),    u(z, r, t) = net(z; t, t - r)

With s = 1 - t and e = 1 - r this is x_e = x_s + (e - s) U(x_s; s, e) for U = -u. Each change is linear in the
weights of one layer, so it is made there, once, and the network has no second convention: the last
layer changes its sign, and the first layer on the time takes [cos((1 - s) w), sin((1 - s) w)] as a rotation
of [cos(s w), sin(s w)]. The length of the interval, t - r = e - s, is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unflow.disk.weights import find_weights
from unflow.ground.errors import InputError
from unflow.ground.files import write_tensors
from unflow.nets import DiT
from unflow.nets.dit import frequencies

OUTER_NAMES = {
    "positions": "pos_embed",
    "patches.weight": "x_embedder.proj.weight",
    "patches.bias": "x_embedder.proj.bias",
    "times.0.first.weight": "t_embedder.mlp.0.weight",
    "times.0.first.bias": "t_embedder.mlp.0.bias",
    "times.0.last.weight": "t_embedder.mlp.2.weight",
    "times.0.last.bias": "t_embedder.mlp.2.bias",
    "times.1.first.weight": "r_embedder.mlp.0.weight",
    "times.1.first.bias": "r_embedder.mlp.0.bias",
    "times.1.last.weight": "r_embedder.mlp.2.weight",
    "times.1.last.bias": "r_embedder.mlp.2.bias",
    "classes.weight": "y_embedder.embedding_table.weight",
    "modulation.weight": "final_layer.adaLN_modulation.1.weight",
    "modulation.bias": "final_layer.adaLN_modulation.1.bias",
    "last.weight": "final_layer.linear.weight",
    "last.bias": "final_layer.linear.bias",
}
"""Our name of a tensor -> theirs, outside the blocks."""

BLOCK_NAMES = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}
"""Our name of a layer -> theirs, in each block: blocks.0, blocks.1, ... in both."""

LATENT_MEAN = (0.86488, -0.27787343, 0.21616915, 0.3738409)
LATENT_STD = (4.85503674, 5.31922414, 3.93725398, 3.9870003)
"""Of the four channels of SD-VAE latents on ImageNet, by which checkpoints that were trained from scratch
standardise them, to a standard deviation of 1/2."""


def load_meanflow_checkpoint(net: DiT, path: str | Path, key: str | None = None, ema: bool = True) -> str:
    """Fill a DiT with a public checkpoint, and return which of the file's names its weights were below.

    Args:
        net: of two times and as many classes as the checkpoint (ImageNet: 1000); filled in place.
        path: .safetensors, or what torch.save wrote of tensors alone.
        key: take the weights below this name; None: find them.
        ema: take moving averages where there are both.

    Raises:
        InputError: for a DiT that cannot be one of these; as ``weights.load_weights`` for a file that is
            missing or damaged, holds Python objects beside tensors, or does not fit.
    """
    state = net.state_dict()
    before, found = find_weights(
        _published(net, state), path, f"DiT of width {net.width} and depth {len(net.blocks)}", key, ema
    )
    net.load_state_dict(_unpublished(net, found))
    return before


def save_meanflow_checkpoint(net: DiT, path: str | Path) -> None:
    """Write a DiT as a public checkpoint, a safetensors file that the code it came from reads.

    Raises:
        InputError: for a DiT that cannot be one of these.
    """
    write_tensors(Path(path), _published(net, net.state_dict()))


def raw_latents(x: Tensor) -> Tensor:
    """Return SD-VAE latents, as its decoder takes them, of standardised ones [batch, 4, h, w].

    raw = mean + 2 std x for each channel. Checkpoints that were fine-tuned from SiT take raw = x / 0.18125.
    """
    mean, std = (x.new_tensor(values)[:, None, None] for values in (LATENT_MEAN, LATENT_STD))
    return mean + 2 * std * x


def public_name(name: str) -> str:
    """Return the public name of a tensor of a DiT."""
    if not name.startswith("blocks."):
        return OUTER_NAMES[name]
    _, index, layer = name.split(".", 2)
    layer, _, kind = layer.rpartition(".")
    return f"blocks.{index}.{BLOCK_NAMES[layer]}.{kind}"


def _published(net: DiT, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DiT's tensors in the public layout and convention."""
    if net.num_times != 2 or net.num_classes == 0:
        raise InputError(
            f"got a DiT of {net.num_times} times and {net.num_classes} classes for a public MeanFlow "
            "checkpoint; expected num_times=2 and the number of classes that it knows (ImageNet: 1000)"
        )
    return {public_name(name): _reversed(name, tensor) for name, tensor in state.items()}


def _unpublished(net: DiT, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _reversed(name, found[public_name(name)]) for name in net.state_dict()}


def _reversed(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor for the other direction of time; twice is once around."""
    if name == "times.0.first.weight":
        return in_reversed_time(tensor)
    return -tensor if name.startswith("last.") else tensor


def in_reversed_time(weight: Tensor) -> Tensor:
    """Return W' with W' [cos(t w), sin(t w)] = W [cos((1 - t) w), sin((1 - t) w)] for all t.

        W = [A, B]:  W' = [A cos(w) + B sin(w), A sin(w) - B cos(w)],  and so W'' = W

    Args:
        weight: [width, 256], of the layer that reads a time's features.
    """
    A, B = weight.double().chunk(2, dim=1)
    w = frequencies(A.shape[1], torch.float64, weight.device)
    return torch.cat([A * w.cos() + B * w.sin(), A * w.sin() - B * w.cos()], dim=1).to(weight.dtype)
