"""What a guide cannot know by itself: how large a margin to take, and what keeps the classes in balance.

Both rules read the guide, real retained samples or the model's own, and no judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unflow.energies import Balanced, ClassLogOdds, Energy, evaluate, retained_probabilities
from unflow.errors import InputError


def retaining_margin(
    classifier: nn.Module, forget: int | Sequence[int], retain: Tensor, share: float = 0.8
) -> float:
    r"""Return the largest margin that leaves most real retained samples a weight of 1/2 or more.

        m = max(0, -Q_share(L(x))),    L = log p(forget | x) - log p(rest | x),    x real and retained

    The weight is sigmoid(-(L + m)), so ``share`` of the retained samples keep at least half of theirs,
    while samples that look less retained than those lose it.

    Args:
        classifier: the guide; the rows of ``retain`` should not be those it was trained on.
        forget: class index or indices.
        retain: real samples of the retained classes, [n, *shape].
        share: in (0, 1).

    Raises:
        InputError: for no samples or a share outside (0, 1).
    """
    if len(retain) == 0:
        raise InputError("got no retained samples to choose a margin by; expected 1 or more")
    if not 0 < share < 1:
        raise InputError(f"got share={share}; expected a number inside (0, 1), like 0.8")
    log_odds = evaluate(ClassLogOdds(classifier, forget, margin=None), retain)
    return max(0.0, -float(log_odds.quantile(share)))


@torch.no_grad()
def balanced(
    energy: Energy,
    classifier: nn.Module,
    forget: Sequence[int],
    x: Tensor,
    strength: float = 1.0,
    rounds: int = 500,
) -> Balanced:
    r"""Return the energy under whose KL target every retained class keeps its share.

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
        strength: lam > 0, which the result is for.
        rounds: of iterative scaling.

    Raises:
        InputError: for a strength that is not positive.
    """
    if not strength > 0:
        raise InputError(f"got strength={strength} to balance a request for; expected a number > 0")
    F = evaluate(energy, x).double()
    logits = torch.cat([classifier(chunk) for chunk in x.split(4096)]).double()
    p = retained_probabilities(logits, forget)
    kept = [k for k in range(logits.shape[1]) if k not in set(forget)]
    share = logits.softmax(1)[:, kept].mean(0).clamp(min=1e-12)
    wanted = (share / share.sum()).log()
    b = torch.zeros(p.shape[1], dtype=torch.float64)
    for _ in range(rounds):
        weight = (p @ b - strength * F).softmax(0)
        b += wanted - (weight @ p).clamp(min=1e-12).log()
    return Balanced(energy, classifier, forget, ((b - b.max()) / strength).tolist())
