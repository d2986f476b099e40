"""What is public is documented, cited, tested and in its room; the guides' examples run."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import unflow
from unflow.couplings import COUPLINGS
from unflow.data import DATASETS, SOURCES
from unflow.data.toy import PLANAR_SETS
from unflow.divergences import DIVERGENCES
from unflow.integrators import INTEGRATORS
from unflow.methods import TRAINERS, UNLEARNERS
from unflow.models import MODELS
from unflow.nets import NETS
from unflow.paths import PATHS

TESTS = Path(__file__).parent
ROOT, SOURCE = TESTS.parent, Path(unflow.__file__).parent

MODULES = sorted(
    info.name for info in pkgutil.walk_packages([str(SOURCE)], "unflow.")
    if not any(part.startswith("_") for part in info.name.split("."))
)  # fmt: skip


# Docstrings


def public_members(holder: ModuleType | type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(holder).items():
        if not name.startswith("_"):
            yield name, value


def is_documented(value: Any) -> bool:
    words = (vars(value).get("__doc__") if isinstance(value, type) else value.__doc__) or ""
    return bool(words.strip()) and not words.startswith(f"{getattr(value, '__name__', '')}(")


def undocumented(module: ModuleType) -> Iterator[str]:
    if not (module.__doc__ or "").strip():
        yield module.__name__
    for name, value in public_members(module):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            methods = (
                (f"{name}.{own}", member) for own, member in public_members(value)
                if isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
            )  # fmt: skip
            yield from (own for own, member in methods if not is_documented(member))
        if (inspect.isclass(value) or inspect.isfunction(value)) and not is_documented(value):
            yield name


@pytest.mark.parametrize("name", ["unflow", *MODULES])
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert list(undocumented(importlib.import_module(name))) == []


@pytest.mark.parametrize("name", ["unflow", *MODULES])
def test_every_name_in_all_can_be_imported(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [each for each in names if not hasattr(module, each)] == []


def test_the_front_door_lists_what_type_checkers_see() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(unflow.__all__) == set(dir(unflow))


# Citations

ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")


def bibliography() -> dict[str, str]:
    entries = (ROOT / "docs" / "references.bib").read_text()
    return dict(re.findall(r"@\w+\{([^,]+),(.*)", entries))


@pytest.mark.parametrize("name", [*UNLEARNERS, *TRAINERS])
def test_every_citation_of_a_method_is_in_the_bibliography(name: str) -> None:
    citation = {**UNLEARNERS, **TRAINERS}[name].citation
    assert citation == "" or citation in bibliography()


def test_every_arxiv_number_in_the_source_is_in_the_bibliography() -> None:
    found = {number for file in SOURCE.rglob("*.py") for number in ARXIV.findall(file.read_text())}
    assert sorted(found - bibliography().keys()) == []


def test_every_entry_of_the_bibliography_is_whole() -> None:
    for key, entry in bibliography().items():
        for field in ("title", "author", "year", "eprint"):
            assert re.search(rf"\b{field} = \{{.+\}}", entry), (key, field)
        assert f"eprint = {{{key}}}" in entry


# Every member has a test

DICTS: dict[str, dict[str, Any]] = {
    "DIVERGENCES": DIVERGENCES, "PATHS": PATHS, "COUPLINGS": COUPLINGS, "INTEGRATORS": INTEGRATORS,
    "MODELS": MODELS, "NETS": NETS, "UNLEARNERS": UNLEARNERS, "TRAINERS": TRAINERS, "DATASETS": DATASETS,
    "PLANAR_SETS": PLANAR_SETS, "SOURCES": SOURCES,
}  # fmt: skip


def text_of_other_tests() -> str:
    files = (file for file in TESTS.rglob("test_*.py") if file.name != Path(__file__).name)
    return "\n".join(file.read_text() for file in sorted(files))


def is_run_over(name: str, text: str) -> bool:
    """Whether some test is parametrised over all members of a dict."""
    ways = rf"parametrize\([^\n]*\b{name}\b", rf"for \w+(, \w+)? in (sorted\()?{name}\b", rf"\*\*{name}\b"
    return any(re.search(way, text) for way in ways)


@pytest.mark.parametrize("name", DICTS)
def test_every_member_of_a_literal_dict_is_tested(name: str) -> None:
    text = text_of_other_tests()
    if not is_run_over(name, text):
        for key, value in DICTS[name].items():
            kind = value if callable(value) else type(value)
            assert re.search(rf"\"{key}\"|\b{kind.__name__}\(", text), f"{key} of {name} has no test"


# Rooms: imports point only downwards

GROUND = {"errors", "batches"}
"""What everything may stand on."""
MATHEMATICS = {"divergences", "energies", "paths", "couplings", "integrators"}


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in dotted if name.startswith("unflow.")}
    return rooms


def files_of(room: str) -> list[Path]:
    folder = SOURCE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("room", sorted(MATHEMATICS))
def test_the_mathematics_knows_only_mathematics(room: str) -> None:
    for file in files_of(room):
        assert imported_rooms(file) <= MATHEMATICS | GROUND, file.name


@pytest.mark.parametrize(
    ("room", "below"),
    [
        ("target.py", MATHEMATICS | {"errors", "models"}),
        ("nets", MATHEMATICS | {"errors"}),
        ("autoencoders.py", {"errors", "nets"}),
        ("anchoring.py", MATHEMATICS | {"errors"}),
        ("calibration.py", MATHEMATICS | {"errors"}),
        ("models", MATHEMATICS | {"errors", "nets", "autoencoders", "calibration", "classifiers"}),
        ("classifiers.py", {"errors", "nets"}),
        ("plugins.py", {"errors"}),
        ("huggingface.py", {"errors"}),
        ("weights.py", {"errors", "files"}),
        ("meanflow_checkpoints.py", {"errors", "files", "nets", "weights"}),
        ("hub", {"errors", "files", "nets", "autoencoders", "models"}),
        ("metrics", {"errors", "energies"}),  # energies: one check that a request names known classes
        ("data", {"errors", "files", "nets"}),  # nets: a module in evaluation mode for a while
        (
            "methods",
            MATHEMATICS
            | {"errors", "nets", "models", "target", "classifiers", "autoencoders", "calibration", "plugins"},
        ),
        ("compute.py", {"errors", "methods"}),
        ("attacks", MATHEMATICS | {"errors", "nets", "models", "classifiers", "methods"}),
        ("report", {"errors", "files", "table"}),
    ],
)
def test_imports_point_only_downwards(room: str, below: set[str]) -> None:
    own = room.removesuffix(".py")
    upwards = {file.name: imported_rooms(file) - below - GROUND - {own} for file in files_of(own)}
    assert {name: rooms for name, rooms in upwards.items() if rooms} == {}


def test_papers_are_reproduced_by_a_command_and_read_by_nothing_else() -> None:
    files = (file.relative_to(SOURCE) for file in sorted(SOURCE.rglob("*.py")))
    readers = {file.parts[0] for file in files if "reproduce" in imported_rooms(SOURCE / file)}
    assert readers == {"commands", "reproduce"}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_no_pickle_is_read_or_written(file: Path) -> None:
    """But for tensors of somebody else's files, of which nothing is run, and back into such a file.

    And for estimators, in the one file that asks for consent first.
    """
    text = file.read_text().replace('torch.load(path, map_location="cpu", weights_only=True)', "")
    text = text.replace("torch.save(content, buffer)", "")
    if file == SOURCE / "foreign" / "estimators.py":
        text = text.replace("return joblib.load(path)", "")
    assert not re.search(r"\bimport pickle\b|\b(torch|joblib)\.(load|save|dump)\(|allow_pickle=True", text)


# The guides

GUIDES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
MACHINE = re.compile(r"/work/|/home/\w|/root/|/tmp/|/Users/\w|https?://(127|localhost|0\.0)|file://")


def written_files() -> list[Path]:
    kinds = {".py", ".yaml", ".j2", ".md", ".bib", ".toml"}
    inside = [file for folder in (SOURCE, ROOT / "docs") for file in folder.rglob("*")]
    return [file for file in [*inside, *(ROOT / name for name in GUIDES)] if file.suffix in kinds]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = {str(f.relative_to(ROOT)): MACHINE.findall(f.read_text()) for f in written_files()}
    assert {name: places for name, places in found.items() if places} == {}


EXAMPLES = {
    f"{guide}, example {number + 1}": code
    for guide in ("CONTRIBUTING.md", "docs/your-model.md")
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / guide).read_text(), re.DOTALL | re.MULTILINE)
    )
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_guides_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[name], name, "exec", dont_inherit=True), {"__name__": "example"})


def test_there_are_examples_in_the_guides() -> None:
    assert len(EXAMPLES) >= 5


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(unflow.__version__)}\]", text, re.MULTILINE)
