"""Unbalanced transport on a finite support: the exact optimum, to compare a trained generator with."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.mathematics.divergences import Divergence

SMOOTHING = (0.3, 0.1, 0.03, 0.01, 0.003)
"""Entropic smoothing of the inner minimum, as shares of the range of the costs; each warm-starts the next."""

MARGINAL_GAP = 1e-4
"""The search stops when the total variation between p tilt(u) and the plan's second marginal is smaller."""


def transport_law(
    probabilities: Float[Tensor, " n"],
    points: Float[Tensor, " m *shape"],
    cost: Float[Tensor, " k"],
    *,
    tau: float,
    divergence: Divergence,
    smoothing: tuple[float, ...] = SMOOTHING,
) -> Float[Tensor, " n"]:
    r"""Return the second marginal pi_1 of unbalanced transport from q0 on a finite support.

        min_pi  E_pi[ tau/2 ||x - y||^2 / s^2 + lam F(y) ] + D_phi(pi_1 || q0),    pi_0 = q0

    solved by its concave semi-dual  max_u  sum_x q0(x) min_y [c(x, y) + u(y)] - sum_y q0(y) phi*(u(y)),
    where u = -v is minus UOT's potential; then pi_1 = q0 tilt(u). For tau = 0 this is q* itself, for
    tau -> infinity it is q0. The smoothing of the minimum changes the law by about the last share, in total
    variation. Semi-dual: arXiv 2305.14777, Eq. 9; costs as in ``methods.uot``.

    Args:
        probabilities: q0 on the support, [n], > 0, sum 1.
        points: the support, [n, d].
        cost: lam F at the points, [n], finite.
        tau: >= 0, weight of the scale-free transport cost.
        divergence: D_phi.
        smoothing: decreasing shares of the range of the costs, each > 0.

    Returns:
        The law, [n], double precision, sum 1.

    Raises:
        InputError: for a tau under 0 or shapes that do not match.
    """
    if not tau >= 0:
        raise InputError(f"got tau={tau}; expected a number >= 0")
    if not len(probabilities) == len(points) == len(cost):
        raise InputError(
            f"got {len(probabilities)} probabilities, {len(points)} points and {len(cost)} costs; expected "
            "one of each per point of the support"
        )
    p, x = probabilities.double(), points.double().flatten(1)
    distance = torch.cdist(x, x).square()
    scale = p @ distance @ p
    c = tau / 2 * distance / scale + cost.double()[None, :]
    # The search starts from the optimum for tau = 0, which is known.
    u = divergence.multiplier(cost, p) - cost.double()
    for share in smoothing if tau > 0 else ():
        u = _ascend(u, p, c, divergence, share * max(float(c.max() - c.min()), 1e-12))
    law = p * divergence.tilt(u)
    return law / law.sum()


def law_on_grid(
    x: Float[Tensor, " n d"], side: float, cells: int, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " cells"]:
    """Return the share of (weighted) samples in every cell of [-side, side]^d; double precision, sum 1.

    A sample outside the cube counts in the nearest cell.

    Args:
        x: samples, [n, d].
        side: half the side of the cube.
        cells: number per axis; the result has cells^d entries, the last axis fastest.
        weight: >= 0, [n]; None: all equal.
    """
    place = ((x + side) / (2 * side) * cells).floor().long().clamp(0, cells - 1)
    index = place[:, 0]
    for axis in range(1, x.shape[1]):
        index = index * cells + place[:, axis]
    mass = torch.ones(len(x), dtype=torch.float64) if weight is None else weight.double()
    law = torch.zeros(cells ** x.shape[1], dtype=torch.float64).index_add_(0, index, mass)
    return law / law.sum()


def cell_centres(side: float, cells: int, dim: int) -> Float[Tensor, " cells dim"]:
    """Return the centres of the cells of ``law_on_grid``, in the same order: [cells^dim, dim]."""
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * side / cells) - side
    return torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), dim=-1).reshape(-1, dim)


def _ascend(u: Tensor, p: Tensor, c: Tensor, divergence: Divergence, epsilon: float) -> Tensor:
    """Return the potential that maximises the smoothed semi-dual; the search starts from ``u``.

    The gradient is the difference of two laws: p tilt(u), and the second marginal of the plan for this u. It
    is written out here because one pass over the plan [n, n] then gives both value and gradient.
    """
    base, plan = p.log()[None, :] - c / epsilon, torch.empty_like(c)
    gaps: list[float] = []

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(values)
        torch.sub(base, w / epsilon, out=plan)
        top = plan.amax(1, keepdim=True)
        plan.sub_(top).exp_()
        total = plan.sum(1)
        inner = -epsilon * (total.log() + top[:, 0])
        slope = p * divergence.tilt(w) - (p / total) @ plan
        gaps.append(float(slope.abs().sum()) / 2)
        value = (p * divergence.conjugate(w)).sum() - (p * inner).sum()
        return float(value), slope.numpy()

    def stop_if_close(_: np.ndarray) -> None:
        if gaps[-1] < MARGINAL_GAP:
            raise StopIteration

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-10}
    from scipy.optimize import minimize  # its import takes a second

    found = minimize(
        objective, u.numpy(), jac=True, method="L-BFGS-B", options=options, callback=stop_if_close
    )
    return torch.from_numpy(found.x)
