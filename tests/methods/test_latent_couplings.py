"""Couplings of latents: their laws in closed form, what they leave in place, how little they move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from unflow.energies import CallableEnergy, Region
from unflow.ground.errors import InputError
from unflow.ground.streams import stream
from unflow.mathematics.couplings import pair_blocks
from unflow.mathematics.divergences import DIVERGENCES, KL, Divergence
from unflow.methods import latent_couplings
from unflow.methods.latent_couplings import (
    REDRAWS,
    SHIFTS,
    AllRest,
    Coupled,
    FlowMove,
    Left,
    MatchMove,
    MaximalMove,
    Move,
    Moved,
    ProjectMove,
    RedrawMove,
    RestOfMap,
    carry_by_map,
    couple,
)
from unflow.methods.latent_flow import latent_flow_of
from unflow.methods.latent_law import LatentLaw
from unflow.methods.latent_maps import AffineMap, LatentMap, RotationMap, gaussian_map
from unflow.methods.latent_transport import LATENT_COUPLINGS, LatentTransport, choose_pairs
from unflow.models import Generator, latent_norm
from unflow.target import Bank, Target
from unflow.training.loop import fit
from unflow.training.method import Problem

N, CELLS = 100_000, 50


@pytest.fixture
def small_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of 32 rows: a plan permutes the partners of its block, so their law is that of any block size."""
    monkeypatch.setattr(
        latent_couplings, "pair_blocks", lambda coupling, x0, x1, _: pair_blocks(coupling, x0, x1, 32)
    )


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
    "shift": SHIFTS,
    "redraw": REDRAWS,
}


@pytest.mark.usefixtures("small_plans")
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("move", EXACT)
def test_exact_moves_have_the_law_of_the_target_and_move_the_least_mass(name: str, move: str) -> None:
    """50 cells, 100,000 latents: 0.02 in total variation; the share that moves is that between q0 and q*."""
    divergence = DIVERGENCES[name]()
    law = law_of(divergence)
    edges, q0, q, least = on_the_grid(divergence)
    coupled = couple(law, EXACT[move], stream(4))
    x = law.target.model.push(coupled.z)
    assert distance(law.bank.x, edges, q0) < 0.02
    assert distance(law.bank.x, edges, q) > 0.1
    assert distance(x, edges, q) < 0.02
    assert float(coupled.moved.double().mean()) == pytest.approx(float(least), abs=0.01)


@pytest.mark.usefixtures("small_plans")
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


def half_space(x: Tensor) -> Tensor:
    return nn.functional.softplus(8 * x[:, 0] + 3)


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
    rest, states = AllRest(law), law.to_normal(law.bank.z)[:, None]
    torch.testing.assert_close(per_atom(rest.rejected(states)) / 5, q0 - kept, rtol=0, atol=1e-6)
    torch.testing.assert_close(per_atom(rest.residual(states)) / 5, residual, rtol=0, atol=1e-6)


def test_a_latent_is_kept_with_probability_min_1_and_the_ratio() -> None:
    """Every atom's frequency over 50 draws for 400 latents, within four standard errors."""
    law, generator = finite_law(KL()), stream(12)
    kept = per_atom(torch.stack([law.keep(generator) for _ in range(50)]).double().mean(0))
    expected = per_atom(law.ratio.clamp(max=1))
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert bool(((kept - expected).abs() <= 4 * error + 1e-9).all())
    assert float(kept[0]) == 1.0


def test_an_unbounded_energy_is_refused() -> None:
    target = Target(line(), CallableEnergy(lambda x: x[:, 0], -math.inf))
    with pytest.raises(InputError, match=r"without a lower bound.*latent transport"):
        LatentLaw(target, target.bank(100, stream(1)))


def test_redrawing_near_stays_nearer_than_redrawing_anew() -> None:
    law = law_of(KL(), 20_000)
    near, anew = (couple(law, [RedrawMove(share)], stream(4)) for share in (0.25, 1.0))
    steps = [(c.z - law.bank.z).abs()[c.moved & ~c.matched].mean() for c in (near, anew)]
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
    assert not bool(coupled.matched[~coupled.moved].any())


@pytest.mark.parametrize("name", MOVES)
def test_strength_zero_moves_nothing(name: str) -> None:
    law = law_of(KL(), 500, strength=0.0)
    coupled = couple(law, MOVES[name], stream(7))
    assert torch.equal(coupled.z, law.bank.z)
    assert not bool(coupled.moved.any())


def test_moves_follow_one_another_on_what_is_still_rejected() -> None:
    """The second move gets the latents and rows that the first left; the rest is matched with the rows."""
    seen: list[Tensor] = []

    class Half(Move):
        def __call__(self, law: LatentLaw, left: Left, generator: torch.Generator) -> Moved:
            seen.append(left.x)
            arrived = torch.arange(len(left.x)) % 2 == 0
            x, a, y, b = (part[~arrived] for part in (left.x, left.a, left.y, left.b))
            return Moved(left.x[:, 0] + 100, arrived, Left(x, a, y, b, left.rest))

    law = law_of(KL(), 1000)
    coupled = couple(law, [Half(), Half()], stream(8))
    moved = int(coupled.moved.sum())
    assert [len(z) for z in seen] == [moved, moved // 2]
    assert torch.equal(seen[1], seen[0][1::2])
    assert int(coupled.matched.sum()) == (moved // 2) // 2
    assert bool(torch.isin(coupled.z[coupled.matched], law.bank.z[law.residual > 0]).all())
    assert bool((coupled.z[coupled.moved & ~coupled.matched] > 90).all())


def test_a_map_takes_the_overlap_of_two_densities_and_no_more() -> None:
    """Masses on the line by numeric integration: arrived, left of the rejected, left of the residual."""
    target = Target(identity(1), CallableEnergy(half_space, 0.0))
    law = LatentLaw(target, target.bank(N, stream(3)))
    x = torch.linspace(-7, 7, 20_001)[:, None, None]
    p = torch.exp(-(x[:, 0, 0].double() ** 2) / 2)
    p, rest = p / p.sum(), AllRest(law)
    m0, A, m1 = torch.tensor([[0.0], [-0.9], [0.1]], dtype=torch.float64)
    shift = AffineMap(m0, A[:, None], m1)
    after = RestOfMap(rest, shift)
    a, b, a_left, b_left = (
        float(p @ f(x)) for f in (rest.rejected, rest.residual, after.rejected, after.residual)
    )
    assert a == pytest.approx(b, rel=0.03)  # kappa is that of the bank
    assert a - a_left == pytest.approx(b - b_left, abs=1e-3)
    assert a - a_left > 0.3 * a
    drawn = law.bank.z[torch.multinomial(law.residual, 30_000, True, generator=stream(1))]
    rows = law.bank.z[~law.keep(stream(2))]
    states = [z[:, None] for z in (rows, drawn)]
    left = Left(states[0], rest.rejected(states[0]), states[1], rest.residual(states[1]), rest)
    result = carry_by_map(shift, left, stream(5))
    assert float(result.arrived.double().mean()) == pytest.approx(1 - a_left / a, abs=0.015)
    assert len(result.left.y) / 30_000 == pytest.approx(b_left / b, abs=0.015)
    torch.testing.assert_close(result.left.a, after.rejected(result.left.x))
    torch.testing.assert_close(result.left.b, after.residual(result.left.y))


MAPS: dict[str, LatentMap] = {
    "affine": gaussian_map(torch.randn(50, 3, generator=stream(1)), torch.randn(60, 3, generator=stream(2))),
    "mirrored": gaussian_map(
        torch.randn(50, 3, generator=stream(1)), torch.randn(60, 3, generator=stream(2)) + 1, mirrored=True
    ),
    "rotation": RotationMap(0.3),
    "opposite": RotationMap(0.3, opposite=True),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_of_states_has_its_inverse_and_its_determinant(name: str) -> None:
    x = torch.randn(9, 2, 3, generator=stream(4), dtype=torch.float64)
    image = MAPS[name].forward(x)
    torch.testing.assert_close(MAPS[name].inverse(image), x)
    jacobian = torch.autograd.functional.jacobian(lambda v: MAPS[name].forward(v[None])[0], x[0])
    _, log_det = torch.linalg.slogdet(jacobian.reshape(6, 6))
    assert MAPS[name].log_det == pytest.approx(float(log_det), abs=1e-6)
    density = (-(image.square() - x.square()).flatten(1).sum(1) / 2).exp() * math.exp(MAPS[name].log_det)
    torch.testing.assert_close(MAPS[name].density_ratio(x, image), density)


def apply(latent_map: LatentMap, z: Tensor) -> Tensor:
    return latent_map.forward(z[:, None])[:, 0]


def test_a_gaussian_map_carries_mean_and_covariance_over_and_is_a_gradient() -> None:
    """Of N(m0, C0) to N(m1, C1): the moments are met, and A is symmetric and positive (Brenier)."""
    n, d = 20_000, 3
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.7, 0.2], [0.0, 0.0, 1.5]])
    z = torch.randn(n, d, generator=stream(1)) @ mix + 2
    other = torch.randn(n, d, generator=stream(2)) @ mix.T - 1
    weight = torch.rand(n, generator=stream(3))
    moved = apply(gaussian_map(z, other, weight), z)
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
    z = m0 + math.sqrt(2.5) * corners
    moved = apply(gaussian_map(z, m1 + scale * corners, torch.full((4,), 0.3)), z)
    torch.testing.assert_close(moved, m1 + scale * corners, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_in_many_dimensions_have_a_gaussian_map(rows: int) -> None:
    z = torch.randn(rows, 40, generator=stream(1)) + 1
    other = torch.randn(500, 40, generator=stream(2))
    moved = apply(gaussian_map(z, other, torch.ones(500)), z)
    assert bool(moved.isfinite().all())
    torch.testing.assert_close(moved.mean(0), other.mean(0), rtol=0, atol=1e-5)


def identity(d: int, prior: Literal["normal", "uniform"] = "normal") -> Generator:
    """x = z."""
    net = nn.utils.skip_init(nn.Linear, d, d)
    nn.init.eye_(net.weight)
    nn.init.zeros_(net.bias)
    return Generator(net, (d,), prior).eval().requires_grad_(False)


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
    law, coupled = moved_in_the_plane([])
    z = law.bank.z[coupled.moved]
    ends = ProjectMove().project(law.target, z)
    F = right(law.target.model.push(ends))
    assert float(F.mean()) < 0.3 * float(law.bank.energy[coupled.moved].mean())
    torch.testing.assert_close(ends.norm(dim=1), z.norm(dim=1), rtol=1e-5, atol=1e-5)


def test_the_partners_of_projections_are_nearer_to_them_than_other_rows() -> None:
    law, coupled = moved_in_the_plane([ProjectMove()])
    ends = ProjectMove().project(law.target, law.bank.z[coupled.moved])
    partners = coupled.z[coupled.moved]
    near, far = ((ends - other).square().sum(1).mean() for other in (partners, partners.roll(1, 0)))
    assert float(near) < 0.5 * float(far)


def test_a_projection_leaves_the_model_as_it_was() -> None:
    target = Target(plane().train().requires_grad_(True), CallableEnergy(right, 0.0))
    law = LatentLaw(target, target.bank(200, stream(3)))
    couple(law, [ProjectMove(steps=3)], stream(4))
    assert target.model.training
    assert all(p.grad is None for p in target.model.parameters())


def test_affine_maps_carry_most_latents_over_short_distances() -> None:
    """Half of a Gaussian in 8 dimensions is to be forgotten: mean energy as under q*, in shorter moves."""
    law, coupled = moved_in_the_plane(SHIFTS)
    exact, jumped = moved_in_the_plane([MaximalMove()])
    F, expected = (right(law.target.model.push(c.z)) for c in (coupled, jumped))
    assert float(coupled.matched[coupled.moved].double().mean()) < 0.3
    assert float(F.mean()) == pytest.approx(float(expected.mean()), abs=0.03)
    near, far = ((c.z - law.bank.z)[c.moved].norm(dim=1).mean() for c in (coupled, jumped))
    assert float(near) < 0.7 * float(far)
    norm, norm_of_prior = (float(latent_norm(z).mean()) for z in (coupled.z[coupled.moved], law.bank.z))
    assert norm == pytest.approx(norm_of_prior, rel=0.15)
    assert exact.bank.z.equal(law.bank.z)


def three_of_six(x: Tensor) -> Tensor:
    """High in every second of six sectors, which are forgotten."""
    return nn.functional.softplus(20 * torch.sin(3 * torch.atan2(x[:, 1], x[:, 0])))


def test_what_no_affine_map_can_tell_apart_is_matched() -> None:
    """Kept and forgotten have the same mean and covariance: the shift is the identity; half do not arrive."""
    target = Target(identity(2), CallableEnergy(three_of_six, 0.0))
    law = LatentLaw(target, target.bank(8000, stream(3)))
    coupled, jumped = couple(law, SHIFTS, stream(4)), couple(law, [MaximalMove()], stream(4))
    F, expected = (three_of_six(c.z).mean() for c in (coupled, jumped))
    assert int(coupled.matched.sum()) > 0.4 * int(coupled.moved.sum())
    assert float(F) == pytest.approx(float(expected), abs=0.03)
    assert float(law.bank.energy.mean()) > 10 * float(F)
    near, far = ((c.z - law.bank.z)[c.moved].square().sum(1).mean() for c in (coupled, jumped))
    assert float(near) < 0.3 * float(far)


def test_a_match_on_a_line_keeps_the_order() -> None:
    """The plan of least squares in one dimension is monotone, within every block."""
    law = law_of(KL(), 4000)
    z = torch.randn(300, 1, generator=stream(5))
    rest, y = AllRest(law), law.bank.z[law.residual > 0][:300]
    states = [part[:, None] for part in (z, y)]
    left = Left(states[0], rest.rejected(states[0]), states[1], rest.residual(states[1]), rest)
    moved, arrived, _ = MatchMove(block_size=100)(law, left, stream(6))
    assert bool(arrived.all())
    for before, after in zip(z.split(100), moved.split(100), strict=True):
        assert torch.equal(after[before[:, 0].argsort()], after.sort(0).values)


def test_the_box_of_a_uniform_prior_is_not_left() -> None:
    target = Target(
        identity(2, "uniform"), CallableEnergy(lambda x: nn.functional.softplus(9 * x[:, 0]), 0.0)
    )
    law = LatentLaw(target, target.bank(4000, stream(3)))
    assert float(couple(law, SHIFTS, stream(4)).z.abs().max()) <= 1


def disc(x: Tensor) -> Tensor:
    """High in a disc off the centre."""
    return nn.functional.softplus(8 * (1 - (x - torch.tensor([0.7, 0.0])).norm(dim=1)) + 3)


def two_discs(x: Tensor) -> Tensor:
    """High in two discs, which lie on both sides of the centre."""
    x = torch.stack([x[:, 0].abs(), x[:, 1]], 1)
    return nn.functional.softplus(8 * (0.7 - (x - torch.tensor([1.0, 0.0])).norm(dim=1)) + 3)


LAWS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "line": (1, half_space),
    "half-plane": (2, half_space),
    "disc": (2, disc),
    "two discs": (2, two_discs),
}
LATENTS, BINS, BOUND = 30_000, 20, 0.03


class Case(NamedTuple):
    """A target, its bank, and what does not depend on the coupling."""

    law: LatentLaw
    shares: list[Tensor]
    noise: list[float]
    before: list[float]


@cache
def make_case(name: str, divergence: str, prior: Literal["normal", "uniform"]) -> Case:
    """Return a target with the noise of an exact sampler and the distance of the bank."""
    dim, function = LAWS[name]
    target = Target(identity(dim, prior), CallableEnergy(function, 0.0), 1.0, DIVERGENCES[divergence]())
    law = LatentLaw.draw(target, LATENTS, stream(1))
    shares = count_exactly(law)
    exact = target.sample(LATENTS, stream(3)).z
    noise, before = (coordinate_distances(shares, z) for z in (exact, law.bank.z))
    return Case(law, shares, noise, before)


def count_exactly(law: LatentLaw) -> list[Tensor]:
    """Return the shares of q* in the bins of each coordinate, from 400,000 weighted latents."""
    prior = law.target.model.prior(400_000, stream(99))
    weight = torch.cat([law.ratio_at(chunk) for chunk in prior.split(100_000)])
    return [_shares(column, weight) for column in prior.T]


def coordinate_distances(exact: list[Tensor], z: Tensor) -> list[float]:
    """Return the total variation between the histogram of each coordinate and that of q*."""
    return [
        round(float((_shares(column, None) - shares).abs().sum() / 2), 4)
        for column, shares in zip(z.T, exact, strict=True)
    ]


def _shares(x: Tensor, weight: Tensor | None) -> Tensor:
    edges = torch.linspace(-4, 4, BINS + 1, dtype=torch.float64)
    found = torch.histogram(x.double().contiguous(), edges, weight=weight).hist
    return found / found.sum()


@cache
def train_flow(name: str, divergence: str) -> FlowMove:
    """Train the flow of the "flow..." couplings in half of the steps of LatentTransport's default."""
    dim, function = LAWS[name]
    target = Target(identity(dim), CallableEnergy(function, 0.0), 1.0, DIVERGENCES[divergence]())
    problem = Problem(model=target.model, target=target)
    earlier = LatentTransport(coupling="flow", bank_size=LATENTS, flow_steps=300).earlier(problem)
    assert earlier is not None
    return FlowMove(latent_flow_of(replace(problem, earlier=fit(earlier, problem, seed=4).model)))


def check_law(coupling: str, name: str, divergence: str, prior: Literal["normal", "uniform"]) -> None:
    """Check that all partners have the law q* in each coordinate; print the noise of an exact sampler."""
    flow = (train_flow(name, divergence),) if coupling.startswith("flow") else ()
    law, shares, noise, before = make_case(name, divergence, prior)
    found = coordinate_distances(shares, couple(law, flow + LATENT_COUPLINGS[coupling], stream(2)).z)
    print(f"{coupling}, {name}, {divergence}, {prior}: {found}, exact sampler {noise}, prior {before}")
    assert max(noise) < 0.02
    assert max(before) > 0.1
    assert max(found) <= BOUND


@pytest.mark.usefixtures("small_plans")
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("coupling", LATENT_COUPLINGS)
def test_bank_and_partners_have_the_law_of_the_target(coupling: str, name: str) -> None:
    check_law(coupling, name, "kl", "normal")


@pytest.mark.usefixtures("small_plans")
@pytest.mark.parametrize("divergence", ["softplus", "chi2"])
@pytest.mark.parametrize("coupling", ["maximal", "shift", "redraw", "flow"])
def test_couplings_have_the_law_of_a_capped_target(coupling: str, divergence: str) -> None:
    check_law(coupling, "disc", divergence, "normal")


@pytest.mark.usefixtures("small_plans")
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("coupling", ["maximal", "match", "shift"])
def test_couplings_have_the_law_of_the_target_under_a_uniform_prior(coupling: str, name: str) -> None:
    check_law(coupling, name, "kl", "uniform")


def in_many_dimensions(moves: Sequence[Move]) -> tuple[LatentLaw, Coupled]:
    """A third of 64 normal latents is to be forgotten."""
    target = Target(
        identity(64), CallableEnergy(lambda x: nn.functional.softplus(8 * (x[:, 0] - 0.43) + 3), 0.0)
    )
    law = LatentLaw(target, target.bank(8192, stream(1)))
    return law, couple(law, moves, stream(2))


def test_maps_carry_most_latents_of_many_dimensions_and_keep_them_near() -> None:
    """A plan pairs rows that are hardly nearer than independent draws; a map changes one direction."""
    law, shifted = in_many_dimensions(SHIFTS)
    carried = shifted.moved & ~shifted.matched
    assert int(carried.sum()) > 0.7 * int(shifted.moved.sum())
    _, jumped = in_many_dimensions([MaximalMove()])
    step = [(c.z - law.bank.z).square().sum(1) for c in (shifted, jumped)]
    assert float(step[0][carried].mean()) < 0.1 * float(step[1][jumped.moved].mean())
    assert float(step[0][shifted.matched].mean()) > 0.4 * float(step[1][jumped.moved].mean())


def test_a_regression_uses_pairs_of_maps_and_the_shares_of_the_coupling() -> None:
    _, coupled = in_many_dimensions(SHIFTS)
    rows = choose_pairs(coupled, stream(3))
    assert not bool(coupled.matched[rows].any())
    assert torch.equal(coupled.moved[rows], coupled.moved)
    kept = ~coupled.matched
    assert torch.equal(rows[kept], torch.arange(len(rows))[kept])
    _, matched = in_many_dimensions([MatchMove()])
    assert torch.equal(choose_pairs(matched, stream(3)), torch.arange(8192))
