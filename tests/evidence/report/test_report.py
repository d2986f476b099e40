"""The report: content, well-formed HTML, missing and damaged files."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from unflow.evidence.measures import PAGE
from unflow.evidence.report import write_report
from unflow.evidence.report.pictures import encode_image
from unflow.evidence.report.read import read_run
from unflow.evidence.report.summary import forget_interval
from unflow.evidence.report.tables import build_transitions
from unflow.evidence.report.words import format_number
from unflow.evidence.row import AuditRow, compare, row_from_dict
from unflow.ground.errors import InputError

N = 40
VOID = {"meta", "link", "img", "br", "hr", "input"}


def measured(method: str, family: str, forget_rate: float | None, **more) -> dict:
    row = {
        "method": method,
        "family": family,
        "seed": 0,
        "n": 1000,
        "forget_rate": forget_rate,
        "pul": 90.0,
        "leakage": 0.02,
        "fid_target": 2.0,
        "fid_retain": 3.0,
        "fid_retrained": 2.5,
        "extractor": "judge features",
        "mmd_target": 0.01,
        "c2st_target": 0.55,
        "precision": 0.9,
        "recall": 0.8,
        "coverage": 0.95,
        "off_data": 0.01,
        "class_counts": [400, 590, 10],
        "retained_share_tv": 0.02,
        "original_recoverable": False,
        "data_used": ["forget_labels"],
        "cost": {"unlearn_seconds": 20.0, "train_seconds": None, "nfe": 1},
    }
    return row | more


def make_run(run: Path) -> Path:
    """Write a run of one family with a paired method, an unpaired one, and a null-only one."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, 1, 8, 8)).astype(np.float32)
    label = np.arange(N) % 3
    latents = {"original": z, "retrained": z, "target": None, "uot": z, "uot_tilted": z + 1}
    (run / "samples").mkdir(parents=True)
    for method, own in latents.items():
        arrays: dict[str, Any] = {
            "x": np.tanh(rng.normal(size=z.shape)).astype(np.float32),
            "label": label if method == "original" else rng.integers(0, 2, N),
            "energy": rng.exponential(size=N),
            "probability": rng.random(N),
        }
        if own is not None:
            arrays["z"] = own
        np.savez(run / "samples" / f"flow_map-{method}.npz", **arrays)
    nothing = {metric.key: None for metric in PAGE if "." not in metric.key}
    rows = [
        measured("original", "flow_map", 0.115),
        measured("retrained", "flow_map", 0.012, cost={"train_seconds": 80.0}),
        measured("target", "flow_map", 0.0, fid_target=None, original_recoverable=True),
        measured("uot", "flow_map", 0.010, transition=[[9, 1, 0], [0, 10, 0], [4, 5, 1]]),
        measured("uot_tilted", "flow_map", 0.0, transition=None),
        measured("mystery", "flow_map", None) | nothing | {"n": None, "cost": None},
    ]
    audit = {
        "schema": 1,
        "rows": rows,
        "floor": {"flow_map": {"fid_target": 1.1}},
        "judge": {"name": "convnet", "accuracy": 0.98, "independent_of_guide": True},
        "request": {"forget": [2], "words": "class 2 (margin 3)", "strength": 1.0},
        "class_names": ["zero", "one", "<script>alert(1)</script>"],
        "notes": ["<b>uot_tilted</b> over-forgets"],
    }
    write_audit(run, audit)
    (run / "config.yaml").write_text("command: demo\nforget: [2]\nseed: 0\nmodel: /secret/place/m\n")
    (run / "split.json").write_text(
        json.dumps({"fingerprint": "f" * 64, "parts": {"train": {"n": 898, "sha256": "a" * 64}}})
    )
    folder = run / "unlearned" / "flow_map-uot"
    folder.mkdir(parents=True)
    lines = [{"step": s, "seconds": s / 9, "loss": 2 / (1 + s), "held_out": 1.0} for s in range(9)]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo'
    (folder / "metrics.jsonl").write_text(text)
    record = {"parent": "c" * 64, "method": "uot", "settings": {"tau": 0.1}, "seconds": 20.0}
    (folder / "lineage.json").write_text(json.dumps(record | {"sha256": "b" * 64}))
    return run


def write_audit(run: Path, audit: dict) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "audit.json").write_text(json.dumps(audit))


class Page(HTMLParser):
    """Checks that elements nest, and collects attributes, ids and table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()

    def values(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].startswith(name))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo-run")


@pytest.fixture(scope="module")
def html(run) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_page_is_well_formed_and_its_ids_are_unique(page):
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [href for href in page.values("href") if href.startswith("#")]
    assert {link[1:] for link in links} <= set(ids)


def test_page_asks_no_server_for_anything(html, page):
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert all(s.startswith("data:") for s in page.values("src"))
    assert all(h.startswith(("#", "data:")) for h in page.values("href"))
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "@import" not in html
    assert "/secret" not in html
    assert len(html.encode()) < 5_000_000


def test_every_picture_has_words(page):
    pictures = [attrs for tag, attrs in page.tags if tag in ("img", "svg")]
    assert len(pictures) > 20
    assert all(attrs.get("alt") or attrs.get("aria-label") for attrs in pictures)


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_what_was_not_measured_is_a_dash_and_zero_is_zero(page):
    columns = [measure for measure in PAGE if not measure.optional]  # no row has those of an extractor
    assert page.row("mystery")[1:] == ["–"] * len(columns)
    assert "second extractor" not in page.text
    assert page.row("UOT (tilted pool)")[1].startswith("0.00 ±")
    assert page.row("floor")[1:5] == ["–", "–", "–", "1.10"]


def test_names_from_files_are_text(html, page):
    assert "<script" not in html
    assert "<b>uot_tilted" not in html
    assert "<script>alert(1)</script>" in page.text


def test_only_equal_latents_are_called_the_same(page):
    text = re.sub(r"\s+", " ", page.text)
    paired, plain = text.split("Unpaired, the first samples of each file:")
    paired = paired.split("The same latents side by side")[1]
    plain = plain.split("Classes before and after")[0]
    assert "UOT" in paired
    assert "tilted" not in paired
    assert "retrained" not in paired
    assert all(name in plain for name in ("UOT (tilted pool)", "retrained", "exact target"))
    assert "samples/flow_map-mystery.npz" in plain


def test_no_row_is_paired_without_the_originals_latents(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "samples" / "flow_map-original.npz"
    with np.load(path) as file:
        np.savez(path, **{name: file[name] for name in file.files if name != "z"})
    text = write_report(run).read_text()
    assert "The same latents side by side" not in text
    assert "nothing can be compared latent by latent" in text


def test_summary_is_computed_from_the_rows(page):
    text = re.sub(r"\s+", " ", page.text)
    assert "Of 1,000 samples the original draws 115 as" in text
    assert "UOT 10.0 and UOT (tilted pool) 0.0." in text
    assert "UOT (tilted pool) leaves fewer than the retrained model: over-forgetting" in text
    assert page.row("UOT (tilted pool)")[0].endswith("over-forgets")
    assert page.row("UOT")[0] == "UOT"
    assert page.row("exact target")[0] == "exact target"


def test_cost_is_a_share_of_retraining(page):
    costs = [row for row in page.rows if row and row[0] == "UOT" and "25.0" in row]
    assert costs  # 20 s of 80 s
    assert costs[0][-1] == "–"


def test_transition_matrix_in_words(run):
    record = read_run(run)
    row = record.row("flow_map", "uot")
    assert row is not None
    found = build_transitions(record, row)
    assert found is not None
    assert found.description.startswith("Of 20 latents that drew a retained class, 95.0 % draw the same")
    assert "1 still does" in found.description
    assert [cell.share for cell in found.lines[2][2]] == [0.4, 0.5, 0.1]


def test_recompute_names_the_command_and_no_place(page):
    assert "unflow demo --forget 2 --seed 0 --model m --out demo-run" in page.text
    assert "unflow report demo-run" in page.text


def test_same_files_give_the_same_bytes_and_nothing_else(run, html, tmp_path):
    before = sorted(run.rglob("*"))
    assert write_report(run, tmp_path / "new" / "page.html").read_text() == html
    assert write_report(run, tmp_path).read_text() == html
    assert sorted(run.rglob("*")) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "report.html"]


def test_audit_alone_is_enough_and_what_is_absent_is_said(tmp_path):
    audit = {"schema": 1, "rows": [{"family": "generator", "method": "<i>"}]}
    write_audit(tmp_path, audit)
    page = Page(write_report(tmp_path).read_text())
    for absent in ("samples/generator-<i>.npz", "lineage.json", "split.json", "config.yaml"):
        assert absent in page.text
    assert page.open == []
    assert "no retrained model was audited" in page.text


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": 2, "rows": []}', '{"schema": 1, "rows": [{"family": "flow"}]}']
)
def test_damaged_audit_is_refused(tmp_path, content):
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(InputError, match=r"audit\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_audit_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"has no audit\.json; expected a run folder"):
        write_report(tmp_path)


def test_damaged_samples_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "samples" / "flow_map-uot.npz"
    np.savez(path, x=np.zeros((3, 1, 8, 8)), label=np.zeros(2))
    with pytest.raises(InputError, match=r"label of shape \[2\] for 3 samples"):
        write_report(run)
    for damaged in (b"PK\x03\x04 cut", b"", b"\x80\x04 a pickle"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            write_report(run)


def test_samples_that_are_not_finite_are_counted(tmp_path):
    run = make_run(tmp_path / "run")
    x = np.zeros((3, 1, 8, 8))
    x[1, 0, 0, 0] = np.nan
    np.savez(run / "samples" / "flow_map-uot.npz", x=x, energy=np.array([1.0, np.inf, 2.0]))
    assert "1 of 3 samples have values that are not finite" in write_report(run).read_text()


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_holds_the_pixels(channels):
    x = np.random.default_rng(1).uniform(-1, 1, (channels, 5, 7))
    png = base64.b64decode(encode_image(x).removeprefix("data:image/png;base64,"))
    pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
    shown = pixels[:, :, None] if channels == 1 else pixels
    np.testing.assert_allclose(2 * np.moveaxis(shown, 2, 0) - 1, x, atol=1.01 / 255)


def test_large_pictures_shrink():
    png = base64.b64decode(encode_image(np.zeros((3, 224, 224))).removeprefix("data:image/png;base64,"))
    assert max(matplotlib.image.imread(io.BytesIO(png), format="png").shape) <= 48


@pytest.mark.parametrize("n", [10, 1000])
@pytest.mark.parametrize("rate", [0.0, 0.004, 0.5, 1.0])
def test_interval_holds_the_rate_and_has_a_length(rate, n):
    row = row_from_dict({"family": "flow", "method": "x", "forget_rate": rate, "n": n})
    low, high = forget_interval(row)
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1
    assert high > low
    assert row.half_width is not None
    assert high - low > 2 * row.half_width > 0
    stored = replace(row, intervals={"forget_rate": [rate / 2, rate]})
    assert forget_interval(stored) == (rate / 2, rate)
    assert forget_interval(replace(row, n=None)) == (rate, rate)


def test_comparison_needs_two_standard_errors():
    def row(rate: float | None, n: int | None = 1000) -> AuditRow:
        return row_from_dict({"family": "flow", "method": "x", "forget_rate": rate, "n": n})

    assert compare(row(0.010), row(0.012)) == "alike"
    assert compare(row(0.001), row(0.012)) == "fewer"
    assert compare(row(0.030), row(0.012)) == "more"
    assert compare(row(0.010, None), row(0.012)) == "fewer"
    assert compare(row(None), row(0.012)) is None
    assert compare(row(0.01), None) is None
    assert row(0.01, None).half_width is None


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (None, 2, "–"),
        (0.0, 2, "0.00"),
        (0.00003, 4, "3e-05"),
        (-0.00003, 4, "−3e-05"),
        (-1.5, 1, "−1.5"),
        (1234.5, 1, "1,234.5"),
        (float("nan"), 2, "NaN"),
        (5.0, 0, "5"),
    ],
)
def test_numbers(value, decimals, text):
    assert format_number(value, decimals) == text


# Verdicts and attacks


def attacks() -> dict:
    curve = [[0, 0.01], [1, 0.02], [10, 0.3], [300, 0.9]]
    search = {"success_share": 0.2, "interval": [0.15, 0.26], "fooled_share": 0.4, "starts": 500}
    images = {
        "1": {
            "curves": {"original": curve, "uot": curve, "chained": None},
            "steps_to_half": {"original": 0.0, "uot": 2.6, "chained": None},
            "ratio": None,
        },
        "retain": {
            "curves": {"original": curve, "uot": curve[:2], "chained": None},
            "steps_to_half": {"original": 0.0, "uot": None, "chained": None},
            "ratio": None,
        },
    }
    return {
        "inside": {"original": None, "uot": None, "chained": {"model": "Flow", "forget_rate": 0.115}},
        "latent_search": {"original": search, "uot": search, "chained": None},
        "relearning": {"half": 0.0575, "steps": 300, "images": images},
    }


def test_attacks_stand_on_the_page_and_what_has_none_is_marked(tmp_path, run):
    make_run(tmp_path / "run")
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    write_audit(tmp_path / "run", audit | {"attacks": attacks()})
    page = Page(write_report(tmp_path / "run").read_text(encoding="utf-8"))
    assert page.row("chained") == ["chained", "11.5", "–", "–", "–"]
    section = [row for row in page.rows if row and row[0] == "UOT" and len(row) == 5]
    assert section == [["UOT", "–", "20.0 [15.0, 26.0]", "3", "> 300"]]
    assert any(
        "Forget rate while relearning from 1 forgotten image" in words for words in page.values("aria-label")
    )
    assert "Absent: attacks." not in page.text
    assert "Absent: attacks." in Page((run / "report.html").read_text(encoding="utf-8")).text


def add_strengths(folder: Path) -> Path:
    """Add a series of three strengths with four latents each to a run folder."""
    rng = np.random.default_rng(1)
    np.savez(
        folder / "samples" / "flow_map-strengths.npz",
        strength=np.array([0.0, 1.0, 2.0]),
        x=np.tanh(rng.normal(size=(3, 4, 1, 8, 8))).astype(np.float32),
        label=np.array([[2, 2, 0, 1], [2, 0, 0, 1], [1, 0, 0, 1]]),
        forget_rate=np.array([0.115, 0.05, 0.01]),
    )
    return folder


def test_a_series_of_strengths_becomes_a_slider_and_the_only_script(tmp_path):
    text = write_report(add_strengths(make_run(tmp_path / "run"))).read_text(encoding="utf-8")
    page = Page(text)
    (slider,) = [attrs for tag, attrs in page.tags if tag == "input"]
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "2", "2")
    assert page.values("data-label") == [
        f"{lam}: {rate} % judged ‘<script>alert(1)</script>’"
        for lam, rate in (("0.00", "11.5"), ("1.00", "5.0"), ("2.00", "1.0"))
    ]
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert" not in text


def test_a_damaged_series_is_one_sentence(tmp_path):
    add_strengths(make_run(tmp_path / "run"))
    file = tmp_path / "run" / "samples" / "flow_map-strengths.npz"
    np.savez(file, strength=np.zeros(2), x=np.zeros((3, 4, 1, 8, 8)), label=np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"flow_map-strengths\.npz is damaged; expected the file that"):
        write_report(tmp_path / "run")


def test_verdicts_are_the_audits_own(tmp_path, html):
    make_run(tmp_path / "run")
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    words = {
        "flow_map-uot": ["Forgotten: <b>.", "It cost.", "Undone."],
        "flow_map-uot_tilted": ["Not.", "It.", "Can."],
    }
    write_audit(tmp_path / "run", audit | {"verdicts": words})
    text = Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).text
    assert "the verdict on each method" in text
    for sentence in ("Forgotten: <b>.", "Undone.", "Can."):
        assert sentence in text
    assert "the verdict on each method" not in Page(html).text
