r"""Public MeanFlow checkpoints of ImageNet-256: read into a DiT, and written from one.

The layout is that of the PyTorch reimplementations of MeanFlow (arXiv 2505.13447) on the SiT backbone; one is
github.com/zhuyu-cs/MeanFlow (MIT). Their time runs from data at 0 to noise at 1:

    z_r = z_t - (t - r) u(z_t, r, t),    u(z, r, t) = net(z; t, t - r)

With s = 1 - t and e = 1 - r this is x_e = x_s + (e - s) U(x_s; s, e) for U = -u. Each change is linear in
the weights of one layer, so it is applied once to the weights: the last layer changes its sign, and the first
layer on the time takes [cos((1 - s) w), sin((1 - s) w)] as a rotation of [cos(s w), sin(s w)]. The length of
the interval, t - r = e - s, is the same in both.
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
"""Name of a tensor in ``DiT`` -> its name in public checkpoints, outside the blocks."""

BLOCK_NAMES = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}
"""The same for the layers of each block: blocks.0, blocks.1, ... in both."""

LATENT_MEAN = (0.86488, -0.27787343, 0.21616915, 0.3738409)
LATENT_STD = (4.85503674, 5.31922414, 3.93725398, 3.9870003)
"""Mean and standard deviation of the four channels of SD-VAE latents on ImageNet. Checkpoints trained from
scratch use them to standardise the latents to a standard deviation of 1/2."""


def load_meanflow_checkpoint(net: DiT, path: str | Path, key: str | None = None, ema: bool = True) -> str:
    """Load a public checkpoint into a DiT; return the key of its state dict in the file.

    Args:
        net: a DiT with two times and the checkpoint's number of classes (ImageNet: 1000); changed in place.
        path: .safetensors, or a file of ``torch.save`` that holds only tensors.
        key: the key of the state dict in the file; None: search for it.
        ema: prefer a moving average to the weights it was taken of.

    Raises:
        InputError: for a DiT without two times or classes; as ``weights.load_weights`` for a file that is
            missing or damaged, holds Python objects beside tensors, or does not fit.
    """
    state = net.state_dict()
    used_key, found = find_weights(
        _to_public(net, state), path, f"DiT of width {net.width} and depth {len(net.blocks)}", key, ema
    )
    net.load_state_dict(_from_public(net, found))
    return used_key


def save_meanflow_checkpoint(net: DiT, path: str | Path) -> None:
    """Write a DiT as a public checkpoint, a safetensors file that the public code reads.

    Raises:
        InputError: for a DiT without two times or classes.
    """
    write_tensors(Path(path), _to_public(net, net.state_dict()))


def raw_latents(x: Tensor) -> Tensor:
    """Return SD-VAE latents, as its decoder expects them, from standardised latents x [batch, 4, h, w].

    raw = mean + 2 std x for each channel. For checkpoints fine-tuned from SiT, raw = x / 0.18125 instead.
    """
    mean, std = (x.new_tensor(values)[:, None, None] for values in (LATENT_MEAN, LATENT_STD))
    return mean + 2 * std * x


def to_public_name(name: str) -> str:
    """Return the name that a tensor of a DiT has in public checkpoints."""
    if not name.startswith("blocks."):
        return OUTER_NAMES[name]
    _, index, layer = name.split(".", 2)
    layer, _, kind = layer.rpartition(".")
    return f"blocks.{index}.{BLOCK_NAMES[layer]}.{kind}"


def _to_public(net: DiT, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DiT's state dict with the names and the direction of time of public checkpoints."""
    if net.num_times != 2 or net.num_classes == 0:
        raise InputError(
            f"got a DiT of {net.num_times} times and {net.num_classes} classes for a public MeanFlow "
            "checkpoint; expected num_times=2 and the checkpoint's number of classes (ImageNet: 1000)"
        )
    return {to_public_name(name): _reverse(name, tensor) for name, tensor in state.items()}


def _from_public(net: DiT, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _reverse(name, found[to_public_name(name)]) for name in net.state_dict()}


def _reverse(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor for the opposite direction of time; applied twice, it is the identity."""
    if name == "times.0.first.weight":
        return reverse_time(tensor)
    return -tensor if name.startswith("last.") else tensor


def reverse_time(weight: Tensor) -> Tensor:
    """Return W' with W' [cos(t w), sin(t w)] = W [cos((1 - t) w), sin((1 - t) w)] for all t.

        W = [A, B]:  W' = [A cos(w) + B sin(w), A sin(w) - B cos(w)],  and so W'' = W

    Args:
        weight: weight [width, 256] of the layer that reads the features of a time.
    """
    A, B = weight.double().chunk(2, dim=1)
    w = frequencies(A.shape[1], torch.float64, weight.device)
    return torch.cat([A * w.cos() + B * w.sin(), A * w.sin() - B * w.cos()], dim=1).to(weight.dtype)
