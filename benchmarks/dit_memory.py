"""Memory of training a DiT, computed from its options: parameters, activations, and all states of UOT.

``scaling.py memory`` prints its figures for ImageNet's XL/2, docs/scaling.md quotes them, and
tests/nets/test_dit.py compares them with the networks. It is not a command; it needs no network and no data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unflow.nets.dit import TIME_FEATURES


@dataclass(frozen=True, kw_only=True)
class DiTMemory:
    """Counts of the parameters and activations of a ``DiT``, from its options alone.

        parameters  = D (p^2 C + 1) + times (D^2 + (T + 2) D) + [classes] (classes + 1) D
                      + depth (18 D^2 + 15 D) + 2 D^2 + 2 D + p^2 C (D + 1)
        block       = 20 N D + (heads + 4) N + 8 D
        activations = 3 N D + 2 N + C h w + times (2 D + T) + 3 D + 2 [classes] + depth block

    D is the number of features of a token, N of tokens, T = 256 of features of a time; [classes] is 1 if
    there are classes, else 0. An activation has four bytes (a label counts twice). The counts hold for the
    fused attention; the explicit attention of a forward-mode derivative also keeps matrices of heads N^2
    entries. With ``checkpoint`` every block keeps only its N D inputs, and one block at a time is recomputed.

    Attributes:
        shape, patch, width, depth, heads, num_times, num_classes, checkpoint: options of the network.
    """

    shape: Sequence[int]
    patch: int
    width: int
    depth: int
    heads: int
    num_times: int = 2
    num_classes: int = 0
    checkpoint: bool = False

    @staticmethod
    def of(config: Mapping[str, Any]) -> DiTMemory:
        """Return the counts for a network's configuration."""
        return DiTMemory(**{name: config[name] for name in config if name not in ("net", "label")})

    @property
    def tokens(self) -> int:
        """N: number of patches of one sample."""
        return self.shape[1] * self.shape[2] // self.patch**2

    @property
    def block_parameters(self) -> int:
        """Parameters of one block; matrices: attention 4 D^2, MLP 8 D^2, modulation 6 D^2."""
        return 18 * self.width**2 + 15 * self.width

    @property
    def parameters(self) -> int:
        """Parameters of the network."""
        D, entries = self.width, self.patch**2 * self.shape[0]
        classes = (self.num_classes + 1) * D if self.num_classes else 0
        times = self.num_times * (D**2 + (TIME_FEATURES + 2) * D)
        last = 2 * D**2 + 2 * D + entries * (D + 1)
        return D * (entries + 1) + times + classes + self.depth * self.block_parameters + last

    @property
    def block_matrix(self) -> int:
        """Entries of the weight matrices of one block to which low-rank adapters apply."""
        return 18 * self.width**2

    @property
    def matrices(self) -> int:
        """Entries of all weight matrices to which low-rank adapters apply: all but biases and classes."""
        D, entries = self.width, self.patch**2 * self.shape[0]
        times = self.num_times * (D**2 + TIME_FEATURES * D)
        return 2 * entries * D + times + self.depth * self.block_matrix + 2 * D**2

    def low_rank(self, rank: int) -> int:
        """Return the parameters of low-rank adapters of all matrices: rank (m + n) for a matrix [m, n].

        rank (depth 23 D + times (3 D + T) + 5 D + 2 p^2 C)
        """
        D, entries = self.width, self.patch**2 * self.shape[0]
        times = self.num_times * (3 * D + TIME_FEATURES)
        return rank * (self.depth * 23 * D + times + 5 * D + 2 * entries)

    @property
    def kept_sums(self) -> int:
        """Entries of the sums W + B A that are kept at once for the backward pass.

        Matrices whose only input is a time do not count: no gradient passes through them. With
        ``checkpoint`` the sums of one block are kept.
        """
        blocks = min(self.depth, 1) if self.checkpoint else self.depth
        read_times = self.num_times * TIME_FEATURES * self.width
        return self.matrices - read_times - (self.depth - blocks) * self.block_matrix

    @property
    def block_activations(self) -> int:
        """Activations of one sample that one block keeps."""
        return 20 * self.tokens * self.width + (self.heads + 4) * self.tokens + 8 * self.width

    @property
    def activations(self) -> int:
        """Activations of one sample that a forward pass keeps for the backward pass."""
        D, N = self.width, self.tokens
        outside = 3 * N * D + 2 * N + math.prod(self.shape) + self.num_times * (2 * D + TIME_FEATURES) + 3 * D
        per_block = N * D if self.checkpoint else self.block_activations
        return outside + 2 * (self.num_classes > 0) + self.depth * per_block

    @property
    def peak_activations(self) -> int:
        """Activations of one sample that are in memory at once; ``checkpoint`` recomputes one block."""
        return self.activations + (self.block_activations if self.checkpoint and self.depth else 0)


def mlp_parameters(inputs: int, width: int, depth: int, outputs: int = 1) -> int:
    """Return the parameters of an ``MLP`` without times.

    D (inputs + 1) + depth (D^2 + 3 D) + outputs (D + 1) for D = width.
    """
    return width * (inputs + 1) + depth * (width**2 + 3 * width) + outputs * (width + 1)


def uot_bytes(
    net: DiTMemory,
    rows: int,
    bank_size: int = 0,
    *,
    trained: int | None = None,
    rank: int | None = None,
    potential: int = 0,
    devices: int = 1,
) -> dict[str, int]:
    """Return the memory of ``UOT`` on one device in single precision, by kind, in bytes.

    It counts the original G0; the generator G, its gradients, Adam's two moments, and the average of G's
    trained parameters; the potential with its gradients and moments; latents, outputs and pool; the
    activations of G; and with adapters the sums W + B A of a pass. It does not count the energy (a decoder
    and a classifier, forward and backward) and the working memory of kernels.

    Args:
        net: counts of the generator.
        rows: samples per forward pass and device, those of one micro-batch.
        bank_size: of the method.
        trained: number of trained parameters of G; None: all.
        rank: of low-rank adapters of all matrices of G, trained instead of its parameters; None: no adapters.
        potential: number of parameters of the potential.
        devices: number of devices over which G, its gradients and its moments are sharded.
    """
    adapters = 0 if rank is None else net.low_rank(rank)
    trained = adapters or (net.parameters if trained is None else trained)
    return {
        "original": 4 * net.parameters,
        "generator": math.ceil(4 * (net.parameters + adapters) / devices),
        "gradients": math.ceil(4 * trained / devices),
        "moments": math.ceil(8 * trained / devices),
        "average": 4 * trained,
        "potential": 16 * potential,
        "banks": 12 * bank_size * math.prod(net.shape),
        "activations": 4 * rows * net.peak_activations,
        "sums": 4 * net.kept_sums if adapters else 0,
    }


def saved_bytes(net: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes that one forward pass of a module keeps for the backward pass, without its weights.

    It runs the pass and counts each storage that autograd saves once.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(*inputs)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
