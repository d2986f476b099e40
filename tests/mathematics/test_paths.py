"""Laws of probability paths: t=0 is source, t=1 is data, dx_t is the time derivative of x_t."""

import pytest
import torch

from unflow.mathematics.paths import PATHS, LinearPath, Path, TrigonometricPath, expand


@pytest.fixture(params=PATHS.values(), ids=list(PATHS))
def path(request: pytest.FixtureRequest) -> Path:
    return request.param()


@pytest.fixture(params=[(3,), (1, 4, 4)], ids=["vectors", "images"])
def ends(request: pytest.FixtureRequest, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x0, x1 = torch.randn(2, 7, *request.param, generator=generator, dtype=torch.float64)
    return x0, x1


def test_a_path_runs_from_the_source_to_the_data(path: Path, ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    x0, x1 = ends
    zeros, ones = torch.zeros(7, dtype=x0.dtype), torch.ones(7, dtype=x0.dtype)
    torch.testing.assert_close(path.sample(x0, x1, zeros).x_t, x0, rtol=0, atol=1e-14)
    torch.testing.assert_close(path.sample(x0, x1, ones).x_t, x1, rtol=0, atol=1e-14)


def test_dx_t_is_the_time_derivative_of_x_t(path: Path, ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda t: path.sample(*ends, t).x_t, (t,), (torch.ones_like(t),))[:2]
    sample = path.sample(*ends, t)
    assert sample.dx_t.shape == sample.x_t.shape == ends[0].shape
    torch.testing.assert_close(sample.dx_t, derivative, rtol=1e-12, atol=1e-12)


def test_each_row_has_its_own_time(path: Path, ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    x0, x1 = ends
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    together = path.sample(x0, x1, t)
    for i in range(7):
        row = slice(i, i + 1)
        alone = path.sample(x0[row], x1[row], t[row])
        torch.testing.assert_close(alone.x_t, together.x_t[row])
        torch.testing.assert_close(alone.dx_t, together.dx_t[row])


def test_the_linear_path_is_straight(ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    x0, x1 = ends
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    sample = LinearPath().sample(x0, x1, t)
    torch.testing.assert_close(sample.x_t, (1 - expand(t, x0)) * x0 + expand(t, x0) * x1)
    assert torch.equal(sample.dx_t, x1 - x0)


def test_the_trigonometric_path_keeps_the_variance(generator: torch.Generator) -> None:
    noise = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    noise = torch.linalg.qr(noise.T - noise.mean(1)).Q.T * 500**0.5
    x0, x1 = noise[:, :, None]
    for time in (0.0, 0.2, 0.5, 0.9):
        x_t = TrigonometricPath().sample(x0, x1, torch.full((500,), time)).x_t
        assert float(x_t.var(correction=0)) == pytest.approx(1, abs=1e-6)


def test_expand_broadcasts_times_against_samples() -> None:
    assert expand(torch.rand(5), torch.rand(5, 3)).shape == (5, 1)
    assert expand(torch.rand(5), torch.rand(5, 1, 8, 8)).shape == (5, 1, 1, 1)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_the_velocity_of_a_gaussian_is_its_scaled_point_and_its_score(name: str) -> None:
    """x1 ~ N(m, s^2): E[dx_t | x_t] in closed form, from the conditional means of x0 and x1."""
    mean, spread = 1.5, 0.6
    path, t = PATHS[name](), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    x, one, none = (
        torch.linspace(-2, 3, 19, dtype=torch.float64),
        torch.ones(19).double(),
        torch.zeros(19).double(),
    )
    b, db = (each[:, None] for each in path.sample(one, none, t))
    a, da = (each[:, None] for each in path.sample(none, one, t))
    variance = a**2 * spread**2 + b**2
    away = x - a * mean
    velocity = da * (mean + a * spread**2 / variance * away) + db * b / variance * away
    score = -away / variance
    torch.testing.assert_close(velocity, da / a * x + path.score_factor(t)[:, None] * score)
