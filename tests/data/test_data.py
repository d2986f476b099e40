"""Laws of every dataset, and of the explicit split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unflow.data import DATASETS, IN_FOLDERS, PARTS, Split, load_data, read_split, split_data, write_split
from unflow.ground.errors import InputError
from unflow.ground.files import read_json


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_has_one_known_label_per_sample_and_images_in_range(name: str) -> None:
    data = load_data(name)
    assert data.name == name
    assert len(data) == len(data.x) == len(data.labels) > 0
    assert data.x.dtype == torch.float32
    assert torch.isfinite(data.x).all()
    assert data.labels.unique().tolist() == list(range(len(data.class_names)))
    if data.x.ndim == 4:
        assert data.x.abs().max() <= 1
        assert data.x.std() > 0.1


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_the_same_at_every_call(name: str) -> None:
    assert load_data(name).fingerprint == load_data(name).fingerprint


@pytest.mark.parametrize("name", DATASETS)
def test_forgetting_a_class_splits_the_rows_in_two(name: str) -> None:
    data = load_data(name)
    forget, retain = data.of_classes([1]), data.without_classes([1])
    assert len(forget) + len(retain) == len(data)
    assert set(forget.labels.tolist()) == {1}
    assert 1 not in retain.labels.tolist()


@pytest.mark.parametrize("name", DATASETS)
def test_a_split_uses_every_row_once_and_keeps_the_classes_shares(name: str) -> None:
    data = load_data(name)
    split = split_data(data, seed=0)
    rows = torch.cat([split.parts[part] for part in PARTS])
    assert torch.equal(rows.sort().values, torch.arange(len(data)))
    for label in range(len(data.class_names)):
        whole = int((data.labels == label).sum())
        for part, share in zip(PARTS, (0.5, 0.25, 0.25), strict=True):
            found = int((data.labels[split.parts[part]] == label).sum())
            assert abs(found - share * whole) <= 1


def test_a_split_is_a_function_of_its_seed() -> None:
    data = load_data("digits")
    first, same, other = (split_data(data, seed).parts["judge"] for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_written_split_is_read_back_and_an_overlap_is_refused(tmp_path: Path) -> None:
    data = load_data("digits")
    split = split_data(data, seed=0)
    write_split(split, data, tmp_path / "split.json")
    again = read_split(tmp_path / "split.json")
    assert again.fingerprint == data.fingerprint
    assert all(torch.equal(again.parts[part], split.parts[part]) for part in PARTS)
    record = read_json(tmp_path / "split.json")
    record["parts"]["judge"]["rows"][0] = record["parts"]["train"]["rows"][0]
    (tmp_path / "split.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="overlap"):
        read_split(tmp_path / "split.json")


def test_an_unknown_data_set_is_refused_with_the_known_names() -> None:
    for name in ("digit", "digit:here"):
        with pytest.raises(InputError, match=rf"got the dataset '{name}'; expected one of digits, mnist:DIR"):
            load_data(name)


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_a_data_set_in_a_folder_is_named_with_it(name: str, tmp_path: Path) -> None:
    for text in (name, f"{name}:"):
        with pytest.raises(
            InputError, match=f"got the dataset '{text}' without its folder; expected {name}:DIR"
        ):
            load_data(text)
    with pytest.raises(InputError, match=str(tmp_path)):
        load_data(f"{name}:{tmp_path}")


def test_an_embedded_data_set_has_no_folder() -> None:
    with pytest.raises(InputError, match="expected digits alone: it is embedded"):
        load_data("digits:here")


def test_a_written_split_tells_the_size_and_hash_of_each_part(tmp_path: Path) -> None:
    data = load_data("digits")
    split = split_data(data, seed=1)
    write_split(split, data, tmp_path / "split.json")
    record = read_json(tmp_path / "split.json")
    for name in PARTS:
        part = split.of(data, name)
        assert record["parts"][name]["n"] == len(part)
        assert record["parts"][name]["sha256"] == part.fingerprint
    assert len({part["sha256"] for part in record["parts"].values()}) == len(PARTS)


def test_a_split_of_other_data_and_an_unknown_part_are_refused() -> None:
    data = load_data("digits")
    split = split_data(data, seed=0)
    with pytest.raises(InputError, match="made for other data"):
        split.of(data.without_classes([3]), "train")
    with pytest.raises(InputError, match="got the part 'test'; expected one of train, judge, held_out"):
        split.of(data, "test")


@pytest.mark.parametrize("text", ["{}", "[1, 2]", '{"parts": {"train": [1]}}', "{"])
def test_what_is_no_split_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_split(tmp_path / "split.json")
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(InputError, match=r"is no split|not valid JSON"):
        read_split(tmp_path / "split.json")


SPLIT_FAULTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a negative row": ("rows", lambda rows: [-1, *rows[1:]], "got row -1"),
    "the last row by its negative number": ("rows", lambda rows: [*rows[:-1], rows[-1] - 1797], "got row -"),
    "a row that the dataset lacks": ("rows", lambda rows: [*rows[:-1], 1797], "digits has rows 0 to 1796"),
    "a row beyond all integers": ("rows", lambda rows: [*rows[:-1], 10**30], "not whole numbers"),
    "a row twice": ("rows", lambda rows: [rows[1], *rows[1:]], "a row twice"),
    "a row too few": ("rows", lambda rows: rows[:-1], "states 450 rows and lists 449"),
    "a fraction": ("rows", lambda rows: [0.5, *rows[1:]], "not whole numbers"),
    "a truth value": ("rows", lambda rows: [True, *rows[1:]], "not whole numbers"),
    "a text": ("rows", lambda rows: "all", "not whole numbers"),
    "no rows": ("rows", lambda rows: None, "not whole numbers"),
    "rows in another order": ("rows", lambda rows: rows[::-1], "not those that were split"),
    "another hash": ("sha256", lambda digest: "0" * 64, "not those that were split"),
    "another count": ("n", lambda n: n + 1, "states 451 rows and lists 450"),
    "a count that is a text": ("n", str, "is no split"),
}


@pytest.mark.parametrize("fault", SPLIT_FAULTS)
def test_a_split_with_a_fault_is_refused_before_its_rows_are_used(fault: str, tmp_path: Path) -> None:
    key, change, words = SPLIT_FAULTS[fault]
    data, file = load_data("digits"), tmp_path / "split.json"
    write_split(split_data(data, seed=0), data, file)
    read_split(file).of(data, "judge")
    record = read_json(file)
    record["parts"]["judge"][key] = change(record["parts"]["judge"][key])
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=words):
        read_split(file).of(data, "judge")


@pytest.mark.parametrize("key", ["n", "sha256", "rows"])
def test_a_split_without_one_of_its_entries_is_refused(key: str, tmp_path: Path) -> None:
    data, file = load_data("digits"), tmp_path / "split.json"
    write_split(split_data(data, seed=0), data, file)
    record = read_json(file)
    del record["parts"]["train"][key]
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"is no split .*{key}"):
        read_split(file)


def test_a_row_in_two_parts_under_two_numbers_is_refused() -> None:
    data = load_data("digits")
    parts = {"train": torch.tensor([0, len(data) - 1]), "judge": torch.tensor([-1, 2])}
    with pytest.raises(InputError, match="got row -1"):
        Split(data.name, data.fingerprint, parts)
    empty = Split(data.name, data.fingerprint, {"train": torch.tensor([], dtype=torch.long)})
    with pytest.raises(InputError, match="is empty"):
        empty.of(data, "train")
