"""Couplings of latents: their laws in closed form, what they leave in place, how little they move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy, Region
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.divergences import DIVERGENCES, KL, Divergence
from unflow.methods.latent_couplings import (
    REDRAWS,
    SHIFTS,
    Coupled,
    LatentLaw,
    MatchMove,
    MaximalMove,
    Move,
    ProjectMove,
    RedrawMove,
    couple,
    gaussian_map,
)
from unflow.models import Generator, latent_norm
from unflow.target import Bank, Target

N, CELLS = 100_000, 50


def line() -> Generator:
    """x = 2 z + 1: q0 = N(1, 4)."""
    net = nn.utils.skip_init(nn.Linear, 1, 1)
    nn.init.constant_(net.weight, 2.0)
    nn.init.constant_(net.bias, 1.0)
    return Generator(net, (1,)).eval().requires_grad_(False)


def right(x: Tensor) -> Tensor:
    return nn.functional.softplus(3 * (x[:, 0] - 2))


def law_of(divergence: Divergence, n: int = N, strength: float = 1.0) -> LatentLaw:
    target = Target(line(), CallableEnergy(right, 0.0), strength, divergence)
    return LatentLaw(target, target.bank(n, stream(3)))


def on_the_grid(divergence: Divergence) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edges of the cells, masses of q0 and q* in them, and the least that moves; numeric integration."""
    fine = torch.linspace(-9, 11, 40 * CELLS + 1, dtype=torch.float64)
    x = (fine[1:] + fine[:-1])[:, None] / 2
    p = torch.exp(-((x[:, 0] - 1) ** 2) / 8)
    p, F = p / p.sum(), right(x)
    q = p * divergence.tilt(divergence.multiplier(F, p) - F)
    return fine[::40], p.reshape(CELLS, -1).sum(1), q.reshape(CELLS, -1).sum(1), (p - q).clamp(min=0).sum()


def distance(x: Tensor, edges: Tensor, masses: Tensor) -> float:
    found = torch.histogram(x[:, 0].double().clamp(-8.9, 10.9), edges).hist / len(x)
    return float((found - masses).abs().sum() / 2)


EXACT: dict[str, tuple[Move, ...]] = {
    "maximal": (MaximalMove(),),
    "match": (MatchMove(128),),
    "redraw": (RedrawMove(1.0),) * 200,
}


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("move", EXACT)
def test_exact_moves_have_the_law_of_the_target_and_move_the_least_mass(name: str, move: str) -> None:
    """50 cells, 100,000 latents: 0.02 in total variation; the share that moves is that between q0 and q*."""
    divergence = DIVERGENCES[name]()
    law = law_of(divergence)
    edges, q0, q, least = on_the_grid(divergence)
    coupled = couple(law, EXACT[move], stream(4))
    assert bool(coupled.arrived.all())
    x = law.target.model.push(coupled.z)
    assert distance(law.bank.x, edges, q0) < 0.02
    assert distance(law.bank.x, edges, q) > 0.1
    assert distance(x, edges, q) < 0.02
    assert float(coupled.moved.double().mean()) == pytest.approx(float(least), abs=0.01)


def test_the_law_on_four_atoms_is_the_target_to_the_sampling_error() -> None:
    """A finite space: uniform latents in four cells of unequal size, one of them forgotten up to exp(-2)."""

    class Cells(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.bucketize(z, torch.tensor([-0.5, 0.0, 0.8])).to(z.dtype)

    model = Generator(Cells(), (1,), prior="uniform")
    target = Target(model, Region(lambda x: x[:, 0] == 2, height=2.0))
    law = LatentLaw(target, target.bank(N, stream(5)))
    q0 = torch.tensor([0.25, 0.25, 0.4, 0.1])
    q = q0 * torch.tensor([1, 1, math.exp(-2), 1])
    q = q / q.sum()
    for moves in EXACT.values():
        coupled = couple(law, moves, stream(6))
        found = torch.bincount(model.push(coupled.z)[:, 0].long(), minlength=4) / N
        torch.testing.assert_close(found, q, rtol=0, atol=4 * 0.5 / math.sqrt(N))
        assert float(coupled.moved.double().mean()) == pytest.approx(
            float((q0 - q).clamp(min=0).sum()), abs=6e-3
        )


class Atoms(nn.Module):
    """z -> the number of its cell; five cells of equal mass under a uniform prior."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.bucketize(z, torch.tensor([-0.6, -0.2, 0.2, 0.6])).to(z.dtype)


def finite_law(divergence: Divergence) -> LatentLaw:
    """Five atoms with 400 latents each, as a bank: its law is known without a sampling error."""
    z = ((torch.arange(2000) + 0.5) / 1000 - 1)[:, None]
    model = Generator(Atoms(), (1,), prior="uniform")
    target = Target(model, CallableEnergy(lambda x: x[:, 0], 0.0), 1.0, divergence)
    x = model.push(z)
    return LatentLaw(target, Bank(z, x, x[:, 0]))


def per_atom(values: Tensor) -> Tensor:
    return values.double().reshape(5, 400).mean(1)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_kept_mass_and_residual_make_the_target_exactly(name: str) -> None:
    """On five atoms, to 1e-6: kept is min(q0, q*), and with the residual it is q*."""
    divergence = DIVERGENCES[name]()
    law, F = finite_law(divergence), torch.arange(5.0, dtype=torch.float64)
    q0 = torch.full((5,), 0.2, dtype=torch.float64)
    q = q0 * divergence.tilt(divergence.multiplier(F, q0) - F)
    kept, residual = per_atom(law.ratio.clamp(max=1)) / 5, per_atom(law.residual) / 5
    torch.testing.assert_close(kept, torch.minimum(q, q0), rtol=0, atol=1e-6)
    torch.testing.assert_close(kept + residual, q, rtol=0, atol=1e-6)
    assert law.supremum == pytest.approx(float(law.ratio.max()), rel=1e-5)


def test_a_latent_is_kept_with_probability_min_1_and_the_ratio() -> None:
    """Every atom's frequency over 50 draws for 400 latents, within four standard errors."""
    law, generator = finite_law(KL()), stream(12)
    kept = per_atom(torch.stack([law.keep(generator) for _ in range(50)]).double().mean(0))
    expected = per_atom(law.ratio.clamp(max=1))
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert bool(((kept - expected).abs() <= 4 * error + 1e-9).all())
    assert float(kept[0]) == 1.0


def test_the_residual_accepts_with_its_share_of_the_supremum() -> None:
    law, generator = finite_law(KL()), stream(13)
    accepted = per_atom(torch.stack([law.accept(law.bank.z, generator) for _ in range(50)]).double().mean(0))
    expected = per_atom((law.ratio - 1).clamp(min=0) / (law.supremum - 1))
    error = (expected * (1 - expected).clamp(min=0) / 20_000).sqrt()
    assert bool(((accepted - expected).abs() <= 4 * error + 1e-6).all())


def test_an_unbounded_energy_is_refused() -> None:
    target = Target(line(), CallableEnergy(lambda x: x[:, 0], -math.inf))
    with pytest.raises(InputError, match=r"without a lower bound.*latent transport"):
        LatentLaw(target, target.bank(100, stream(1)))


def test_redrawing_near_stays_nearer_than_redrawing_anew() -> None:
    law = law_of(KL(), 20_000)
    near, anew = (couple(law, moves, stream(4)) for moves in (REDRAWS, [RedrawMove(1.0)] * 10))
    steps = [(c.z - law.bank.z).abs()[c.moved & c.arrived].mean() for c in (near, anew)]
    assert float(steps[0]) < 0.8 * float(steps[1])


MOVES: dict[str, tuple[Move, ...]] = {
    "maximal": (MaximalMove(),),
    "shift": SHIFTS,
    "redraw": REDRAWS,
    "project": (ProjectMove(steps=5),),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_kept_latent_is_the_same_to_the_bit(name: str) -> None:
    law = law_of(KL(), 2000)
    coupled = couple(law, MOVES[name], stream(7))
    assert 0.1 < float(coupled.moved.double().mean()) < 0.9
    assert torch.equal(coupled.z[~coupled.moved], law.bank.z[~coupled.moved])
    assert bool(coupled.arrived[~coupled.moved].all())
    assert not bool(coupled.matched[~coupled.moved].any())


@pytest.mark.parametrize("name", MOVES)
def test_strength_zero_moves_nothing(name: str) -> None:
    law = law_of(KL(), 500, strength=0.0)
    coupled = couple(law, MOVES[name], stream(7))
    assert torch.equal(coupled.z, law.bank.z)
    assert not bool(coupled.moved.any())


def test_moves_follow_one_another_on_what_is_still_rejected() -> None:
    """The second move sees the latents that the first did not bring home, and no others."""
    seen: list[Tensor] = []

    class Half(Move):
        def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            seen.append(z)
            return z + 100, torch.arange(len(z)) % 2 == 0

    law = law_of(KL(), 1000)
    coupled = couple(law, [Half(), Half()], stream(8))
    moved = int(coupled.moved.sum())
    assert [len(z) for z in seen] == [moved, moved // 2]
    assert torch.equal(seen[1], seen[0][1::2] + 100)
    assert int((~coupled.arrived).sum()) == (moved // 2) // 2
    assert not bool(coupled.matched.any())


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_the_rejected_are_matched_where_fewer_than_a_quarter_arrive(share: float) -> None:
    class Few(Move):
        def __call__(self, law: LatentLaw, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return z, torch.arange(len(z)) < share * len(z)

    law = law_of(KL(), 1000)
    coupled = couple(law, [Few()], stream(8))
    left = int(coupled.moved.sum()) - math.ceil(share * int(coupled.moved.sum()))
    matched, rejected = int(coupled.matched.sum()), int((~coupled.arrived).sum())
    assert (matched, rejected) == ((left, 0) if share < 0.25 else (0, left))
    assert bool(torch.isin(coupled.z[coupled.matched], law.bank.z[law.residual > 0]).all())


def test_a_gaussian_map_carries_mean_and_covariance_over_and_is_a_gradient() -> None:
    """Of N(m0, C0) to N(m1, C1): the moments are met, and A is symmetric and positive (Brenier)."""
    n, d = 20_000, 3
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.7, 0.2], [0.0, 0.0, 1.5]])
    z = torch.randn(n, d, generator=stream(1)) @ mix + 2
    other = torch.randn(n, d, generator=stream(2)) @ mix.T - 1
    weight = torch.rand(n, generator=stream(3))
    moved = gaussian_map(z, other, weight)
    mean = (weight @ other) / weight.sum()
    centred = other - mean
    torch.testing.assert_close(moved.mean(0), mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        moved.T.cov(), (centred.T * weight) @ centred / weight.sum(), rtol=0, atol=5e-3
    )
    A = torch.linalg.lstsq(z - z.mean(0), moved - moved.mean(0)).solution
    torch.testing.assert_close(A, A.T, rtol=0, atol=1e-4)
    assert float(torch.linalg.eigvalsh(A).min()) > 0


def test_a_gaussian_map_of_known_moments_is_the_closed_form() -> None:
    """Rows with exactly diagonal covariances: T scales each axis by the ratio of the deviations.

    The covariance of z is 2.5 times the identity, the mean variance of the others: shrinking leaves it alone.
    """
    corners = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], dtype=torch.float64)
    m0, m1, scale = torch.tensor([[1.0, 5.0], [3.0, -1.0], [2.0, 1.0]], dtype=torch.float64)
    moved = gaussian_map(m0 + math.sqrt(2.5) * corners, m1 + scale * corners, torch.full((4,), 0.3))
    torch.testing.assert_close(moved, m1 + scale * corners, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_in_many_dimensions_have_a_gaussian_map(rows: int) -> None:
    z = torch.randn(rows, 40, generator=stream(1)) + 1
    other = torch.randn(500, 40, generator=stream(2))
    moved = gaussian_map(z, other, torch.ones(500))
    assert bool(moved.isfinite().all())
    torch.testing.assert_close(moved.mean(0), other.mean(0), rtol=0, atol=1e-5)


def plane() -> Generator:
    net = nn.utils.skip_init(nn.Linear, 8, 2)
    nn.init.normal_(net.weight, generator=stream(11))
    nn.init.zeros_(net.bias)
    return Generator(net, (8,)).eval().requires_grad_(False)


def moved_in_the_plane(moves: Sequence[Move]) -> tuple[LatentLaw, Coupled]:
    target = Target(plane(), CallableEnergy(right, 0.0))
    law = LatentLaw(target, target.bank(4000, stream(3)))
    return law, couple(law, moves, stream(4))


def test_a_projection_lowers_the_energy_and_restores_the_norm() -> None:
    law, coupled = moved_in_the_plane([ProjectMove()])
    F = right(law.target.model.push(coupled.z))
    rows = coupled.moved
    assert float(F[rows].mean()) < 0.3 * float(law.bank.energy[rows].mean())
    torch.testing.assert_close(coupled.z.norm(dim=1), law.bank.z.norm(dim=1), rtol=1e-5, atol=1e-5)


def test_a_projection_leaves_the_model_as_it_was() -> None:
    target = Target(plane().train().requires_grad_(True), CallableEnergy(right, 0.0))
    law = LatentLaw(target, target.bank(200, stream(3)))
    couple(law, [ProjectMove(steps=3)], stream(4))
    assert target.model.training
    assert all(p.grad is None for p in target.model.parameters())


def test_the_affine_map_is_nearly_exact_where_the_rest_is_nearly_gaussian() -> None:
    """Half of a Gaussian in 8 dimensions is to be forgotten: mean energy as under q*, in shorter moves."""
    law, coupled = moved_in_the_plane(SHIFTS)
    exact, jumped = moved_in_the_plane([MaximalMove()])
    F, expected = (right(law.target.model.push(c.z)) for c in (coupled, jumped))
    assert float((~coupled.arrived).double().mean()) < 0.02
    assert float(F.mean()) == pytest.approx(float(expected.mean()), abs=0.05)
    near, far = ((c.z - law.bank.z)[c.moved].norm(dim=1).mean() for c in (coupled, jumped))
    assert float(near) < 0.7 * float(far)
    norm, norm_of_prior = (float(latent_norm(z).mean()) for z in (coupled.z[coupled.moved], law.bank.z))
    assert norm == pytest.approx(norm_of_prior, rel=0.15)
    assert exact.bank.z.equal(law.bank.z)


def three_of_six(x: Tensor) -> Tensor:
    """High in every second of six sectors, which are forgotten."""
    return nn.functional.softplus(20 * torch.sin(3 * torch.atan2(x[:, 1], x[:, 0])))


def test_what_no_affine_map_can_tell_apart_is_matched() -> None:
    """Kept and forgotten have the same mean and covariance: the shift is the identity; none arrive."""
    net = nn.utils.skip_init(nn.Linear, 2, 2)
    nn.init.eye_(net.weight)
    nn.init.zeros_(net.bias)
    target = Target(Generator(net, (2,)).eval(), CallableEnergy(three_of_six, 0.0))
    law = LatentLaw(target, target.bank(8000, stream(3)))
    coupled, jumped = couple(law, SHIFTS, stream(4)), couple(law, [MaximalMove()], stream(4))
    F, expected = (three_of_six(c.z).mean() for c in (coupled, jumped))
    assert float(coupled.matched.double().mean()) > 0.3
    assert float(F) == pytest.approx(float(expected), abs=0.03)
    assert float(law.bank.energy.mean()) > 10 * float(F)
    near, far = ((c.z - law.bank.z)[c.moved].square().sum(1).mean() for c in (coupled, jumped))
    assert float(near) < 0.3 * float(far)


def test_a_match_on_a_line_keeps_the_order() -> None:
    """The plan of least squares in one dimension is monotone, within every block."""
    law = law_of(KL(), 4000)
    z = torch.randn(300, 1, generator=stream(5))
    moved, arrived = MatchMove(block_size=100)(law, z, stream(6))
    assert bool(arrived.all())
    for before, after in zip(z.split(100), moved.split(100), strict=True):
        assert torch.equal(after[before[:, 0].argsort()], after.sort(0).values)


def test_the_box_of_a_uniform_prior_is_not_left() -> None:
    net = nn.utils.skip_init(nn.Linear, 2, 2)
    nn.init.eye_(net.weight)
    nn.init.zeros_(net.bias)
    model = Generator(net, (2,), prior="uniform")
    target = Target(model, CallableEnergy(lambda x: nn.functional.softplus(9 * x[:, 0]), 0.0))
    law = LatentLaw(target, target.bank(4000, stream(3)))
    assert float(couple(law, SHIFTS, stream(4)).z.abs().max()) <= 1
