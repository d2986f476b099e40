"""Replacements: what a conditional model draws in place of a sample that a request rejects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.ground.values import unquote
from unflow.mathematics.couplings import ExactOT, plan_blocks
from unflow.models.base import Askable, GenerativeModel
from unflow.models.conditional import NULL

LEAST = 0.25
"""Smallest share of a replacement's samples that the request accepts; below it, it is itself forgotten."""
PLAN_SIZE = 256
"""Rows of one transport plan, whose time is cubic in them."""


TRIES = 2
"""Samples of a condition that are tried before one is replaced."""


class Replacement(ABC):
    r"""r(x | c), the law of the samples that replace the rejected ones of condition c.

        q*(x | c) = q0(x | c) w(x) (1 + b + ... + b^(tries-1)) + b^tries r(x | c),    b = E_{q0(.|c)}[1 - w]

    A forgotten condition has b near 1 and draws r. With one try, a retained condition of which the request
    rejects a few samples would draw b of other conditions; the second try leaves b^2.
    """

    is_marginal: ClassVar[bool] = False
    """Whether r is drawn from accepted samples of all conditions."""
    tries: int = TRIES
    """Samples of the condition that are tried, the rejected one included."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name from which ``parse_replacement`` makes it."""

    def ask(self, model: Askable, z: Tensor) -> Tensor:
        """Return latents that ask for what replaces, from latents of the prior."""
        return z

    def pair(self, rejected: Tensor, drawn: Tensor) -> Tensor:
        """Return the row of the drawn sample [n, *shape] that replaces each rejected one, [n]."""
        return torch.arange(len(drawn), device=drawn.device)

    def check_model(self, model: GenerativeModel) -> None:
        """Raise InputError for a model that cannot draw the replacement."""
        if model.conditional is None:
            raise InputError(
                f"got replace={self.name} for a model without conditions, whose only target is that of its "
                "retained samples; expected replace=retained: leave it out"
            )

    def check(self, accepted: float) -> None:
        """Raise InputError unless the request accepts a good share of what replaces."""
        if accepted < LEAST:
            raise InputError(
                f"got replace={self.name}, of whose samples the request itself rejects "
                f"{100 * (1 - accepted):.0f} %; expected a condition that is "
                "not to be forgotten: write replace=retained"
            )


@dataclass(frozen=True)
class Retained(Replacement):
    """Accepted samples of all conditions, m = q0 w / E_q0[w].

    With one try, m is also the law of the whole model after unlearning. A forgotten condition draws m as the
    null condition does, so guidance has nothing to amplify.

    Attributes:
        tries: as ``Replacement.tries``, >= 1.
    """

    tries: int = TRIES

    is_marginal: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The word "retained", with another number of tries behind a colon."""
        return "retained" if self.tries == TRIES else f"retained:{self.tries}"

    def check_model(self, model: GenerativeModel) -> None:
        """Accept every model: without conditions the law is q0 w / E[w]."""


@dataclass(frozen=True)
class Nearest(Replacement):
    """Accepted samples of all conditions, each the partner of the one that it replaces in a plan.

    All rejected samples together still have the law of ``Retained``.
    """

    is_marginal: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Nearest."""
        return "nearest"

    def pair(self, rejected: Tensor, drawn: Tensor) -> Tensor:
        """Return the partners at the least total squared distance (arXiv 2302.00482), plan by plan."""
        return plan_blocks(ExactOT(), rejected, drawn, PLAN_SIZE)


@dataclass(frozen=True)
class OfLabel(Replacement):
    """Accepted samples of one condition.

    Attributes:
        label: the condition.
        prompt: the name by which it was asked for; "" for its number.
    """

    label: int
    prompt: str = ""

    @property
    def name(self) -> str:
        """The number or the name behind its kind, like label:5 or prompt:a truck."""
        return f"prompt:{self.prompt}" if self.prompt else f"label:{self.label}"

    def ask(self, model: Askable, z: Tensor) -> Tensor:
        """Return latents that ask for the label."""
        return model.ask(z, self.label)

    def check_model(self, model: GenerativeModel) -> None:
        """Raise InputError for a model without this condition."""
        super().check_model(model)
        model.require_conditional().ask(model.prior(1, stream(0)), self.label)


@dataclass(frozen=True)
class Null(Replacement):
    """Accepted samples of the null condition."""

    @property
    def name(self) -> str:
        """Null."""
        return NULL

    def ask(self, model: Askable, z: Tensor) -> Tensor:
        """Return latents that ask for the null condition."""
        return model.ask(z, NULL)

    def check_model(self, model: GenerativeModel) -> None:
        """Raise InputError for a model without null condition."""
        super().check_model(model)
        model.require_conditional().ask(model.prior(1, stream(0)), NULL)


@dataclass(frozen=True)
class Noise(Replacement):
    """Standard normal numbers; for comparison."""

    @property
    def name(self) -> str:
        """Noise."""
        return "noise"


RETAINED = Retained()
"""The default."""
_NAMED: dict[str, Replacement] = {each.name: each for each in (RETAINED, Nearest(), Null(), Noise())}


def parse_replacement(text: str, model: GenerativeModel | None = None) -> Replacement:
    """Return the replacement of a name: retained, nearest, null, noise, label:5, or prompt:a truck.

    Args:
        text: the name; a prompt may stand in quotes.
        model: that has the prompt; None for the other replacements.

    Raises:
        InputError: for another name, and a prompt that no condition of the model has.
    """
    if text in _NAMED:
        return _NAMED[text]
    kind, _, which = str(text).partition(":")
    if kind == "prompt" and which and model is not None:
        prompt = unquote(which)
        return OfLabel(model.require_conditional().find(prompt), prompt)
    if kind == "label" and which.isdigit():
        return OfLabel(int(which))
    if kind == "retained" and which.isdigit() and int(which) > 0:
        return Retained(int(which))
    raise InputError(
        f"got replace={text}; expected one of {', '.join(_NAMED)}, label:5, or prompt:NAME of a condition"
    )
