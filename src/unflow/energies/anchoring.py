"""Energies from a few images of what is to be forgotten and the model's own samples, without labels.

The extractor is any module from samples to features, of one axis or more: a network's trunk, an encoder,
``nn.Flatten()`` or ``classifiers.Features``. It is copied and frozen, and gradients go through it.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from unflow.energies import Anchor, AnchorLogOdds, MixtureLogOdds, evaluate, features_of, frozen
from unflow.energies.anchor import Kernel
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.ground.faces import renamed

STARTS = (0.5, 0.8, 0.9, 0.95)
"""Quantiles from which two laws of similarities are fitted; the likeliest fit is taken."""
NEIGHBOURS = 10
"""Of each sample in the graph on which a walk starts from the images."""


def make_anchor(
    extractor: nn.Module, images: Tensor, samples: Tensor | None = None, kernel: Kernel = "cosine"
) -> Anchor:
    r"""Return the similarity to the mean feature of k images (arXiv 2603.16489).

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...].
        images: of what is to be forgotten, [k, *shape].
        samples: of the original model, [n, *shape]; the cosine is then centred at their mean feature, and
            the radius of rbf is their median distance to the anchor. None: no centre, radius 1.
        kernel: "cosine" or "rbf".

    Raises:
        InputError: for no images or no samples, or features that are not finite.
    """
    anchor = features(extractor, images, "images").mean(0)
    if samples is None:
        return Anchor(extractor, anchor.to(images.dtype), kernel)
    phi = features(extractor, samples, "samples")
    radius = float((phi - anchor).norm(dim=1).median())
    return Anchor(extractor, anchor.to(images.dtype), kernel, phi.mean(0).to(images.dtype), radius)


def add_threshold(anchor: Anchor, samples: Tensor, margin: float = 0.0, rounds: int = 200) -> AnchorLogOdds:
    r"""Return the bounded log-odds of a similarity, by two normal laws fitted to the model's own samples.

        s ~ w N(m_1, v) + (1 - w) N(m_0, v),    temperature = v / (m_1 - m_0),
        threshold = (m_0 + m_1) / 2 + temperature log((1 - w) / w)

    With one variance the log-odds is linear in s. The fit is the likeliest that expectation-maximisation
    finds from ``STARTS``.

    Args:
        anchor: the similarity.
        samples: of the original model, [n, *shape].
        margin: >= 0, in nats.
        rounds: of the fit.

    Raises:
        InputError: for a similarity that cannot tell the samples apart.
    """
    s = evaluate(anchor, samples).double()
    _, threshold, temperature = max(two_laws(s, start, rounds) for start in STARTS)
    return AnchorLogOdds(anchor, threshold, temperature, margin)


def two_laws(s: Tensor, start: float, rounds: int) -> tuple[float, float, float]:
    """Fit two normal laws of one variance to s; return the mean log-likelihood, threshold and temperature.

    Args:
        s: numbers that differ, [n].
        start: quantile over which a number counts as one of the upper law at first.
        rounds: of expectation-maximisation.
    """
    upper = (s >= s.quantile(start)).double()
    for _ in range(rounds):
        w = upper.mean().clamp(1e-3, 1 - 1e-3)
        m1, m0 = (upper * s).sum() / upper.sum(), ((1 - upper) * s).sum() / (1 - upper).sum()
        v = (upper * (s - m1).square() + (1 - upper) * (s - m0).square()).mean().clamp(min=1e-12)
        temperature = v / (m1 - m0).clamp(min=1e-12)
        threshold = (m0 + m1) / 2 + temperature * torch.log((1 - w) / w)
        upper = torch.sigmoid((s - threshold) / temperature)
    laws = torch.stack([w.log() - (s - m1).square() / (2 * v), (1 - w).log() - (s - m0).square() / (2 * v)])
    likelihood = laws.logsumexp(0).mean() - v.log() / 2
    return float(likelihood), float(threshold), float(temperature)


def grow_request(
    extractor: nn.Module,
    images: Tensor,
    samples: Tensor,
    generator: torch.Generator,
    share: float = 0.12,
    margin: float = 5.0,
    parts: int = 20,
    rank: int = 16,
) -> MixtureLogOdds:
    r"""Return Gaussian log-odds of what k images lead to among the model's own samples (ours).

    A random walk on the graph of nearest samples starts from the images (label propagation, Zhou et al.,
    2003). The ``share`` of the samples that it visits most, for their degree, becomes one Gaussian; the
    others become ``parts`` more, by k-means.

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...].
        images: of what is to be forgotten, [k, *shape].
        samples: of the original model, [n, *shape], n >= 20 parts.
        generator: of the first centres.
        share: about how much of the samples is to be forgotten, in (0, 0.5].
        margin: >= 0, in nats.
        parts: >= 1.
        rank: principal directions of the features that are kept, >= 1.

    Raises:
        InputError: for too few images or samples, numbers out of range, or features that are not finite.
    """
    if not 0 < share <= 0.5:
        raise InputError(f"got share={share}; expected a number in (0, 0.5]")
    if parts < 1 or rank < 1:
        raise InputError(f"got parts={parts} and rank={rank}; expected 1 or more")
    start, phi = features(extractor, images, "images"), features(extractor, samples, "samples")
    if len(phi) < 20 * parts:
        raise InputError(f"got {len(phi)} samples for {parts} parts; expected {20 * parts} or more")
    origin = phi.mean(0)
    basis = torch.linalg.eigh(torch.cov(phi.T).reshape(phi.shape[1], -1)).eigenvectors[:, -rank:]
    visits = walk(phi, start)
    near = visits >= visits.topk(max(2, round(share * len(phi)))).values[-1].clamp(min=1e-300)
    u = (phi - origin) @ basis
    others = clusters(u[~near], parts, generator)
    groups = [u[near], *(group for k in range(parts) if len(group := u[~near][others == k]) > 1)]
    ridge = 0.02 * torch.cov(u.T).reshape(u.shape[1], -1)
    shares = torch.tensor([len(group) / len(u) for group in groups]).to(u)
    means = torch.stack([group.mean(0) for group in groups])
    covariances = torch.stack([torch.cov(g.T, correction=0).reshape(ridge.shape) + ridge for g in groups])
    origin, basis = origin.to(samples.dtype), basis.to(samples.dtype)
    laws = (shares.to(samples.dtype), means.to(samples.dtype), covariances.to(samples.dtype))
    return MixtureLogOdds(extractor, origin, basis, *laws, margin)


@torch.no_grad()
def features(extractor: nn.Module, x: Tensor, what: str) -> Tensor:
    """Return phi(x) of many samples without gradient, [n, d], in double precision.

    Raises:
        InputError: for none, or features that are not finite; ``what`` says which samples.
    """
    if len(x) == 0:
        raise InputError(f"got 0 {what}; expected 1 or more")
    extractor = frozen(extractor)
    phi = torch.cat([features_of(extractor, chunk) for chunk in in_batches(x, 4096)]).double()
    if not torch.isfinite(phi).all():
        raise InputError(f"the features of the {what} are NaN or infinite; expected finite numbers")
    return phi


def walk(points: Tensor, start: Tensor, restart: float = 0.01, rounds: int = 300) -> Tensor:
    r"""Return how often a walk from ``start`` visits each point, for its degree, [n].

        f = restart sum_t (1 - restart)^t (P^T)^t b,    visits = f / degree

    P steps along the symmetric graph of ``NEIGHBOURS`` nearest points with the weights
    exp(-||x_i - x_j||^2 / (r_i r_j)), r_i the distance to the last neighbour; b is spread evenly over the
    nearest points of each start.

    Args:
        points: [n, d], n > ``NEIGHBOURS``.
        start: [k, d].
        restart: in (0, 1].
        rounds: terms of the sum.
    """
    n, k = len(points), NEIGHBOURS
    distance, index = nearest(points, points, k + 1)
    distance, index = distance[:, 1:], index[:, 1:]
    radius = distance[:, -1].clamp(min=1e-12)
    weight = torch.exp(-distance.square() / (radius[:, None] * radius[index]))
    entries = weight.flatten().cpu().numpy(), (np.repeat(np.arange(n), k), index.flatten().cpu().numpy())
    graph = sparse.csr_matrix(entries, (n, n))
    graph = graph.maximum(graph.T)
    degree = np.asarray(graph.sum(1)).ravel()
    step = graph @ sparse.diags(1 / degree)
    b = np.bincount(nearest(start, points, k)[1].flatten().cpu().numpy(), minlength=n) / (k * len(start))
    f = b.copy()
    for _ in range(rounds):
        f = (1 - restart) * (step @ f) + restart * b
    return torch.from_numpy(f / degree).to(points)


def nearest(x: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and rows of the k nearest points to each x, both [n, k]."""
    found = [torch.cdist(chunk, points).topk(k, largest=False) for chunk in x.split(512)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def clusters(points: Tensor, parts: int, generator: torch.Generator, rounds: int = 15) -> Tensor:
    """Return the part of each point by k-means from random points, [n] in 0 ... parts - 1."""
    rows = torch.randperm(len(points), generator=generator)[:parts].to(points.device)
    centres = points[rows]
    for _ in range(rounds):
        part = nearest(points, centres, 1)[1][:, 0]
        sums = torch.zeros_like(centres).index_add(0, part, points)
        counts = torch.bincount(part, minlength=len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
    return part


__getattr__ = renamed(
    __name__, {"anchored": "make_anchor", "thresholded": "add_threshold", "grown": "grow_request"}
)
