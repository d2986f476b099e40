"""The model card: what Hugging Face reads of it, and what a person does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import unflow as uf
from unflow.disk.card import model_card
from unflow.evidence.report.card import describe_audit, write_card
from unflow.nets import new_net

LINEAGE = {"method": "uot", "request": {"words": "class 3 (margin 4)"}, "seed": 7}


def flow_map() -> uf.FlowMap:
    return uf.FlowMap(new_net({"net": "mlp", "shape": [2], "width": 4, "depth": 1, "num_times": 2}, 0), [2])


def row(method: str, rate: float) -> dict[str, Any]:
    return {
        "method": method,
        "family": "flow_map",
        "forget_rate": rate,
        "pul": 90.0,
        "fid_target": 1.5,
        "fid_retain": 8.0,
        "stayed_share": None,
        "original_recoverable": False,
        "cost": {"unlearn_seconds": 20.0, "train_seconds": None},
    }


AUDIT = {
    "rows": [row("original", 0.1), row("uot", 0.01)],
    "floor": {"flow_map": {"fid_target": 1.0}},
    "class_names": list("0123"),
    "request": {"forget": [3], "words": "class 3"},
    "notes": ["Mind the gap."],
    "verdicts": {"flow_map-uot": ["Forgotten: hardly any.", "It cost little.", "Nothing brings it back."]},
}


def front(card: str) -> dict[str, Any]:
    head, text = card.split("---\n")[1:3]
    assert text.startswith("\n# FlowMap\n")
    return dict(yaml.safe_load(head))


def test_without_an_audit_it_says_what_the_model_is_and_how_it_came_about() -> None:
    card = model_card(flow_map(), "load", LINEAGE)
    assert front(card) == {
        "library_name": "unflow",
        "tags": ["machine-unlearning", "generative-model", "flow_map"],
    }
    assert "Made by `uot`, asked to forget class 3 (margin 4)." in card
    assert "unflow.load(folder)" in card
    assert '"seed": 7' in card
    assert "Audit" not in card


def test_an_audit_adds_its_verdict_its_numbers_and_its_notes() -> None:
    card = model_card(flow_map(), "load", LINEAGE, describe_audit(AUDIT))
    (index,) = front(card)["model-index"]
    assert index["name"] == "FlowMap without class 3 (margin 4)"
    (result,) = index["results"]
    assert result.keys() == {"task", "dataset", "metrics"}  # what huggingface_hub asks for
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["forget_rate"] == pytest.approx(1.0)  # in percent, as its name says
    assert "stayed_share" not in values
    assert "Forgotten: hardly any. It cost little. Nothing brings it back." in card
    assert "| `uot` | 1.00 | 90.0 | 1.50 |" in card
    assert "* Mind the gap." in card


def test_a_bundle_keeps_all_but_its_card(tmp_path: Path) -> None:
    uf.save(flow_map(), tmp_path, LINEAGE)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_card(tmp_path, AUDIT)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"README.md"}
    assert before.keys() == after.keys()
    assert uf.load(tmp_path).family == "flow_map"
