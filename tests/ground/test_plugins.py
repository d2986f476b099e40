"""What other packages add: found by name, imported when asked for, in nobody's way, and on the record."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import unflow as uf
from unflow.commands.cli import main
from unflow.commands.doctor import collect_findings
from unflow.disk import bundle
from unflow.energies import CallableEnergy
from unflow.foreign import load_energy
from unflow.foreign.energies import ENERGIES
from unflow.ground import plugins
from unflow.ground.errors import InputError
from unflow.methods import INSTALLED, UNLEARNERS, method_label, method_summary
from unflow.nets import new_net
from unflow.training.method import as_method

CODE = '''
"""A package of somebody else's."""

from dataclasses import dataclass

import torch

from unflow.energies import CallableEnergy
from unflow.methods import Reject
from unflow.training.method import Untrained, model_of


@dataclass(frozen=True, kw_only=True)
class Nothing(Untrained):
    """Change nothing.

    Attributes:
        effort: none.
    """

    effort: float = 0.0

    def make(self, problem, generator):
        """Return the model."""
        return model_of(problem)


def rejecting():
    """Return a method of unflow's with other settings."""
    return Reject(rounds=50)


@dataclass(frozen=True, kw_only=True)
class Demanding(Nothing):
    """A method without defaults."""

    effort: float = 0.0
    must: int

number = 3


class Far(CallableEnergy):
    """An energy of this package."""

    def describe(self):
        return "what is far"


def far(what, *, forget, margin, scale=1.0, weights=None):
    """Return scale * ||x||^2."""
    if weights is not None:
        scale = float(weights.read_text())
    return Far(lambda x: scale * x.flatten(1).square().sum(1), 0.0)


def nothing_at_all(what, *, forget, margin):
    """Return no energy."""
'''

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that installs a package: its code, and what pip writes beside it."""
    site, before = tmp_path / "site", set(sys.modules)
    monkeypatch.setattr(plugins, "USED", {})

    def run(package: str, code: str, **groups: dict[str, str]) -> Path:
        module = package.replace("-", "_")
        info = site / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "RECORD").write_text(f"{module}.py,,\n")
        lines = []
        for group, entries in groups.items():
            lines += [f"[unflow.{group}]", *(f"{name} = {module}:{value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(site))
        return site

    yield run
    for name in set(sys.modules) - before:
        if name.startswith("theirs"):
            del sys.modules[name]


@pytest.fixture
def theirs(install: Install) -> Path:
    """A package with members of both kinds, good ones and bad ones."""
    return install(
        "theirs-more",
        CODE,
        methods={
            "nothing": "Nothing",
            "rejecting": "rejecting",
            "demanding": "Demanding",
            "number": "number",
            "missing": "Missing",
        },
        energies={"far": "far", "nothing_at_all": "nothing_at_all"},
    )


def flow() -> uf.Flow:
    return uf.Flow(new_net({"net": "mlp", "shape": [2], "width": 4, "depth": 1}, 0), (2,), steps=2)


# Names


def test_what_a_package_adds_has_a_name_beside_our_own(theirs: Path) -> None:
    assert set(INSTALLED) == {*UNLEARNERS, "nothing", "rejecting", "demanding", "number", "missing"}
    assert len(INSTALLED) == len(set(INSTALLED))
    assert all(INSTALLED[name] is method for name, method in UNLEARNERS.items())
    assert INSTALLED["rejecting"] == uf.methods.Reject(rounds=50)
    assert "nowhere" not in INSTALLED
    with pytest.raises(KeyError):
        INSTALLED["nowhere"]


def test_listing_names_imports_nothing(theirs: Path) -> None:
    assert "nothing" in list(INSTALLED)
    assert "nothing" in INSTALLED
    assert INSTALLED["uot"]
    assert method_label("nothing") == "nothing"
    assert method_summary("nothing") == "a method of the package theirs-more 1.2"
    assert "theirs_more" not in sys.modules
    assert type(INSTALLED["nothing"]).__module__ == "theirs_more"
    assert "theirs_more" in sys.modules


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "AttributeError: module 'theirs_more' has no attribute 'Missing'"),
        ("number", "TypeError: it is a int, not a Method"),
        ("demanding", "TypeError: .*missing 1 required keyword-only argument: 'must'"),
    ],
)
def test_a_member_that_cannot_be_used_is_one_sentence_with_its_package(
    name: str, why: str, theirs: Path
) -> None:
    with pytest.raises(InputError, match=rf"{name} of the package theirs-more 1.2 cannot be used \({why}"):
        INSTALLED[name]
    assert INSTALLED["nothing"]  # the others are there


def test_a_package_that_cannot_be_imported_hinders_no_other(theirs: Path, install: Install) -> None:
    install("theirs-broken", "import a_package_that_is_not_there\n", methods={"broken": "Broken"})
    with pytest.raises(InputError, match=r"theirs-broken 1.2 cannot be used \(ModuleNotFoundError"):
        INSTALLED["broken"]
    assert INSTALLED["nothing"]
    assert INSTALLED["erfm"]


def test_a_name_of_ours_cannot_be_taken(install: Install) -> None:
    install("theirs-thief", CODE, methods={"erfm": "Nothing"}, energies={"onnx": "far"})
    with pytest.raises(
        InputError, match=r"erfm in unflow.methods is given by unflow and by theirs-thief 1.2"
    ):
        INSTALLED["erfm"]
    with pytest.raises(InputError, match=r"onnx in unflow.energies is given by unflow and by theirs-thief"):
        load_energy("onnx:guide.onnx", (1,), 4.0, flow())
    assert INSTALLED["uot"] is UNLEARNERS["uot"]
    assert "theirs_thief" not in sys.modules


def test_a_name_that_two_packages_give_is_neither_s(theirs: Path, install: Install) -> None:
    install("theirs-other", CODE, methods={"nothing": "Nothing"})
    with pytest.raises(InputError, match=r"given by theirs-(more|other) 1.2 and by theirs-(more|other) 1.2"):
        INSTALLED["nothing"]


def test_as_method_takes_an_instance_a_class_and_a_function() -> None:
    method = uf.methods.Reject(rounds=20)
    assert as_method(method) is as_method(lambda: method) is method
    assert as_method(uf.methods.Reject) == uf.methods.Reject()


# Energies


def test_an_energy_is_a_function_of_what_a_line_says(theirs: Path, tmp_path: Path) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert load_energy("far:x", (1,), 4.0, flow())(x).tolist() == [25.0, 1.0]
    assert load_energy("far:x,scale=2", (1,), 4.0, flow())(x).tolist() == [50.0, 2.0]
    (tmp_path / "scale.txt").write_text("3")
    assert load_energy(f"far:x@{tmp_path}/scale.txt", (1,), 4.0, flow())(x).tolist() == [75.0, 3.0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "far:x,sclae=2",
            r"got far:x with options that it does not take \(.*'sclae'\); .* for scale, weights",
        ),
        ("nothing_at_all:x", "nothing_at_all:x returned a NoneType; expected an energies.Energy"),
        ("nothing_at_all:x,a=1", "expected name=value for nothing"),
        ("farr:x", r"expected classifier:DIR.*, far:\.\.\., nothing_at_all:\.\.\."),
        ("far", "got --energy 'far'"),
    ],
)
def test_a_line_that_an_energy_does_not_take_is_refused(line: str, words: str, theirs: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_energy(line, (1,), 4.0, flow())


def test_no_kind_of_a_line_can_be_taken(install: Install) -> None:
    install("theirs-thief", CODE, energies=dict.fromkeys(["generator", "classifier", "pretrained"], "far"))
    found = dict(collect_findings())
    for kind in ("generator", "classifier", "pretrained"):
        assert "is given by unflow and by theirs-thief 1.2" in found[f"energy {kind}"]
    assert not ENERGIES.keys() & {"generator", "classifier", "pretrained"}


# The shell


def test_a_method_and_an_energy_of_a_package_unlearn_from_the_shell(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uf.save(flow(), "flow")
    request = "unlearn --model flow --energy far:x,scale=0.5 --forget 1"
    assert main(shlex.split(f"{request} --method nothing --settings.effort 2 --out out")) == 0
    lineage = bundle.read_lineage("out")
    assert lineage["method"] == "nothing"
    assert lineage["settings"] == {"effort": 2.0}
    assert lineage["request"]["words"] == "what is far"
    assert lineage["versions"]["theirs-more"] == "1.2"
    assert main(shlex.split(f"{request} --method nothing --settings.effort 2 --out out")) == 0  # found again
    assert main(shlex.split(f"{request} --method nothing --settings.effort 3 --out out")) == 2
    capsys.readouterr()
    assert main(shlex.split(f"{request} --method nothin --out none")) == 2
    assert "did you mean nothing?" in capsys.readouterr().err
    assert main(shlex.split(f"{request} --method missing --out none")) == 2
    assert "missing of the package theirs-more 1.2 cannot be used" in capsys.readouterr().err
    assert main(shlex.split(f"{request} --method zzz --out none")) == 2
    assert "expected one of erfm," in (explain := capsys.readouterr().err)
    assert "nothing" in explain
    assert not Path("none").exists()
    assert main(shlex.split("plan --model flow --energy far:x --forget 1 --methods nothing")) == 0
    assert "nothing" in capsys.readouterr().out


def test_doctor_says_what_packages_add_and_what_is_wrong_with_it(theirs: Path, install: Install) -> None:
    install("theirs-broken", "1 / 0\n", energies={"broken": "energy"})
    found = dict(collect_findings())
    assert found["method nothing"] == found["energy far"] == "theirs-more 1.2"
    assert "ZeroDivisionError: division by zero" in found["energy broken"]
    assert "it is a int, not a Method" in found["method number"]
    assert not {f"method {name}" for name in UNLEARNERS} & found.keys()


# The record


def test_the_record_has_the_packages_whose_classes_a_result_consists_of(theirs: Path) -> None:
    own = bundle.collect_versions()
    assert bundle.collect_versions(flow(), uf.methods.Reject(), CallableEnergy(torch.sum)) == own
    assert set(own) == {"python", "unflow", "torch", "lightning-fabric", "numpy", "scikit-learn"}
    build: Any = diffusers.UNet2DModel
    inside = torch.nn.Sequential(
        build(
            8,
            block_out_channels=(32,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
        )
    )
    assert bundle.collect_versions(inside) == own | {"diffusers": diffusers.__version__}
    import theirs_more  # type: ignore[import-not-found]  # as a script does, by no entry point

    assert bundle.collect_versions(theirs_more.Nothing()) == own | {"theirs-more": "1.2"}


def test_a_method_of_ours_by_a_name_of_theirs_is_on_the_record(theirs: Path) -> None:
    used: Any = INSTALLED["rejecting"]
    assert bundle.collect_versions(used)["theirs-more"] == "1.2"
