"""Loose keywords and a record are two ways to say the same."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from unflow.ground.errors import InputError
from unflow.ground.records import gathers


@dataclass(frozen=True, kw_only=True)
class Place:
    city: str = "Bonn"
    floor: int = 0


@dataclass(frozen=True, kw_only=True)
class Time:
    hour: int = 12


@gathers(place=Place, time=Time)
def meet(
    who: str, place: Place = Place(floor=3), *, time: Time | None = None, hour_of: str = ""
) -> tuple[object, ...]:
    """Meet."""
    return who, place, time, hour_of


def test_loose_keywords_become_the_record() -> None:
    assert meet("Ada", city="Linz", hour=9) == ("Ada", Place(city="Linz", floor=3), Time(hour=9), "")
    assert meet("Ada", city="Linz", time=Time()) == ("Ada", Place(city="Linz", floor=3), Time(), "")


def test_without_loose_keywords_nothing_changes() -> None:
    assert meet("Ada") == ("Ada", Place(floor=3), None, "")
    assert meet("Ada", Place(), time=Time(hour=1), hour_of="x") == ("Ada", Place(), Time(hour=1), "x")


def test_none_for_a_record_counts_as_not_given() -> None:
    assert meet("Ada", time=None, hour=9) == meet("Ada", hour=9)


def test_a_record_and_its_fields_together_are_refused() -> None:
    for positional, keywords in (
        ([Place()], {"city": "Linz"}),
        ([], {"place": Place(), "city": "Linz"}),
        ([], {"hour": 9, "time": Time()}),
    ):
        with pytest.raises(InputError, match=r"got (place|time)=\.\.\. and also (city|hour), .*; expected"):
            meet("Ada", *positional, **keywords)


def test_unknown_keywords_stay_type_errors_of_the_function() -> None:
    with pytest.raises(TypeError, match=r"meet\(\) got an unexpected keyword argument 'colour'"):
        meet("Ada", colour="red", city="Linz")


def test_a_keyword_of_the_function_itself_is_not_gathered() -> None:
    @gathers(place=Place)
    def visit(place: Place = Place(), *, floor: int = 7) -> tuple[Place, int]:
        return place, floor

    assert visit(floor=2, city="Linz") == (Place(city="Linz"), 2)


def test_the_function_keeps_its_name_words_and_signature() -> None:
    assert (meet.__name__, meet.__doc__) == ("meet", "Meet.")
    assert list(inspect.signature(meet).parameters) == ["who", "place", "time", "hour_of"]
