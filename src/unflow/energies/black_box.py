"""Scores of samples by any function, in NumPy or in torch, and their log-odds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.base import frozen
from unflow.energies.opaque import FLOOR, Opaque, binary_probabilities, check_floor, log_probabilities
from unflow.ground.errors import InputError

Reads = Literal["array", "uint8", "tensor"]


class BlackBox:
    """A third-party function of samples as a function of tensors: [batch, *shape] -> [batch].

    ``CallableEnergy(black_box, lower_bound, differentiable=False)`` uses its numbers as an energy,
    ``ScoreLogOdds(black_box, margin)`` as probabilities that a sample is to be forgotten.

    Args:
        function: returns one number per sample, as an array, tensor or list.
        reads: its input: "array", the samples as a NumPy array [batch, *shape]; "uint8", images
            [batch, h, w, c] in 0 ... 255, converted from [batch, c, h, w] in [-1, 1]; or "tensor", the
            samples on the CPU.
        batch_size: samples per call, at most.
        remembers: whether each sample is scored only once; 16 bytes and a number per sample are kept.
        name: in lineage and reports; the function's own by default. It identifies the function: choose
            another name, for example with a version, when the function changes.

    Attributes:
        calls: how often the function was called.
        scored: how many samples it was given.

    Raises:
        InputError: for a batch size under 1, and (on a call) for samples that are not images
            ("uint8") or results that are not one number per sample.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        reads: Reads = "array",
        batch_size: int = 64,
        remembers: bool = True,
        name: str = "",
    ) -> None:
        if reads not in ("array", "uint8", "tensor"):
            raise InputError(f"got reads={reads!r}; expected array, uint8 or tensor")
        if batch_size < 1:
            raise InputError(f"got batch_size={batch_size}; expected 1 or more")
        self.function, self.reads, self.batch_size, self.remembers = function, reads, batch_size, remembers
        self.__name__ = name or getattr(function, "__name__", type(function).__name__)
        self.calls, self.scored = 0, 0
        self._known: dict[bytes, float] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> BlackBox:
        """Return itself: the function may hold a connection, and copies share the known scores."""
        return self

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the scores, [batch]."""
        x_cpu = x.detach().cpu()
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x_cpu.numpy()]
        known = self._known if self.remembers else {}
        new = {key: row for row, key in enumerate(keys) if key not in known}
        rows = torch.tensor(list(new.values()), dtype=torch.long)
        scores = [
            score for piece in torch.split(rows, self.batch_size) for score in self._score(x_cpu[piece])
        ]
        known.update(zip(new, scores, strict=True))
        return torch.tensor([known[key] for key in keys], dtype=torch.float64).to(x)

    def _score(self, x: Tensor) -> list[float]:
        if len(x) == 0:
            return []
        answer = self.function(self._convert(x))
        self.calls, self.scored = self.calls + 1, self.scored + len(x)
        try:
            numbers = torch.as_tensor(answer).detach().cpu().double()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.__name__} returned a {type(answer).__name__}; expected {len(x)} numbers, as an "
                "array, tensor or list"
            ) from error
        if numbers.shape not in ((len(x),), (len(x), 1)):
            raise InputError(
                f"{self.__name__} returned shape {list(numbers.shape)} for {len(x)} samples; expected "
                f"[{len(x)}], one number per sample"
            )
        return numbers.flatten().tolist()

    def _convert(self, x: Tensor) -> np.ndarray | Tensor:
        if self.reads == "uint8":
            return _to_bytes(x)
        return x if self.reads == "tensor" else x.numpy()


class ScoreLogOdds(Opaque):
    r"""Log-odds of a score in [0, 1] that a sample is to be forgotten; no gradient.

        L(x) = log p(x) - log (1 - p(x)),    F = softplus(L + margin) >= 0

    Args:
        score: p, maps [batch, *shape] to [batch] in [0, 1]: a ``BlackBox``, or any function of tensors; a
            module is copied and frozen.
        margin: >= 0, in nats; None for the unbounded log-odds.
        floor: in (0, 0.5), of p and 1 - p.

    Raises:
        InputError: for numbers out of these ranges, and (on the first call) for scores that are not one
            number in [0, 1] per sample.
    """

    floor: Tensor

    def __init__(
        self, score: Callable[[Tensor], Tensor], margin: float | None = 0.0, floor: float = FLOOR
    ) -> None:
        super().__init__([1], margin)
        check_floor(floor)
        self.score = frozen(score) if isinstance(score, nn.Module) else score
        self.register_buffer("floor", torch.tensor(floor, dtype=torch.float64))

    def logits(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch 2"]:
        """Return log (1 - p) and log p, [batch, 2]."""
        p = self.score(x)
        if p.shape != (len(x),):
            raise InputError(
                f"the score returned shape {list(p.shape)} for {len(x)} samples; expected [{len(x)}], one "
                "number per sample"
            )
        if bool(p.isnan().any()):
            raise InputError(
                f"got a score that is NaN for {int(p.isnan().sum())} of {len(p)} samples; expected a number "
                "in [0, 1] for each: fix the score"
            )
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise InputError(
                f"got scores from {float(p.min()):.4g} to {float(p.max()):.4g}; expected numbers in [0, 1]: "
                "divide percentages by 100; for other scores write in Python "
                "CallableEnergy(score, differentiable=False)"
            )
        return log_probabilities(binary_probabilities(p), float(self.floor))

    def describe(self) -> str:
        """Return the name of the score and the margin."""
        margin, name = self.log_odds.margin, getattr(self.score, "__name__", type(self.score).__name__)
        return f"score {name} ({'raw log-odds' if margin is None else f'margin {margin:g}'})"


def _to_bytes(x: Tensor) -> np.ndarray:
    """Return images [batch, c, h, w] in [-1, 1] as [batch, h, w, c] in 0 ... 255."""
    if x.ndim != 4:
        raise InputError(
            f"got samples of shape {list(x.shape[1:])} to read as uint8; expected images [c, h, w]: write "
            "reads='array'"
        )
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
