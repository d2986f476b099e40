"""Any score of samples, in numpy or in torch, asked in pieces and never twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unflow.ground.errors import InputError

Reads = Literal["array", "uint8", "tensor"]


class BlackBox:
    """A function of samples that somebody else has written, as one of tensors: [batch, *shape] -> [batch].

    ``CallableEnergy(black_box, lower_bound, differentiable=False)`` takes its numbers as an energy,
    ``ScoreLogOdds(black_box, margin)`` as probabilities of what is to be forgotten.

    Args:
        function: returns one number per sample, as an array, tensor or list.
        reads: what it is given: "array", [batch, *shape] of numpy as they are; "uint8", images
            [batch, h, w, c] of 0 ... 255 made of [batch, c, h, w] in [-1, 1]; or "tensor", on the CPU.
        batch_size: samples per call, at most.
        remembers: whether a sample that was scored is not scored again; 16 bytes and a number are kept of
            each.
        name: in lineage and reports, the function's own by default. It stands for the function: give it
            another one, with a version, when the function changes.

    Attributes:
        calls: how often the function was called.
        scored: how many samples it was given.

    Raises:
        InputError: for a batch size under 1, and (on a call) for images that are none or answers that are
            not one number per sample.
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
        """Return itself: what is behind the function may be a connection, and copies share what is known."""
        return self

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores, [batch]."""
        x_cpu = x.detach().cpu()
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x_cpu.numpy()]
        known = self._known if self.remembers else {}
        new = {key: row for row, key in enumerate(keys) if key not in known}
        rows = torch.tensor(list(new.values()), dtype=torch.long)
        scores = [score for piece in rows.split(self.batch_size) for score in self._scores(x_cpu[piece])]
        known.update(zip(new, scores, strict=True))
        return torch.tensor([known[key] for key in keys], dtype=torch.float64).to(x)

    def _scores(self, x: Tensor) -> list[float]:
        if len(x) == 0:
            return []
        answer = self.function(self._given(x))
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

    def _given(self, x: Tensor) -> np.ndarray | Tensor:
        if self.reads == "uint8":
            return _bytes(x)
        return x if self.reads == "tensor" else x.numpy()


def _bytes(x: Tensor) -> np.ndarray:
    """Return images [batch, c, h, w] in [-1, 1] as [batch, h, w, c] of 0 ... 255."""
    if x.ndim != 4:
        raise InputError(
            f"got samples of shape {list(x.shape[1:])} to read as uint8; expected images [c, h, w]: write "
            "reads='array'"
        )
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
