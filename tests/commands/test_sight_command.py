"""What a guide and a judge see is printed, and what is wrong with them is refused or said as a warning."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unflow.commands.cli import main
from unflow.data import LabelledData, load_data, split_data, write_npz, write_split
from unflow.disk import bundle
from unflow.nets import new_net

PACKAGE = """
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


def digits(skip=()):
    found = load_digits()
    rows = ~np.isin(found.target, skip)
    return torch.tensor(found.images[rows] / 8 - 1, dtype=torch.float32)[:, None]


class Drawn(nn.Module):
    \"\"\"Draws digits: each latent chooses one.\"\"\"

    def __init__(self, skip=()):
        super().__init__()
        self.register_buffer("images", digits(skip))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, z):
        return self.scale * self.images[(z[:, 0].abs() * 1e4).long() % len(self.images)]


def linear(classes=10):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    weights = torch.load(f"linear{classes}.pth", weights_only=True)
    net[1].load_state_dict(weights)
    return net


def dark(x):
    return (x.mean((1, 2, 3)) < -0.3) * 1.0


def softmax():
    return nn.Sequential(*linear(), nn.Softmax(1))


def sigmoid():
    return nn.Sequential(*linear(), nn.Sigmoid())


class Percent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        return 100 * self.net(x).softmax(1)


def one_logit():
    return linear(1)


def one_sigmoid():
    return nn.Sequential(*linear(1), nn.Sigmoid())


def log_softmax():
    return nn.Sequential(*linear(), nn.LogSoftmax(1))


class Swapped(nn.Module):
    \"\"\"The classes 3 and 5 have each other's outputs.\"\"\"

    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        return self.net(x)[:, [0, 1, 2, 5, 4, 3, 6, 7, 8, 9]]


def unsure():
    net = linear()
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 1e-3
    return net


class Blind(nn.Module):
    \"\"\"Confident, and never right.\"\"\"

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 10)

    def forward(self, x):
        k = (x.flatten(1).abs().sum(1) * 1000).long() % 10
        return 9 * nn.functional.one_hot(k, 10) - 4.0 + 0 * self.net(x.flatten(1))
"""
WORDS = "zero/one/two/three/four/five/six/seven/eight/nine"
MODEL = "generator:drawers.nets:Drawn,prior=normal:2"
PLAN = f"plan --model {MODEL} --forget 3 --methods reject --energy classifier:drawers.nets:"
REJECT = f"unlearn --model {MODEL} --forget 3 --method reject --out out --energy classifier:drawers.nets:"


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a generator of digits, classifiers of them, and the digits with names."""
    from sklearn.linear_model import LogisticRegression

    folder, before, path = tmp_path_factory.mktemp("sight"), Path.cwd(), [*sys.path]
    (folder / "drawers").mkdir()
    (folder / "drawers" / "nets.py").write_text(PACKAGE)
    (folder / "drawers" / "__init__.py").touch()
    os.chdir(folder)
    data = load_data("digits")
    names = WORDS.split("/")
    write_npz(LabelledData("named", data.x, data.labels, names), "named.npz")
    changed = [names[k] for k in (0, 1, 2, 5, 4, 3, 6, 7, 8, 9)]
    write_npz(LabelledData("swapped", data.x, data.labels, changed), "swapped.npz")
    write_split(split_data(data, 0), data, Path("split.json"))
    rows = data.x.flatten(1).numpy()
    for classes, labels in ((10, data.labels.numpy()), (1, (data.labels == 3).long().numpy())):
        found = LogisticRegression(C=1.0, max_iter=500).fit(rows, labels)
        weights = {"weight": found.coef_, "bias": found.intercept_}
        torch.save(
            {k: torch.tensor(np.asarray(v)).float() for k, v in weights.items()}, f"linear{classes}.pth"
        )
    yield folder
    os.chdir(before)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("drawers")]:
        del sys.modules[name]


Out = pytest.CaptureFixture[str]


def done(line: str, capsys: Out) -> tuple[str, str]:
    """Run a command that must succeed; return what it printed, and its warnings."""
    capsys.readouterr()
    code = main(shlex.split(line))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out, "\n".join(row for row in printed.err.splitlines() if ": warning: " in row)


def refused(line: str, capsys: Out) -> str:
    """Run a command that must be refused; return the sentence. Nothing is written or printed."""
    capsys.readouterr()
    before = sorted(Path.cwd().rglob("*.*"))
    code = main(shlex.split(line))
    printed = capsys.readouterr()
    assert code == 2, printed
    assert [p for p in sorted(Path.cwd().rglob("*.*")) if "__pycache__" not in p.parts] == [
        p for p in before if "__pycache__" not in p.parts
    ]
    assert printed.out == ""
    (sentence,) = printed.err.splitlines()
    return sentence


def sight(out: str, who: str = "guide") -> str:
    """Return the one line that says what a classifier sees."""
    (line,) = [row for row in out.splitlines() if row.startswith(f"the {who} sees: ")]
    return line


@pytest.mark.parametrize("command", [PLAN, REJECT])
def test_a_command_says_the_classes_of_the_models_samples_with_their_names(command: str, capsys: Out) -> None:
    out, warnings = done(
        f"{command}linear,names={WORDS} --data npz:named.npz".replace("--out out ", "--out told "), capsys
    )
    line = sight(out)
    assert warnings == ""
    assert line.count("%") == 11
    assert 0.06 < float(line.split("3 (three) ")[1].split(" %")[0]) / 100 < 0.14
    assert "; to forget: 3 (three); right on 9" in line
    shares = [
        float(part.split(" %")[0].rsplit(" ", 1)[-1]) for part in line.split(" in 500 samples")[0].split(", ")
    ]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_without_labelled_data_no_accuracy_is_claimed(capsys: Out) -> None:
    out, warnings = done(f"{PLAN}linear", capsys)
    assert sight(out).endswith("in 500 samples of the model; to forget: 3")
    assert warnings == ""


# Names


def test_a_class_is_forgotten_by_its_name(capsys: Out) -> None:
    named = PLAN.replace("--forget 3", "--forget {}")
    by_number, _ = done(f"{PLAN}linear,names={WORDS}", capsys)
    for name in ("three", "Three", "THREE "):
        by_name, _ = done(named.format(shlex.quote(name)) + f"linear,names={WORDS}", capsys)
        assert sight(by_name) == sight(by_number)
    out, _ = done(named.format("three,5") + f"linear,names={WORDS}", capsys)
    assert sight(out).endswith("to forget: 3 (three), 5 (five)")


def test_a_name_comes_from_the_labelled_data_if_the_guide_has_none(capsys: Out) -> None:
    line = PLAN.replace("--forget 3", "--forget three").replace("classifier:", "score:")
    out, _ = done(f"{line}dark --data npz:named.npz", capsys)
    assert sight(out).startswith("the guide sees: 0 (retain) ")
    out, _ = done(f"{line}linear --data npz:named.npz".replace("score:", "classifier:"), capsys)
    assert sight(out).endswith("labelled samples")
    assert "; to forget: 3; right on" in sight(out)


@pytest.mark.parametrize(
    ("forget", "names", "words"),
    [
        ("thre", WORDS, "got --forget 'thre', the name of no class of the guide; did you mean three?"),
        (
            "cat",
            "0/1/2/3/4/5/6/7/8/9",
            "got --forget 'cat', and neither a classifier nor labelled data have class names",
        ),
        ("three,,5", WORDS, "got --forget '', the name of no class"),
        ("same", "same/same/2/3/4/5/6/7/8/9", "the name of 2 classes of the guide"),
    ],
)
def test_an_unknown_name_is_refused(forget: str, names: str, words: str, capsys: Out) -> None:
    line = PLAN.replace("--forget 3", f"--forget {forget}")
    assert words in refused(f"{line}linear,names={names}", capsys)


def test_the_config_of_a_run_has_the_number(capsys: Out) -> None:
    line = REJECT.replace("--forget 3", "--forget three").replace("--out out", "--out by_name")
    done(f"{line}linear,names={WORDS}", capsys)
    assert "forget:\n- 3\n" in Path("by_name/config.yaml").read_text()
    done(line.replace("three", "3") + f"linear,names={WORDS}", capsys)  # the same run


def test_a_number_that_names_another_class_is_said(capsys: Out) -> None:
    _, warnings = done(f"{PLAN}linear,names=1/2/3/4/5/6/7/8/9/0", capsys)
    assert "class 3 to forget is 3 (4) of the guide, and not the class that is named '3'" in warnings
    assert "write --forget 2" in warnings


# Probabilities


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("softmax", "rows in [0, 1] that sum to 1"),
        ("sigmoid", "only numbers in [0, 1]"),
        ("Percent", "rows of numbers >= 0 that all sum to 100"),
        ("one_sigmoid", "only numbers in [0, 1]"),
    ],
)
def test_probabilities_are_refused_as_logits(net: str, words: str, capsys: Out) -> None:
    for line in (PLAN, REJECT):
        forget = line.replace("--forget 3", "--forget 1") if net == "one_sigmoid" else line
        sentence = refused(f"{forget}{net}", capsys)
        assert words in sentence
        assert "which are probabilities; expected logits" in sentence
        assert "output=probabilities" in sentence
    judge = f"audit {MODEL} --original {MODEL} --forget 3 --split split.json --out audited --judge "
    if "one" not in net:
        assert "expected logits" in refused(f"{judge}classifier:drawers.nets:{net}", capsys)


@pytest.mark.parametrize(
    ("net", "of", "forget"),
    [
        ("softmax,output=probabilities", "linear", 3),
        ("log_softmax", "linear", 3),
        ("one_sigmoid,output=probabilities", "one_logit", 1),
        ("one_sigmoid,output=sigmoid", "one_logit", 1),
        ("linear,output=logits", "linear", 3),
    ],
)
def test_declared_probabilities_are_the_request_of_their_logits(
    net: str, of: str, forget: int, capsys: Out
) -> None:
    found = []
    for name in (net, of):
        done(PLAN.replace("--forget 3", f"--forget {forget}") + f"{name} --out plan.json", capsys)
        found.append(json.loads(Path("plan.json").read_text()))
        Path("plan.json").unlink()
    assert found[0]["acceptance"] == pytest.approx(found[1]["acceptance"], rel=1e-4)
    assert found[0]["effective_share"] == pytest.approx(found[1]["effective_share"], rel=1e-4)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("sigmoid,output=probabilities", "write output=sigmoid"),
        ("softmax,output=sigmoid", "write output=probabilities"),
        ("linear,output=probabilities", "leave output= out for logits"),
        ("linear,output=scores", "expected logits, probabilities, sigmoid"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_right_one(net: str, words: str, capsys: Out) -> None:
    assert words in refused(f"{PLAN}{net}", capsys)


def test_one_logit_is_a_classifier_of_two_classes(capsys: Out) -> None:
    line = PLAN.replace("--forget 3", "--forget three")
    out, _ = done(f"{line}one_logit,names=other/three", capsys)
    assert 0.06 < float(sight(out).split("1 (three) ")[1].split(" %")[0]) / 100 < 0.14
    out, _ = done(PLAN.replace("--forget 3", "--forget 0") + "one_logit", capsys)
    assert sight(out).endswith("to forget: 0")


# Order, chance, certainty, absence


def test_another_order_of_the_outputs_is_refused_where_labelled_data_show_it(capsys: Out) -> None:
    sentence = refused(f"{PLAN}Swapped --data digits", capsys)
    assert "gives most samples of class 3 to class 5, 5 to class 3; expected one order" in sentence
    judge = "--judge classifier:drawers.nets:Swapped --out audited"
    line = f"audit {MODEL} --original {MODEL} --forget 3 --split split.json {judge}"
    assert "the judge numbers the classes in another order" in refused(line, capsys)


def test_names_in_another_order_are_refused(capsys: Out) -> None:
    sentence = refused(f"{PLAN}linear,names={WORDS} --data npz:swapped.npz", capsys)
    assert "got 'three' as class 3 of the guide and class 5 of the data; expected one order" in sentence


def test_other_names_are_a_warning(capsys: Out) -> None:
    other = WORDS.replace("three", "tres")
    _, warnings = done(f"{PLAN}linear,names={other} --data npz:named.npz", capsys)
    assert "the guide and the data name 1 classes differently (class 3 is 'tres' and 'three')" in warnings


def test_a_guide_that_is_sure_of_nothing_is_a_warning(capsys: Out) -> None:
    _, warnings = done(f"{PLAN}unsure", capsys)
    assert "unflow plan: warning: the guide is sure of nothing: its largest probability is 0.1" in warnings


def test_a_class_that_is_never_drawn_is_a_warning(capsys: Out) -> None:
    without = PLAN.replace("Drawn,", "Drawn,skip=[3],")
    _, warnings = done(f"{without}linear,names={WORDS}", capsys)
    assert "the guide (almost) never finds class 3 (three) (0.0 %)" in warnings
    assert "there is nothing to forget" in warnings
    _, warnings = done(PLAN.replace("Drawn,", "Drawn,skip=[5],") + f"linear,names={WORDS}", capsys)
    assert "5 (five) (0." in warnings
    assert "there is nothing to forget" not in warnings


def test_a_judge_near_chance_is_a_warning(capsys: Out) -> None:
    judge = f"--judge classifier:drawers.nets:Blind,names={WORDS} --n 100 --attack false --out chance"
    line = f"audit {MODEL} --original {MODEL} --forget three --split split.json {judge}"
    out, warnings = done(line, capsys)
    assert "the judge is near chance: it is right on " in warnings
    assert "the judge recognises " in warnings
    assert sight(out, "judge").startswith("the judge sees: 0 (zero) ")
    good = line.replace("Blind", "linear").replace("chance", "good")
    out, warnings = done(f"{good} --energy classifier:drawers.nets:linear", capsys)
    assert "chance" not in warnings
    assert sight(out).startswith("the guide sees: 0 ")


# Retraining, splits and judges


def test_a_method_that_reads_no_energy_needs_none(capsys: Out) -> None:
    from unflow.models import Flow

    bundle.save(
        Flow(new_net({"net": "mlp", "shape": [1, 8, 8], "width": 8, "depth": 1}, 0), (1, 8, 8)), "flow"
    )
    small = "--data npz:named.npz --settings.steps 2 --settings.batch_size 32"
    for method in ("retrained", "fine_tune"):
        done(f"unlearn --model flow --method {method} --forget three {small} --out {method}", capsys)
        lineage = bundle.read_lineage(Path(method))
        assert lineage["request"]["words"] == "class 3"
        assert "guide" not in " ".join(lineage["data_used"])
    done(
        f"unlearn --model flow --method retrained --forget 3 {small} --out with_energy --energy "
        "classifier:drawers.nets:linear",
        capsys,
    )
    weights = [Path(name, "model.safetensors").read_bytes() for name in ("retrained", "with_energy")]
    assert weights[0] == weights[1]
    sentence = refused(f"unlearn --model flow --method erfm --forget 3 {small} --out none", capsys)
    assert "got no --energy" in sentence


def test_small_classes_and_copies_across_parts_are_warnings(capsys: Out) -> None:
    data = load_data("digits")
    few = torch.cat([(data.labels == k).nonzero()[: 60 if k else 40, 0] for k in range(10)])
    x, labels = data.x[few].clone(), data.labels[few]
    x[40:80] = x[40]
    write_npz(LabelledData("few", x, labels, WORDS.split("/")), "few.npz")
    _, warnings = done("split --data npz:few.npz --out few.json", capsys)
    assert "the part judge has fewer than 20 samples of class 0 (zero): 10, 1 (one): 15" in warnings
    assert "samples occur in more than one of the parts train, judge, held_out" in warnings
    _, warnings = done("split --data digits --out whole.json", capsys)
    assert warnings == ""


def test_the_judges_are_described_with_the_classes_that_they_confuse(capsys: Out) -> None:
    write_split(split_data(load_data("npz:named.npz"), 0), load_data("npz:named.npz"), Path("named.json"))
    line = "judge --data npz:named.npz --split named.json --steps 30 --out judges"
    out, _ = done(line, capsys)
    record = json.loads(Path("judges/judges.json").read_text())
    for name in ("first", "second"):
        found = record[name]["confusions"]
        assert 1 <= len(found) <= 3
        assert all(each["label"] != each["judged"] and 0 < each["share"] <= 1 for each in found)
        names = WORDS.split("/")
        worst = found[0]
        assert (
            f"{name}: confuses most {worst['label']} ({names[worst['label']]}) with {worst['judged']} "
            f"({names[worst['judged']]}) ({100 * worst['share']:.1f} %)"
        ) in out
        assert "labelled samples" in sight(out, f"{name} judge")
    _, warnings = done(line.replace("--steps 30 --out judges", "--steps 1 --out bad"), capsys)
    assert "the first judge is near chance" in warnings
