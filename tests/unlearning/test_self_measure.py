"""The self-measure: exact shares, a verdict for every sabotaged run, and one verdict for a repeated call."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import unflow as uf
from unflow.energies import CallableEnergy, ClassLogOdds, ScoreLogOdds
from unflow.energies.unread import Unread
from unflow.ground.errors import InputError, RunFailedError
from unflow.ground.streams import stream
from unflow.methods import UNLEARNERS
from unflow.training.method import (
    Descend,
    Part,
    Parts,
    Problem,
    Tensors,
    Training,
    Untrained,
    draw_rows,
    trainable_copy,
)
from unflow.unlearning import self_measure
from unflow.unlearning.forgotten import find_classes
from unflow.unlearning.self_measure import compare_losses, measure_unlearning
from unflow.unlearning.verdict import Ratio, SelfMeasure, Share, read_measure

SIDE, CLASSES = 12, 4


@pytest.fixture(scope="module", autouse=True)
def shipped_numbers(few_fresh_samples: dict[str, int]) -> Iterator[None]:
    """Here results are measured on as many samples as for users."""
    with pytest.MonkeyPatch.context() as patch:
        for name, n in few_fresh_samples.items():
            patch.setattr(self_measure, name, n)
        yield


def draw_templates() -> Tensor:
    """Images [CLASSES * 8, 144] in [-1, 1]: squares (class = quarter of the image) in eight places each."""
    x = -torch.ones(CLASSES, 8, SIDE, SIDE)
    for k in range(CLASSES):
        for place in range(8):
            top, left = 6 * (k // 2) + place // 3, 6 * (k % 2) + place % 3
            x[k, place, top : top + 4, left : left + 4] = 1.0
            x[k, place, top + 1 + place % 2, left + 1 : left + 3] = -1.0
    return x.flatten(2).flatten(0, 1)


def build_squares() -> Squares:
    return Squares()


class Squares(nn.Module):
    """z [n, 4] -> the template at the angle of (z_0, z_1), with texture by z_2 and z_3."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"builder": "test_self_measure:build_squares", "options": {}}
        self.templates = nn.Parameter(draw_templates())
        self.texture = nn.Parameter(torch.randn(4, SIDE * SIDE, generator=stream(5)))
        angle = torch.arange(len(self.templates)) * (2 * math.pi / len(self.templates))
        self.centres = nn.Parameter(torch.stack([angle.cos(), angle.sin()]), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        side = nn.functional.normalize(z[:, :2], dim=1)
        weights = (2000 * side @ self.centres).softmax(1)
        images = weights @ self.templates + 0.03 * (z[:, 2:].tanh() @ self.texture[:2])
        return images.reshape(-1, 1, SIDE, SIDE)


class Quarters(nn.Module):
    """Logits of the four classes: the ink in each quarter."""

    def forward(self, x: Tensor) -> Tensor:
        halves = x.reshape(len(x), 2, 6, 2, 6).mean((2, 4)).flatten(1)
        return 12 * halves


def model() -> uf.Generator:
    return uf.Generator(Squares(), (4,)).eval().requires_grad_(False)


def request() -> uf.Target:
    return uf.Target(model(), ClassLogOdds(Quarters(), [3], margin=0.0))


@dataclass(frozen=True, kw_only=True)
class Regress(Training):
    """Regress all outputs on one image: the mean of the model's samples, or one of them."""

    steps: int = 60
    learning_rate: float = 0.1
    towards: str = "mean"
    families: ClassVar[frozenset[str]] = frozenset({"generator"})
    needs: ClassVar[frozenset[str]] = frozenset({"target"})

    def prepare(self, problem: Problem, generator: torch.Generator) -> Tensors:
        assert isinstance(problem.model, uf.Generator)
        z = problem.model.prior(512, generator)
        x = problem.model.push_batches(z)
        kept = x[Quarters()(x).argmax(1) != 3]
        image = kept.mean(0) if self.towards == "mean" else kept[0]
        return {"z": z, "y": image.expand_as(x).clone()}

    def init(self, problem: Problem, prepared: Tensors, seed: int) -> Parts:
        net = trainable_copy(problem.model)
        return {"model": Part(Squared(net), net, self.learning_rate)}

    def draw(self, prepared: Tensors, generator: torch.Generator) -> Tensors:
        rows = draw_rows(len(prepared["z"]), 128, generator)
        return {"z": prepared["z"][rows], "y": prepared["y"][rows]}

    def step(self, parts: Parts, batch: Tensors, descend: Descend, progress: float) -> Tensors:
        return {"loss": descend("model", batch["z"], batch["y"])}

    def result(self, problem: Problem, parts: Parts) -> nn.Module:
        return parts["model"].net


class Squared(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return (self.net(z) - y).square().mean()


def spread_angle(z: Tensor, turns: float) -> Tensor:
    """Map the angles of the last quarter, the forgotten class, over the first three quarters."""
    angle = torch.atan2(z[:, 1], z[:, 0]) % (2 * math.pi) + math.pi / 32
    moved = (turns * (angle % (2 * math.pi) - 1.5 * math.pi)) % (1.5 * math.pi) - math.pi / 32
    return torch.stack([moved.cos(), moved.sin(), z[:, 2], z[:, 3]], 1)


class Changed(nn.Module):
    """The original's network with its outputs changed."""

    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how = net, how

    def spread(self, z: Tensor, turns: float) -> Tensor:
        return torch.as_tensor(self.net(spread_angle(z, turns)))

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.net(z)
        if self.how == "noise":
            return (1e4 * x.flatten(1) @ torch.randn(144, 144, generator=stream(9))).sin().reshape(x.shape)
        if self.how == "nan":
            return torch.where(z[:, 0, None, None, None] > 1, math.nan, x)
        forgotten = Quarters()(x).argmax(1) == 3
        first, second = self.spread(z, 3.0), self.spread(z, 6.0)
        moved = {"ghosts": (first + second) / 2, "sharp": first, "one": first[:1].expand_as(x)}[self.how]
        return torch.where(forgotten[:, None, None, None], moved, x)


@dataclass(frozen=True, kw_only=True)
class Change(Untrained):
    """Replace outputs of the model, without training."""

    how: str = "noise"
    families: ClassVar[frozenset[str]] = frozenset({"generator"})
    needs: ClassVar[frozenset[str]] = frozenset({"target"})

    def make(self, problem: Problem, generator: torch.Generator) -> nn.Module:
        assert isinstance(problem.model, uf.Generator)
        return uf.Generator(Changed(problem.model.net, self.how), (4,))


def last_line(method: Any, **options: Any) -> str:
    return uf.unlearn(request(), method, **options).verdict


def transport(**changes: Any) -> Any:
    small = {"steps": 60, "bank_size": 1024, "batch_size": 64}
    return dataclasses.replace(UNLEARNERS["latent_transport"], **(small | changes))


# Sabotage: every broken run is called so.


def test_a_run_that_changes_nothing_did_not_forget() -> None:
    line = last_line(transport(learning_rate=1e-12))
    assert line.startswith("did not forget: no output changed; forgotten by the guide 23.9 % -> 23.9 %")
    assert " of 2,000 fresh samples (exact target 0.0 %" in line


def test_a_model_that_is_returned_as_it_is_did_not_forget() -> None:
    found = measure_unlearning(request(), model())
    assert found.verdict.startswith("did not forget: no output changed")
    assert found.list_failures(("forgotten", "sharp", "diverse", "kept")) == ["forgotten"]


def test_a_learning_rate_of_ten_is_called_by_its_damage() -> None:
    """Latent transport trains far beyond the images: it may forget, but neither sharp nor kept."""
    found = uf.unlearn(request(), transport(learning_rate=10.0))
    assert found.measure is not None
    assert found.measure.sharp is False
    assert "blurred" in found.verdict or "went off" in found.verdict or "over-sharpened" in found.verdict
    assert found.measure.loss is not None
    assert found.measure.loss[2] == "rose"
    assert "the loss rose (" in found.verdict


def test_the_mean_image_forgets_blurs_and_has_no_diversity() -> None:
    line = last_line(Regress())
    assert line.split(":")[0] == "forgot, and blurred, lost diversity and changed kept samples"
    assert "the loss fell" in line


def test_one_image_is_sharp_and_has_no_diversity() -> None:
    found = uf.unlearn(request(), Regress(towards="one", steps=120))
    assert found.verdict.split(":")[0] == "forgot, and lost diversity and changed kept samples"
    assert "gap between samples 0." in found.verdict
    assert found.measure is not None
    assert found.measure.diverse is False


def test_noise_is_not_sharp() -> None:
    head = last_line(Change(how="noise")).split(":")[0]
    assert "blurred" in head or "went off the target's samples" in head or "over-sharpened" in head
    assert head.endswith("changed kept samples")


def test_ghosts_at_the_moved_latents_alone_are_blurred() -> None:
    line = last_line(Change(how="ghosts"))
    assert line.startswith("forgot, and blurred")


def test_one_image_at_the_moved_latents_alone_has_lost_diversity() -> None:
    assert last_line(Change(how="one")).startswith("forgot, and lost diversity: ")


def test_nan_is_named() -> None:
    line = last_line(Change(how="nan"))
    assert line.startswith("did not forget: ")
    assert "of 2,000 samples are NaN or infinite" in line


# Honest runs.


@pytest.mark.parametrize("method", ["reject", Change(how="sharp")], ids=["reject", "sharp"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_exact_sampler_forgot_and_is_sharp(method: Any, seed: int) -> None:
    """The ratio of an exact sampler is 1 up to 0.01."""
    found = uf.unlearn(request(), method, seed=seed)
    assert found.verdict.startswith("forgot: forgotten by the guide 2")
    measure = found.require("forgotten", "sharp", "diverse", "kept").measure
    assert measure is not None
    assert measure.sharpness is not None
    assert measure.sharpness.value == pytest.approx(1, abs=0.01)
    assert measure.sharpness.error < 0.01
    assert measure.changed == pytest.approx(0, abs=3e-3)


def test_shares_are_those_of_the_samples() -> None:
    """Three of four samples are kept; a binary guide counts by the acceptance."""
    found = measure_unlearning(request(), model(), n=4000)
    assert found.before is not None
    assert found.after == found.before
    assert found.before.low < 0.25 < found.before.high
    assert found.target is not None
    assert found.target.value < 0.01
    score = ScoreLogOdds(lambda x: Quarters()(x).softmax(1)[:, 3], margin=0.0)
    binary = measure_unlearning(uf.Target(model(), score), model(), n=4000)
    assert binary.guide == "acceptance under 1/2"
    assert binary.before is not None
    assert binary.before.value == pytest.approx(found.before.value, abs=0.01)


def test_requests_that_combine_classes_count_by_the_same_algebra() -> None:
    x = model().sample(200, stream(1))
    labels = Quarters()(x).argmax(1)
    one, two = ClassLogOdds(Quarters(), [1]), ClassLogOdds(Quarters(), [2])
    cases = {
        one | two: (labels == 1) | (labels == 2),
        one & two: torch.zeros(200, dtype=torch.bool),
        -one: labels != 1,
        3 * uf.energies.Softplus(one, 1.0): labels == 1,
    }
    for energy, expected in cases.items():
        read = find_classes(energy)
        assert read is not None
        assert torch.equal(read(x)[0], expected)
    assert find_classes(one | CallableEnergy(lambda x: x.flatten(1).mean(1).square(), 0.0)) is None


def test_an_energy_without_a_bound_is_measured_by_its_weights() -> None:
    target = uf.Target(model(), ClassLogOdds(Quarters(), [3], margin=None), 0.5)
    found = measure_unlearning(target, model())
    assert found.verdict.startswith("did not forget: no output changed")
    assert found.before is not None


# Verdicts of stated numbers.


def share(value: float, width: float = 0.01) -> Share:
    return Share(value, max(0.0, value - width), value + width)


def stated(**numbers: Any) -> SelfMeasure:
    fine: dict[str, Any] = {
        "before": share(0.3),
        "after": share(0.01),
        "target": share(0.01),
        "changed": 0.01,
    }
    one: dict[str, Any] = {
        "sharpness": Ratio(1.0, 0.003),
        "distance": Ratio(1.0, 0.005),
        "reach": Ratio(1.0, 0.005),
    }
    return SelfMeasure(n=2000, guide="forgotten by the guide", is_image=True, **(fine | one | numbers))


@pytest.mark.parametrize(
    ("numbers", "head"),
    [
        ({}, "forgot"),
        ({"after": share(0.2)}, "did not forget"),
        ({"before": share(0.02)}, "cannot know"),
        ({"after": share(0.02, 0.5), "before": share(0.3, 0.25)}, "cannot know"),
        ({"before": None, "obstacle": "no energy"}, "cannot know"),
        ({"after": share(0.0, 0.001), "target": share(0.05)}, "forgot, further than asked"),
        ({"sharpness": Ratio(0.9, 0.003)}, "forgot, and blurred"),
        ({"sharpness": Ratio(0.965, 0.01)}, "forgot"),
        ({"sharpness": Ratio(1.1, 0.003)}, "forgot, and over-sharpened"),
        ({"sharpness_moved": Ratio(0.6, 0.01)}, "forgot, and blurred"),
        ({"distance": Ratio(1.9, 0.01)}, "forgot, and went off the target's samples"),
        ({"reach": Ratio(1.5, 0.01)}, "forgot, and lost diversity"),
        ({"gap_moved": Ratio(0.01, 0.0)}, "forgot, and lost diversity"),
        ({"changed": 0.3}, "forgot, and changed kept samples"),
        ({"after": share(0.2), "sharpness": Ratio(0.5, 0.01)}, "did not forget, and blurred"),
    ],
)
def test_the_headline_says_what_the_numbers_say(numbers: dict[str, Any], head: str) -> None:
    found = stated(**numbers)
    assert found.verdict.split(":")[0] == head
    assert read_measure(found.as_dict()) == found


def test_without_an_energy_the_answer_is_not_known() -> None:
    found = measure_unlearning(uf.Target(model(), Unread("class 3")), model())
    assert found.verdict == "cannot know: the request has no energy, so nothing counts as forgotten"
    assert found.list_failures(["forgotten"]) == ["forgotten"]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([5.0, 4.1, 3.0, 2.2, 1.5, 1.0], "fell"),
        ([1.0, 2.1, 3.0, 4.2, 5.5, 7.0], "rose"),
        ([1.0, 1.2, 0.9, 1.1, 0.95, 1.05], "did not change"),
        ([1.0, 1.0, 1.0], "did not change"),
    ],
)
def test_a_loss_fell_or_rose_by_more_than_its_noise(values: list[float], word: str) -> None:
    found = compare_losses([{"step": k, "loss": value} for k, value in enumerate(values)])
    assert found is not None
    assert found[2] == word
    assert compare_losses([{"generator": 1.0, "potential": 2.0}] * 9) is None


# In unlearn.


def test_the_verdict_is_in_the_lineage_and_the_same_call_returns_it_again(tmp_path: Path) -> None:
    first = uf.unlearn(request(), transport(), tmp_path / "out", self_measure=500)
    again = uf.unlearn(request(), transport(), tmp_path / "out", self_measure=500)
    assert first.measure is not None
    assert first.measure.n == 500
    assert again.measure == first.measure
    assert again.verdict == first.verdict == again.lineage["self_measure"]["verdict"]


def test_a_killed_run_ends_with_the_verdict_of_an_uninterrupted_one(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(step: int) -> None:
        if step == 45:
            raise KilledError

    whole = uf.unlearn(request(), transport(), tmp_path / "whole")
    with pytest.raises(KilledError):
        uf.unlearn(request(), transport(), tmp_path / "killed", on_step=kill)
    assert uf.unlearn(request(), transport(), tmp_path / "killed").verdict == whole.verdict


def test_the_measure_changes_no_weight_and_can_be_left_out() -> None:
    with_it, without = (uf.unlearn(request(), transport(), self_measure=n) for n in (200, 0))
    for name, weight in with_it.model.state_dict().items():
        assert torch.equal(weight, without.model.state_dict()[name])
    assert "self_measure" not in without.lineage
    assert without.verdict == "cannot know: nothing was measured"
    with pytest.raises(RunFailedError, match="required forgotten; got: cannot know"):
        without.require("forgotten")


def test_bad_requirements_and_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="got the requirement 'sharper'; expected names among forgotten"):
        uf.unlearn(request(), "reject", self_measure=100).require("sharper")
    with pytest.raises(InputError, match="got 50 samples for the self-measure; expected 100 or more"):
        uf.unlearn(request(), "reject", self_measure=50)
