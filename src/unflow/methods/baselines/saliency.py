"""saliency: relabelling of the weights that matter most to what is forgotten (SalUn, arXiv 2310.12508)."""

from __future__ import annotations

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
    r"""``Relabel`` with the gradient masked to the salient weights; the others keep every bit.

        mask_i = 1[ |d/dtheta_i E_{z rejected} ||G(z) - G0(z')||^2| is among the largest ``share`` ]

    at the original weights, over all layers together. The loss under the mask is relabelling's own
    forget term, because the loss that the original was trained on has no gradient at its own outputs.

    Attributes:
        share: of the weights that may change, in (0, 1]; the authors' is 0.5, and 1 is ``Relabel``.
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
        """Return what relabelling prepares, and a mask for every parameter."""
        prepared = relabel_latents(problem, self.bank_size, generator)
        gradient = forget_gradient(
            trainable_copy(model_of(problem)), prepared["forget/z"], prepared["forget/y"]
        )
        return prepared | {f"mask/{name}": mask for name, mask in mask_salient(gradient, self.share).items()}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the model, from the trained weights; its gradients pass through the mask."""
        model, masks = trainable_copy(model_of(problem)), select_prefix(prepared, "mask/")
        part = Part(TwoSidedLoss(model, self.alpha), model, self.learning_rate, decay=self.average)
        for name, parameter in model.named_parameters():
            # A gradient that was always 0 leaves no moment behind, and so Adam no step: the bits stay.
            parameter.register_hook(masks[name].mul)
        return {"model": part}


def forget_gradient(model: GenerativeModel, z: Tensor, y: Tensor, batch_size: int = 1024) -> Tensors:
    """Return d/dtheta E||G(z) - y||^2 / dim for every parameter of a model in evaluation mode."""
    parameters = dict(model.eval().named_parameters())
    for latents, outputs in zip(z.split(batch_size), y.split(batch_size), strict=True):
        (squared_error(model.push(latents), outputs).sum() / len(z)).backward()
    none = torch.zeros_like
    return {name: none(p) if p.grad is None else p.grad for name, p in parameters.items()}


def mask_salient(gradient: Tensors, share: float) -> Tensors:
    """Return masks of the ``share`` of all entries with the largest |gradient| (one, if it is less)."""
    sizes = torch.cat([part.abs().flatten() for part in gradient.values()])
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    mask[sizes.topk(max(1, round(share * len(sizes)))).indices] = True
    parts = mask.split([part.numel() for part in gradient.values()])
    return {name: part.view_as(gradient[name]) for name, part in zip(gradient, parts, strict=True)}
