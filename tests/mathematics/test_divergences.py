"""Laws of convex conjugates, and of the multiplier that makes a tilt a probability."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from unflow.ground.errors import InputError
from unflow.mathematics.divergences import DIVERGENCES, KL, Chi2, Divergence, SoftplusDivergence

S = torch.tensor([-6.0, -3.0, -1.9, -0.5, 0.0, 0.3, 1.0, 2.5], dtype=torch.float64)


@pytest.fixture(params=DIVERGENCES.values(), ids=list(DIVERGENCES))
def divergence(request: pytest.FixtureRequest) -> Divergence:
    return request.param()


def ratios(divergence: Divergence) -> torch.Tensor:
    return torch.linspace(0, min(divergence.max_ratio, 6.0), 13, dtype=torch.float64)


def total_variation(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p - q).abs().sum() / 2)


def test_the_conjugate_is_the_supremum_of_rs_minus_phi(divergence: Divergence) -> None:
    r = min(divergence.max_ratio, 20.0) * torch.linspace(0, 1, 50_001, dtype=torch.float64) ** 2
    supremum = (r[:, None] * S - divergence.phi(r)[:, None]).amax(0)
    torch.testing.assert_close(divergence.conjugate(S), supremum, rtol=0, atol=1e-7)


@pytest.mark.parametrize("ratio", [1.5, 4.0])
def test_the_limited_conjugate_is_the_supremum_over_ratios_up_to_the_limit(
    divergence: Divergence, ratio: float
) -> None:
    r = min(divergence.max_ratio, ratio) * torch.linspace(0, 1, 50_001, dtype=torch.float64) ** 2
    supremum = (r[:, None] * S - divergence.phi(r)[:, None]).amax(0)
    torch.testing.assert_close(divergence.conjugate_up_to(S, ratio), supremum, rtol=0, atol=1e-7)


def test_the_limited_conjugate_is_the_same_bits_inside_and_finite_outside(divergence: Divergence) -> None:
    s = S.float()
    assert torch.equal(divergence.conjugate_up_to(s, 1e3), divergence.conjugate(s))
    far = torch.tensor(500.0, requires_grad=True)  # where KL's own overflows
    value = divergence.conjugate_up_to(far, 1e3)
    (slope,) = torch.autograd.grad(value, far)
    assert torch.isfinite(value)
    assert float(slope) <= 1e3


def test_the_conjugate_of_the_conjugate_is_phi(divergence: Divergence) -> None:
    r = ratios(divergence)
    s = torch.linspace(-40, 40, 200_001, dtype=torch.float64)
    supremum = (r * s[:, None] - divergence.conjugate(s)[:, None]).amax(0)
    torch.testing.assert_close(divergence.phi(r), supremum, rtol=0, atol=1e-6)


def test_phi_is_zero_at_one_and_positive_elsewhere(divergence: Divergence) -> None:
    one = torch.ones((), dtype=torch.float64)
    assert float(divergence.phi(one)) == 0.0
    assert float(divergence.conjugate(0 * one)) == 0.0
    assert float(divergence.tilt(0 * one)) == 1.0
    assert (divergence.phi(ratios(divergence)[[0, 5, -1]]) > 0).all()


def test_phi_is_infinite_outside_its_domain(divergence: Divergence) -> None:
    outside = [-0.1, -3.0]
    if math.isfinite(divergence.max_ratio):
        outside.append(divergence.max_ratio + 0.01)
    assert (divergence.phi(torch.tensor(outside)) == math.inf).all()


def test_tilt_is_the_derivative_of_the_conjugate(divergence: Divergence) -> None:
    s = S.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence.conjugate(s).sum(), s)
    torch.testing.assert_close(divergence.tilt(S), slope, rtol=1e-12, atol=1e-14)


def test_inverse_tilt_undoes_tilt(divergence: Divergence) -> None:
    for ratio in (0.05, 0.5, 1.0, 1.7, min(5.0, divergence.max_ratio - 1e-3)):
        s = torch.tensor(divergence.inverse_tilt(ratio), dtype=torch.float64)
        assert float(divergence.tilt(s)) == pytest.approx(ratio, rel=1e-12)


def test_fenchels_inequality_is_an_equality_at_the_tilt(divergence: Divergence) -> None:
    r = divergence.tilt(S)
    torch.testing.assert_close(divergence.phi(r) + divergence.conjugate(S), r * S, rtol=0, atol=1e-12)


def test_tilt_is_nonnegative_increasing_and_reaches_up_to_max_ratio(divergence: Divergence) -> None:
    tilted = divergence.tilt(torch.linspace(-200, 200, 4001, dtype=torch.float64))
    assert (tilted >= 0).all()
    assert (tilted.diff() >= 0).all()
    assert float(tilted.max()) <= divergence.max_ratio
    assert float(tilted.max()) >= min(divergence.max_ratio - 1e-9, 100.0)


def test_records_name_divergences_as_recipes_do() -> None:
    assert [kind().name for kind in DIVERGENCES.values()] == list(DIVERGENCES)


def test_softplus_cannot_remove_more_than_half_the_mass() -> None:
    p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    cost = torch.tensor([1000.0, 0.0], dtype=torch.float64)
    divergence = SoftplusDivergence()
    law = p * divergence.tilt(divergence.multiplier(cost, p) - cost)
    torch.testing.assert_close(law, torch.tensor([0.8, 0.2], dtype=torch.float64))


@pytest.mark.parametrize("strength", [0.0, 1e-17, 0.3, 5.0, 300.0])
def test_the_multiplier_gives_mass_one(
    divergence: Divergence, strength: float, generator: torch.Generator
) -> None:
    cost = strength * torch.randn(50, generator=generator, dtype=torch.float64)
    p = torch.rand(50, generator=generator, dtype=torch.float64)
    p = p / p.sum()
    for probabilities, masses in ((None, torch.full_like(p, 1 / 50)), (p, p)):
        kappa = divergence.multiplier(cost, probabilities)
        assert float((masses * divergence.tilt(kappa - cost)).sum()) == pytest.approx(1, abs=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    atoms=st.lists(st.tuples(st.floats(-50, 50), st.floats(0.01, 1)), min_size=1, max_size=8),
    name=st.sampled_from(sorted(DIVERGENCES)),
)
def test_the_multiplier_gives_mass_one_whatever_the_costs(
    atoms: list[tuple[float, float]], name: str
) -> None:
    cost, p = torch.tensor(atoms, dtype=torch.float64).T
    p = p / p.sum()
    divergence = DIVERGENCES[name]()
    kappa = divergence.multiplier(cost, p)
    assert float((p * divergence.tilt(kappa - cost)).sum()) == pytest.approx(1, abs=1e-10)


def test_the_multiplier_moves_along_with_the_cost(divergence: Divergence, generator: torch.Generator) -> None:
    cost = torch.randn(30, generator=generator, dtype=torch.float64)
    kappa = divergence.multiplier(cost)
    assert divergence.multiplier(cost + 7) == pytest.approx(kappa + 7, abs=1e-10)


def test_masses_that_add_up_to_one_only_up_to_rounding_have_a_multiplier(divergence: Divergence) -> None:
    for excess in (1e-7, -1e-7):
        kappa = divergence.multiplier(torch.tensor([0.0, 1.0]), torch.tensor([1 + excess, 0.0]))
        assert kappa == pytest.approx(0, abs=1e-6)


def test_a_constant_cost_tilts_nothing(divergence: Divergence) -> None:
    kappa = divergence.multiplier(torch.full((5,), 3.0))
    assert float(divergence.tilt(torch.tensor(kappa - 3.0))) == pytest.approx(1, abs=1e-12)


def test_kl_has_its_multiplier_in_closed_form(generator: torch.Generator) -> None:
    cost = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    p = torch.rand(40, generator=generator, dtype=torch.float64)
    p = p / p.sum()
    for probabilities in (None, p):
        by_root_search = Divergence.multiplier(KL(), cost, probabilities)
        assert KL().multiplier(cost, probabilities) == pytest.approx(by_root_search, abs=1e-11)


def test_kl_takes_atoms_without_mass() -> None:
    kappa = KL().multiplier(torch.tensor([1.0, -50.0]), torch.tensor([1.0, 0.0]))
    assert kappa == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_costs_that_are_not_finite_are_refused(divergence: Divergence, bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite values"):
        divergence.multiplier(torch.tensor([0.0, bad]))


@pytest.mark.parametrize("divergence", [SoftplusDivergence(), Chi2()], ids=["softplus", "chi2"])
def test_the_multiplier_does_not_factor_out_but_for_kl(divergence: Divergence) -> None:
    p = torch.tensor([0.1, 0.9], dtype=torch.float64)
    cost = torch.tensor([0.0, 10.0], dtype=torch.float64)

    def laws(divergence: Divergence) -> tuple[torch.Tensor, torch.Tensor]:
        right = p * divergence.tilt(divergence.multiplier(cost, p) - cost)
        outside = p * divergence.tilt(-cost)
        return right, outside / outside.sum()

    assert total_variation(*laws(divergence)) > 0.1
    assert total_variation(*laws(KL())) < 1e-12


def objective(divergence: Divergence, q: torch.Tensor, q0: torch.Tensor, F: torch.Tensor) -> float:
    return float((q * F).sum() + (q0 * divergence.phi(q / q0)).sum())


@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_the_tilted_law_minimises_energy_plus_divergence(
    divergence: Divergence, strength: float, generator: torch.Generator
) -> None:
    q0 = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3], dtype=torch.float64)
    F = strength * torch.tensor([3.0, -1.0, 0.5, 0.0, 1.2], dtype=torch.float64)
    best = q0 * divergence.tilt(divergence.multiplier(F, q0) - F)
    value = objective(divergence, best, q0, F)

    weights = torch.rand(200, 5, generator=generator, dtype=torch.float64).log().neg()
    others = weights / weights.sum(1, keepdim=True)
    for size in (1.0, 0.1, 1e-3):
        for q in best + size * (others - best):
            assert objective(divergence, q, q0, F) >= value - 1e-12

    found = minimize(
        lambda q: objective(divergence, torch.as_tensor(q), q0, F),
        q0.numpy(),
        method="SLSQP",
        bounds=[(1e-12, min(1.0, float(divergence.max_ratio * mass) - 1e-12)) for mass in q0],
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.fun == pytest.approx(value, abs=1e-6)
    assert total_variation(torch.as_tensor(found.x), best) < 1e-3
