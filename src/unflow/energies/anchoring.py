"""Energies from a few images of what to forget and the model's own samples, without labels.

The extractor is any module from samples to features of one axis or more: a network without its head, an
encoder, ``nn.Flatten()`` or ``models.classifier.Features``. It is copied and frozen; gradients pass through.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unflow.energies import Anchor, AnchorLogOdds, MixtureLogOdds, evaluate, features_of, frozen
from unflow.energies.anchor import Kernel
from unflow.ground.batches import in_batches
from unflow.ground.errors import InputError
from unflow.ground.faces import renamed

STARTS = (0.5, 0.8, 0.9, 0.95)
"""Quantiles from which the fit of two normal laws starts; the fit of the highest likelihood is used."""
NEIGHBOURS = 10
"""Number of nearest neighbours of each sample in the graph of the random walk."""


def make_anchor(
    extractor: nn.Module,
    images: Float[Tensor, " k *shape"],
    samples: Float[Tensor, " n *shape"] | None = None,
    kernel: Kernel = "cosine",
) -> Anchor:
    r"""Return the similarity to the mean feature of k images (arXiv 2603.16489).

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...].
        images: of what to forget, [k, *shape].
        samples: of the original model, [n, *shape]; the cosine is then centred at their mean feature, and
            the radius of rbf is their median distance to the anchor. None: no centre, radius 1.
        kernel: "cosine" or "rbf".

    Raises:
        InputError: for no images or no samples, or features that are not finite.
    """
    anchor = extract_features(extractor, images, "images").mean(0)
    if samples is None:
        return Anchor(extractor, anchor.to(images.dtype), kernel)
    phi = extract_features(extractor, samples, "samples")
    radius = float((phi - anchor).norm(dim=1).median())
    return Anchor(extractor, anchor.to(images.dtype), kernel, phi.mean(0).to(images.dtype), radius)


def add_threshold(
    anchor: Anchor, samples: Float[Tensor, " n *shape"], margin: float = 0.0, rounds: int = 200
) -> AnchorLogOdds:
    r"""Return the bounded log-odds of a similarity, from two normal laws fitted to the model's own samples.

        s ~ w N(m_1, v) + (1 - w) N(m_0, v),    temperature = v / (m_1 - m_0),
        threshold = (m_0 + m_1) / 2 + temperature log((1 - w) / w)

    With the same variance v, the log-odds are linear in s. Expectation-maximisation starts from each of
    ``STARTS``, and the fit of the highest likelihood is used.

    Args:
        anchor: the similarity.
        samples: of the original model, [n, *shape].
        margin: >= 0, in nats.
        rounds: iterations of the fit.

    Raises:
        InputError: for a similarity that is the same for all samples, NaN or infinite.
    """
    s = evaluate(anchor, samples).double()
    _, threshold, temperature = max(fit_two_normals(s, start, rounds) for start in STARTS)
    return AnchorLogOdds(anchor, threshold, temperature, margin)


def fit_two_normals(s: Float[Tensor, " n"], start: float, rounds: int) -> tuple[float, float, float]:
    """Fit two normal laws of the same variance to s; return mean log-likelihood, threshold and temperature.

    Args:
        s: numbers that differ, [n].
        start: quantile; at first, larger numbers belong to the upper law.
        rounds: iterations of expectation-maximisation.
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
    images: Float[Tensor, " k *shape"],
    samples: Float[Tensor, " n *shape"],
    generator: torch.Generator,
    share: float = 0.12,
    margin: float = 5.0,
    parts: int = 20,
    rank: int = 16,
) -> MixtureLogOdds:
    r"""Return Gaussian log-odds of the model's own samples that a random walk from k images reaches (ours).

    A random walk on the graph of nearest samples starts from the images (label propagation, Zhou et al.,
    2003). The ``share`` of the samples with the most visits per degree is fitted by one Gaussian; the others
    are split by k-means and fitted by ``parts`` more.

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...].
        images: of what to forget, [k, *shape].
        samples: of the original model, [n, *shape], n >= 20 parts.
        generator: draws the initial centres of k-means.
        share: about the share of the samples to forget, in (0, 0.5].
        margin: >= 0, in nats.
        parts: Gaussians of the retained samples, >= 1.
        rank: number of principal directions of the features that are used, >= 1.

    Raises:
        InputError: for too few images or samples, numbers out of range, or features that are not finite.
    """
    if not 0 < share <= 0.5:
        raise InputError(f"got share={share}; expected a number in (0, 0.5]")
    if parts < 1 or rank < 1:
        raise InputError(f"got parts={parts} and rank={rank}; expected 1 or more")
    start = extract_features(extractor, images, "images")
    phi = extract_features(extractor, samples, "samples")
    if len(phi) < 20 * parts:
        raise InputError(f"got {len(phi)} samples for {parts} parts; expected {20 * parts} or more")
    origin = phi.mean(0)
    basis = torch.linalg.eigh(torch.cov(phi.T).reshape(phi.shape[1], -1)).eigenvectors[:, -rank:]
    visits = count_visits(phi, start)
    near = visits >= visits.topk(max(2, round(share * len(phi)))).values[-1].clamp(min=1e-300)
    u = (phi - origin) @ basis
    others = cluster_points(u[~near], parts, generator)
    groups = [u[near], *(group for k in range(parts) if len(group := u[~near][others == k]) > 1)]
    ridge = 0.02 * torch.cov(u.T).reshape(u.shape[1], -1)
    shares = torch.tensor([len(group) / len(u) for group in groups]).to(u)
    means = torch.stack([group.mean(0) for group in groups])
    covariances = torch.stack([torch.cov(g.T, correction=0).reshape(ridge.shape) + ridge for g in groups])
    origin, basis = origin.to(samples.dtype), basis.to(samples.dtype)
    laws = (shares.to(samples.dtype), means.to(samples.dtype), covariances.to(samples.dtype))
    return MixtureLogOdds(extractor, origin, basis, *laws, margin)


@torch.no_grad()
def extract_features(extractor: nn.Module, x: Float[Tensor, " n *shape"], what: str) -> Float[Tensor, " n d"]:
    """Return phi(x) of many samples without gradient, [n, d], in double precision.

    Raises:
        InputError: for no samples, or features that are not finite; the message calls the samples ``what``.
    """
    if len(x) == 0:
        raise InputError(f"got 0 {what}; expected 1 or more")
    extractor = frozen(extractor)
    phi = torch.cat([features_of(extractor, chunk) for chunk in in_batches(x, 4096)]).double()
    if not torch.isfinite(phi).all():
        raise InputError(f"the features of the {what} are NaN or infinite; expected finite numbers")
    return phi


def count_visits(
    points: Float[Tensor, " n d"], start: Float[Tensor, " k d"], restart: float = 0.01, rounds: int = 300
) -> Float[Tensor, " n"]:
    r"""Return how often a random walk from ``start`` visits each point, divided by the point's degree, [n].

        f = restart sum_t (1 - restart)^t (P^T)^t b,    visits = f / degree

    P is the transition matrix of the symmetric graph of ``NEIGHBOURS`` nearest points with the weights
    exp(-||x_i - x_j||^2 / (r_i r_j)), where r_i is the distance to the last neighbour. b is uniform over the
    nearest points of each start.

    Args:
        points: [n, d], n > ``NEIGHBOURS``.
        start: [k, d].
        restart: probability of a restart, in (0, 1].
        rounds: terms of the sum.
    """
    from scipy import sparse  # its import takes a second

    n, k = len(points), NEIGHBOURS
    distance, index = find_nearest(points, points, k + 1)
    distance, index = distance[:, 1:], index[:, 1:]
    radius = distance[:, -1].clamp(min=1e-12)
    weight = torch.exp(-distance.square() / (radius[:, None] * radius[index]))
    entries = weight.flatten().cpu().numpy(), (np.repeat(np.arange(n), k), index.flatten().cpu().numpy())
    graph = sparse.csr_matrix(entries, (n, n))
    graph = graph.maximum(graph.T)
    degree = np.asarray(graph.sum(1)).ravel()
    step = graph @ sparse.diags(1 / degree)
    b = np.bincount(find_nearest(start, points, k)[1].flatten().cpu().numpy(), minlength=n) / (k * len(start))
    f = b.copy()
    for _ in range(rounds):
        f = (1 - restart) * (step @ f) + restart * b
    return torch.from_numpy(f / degree).to(points)


def find_nearest(
    x: Float[Tensor, " n d"], points: Float[Tensor, " m d"], k: int
) -> tuple[Float[Tensor, " n k"], Int[Tensor, " n k"]]:
    """Return the distances and indices of the k points nearest to each x, both [n, k]."""
    found = [torch.cdist(chunk, points).topk(k, largest=False) for chunk in torch.split(x, 512)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def cluster_points(
    points: Float[Tensor, " n d"], parts: int, generator: torch.Generator, rounds: int = 15
) -> Int[Tensor, " n"]:
    """Return the cluster of each point by k-means from random points, [n] in 0 ... parts - 1."""
    rows = torch.randperm(len(points), generator=generator)[:parts].to(points.device)
    centres = points[rows]
    for _ in range(rounds):
        part = find_nearest(points, centres, 1)[1][:, 0]
        sums = torch.zeros_like(centres).index_add(0, part, points)
        counts = torch.bincount(part, minlength=len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
    return part


__getattr__ = renamed(
    __name__,
    {
        "anchored": "make_anchor",
        "thresholded": "add_threshold",
        "grown": "grow_request",
        "two_laws": "fit_two_normals",
        "features": "extract_features",
        "walk": "count_visits",
        "nearest": "find_nearest",
        "clusters": "cluster_points",
    },
)
