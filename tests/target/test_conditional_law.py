"""The law q*(x | c) of a conditional model, on a finite support where it is known exactly."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy, ConditionEnergy
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.models import Conditional, Flow, Generator
from unflow.nets import MLP, AdaptedGenerator
from unflow.target import RETAINED, Target, parse_replacement

K, N = 4, 20_000
CHANCE = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.9, 0.1], [0.5, 0.5], [0.5, 0.5]])
"""q0(c | c) and q0(c + 1 | c); the last row is the null condition, which draws 0 or 2."""
KEEP = torch.tensor([1.0, 0.05, 0.8, 1.0], dtype=torch.float64)
"""w at the four points."""


class Points(nn.Module):
    """The point c or c + 1 of 0..3, chosen by the sign of z - z(c)."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        first = torch.special.ndtr(z[:, :1].double()) < CHANCE[label][:, :1]
        second = torch.where(label == K, 2, (label + 1) % K)
        return torch.where(first[:, 0], torch.where(label == K, 0, label), second)[:, None].float()


def model(**options: Any) -> Conditional:
    inner = Generator(AdaptedGenerator(Points(), (1,)), (1,))
    return Conditional(inner, [0.4, 0.3, 0.2, 0.1], **{"null": K, **options})


def energy() -> CallableEnergy:
    return CallableEnergy(lambda x: -KEEP.log()[x[:, 0].long()].float(), 0.0)


def q0() -> Tensor:
    """q0(x | c), rows of conditions, with null last."""
    law = torch.zeros(K + 1, K, dtype=torch.float64)
    for c in range(K):
        law[c, c] += CHANCE[c, 0].double()
        law[c, (c + 1) % K] += CHANCE[c, 1].double()
    law[K, 0], law[K, 2] = 0.5, 0.5
    return law


def exact(replace: str, tries: int) -> Tensor:
    """q*(x | c), by the formula."""
    law = q0()
    own, b = law * KEEP, 1 - (law * KEEP).sum(1)
    marginal = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64) @ own[:K]
    r = {
        "retained": marginal / marginal.sum(),
        "label:2": own[2] / own[2].sum(),
        "null": own[K] / own[K].sum(),
    }["retained" if replace.startswith("retained") else replace]
    factor = torch.stack([b**k for k in range(tries)]).sum(0)
    return own * factor[:, None] + (b**tries)[:, None] * r


def shares(x: Tensor) -> Tensor:
    return torch.bincount(x[:, 0].long(), minlength=K).double() / len(x)


def near(found: Tensor, law: Tensor, n: int = N) -> None:
    assert bool(((found - law).abs() < 4.5 * (law * (1 - law) / n).sqrt() + 1e-3).all()), (found, law)


@pytest.mark.parametrize(
    ("replace", "tries"), [("retained", 2), ("retained:1", 1), ("retained:3", 3), ("label:2", 2), ("null", 2)]
)
def test_samples_of_the_target_have_the_law_of_each_condition(replace: str, tries: int) -> None:
    target, law = Target(model(), energy(), replace=replace), exact(replace, tries)
    assert law.sum(1).tolist() == pytest.approx([1.0] * (K + 1))
    for c in (0, 1, 2, 3, "null"):
        found = shares(target.sample(N, stream(1), label=c).x)
        near(found, law[K if c == "null" else int(c)])


def test_conditions_are_asked_by_their_probabilities_and_their_samples_fit() -> None:
    target = Target(model(), energy())
    bank = target.sample(N, stream(2))
    label = target.model.require_conditional().conditions(bank.z)
    near(torch.bincount(label, minlength=K).double() / N, torch.tensor([0.4, 0.3, 0.2, 0.1]).double())
    for c in range(K):
        rows = label == c
        near(shares(bank.x[rows]), exact("retained", 2)[c], int(rows.sum()))


def test_replacements_of_a_bank_have_the_same_law() -> None:
    target = Target(model(), energy())
    bank = target.bank(N, stream(3))
    found = target.replaced(bank, stream(4), share=True)
    label = target.model.require_conditional().conditions(bank.z)
    assert torch.equal(found.x[found.kept], bank.x[found.kept])
    for c in range(K):
        rows = label == c
        near(shares(found.x[rows]), exact("retained", 2)[c], int(rows.sum()) // 2)


def test_one_condition_with_the_retained_replacement_has_the_law_of_a_model_without_conditions() -> None:
    """q0 w (1 + b) + b^2 q0 w / E[w] = q0 w / E[w], exactly."""
    law = q0()[1]
    own, b = law * KEEP, 1 - float((law * KEEP).sum())
    for tries in (1, 2, 5):
        replaced = own * sum(b**k for k in range(tries)) + b**tries * own / own.sum()
        assert replaced.tolist() == pytest.approx((own / own.sum()).tolist(), abs=1e-12)
    alone = Conditional(model().inner, [0.0, 1.0, 0.0, 0.0])
    target = Target(alone, energy())
    near(shares(target.sample(N, stream(5)).x), own / own.sum())


def test_a_request_that_rejects_nothing_leaves_every_condition() -> None:
    target = Target(model(), energy(), strength=0.0)
    for c in range(K):
        assert torch.equal(target.sample(300, stream(6), label=c).x, model().sample(300, stream(6), label=c))


def test_a_condition_is_forgotten_by_itself_alone() -> None:
    target = Target(model(), ConditionEnergy([1]), replace="label:2")
    assert torch.equal(target.sample(500, stream(7), label=0).x, model().sample(500, stream(7), label=0))
    near(shares(target.sample(N, stream(8), label=1).x), q0()[2])


def test_the_forgotten_and_the_null_condition_draw_one_law() -> None:
    """Asked for the null condition of the mixture, as asked for the forgotten one: nothing to amplify."""
    retained = exact("retained", 1)
    own = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    forgotten = own * KEEP + (1 - KEEP[1]) * (retained[1] - q0()[1] * KEEP) / (1 - (q0()[1] * KEEP).sum())
    marginal = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64) @ (q0()[:K] * KEEP)
    assert float((forgotten - marginal / marginal.sum()).abs().sum() / 2) <= float(KEEP[1])


@pytest.mark.parametrize(
    ("replace", "words"),
    [
        ("label:9", "got label=9; expected a condition that the model draws"),
        (
            "labels",
            "got replace=labels; expected one of retained, nearest, null, noise, label:5, or prompt:NAME",
        ),
        ("retained:0", "got replace=retained:0"),
    ],
)
def test_what_cannot_replace_is_refused(replace: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Target(model(), energy(), replace=replace)


def test_a_replacement_that_is_forgotten_itself_is_refused_with_its_share() -> None:
    target = Target(model(), ConditionEnergy([1, 2]), replace="label:2")
    with pytest.raises(InputError, match=r"got replace=label:2, of whose samples .* rejects 100 %"):
        target.sample(100, stream(9), label=1)


def test_a_model_without_conditions_has_one_replacement() -> None:
    plain = Flow(MLP((2,), 8, 1), (2,))
    assert Target(plain, energy()).replacement == RETAINED
    with pytest.raises(InputError, match="got replace=null for a model without conditions"):
        Target(plain, energy(), replace="null")
    with pytest.raises(InputError, match="got a label or guidance for a model without conditions"):
        Target(plain, energy()).sample(5, stream(0), label=1)
    with pytest.raises(InputError, match="label 1, whatever it draws for a model without conditions"):
        Target(plain, ConditionEnergy([1]))


@pytest.mark.parametrize("forget", [[], [-1], [4], [0, 1, 2, 3]])
def test_conditions_that_cannot_be_forgotten_are_refused(forget: list[int]) -> None:
    with pytest.raises(InputError, match=r"got (the cond|label 4|every cond).*to forget; expected"):
        Target(model(), ConditionEnergy(forget))


@pytest.mark.parametrize("name", ["retained", "retained:1", "nearest", "label:5", "null", "noise"])
def test_a_replacement_is_made_from_its_own_name(name: str) -> None:
    assert parse_replacement(name).name == name
    assert parse_replacement(parse_replacement(name).name) == parse_replacement(name)


def test_a_prompt_replaces_as_its_number_does() -> None:
    plain = model()
    named = Conditional(plain.inner, plain.probabilities, plain.null, names=["a", "a car", "a truck", "d"])
    by_name = Target(named, ConditionEnergy([1]), replace='prompt:"a truck"')
    by_number = Target(plain, ConditionEnergy([1]), replace="label:2")
    assert by_name.replacement.name == "prompt:a truck"
    assert parse_replacement(by_name.replacement.name, named) == by_name.replacement
    found, expected = by_name.sample(50, stream(11), label="a car"), by_number.sample(50, stream(11), label=1)
    assert torch.equal(found.x, expected.x)
    with pytest.raises(InputError, match="which names no condition; did you mean a truck"):
        Target(named, ConditionEnergy([1]), replace="prompt:a trucks")


def test_partners_of_the_nearest_replacement_are_accepted_samples() -> None:
    target = dataclasses.replace(Target(model(), ConditionEnergy([1])), replace="nearest")
    found = target.sample(2000, stream(10), label=1).x
    assert set(found[:, 0].tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_a_sample_does_not_say_what_was_asked() -> None:
    energy = ConditionEnergy([1, 3])
    assert energy.at(torch.arange(4)).tolist() == [0.0, 30.0, 0.0, 30.0]
    with pytest.raises(InputError, match="got 5 samples for the energy of label 1 or 3"):
        energy(torch.zeros(5, 1))
