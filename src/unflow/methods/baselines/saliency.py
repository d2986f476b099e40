"""saliency: relabelling that trains only the most salient weights (SalUn, arXiv 2310.12508)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.methods.baselines.regression import Regression, TwoSidedLoss, check_weight
from unflow.methods.baselines.relabel import relabel_latents
from unflow.models import GenerativeModel
from unflow.training.losses import squared_error
from unflow.training.method import Part, Parts, Problem, Tensors, model_of, select_prefix, trainable_copy


@dataclass(frozen=True, kw_only=True)
class Saliency(Regression):
    r"""``Relabel`` with the gradient masked to the salient weights; the others do not change.

        mask_i = 1[ |d/dtheta_i E_{z rejected} ||G(z) - G0(z')||^2| is among the largest ``share`` ]

    at the original weights, over all layers together. The mask uses relabelling's forget term, because the
    gradient of the original's training loss is 0 at its own outputs.

    Attributes:
        share: share of the weights that may change, in (0, 1]; the authors use 0.5, and 1 is ``Relabel``.
        alpha: weight of the retained latents, >= 0, as in ``Relabel``.
    """

    share: float = 0.5
    alpha: float = 3.0

    label: ClassVar[str] = "SalUn"
    summary: ClassVar[str] = (
        "baseline: relabelling that changes only the weights with the largest forget gradients"
    )
    citation: ClassVar[str] = "2310.12508"
    reads_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)
        if not 0 < self.share <= 1:
            raise InputError(f"got share={self.share}; expected a number in (0, 1]")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the tensors of ``Relabel``, and a mask for every parameter."""
        prepared = relabel_latents(problem, self.bank_size, generator)
        gradient = forget_gradient(
            trainable_copy(model_of(problem)), prepared["forget/z"], prepared["forget/y"]
        )
        return prepared | {f"mask/{name}": mask for name, mask in mask_salient(gradient, self.share).items()}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the model, starting at its trained weights, with masked gradients."""
        model, masks = trainable_copy(model_of(problem)), select_prefix(prepared, "mask/")
        part = Part(TwoSidedLoss(model, self.alpha), model, self.choose_rate(model), decay=self.average)
        trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
        for name, parameter in trained:
            # Where the gradient is always 0, Adam's moments and steps are 0 too: the weight keeps its bits.
            add_hook: Callable[[Callable[[Tensor], Tensor]], object] = parameter.register_hook
            add_hook(masks[name].mul)
        return {"model": part}


def forget_gradient(model: GenerativeModel, z: Tensor, y: Tensor, batch_size: int = 1024) -> Tensors:
    """Return d/dtheta E||G(z) - y||^2 / dim for every parameter; G is put into evaluation mode."""
    parameters = dict(model.eval().named_parameters())
    for latents, outputs in zip(torch.split(z, batch_size), torch.split(y, batch_size), strict=True):
        torch.autograd.backward(squared_error(model.push(latents), outputs).sum() / len(z))
    none = torch.zeros_like
    return {name: none(p) if p.grad is None else p.grad for name, p in parameters.items()}


def mask_salient(gradient: Tensors, share: float) -> Tensors:
    """Return masks of the ``share`` of all entries with the largest |gradient|; one entry at least."""
    sizes = torch.cat([part.abs().flatten() for part in gradient.values()])
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    mask[sizes.topk(max(1, round(share * len(sizes)))).indices] = True
    parts = torch.split(mask, [part.numel() for part in gradient.values()])
    return {name: part.view_as(gradient[name]) for name, part in zip(gradient, parts, strict=True)}
