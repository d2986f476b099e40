"""`unflow audit` of conditional digits: it asks, prints, gates, and shows a grid of the labels."""

from __future__ import annotations

import shlex
from contextlib import redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest

import unflow as uf
from unflow.commands.cli import main
from unflow.data import LabelledData, load_data, split_data, write_split
from unflow.disk import bundle
from unflow.evidence.report import write_report
from unflow.ground.files import read_json, write_json
from unflow.models import Conditional, Flow, GenerativeModel
from unflow.models.classifier import Classifier
from unflow.nets import AdaptedVelocity, new_net
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals import Classification, FlowMatching

SHAPE, K = (1, 8, 8), 10


def train_flow(data: LabelledData) -> GenerativeModel:
    """A class-conditional flow, from 400 steps."""
    config = {"net": "mlp", "shape": list(SHAPE), "width": 96, "depth": 2, "num_times": 1, "num_classes": K}
    net = AdaptedVelocity(new_net(config, 0), SHAPE, "x, t, label", label=0, null_label=K)
    model = Conditional(Flow(net, SHAPE, steps=6), [1 / K] * K)
    found = fit(FlowMatching(steps=400), Problem(model=model, data=data.x, labels=data.labels), seed=0).model
    assert isinstance(found, Conditional)
    return found


def train_classifier(data: LabelledData, seed: int) -> Classifier:
    net = new_net(
        {"net": "mlp", "shape": list(SHAPE), "width": 64, "depth": 2, "outputs": K, "num_times": 0}, seed
    )
    model = Classifier(net, data.class_names)
    problem = Problem(model=model, data=data.x, labels=data.labels)
    found = fit(Classification(steps=150), problem, seed=seed).model
    assert isinstance(found, Classifier)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of a conditional flow, a guide and a judge, the flow without 3, and a split of the digits."""
    folder = tmp_path_factory.mktemp("asks")
    data = load_data("digits")
    split = split_data(data, 0)
    write_split(split, data, folder / "split.json")
    flow = train_flow(split.of(data, "train"))
    bundle.save(flow, folder / "flow")
    for seed, (name, part) in enumerate((("guide", "train"), ("judge", "judge")), 1):
        bundle.save(train_classifier(split.of(data, part), seed), folder / name)
    small = "--settings.steps 40 --settings.bank_size 1024 --self_measure 0"
    line = f"unlearn --model {folder / 'flow'} --energy classifier:{folder / 'guide'} --forget 3 "
    assert main(shlex.split(f"{line} --method erfm_resample_prior {small} --out {folder / 'after'}")) == 0
    return folder


def audit(runs: Path, out: str, options: str = "", model: str = "after") -> int:
    energy = "" if "--energy" in options else f"--energy classifier:{runs / 'guide'}"
    line = (
        f"audit {runs / model} --original {runs / 'flow'} --judge {runs / 'judge'} --forget 3 --n 100 "
        f"{energy} --split {runs / 'split.json'} --out {runs / out} {options}"
        f"{'' if '--attacks' in options else ' --attack false'}"
    )
    return main(shlex.split(line))


@pytest.fixture(scope="module")
def printed(runs: Path) -> str:
    """The output of an audit whose folder is "audited"."""
    with redirect_stdout(StringIO()) as found:
        assert audit(runs, "audited", '--ask_n 60 --fail-if "asked.own<0.01,asked.forgotten>1"') == 0
    return found.getvalue()


ATTACKS = (
    "--attacks.relearning.steps 2 --attacks.relearning.batch_size 4 --attacks.images [2] "
    "--attacks.samples 50 --attacks.retained 8 --attacks.search.starts 4 --attacks.search.steps 1 "
    "--attacks.condition.steps 2 --attacks.condition.known 2 --attacks.condition.latents 8 "
    "--attacks.condition.samples 50 "
    "--attacks.guidance.points 4 --attacks.guidance.rounds 0 --attacks.guidance.latents 8 "
    "--attacks.guidance.samples 50 --attacks.mixture.weights [0.5] --attacks.mixture.latents 4 "
    "--attacks.mixture.samples 50 "
)


def test_an_audit_attacks_over_the_condition(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = '--fail-if "attacked.guidance_search<0,attacked.condition_search>1,attacked.relearned>1"'
    assert audit(runs, "attacked", f"--second_judge {runs / 'guide'} --ask_n 50 {ATTACKS} {gate}") == 0
    printed = capsys.readouterr().out
    assert "attacks over the condition: forgotten, %, by the second judge" in printed
    assert " draws it in " in printed
    assert "with their label" in printed
    attacks = read_json(runs / "attacked" / "audit.json")["attacks"]
    assert attacks["relearning"]["labelled"]
    for name in ("condition_search", "guidance_search", "mixture_search"):
        assert list(attacks[name]) == ["original", "erfm_resample_prior", "target"]
        assert all(record["samples"] == 50 for record in attacks[name].values())
    assert len(attacks["mixture_search"]["original"]["at"]["labels"]) == 2
    page = (runs / "attacked" / "report.html").read_text(encoding="utf-8")
    assert "Over the condition" in page
    assert "The images have their labels." in page


class Grid(HTMLParser):
    """Counts the rows and pictures of the grid."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.alternatives: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text = dict(attrs).get("alt") or ""
        if tag == "img" and text.startswith("asked for "):
            self.alternatives.append(text)


def test_an_audit_asks_for_every_label_before_and_after(runs: Path, printed: str) -> None:
    assert "asked for each label, 60 samples each: original | erfm_resample_prior | target" in printed
    assert "Asked for 3, it " in printed
    assert "The judge's nearest other classes are drawn when they are asked for: " in printed
    record = read_json(runs / "audited" / "audit.json")
    asked = {row["method"]: row["asked"] for row in record["rows"]}
    assert list(asked) == ["original", "erfm_resample_prior", "target"]
    assert [each["label"] for each in asked["target"]["conditions"]] == [*range(K), "null"]
    assert list(asked["original"]["guidance"]) == ["1", "2", "4"]
    assert asked["target"]["forgotten"] < asked["original"]["forgotten"]
    page = (runs / "audited" / "report.html").read_text(encoding="utf-8")
    names = [f"asked for {k}, " for k in [*range(K), "no label"]]
    pictures = Grid(page).alternatives
    assert len(pictures) == 2 * len(names)
    assert [
        all(text.startswith(name) for text in pictures[2 * i : 2 * i + 2]) for i, name in enumerate(names)
    ]
    assert 'href="#asked"' in page


def test_a_gate_on_what_is_asked_for_fails_with_code_1(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(runs, "failed", '--ask_n 50 --fail-if "asked.forgotten>0.02"', model="flow") == 1
    printed = capsys.readouterr().out
    assert "failed: asked.forgotten>0.02: it is 0." in printed
    assert "Asked for 3, it still draws it" in printed


def test_an_audit_that_did_not_ask_says_so_everywhere(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(runs, "silent", "--ask false") == 0
    words = "The model is conditional, but was not asked for its labels: it was left out"
    assert words in capsys.readouterr().out
    assert words in (runs / "silent" / "report.html").read_text(encoding="utf-8")
    assert audit(runs, "gated", '--ask false --fail-if "asked.forgotten>0.02"') == 2
    assert "got a gate on asked.forgotten, which this audit has not measured" in capsys.readouterr().err


def test_bad_questions_are_one_sentence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(runs, "bad", "--ask_n 3") == 2
    assert "got ask_n=3 samples of each condition; expected 50 or more" in capsys.readouterr().err
    assert audit(runs, "bad", '--fail-if "asked.forgoten>0.1"') == 2
    assert "asked.forgotten" in capsys.readouterr().err
    assert not (runs / "bad" / "audit.json").exists()


def test_the_energy_of_a_label_is_audited(runs: Path) -> None:
    assert audit(runs, "label", "--energy label:3 --ask_n 50") == 0
    rows = {row["method"]: row for row in read_json(runs / "label" / "audit.json")["rows"]}
    assert rows["target"]["asked"]["forgotten"] < rows["original"]["asked"]["forgotten"]


def test_damaged_answers_are_one_sentence(runs: Path, printed: str, tmp_path: Path) -> None:
    record = read_json(runs / "audited" / "audit.json")
    record["rows"][0]["asked"]["conditions"][0]["forgotten"] = "many"
    write_json(tmp_path / "audit.json", record)
    with pytest.raises(uf.InputError, match=r"rows\[0\]\.asked\.conditions\[0\]\.forgotten='many'"):
        write_report(tmp_path)


def test_old_audits_have_no_section_on_questions(runs: Path, printed: str, tmp_path: Path) -> None:
    record = read_json(runs / "audited" / "audit.json")
    del record["questions"]
    for row in record["rows"]:
        row.pop("asked", None)
    write_json(tmp_path / "audit.json", record)
    assert 'id="asked"' not in write_report(tmp_path).read_text(encoding="utf-8")
