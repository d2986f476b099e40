"""A judge that looks once gives the same numbers as one that looks again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unflow.ground.streams import stream
from unflow.models.classifier import CachedJudge, Classifier
from unflow.nets import ConvNet, new_net


class Counted(Classifier):
    """A classifier that counts the images it has looked at."""

    def __init__(self) -> None:
        net = new_net({"net": "convnet", "shape": (1, 8, 8), "outputs": 3, "width": 8, "num_features": 6}, 0)
        super().__init__(net.eval(), ["a", "b", "c"])
        assert isinstance(net, ConvNet)
        self.seen = 0
        net.body.register_forward_hook(self.count)

    def count(self, _: object, inputs: tuple[Tensor], __: Tensor) -> None:
        self.seen += len(inputs[0])


def images(seed: int) -> Tensor:
    return torch.randn(9, 1, 8, 8, generator=stream(seed))


def test_a_judge_that_looks_once_gives_the_classifiers_numbers() -> None:
    classifier, x = Counted(), images(0)
    judge = CachedJudge(classifier)
    torch.testing.assert_close(judge.probabilities(x), classifier.probabilities(x))
    assert torch.equal(judge.features(x), classifier.features(x))
    assert judge.num_classes == classifier.num_classes == 3
    assert not judge.probabilities(x).requires_grad


@pytest.mark.parametrize("first", ["features", "probabilities"])
def test_it_looks_at_every_image_once_whatever_it_is_asked_first(first: str) -> None:
    classifier, x = Counted(), images(0)
    judge = CachedJudge(classifier)
    for ask in (getattr(judge, first), judge.features, judge.probabilities, judge.features):
        ask(x)
    assert classifier.seen == len(x)


def test_two_sets_of_equal_images_are_two_sets() -> None:
    """Sets are told apart by identity, so that a set that was never looked at cannot pass for another."""
    classifier, x = Counted(), images(0)
    judge = CachedJudge(classifier)
    judge.features(x)
    judge.features(x.clone())
    assert classifier.seen == 2 * len(x)
    assert not torch.equal(judge.features(images(1)), judge.features(x))


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_only_the_latest_sets_are_remembered(memory: int) -> None:
    classifier = Counted()
    judge, sets = CachedJudge(classifier, memory), [images(seed) for seed in range(memory + 1)]
    for x in sets:
        judge.features(x)
    seen = classifier.seen
    for x in sets[1:]:
        judge.features(x)
    assert classifier.seen == seen
    judge.features(sets[0])
    assert classifier.seen == seen + len(sets[0])
