"""The main job end to end on the real digits, with few steps: files, schema, evidence, and repetition."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unflow.commands.arguments import parse_classes
from unflow.data import PARTS, load_data
from unflow.disk import bundle
from unflow.evidence.report import write_report
from unflow.evidence.reproduce.demo import ROWS, Demo, DemoConfig
from unflow.ground.errors import InputError
from unflow.ground.files import read_json, read_json_lines
from unflow.methods import ERFM, UOT, EnergyGuidance, FineTune, GradientAscent, ResidualMatching, Retrain
from unflow.training.loop import fit
from unflow.training.originals import base_models
from unflow.training.originals.classification import Classification
from unflow.training.originals.distill import Distill
from unflow.training.originals.flow_matching import FlowMatching
from unflow.unlearning import unlearn as unlearning

N = 300
BANK: dict[str, Any] = {"bank_size": 1024, "width": 32, "depth": 1, "average": 0.8}
OVERRIDES: dict[str, Any] = {
    "guide": Classification(steps=40),
    "judge": Classification(steps=40),
    "flow_matching": FlowMatching(steps=60, average=0.9),
    "distill": Distill(steps=60, bank_size=512, average=0.9),
    "energy_guidance": EnergyGuidance(steps=20, bank_size=512, average=0.8),
    "residual_matching": ResidualMatching(steps=5, start_steps=5, bank_size=512),
    "erfm": ERFM(steps=15, **BANK),
    "erfm_resample": ERFM(steps=15, weighting="resample", coupling="exact_ot", thin=True, **BANK),
    "uot": UOT(steps=10, **BANK),
    "uot_tilted": UOT(steps=10, pool="tilted", **BANK),
    "gradient_ascent": GradientAscent(steps=5),
    "fine_tune": FineTune(steps=10),
    "retrained": Retrain(steps=40, average=0.9),
}
CONFIG = DemoConfig(forget=(3,), seed=0, n=N, overrides=OVERRIDES)

ROW_KEYS = {
    "method",
    "family",
    "seed",
    "n",
    "options",
    "forget_rate",
    "leakage",
    "retention_rate",
    "pul",
    "fid_retain",
    "fid_retrained",
    "fid_target",
    "extractor",
    "mmd_retain",
    "mmd_retain_sd",
    "mmd_target",
    "c2st_retain",
    "c2st_retrained",
    "c2st_target",
    "tv_target",
    "precision",
    "recall",
    "density",
    "coverage",
    "off_data",
    "class_counts",
    "retained_share_tv",
    "original_recoverable",
    "data_used",
    "cost",
    "mmd_bandwidth",
}
COST_KEYS = {"train_seconds", "unlearn_seconds", "steps", "nfe", "inference_ms", "peak_rss_mb"}
JUDGE_KEYS = {"name", "accuracy", "sha256", "independent_of_guide", "error_correlation_with_guide"}
RATES = (
    "forget_rate",
    "leakage",
    "retention_rate",
    "c2st_retain",
    "c2st_target",
    "precision",
    "recall",
    "coverage",
    "off_data",
    "retained_share_tv",
)
METHODS = {family: ("original", *names, "target") for family, names in ROWS.items()}
KEYS = [(family, method) for family, names in METHODS.items() for method in names]
TIMES = ("train_seconds", "unlearn_seconds", "retrain_seconds_5pct", "inference_ms", "peak_rss_mb")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("demo") / "run"
    Demo(CONFIG, folder).run()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def audit(run: Path) -> dict[str, Any]:
    return read_json(run / "audit.json")


def row_of(audit: dict[str, Any], family: str, method: str) -> dict[str, Any]:
    (row,) = (r for r in audit["rows"] if (r["family"], r["method"]) == (family, method))
    return row


def without_times(audit: dict[str, Any]) -> dict[str, Any]:
    audit = json.loads(json.dumps(audit))
    for row in audit["rows"]:
        for key in TIMES:
            row["cost"].pop(key)
    return audit


def numbers(value: Any) -> Iterator[float]:
    """Every number in plain data."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


# audit.json


def test_the_audit_has_every_row_and_every_key_of_schema_1(audit: dict[str, Any]) -> None:
    assert audit["schema"] == 1
    assert [(r["family"], r["method"]) for r in audit["rows"]] == KEYS
    assert audit["judge"].keys() >= JUDGE_KEYS
    assert audit["floor"].keys() == ROWS.keys()
    for floor in audit["floor"].values():
        assert floor.keys() == {"fid_target", "mmd_target", "c2st_target"}
    for row in audit["rows"]:
        assert row.keys() >= ROW_KEYS, row["method"]
        assert row["cost"].keys() >= COST_KEYS
        assert (row["n"], row["seed"]) == (N, 0)


def test_rates_are_rates_and_nothing_is_nan(audit: dict[str, Any]) -> None:
    assert all(math.isfinite(value) for value in numbers(audit))
    for row in audit["rows"]:
        for key in RATES:
            assert 0 <= row[key] <= 1, (row["method"], key)
        assert row["retention_rate"] == pytest.approx(1 - row["forget_rate"])
        assert row["pul"] <= 100


def test_what_was_not_measured_is_null_and_never_zero(audit: dict[str, Any]) -> None:
    for row in audit["rows"]:
        is_reference = row["method"] in ("original", "target", "retrained")
        assert (row["transition"] is None) == is_reference
        assert (row["stayed_share"] is None) == is_reference
        assert row["tv_target"] is None
        # The flow map is not retrained without --full, and nothing is compared with itself.
        measured = row["family"] == "flow" and row["method"] != "retrained"
        for key in ("fid_retrained", "c2st_retrained", "mmd_retrained"):
            assert (row[key] is not None) == measured, (row["method"], key)
    cost = row_of(audit, "flow", "target")["cost"]
    assert (cost["unlearn_seconds"], cost["train_seconds"], cost["nfe"]) == (None, None, None)
    assert row_of(audit, "flow", "original")["cost"]["unlearn_seconds"] is None


def test_the_judge_is_another_one_than_the_guide(audit: dict[str, Any], run: Path) -> None:
    judge, guide = (bundle.read_lineage(run / name) for name in ("judge", "guide"))
    assert audit["judge"]["independent_of_guide"] is True
    assert audit["judge"]["sha256"] == judge["weights_sha256"] != guide["weights_sha256"]
    assert set(judge["data"].values()).isdisjoint(guide["data"].values())
    assert judge["seed"] != guide["seed"]
    nets = [read_json(run / name / "config.json")["classifier"]["net"] for name in ("judge", "guide")]
    assert nets == ["convnet", "mlp"]
    assert audit["judge"]["accuracy"] > 0.8


def test_a_chain_is_called_recoverable_in_row_and_notes(audit: dict[str, Any]) -> None:
    recoverable = {(r["family"], r["method"]) for r in audit["rows"] if r["original_recoverable"]} - {
        (family, "target") for family in ROWS
    }
    assert recoverable == {("flow", "erfm"), ("flow", "erfm_resample")}
    notes = " ".join(audit["notes"])
    assert all(f"flow {m} holds the original inside" in notes for _, m in recoverable)


# Samples: anybody can recompute.


@pytest.mark.parametrize(("family", "method"), KEYS)
def test_a_rows_rates_follow_from_its_samples(
    family: str, method: str, run: Path, audit: dict[str, Any]
) -> None:
    row = row_of(audit, family, method)
    judge = bundle.load_classifier(run / "judge")
    with np.load(run / "samples" / f"{family}-{method}.npz", allow_pickle=False) as file:
        x, z, label, energy = (file[name] for name in ("x", "z", "label", "energy"))
    with np.load(run / "samples" / f"{family}-original.npz", allow_pickle=False) as file:
        before, latents = file["label"], file["z"]
    assert x.shape == z.shape == (N, 1, 8, 8)
    assert np.array_equal(judge.probabilities(torch.from_numpy(x)).argmax(1).numpy(), label)
    assert row["forget_rate"] == pytest.approx(float((label == 3).mean()))
    assert row["class_counts"] == np.bincount(label, minlength=10).tolist()
    assert sum(row["class_counts"]) == N
    forgotten = (before == 3).sum()
    assert row["pul"] == pytest.approx(100 * (forgotten - (label == 3).sum()) / forgotten)
    assert energy.min() >= 0
    if method != "target":
        assert np.array_equal(z, latents) == (method != "retrained")  # which has its own
    if row["transition"] is not None:
        moves = np.zeros((10, 10), dtype=int)
        np.add.at(moves, (before, label), 1)
        assert np.array_equal(np.array(row["transition"]), moves)


def test_the_exact_target_is_made_of_the_originals_samples(run: Path) -> None:
    for family in ROWS:
        model = bundle.load(run / family)
        with np.load(run / "samples" / f"{family}-target.npz", allow_pickle=False) as file:
            x, z = torch.from_numpy(file["x"]), torch.from_numpy(file["z"])
        assert torch.allclose(model.push_batches(z), x, atol=1e-5)


# Files beside it.


def test_the_split_is_disjoint_and_whole(run: Path) -> None:
    record = read_json(run / "split.json")
    assert tuple(record["parts"]) == PARTS
    rows = [row for part in record["parts"].values() for row in part["rows"]]
    assert sorted(rows) == list(range(1797))
    assert record["fingerprint"] == load_data("digits").fingerprint
    hashes = {name: part["sha256"] for name, part in record["parts"].items()}
    for name in ("guide", "flow", "judge"):
        part = "judge" if name == "judge" else "train"
        assert bundle.read_lineage(run / name)["data"] == {part: hashes[part]}


def test_every_bundle_names_its_parent(run: Path) -> None:
    for family, names in ROWS.items():
        base = bundle.read_lineage(run / family)
        assert base["parent"] is None
        for name in names:
            folder = run / "unlearned" / f"{family}-{name}"
            lineage = bundle.read_lineage(folder)
            assert lineage["parent"] == base["weights_sha256"]
            assert (lineage["method"], lineage["seed"]) == (name, 0)
            assert lineage["request"]["words"] == "class 3 (margin 4)"
            assert lineage["settings"]["steps"] == OVERRIDES[name].steps
            assert bundle.load(folder).family == family
            assert read_json_lines(folder / "metrics.jsonl")[-1]["step"] == OVERRIDES[name].steps
    assert (
        bundle.read_lineage(run / "flow_map")["teacher"]
        == bundle.read_lineage(run / "flow")["weights_sha256"]
    )


def test_a_finished_run_leaves_no_checkpoints_and_no_partial_files(run: Path) -> None:
    for file in run.rglob("*"):
        assert not file.name.endswith(".partial"), file
        assert not file.name.startswith(("checkpoint", "prepared")), file


def test_the_report_is_one_page_with_every_row(run: Path) -> None:
    page = write_report(run)
    assert page == run / "report.html"
    text = page.read_text()
    assert "class 3" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    for _, method in KEYS:
        assert method in text


# Again.


def test_the_same_run_again_trains_nothing_and_finds_the_same(
    run: Path, audit: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(base_models, "fit", refuse)
    monkeypatch.setattr(unlearning, "fit", refuse)
    assert without_times(Demo(CONFIG, run).run().as_dict()) == without_times(audit)


def test_a_run_that_lost_one_stage_makes_that_stage_alone_again_in_the_same_bits(
    run: Path, audit: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between training and saving ``uot_tilted``."""
    lost = run / "unlearned" / "flow_map-uot_tilted"
    before = bundle.read_lineage(lost)["weights_sha256"]
    shutil.rmtree(lost)
    made: list[str] = []

    def counted(*args: Any, **options: Any) -> Any:
        made.append(options["label"])
        return fit(*args, **options)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a base model was trained again")

    monkeypatch.setattr(unlearning, "fit", counted)
    monkeypatch.setattr(base_models, "fit", refuse)
    again = Demo(CONFIG, run).run()
    assert made == ["flow_map uot_tilted"]
    assert bundle.read_lineage(lost)["weights_sha256"] == before
    assert without_times(again.as_dict()) == without_times(audit)


def test_another_request_in_the_same_folder_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"holds another result.*class 3.*class 5"):
        Demo(dataclasses.replace(CONFIG, forget=(5,)), run).run()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_another_folder(
    run: Path, audit: dict[str, Any], tmp_path: Path
) -> None:
    again = Demo(CONFIG, tmp_path / "again").run()
    assert without_times(again.as_dict()) == without_times(audit)
    for file in sorted(run.rglob("model.safetensors")):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(run)).read_bytes()


@pytest.mark.slow
def test_the_full_demo_of_two_digits_measures_the_flow_map_against_retraining(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, forget=(1, 7), seed=5, full=True)
    result = Demo(config, tmp_path).run().as_dict()
    retrained = row_of(result, "flow_map", "retrained")
    assert retrained["data_used"] == ["retain_images"]
    assert row_of(result, "flow_map", "uot")["fid_retrained"] is not None
    assert retrained["fid_retrained"] is None
    assert result["request"]["forget"] == [1, 7]
    retained = Demo(config, tmp_path).select_part("train").without_classes([1, 7])
    read = bundle.read_lineage(tmp_path / "unlearned" / "flow_map-retrained")["data"]
    assert read == {"train": retained.fingerprint}


# Requests.


@pytest.mark.parametrize(
    ("text", "classes"), [("3", (3,)), ("3,5", (3, 5)), ("0, 9", (0, 9)), ([1, 7], (1, 7))]
)
def test_requests_are_read(text: Any, classes: tuple[int, ...]) -> None:
    assert parse_classes(text) == classes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 99}, "n=99"),
        ({"seed": -1}, "seed=-1"),
        ({"strength": -0.5}, "strength=-0.5"),
        ({"margin": math.inf}, "margin=inf"),
        ({"device": "tpv"}, "tpv"),
        ({"forget": (3, 3)}, "none twice"),
        ({"forget": ()}, "at least one class"),
        ({"forget": (10,)}, "class 10"),
        ({"forget": tuple(range(10))}, "all 10 classes"),
    ],
)
def test_an_impossible_demo_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        Demo(DemoConfig(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
