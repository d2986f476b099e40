"""DiT: a transformer on patches of an image or of its latents, for velocities and average velocities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint as recomputed

from unflow.ground.errors import InputError
from unflow.nets.limits import check_options

TIME_FEATURES = 256
"""Number of cosines and sines of a time."""

DIT_SIZES: dict[str, dict[str, Any]] = {
    "B/2": {"patch": 2, "width": 768, "depth": 12, "heads": 12},
    "L/2": {"patch": 2, "width": 1024, "depth": 24, "heads": 16},
    "XL/2": {"patch": 2, "width": 1152, "depth": 28, "heads": 16},
}
"""Published sizes (arXiv 2212.09748, Table 1), as in ``DiT((4, 32, 32), **DIT_SIZES["XL/2"])``."""


class SelfAttention(nn.Module):
    r"""softmax(Q K^T / sqrt(d)) V over tokens, in heads of d = width / heads features (arXiv 1706.03762).

    Outside a forward-mode derivative, PyTorch's fused kernel computes the same sum without the
    [tokens, tokens] matrix in memory; the two differ by rounding alone. The kernel has no second derivatives
    (R1 on a transformer needs them), and PyTorch raises an error.

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
        # MeanFlow takes a forward-mode derivative, which the fused kernels do not have.
        attended = (
            explicit_attention(q, k, v) if has_tangent(q) else nnf.scaled_dot_product_attention(q, k, v)
        )
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, [batch, heads, n, d], for q, k, v of that shape."""
    weights: Tensor = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)
    return weights @ v


def has_tangent(*tensors: Tensor) -> bool:
    """Return whether a forward-mode derivative (``torch.func.jvp``) is being taken along any tensor."""
    unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual  # untyped in torch
    return any(unpack(tensor).tangent is not None for tensor in tensors)


class TimeMLP(nn.Module):
    """W2 silu(W1 [cos(t w), sin(t w)]) with w_k = 10000^(-k / 128), k = 0, ..., 127."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(TIME_FEATURES, width)
        self.last = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Return features [batch, width] of times [batch]."""
        features: Tensor = self.last(nnf.silu(self.first(wave_features(t))))
        return features


class DiTBlock(nn.Module):
    """Attention, then an MLP; the condition scales and shifts the input of each and gates its output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = _norm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Return tokens [batch, n, width] for tokens and a condition [batch, width]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=2)
        h = h + gate1 * self.attention(self.norm1(h) * (1 + scale1) + shift1)
        out: Tensor = h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)
        return out


class DiT(nn.Module):
    """Blocks of attention on patches, conditioned on times and a class by adaLN-zero (arXiv 2212.09748).

    A single time is embedded directly. Of two times (s, e), the network embeds s and the length e - s, as in
    MeanFlow (arXiv 2505.13447, Table 1c). Noise is at time 0 and data at time 1, as everywhere in unflow. The
    blocks start as the identity and the last layer at zero, so an untrained velocity is 0.

    Args:
        shape: (channels, height, width) of one input; height and width divisible by ``patch``.
        patch: side of a patch.
        width: features of a token; divisible by 4 and by ``heads``.
        depth: blocks.
        heads: of the attention.
        num_times: 1 (a velocity) or 2 (an average velocity).
        num_classes: 0 without classes; otherwise there is a further "null" class, of index num_classes, that
            means no class.
        label: the class of a call without labels; None: the null class.
        checkpoint: store only the inputs of the blocks for the backward pass, and recompute the rest there
            (arXiv 1604.06174): a third more time, a fraction of the memory. It has no effect inside a
            forward-mode derivative, which PyTorch cannot recompute.

    Raises:
        InputError: for sizes that do not divide, other numbers of times, or an unknown label.
    """

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        num_times: int = 1,
        num_classes: int = 0,
        label: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "net": "dit",
            "shape": list(shape),
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "num_times": num_times,
            "num_classes": num_classes,
            "label": label,
            "checkpoint": checkpoint,
        }
        check_options(self.config)
        _check_sizes(shape, patch, width, heads)
        _check_conditions(num_times, num_classes, label)
        self.patch, self.width, self.num_times, self.num_classes = patch, width, num_times, num_classes
        self.label = num_classes if label is None else label
        self.checkpoint = checkpoint
        channels, rows, columns = shape[0], shape[1] // patch, shape[2] // patch
        self.register_buffer("positions", wave_positions(rows, columns, width)[None])
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.times = nn.ModuleList(TimeMLP(width) for _ in range(num_times))
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.norm = _norm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, patch * patch * channels)
        self._set_initial_weights()

    def forward(self, x: Tensor, *conditions: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return [batch, *shape] for x [batch, *shape], each time [batch], and labels [batch] if any.

        Labels may also follow the times by position: net(x, s, e, labels).

        Raises:
            InputError: for another number of times, or labels for a network without classes.
        """
        times, labels = self._split_conditions(conditions, labels)
        c = nnf.silu(self._embed_conditions(times, labels, len(x)))
        h = self.patches(x)
        rows, columns = h.shape[2:]
        h = h.flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = self._run_block(block, h, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=2)
        h = self.last(self.norm(h) * (1 + scale) + shift)
        h = h.unflatten(1, (rows, columns)).unflatten(3, (self.patch, self.patch, -1))
        out: Tensor = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return out

    def _split_conditions(
        self, conditions: tuple[Tensor, ...], labels: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        times, further = conditions[: self.num_times], conditions[self.num_times :]
        if len(times) < self.num_times or len(further) > (labels is None):
            raise InputError(
                f"got {len(conditions)} conditions after x; expected {self.num_times} times, and labels "
                "after them if there are classes"
            )
        labels = further[0] if further else labels
        if labels is not None and self.classes is None:
            raise InputError("got labels for a DiT without classes; expected num_classes > 0, or no labels")
        return times, labels

    def _embed_conditions(self, times: tuple[Tensor, ...], labels: Tensor | None, n: int) -> Tensor:
        """Return the sum of the embeddings of times and class, [batch, width]."""
        start, *ends = times
        condition: Tensor = sum(
            (mlp(t) for mlp, t in zip(self.times[1:], [e - start for e in ends], strict=True)),
            self.times[0](start),
        )
        if self.classes is None:
            return condition
        labels = torch.full((n,), self.label, device=condition.device) if labels is None else labels
        embedded: Tensor = condition + self.classes(labels)
        return embedded

    def _run_block(self, block: nn.Module, h: Tensor, c: Tensor) -> Tensor:
        out: Tensor
        if self.checkpoint and torch.is_grad_enabled() and not has_tangent(h, c):
            out = recomputed(block, h, c, use_reentrant=False, preserve_rng_state=False)
        else:
            out = block(h, c)
        return out

    def _set_initial_weights(self) -> None:
        """Set weights as in the paper: Xavier, small embeddings, 0 for the modulations and the last layer."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))
        for name, parameter in self.named_parameters():
            if name.startswith(("times", "classes")) and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            if name.startswith("last") or "modulation" in name or name == "patches.bias":
                nn.init.zeros_(parameter)


def wave_features(t: Tensor) -> Tensor:
    """Return [cos(t w), sin(t w)] of times [batch], in single precision or better: [batch, 256]."""
    precise = torch.promote_types(t.dtype, torch.float32)
    angle = t.to(precise)[:, None] * frequencies(TIME_FEATURES // 2, precise, t.device)
    return torch.cat([angle.cos(), angle.sin()], dim=1).to(t.dtype)


def frequencies(count: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """Return w_k = 10000^(-k / count), k = 0, ..., count - 1."""
    return torch.exp(-math.log(10000) / count * torch.arange(count, dtype=dtype, device=device))


def wave_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return sines and cosines of each patch's column and then of its row, [rows * columns, width]."""
    w = frequencies(width // 4, torch.float64)

    def waves(count: int) -> Tensor:
        angle = torch.arange(count)[:, None] * w
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    column, row = waves(columns).repeat(rows, 1), waves(rows).repeat_interleave(columns, dim=0)
    return torch.cat([column, row], dim=1).float()


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _check_sizes(shape: Sequence[int], patch: int, width: int, heads: int) -> None:
    if len(shape) != 3 or any(side % patch for side in shape[1:]):
        raise InputError(
            f"got shape={list(shape)} and patch={patch} for a DiT; expected (channels, height, width) with "
            "sides that the patch divides"
        )
    if width % 4 or width % heads:
        raise InputError(
            f"got width={width} and heads={heads} for a DiT; expected a width divisible by 4 and by heads"
        )


def _check_conditions(num_times: int, num_classes: int, label: int | None) -> None:
    if num_times not in (1, 2):
        raise InputError(
            f"got num_times={num_times} for a DiT; expected 1 (a velocity) or 2 (an average velocity)"
        )
    if num_classes < 0:
        raise InputError(f"got num_classes={num_classes} for a DiT; expected 0 (none) or more")
    if label is not None and label not in range(num_classes):
        raise InputError(
            f"got label={label} for a DiT of {num_classes} classes; expected an integer from 0 to below "
            "that, or None for no class"
        )
