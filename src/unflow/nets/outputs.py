"""Classifiers whose outputs are probabilities, as classifiers with logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.ground.logits import ENOUGH, ROUNDING, logits_of_classes
from unflow.nets.adapters import Wrapper, read_by_last_linear
from unflow.nets.description import net_config

Output = Literal["logits", "probabilities", "sigmoid"]
FLOOR = 1e-30
"""Smaller probabilities count as this one; single precision holds it, so that a gradient arrives."""


class OutputsAs(Wrapper):
    """Returns the logits of a network whose last layer is a softmax or a sigmoid.

    The logits are log p for ``probabilities``, rows that sum to 1, and log p - log(1 - p) for ``sigmoid``, a
    probability of each class on its own. One number per sample is the probability of class 1 of two.

    Args:
        net: maps [batch, *shape] to [batch, num_classes], or to one number per sample.
        output: what it returns.

    Raises:
        InputError: for another kind of output, and on a call (without gradient) for outputs of another kind.
    """

    name = "outputs_as"

    def __init__(self, net: nn.Module, output: Output) -> None:
        super().__init__()
        self.net, self.output = net, read_output(output)

    @property
    def wrapped(self) -> nn.Module:
        """The network."""
        return self.net

    @property
    def config(self) -> dict[str, Any]:
        """The description from which ``build_net`` rebuilds it."""
        return {"net": self.name, "of": net_config(self.net), "output": self.output}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, [batch, num_classes]."""
        p: Tensor = self.net(x)
        if self.output == "logits":
            return logits_of_classes(p)
        is_one = p.ndim == 1 or p.shape[1:] == (1,)
        if not torch.is_grad_enabled():
            _check_probabilities(p, sums_to_one=self.output == "probabilities" and not is_one)
        if self.output == "probabilities" and not is_one:
            return p.clamp(min=FLOOR).log()
        return logits_of_classes(p.clamp(min=FLOOR).log() - (1 - p).clamp(min=FLOOR).log())

    def features(self, x: Tensor) -> Tensor:
        """Return the network's ``features``, or the input of its last linear layer; [batch, d]."""
        own = getattr(self.net, "features", None)
        if callable(own):
            return cast(Callable[[Tensor], Tensor], own)(x).flatten(1)
        return read_by_last_linear(self.net, x)


def read_output(text: str) -> Output:
    """Return a kind of output.

    Raises:
        InputError: for another word.
    """
    if text not in get_args(Output):
        raise InputError(f"got output={text}; expected {', '.join(get_args(Output))}")
    return cast(Output, text)


def _check_probabilities(p: Tensor, sums_to_one: bool) -> None:
    """Raise InputError for numbers outside [0, 1], and for rows that should sum to 1 and do not."""
    if p.numel() and (bool((p < -ROUNDING).any()) or bool((p > 1 + ROUNDING).any())):
        raise InputError(
            f"the classifier returned numbers from {float(p.min()):.4g} to {float(p.max()):.4g} as "
            "probabilities; expected [0, 1]: leave output= out for logits"
        )
    sums = p.float().reshape(len(p), -1).sum(1)
    if sums_to_one and bool(((sums - 1).abs() > ROUNDING).any()):
        raise InputError(
            f"the classifier returned rows that sum to {float(sums.min()):.4g} ... {float(sums.max()):.4g} "
            "as probabilities; expected 1: write output=sigmoid if each class has a probability of its own"
        )
    is_many = p.ndim == 2 and p.shape[1] > 1 and len(p) >= ENOUGH
    if not sums_to_one and is_many and bool(((sums - 1).abs() <= ROUNDING).all()):
        raise InputError(
            f"the classifier returned {len(p)} rows that sum to 1 as output=sigmoid; expected a "
            "probability of each class on its own: write output=probabilities for a softmax"
        )
