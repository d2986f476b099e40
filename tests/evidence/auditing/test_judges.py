"""Two judges: trained apart, calibrated on samples of their own, and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf

from unflow.commands.cli import main
from unflow.data import LabelledData, load_data, split_data, write_split
from unflow.disk import bundle
from unflow.energies.calibration import calibrate
from unflow.evidence.auditing.judge_training import judge_folders, train_judges
from unflow.ground.errors import InputError
from unflow.ground.files import read_json
from unflow.ground.streams import stream
from unflow.models.classifier import Classifier
from unflow.nets import MLP, new_net
from unflow.training.loop import fit
from unflow.training.method import Problem
from unflow.training.originals.classification import Classification, divide_logits


def blobs(n: int = 600, spread: float = 1.0, seed: int = 0) -> LabelledData:
    """Two classes on a line that overlap: the best judge is right in 84 of 100."""
    labels = torch.arange(n) % 2
    x = (2 * labels - 1)[:, None] + spread * torch.randn(n, 1, generator=stream(seed))
    return LabelledData("blobs", x, labels, ["left", "right"])


def net(seed: int = 0) -> Classifier:
    description = {"net": "mlp", "shape": [1], "width": 32, "depth": 2, "outputs": 2, "num_times": 0}
    return Classifier(new_net(description, seed), ["left", "right"])


SETTINGS: dict[str, Any] = {"steps": 200, "batch_size": 64, "deform": False, "noise": 0.0}


def trained(data: LabelledData, aside: float) -> Classifier:
    problem = Problem(model=net(), data=data.x, labels=data.labels)
    model = fit(Classification(**SETTINGS, aside=aside), problem, seed=1).model
    assert isinstance(model, Classifier)
    return model


def test_what_is_aside_sets_the_temperature_and_is_not_trained_on() -> None:
    """On the samples aside no other temperature is better, and their labels change nothing else."""
    data, method = blobs(60), Classification(**{**SETTINGS, "batch_size": 16}, aside=0.5)
    rows, others = method._shuffled(60)
    assert sorted(torch.cat([rows, others]).tolist()) == list(range(60))
    wrong = data.labels.clone()
    wrong[rows] = 1 - wrong[rows]
    first, second = (
        fit(method, Problem(model=net(), data=data.x, labels=labels), seed=1).model
        for labels in (data.labels, wrong)
    )
    assert isinstance(first, Classifier)
    assert isinstance(second, Classifier)
    assert isinstance(first.net, MLP)
    assert isinstance(second.net, MLP)
    ratio = first.net.last.weight / second.net.last.weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])))
    for name in first.net.state_dict():
        if not name.startswith("last"):
            assert torch.equal(first.net.state_dict()[name], second.net.state_dict()[name])
    assert float(calibrate(first, data.x[rows], data.labels[rows]).temperature) == pytest.approx(1, abs=0.02)


def test_without_a_share_aside_nothing_is_set_aside() -> None:
    data = blobs(100)
    prepared = Classification(**SETTINGS).prepare(
        Problem(model=net(), data=data.x, labels=data.labels), stream(0)
    )
    assert torch.equal(prepared["data"], data.x)


def test_cooling_divides_the_logits() -> None:
    model, x = net(), blobs(20).x
    before = model(x)
    divide_logits(model, 2.5)
    torch.testing.assert_close(model(x), before / 2.5)


def test_an_overfitted_judge_gets_as_sure_as_it_is_right() -> None:
    new = blobs(4000, seed=5)

    def loss(model: Classifier) -> float:
        return float(nnf.cross_entropy(model(new.x), new.labels))

    few = blobs(120)
    assert loss(trained(few, 0.3)) < loss(trained(few.rows(torch.arange(120)), 0.0)) + 0.02
    assert loss(trained(few, 0.3)) < 0.55


@pytest.mark.parametrize("aside", [-0.1, 1.0])
def test_an_impossible_share_is_refused(aside: float) -> None:
    with pytest.raises(InputError, match=rf"aside={aside}; expected a share in \[0, 1\)"):
        Classification(aside=aside)


def test_two_judges_are_kept_with_what_they_can_be_trusted_in(tmp_path: Path) -> None:
    method = Classification(**SETTINGS, aside=0.2)
    record = train_judges(blobs(), blobs(seed=1), tmp_path, method=method, guide=trained(blobs(seed=2), 0.0))
    assert read_json(tmp_path / "judges.json") == record
    judges = [bundle.load_classifier(tmp_path / name) for name in ("first", "second")]
    assert judges[0].config() != judges[1].config()
    for name, judge in zip(("first", "second"), judges, strict=True):
        assert record[name]["accuracy"] == pytest.approx(
            judge.accuracy(blobs(seed=1).x, blobs(seed=1).labels)
        )
        assert 0.75 < record[name]["accuracy"] < 0.9
        assert record[name]["calibration_error"] < 0.1
        assert 0 <= record[name]["disagreement_with_guide"] < 0.2
    assert 0 <= record["disagreement"] < 0.2
    assert {bundle.read_lineage(tmp_path / name)["seed"] for name in ("first", "second")} == {1000, 2000}


def test_a_folder_of_judges_is_both_and_a_bundle_is_one(tmp_path: Path) -> None:
    assert judge_folders(str(tmp_path), None) == (str(tmp_path), None)
    train_judges(
        blobs(), blobs(seed=1), tmp_path, method=Classification(**{**SETTINGS, "steps": 2}, aside=0.2)
    )
    assert judge_folders(str(tmp_path), None) == (str(tmp_path / "first"), str(tmp_path / "second"))
    with pytest.raises(InputError, match="holds two judges, and --second-judge"):
        judge_folders(str(tmp_path), str(tmp_path / "second"))


def test_the_command_trains_two_and_says_how_far_to_trust_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits")
    write_split(split_data(data, 0), data, tmp_path / "split.json")
    line = [
        "judge",
        "--split",
        str(tmp_path / "split.json"),
        "--steps",
        "20",
        "--out",
        str(tmp_path / "judges"),
    ]
    assert main(line) == 0
    printed = capsys.readouterr().out
    for words in (
        "first: convnet, correct on",
        "second: resnet, correct on",
        "judges disagree with each other on",
    ):
        assert words in printed
    assert main(line) == 0  # found again
    assert main([*line, "--aside", "1.5"]) == 2
    assert "aside=1.5" in capsys.readouterr().err
