"""Laws of the algebra of requests, and what cannot be an energy."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unflow.energies import (
    Balanced,
    CallableEnergy,
    ClassLogOdds,
    Decoded,
    Energy,
    Minimum,
    Negative,
    Region,
    Scaled,
    Softplus,
    Sum,
    check_classes,
    evaluate,
    require_bounded,
    retained_probabilities,
)
from unflow.energies.unread import Unread
from unflow.ground.errors import InputError

X = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None]


def first(x: Tensor) -> Tensor:
    return x[:, 0]


def square(x: Tensor) -> Tensor:
    return x[:, 0] ** 2


def bounded(shift: float = 0.0) -> Energy:
    return Softplus(CallableEnergy(lambda x: first(x) + shift))


def classifier(classes: int = 4) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, classes)
    return nn.Sequential(*layers).double()


def test_sigmoid_of_minus_s_is_exp_of_minus_softplus() -> None:
    s = torch.linspace(-30, 30, 601, dtype=torch.float64)[:, None]
    weight = torch.exp(-Softplus(CallableEnergy(first))(s))
    torch.testing.assert_close(weight, torch.sigmoid(-s[:, 0]), rtol=1e-8, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(s=st.floats(-500, 500), margin=st.floats(0, 20))
def test_the_bounded_energy_gives_weights_between_zero_and_one(s: float, margin: float) -> None:
    x = torch.tensor([[s]], dtype=torch.float64)
    weight = torch.exp(-Softplus(CallableEnergy(first), margin)(x))
    assert 0 <= float(weight) <= 1
    assert float(weight) == pytest.approx(float(torch.sigmoid(-(x + margin))), abs=1e-12)


# Requests for classes


def test_the_log_odds_of_a_class_follow_from_the_logits_of_all_classes() -> None:
    net = classifier().eval()
    energy = ClassLogOdds(net, [0], margin=None)
    logits = energy.class_logits(X)
    assert torch.equal(logits, net(X))
    torch.testing.assert_close(energy(X), logits[:, 0] - logits[:, 1:].logsumexp(1))


def test_one_class_is_forgotten_by_its_log_odds() -> None:
    net = classifier().eval()
    p = net(X).softmax(1)[:, 2]
    torch.testing.assert_close(ClassLogOdds(net, [2], margin=None)(X), torch.logit(p))


def test_several_classes_are_forgotten_by_the_log_odds_of_their_summed_probability() -> None:
    net = classifier().eval()
    p = net(X).softmax(1)[:, [0, 3]].sum(1)
    torch.testing.assert_close(ClassLogOdds(net, [3, 0], margin=None)(X), torch.logit(p))


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_a_margin_adds_to_the_log_odds_before_they_are_bounded(margin: float) -> None:
    net = classifier()
    raw, F = ClassLogOdds(net, [1], margin=None)(X), ClassLogOdds(net, [1], margin)(X)
    torch.testing.assert_close(torch.exp(-F), torch.sigmoid(-(raw + margin)))
    assert (F >= 0).all()
    assert ClassLogOdds(net, [1], margin).lower_bound == 0.0
    assert ClassLogOdds(net, [1], margin=None).lower_bound == -math.inf


def test_margin_zero_weighs_by_one_minus_the_probability_of_the_class() -> None:
    net = classifier().eval()
    weight = torch.exp(-ClassLogOdds(net, [1])(X))
    torch.testing.assert_close(weight, 1 - net(X).softmax(1)[:, 1])


def test_the_users_classifier_is_copied_and_stays_untouched() -> None:
    net = classifier().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    energy = ClassLogOdds(net, [0])
    copied: Any = energy.classifier
    x = X.clone().requires_grad_()
    energy(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(not p.requires_grad for p in energy.parameters())
    assert net.training
    assert torch.equal(energy(X), energy(X))
    with torch.no_grad():
        net[0].weight.zero_()
    assert torch.equal(copied[0].weight, before["0.weight"])


def test_the_gradient_of_the_energy_is_the_derivative() -> None:
    energy = 2 * (ClassLogOdds(classifier(), [1], margin=1.0) | bounded())
    assert torch.autograd.gradcheck(energy, X[::8].clone().requires_grad_())


@pytest.mark.parametrize(("forget", "message"), [([], "at least one class"), ([1, 1], "none twice")])
def test_an_empty_or_repeated_request_is_refused(forget: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassLogOdds(classifier(), forget)


@pytest.mark.parametrize("margin", [-1.0, math.nan, math.inf])
def test_a_margin_that_is_negative_or_not_finite_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match=r"margin=.*expected a finite number >= 0"):
        ClassLogOdds(classifier(), [0], margin)
    with pytest.raises(InputError, match=r"margin=.*expected a finite number >= 0"):
        Softplus(CallableEnergy(first), margin)


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([4], r"got class 4 .*expected classes from 0 to 3"),
        ([-1], r"got class -1 .*expected classes from 0 to 3"),
        ([0, 1, 2, 3], r"forget all 4 classes.*name fewer"),
    ],
)
def test_unknown_classes_and_all_classes_are_refused(forget: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassLogOdds(classifier(), forget)(X)
    with pytest.raises(InputError, match=message):
        check_classes(forget, 4)


@pytest.mark.parametrize("net", [nn.Flatten(0), nn.Unflatten(0, (1, -1))], ids=["flat", "three"])
def test_logits_of_the_wrong_shape_are_refused(net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"classifier returned shape .*num_classes\] logits"):
        ClassLogOdds(net, [0])(X.expand(-1, 2))


# The algebra


def test_a_union_multiplies_the_weights() -> None:
    A, B = bounded(1.0), bounded(-2.0)
    torch.testing.assert_close(
        torch.exp(-(A | B)(X)), torch.exp(-A(X)) * torch.exp(-B(X)), rtol=1e-12, atol=0
    )
    assert (A | B).lower_bound == 0.0


def test_a_union_of_raw_log_odds_would_cancel_and_is_refused() -> None:
    net = classifier(2)
    A, B = ClassLogOdds(net, [0], margin=None), ClassLogOdds(net, [1], margin=None)
    torch.testing.assert_close(A(X) + B(X), torch.zeros(len(X), dtype=X.dtype))
    for make in (lambda: A | B, lambda: bounded() | B, lambda: Sum([bounded(), -bounded()])):
        with pytest.raises(InputError, match=r"union of requests.*ClassLogOdds a margin"):
            make()
    assert float((Softplus(A) | Softplus(B))(X).min()) > 0


def test_an_intersection_is_the_minimum() -> None:
    A, B = bounded(1.0), Region(lambda x: x[:, 0] > 0, height=2.0)
    torch.testing.assert_close((A & B)(X), torch.minimum(A(X), B(X)))
    assert (A & B).lower_bound == 0.0
    assert (A & CallableEnergy(first)).lower_bound == -math.inf


def test_union_and_intersection_do_not_depend_on_the_order() -> None:
    A, B, C = bounded(), bounded(1.0), bounded(-3.0)
    torch.testing.assert_close(((A | B) | C)(X), (C | (B | A))(X))
    torch.testing.assert_close(((A & B) & C)(X), (C & (B & A))(X))
    torch.testing.assert_close((A & A)(X), A(X))
    torch.testing.assert_close((A | A)(X), (2 * A)(X))


def test_negation_changes_the_sign_and_twice_gives_the_energy_back() -> None:
    A = bounded()
    assert torch.equal((-A)(X), -A(X))
    assert torch.equal(Negative(-A)(X), A(X))


def test_a_negated_energy_is_refused_where_a_bound_is_needed() -> None:
    with pytest.raises(InputError, match=r"without a lower bound \(not .*for rejection"):
        require_bounded(-bounded(), "rejection")
    require_bounded(Softplus(-bounded()), "rejection")


def test_the_bounded_inverse_is_the_complementary_weight() -> None:
    raw = CallableEnergy(first)
    torch.testing.assert_close(
        torch.exp(-Softplus(-raw)(X)) + torch.exp(-Softplus(raw)(X)), torch.ones(len(X), dtype=X.dtype)
    )


def test_a_factor_scales_the_energy_and_its_bound() -> None:
    A = CallableEnergy(square, lower_bound=-1.0)
    assert torch.equal((3 * A)(X), 3 * A(X))
    assert torch.equal((A * 3)(X), 3 * A(X))
    assert (3 * A).lower_bound == -3.0
    assert (0 * CallableEnergy(first)).lower_bound == 0.0
    with pytest.raises(InputError, match=r"factor -2.*write -energy"):
        -2 * A


def test_one_energy_alone_is_no_combination() -> None:
    for combine in (Sum, Minimum):
        with pytest.raises(InputError, match="expected two or more"):
            combine([bounded()])


@pytest.mark.parametrize(
    "energy",
    [
        bounded(),
        bounded() | bounded(2.0),
        bounded() & Region(lambda x: x[:, 0] > 0),
        Softplus(CallableEnergy(square, lower_bound=0.0), margin=2.0),
        0.5 * CallableEnergy(square, lower_bound=0.0),
        ClassLogOdds(classifier(), [0], margin=2.0),
    ],
    ids=lambda energy: energy.describe(),
)
def test_no_energy_falls_under_its_lower_bound(energy: Energy) -> None:
    assert float(energy(X).min()) >= energy.lower_bound > -math.inf


def test_a_region_has_one_height_inside_and_zero_outside() -> None:
    F = Region(lambda x: x[:, 0] > 0, height=5.0)(X)
    assert torch.equal(F, 5.0 * (X[:, 0] > 0))
    assert F.dtype == X.dtype
    for height in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=r"height=.*expected a finite number > 0"):
            Region(lambda x: x[:, 0] > 0, height)


def test_a_black_box_gives_no_gradient() -> None:
    x = X.clone().requires_grad_()
    black, clear = CallableEnergy(square, differentiable=False), CallableEnergy(square)
    assert torch.equal(black(x), clear(x))
    assert not black(x).requires_grad
    assert clear(x).requires_grad


def test_a_combination_is_differentiable_where_all_its_parts_are() -> None:
    clear, black = bounded(), Region(lambda x: x[:, 0] > 0)
    assert not black.differentiable
    for make in (lambda a, b: a | b, lambda a, b: a & b):
        assert make(clear, clear).differentiable
        assert not make(clear, black).differentiable
    for wrap in (Negative, Softplus, lambda a: Scaled(a, 2.0)):
        assert wrap(clear).differentiable
        assert not wrap(black).differentiable


def test_a_request_says_in_words_what_it_is() -> None:
    A = ClassLogOdds(classifier(), [1, 2], margin=3.0)
    words = (2 * (A | Region(lambda x: x[:, 0] > 0)) & -CallableEnergy(square)).describe()
    for part in ("class 1 or 2 (margin 3)", "2 x", " or a region (height 20)", "and not", "square"):
        assert part in words
    assert "raw log-odds" in ClassLogOdds(classifier(), [1], margin=None).describe()
    assert "softplus, margin 1" in Softplus(A, 1.0).describe()


# Through a decoder


class Doubling(nn.Module):
    """A decoder from the line to the plane: z -> scale (z, z + 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.drop = nn.Parameter(torch.tensor(2.0, dtype=torch.float64)), nn.Dropout(0.5)

    def decode(self, latents: Tensor) -> Tensor:
        return self.drop(self.scale * torch.cat([latents, latents + 1], dim=1))


def squared_length(x: Tensor) -> Tensor:
    return x.square().sum(1)


def test_a_decoded_energy_is_the_energy_of_what_is_decoded_with_its_gradient() -> None:
    """F(x) = |x|^2 and x = 2 (z, z + 1): F = 4 z^2 + 4 (z + 1)^2, dF/dz = 16 z + 8."""
    energy = Decoded(CallableEnergy(squared_length, lower_bound=0.0), Doubling().train())
    z = X.clone().requires_grad_()
    F = energy(z)
    torch.testing.assert_close(F, 4 * first(X) ** 2 + 4 * (first(X) + 1) ** 2)
    F.sum().backward()
    torch.testing.assert_close(z.grad, 16 * X + 8)


def test_a_decoder_is_copied_and_frozen() -> None:
    decoder = Doubling().train()
    energy = Decoded(CallableEnergy(squared_length), decoder)
    before = energy(X)
    with torch.no_grad():
        decoder.scale.fill_(100.0)
    assert torch.equal(energy(X), before)
    assert decoder.training
    assert decoder.scale.requires_grad
    assert not any(parameter.requires_grad for parameter in energy.parameters())


def test_a_decoded_energy_has_the_bound_the_slope_and_the_words_of_its_inner_one() -> None:
    for inner in (
        bounded(),
        Region(lambda x: x[:, 0] > 0),
        CallableEnergy(first, -3.0),
        CallableEnergy(first),
    ):
        energy = Decoded(inner, Doubling())
        assert (energy.lower_bound, energy.differentiable) == (inner.lower_bound, inner.differentiable)
        assert inner.describe() in energy.describe()
        assert "decoded" in energy.describe()


# Balanced classes


def test_retained_probabilities_are_those_given_that_no_forgotten_class_is_there() -> None:
    logits = classifier().eval()(X)
    p = logits.softmax(1)
    given = p[:, [0, 2]] / p[:, [0, 2]].sum(1, keepdim=True)
    torch.testing.assert_close(retained_probabilities(logits, [3, 1]), given)
    torch.testing.assert_close(retained_probabilities(logits, [0, 1, 2]), torch.ones_like(p[:, :1]))


def test_a_balanced_energy_subtracts_each_retained_classs_offset_by_its_probability() -> None:
    net, b = classifier(), torch.tensor([0.5, -2.0, 1.25], dtype=torch.float64)
    energy = Balanced(bounded(), net, [1], b.tolist())
    p = net.eval()(X).softmax(1)[:, [0, 2, 3]]
    expected = bounded()(X) - (p * b).sum(1) / p.sum(1)
    torch.testing.assert_close(energy(X), expected)
    assert energy.lower_bound == -1.25
    assert float(energy(X).min()) >= energy.lower_bound
    assert "balanced" in energy.describe()
    assert bounded().describe() in energy.describe()


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_equal_offsets_shift_the_energy_and_change_no_target(shift: float) -> None:
    energy = Balanced(bounded(), classifier(), [1], [shift] * 3)
    torch.testing.assert_close(energy(X), bounded()(X) - shift)


def test_the_gradient_of_a_balanced_energy_is_the_derivative() -> None:
    energy = Balanced(bounded(), classifier(), [0], [0.5, -2.0, 1.0])
    assert torch.autograd.gradcheck(energy, X[::8].clone().requires_grad_())


def test_a_balanced_black_box_gives_no_gradient() -> None:
    energy = Balanced(Region(lambda x: x[:, 0] > 0), classifier(), [0], [0.5, -2.0, 1.0])
    assert not energy.differentiable
    assert not energy(X.clone().requires_grad_()).requires_grad


def test_offsets_that_are_not_one_finite_number_per_retained_class_are_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match=r"offsets \[0.0, .*expected finite numbers"):
            Balanced(bounded(), classifier(), [1], [0.0, bad, 0.0])
    with pytest.raises(InputError, match="got 2 offsets for 3 retained classes; expected one each"):
        Balanced(bounded(), classifier(), [1], [0.0, 0.0])(X)


# Evaluation at many samples


def test_evaluation_in_chunks_is_evaluation_at_once_and_takes_no_gradient() -> None:
    x = X.clone().requires_grad_()
    F = evaluate(bounded(), x, batch_size=7)
    torch.testing.assert_close(F, bounded()(X))
    assert not F.requires_grad


@pytest.mark.parametrize(
    "function", [lambda x: x, lambda x: x[:, 0].sum(), lambda x: x[:-1, 0]], ids=["2d", "0d", "few"]
)
def test_an_energy_of_the_wrong_shape_is_refused(function: Any) -> None:
    with pytest.raises(InputError, match=r"energy returned shape .*expected \[41\]"):
        evaluate(CallableEnergy(function), X)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_energy_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"NaN or infinite for 1 of 41 samples"):
        evaluate(CallableEnergy(lambda x: torch.where(x[:, 0] == 4, bad, x[:, 0])), X)


def test_a_constant_energy_names_nothing_and_is_refused() -> None:
    with pytest.raises(InputError, match=r"same number \(2\) for all 41 samples"):
        evaluate(CallableEnergy(lambda x: 0 * x[:, 0] + 2), X)
    assert float(evaluate(CallableEnergy(first), X[:1])) == -4.0


def test_an_energy_under_its_stated_bound_is_refused() -> None:
    with pytest.raises(InputError, match=r"-4 .*under its stated lower bound 0"):
        evaluate(CallableEnergy(first, lower_bound=0.0), X)


def test_one_class_may_be_given_as_a_number() -> None:
    assert ClassLogOdds(torch.nn.Linear(2, 3), 1).forget == ClassLogOdds(torch.nn.Linear(2, 3), [1]).forget


def test_a_request_without_an_energy_has_none_for_samples() -> None:
    with pytest.raises(InputError, match=r"a request \(class 3\) without an energy for 4 samples"):
        Unread("class 3")(torch.zeros(4, 2))
