"""Calibration of the classifier behind an energy, and offsets that keep the retained classes' shares.

Both use labelled samples that the guide was not trained on, or samples of the model. Neither uses a judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Int
from torch import Tensor, nn

from unflow.energies import Balanced, Energy, evaluate, frozen, retained_probabilities
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.ground.faces import renamed


class Tempered(nn.Module):
    """A classifier whose logits are divided by a temperature, for calibration (arXiv 1706.04599).

    Args:
        classifier: maps [batch, *shape] to logits [batch, num_classes].
        temperature: T > 0.

    Raises:
        InputError: for a temperature that is not positive and finite.
    """

    temperature: Tensor

    def __init__(self, classifier: nn.Module, temperature: float) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"got temperature={temperature}; expected a finite number > 0")
        self.classifier = classifier
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch classes"]:
        """Return logits / T, [batch, num_classes]."""
        logits: Tensor = self.classifier(x)
        return logits / self.temperature


@torch.no_grad()
def calibrate(classifier: nn.Module, x: Float[Tensor, " n *shape"], labels: Int[Tensor, " m"]) -> Tempered:
    r"""Return the classifier at the temperature that minimises its cross entropy on held-out samples.

        T = max(1, argmin_T E[ -log softmax(logits / T)_label ])    (arXiv 1706.04599, Section 4.2)

    T is at least 1, so a guide only loses confidence: if it makes no error, the minimum is at T = 0. With a
    calibrated guide, a margin in nats means the same for every dataset.

    Args:
        classifier: the guide.
        x: samples that the guide was not trained on, [n, *shape].
        labels: their classes, [n].

    Raises:
        InputError: for no samples.
    """
    if len(x) == 0:
        raise InputError("got no samples to calibrate a classifier on; expected 1 or more")
    classifier = frozen(classifier)
    logits = torch.cat([classifier(chunk) for chunk in in_batches(x, 4096)]).double()

    def loss(log_temperature: float) -> float:
        return float(nnf.cross_entropy(logits / math.exp(log_temperature), labels))

    from scipy.optimize import minimize_scalar  # its import takes a second

    best = minimize_scalar(loss, bounds=(0.0, math.log(100)), method="bounded").x
    return Tempered(classifier, max(1.0, math.exp(best)))


@torch.no_grad()
def balance_classes(
    energy: Energy,
    classifier: nn.Module,
    forget: Sequence[int],
    x: Float[Tensor, " n *shape"],
    strength: float = 1.0,
    rounds: int = 500,
) -> Balanced:
    r"""Return the energy with offsets such that every retained class keeps its share under the KL target.

        q* = argmin KL(q || q0) + lam E_q[F]    subject to    E_q[p(k | x, retained)] = pi_k
           = q0 exp(-lam F + sum_k b_k p(k | x, retained)) / Z

    The multipliers b are found by iterative scaling, b_k += log pi_k - log E_q*[p_k], which converges
    because the p_k are positive and sum to 1 (Darroch and Ratcliff, 1972). pi is the share of each
    retained class among the retained mass of q0, by the same classifier.

    Args:
        energy: F, bounded below.
        classifier: the guide.
        forget: classes to forget.
        x: samples of the original model, [n, *shape].
        strength: lam > 0; the offsets hold for this strength only.
        rounds: of iterative scaling.

    Raises:
        InputError: for a strength that is not positive.
    """
    if not strength > 0:
        raise InputError(f"got strength={strength} to balance a request for; expected a number > 0")
    classifier, F = frozen(classifier), evaluate(energy, x).double()
    logits = torch.cat([classifier(chunk) for chunk in in_batches(x, 4096)]).double()
    p = retained_probabilities(logits, forget)
    kept = [k for k in range(logits.shape[1]) if k not in set(forget)]
    share = logits.softmax(1)[:, kept].mean(0).clamp(min=1e-12)
    wanted = (share / share.sum()).log()
    b = torch.zeros_like(wanted)
    for _ in range(rounds):
        weight = (p @ b - strength * F).softmax(0)
        b += wanted - (weight @ p).clamp(min=1e-12).log()
    return Balanced(energy, classifier, forget, ((b - b.max()) / strength).tolist())


__getattr__ = renamed(__name__, {"calibrated": "calibrate", "balanced": "balance_classes"})
