"""Log-odds that a classifier gives to the classes to forget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.base import Energy, check_margin, frozen
from unflow.ground.errors import InputError
from unflow.ground.logits import check_logits, logits_of_classes


class ClassLogOdds(Energy):
    r"""Log-odds that a classifier gives to the classes to forget; with a margin, at least 0.

        L(x) = log p(forget | x) - log p(rest | x),    F = softplus(L + margin) >= 0

    so that exp(-F) = sigmoid(-(L + margin)); ``margin=None`` gives the raw L. For a calibrated
    classifier, margin 0 and strength 1 the KL target is exactly the law of the retained classes
    (arXiv 2506.18747, Proposition B.1). A margin also removes samples *between* classes, to which the
    classifier gives a class with too much confidence.

    Args:
        classifier: maps [batch, *shape] to logits [batch, num_classes]; one number per sample is the logit of
            class 1 of two.
        forget: class index or indices, at least one, not all.
        margin: >= 0, in nats; None for the unbounded log-odds.

    Raises:
        InputError: for no class or a class given twice, and (on the first call) for unknown classes, a
            request that names every class, logits of the wrong shape, or probabilities in their place.
    """

    def __init__(
        self, classifier: nn.Module, forget: int | Sequence[int], margin: float | None = 0.0
    ) -> None:
        super().__init__()
        forget = [forget] if isinstance(forget, int) else list(forget)
        if not forget or len(set(forget)) != len(forget):
            raise InputError(f"got forget={forget}; expected at least one class and none twice, like [3]")
        if margin is not None:
            check_margin(margin)
        self.classifier = frozen(classifier)
        self.forget = tuple(int(k) for k in forget)
        self.margin = margin

    @property
    def lower_bound(self) -> float:
        """0 with a margin, -inf for raw log-odds."""
        return -math.inf if self.margin is None else 0.0

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the log-odds, bounded below if there is a margin; shape [batch]."""
        outputs = self.classifier(x)
        if not isinstance(outputs, Tensor):
            raise InputError(
                f"the classifier returned a {type(outputs).__name__} for {len(x)} samples; expected logits "
                "[batch, num_classes] alone: wrap it in a module that returns them"
            )
        logits = logits_of_classes(outputs)
        if logits.ndim != 2 or len(logits) != len(x):
            raise InputError(
                f"the classifier returned shape {list(outputs.shape)} for {len(x)} samples; "
                f"expected [{len(x)}, num_classes] logits"
            )
        check_classes(self.forget, logits.shape[1])
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            check_logits(outputs)
        inside = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        inside[list(self.forget)] = True
        log_odds = logits[:, inside].logsumexp(1) - logits[:, ~inside].logsumexp(1)
        return log_odds if self.margin is None else nnf.softplus(log_odds + self.margin)

    def class_logits(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *classes"]:
        """Return the logits of every class, [batch, num_classes]."""
        return logits_of_classes(self.classifier(x))

    def describe(self) -> str:
        """Return the classes to forget and the margin."""
        bound = "raw log-odds" if self.margin is None else f"margin {self.margin:g}"
        return f"class {' or '.join(map(str, self.forget))} ({bound})"


def check_classes(forget: Sequence[int], num_classes: int) -> None:
    """Raise InputError unless ``forget`` names known classes, and not all of them."""
    unknown = [k for k in forget if not 0 <= k < num_classes]
    if unknown:
        raise InputError(f"got class {unknown[0]} to forget; expected classes from 0 to {num_classes - 1}")
    if len(set(forget)) == num_classes:
        raise InputError(
            f"got a request to forget all {num_classes} classes; "
            "expected at least one class to be retained: name fewer"
        )
