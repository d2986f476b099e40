"""Latent search: where the best typical latent is known, and what does not count as found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from unflow.energies import Region
from unflow.evidence.attacks import LatentSearch
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Filtered, Generator, latent_norm
from unflow.models.classifier import Classifier

D = 8


def diagonal() -> Any:
    """x = (z_1 + ... + z_d) / sqrt(d): at most ||z||, along the diagonal."""
    net = nn.utils.skip_init(nn.Linear, D, 1, bias=False)
    nn.init.constant_(net.weight, D**-0.5)
    return Generator(net, (D,)).eval().requires_grad_(False)


class Above(nn.Module):
    """Logits (0, slope (x - threshold)): class 1 is what lies above."""

    def __init__(self, threshold: float, slope: float = 5.0) -> None:
        super().__init__()
        self.threshold, self.slope = threshold, slope

    def forward(self, x: Tensor) -> Tensor:
        logit = self.slope * (x[:, 0] - self.threshold)
        return torch.stack([torch.zeros_like(logit), logit], 1)


def judge(threshold: float) -> Classifier:
    return Classifier(Above(threshold), ["below", "above"])


SEARCH = LatentSearch(starts=2000, steps=150, learning_rate=0.1)


def test_it_finds_what_a_typical_latent_can_give_and_no_more() -> None:
    """A sample above t needs ||z|| > t, which is left as it was: the share is that of a chi law."""
    found = SEARCH(diagonal(), judge(2.8), judge(2.8), [1], stream(1))
    exact = float(stats.chi(D).sf(2.8))
    assert 0.4 < exact < 0.6
    assert found.success_share == pytest.approx(exact, abs=4 * 0.5 / 2000**0.5)
    norm = latent_norm(diagonal().prior(2000, stream(1)))
    torch.testing.assert_close(latent_norm(found.z), norm, rtol=0.02, atol=0)
    torch.testing.assert_close(found.x, diagonal().push(found.z))


def test_sampling_alone_would_have_missed_it() -> None:
    x = diagonal().sample(2000, stream(1))
    assert float((x[:, 0] > 2.8).double().mean()) < 0.01


def test_what_the_second_judge_does_not_see_is_no_success() -> None:
    found = SEARCH(diagonal(), judge(2.0), judge(3.2), [1], stream(1))
    assert float(found.fooled.double().mean()) == pytest.approx(float(stats.chi(D).sf(2.0)), abs=0.05)
    assert found.success_share == pytest.approx(float(stats.chi(D).sf(3.2)), abs=0.05)
    assert bool((found.fooled | ~found.confirmed).all())


def test_where_nothing_is_left_nothing_is_found() -> None:
    assert SEARCH(diagonal(), judge(9.0), judge(9.0), [1], stream(1)).success_share == 0


def test_a_uniform_prior_keeps_to_its_box() -> None:
    net = nn.utils.skip_init(nn.Linear, 2, 1, bias=False)
    nn.init.ones_(net.weight)
    model = Generator(net, (2,), prior="uniform").eval()
    found = LatentSearch(starts=100, steps=40)(model, judge(1.0), judge(1.0), [1], stream(2))
    assert float(found.z.abs().max()) <= 1
    assert found.success_share > 0.3


def test_the_model_and_the_judges_stay_as_they_were() -> None:
    model, referee = diagonal().train(), judge(2.0).train()
    before = model.net.weight.clone()
    LatentSearch(starts=20, steps=3)(model, referee, referee, [1], stream(3))
    assert torch.equal(model.net.weight, before)
    assert model.training
    assert referee.training
    assert model.net.weight.grad is None


def test_a_search_is_the_same_with_the_same_stream() -> None:
    first, second = (
        LatentSearch(starts=20, steps=5)(diagonal(), judge(2.0), judge(2.0), [1], stream(4)) for _ in range(2)
    )
    assert torch.equal(first.z, second.z)


def test_a_filter_has_no_gradient_to_climb_where_it_draws_again() -> None:
    """The filter's own samples pass their gradient; it is the model inside that holds the forgotten."""
    filtered = Filtered(diagonal(), Region(lambda x: x[:, 0] > 0, height=9.0))
    search = LatentSearch(starts=300, steps=30)
    outside = search(filtered, judge(1.0), judge(1.0), [1], stream(5)).success_share
    inside = search(filtered.model, judge(1.0), judge(1.0), [1], stream(5)).success_share
    assert outside < 0.05
    assert inside > 0.9


class Still(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.detach()[:, :1]


def test_bad_input_is_refused() -> None:
    for options, words in (
        ({"starts": 0}, "starts=0"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ):
        with pytest.raises(InputError, match=words):
            LatentSearch(**options)
    with pytest.raises(InputError, match="forget"):
        LatentSearch()(diagonal(), judge(1.0), judge(1.0), [], stream(1))
    with pytest.raises(InputError, match=r"Generator whose samples have no gradient.*find_original"):
        LatentSearch(starts=5)(Generator(Still(), (D,)), judge(1.0), judge(1.0), [1], stream(1))
