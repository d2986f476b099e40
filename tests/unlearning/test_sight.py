"""What a classifier gives to samples: the line, its names, and what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unflow.data import LabelledData
from unflow.data.parts import find_in_parts, name_class
from unflow.ground.errors import InputError
from unflow.unlearning.sight import Voter, compare_names, inspect, is_anonymous, plain_name

NAMES = ["cat", "dog", "T-shirt/top", "hen"]


def by_first(x: Tensor) -> Tensor:
    """Logits of the class whose number is the first entry."""
    return 9.0 * torch.nn.functional.one_hot(x[:, 0].long(), 4)


def samples(*classes: int) -> Tensor:
    return torch.tensor(classes).float()[:, None].expand(-1, 2)


def labelled(classes: Tensor) -> LabelledData:
    return LabelledData("some", samples(*classes.tolist()), classes, NAMES)


EVEN = torch.arange(400) % 4


def test_the_line_has_every_class_with_its_name_its_share_and_the_accuracy() -> None:
    found = inspect(Voter("guide", by_first, NAMES, (3,)), samples(*EVEN.tolist()), labelled(EVEN))
    assert found.line == (
        "the guide sees: 0 (cat) 25.0 %, 1 (dog) 25.0 %, 2 (T-shirt/top) 25.0 %, 3 (hen) 25.0 % in 400 "
        "samples of the model; to forget: 3 (hen); right on 100.0 % of 400 labelled samples"
    )
    assert found.warnings == []


def test_of_many_classes_the_common_ones_and_those_to_forget_are_listed() -> None:
    def many(x: Tensor) -> Tensor:
        return 20.0 * torch.nn.functional.one_hot(x[:, 0].long(), 1000)

    line = inspect(Voter("guide", many, None, (999,)), samples(*range(100))).line
    assert "999 0.0 %" in line
    assert "989 other classes 90.0 %" in line
    assert line.count("%") == 12


@pytest.mark.parametrize("cycle", [(1, 0, 2, 3), (1, 2, 0, 3), (3, 2, 1, 0)])
def test_any_exchange_of_classes_is_refused(cycle: tuple[int, ...]) -> None:
    def exchanged(x: Tensor) -> Tensor:
        return by_first(x)[:, list(cycle)]

    with pytest.raises(InputError, match="numbers the classes in another order than the data: it gives most"):
        inspect(Voter("judge", exchanged, NAMES), samples(*EVEN.tolist()), labelled(EVEN))


def test_a_classifier_of_one_class_is_near_chance_and_not_in_another_order() -> None:
    def constant(x: Tensor) -> Tensor:
        return 9.0 * torch.nn.functional.one_hot(torch.ones(len(x)).long(), 4)

    warnings = inspect(
        Voter("judge", constant, NAMES, (0,)), samples(*EVEN.tolist()), labelled(EVEN)
    ).warnings
    assert any("the judge is near chance: it is right on 25.0 % of 400" in found for found in warnings)
    assert any(
        "the judge recognises 0.0 % of 100 labelled samples of class 0 (cat)" in found for found in warnings
    )


def test_the_majority_of_a_class_is_no_skill() -> None:
    rare = torch.where(torch.arange(400) < 360, 1, EVEN)

    def constant(x: Tensor) -> Tensor:
        return 9.0 * torch.nn.functional.one_hot(torch.ones(len(x)).long(), 4)

    warnings = inspect(Voter("judge", constant, NAMES), samples(*rare.tolist()), labelled(rare)).warnings
    assert any("and the most frequent class alone is 9" in found for found in warnings)


# Names


def test_equal_names_and_numbers_are_not_compared() -> None:
    other = ["Cat", "DOG", "t_shirt top", "hen"]
    assert compare_names([("guide", NAMES), ("judge", other), ("data", None)]) == []
    assert compare_names([("guide", NAMES), ("data", ["0", "1", "2", "3"])]) == []


@pytest.mark.parametrize(
    "theirs", [["dog", "cat", "T-shirt/top", "hen"], ["x", "y", "z", "w", "hen"], ["hen", "rest"]]
)
def test_one_name_at_two_numbers_is_refused(theirs: list[str]) -> None:
    for named in ([("guide", NAMES), ("judge", theirs)], [("guide", theirs), ("judge", NAMES)]):
        with pytest.raises(
            InputError, match=r"as class \d of the guide and class \d of the judge; expected one order"
        ):
            compare_names(named)


def test_another_number_of_classes_is_a_finding() -> None:
    (found,) = compare_names([("guide", ["0", "1"]), ("data", NAMES)])
    assert "the guide has 2 classes and the data has 4" in found


def test_names_are_compared_without_case_and_punctuation() -> None:
    assert plain_name("T-shirt/top") == plain_name("t_shirt  TOP") == "t shirt top"
    assert [is_anonymous(names) for names in (["0", "1"], None, ["1", "0"])] == [True, True, False]
    assert (name_class(3, None), name_class(1, NAMES), name_class(1, ["0", "1"])) == ("3", "1 (dog)", "1")


# Parts of a split


def test_a_copy_in_another_part_is_found_and_one_in_the_same_part_is_not() -> None:
    x = torch.randn(240, 3, generator=torch.Generator().manual_seed(0))
    data = LabelledData("some", x, torch.arange(240) % 4, NAMES)
    half, rest = data.rows(torch.arange(120)), data.rows(torch.arange(120, 240))
    assert find_in_parts({"train": half, "judge": rest}) == []
    twice = torch.cat([torch.arange(120), torch.arange(4)])
    assert find_in_parts({"train": data.rows(twice), "judge": rest}) == []
    copied = data.rows(torch.cat([torch.arange(120, 240), torch.arange(4, 8)]))
    (found,) = find_in_parts({"train": half, "judge": copied})
    assert found.startswith(
        "4 samples occur in more than one of the parts train, judge (row 4 of train and row 120"
    )


def test_a_class_of_fewer_than_20_samples_is_named_with_its_part() -> None:
    x = torch.randn(99, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(99) % 4
    labels[::4] = 1
    (found,) = find_in_parts({"held_out": LabelledData("some", x, labels, NAMES)})
    assert found.startswith("the part held_out has fewer than 20 samples of class 0 (cat): 0; expected more")
