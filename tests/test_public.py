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
import torch

import unflow
from unflow.data import DATASETS, SOURCES
from unflow.data.toy import PLANAR_SETS
from unflow.mathematics.couplings import COUPLINGS
from unflow.mathematics.divergences import DIVERGENCES
from unflow.mathematics.integrators import INTEGRATORS
from unflow.mathematics.paths import PATHS
from unflow.methods import UNLEARNERS
from unflow.models import MODELS
from unflow.nets import NETS
from unflow.training.originals import TRAINERS

TESTS = Path(__file__).parent
ROOT, SOURCE = TESTS.parent, Path(unflow.__file__).parent

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(SOURCE)], "unflow.")
    if not any(part.startswith("_") for part in info.name.split("."))
)


def test_the_tests_mirror_the_source_folder_by_folder() -> None:
    source, tests = (
        {file.parent.relative_to(root) for file in root.rglob(pattern) if not file.name.startswith("__")}
        for root, pattern in ((SOURCE, "*.py"), (TESTS, "test_*.py"))
    )
    assert tests - {Path()} == source - {Path()}


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
                (f"{name}.{own}", member)
                for own, member in public_members(value)
                if isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
            )
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
    seen = {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
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
    "DIVERGENCES": DIVERGENCES,
    "PATHS": PATHS,
    "COUPLINGS": COUPLINGS,
    "INTEGRATORS": INTEGRATORS,
    "MODELS": MODELS,
    "NETS": NETS,
    "UNLEARNERS": UNLEARNERS,
    "TRAINERS": TRAINERS,
    "DATASETS": DATASETS,
    "PLANAR_SETS": PLANAR_SETS,
    "SOURCES": SOURCES,
}


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


# Packages: imports point only downwards

ORDER = (
    "ground", "mathematics", "energies", "nets", "data", "models", "target", "disk", "training", "methods",
    "foreign", "unlearning", "evidence", "commands",
)  # fmt: skip
"""All that stands in the source tree, the lowest first: each imports itself and what stands before it."""
INSIDE = {
    "evidence": (
        "metrics",
        "extractors",
        "measures",
        "row",
        "condition_attacks",
        "score_attacks",
        "schema",
        "attacks",
        "auditing",
        "report",
        "reproduce",
    ),
    "training": (
        "low_rank",
        "method",
        "losses",
        "critics",
        "trained_weights",
        "rates",
        "snapshots",
        "compute",
        "derivatives",
        "run",
        "loop",
        "checks",
        "originals",
    ),
}
"""The same order within the packages that hold several."""
LIGHT = {
    "ground": set(),
    "mathematics": {"ground"},
    "energies": {"ground", "mathematics"},
    "nets": {"ground", "mathematics"},
}
"""What the lowest packages may import; energies and networks know nothing of each other."""
HEADS = ("__init__", "__main__")


def imported_modules(file: Path) -> set[str]:
    """The modules and names below unflow that a file imports, at any depth of its code, dotted."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("unflow.") for name in found if name.startswith("unflow.")}


def imported_packages(file: Path, below: str = "") -> set[str]:
    """The packages (or modules) directly below unflow, or below one of its packages, that a file imports."""
    prefix = f"{below}." if below else ""
    names = (name.removeprefix(prefix) for name in imported_modules(file) if name.startswith(prefix))
    return {name.split(".")[0] for name in names}


def files_of(name: str) -> list[Path]:
    """The Python files of a package or module, named by its path below unflow."""
    folder = SOURCE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_the_source_tree_holds_the_packages_of_the_order_and_nothing_else() -> None:
    entries = {entry.stem for entry in SOURCE.iterdir() if entry.name not in ("__pycache__", "py.typed")}
    assert entries - set(HEADS) == set(ORDER)
    assert len(ORDER) <= 14


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_only_downwards(name: str) -> None:
    below = {*ORDER[: ORDER.index(name) + 1], "__version__"}
    upwards = {
        file.name: imported_packages(file) - LIGHT.get(name, below) - below & set(ORDER)
        for file in files_of(name)
    }
    assert {file: found for file, found in upwards.items() if found} == {}


@pytest.mark.parametrize("name", LIGHT)
def test_the_lowest_packages_import_hardly_anything(name: str) -> None:
    found = set().union(*(imported_packages(file) for file in files_of(name)))
    assert found <= LIGHT[name] | {name}


@pytest.mark.parametrize(("package", "name"), [(p, name) for p, names in INSIDE.items() for name in names])
def test_imports_point_only_downwards_inside_a_package(package: str, name: str) -> None:
    order = INSIDE[package]
    allowed = set(order[: order.index(name) + 1])
    for file in files_of(f"{package}/{name}"):
        assert imported_packages(file, package) & set(order) <= allowed, file.name


def test_the_order_inside_a_package_names_all_that_is_in_it() -> None:
    for package, names in INSIDE.items():
        entries = {
            entry.stem for entry in (SOURCE / package).iterdir() if entry.suffix == ".py" or entry.is_dir()
        }
        assert entries - {"__init__", "__pycache__"} == set(names)


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {
        module_of(file): file
        for file in sorted(SOURCE.rglob("*.py"))
        if file.parent != SOURCE or file.stem == "target"
    }
    graph: dict[str, set[str]] = {}
    for name, file in modules.items():
        named = imported_modules(file)
        graph[name] = {
            each if each in modules else each.rpartition(".")[0] for each in named
        } & modules.keys() - {name}
    while leaves := {name for name, needs in graph.items() if not needs}:
        graph = {name: needs - leaves for name, needs in graph.items() if name not in leaves}
    assert graph == {}


def test_papers_are_reproduced_by_a_command_and_read_by_nothing_else() -> None:
    files = [
        file for file in sorted(SOURCE.rglob("*.py")) if "reproduce" in imported_packages(file, "evidence")
    ]
    assert {module_of(file).rpartition(".")[0] for file in files if "reproduce" not in file.parts} == {
        "commands"
    }


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
    torch.manual_seed(0)  # an example draws the weights of its networks
    exec(compile(EXAMPLES[name], name, "exec", dont_inherit=True), {"__name__": "example"})


def test_there_are_examples_in_the_guides() -> None:
    assert len(EXAMPLES) >= 5


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(unflow.__version__)}\]", text, re.MULTILINE)
