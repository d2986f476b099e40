"""The sentence of a trained model: exact shares, and noise, chance and repetition are called so."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import unflow as uf
from unflow.data import LabelledData, load_data
from unflow.ground.streams import stream
from unflow.nets import new_net
from unflow.training.originals.self_measure import describe_model, measure_generator


class Table(nn.Module):
    """z -> the row of a table that z[:, 0] in [-1, 1] points at."""

    def __init__(self, rows: Tensor, noise: float = 0.0) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.noise = noise

    def forward(self, z: Tensor) -> Tensor:
        index = ((z[:, 0] + 1) / 2 * len(self.rows)).long().clamp(0, len(self.rows) - 1)
        return self.rows[index] + self.noise * z[:, 1:].reshape(-1, *self.rows.shape[1:])


def generator_of(rows: Tensor, noise: float = 0.0) -> uf.Generator:
    return uf.Generator(Table(rows, noise), (65,), prior="uniform")


def halves() -> tuple[LabelledData, LabelledData]:
    data = load_data("digits")
    order = torch.randperm(len(data), generator=stream(0))
    return data.rows(order[:900]), data.rows(order[900:])


def test_real_samples_are_better_than_noise_and_noise_is_not() -> None:
    held_out, others = halves()
    found = measure_generator(generator_of(others.x), held_out.x, 0)
    assert found is not None
    assert abs(found.distance - 1) < 0.05
    assert found.noise > 1.3
    line = describe_model(generator_of(others.x), held_out, "held-out", 0)
    assert line is not None
    assert line.startswith("the generator draws samples better than noise: distance ")
    mean, sd = held_out.x.mean(0), held_out.x.std(0)
    noise = mean + sd * torch.randn(900, 1, 8, 8, generator=stream(1))
    for each in (generator_of(noise), generator_of(torch.zeros(1, 1, 8, 8), noise=1.0)):
        line = describe_model(each, held_out, "held-out", 0)
        assert line is not None
        assert line.startswith("the generator draws samples no better than noise: distance ")


def test_few_samples_repeated_and_nan_are_called_so() -> None:
    held_out, others = halves()
    line = describe_model(generator_of(others.x[:3]), held_out, "held-out", 0)
    assert line is not None
    assert line.startswith("the generator repeats few samples (gap 0.0")
    nan = generator_of(torch.full((1, 1, 8, 8), torch.nan))
    assert describe_model(nan, held_out, "held-out", 0) == (
        "the generator diverged: its samples are NaN or infinite"
    )
    line = describe_model(nan, held_out.rows(torch.arange(30)), "training", 0)
    assert line == (
        "cannot know: got 30 training samples; expected 40 or more "
        "(no held-out ones: write --split split.json)"
    )


class Known(nn.Module):
    """Right on all samples of the first pixel >= 0.5; class 0 for others."""

    def forward(self, x: Tensor) -> Tensor:
        label = (x.flatten(1)[:, 0] >= 0.5).long() * x.flatten(1)[:, 1].long()
        return nn.functional.one_hot(label, 3).float()

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_a_classifier_prints_its_accuracy_and_what_it_confuses() -> None:
    x = torch.zeros(100, 2)
    x[:80, 0], x[:, 1] = 1.0, torch.arange(100) % 3
    data = LabelledData("known", x, x[:, 1].long(), ["a", "b", "c"])
    line = describe_model(uf.models.classifier.Classifier(Known(), ["a", "b", "c"]), data, "held-out", 0)
    assert line is not None
    assert line.startswith("correct on 87.0 % [")  # 80, and the 7 of class a among the other 20
    assert "of 100 held-out samples; confuses most " in line
    assert "2 (c) with 0 (a)" in line


def test_an_untrained_classifier_is_near_chance() -> None:
    held_out, _ = halves()
    net = new_net({"net": "mlp", "shape": [1, 8, 8], "outputs": 10, "num_times": 0}, 0)
    line = describe_model(uf.models.classifier.Classifier(net, held_out.class_names), held_out, "held-out", 0)
    assert line is not None
    assert line.startswith("the classifier is near chance: correct on ")
