"""The page of a reproduction shows what it was given, and loads nothing."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unflow.evidence.reproduce.figures import draw_bars
from unflow.evidence.reproduce.page import read_tables, split_code, write_page
from unflow.ground.errors import InputError

VOID = {"meta", "link", "img"}
TABLE = """\
| method | forgotten % | `PUL` | kind |
| --- | ---: | :-: | :--- |
| `erfm_resample` | 1.25 ± 0.10 | 88 | a \\| b |
| <b>bold</b> | – |  | x & y |
"""


class Page(HTMLParser):
    """Tags and text of a page; every tag that opens must close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def figure(tmp_path) -> Path:
    return draw_bars(tmp_path / "bars.png", ["a", "b"], {"x": [1, 2]}, ylabel="share")


def make(out: Path, figures=(), **changed) -> str:
    given = {
        "title": "ContinualFlow <2-D> & more",
        "intro": ["arXiv 2506.18747, see https://arxiv.org; run `unflow demo`.", "<script>alert(1)</script>"],
        "tables": [('Table "1" <i>', TABLE), ("Two", f"{TABLE}\n{TABLE}")],
        "figures": list(figures),
        "command": "unflow reproduce continualflow-2d --out 'a & b'",
        "notes": ["Steps are `ours` <not theirs>."],
    }
    path = write_page(out, **(given | changed))
    assert path == out / "report.html"
    return path.read_text(encoding="utf-8")


def test_every_cell_of_every_table_is_on_the_page(tmp_path):
    page = Page(make(tmp_path))
    cells = [
        "method",
        "forgotten %",
        "PUL",
        "kind",
        "erfm_resample",
        "1.25 ± 0.10",
        "88",
        "a | b",
        "<b>bold</b>",
        "–",
        "",
        "x & y",
    ]
    assert page.cells == 3 * cells
    assert len(page.all("table")) == 3


def test_every_table_scrolls_by_itself_and_leans_as_its_markdown_says(tmp_path):
    text = make(tmp_path)
    assert len(re.findall(r'<div class="scroll"[^>]*>\s*<table', text)) == 3
    sides = [cell["class"] for cell in Page(text).all("td")]
    assert sides == 6 * ["right", "centre", "left"]


def test_code_spans_are_code_in_cells_paragraphs_and_notes(tmp_path):
    text = make(tmp_path)
    for code in ("PUL", "erfm_resample", "unflow demo", "ours"):
        assert f"<code>{code}</code>" in text


def test_words_are_words_and_never_markup(tmp_path):
    text = make(tmp_path)
    page = Page(text)
    assert not {"script", "b", "i", "not"} & {tag for tag, _ in page.tags}
    listed = "".join(page.words)
    for words in (
        "ContinualFlow <2-D> & more",
        "<script>alert(1)</script>",
        'Table "1" <i>',
        "<not theirs>",
        "--out 'a & b'",
    ):
        assert words in listed
    assert "<b>bold" not in text


def test_figures_are_embedded_whole_with_their_captions(tmp_path, figure):
    caption = 'Shares of "a" <b>'
    page = Page(make(tmp_path, [(figure, caption), (figure, "Again.")]))
    images = page.all("img")
    assert [image["alt"] for image in images] == [caption, "Again."]
    for image in images:
        kind, content = image["src"].split(",")
        assert kind == "data:image/webp;base64"
        shown = Image.open(io.BytesIO(base64.b64decode(content)))
        assert np.array_equal(np.asarray(shown), np.asarray(Image.open(figure).convert("RGB")))
        assert 300 < int(image["width"]) < 1000
        assert int(image["height"]) > 100
    assert f" {caption}" in page.words


def test_a_photograph_is_packed_with_a_small_loss_and_its_file_is_left_alone(tmp_path):
    pixels = np.random.default_rng(0).normal(128, 25, (60, 90, 1)).repeat(3, 2)
    file = tmp_path / "grain.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    before = file.read_bytes()
    (image,) = Page(make(tmp_path / "out", [(file, "Grain.")])).all("img")
    packed = base64.b64decode(image["src"].split(",")[1])
    shown = np.asarray(Image.open(io.BytesIO(packed)), dtype=float)
    assert len(packed) < len(before)
    assert 0 < np.abs(shown - np.asarray(Image.open(file))).mean() < 12
    assert file.read_bytes() == before


def test_the_page_loads_nothing_and_runs_nothing(tmp_path, figure):
    text = make(tmp_path, [(figure, "One.")])
    for tag, attributes in Page(text).tags:
        assert tag not in {"script", "iframe", "object", "embed", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in {"src", "href", "srcset", "action"} & attributes.keys():
            assert attributes[name].startswith(("data:", "#"))
    assert not re.search(r"url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_links_lead_to_sections_that_are_there(tmp_path, figure):
    changes: list[dict[str, Any]] = [{}, {"notes": []}, {"tables": []}, {"figures": [(figure, "One.")]}]
    for changed in changes:
        page = Page(make(tmp_path, **changed))
        ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
        assert {link["href"][1:] for link in page.all("a")} <= ids


def test_the_same_content_gives_the_same_bytes(tmp_path, figure):
    assert make(tmp_path / "a", [(figure, "One.")]) == make(tmp_path / "b", [(figure, "One.")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "| a | b |",
        "| a | b |\n| 1 | 2 |",
        "| a | b |\n|---|---|\n| 1 |",
        "| a |\n|---|\n| 1 | 2 |",
        f"{TABLE}\n# A heading",
    ],
)
def test_what_is_no_table_is_refused_and_nothing_is_written(tmp_path, text):
    with pytest.raises(InputError, match=r"got .*; expected "):
        make(tmp_path / "out", tables=[("One", text)])
    assert not list(tmp_path.iterdir())


def test_a_figure_that_is_missing_or_no_png_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        make(tmp_path / "out", [(tmp_path / "a.png", "One.")])
    (tmp_path / "a.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(InputError, match="not a PNG"):
        make(tmp_path / "out", [(tmp_path / "a.png", "One.")])
    assert not (tmp_path / "out").exists()


def test_a_table_may_leave_out_its_outer_bars():
    (table,) = read_tables("a | b\n--- | --:\n1 | 2")
    assert table.header == [[(False, "a")], [(False, "b")]]
    assert table.rows == [[[(False, "1")], [(False, "2")]]]
    assert table.sides == ["left", "right"]


def test_the_pieces_of_a_text_are_the_text_without_its_backquotes():
    assert split_code("a `b` c`d`") == [(False, "a "), (True, "b"), (False, " c"), (True, "d")]
    assert split_code("a ` b") == [(False, "a ` b")]
    assert split_code("") == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(rng.choice(list("ab `"), 12))
        listed = "".join(piece for _, piece in split_code(text))
        assert listed.replace("`", "") == text.replace("`", "")
