"""selective_amnesia: a surrogate for forgotten samples, replay, and elastic weights (arXiv 2305.10120)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.ground.progress import follow
from unflow.methods.baselines.regression import Regression, TwoSidedLoss, check_weight, split_bank
from unflow.models import GenerativeModel
from unflow.training.method import Part, Parts, Problem, Tensors, model_of, select_prefix, trainable_copy


class ElasticLoss(nn.Module):
    """A loss of the model plus lam sum_i F_i (theta_i - theta_i*)^2, theta* the weights at construction.

    Args:
        loss: a loss of the model.
        model: the model with the parameters theta.
        fisher: F, one tensor per parameter of the model.
        lam: >= 0.
    """

    def __init__(self, loss: nn.Module, model: nn.Module, fisher: Sequence[Tensor], lam: float) -> None:
        super().__init__()
        self.loss, self.lam = loss, lam
        # Listed, not registered: the optimizer trains the model's parameters alone.
        self._springs = [(p, p.detach().clone(), F) for p, F in zip(model.parameters(), fisher, strict=True)]

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of a batch plus the penalty."""
        penalty = torch.stack([(F * (p - start).square()).sum() for p, start, F in self._springs]).sum()
        loss: Tensor = self.loss(*batch)
        return loss + self.lam * penalty


@dataclass(frozen=True, kw_only=True)
class SelectiveAmnesia(Regression):
    r"""Regress forgotten latents on a surrogate, replay retained ones, and penalise changes of the weights.

        L = E_{z rejected} ||G(z) - s||^2 / dim + E_{z kept} ||G(z) - G0(z)||^2 / dim
            + lam sum_i F_i (theta_i - theta_i*)^2,    F_i = E_z ||dG0(z)/dtheta_i||^2 / dim

    This is 2 / dim times the paper's negative objective (arXiv 2305.10120, Section 3) for a Gaussian
    output x ~ N(G(z), 1), because a map without noise has no likelihood: log p(x | z) = -||x - G(z)||^2 / 2,
    its gradient at a sample x = G(z) + e is e^T dG/dtheta, and the mean square of that is the
    diagonal Fisher information dim F_i. (At x = G(z), without e, it would be 0.) Our lam is the paper's
    lambda; the authors' code leaves out the paper's 1/2, so that its 100 (a VAE of MNIST) and 10 (a DDPM)
    correspond to our 200 and 20. On third-party generators 100 keeps the forgotten share where it is
    (``benchmarks/tuning.py``), so the default is 1.

    The surrogate is drawn anew in every step. It does not depend on z, so G learns its mean: a flat image.

    Attributes:
        surrogate: "uniform" over the range of the retained outputs (the authors'), or "noise", N(0, 1).
        lam: of the elastic penalty, >= 0.
        fisher_batches: batches of latents for the Fisher information, each with one draw of e, >= 1.
    """

    surrogate: Literal["uniform", "noise"] = "uniform"
    lam: float = 1.0
    fisher_batches: int = 200

    label: ClassVar[str] = "selective amnesia"
    summary: ClassVar[str] = (
        "baseline: forgotten latents learn noise; replay and a Fisher penalty protect the rest"
    )
    citation: ClassVar[str] = "2305.10120"
    reads_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("lam", self.lam)
        if self.surrogate not in ("uniform", "noise"):
            raise InputError(f"got surrogate={self.surrogate!r}; expected 'uniform' or 'noise'")
        if self.fisher_batches < 1:
            raise InputError(f"got fisher_batches={self.fisher_batches}; expected 1 or more")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return latents of both kinds, the retained outputs and their range, and the Fisher information."""
        forgotten, retained = split_bank(problem, self.bank_size, generator)
        latents = [model_of(problem).prior(self.batch_size, generator) for _ in range(self.fisher_batches)]
        fisher = fisher_information(trainable_copy(model_of(problem)), latents, generator)
        return {
            "forget/z": forgotten.z,
            "retain/z": retained.z,
            "retain/y": retained.x,
            "range": torch.stack([retained.x.min(), retained.x.max()]),
            **{f"fisher/{name}": F for name, F in fisher.items()},
        }

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the model, starting at its trained weights, with the penalty around them."""
        model, fisher = trainable_copy(model_of(problem)), select_prefix(prepared, "fisher/")
        springs = [fisher[name] for name, _ in model.named_parameters()]
        loss = ElasticLoss(TwoSidedLoss(model, 1.0), model, springs, self.lam)
        return {"model": Part(loss, model, self.choose_rate(model), decay=self.average)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw forgotten latents with new surrogates, and retained latents with their outputs."""
        batch = super().draw(prepared, generator)
        y = batch["retain/y"]
        if self.surrogate == "noise":
            return batch | {"forget/y": torch.randn(y.shape, generator=generator).to(y)}
        low, high = prepared["range"]
        uniform = torch.rand(y.shape, generator=generator).to(y)
        return batch | {"forget/y": low + (high - low) * uniform}


def fisher_information(
    model: GenerativeModel, latents: Sequence[Tensor], generator: torch.Generator
) -> Tensors:
    """Return E_z ||dG(z)/dtheta_i||^2 / dim for every parameter: the diagonal Fisher, per entry.

    One backward pass gives sum_b e_b^T dG(z_b)/dtheta over a batch. The e_b ~ N(0, 1) are independent, so
    the square of the sum has the same mean as the sum of squares, and one pass per batch is enough.

    Args:
        model: G; it is put into evaluation mode.
        latents: batches of latents.
        generator: of the draws of e.
    """
    parameters = dict(model.eval().named_parameters())
    fisher = {name: torch.zeros_like(p) for name, p in parameters.items()}
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    for z in follow(latents, "Fisher information"):
        x = model.push(z)
        e = torch.randn(x.shape, generator=generator).to(x)
        gradients = torch.autograd.grad((e * x).sum(), list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                fisher[name] += gradient.square() / (len(latents) * x.numel())
    return fisher
