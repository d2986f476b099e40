"""Where mass went: counts that must sum, shares by hand, and what stays put."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unflow.evidence.metrics import class_counts, retained_share_tv, stayed_share, transition_matrix
from unflow.ground.errors import InputError

BEFORE, AFTER = [0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 1, 2]


def test_class_counts_by_hand():
    assert class_counts(torch.tensor([0, 2, 2, 4]), 5) == [1, 0, 2, 0, 1]
    assert class_counts(np.array([1, 1], dtype=np.int32), 2) == [0, 2]


def test_retained_share_tv_by_hand():
    # Retained shares (1/4, 3/4) against (1/2, 1/2); the forgotten class in the middle is left out.
    assert retained_share_tv([10, 999, 30], [50, 0, 50], [1]) == pytest.approx(1 / 4)
    assert retained_share_tv([10, 0, 0], [0, 0, 7], [1]) == 1.0


def test_retained_share_tv_ignores_scale_and_forgotten_classes():
    assert retained_share_tv([10, 5, 20, 30], [100, 0, 200, 300], [1]) == pytest.approx(0)


def test_moves_by_hand():
    matrix = transition_matrix(BEFORE, AFTER, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 1]]
    assert matrix.dtype == torch.int64
    # Of the three samples before in the retained classes 0 and 1 two stayed.
    assert stayed_share(BEFORE, AFTER, [2]) == pytest.approx(2 / 3)
    assert stayed_share(BEFORE, AFTER, [0, 2]) == 1.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50))
def test_transition_matrix_sums_to_the_class_counts(moves: list[tuple[int, int]]):
    before, after = (list(labels) for labels in zip(*moves, strict=True))
    matrix = transition_matrix(before, after, 5)
    assert matrix.shape == (5, 5)
    assert matrix.sum(1).tolist() == class_counts(before, 5)
    assert matrix.sum(0).tolist() == class_counts(after, 5)
    assert torch.equal(transition_matrix(after, before, 5), matrix.T)
    if any(label != 0 for label in before):
        stayed = matrix.diag()[1:].sum() / matrix[1:].sum()
        assert stayed_share(before, after, [0]) == pytest.approx(float(stayed))


def test_a_model_that_moves_nothing_has_a_diagonal_matrix():
    matrix = transition_matrix(torch.tensor(BEFORE), np.array(BEFORE), 3)
    assert torch.equal(matrix, torch.tensor(class_counts(BEFORE, 3)).diag())
    assert stayed_share(BEFORE, BEFORE, [2]) == 1.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "got no labels"),
        ([0, 3], "from 0 to 3; expected classes from 0 to 2"),
        ([-1, 0], "from -1 to 0"),
        ([0.0, 1.0], "float64"),
        ([True, False], "bool"),
        ([[0, 1], [1, 0]], r"probabilities.argmax\(1\)"),
    ],
)
def test_what_is_no_label_is_refused(labels: list, message: str):
    with pytest.raises(InputError, match=message):
        class_counts(labels, 3)


def test_impossible_moves_are_refused():
    with pytest.raises(InputError, match="2 classes before and 1 after"):
        transition_matrix([0, 1], [0], 3)
    with pytest.raises(InputError, match="got no before"):
        stayed_share([], [], [0])
    with pytest.raises(InputError, match="got after from 0 to 7"):
        transition_matrix([0, 1], [0, 7], 3)
    with pytest.raises(InputError, match=r"forget=\[\]"):
        stayed_share(BEFORE, AFTER, [])
    with pytest.raises(InputError, match="all in the forgotten classes"):
        stayed_share([1, 1], [0, 1], [1])


@pytest.mark.parametrize(
    ("counts", "forget", "message"),
    [
        ([1, 2], [1], "2 and 3 classes"),
        ([0, 5, 0], [1], r"counts=\[0, 5, 0\] with no sample"),
        ([1, 5, -1], [1], "numbers of samples >= 0"),
        ([1, 2, 3], [], "at least one class"),
        ([1, 2, 3], [3], "from 0 to 2"),
        ([1, 2, 3], [0, 1, 2], "all 3 classes"),
    ],
)
def test_impossible_shares_are_refused(counts: list[int], forget: list[int], message: str):
    with pytest.raises(InputError, match=message):
        retained_share_tv(counts, [1, 1, 1], forget)
