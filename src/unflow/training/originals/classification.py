"""Classification: train a classifier (guide or judge) on randomly deformed images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.energies.calibration import calibrate
from unflow.ground.errors import InputError
from unflow.models.classifier import Classifier, apply_affine, mirror_randomly
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    draw_rows,
    require_batch,
    trainable_copy,
)


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
    """Minimise the cross entropy of deformed and slightly noisy samples.

    Attributes:
        smoothing: of the labels, in [0, 1).
        noise: standard deviation of the noise on the samples, >= 0.
        deform: whether images are rotated, scaled and shifted a little.
        flip: whether images are mirrored at random.
        aside: share of the samples, in [0, 1), that is held out to calibrate the classifier: its logits are
            divided by the best temperature on them (``calibration.calibrate``).
    """

    steps: int = 400
    learning_rate: float = 3e-3
    smoothing: float = 0.0
    noise: float = 0.1
    deform: bool = True
    flip: bool = False
    aside: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"data", "labels"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.aside < 1:
            raise InputError(f"got aside={self.aside}; expected a share in [0, 1), like 0.2")

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        """Return the samples that are trained on, and their labels."""
        data, labels = labelled_data_of(problem)
        rows = torch.arange(len(data)) if self.aside == 0 else self._shuffled(len(data))[1]
        require_batch(len(rows), self.batch_size, "labelled samples")
        return {"data": data[rows], "labels": labels[rows]}

    def _shuffled(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the rows that are held out and the others, a function of n alone."""
        order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
        aside = max(1, round(self.aside * n))
        return order[:aside], order[aside:]

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        """Return the network."""
        net = trainable_copy(classifier_of(problem).net)
        return {"net": Part(CrossEntropy(net, self.smoothing), net, self.learning_rate)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        """Draw labelled samples, deformed and noisy."""
        rows = draw_rows(len(prepared["data"]), self.batch_size, generator)
        x = prepared["data"][rows]
        if self.flip:
            x = mirror_randomly(x, generator)
        if self.deform:
            x = apply_affine(x, torch.randn(len(x), 4, generator=generator).to(x))
        x = x + self.noise * torch.randn(x.shape, generator=generator).to(x)
        return {"x": x, "label": prepared["labels"][rows]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        """Take one step."""
        return {"loss": descend("net", batch["x"], batch["label"])}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        """Return the classifier, calibrated if samples were held out."""
        classifier = Classifier(parts["net"].average, classifier_of(problem).class_names)
        if self.aside > 0:
            data, labels = labelled_data_of(problem)
            rows, _ = self._shuffled(len(data))
            divide_logits(classifier, float(calibrate(classifier, data[rows], labels[rows]).temperature))
        return classifier


def labelled_data_of(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the problem's samples and labels; ``check`` has made sure that there are some."""
    assert problem.data is not None
    assert problem.labels is not None
    return problem.data, problem.labels


@torch.no_grad()
def divide_logits(classifier: Classifier, temperature: float) -> None:
    """Divide the logits of a classifier by a temperature, in the weights of its last layer."""
    last = classifier.net.last
    assert isinstance(last, nn.Linear)
    for parameter in last.parameters():
        parameter.div_(temperature)


def classifier_of(problem: Problem) -> Classifier:
    """Return the problem's model, a classifier."""
    assert isinstance(problem.model, Classifier)
    return problem.model
