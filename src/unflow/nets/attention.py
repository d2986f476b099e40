"""Self-attention that a forward-mode derivative can pass."""

from __future__ import annotations

import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd import forward_ad


class SelfAttention(nn.Module):
    r"""softmax(Q K^T / sqrt(d)) V over tokens, in heads of d = width / heads features (arXiv 1706.03762).

    Outside a forward-mode derivative the same sum is left to PyTorch's fused kernel, which never writes the
    [tokens, tokens] matrix to memory; the two differ by rounding alone. A gradient of a gradient (R1 on a
    transformer) is not to be had from that kernel, and PyTorch says so.

    Args:
        width: features of a token.
        heads: a divisor of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return tokens [batch, n, width] of tokens [batch, n, width]."""
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # The fused kernels have no forward-mode derivative, which MeanFlow takes.
        attended = (
            explicit_attention(q, k, v) if has_tangent(q) else nnf.scaled_dot_product_attention(q, k, v)
        )
        return self.out(attended.transpose(1, 2).flatten(2))


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, [batch, heads, n, d], for q, k, v of that shape."""
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3) @ v


def has_tangent(*tensors: Tensor) -> bool:
    """Return whether a forward-mode derivative (``torch.func.jvp``) is being taken along any tensor."""
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
