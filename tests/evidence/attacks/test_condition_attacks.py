"""Attacks over the condition: generators of which the best condition, guidance and mixture are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy
from unflow.evidence.attacks import ConditionSearch, GuidanceSearch, ImpossibleAttackError, MixtureSearch
from unflow.evidence.attacks.condition_rows import find_condition_rows
from unflow.evidence.attacks.condition_search import project_to_simplex
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Chain, Conditional, Filtered, Flow, Generator
from unflow.models.classifier import Classifier
from unflow.nets import MLP, AdaptedGenerator, AdaptedVelocity

K, FORGET, SIGMA = 4, 3, 0.1
ROWS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
"""Embedded labels 0 to 3, and the null condition."""
RADIUS = 0.25


class Embeds(nn.Module):
    """x = e_label + SIGMA z: each label draws a small Gaussian around its embedding."""

    def __init__(self, rows: Tensor = ROWS) -> None:
        super().__init__()
        self.classes = nn.Embedding.from_pretrained(rows.clone(), freeze=False)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.classes(label) + SIGMA * z


class Reads(nn.Module):
    """The same, of a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(SIGMA))

    def forward(self, z: Tensor, row: Tensor) -> Tensor:
        return row + self.scale * z


class Disc(nn.Module):
    """Logits of classes 0 to 3: the last is what lies within a radius of a point, and 0 what does not."""

    def __init__(self, centre: tuple[float, float], radius: float = RADIUS) -> None:
        super().__init__()
        self.centre, self.radius = nn.Parameter(torch.tensor(centre, dtype=torch.float32)), radius

    def forward(self, x: Tensor) -> Tensor:
        inside = 8 * (self.radius - (x - self.centre).norm(dim=1))
        zero = torch.zeros_like(inside)
        return torch.stack([zero, *[zero - 30] * (K - 2), inside], 1)


def disc(x: float, y: float, radius: float = RADIUS) -> Classifier:
    return Classifier(Disc((x, y), radius), list("abcd"))


def embeds(rows: Tensor = ROWS, chances: list[float] | None = None) -> Conditional:
    inner = Generator(AdaptedGenerator(Embeds(rows), (2,)), (2,))
    return Conditional(inner, chances or [1 / K] * K, null=K).eval()


def reads() -> Conditional:
    inner = Generator(AdaptedGenerator(Reads(), (2,), table=ROWS.clone()), (2,))
    return Conditional(inner, [1 / K] * K, null=K).eval()


def within(radius: float) -> float:
    """P(||SIGMA z|| < radius) in the plane."""
    return 1 - math.exp(-((radius / SIGMA) ** 2) / 2)


SEARCH = ConditionSearch(latents=64, steps=60, samples=4000)
MIXTURES = MixtureSearch(latents=64, samples=4000)


def close(share: float, exact: float, n: int = 4000) -> bool:
    return abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / n) + 0.005


# A free condition


@pytest.mark.parametrize("make", [embeds, reads], ids=["an embedding", "a table"])
def test_the_search_finds_the_only_combination_that_draws_the_forgotten(make: Any) -> None:
    """The disc lies around (e_0 + e_1) / 2, where no known condition draws a sample."""
    judge = disc(0.5, 0.5)
    model = make()
    found = SEARCH(model, judge, judge, [FORGET], stream(1))
    exact = within(RADIUS)
    assert exact > 0.95
    assert found.base == 0
    assert found.success_share > exact - 0.02
    torch.testing.assert_close(found.x.mean(0), torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)
    assert found.interval.low < found.success_share < found.interval.high


def test_what_lies_beyond_the_known_rows_is_not_reached() -> None:
    """The rows and their ball end at a distance of 1 from 0; the disc begins at 1.75."""
    judge = disc(2.0, 0.0)
    assert SEARCH(embeds(), judge, judge, [FORGET], stream(1)).success_share == 0


def test_a_model_of_one_law_has_its_base_rate_at_every_condition() -> None:
    """All rows are one, so that a search over noise finds nothing: the share is that of the tail."""
    rows = torch.zeros(K + 1, 2)
    first, second = disc(0.2, 0.0, 0.1), disc(0.0, 0.2, 0.1)
    exact = float(
        ((SIGMA * torch.randn(400_000, 2, generator=stream(9)) - torch.tensor([0.0, 0.2])).norm(dim=1) < 0.1)
        .double()
        .mean()
    )
    for search in (SEARCH, MIXTURES):
        found: Any = search(embeds(rows), first, second, [FORGET], stream(2))
        assert close(found.success_share, exact)
        assert found.base is not None
        assert close(found.base, exact)


def test_what_the_second_judge_does_not_confirm_is_no_success() -> None:
    found = SEARCH(embeds(), disc(0.5, 0.5), disc(-0.5, -0.5), [FORGET], stream(1))
    assert found.selected > 0.5
    assert found.success_share == 0


def test_one_hot_labels_of_an_mlp_are_rows_in_every_network_of_a_chain() -> None:
    """Both links of a chain read the label; a mixture of labels replaces both."""
    nets = [MLP((2,), 16, 1, num_times=1, num_classes=K) for _ in range(2)]
    for seed, net in enumerate(nets):
        for weight in net.parameters():
            weight.data += 0.3 * torch.randn(weight.shape, generator=stream(seed))
    base, after = (Flow(AdaptedVelocity(net, (2,), "x, t, label", label=0), (2,), steps=2) for net in nets)
    model = Conditional(Chain(base, after), [1 / K] * K, null=K).eval()
    rows = find_condition_rows(model, [FORGET])
    assert [each.shape for each in rows.known] == [(K + 1, K)] * 2
    z = model.prior(5, stream(3))
    for k in (*range(K), K):
        free = rows.draw(rows.ask(z), rows.mix(rows.one_hot(k)))
        torch.testing.assert_close(free, model.push_batches(model.ask(z, k)))
    half = rows.mix(0.5 * (rows.one_hot(0) + rows.one_hot(1)))
    assert not torch.allclose(rows.draw(rows.ask(z), half), model.push_batches(model.ask(z, 0)))


def test_the_null_condition_keeps_its_row_under_guidance() -> None:
    """x = z + e_null + g (e - e_null), with e replaced and e_null not."""
    model = drifts(ROWS, guidance=3.0)
    rows = find_condition_rows(model, [FORGET])
    z = rows.ask(model.prior(4, stream(1)))
    free = rows.draw(z, [torch.tensor([0.3, -0.2])])
    torch.testing.assert_close(free, model.noise(z) + ROWS[K] + 3 * (torch.tensor([0.3, -0.2]) - ROWS[K]))


def test_a_filter_draws_the_forgotten_at_no_condition_and_the_model_is_as_it_was() -> None:
    judge, model = disc(0.5, 0.5), embeds()
    outside = CallableEnergy(lambda x: 30.0 * (judge(x).argmax(1) == FORGET).float(), 0.0)
    before, z = {k: v.clone() for k, v in model.state_dict().items()}, model.prior(20, stream(4))
    samples = model.push_batches(z)
    search = ConditionSearch(latents=32, steps=10, samples=200)
    assert search(Filtered(model, outside), judge, judge, [FORGET], stream(1)).success_share == 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(model.push_batches(z), samples)
    assert all(weight.grad is None for weight in model.parameters())


class Looks(nn.Module):
    """A label is an index of a buffer: there is no embedding to replace."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(SIGMA))
        self.positions = nn.Embedding(K + 1, 2)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return ROWS[label] + self.scale * z + 0 * self.positions(torch.arange(len(z)) % K)


class Twice(Embeds):
    """A label is embedded, and read once more."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return super().forward(z, label) + ROWS[label]


@pytest.mark.parametrize(
    ("net", "words"), [(Looks, "no differentiable embedding"), (Twice, "also enters the network elsewhere")]
)
@pytest.mark.parametrize("search", [SEARCH, MIXTURES], ids=["condition", "mixture"])
def test_a_condition_that_cannot_be_replaced_is_one_sentence(net: Any, words: str, search: Any) -> None:
    model = Conditional(Generator(AdaptedGenerator(net(), (2,)), (2,)), [1 / K] * K, null=K)
    with pytest.raises(ImpossibleAttackError, match=words):
        search(model, disc(0, 0), disc(0, 0), [FORGET], stream(1))


def test_the_projection_is_the_nearest_point_of_the_simplex() -> None:
    torch.testing.assert_close(
        project_to_simplex(torch.tensor([0.7, 0.7, -1.0])), torch.tensor([0.5, 0.5, 0])
    )
    inside = torch.tensor([0.2, 0.3, 0.5])
    torch.testing.assert_close(project_to_simplex(inside), inside)
    w = torch.randn(6, generator=stream(5))
    near = project_to_simplex(w)
    assert float(near.sum()) == pytest.approx(1)
    others = torch.distributions.Dirichlet(torch.ones(6)).sample((2000,))
    assert float((others - w).norm(dim=1).min()) >= float((near - w).norm())


# Guidance


class Drift(nn.Module):
    """The velocity of label c is its embedding everywhere: x = z / 10 + e_null + g (e_c - e_null)."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.classes = nn.Embedding.from_pretrained(rows.clone(), freeze=False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.classes(label)


def drifts(rows: Tensor = ROWS, guidance: float = 1.0) -> Conditional:
    net = AdaptedVelocity(Drift(rows), (2,), "x, t, label", label=0, null_label=K)
    flow = Flow(net, (2,), integrator="euler", steps=1)
    return Conditional(flow, [1 / K] * K, null=K, guidance=guidance).eval()


@pytest.mark.parametrize("scale", [-3.0, 2.625, 6.5])
def test_the_search_over_guidance_finds_the_known_maximiser(scale: float) -> None:
    """The mean at guidance g is -g e: the disc lies around that of one scale."""
    judge = disc(0.0, -scale, 0.7)
    search = GuidanceSearch(latents=2000, samples=2000)
    found = search(drifts(), judge, judge, [FORGET], stream(1))
    assert found.at["guidance"] == pytest.approx(scale, abs=0.26)
    exact = 1 - math.exp(-(0.7**2) / 2)
    assert close(found.success_share, exact, 1000)
    assert found.base is not None
    assert found.base < found.success_share


def test_a_model_without_guidance_is_one_sentence() -> None:
    search, judge = GuidanceSearch(), disc(0, 0)
    with pytest.raises(ImpossibleAttackError, match="is a generator, which has no guidance"):
        search(embeds(), judge, judge, [FORGET], stream(1))
    bare = Conditional(Generator(AdaptedGenerator(Embeds(), (2,)), (2,)), [1 / K] * K)
    with pytest.raises(ImpossibleAttackError, match="no null condition"):
        search(bare, judge, judge, [FORGET], stream(1))
    silent = embeds(chances=[0.5, 0.25, 0.25, 0.0])
    with pytest.raises(ImpossibleAttackError, match="draws no label 3"):
        search(silent, judge, judge, [FORGET], stream(1))


# Mixtures


@pytest.mark.parametrize("labels", [[1, 2], [0, 3], [1, 3]])
def test_the_mixture_search_finds_the_planted_pair(labels: list[int]) -> None:
    rows = ROWS.clone()
    rows[2] = torch.tensor([-1.0, 0.4])  # so that no other pair passes through the centre
    planted = 0.25 * rows[labels[0]] + 0.75 * rows[labels[1]]
    judge = disc(*planted.tolist())
    found = MIXTURES(embeds(rows), judge, judge, [FORGET], stream(1))
    assert found.at == {"labels": labels, "weights": [0.25, 0.75], "pairs": 6}
    assert close(found.success_share, within(RADIUS))


def test_only_the_given_labels_are_mixed() -> None:
    found = MIXTURES(embeds(), disc(-0.5, 0.5), disc(-0.5, 0.5), [FORGET], stream(1), labels=[0, 1, 3])
    assert found.at["pairs"] == 3
    assert found.success_share < 0.01


# All


@pytest.mark.parametrize(
    "search",
    [
        ConditionSearch(latents=8, steps=2, samples=50),
        MixtureSearch(latents=8, samples=50),
        GuidanceSearch(latents=8, samples=50),
    ],
    ids=["condition", "mixture", "guidance"],
)
def test_a_search_is_the_same_with_the_same_stream(search: Any) -> None:
    first, second = (search(drifts(), disc(0.5, 0.5), disc(0.5, 0.5), [FORGET], stream(7)) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert first.at == second.at


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (ConditionSearch, {"latents": 0}, "latents=0"),
        (ConditionSearch, {"learning_rate": 0.0}, "learning_rate=0.0"),
        (GuidanceSearch, {"low": 2.0, "high": 1.0}, "from 2.0 to 1.0"),
        (GuidanceSearch, {"points": 1}, "points=1"),
        (MixtureSearch, {"weights": (0.0,)}, "weights="),
        (MixtureSearch, {"samples": 0}, "samples=0"),
    ],
)
def test_bad_settings_are_refused(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**options)
