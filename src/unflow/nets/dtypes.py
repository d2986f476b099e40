"""The dtypes of weights in which everything is computed as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from unflow.ground.errors import InputError

DTYPES = (torch.float32, torch.float64)


def check_weights(module: nn.Module, name: str) -> None:
    """Raise InputError for weights that are not all float32 or all float64, or that no file can hold.

    Args:
        module: the network.
        name: of the network.
    """
    check_dtypes(module, name)
    check_state(module, name)
    if any(weight.is_inference() for weight in module.parameters() if not is_lazy(weight)):
        raise InputError(
            f"got weights in {name} that were made in inference mode, and cannot be loaded or trained; "
            "expected usual ones: build the network outside of torch.inference_mode()"
        )
    if len({weight.dtype for weight in module.parameters()}) > 1:
        raise InputError(
            f"got weights of float32 and of float64 in {name}; expected one dtype: write net.float() where "
            "the network is built"
        )


def check_state(module: nn.Module, name: str) -> None:
    """Raise InputError for a state that safetensors cannot store: extra state, or packed int8 weights."""
    found = ((key, value) for key, value in module.state_dict().items() if not isinstance(value, Tensor))
    key, value = next(found, ("", None))
    if key:
        raise InputError(
            f"got the state {key} in {name}, of the type {type(value).__name__}; expected tensors alone, "
            "which a file of weights can hold: remove get_extra_state, and quantize after unlearning"
        )


def check_dtypes(module: nn.Module, name: str) -> None:
    """Raise InputError for weights of another dtype than float32 and float64."""
    other = next((weight.dtype for weight in module.parameters() if weight.dtype not in DTYPES), None)
    if other is not None:
        raise InputError(
            f"got weights of the dtype {shorten(other)} in {name}; expected float32 or float64: write "
            "net.float() where the network is built, and --precision bf16-mixed for faster steps"
        )


def check_fits(module: nn.Module, x: Tensor, name: str) -> None:
    """Raise InputError for a classifier whose weights have another dtype than the samples x."""
    weight = next(module.parameters(), x)
    if weight.dtype != x.dtype:
        raise InputError(
            f"got weights of {shorten(weight.dtype)} in {name} for samples of {shorten(x.dtype)}; expected "
            "one dtype for all networks: write net.float() where each is built"
        )


def shorten(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
