"""The comparison of runs: all rows, cautions, paired samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_report import Page, make_run, write_audit

from unflow.commands.cli import main
from unflow.evidence.report import write_comparison
from unflow.ground.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two equal runs, and one with another judge and request."""
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(make_run(folder / "first"), folder / "second")
    audit = json.loads((make_run(folder / "other") / "audit.json").read_text())
    audit["judge"]["name"] = "resnet"
    audit["request"]["words"] = "class 2 (margin 9)"
    audit["verdicts"] = {"flow_map-uot": ["Forgotten <b>.", "Cheap.", "Nothing."]}
    write_audit(folder / "other", audit)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    path = write_comparison([folder / "first", folder / "second", folder / "other"], folder / "all.html")
    assert path == folder / "all.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_has_every_row_of_every_run(page: Page) -> None:
    for run in ("first", "second", "other"):
        for method in ("original", "retrained", "UOT", "UOT (tilted pool)", "floor"):
            assert page.row(f"{run} · {method}")
    assert "class 2 (margin 3) and Forget class 2 (margin 9)" in page.text
    assert "Forgotten <b>." in page.text
    assert page.open == []


def test_the_page_asks_no_server_and_repeats_no_id(page: Page) -> None:
    assert not [value for name in ("src", "href") for value in page.values(name) if "//" in value]
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_what_differs_is_said(page: Page) -> None:
    assert "The runs have different judges" in page.text
    assert "The runs have different requests" in page.text
    assert "different seeds" not in page.text


def test_runs_that_are_alike_are_not_warned_of(folder: Path, tmp_path: Path) -> None:
    path = write_comparison([folder / "first", folder / "second"], tmp_path)
    assert path == tmp_path / "report.html"
    assert "The runs have different" not in path.read_text(encoding="utf-8")


def test_the_same_latents_stand_below_each_other_the_original_once(page: Page) -> None:
    named = [row for row in page.rows if row and " · " in row[0]]
    strips = [row for row in named if len(row) == 17 and row[1] != "–" and "±" not in row[1]]
    assert [row[0] for row in strips] == ["first · original", "first · UOT", "second · UOT", "other · UOT"]


def test_folders_of_one_name_are_told_apart_by_their_parents(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "first", tmp_path / "again" / "first")
    path = write_comparison([folder / "first", tmp_path / "again" / "first"], tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "again/first · UOT" in text
    assert str(tmp_path) not in text


def test_one_run_or_the_same_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    for runs in ([folder / "first"], [folder / "first", folder / "second" / ".." / "first"]):
        with pytest.raises(InputError, match="expected two or more different runs"):
            write_comparison(runs, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_takes_several_folders(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(folder / name) for name in ("first", "second")]
    assert main(["report", *runs, "--out", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").is_file()
    assert main(["report", *runs]) == 2
    assert "write --out compare.html" in capsys.readouterr().err
