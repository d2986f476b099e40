"""Tensors of a network that no file of weights holds, and that its builder must therefore make again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets import build_net


def check_rebuilt(net: nn.Module, config: dict[str, Any], name: str) -> None:
    """Raise InputError for a network whose unsaved tensors another call of its builder makes otherwise.

    A saved model, and a repeated command, would be another function. Only a network with such tensors is
    built a second time.

    Args:
        net: the network.
        config: the description from which it was built.
        name: of its builder.
    """
    first = list_unsaved(net)
    if not first:
        return
    with torch.random.fork_rng(devices=[]):
        second = list_unsaved(build_net(config))
    for key, tensor in first.items():
        other = second.get(key)
        if other is None or not is_same(tensor, other):
            raise InputError(
                f"{name} makes other numbers in {key} at each call, and a file of weights does not hold "
                "them; expected a network that is the same when it is built again: write "
                f'self.register_buffer("{key.rpartition(".")[2]}", ...), or draw it from a seeded generator'
            )


def list_unsaved(net: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that ``state_dict`` leaves out: attributes, and buffers that do not persist.

    Attributes that follow from weights are no such tensors: those with a gradient, and the weight that
    torch's ``spectral_norm``, ``weight_norm`` and ``prune`` compute in each call from its stored parts.
    """
    found: dict[str, Tensor] = {}
    for path, part in net.named_modules():
        prefix = f"{path}." if path else ""
        stored = {key for key, _ in part.named_parameters(recurse=False)}
        loose = {
            key: each
            for key, each in vars(part).items()
            if isinstance(each, Tensor)
            and not each.requires_grad
            and not {f"{key}_orig", f"{key}_g"} & stored
        }
        named = {key: part._buffers.get(key) for key in part._non_persistent_buffers_set}
        found |= {prefix + key: each for key, each in (loose | named).items() if each is not None}
    return found


def is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and numbers; two NaN are the same."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.is_floating_point() or one.is_complex():
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return torch.equal(one, other)
