"""Values as people write them: decimal numbers, quotes, home folders, encodings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from unflow.ground.errors import InputError
from unflow.ground.files import read_yaml
from unflow.ground.values import PlainLoader, exists, expand_homes, quote, read_value, split_outside, unquote

VALUES: list[tuple[str, Any]] = [
    ("1e-5", 1e-5),
    ("-3E4", -3e4),
    ("2.", 2.0),
    (".5", 0.5),
    ("inf", math.inf),
    ("-inf", -math.inf),
    (".inf", math.inf),
    ("010", 10),
    ("-08", -8),
    ("1_000", 1000),
    ("0x1F", 31),
    ("true", True),
    ("None", None),
    ("null", None),
    ("16:9", "16:9"),
    ("2024-01-01", "2024-01-01"),
    ("#fff", "#fff"),
    ("*x", "*x"),
    ("a: b", "a: b"),
    ("info", "info"),
    ("1.2.3", "1.2.3"),
    ("'010'", "010"),
    ('"1e-5"', "1e-5"),
    ("[1e-5, 010, inf, '010']", [1e-5, 10, math.inf, "010"]),
    ("(1, 8, 8)", [1, 8, 8]),
    ("{rate: 1e-3, sides: [08, 09]}", {"rate": 1e-3, "sides": [8, 9]}),
]


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text for text, _ in VALUES])
def test_a_value_is_read_as_python_would_and_not_as_old_yaml(text: str, value: Any) -> None:
    found = read_value(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(read_value("nan"))


@pytest.mark.parametrize("text", ["a,b", "a@32", "plain/path", "it's", '"quoted"', "'a',\"b", "", " a"])
def test_a_quoted_text_is_read_back(text: str) -> None:
    if not ("'" in text and '"' in text):
        assert unquote(quote(text)) == text
    assert split_outside(quote(text))[0] == quote(text) or "'" in text


def test_separators_count_outside_of_brackets_and_quotes_only() -> None:
    text = """a="x,y",b=[1,'2,]'],c=it's,d=({1,2},3),e@'w,1'"""
    assert split_outside(text) == ['a="x,y"', "b=[1,'2,]']", "c=it's", "d=({1,2},3)", "e@'w,1'"]
    assert split_outside("a='open,b") == ["a='open", "b"]


def test_the_home_folder_stands_for_a_tilde_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    values = {"a": Path("~/x"), "b": ["~/y", "a~/z", 3], "c": {"d": "~"}, "e": "~x"}
    home = "/home/someone"
    expected = {"a": Path(home, "x"), "b": [f"{home}/y", "a~/z", 3], "c": {"d": home}, "e": "~x"}
    assert expand_homes(values) == expected
    assert unquote("'~/a,b'") == f"{home}/a,b"


def test_a_text_longer_than_a_file_name_exists_nowhere() -> None:
    assert not exists("a" * 5000)
    assert not exists("a\0b")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_options_are_read_from_utf_8_with_and_without_a_byte_order_mark(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "options.yaml"
    file.write_bytes(start + "rate: 1e-5\nseed: 010\nname: Zoë\n".encode())
    assert read_yaml(file, PlainLoader) == {"rate": 1e-5, "seed": 10, "name": "Zoë"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("seed: 3".encode("utf-16"), "in UTF-8"),
        ("name: Zoë".encode("latin-1"), "in UTF-8"),
        (b"a: [1", "not valid YAML"),
        (b"a:\n\t- 1", "not valid YAML"),
        (b"a: \x00", "not valid YAML"),
    ],
)
def test_another_encoding_is_refused_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_yaml(file, PlainLoader)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is missing"):
        read_yaml(tmp_path / "none.yaml")
