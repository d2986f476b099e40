"""Laws of the target of a request: exact on finite supports, by rejection in one dimension."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from unflow.energies import CallableEnergy, ClassLogOdds, Energy, Region, Softplus
from unflow.ground.errors import InputError
from unflow.mathematics.divergences import DIVERGENCES, KL, Divergence
from unflow.mathematics.paths import PATHS, LinearPath, Path
from unflow.models import Generator
from unflow.nets import MLP
from unflow.target import Bank, Target

ATOMS = torch.arange(6, dtype=torch.float64)[:, None]
Q0 = torch.tensor([0.05, 0.3, 0.1, 0.25, 0.2, 0.1], dtype=torch.float64)
LOG_ODDS = torch.tensor([4.0, -2.0, 0.5, -0.3, 7.0, -6.0], dtype=torch.float64)


class Table(nn.Module):
    """A function on the atoms 0, 1, 2, ... given by its values, one row for each."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values: Tensor
        self.register_buffer("values", values)

    def forward(self, x: Tensor) -> Tensor:
        return self.values[x[:, 0].long()]


class Atoms(nn.Module):
    """Uniform latents in [-1, 1] -> atoms 0, 1, 2, ... with the given masses."""

    def __init__(self, masses: Tensor) -> None:
        super().__init__()
        self.edges: Tensor
        self.register_buffer("edges", masses.cumsum(0)[:-1].float())

    def forward(self, z: Tensor) -> Tensor:
        return torch.bucketize((z + 1) / 2, self.edges, right=True).to(z.dtype)


def gaussian() -> Generator:
    return Generator(nn.Identity(), prior_shape=(1,))


def atoms(masses: Tensor = Q0) -> Generator:
    return Generator(Atoms(masses), prior_shape=(1,), prior="uniform")


def table_energy(values: Tensor, lower_bound: float = -math.inf) -> CallableEnergy:
    return CallableEnergy(Table(values), lower_bound)


def law(target: Target, masses: Tensor = Q0) -> Tensor:
    """Return the target's masses on the atoms."""
    return masses * target.density_ratio(target.energy(ATOMS[: len(masses)]), masses)


def normalised(masses: Tensor) -> Tensor:
    return masses / masses.sum()


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, check_dtype=False)


@pytest.fixture(params=DIVERGENCES.values(), ids=list(DIVERGENCES))
def divergence(request: pytest.FixtureRequest) -> Divergence:
    return request.param()


# The law


def test_strength_zero_changes_nothing(divergence: Divergence, generator: torch.Generator) -> None:
    target = Target(gaussian(), Softplus(CallableEnergy(lambda x: x[:, 0])), 0.0, divergence)
    bank = target.bank(200, generator)
    assert torch.equal(target.density_ratio(bank.energy), torch.ones(200))
    assert torch.equal(target.acceptance(bank.energy), torch.ones(200))
    assert target.accept(bank, generator).all()
    assert target.effective_sample_size(bank.energy) == 1.0
    stream = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(target.sample(1500, stream[0]).x, gaussian().sample(1500, stream[1]))


@pytest.mark.parametrize("strength", [0.1, 1.0, 8.0])
def test_the_mean_density_ratio_is_one(divergence: Divergence, strength: float) -> None:
    target = Target(gaussian(), table_energy(LOG_ODDS), strength, divergence)
    assert float(law(target).sum()) == pytest.approx(1, abs=1e-10)
    assert float(target.density_ratio(LOG_ODDS).mean()) == pytest.approx(1, abs=1e-10)


def test_the_density_ratio_falls_with_the_energy_and_stays_under_the_cap(divergence: Divergence) -> None:
    ratio = Target(gaussian(), table_energy(LOG_ODDS), 8.0, divergence).density_ratio(LOG_ODDS)
    assert 0 <= float(ratio.min()) < float(ratio.max()) <= divergence.max_ratio
    assert (ratio[LOG_ODDS.argsort()].diff() <= 0).all()


def test_a_constant_added_to_the_energy_leaves_the_law_as_it_is(divergence: Divergence) -> None:
    near, far = (Target(gaussian(), table_energy(LOG_ODDS + shift), 1.5, divergence) for shift in (0, 40))
    close(law(far), law(near), 1e-10)


@pytest.mark.parametrize("strength", [0.5, 1.0, 5.0])
def test_continual_flows_law_is_the_kl_target_of_the_softplus_energy(strength: float) -> None:
    reweighted = normalised(Q0 * torch.sigmoid(-strength * LOG_ODDS))
    close(law(Target(gaussian(), Softplus(strength * table_energy(LOG_ODDS)))), reweighted)
    close(law(Target(gaussian(), table_energy(nn.functional.softplus(strength * LOG_ODDS)))), reweighted)


@pytest.mark.parametrize("bound", [0.0, -3.0, 25.0])
def test_rejection_keeps_the_target_and_the_best_sample_surely(divergence: Divergence, bound: float) -> None:
    F = LOG_ODDS - LOG_ODDS.min() + bound
    target = Target(gaussian(), table_energy(F, lower_bound=bound), 1.5, divergence)
    probability = target.acceptance(F, target.multiplier(F, Q0))
    assert float(probability.min()) >= 0
    assert float(probability.max()) == pytest.approx(1, abs=1e-12)
    close(normalised(Q0 * probability), law(target), 1e-10)


def test_the_kl_acceptance_of_bounded_log_odds_is_continual_flows_weight() -> None:
    target = Target(gaussian(), Softplus(table_energy(LOG_ODDS)))
    close(target.acceptance(target.energy(ATOMS)), torch.sigmoid(-LOG_ODDS))
    pressed = Target(gaussian(), target.energy, strength=3.0)
    close(pressed.acceptance(target.energy(ATOMS)), torch.sigmoid(-LOG_ODDS) ** 3)


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
def test_the_energy_may_stand_in_the_cost_or_in_the_pool(strength: float) -> None:
    """With KL, for any law: D(pi || q0) + lam E[F] = D(pi || q*) - log Z; so UOT's two pools ask the same."""
    energy = torch.nn.functional.softplus(LOG_ODDS)
    weight = Q0 * torch.exp(-strength * energy)
    Z = weight.sum()
    laws = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((20,))
    kl_q0 = (laws * (laws / Q0).log()).sum(1)
    kl_target = (laws * (laws / (weight / Z)).log()).sum(1)
    torch.testing.assert_close(kl_q0 + strength * laws @ energy, kl_target - Z.log())


def test_strength_and_factor_are_the_same_pressure(divergence: Divergence) -> None:
    energy = Softplus(table_energy(LOG_ODDS))
    close(
        law(Target(gaussian(), energy, 2.0, divergence)),
        law(Target(gaussian(), 2.0 * energy, 1.0, divergence)),
    )


# Requests and their exact laws


def test_the_target_of_a_union_multiplies_the_weights() -> None:
    A, B = Softplus(table_energy(LOG_ODDS)), Softplus(table_energy(LOG_ODDS.flip(0)))
    weight = torch.sigmoid(-LOG_ODDS) * torch.sigmoid(-LOG_ODDS.flip(0))
    close(law(Target(gaussian(), A | B)), normalised(Q0 * weight))


def test_the_target_of_an_intersection_has_the_larger_weight() -> None:
    A, B = Softplus(table_energy(LOG_ODDS)), Softplus(table_energy(LOG_ODDS.flip(0)))
    weight = torch.maximum(torch.sigmoid(-LOG_ODDS), torch.sigmoid(-LOG_ODDS.flip(0)))
    close(law(Target(gaussian(), A & B)), normalised(Q0 * weight))


def class_laws() -> tuple[Tensor, Tensor, nn.Module]:
    """Return the priors and laws of three overlapping classes, and their Bayes classifier."""
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    laws = torch.tensor(
        [
            [0.60, 0.20, 0.10, 0.05, 0.03, 0.02],
            [0.02, 0.08, 0.40, 0.40, 0.05, 0.05],
            [0.01, 0.02, 0.07, 0.20, 0.30, 0.40],
        ],
        dtype=torch.float64,
    )
    return prior, laws, Table((prior[:, None] * laws).T.log())


def test_the_bayes_classifiers_log_odds_weigh_by_one_minus_its_probability() -> None:
    prior, laws, classifier = class_laws()
    p = prior[0] * laws[0] / (prior @ laws)
    F = ClassLogOdds(classifier, [0], margin=None)(ATOMS)
    close(F, torch.logit(p))
    close(torch.sigmoid(-F), 1 - p)


@pytest.mark.parametrize("forget", [[0], [2], [0, 1], [2, 0]])
def test_a_calibrated_retain_versus_forget_classifier_gives_the_retain_law(forget: list[int]) -> None:
    prior, laws, classifier = class_laws()
    retain = [k for k in range(3) if k not in forget]
    target = Target(gaussian(), ClassLogOdds(classifier, forget))
    close(law(target, prior @ laws), normalised(prior[retain] @ laws[retain]))


def test_the_inverse_request_gives_the_law_of_the_forgotten_classes() -> None:
    prior, laws, classifier = class_laws()
    inverse = Softplus(-ClassLogOdds(classifier, [1], margin=None))
    close(law(Target(gaussian(), inverse), prior @ laws), laws[1])


def test_a_base_versus_forget_classifier_weighs_by_q0_over_q0_plus_forget() -> None:
    prior, laws, _ = class_laws()
    q0, forget = prior @ laws, laws[0]
    p = forget / (q0 + forget)
    F = torch.logit(p)
    close(torch.sigmoid(-F), q0 / (q0 + forget))
    classifier = Table(torch.stack([q0, forget], dim=1).log())
    by_classifier = Target(gaussian(), ClassLogOdds(classifier, [1]))
    by_function = Target(gaussian(), Softplus(table_energy(F)))
    expected = normalised(q0 * q0 / (q0 + forget))
    close(by_classifier.acceptance(by_classifier.energy(ATOMS)), q0 / (q0 + forget))
    close(law(by_classifier, q0), expected)
    close(law(by_function, q0), expected)
    assert float((q0 / (q0 + forget)).min()) > 0


# Flow matching towards the target


class Fields:
    """Gradients of flow-matching losses over every pair of two finite laws, at fixed times."""

    def __init__(self, generator: torch.Generator, path: Path) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.path = path
        self.x0, self.x1 = normal(4, 2), 2 * normal(6, 2)
        self.p0 = normal(4).softmax(0)
        self.net = MLP([2], width=8, depth=1).double()
        for parameter in self.net.parameters():
            parameter.data = 0.5 * normal(*parameter.shape)

    def gradient(self, p1: Tensor, weight: Tensor) -> Tensor:
        """Of E[w(x1) ||v(x_t, t) - dx_t||^2], x0 ~ p0 and x1 ~ p1 independent; one flat vector."""
        i, j = torch.cartesian_prod(torch.arange(4), torch.arange(6)).T
        loss = torch.zeros((), dtype=torch.float64)
        for time in (0.0, 0.2, 0.7, 1.0):
            t = torch.full((len(i),), time, dtype=torch.float64)
            x_t, dx_t = self.path.sample(self.x0[i], self.x1[j], t)
            square = (self.net(x_t, t) - dx_t).square().sum(1)
            loss = loss + (self.p0[i] * p1[j] * weight[j] * square).sum() / 4
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.net.parameters()))])


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("strength", [1.0, 5.0])
def test_the_reweighted_gradient_is_z_times_that_of_flow_matching_towards_the_target(
    path: type[Path], strength: float, generator: torch.Generator
) -> None:
    fields = Fields(generator, path())
    target = Target(gaussian(), Softplus(strength * table_energy(LOG_ODDS)))
    weight = target.acceptance(target.energy(ATOMS))
    Z = (Q0 * weight).sum()
    reweighted = fields.gradient(Q0, weight)
    plain = fields.gradient(law(target), torch.ones_like(Q0))
    assert float(plain.abs().max()) > 0.1
    close(weight, torch.sigmoid(-strength * LOG_ODDS))
    torch.testing.assert_close(reweighted, Z * plain, rtol=1e-9, atol=1e-12)


def test_importance_weights_and_resampling_have_the_same_expected_gradient(
    divergence: Divergence, generator: torch.Generator
) -> None:
    fields = Fields(generator, LinearPath())
    target = Target(gaussian(), Softplus(table_energy(LOG_ODDS)), 1.5, divergence)
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    ratio = target.density_ratio(target.energy(ATOMS))
    importance = fields.gradient(uniform, ratio)
    resampled = fields.gradient(normalised(ratio), torch.ones(6))
    torch.testing.assert_close(importance, resampled, rtol=1e-9, atol=1e-12)


# Samples


def test_rejection_samples_atoms_with_the_targets_masses(
    divergence: Divergence, generator: torch.Generator
) -> None:
    F = nn.functional.softplus(LOG_ODDS)
    target = Target(atoms(), table_energy(F.float(), lower_bound=0.0), 1.0, divergence)
    expected = law(Target(atoms(), table_energy(F), 1.0, divergence))
    bank = target.sample(8000, generator)
    counts = torch.bincount(bank.x[:, 0].long(), minlength=6)
    assert stats.chisquare(counts[expected > 0], 8000 * expected[expected > 0]).pvalue > 0.01
    assert counts[expected == 0].sum() == 0


def test_the_kl_target_of_a_gaussian_and_a_quadratic_energy_is_a_narrower_gaussian(
    generator: torch.Generator,
) -> None:
    target = Target(gaussian(), CallableEnergy(lambda x: x[:, 0] ** 2 / 2, lower_bound=0.0), strength=3.0)
    x = target.sample(5000, generator).x[:, 0]
    assert stats.kstest(x, stats.norm(scale=0.5).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    "function",
    [lambda x: nn.functional.softplus(3 * x[:, 0]), lambda x: (x[:, 0] - 1).square()],
    ids=["softplus", "quadratic"],
)
def test_rejection_samples_follow_the_tilted_gaussian(
    divergence: Divergence, function: Callable[[Tensor], Tensor], generator: torch.Generator
) -> None:
    target = Target(gaussian(), CallableEnergy(function, lower_bound=0.0), 2.0, divergence)
    grid = torch.linspace(-8, 8, 16_001, dtype=torch.float64)[:, None]
    q0 = normalised(torch.exp(-(grid[:, 0] ** 2) / 2))
    cumulative = (q0 * target.density_ratio(function(grid), q0)).cumsum(0).numpy()
    x = target.sample(5000, generator).x[:, 0].numpy()
    cdf = np.interp(x, grid[:, 0].numpy(), cumulative)
    assert stats.kstest(cdf, "uniform").pvalue > 0.01


def test_samples_come_with_their_latents_and_energies(generator: torch.Generator) -> None:
    target = Target(atoms(), Softplus(table_energy(LOG_ODDS.float())))
    for bank in (target.bank(50, generator), target.sample(1700, generator)):
        assert torch.equal(target.model.push(bank.z), bank.x)
        torch.testing.assert_close(target.energy(bank.x), bank.energy)
    assert len(bank.x) == 1700


def test_sampling_is_deterministic_and_leaves_the_global_stream_alone() -> None:
    target = Target(gaussian(), Softplus(CallableEnergy(lambda x: x[:, 0])))
    state = torch.get_rng_state()
    one, two = (target.sample(300, torch.Generator().manual_seed(5)).x for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_effective_sample_size_is_the_share_that_the_weights_leave() -> None:
    def share(*energies: float) -> float:
        return Target(gaussian(), table_energy(LOG_ODDS)).effective_sample_size(
            torch.tensor(energies, dtype=torch.float64)
        )

    assert share(1.0, 1.0, 1.0) == pytest.approx(1)
    assert share(0.0, math.log(2)) == pytest.approx(1.5**2 / (2 * 1.25))
    assert share(0.0, 0.0, 80.0, 80.0) == pytest.approx(0.5)


def test_little_left_to_learn_from_is_a_warning() -> None:
    energy = torch.full((100,), 50.0)
    energy[:4] = 0
    target = Target(gaussian(), table_energy(LOG_ODDS))
    with pytest.warns(UserWarning, match=r"effective sample size is 4.0% of the bank"):
        assert target.effective_sample_size(energy) == pytest.approx(0.04)
    energy[4:6] = 0
    assert target.effective_sample_size(energy) == pytest.approx(0.06)


# Errors


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_that_is_negative_or_not_finite_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match=r"strength=.*expected a finite number >= 0"):
        Target(gaussian(), table_energy(LOG_ODDS), strength)


@pytest.mark.parametrize(
    "energy",
    [CallableEnergy(lambda x: x[:, 0]), -Softplus(CallableEnergy(lambda x: x[:, 0]))],
    ids=["unbounded", "inverted"],
)
def test_rejection_from_an_unbounded_energy_is_refused(
    energy: Energy, divergence: Divergence, generator: torch.Generator
) -> None:
    target = Target(gaussian(), energy, 1.0, divergence)
    with pytest.raises(InputError, match=r"without a lower bound .*wrap it in energies.Softplus"):
        target.sample(10, generator)
    assert float(target.density_ratio(LOG_ODDS).mean()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", ["softplus", "chi2"])
def test_the_law_of_accepted_samples_does_not_depend_on_their_number(name: str) -> None:
    """The multiplier is one number for each request: many small samples have the mean of one large one."""
    energy = CallableEnergy(lambda x: 6 * (x[:, 0] > 0.5).float(), lower_bound=0.0)
    target = Target(gaussian(), energy, 1.0, DIVERGENCES[name]())
    bank = target.bank(20_000, torch.Generator().manual_seed(1))
    whole = target.accept(bank, torch.Generator().manual_seed(2))
    stream = torch.Generator().manual_seed(2)
    parts = [Bank(*(part[i : i + 5] for part in bank)) for i in range(0, 20_000, 5)]
    assert torch.equal(torch.cat([target.accept(part, stream) for part in parts]), whole)
    exact = target.acceptance(bank.energy, target.multiplier(bank.energy))
    assert float(whole.double().mean()) == pytest.approx(float(exact.mean()), abs=0.02)
    again = Target(gaussian(), energy, 1.0, DIVERGENCES[name]())
    assert again.kappa == target.kappa


def test_nothing_accepted_is_an_error_that_says_the_acceptance_rate(generator: torch.Generator) -> None:
    energy = CallableEnergy(lambda x: 60 + x[:, 0].abs(), lower_bound=0.0)
    with pytest.raises(InputError, match=r"none of 1000 samples \(mean acceptance probability 4.*e-27\)"):
        Target(gaussian(), energy).sample(10, generator)


def test_no_samples_asked_for_is_an_error(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="got 0 samples to draw"):
        Target(gaussian(), Softplus(table_energy(LOG_ODDS))).sample(0, generator)


def test_a_request_that_meets_no_sample_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="same number"):
        Target(gaussian(), Region(lambda x: x[:, 0] > 50)).bank(100, generator)


def test_the_default_divergence_is_kullback_leibler() -> None:
    assert Target(gaussian(), table_energy(LOG_ODDS)).divergence == KL()
