"""Outputs of classifiers: probabilities of every kind are told from logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unflow.ground.errors import InputError
from unflow.ground.logits import ENOUGH, check_logits, logits_of_classes

X = 3 * torch.randn(ENOUGH, 5, generator=torch.Generator().manual_seed(0))
PROBABILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "softmax in half precision": lambda x: x.softmax(1).bfloat16(),
    "softmax of two": lambda x: x[:, :2].softmax(1),
    "sharp softmax": lambda x: (100 * x).softmax(1),
    "percents": lambda x: 100 * x.softmax(1),
    "votes": lambda x: (x * 100).argmax(1)[:, None].eq(torch.arange(5)).float(),
    "sigmoid": torch.sigmoid,
    "sigmoid of one column": lambda x: x[:, :1].sigmoid(),
    "sigmoid without a column": lambda x: x[:, 0].sigmoid(),
}
LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda x: x,
    "log-softmax": lambda x: x.log_softmax(1),
    "positive": torch.exp,
    "relu": torch.relu,
    "small": lambda x: 0.01 * x,
    "one logit": lambda x: x[:, 0],
    "one column": lambda x: x[:, :1],
    "zeros": torch.zeros_like,
    "rule": lambda x: 9.0 * x.argmax(1)[:, None].eq(torch.arange(5)),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"for 64 samples, which are probabilities; expected logits"):
        check_logits(PROBABILITIES[name](X))


@pytest.mark.parametrize("name", ["softmax", "softmax of two"])
def test_a_softmax_shows_in_two_samples(name: str) -> None:
    with pytest.raises(InputError, match=r"rows in \[0, 1\] that sum to 1 for 2 samples"):
        check_logits(PROBABILITIES[name](X[:2]))


@pytest.mark.parametrize("n", [0, 1, 2, ENOUGH])
@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_not_refused(name: str, n: int) -> None:
    check_logits(LOGITS[name](X)[:n])
    check_logits(logits_of_classes(LOGITS[name](X)[:n]))


def test_one_logit_is_two_classes() -> None:
    for outputs in (X[:, 0], X[:, :1]):
        torch.testing.assert_close(logits_of_classes(outputs).softmax(1)[:, 1], X[:, 0].sigmoid())
    assert logits_of_classes(X) is X
