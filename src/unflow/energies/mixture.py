"""Energies of samples near a few images: log-odds of Gaussian densities in feature space."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from unflow.energies.anchor import features_of
from unflow.energies.base import Energy, check_margin, frozen
from unflow.ground.errors import InputError


class MixtureLogOdds(Energy):
    r"""Log-odds of the first Gaussian of a mixture against all others; at least 0 (ours).

        L(x) = log s_0 N(u; m_0, C_0) - log sum_{j>0} s_j N(u; m_j, C_j),    u = basis^T (phi(x) - origin)
        F(x) = softplus(L(x) + margin) >= 0

    ``anchoring.grow_request`` fits it to a model's samples, the first Gaussian to those near a few images.

    Args:
        extractor: phi, maps [batch, *shape] to features [batch, ...], which are flattened; it is copied
            and frozen.
        origin: subtracted from all features, [d].
        basis: directions of feature space that are used, [d, r].
        shares: s > 0, [parts], two parts or more.
        means: m, [parts, r].
        covariances: C, [parts, r, r], positive definite.
        margin: >= 0, in nats.

    Raises:
        InputError: for shapes that do not match, shares that are not positive, covariances that
            are not positive definite, and (on the first call) features of another size.
    """

    origin: Tensor
    basis: Tensor
    means: Tensor
    whiten: Tensor
    constants: Tensor

    def __init__(
        self,
        extractor: nn.Module,
        origin: Tensor,
        basis: Tensor,
        shares: Tensor,
        means: Tensor,
        covariances: Tensor,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        check_margin(margin)
        given = [list(t.shape) for t in (origin, basis, shares, means, covariances)]
        parts, rank = means.shape if means.ndim == 2 else (0, 0)
        if parts < 2 or given != [
            [len(origin)],
            [len(origin), rank],
            [parts],
            [parts, rank],
            [parts, rank, rank],
        ]:
            raise InputError(
                f"got the shapes {given}; expected [d], [d, r], [parts], [parts, r] and [parts, r, r] with "
                "two parts or more"
            )
        if not bool((shares > 0).all() and torch.isfinite(shares).all()):
            raise InputError(f"got the shares {shares.tolist()}; expected finite numbers > 0")
        lower, failed = torch.linalg.cholesky_ex(covariances)
        if bool(failed.any()):
            raise InputError(
                f"got {int((failed != 0).sum())} of {parts} covariances that are not positive definite; "
                "expected all to be"
            )
        identity = torch.eye(rank).to(covariances).expand_as(covariances)
        log_volume = lower.diagonal(dim1=1, dim2=2).log().sum(1)
        self.extractor, self.margin = frozen(extractor), margin
        self.register_buffer("origin", origin.detach().clone())
        # Contiguous, as in a file: products of other strides round differently, and a loaded copy must not.
        self.register_buffer("basis", basis.detach().clone(memory_format=torch.contiguous_format))
        self.register_buffer("means", means.detach().clone())
        whiten = torch.linalg.solve_triangular(lower, identity, upper=False)
        self.register_buffer("whiten", whiten.contiguous())
        self.register_buffer("constants", shares.log() - log_volume)

    @property
    def lower_bound(self) -> float:
        """0."""
        return 0.0

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the bounded log-odds, [batch]."""
        u = (features_of(self.extractor, x, len(self.origin)) - self.origin) @ self.basis
        deviations = torch.einsum("pij,bpj->bpi", self.whiten, u[:, None] - self.means)
        logs = self.constants - deviations.square().sum(2) / 2
        return nnf.softplus(logs[:, 0] - logs[:, 1:].logsumexp(1) + self.margin)

    def describe(self) -> str:
        """Return the margin."""
        return f"what is near a few images (margin {self.margin:g})"
