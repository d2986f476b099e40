"""The documentation site: pages are found, links lead somewhere, and no number or word is its own."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import demo_page
import pytest
import result_tables
import yaml
from headline import cut_picture, format_table
from PIL import Image, ImageChops

import unflow
from unflow.evidence.reproduce.demo import ROWS
from unflow.methods import UNLEARNERS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md"))
README_LINKS = re.findall(r"\]\((?!https://)([^)#]+)(?:#([^)]*))?\)", (ROOT / "README.md").read_text())
MEMBERS = [
    name for page in PAGES for name in re.findall(r"^::: (\S+)$", (DOCS / page).read_text(), re.MULTILINE)
]


def pages_in(nav: Any) -> Iterator[str]:
    """The pages of a navigation, at any depth."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_in(each)


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(pages_in(nav)) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_beside_it(page: str) -> None:
    """So it leads there on the site and in a plain view of the repository."""
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (DOCS / page).read_text())
    inside = [link for link in links if not link.startswith("https://")]
    assert [link for link in inside if not (DOCS / page).parent.joinpath(link).is_file()] == []
    assert all((DOCS / page).parent.joinpath(link).resolve().is_relative_to(DOCS) for link in inside)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "anchor"), README_LINKS)
def test_every_link_of_the_readme_leads_to_a_file_and_a_heading_of_the_repository(
    page: str, anchor: str
) -> None:
    assert (ROOT / page).resolve().is_relative_to(ROOT.resolve())
    assert (ROOT / page).exists()
    assert not anchor or anchor in anchors((ROOT / page).read_text())


def test_the_readme_has_one_picture_and_at_most_120_lines() -> None:
    text = (ROOT / "README.md").read_text()
    (alternative,) = re.findall(r"!\[([^]]*)\]\(docs/[^)]+\.png\)", text)
    assert alternative
    assert len(text.splitlines()) <= 120


# The words


def headings(text: str) -> set[str]:
    """What stands over the columns of all tables of numbers, without units."""
    rows = re.findall(r"^(\|.+\|)\n\|(?:[ -]*:?-+:? *\|)*(?:-+: *\|)+$", text, re.MULTILINE)
    cells = {cell.strip() for row in rows for cell in row.strip("|").split("|")}
    return {re.sub(r",? %$", "", cell) for cell in cells if cell}


@pytest.mark.parametrize(
    ("page", "some"),
    [
        ("README.md", {"forgotten left", "fd to target", "fd to real retained"}),
        ("docs/index.md", {"forgotten left", "fd to target", "fd to real retained"}),
        ("docs/results/demo.md", {"pul", "c2st", "coverage"}),
    ],
)
def test_the_glossary_has_every_heading_of_the_front_pages_tables(page: str, some: set[str]) -> None:
    terms = {
        term.lower() for term in re.findall(r"^## (.+)$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    }
    asked = {
        re.sub(r"^c2st to target$", "c2st", each.lower()) for each in headings((ROOT / page).read_text())
    }
    assert some <= asked
    assert asked - terms == set()


def test_the_terms_of_the_glossary_stand_in_alphabetical_order_and_once() -> None:
    terms = [
        t.lower().lstrip("/ ")
        for t in re.findall(r"^## (.+)$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    ]
    assert terms == sorted(set(terms))


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_python_of_the_front_page_uses_the_method_of_its_shell(page: str) -> None:
    """The name alone could be another configuration: `uot_tilted` is more than ``UOT(pool="tilted")``."""
    used = re.findall(
        r'^method = uf\.methods\.UNLEARNERS\["(\w+)"\]', (ROOT / page).read_text(), re.MULTILINE
    )
    shell = re.findall(r"unlearn --model runs/.* --method (\w+)", (DOCS / "index.md").read_text())
    assert used == shell
    assert used[0] in UNLEARNERS


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/results/demo.md"])
def test_the_pages_say_how_many_methods_the_demo_runs(page: str) -> None:
    numbers = {len([m for m in methods if m != "retrained"]) for methods in ROWS.values()}
    words = re.findall(r"with\s+(every|four|five)\s+methods?\b", (ROOT / page).read_text())
    assert numbers == {5}
    assert words == ["five"]


# The numbers


def rows(text: str, heading: str) -> dict[str, set[str]]:
    """The numbers of each method's row in the tables of one section."""
    (section,) = re.findall(rf"^## {re.escape(heading)}$\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    found: dict[str, set[str]] = {}
    for method, cells in re.findall(r"^\| `(\w+)`[^|]*\|(.*)$", section, re.MULTILINE):
        numbers = {cell.strip().split(" ±")[0].split(" (")[0] for cell in cells.strip().strip("|").split("|")}
        found.setdefault(method, numbers)  # the first table of a section has the means over seeds
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_table_of_the_front_page_is_what_its_script_prints(page: str) -> None:
    text = (ROOT / page).read_text()
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert [table for table in tables if headings(table)] == [f"{format_table()}\n"]


def test_the_tables_of_the_demos_page_are_what_their_script_writes() -> None:
    text = (DOCS / "results" / "demo.md").read_text()
    assert demo_page.render(text) == text


@pytest.mark.parametrize("page", result_tables.PAGES)
def test_the_marked_tables_of_the_results_are_those_of_their_runs(page: str) -> None:
    text = (DOCS / "results" / page).read_text()
    assert result_tables.MARK.search(text)
    assert result_tables.render(page, text) == text


def test_the_table_of_the_front_page_agrees_with_the_results_page() -> None:
    front = rows(format_table().replace("| |", "## Front\n| |", 1), "Front")
    measured = rows((DOCS / "results" / "uot.md").read_text(), "All methods")
    assert set(front) == {"uot", "uot_tilted", "latent_transport", "reject", "gradient_ascent"}
    assert {name: cells - measured[name] for name, cells in front.items() if cells - measured[name]} == {}


def test_the_picture_of_the_front_page_is_what_its_script_cuts() -> None:
    with Image.open(DOCS / "images" / "forget-3.png") as committed:
        assert ImageChops.difference(committed, cut_picture()).getbbox() is None


@pytest.mark.parametrize(
    ("table", "results", "measured", "attacked"),
    [
        (
            "What it costs: one-step models",
            "uot.md",
            "All methods",
            "One-step model, digit 3 forgotten (`uot-mnist`)",
        ),
        (
            "What it costs: flows",
            "continualflow.md",
            "MNIST: even digits kept, odd ones forgotten",
            "Flow, all odd digits forgotten (`continualflow-mnist`)",
        ),
    ],
)
def test_what_a_method_costs_was_measured(table: str, results: str, measured: str, attacked: str) -> None:
    ours = rows((DOCS / "which-method.md").read_text(), table)
    assert len(ours) > 8
    main = rows((DOCS / "results" / results).read_text(), measured)
    evidence = rows((DOCS / "results" / "evidence.md").read_text(), attacked)
    unknown = {name: cells - main[name] - evidence.get(name, set()) - {"–"} for name, cells in ours.items()}
    assert {name: cells for name, cells in unknown.items() if cells} == {}


# The reference


@pytest.mark.parametrize("name", MEMBERS)
def test_every_room_of_the_reference_exists(name: str) -> None:
    assert pkgutil.resolve_name(name).__doc__


def test_every_name_of_the_front_door_is_in_the_reference() -> None:
    homes = {name: getattr(unflow, name) for name in unflow.__all__}
    homes = {name: getattr(value, "__module__", None) or value.__name__ for name, value in homes.items()}
    missing = {
        name for name, home in homes.items() if not any(f"{home}.".startswith(f"{each}.") for each in MEMBERS)
    }
    assert missing == set()
