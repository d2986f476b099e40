"""`unflow split`: the file says who may see what, and another split never takes its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from unflow.commands.cli import COMMANDS, main
from unflow.data import PARTS, LabelledData, load_data, read_split, split_data, write_npz
from unflow.ground.files import read_json


def test_it_writes_the_split_of_the_seed_and_says_its_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "split.json"
    assert main(["split", "--seed", "3", "--out", str(file)]) == 0
    expected, found = split_data(load_data("digits"), 3), read_split(file)
    assert all(found.parts[part].equal(expected.parts[part]) for part in PARTS)
    explain = capsys.readouterr().out
    assert all(f"{part} {len(expected.parts[part])}" in explain for part in PARTS)


def test_the_shares_are_those_asked_for(tmp_path: Path) -> None:
    assert main(["split", "--shares", "[0.8, 0.1, 0.1]", "--out", str(tmp_path / "split.json")]) == 0
    sizes = {part: record["n"] for part, record in read_json(tmp_path / "split.json")["parts"].items()}
    total = sum(sizes.values())
    assert sizes["train"] / total == pytest.approx(0.8, abs=0.01)
    assert sizes["judge"] / total == pytest.approx(0.1, abs=0.01)


def test_the_same_split_stays_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "split.json"
    assert main(["split", "--out", str(file)]) == 0
    content = file.read_bytes()
    assert main(["split", "--out", str(file)]) == 0
    assert main(["split", "--seed", "1", "--out", str(file)]) == 2
    assert "holds another split; expected a new file" in capsys.readouterr().err
    assert file.read_bytes() == content


@pytest.mark.parametrize("shares", ["[0.5, 0.5, 0]", "[0.5, 0.2, 0.2]", "[1.5, -0.25, -0.25]"])
def test_shares_that_are_no_split_are_refused(
    shares: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", "--shares", shares, "--out", str(tmp_path / "split.json")]) == 2
    assert "expected three numbers > 0 that sum to 1" in capsys.readouterr().err
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "reproduce"])
def test_every_command_that_reads_data_has_a_cache(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert ("--data DATA" in text) == ("--cache CACHE" in text)
    assert ("--data DATA" in text) == (
        name in ("split", "encode", "train", "judge", "plan", "unlearn", "audit")
    )


def test_a_cache_is_filled_once_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("digits")
    write_npz(LabelledData("rows", data.x[:90], data.labels[:90], data.class_names), "rows.npz")
    words = ["split", "--data", "npz:rows.npz"]
    assert main([*words, "--out", "plain.json"]) == 0
    for out in ("first.json", "second.json"):
        assert main([*words, "--cache", "kept", "--out", out]) == 0
        assert Path(out).read_bytes() == Path("plain.json").read_bytes()
        assert len(list(Path("kept").iterdir())) == 1
    (entry,) = Path("kept").iterdir()
    entry.write_bytes(b"")  # so it is what the next command reads
    assert main([*words, "--cache", "kept", "--out", "third.json"]) == 2
    net = """{"net": "mlp", "width": 4, "depth": 1}"""
    train = ["train", "digits-flow", "--net", net, "--settings.steps", "1", "--data", "npz:rows.npz"]
    batch = ["--settings.batch_size", "8", "--split", "plain.json", "--out", "flow"]
    assert main([*train, *batch, "--cache", "kept"]) == 2
    entry.unlink()
    assert main([*train, *batch, "--cache", "kept"]) == 0
    assert main([*train, *batch]) == 0  # the same run, found again


def test_a_split_in_a_new_folder_makes_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "first" / "split.json"
    assert main(["split", "--data", "digits", "--out", str(out)]) == 0
    assert out.is_file()
    refused = tmp_path / "never" / "split.json"
    assert main(["split", "--data", "digits", "--shares", "[1, 1, 1]", "--out", str(refused)]) == 2
    assert not refused.parent.exists()
