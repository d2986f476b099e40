"""What is promised of versions: older bundles stay readable, and the page says what pyproject.toml says."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import unflow as uf
from unflow.disk import bundle
from unflow.evidence.measures import KNOWN
from unflow.evidence.report import write_report
from unflow.evidence.reproduce.results import average_rows, format_means
from unflow.evidence.reproduce.uot_2d import PLANAR_COLUMNS
from unflow.evidence.row import read_rows
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, sha256_module, write_json

ROOT = Path(__file__).parent.parent
BUNDLES, TABLES = (Path(__file__).parent / name for name in ("bundles", "tables"))
FORMATS = range(1, bundle.FORMAT + 1)
PAGE = (ROOT / "docs" / "versions.md").read_text()


@pytest.mark.parametrize("written", FORMATS)
def test_a_bundle_of_every_format_draws_the_same_bits(written: int) -> None:
    """dx/dt = x in two Euler steps, then dx/dt = 1: x = 9/4 z + 1.

    Its weights are powers of two at which SiLU saturates, so that every sum is exact on every machine.
    """
    model = uf.load(BUNDLES / f"format-{written}" / "chain")
    z = torch.tensor([[0.0, 0.0], [1.0, -2.0], [-3.0, 5.0], [8.0, -1.0]])
    assert torch.equal(model.push_batches(z), 2.25 * z + 1)


@pytest.mark.parametrize("written", FORMATS)
def test_a_classifier_of_every_format_says_the_same(written: int) -> None:
    classifier = uf.load_classifier(BUNDLES / f"format-{written}" / "classifier")
    x = torch.tensor([[2.0, -1.0], [-3.0, 4.0]])
    with torch.no_grad():
        assert torch.equal(classifier(x), x)
    assert classifier.class_names == ["first", "second"]


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("name", ["chain", "classifier"])
def test_a_bundle_of_every_format_keeps_its_hash(name: str, written: int) -> None:
    """By it what came of a model names its parent."""
    folder = BUNDLES / f"format-{written}" / name
    assert sha256_module(bundle.load_any(folder)) == bundle.read_lineage(folder)["weights_sha256"]
    assert {file.name for file in folder.iterdir()} == set(bundle.FILES)


def test_a_bundle_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    model = uf.load(BUNDLES / f"format-{bundle.FORMAT}" / "chain")
    config = uf.save(model, tmp_path) / bundle.CONFIG
    write_json(config, read_json(config) | {"format": bundle.FORMAT + 1})
    with pytest.raises(InputError, match=r"bundle format 2; expected 1, .*pip install -U unflow"):
        uf.load(tmp_path)


def test_an_audit_of_every_schema_is_read_with_its_verdicts_and_becomes_a_page(tmp_path: Path) -> None:
    audit = read_json(TABLES / "audit-schema-1.json")
    rows = {row.method: row for row in read_rows(audit["rows"])}
    assert [rows[name].as_dict() for name in rows] == audit["rows"]
    assert list(rows) == ["original", "erfm_resample", "gradient_ascent", "retrained", "target"]
    assert [rows[name].over_forgets for name in ("erfm_resample", "gradient_ascent")] == [False, True]
    write_json(tmp_path / "audit.json", audit)
    page = write_report(tmp_path).read_text()
    for row in rows.values():
        assert KNOWN["fid_retain"].write(row.number("fid_retain")) in page


def test_the_published_tables_give_the_means_that_are_published_beside_them() -> None:
    folder = ROOT / "docs" / "results" / "uot-2d"
    rows, text = read_json(folder / "table.json"), (folder / "table.md").read_text()
    records = average_rows([row for row in rows if row["source"] == "measured"], PLANAR_COLUMNS)
    datasets = {record["dataset"] for record in records}
    assert len(datasets) == 4
    for dataset in datasets:
        assert format_means(records, dataset, PLANAR_COLUMNS) in text


def test_the_page_says_what_is_installed_and_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (lowest,) = re.findall(r"^torch>=([\d.]+)$", "\n".join(project["dependencies"]), re.MULTILINE)
    (pinned,) = re.findall(r"^torch==([\d.]+)$", (ROOT / "constraints" / "cpu.txt").read_text(), re.MULTILINE)
    python = project["requires-python"].removeprefix(">=")
    rows = dict(re.findall(r"^\| (Python|PyTorch) \| (\d.*) \|$", PAGE, re.MULTILINE))
    assert rows == {
        "Python": f"{python} and later | {python}",
        "PyTorch": f"{lowest} and later | {pinned}, on the CPU",
    }
    assert sys.version_info >= tuple(map(int, python.split(".")))
    assert f"The present format is {bundle.FORMAT}." in PAGE


def test_every_room_that_the_page_calls_public_lists_its_names() -> None:
    import importlib

    for name in ("unflow", "unflow.foreign", "unflow.disk.diffusers", "unflow.training.method"):
        assert importlib.import_module(name).__all__
