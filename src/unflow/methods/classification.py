"""Classification: train the guide or the judge, with small random deformations of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.classifiers import Classifier, mirrored, random_affine
from unflow.methods.base import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    require_batch,
    trainable_copy,
)  # fmt: skip


class CrossEntropy(nn.Module):
    """Cross entropy with label smoothing."""

    def __init__(self, net: nn.Module, smoothing: float) -> None:
        super().__init__()
        self.net, self.smoothing = net, smoothing

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the mean cross entropy of x [batch, *shape] and label [batch]."""
        return nnf.cross_entropy(self.net(x), label, label_smoothing=self.smoothing)


@dataclass(frozen=True, kw_only=True)
class Classification(Training):
    """Minimise the cross entropy of deformed, slightly noisy samples.

    Attributes:
        smoothing: of the labels, in [0, 1).
        noise: standard deviation added to the samples.
        deform: whether images are turned, scaled and shifted a little.
        flip: whether images are mirrored at random.
    """

    steps: int = 400
    learning_rate: float = 3e-3
    smoothing: float = 0.0
    noise: float = 0.1
    deform: bool = True
    flip: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"data", "labels"})

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return samples and labels."""
        assert problem.data is not None
        assert problem.labels is not None
        require_batch(len(problem.data), self.batch_size, "labelled samples")
        return {"data": problem.data, "labels": problem.labels}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the network."""
        net = trainable_copy(classifier_of(problem).net)
        return {"net": Part(CrossEntropy(net, self.smoothing), net, self.learning_rate)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw labelled samples, deformed and noisy."""
        rows = draw_rows(len(prepared["data"]), self.batch_size, generator)
        x = prepared["data"][rows]
        if self.flip:
            x = mirrored(x, generator)
        if self.deform:
            x = random_affine(x, torch.randn(len(x), 4, generator=generator).to(x))
        x = x + self.noise * torch.randn(x.shape, generator=generator).to(x)
        return {"x": x, "label": prepared["labels"][rows]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        return {"loss": descend("net", batch["x"], batch["label"])}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the classifier."""
        return Classifier(parts["net"].average, classifier_of(problem).class_names)


def classifier_of(problem: Problem) -> Classifier:
    """Return the problem's model, a classifier."""
    assert isinstance(problem.model, Classifier)
    return problem.model
