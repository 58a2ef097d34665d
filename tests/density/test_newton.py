"""Newton's method from many starts, on densities whose modes and curvatures are known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from hiertorch.density import newton
from hiertorch.density.newton import FLOOR, by_densities, by_gradients

LogDensity = Callable[[Tensor], Tensor]
WIDEST = FLOOR**-0.5  # the sd that a flat direction is given


def modes(log_density: LogDensity, starts: Tensor, slices: int) -> tuple[Tensor, Tensor]:
    """By gradients; `log_density` of places `(n, d)`."""

    def each(x: Tensor) -> Tensor:
        return log_density(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    return newton.modes(each, starts, by_gradients(each, slices))


def points(*rows: float | list[float]) -> Tensor:
    """`(starts, d)`."""
    return torch.tensor([row if isinstance(row, list) else [row] for row in rows], dtype=torch.float64)


def quadratic(mode: Tensor, precision: Tensor) -> LogDensity:
    return lambda x: -0.5 * ((x - mode) @ precision * (x - mode)).sum(-1) - 7.0


def covariance(root: Tensor) -> np.ndarray:
    return (root @ root.mT).numpy()


def precision_of(d: int, seed: int, smallest: float = 0.5, largest: float = 1e4) -> Tensor:
    """Of random directions."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    values = torch.logspace(np.log10(smallest), np.log10(largest), d, dtype=torch.float64)
    return vectors * values @ vectors.mT


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_quadratics_are_solved(d: int) -> None:
    precision = precision_of(d, seed=d)
    mode = torch.linspace(-2.0, 3.0, d, dtype=torch.float64)
    starts = mode + 4.0 * torch.randn(5, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, root = modes(quadratic(mode, precision), starts, 100)
    assert found.shape == (5, d) and root.shape == (5, d, d)
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    assert ((found - mode) / sd).abs().max() < 1e-4
    expected = torch.linalg.inv(precision).expand(5, d, d).numpy()
    assert covariance(root) == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(sd.min()) ** 2)
    assert torch.equal(root, root.tril())


def test_far_starts_of_a_quadratic_arrive() -> None:
    """30 away, of steps of length 2 at most."""
    found, root = modes(quadratic(points(1.0)[0], torch.eye(1).double()), points(-30.0, 30.0, 1.0), 100)
    assert found.numpy() == pytest.approx(1.0, abs=1e-6)
    assert root.numpy() == pytest.approx(1.0, rel=1e-6)


def test_directions_wider_than_is_believed_get_the_widest_root() -> None:
    precision = torch.tensor([[9.0, 0.0], [0.0, 1e-4]], dtype=torch.float64)
    found, root = modes(quadratic(points([2.0, -1.0])[0], precision), points([0.0, 0.0]), 100)
    assert float(found[0, 0]) == pytest.approx(2.0, abs=1e-6)
    assert covariance(root[0]) == pytest.approx(np.diag([1 / 9, WIDEST**2]), rel=1e-5, abs=1e-9)


def gamma(shape: float, rate: float) -> LogDensity:
    """u = log of a Gamma(shape, rate), with the Jacobian: a left tail exp(shape u), mode log(shape / rate)."""
    return lambda u: (shape * u - rate * u.exp()).sum(-1)


@pytest.mark.parametrize("start", [-25.0, -3.0, 0.0, 4.0, 8.0])
@pytest.mark.parametrize(("shape", "rate"), [(1.0, 1.0), (2.0, 0.1), (40.0, 3.0), (0.5, 10.0)])
def test_log_scales_with_an_exponential_left_tail(start: float, shape: float, rate: float) -> None:
    """The curvature at the mode is the shape; far left of it there is none, far right a lot."""
    found, root = modes(gamma(shape, rate), points(start), 100)
    assert float(found) == pytest.approx(np.log(shape / rate), abs=2e-3 / shape**0.5)
    assert float(root) == pytest.approx(shape**-0.5, rel=5e-3)


def test_the_mode_of_the_scale_of_eight_schools() -> None:
    """tau ~ Gamma(1, 0.1) on the log scale, with mu ~ Normal(0, 10) integrated out: by SciPy's bounded search."""
    y, se = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def log_density(u: Tensor) -> Tensor:
        precision = 1.0 / ((2.0 * u).exp() + torch.from_numpy(se) ** 2)  # (n, schools)
        total = precision.sum(1) + 0.01
        mean = (precision * torch.from_numpy(y)).sum(1) / total
        fit = (precision * torch.from_numpy(y) ** 2).sum(1) - total * mean**2
        return 0.5 * precision.log().sum(1) - 0.5 * total.log() - 0.5 * fit + u[:, 0] - 0.1 * u[:, 0].exp()

    def negative(u: float) -> float:
        tau = np.exp(u)
        marginal = stats.multivariate_normal(np.zeros(8), np.diag(se**2 + tau**2) + 100.0)
        return -float(marginal.logpdf(y)) - u + 0.1 * tau

    best = optimize.minimize_scalar(negative, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    step = 1e-3
    curvature = (negative(best.x + step) - 2 * negative(best.x) + negative(best.x - step)) / step**2
    found, root = modes(log_density, points(-12.0, 0.0, 5.0), 100)
    assert found.numpy() == pytest.approx(best.x, abs=3e-3)
    assert root.numpy() == pytest.approx(curvature**-0.5, rel=1e-2)


def test_a_density_without_an_interior_mode_ends_where_it_is_flat() -> None:
    """1 / (1 + exp(3 u)): flat on the left, dropping on the right, and as high as can be nowhere."""
    log_density: LogDensity = lambda u: -torch.nn.functional.softplus(3.0 * u).sum(-1)  # noqa: E731
    found, root = modes(log_density, points(-40.0, -1.0, 0.5, 6.0), 100)
    assert (log_density(found) > -1e-2).all()
    assert root.isfinite().all() and (root > 0.0).all() and (root <= WIDEST * (1 + 1e-9)).all()


def test_a_flat_density_stays_where_it_is() -> None:
    found, root = modes(lambda u: 0.0 * u.sum(-1), points([-4.0, 2.0]), 100)
    assert torch.equal(found, points([-4.0, 2.0]))
    assert root[0].numpy() == pytest.approx(np.diag([WIDEST, WIDEST]))


def test_every_start_climbs_from_where_the_curvature_has_the_wrong_sign() -> None:
    """Between two modes, and on the convex flank of a heavy tail."""
    log_density: LogDensity = lambda u: -2.0 * torch.log1p((u.square() - 4.0).square()).sum(-1)  # noqa: E731
    starts = points(-9.0, -0.3, 0.4, 1.0, 30.0)
    found, root = modes(log_density, starts, 100)
    assert found[:, 0].abs().numpy() == pytest.approx(2.0, abs=1e-3)
    assert torch.equal(found[:, 0].sign(), starts[:, 0].sign())
    assert root.numpy() == pytest.approx(64.0**-0.5, rel=1e-2)  # log1p((u^2 - 4)^2) is (4 (u - 2))^2 near 2


def test_two_modes_are_found_from_two_starts() -> None:
    """Normal(-3, 0.5) and Normal(4, 1) in both coordinates, the second of 1/10 of the weight."""
    sizes, places = (0.5, 1.0), (-3.0, 4.0)

    def log_density(x: Tensor) -> Tensor:
        parts = [
            -0.5 * ((x - place) / size).square().sum(-1) - 2.0 * np.log(size) + np.log(share)
            for size, place, share in zip(sizes, places, (0.9, 0.1), strict=True)
        ]
        return torch.stack(parts).logsumexp(0)

    found, root = modes(log_density, points([-2.0, -3.5], [5.0, 3.0]), 100)
    for k in (0, 1):
        assert found[k].numpy() == pytest.approx(places[k], abs=2e-3)
        assert covariance(root[k]) == pytest.approx(sizes[k] ** 2 * np.eye(2), rel=1e-2, abs=1e-4)


def curved(x: Tensor) -> Tensor:
    """The log scale and the location of a funnel: v ~ Normal(0, 1), x | v ~ Normal(1, exp(v / 2)), seen once at 2."""
    v, place = x.unbind(-1)
    return -0.5 * v.square() - 0.5 * v - 0.5 * (place - 1.0).square() * (-v).exp() - 0.5 * (2.0 - place).square() / 0.01


def test_a_curved_density() -> None:
    """Against a simplex search, and differences of the density."""
    best = optimize.minimize(
        lambda x: -float(curved(torch.from_numpy(x))),
        [0.0, 1.9],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13},
    )
    found, root = modes(curved, points([0.0, 0.0], [-3.0, 4.0], [2.5, -6.0]), 100)
    assert found.numpy() == pytest.approx(np.tile(best.x, (3, 1)), abs=2e-3)
    h, eye = 1e-3, np.eye(2)
    at = lambda x: float(curved(torch.from_numpy(x)))  # noqa: E731
    curvature = [
        [
            -(at(best.x + h * (a + b)) - at(best.x + h * (a - b)) - at(best.x - h * (a - b)) + at(best.x - h * (a + b)))
            / (4 * h**2)
            for b in eye
        ]
        for a in eye
    ]
    assert covariance(root[0]) == pytest.approx(np.linalg.inv(curvature), rel=1e-2)


@pytest.mark.parametrize("outside", [-torch.inf, torch.nan, torch.inf])
def test_regions_without_a_density_are_not_entered(outside: float) -> None:
    """Normal(0, 1) cut off at 0.5 from below: its highest point is the cut. From above: its mode remains."""
    normal = quadratic(points(0.0)[0], torch.eye(1).double())
    cut: LogDensity = lambda x: torch.where(x[:, 0] < 0.5, outside, normal(x))  # noqa: E731
    found, root = modes(cut, points(3.0, 0.6), 100)
    assert (found >= 0.5).all() and (found < 0.6).all()
    assert root.isfinite().all() and (root > 0).all()
    inside: LogDensity = lambda x: torch.where(x[:, 0] > 0.5, outside, normal(x))  # noqa: E731
    found, root = modes(inside, points(-7.0, 0.4), 100)
    assert found.numpy() == pytest.approx(0.0, abs=1e-6)
    assert root.numpy() == pytest.approx(1.0, rel=1e-6)


def test_a_start_without_a_density_leaves_the_others_alone() -> None:
    """It ends somewhere finite; `Independence` then leaves it out by its height."""
    log_density: LogDensity = lambda x: x[:, 0].log() * 3.0 - x[:, 0]  # noqa: E731 - NaN below 0
    found, root = modes(log_density, points(-5.0, 1.0), 100)
    assert found.isfinite().all() and root.isfinite().all()
    assert float(found[1]) == pytest.approx(3.0, abs=2e-3)
    assert float(root[1]) == pytest.approx(3.0**0.5, rel=1e-2)


def test_slices_do_not_matter() -> None:
    starts = points([0.0, 0.0], [-3.0, 4.0], [2.5, -6.0])
    whole = modes(curved, starts, 1_000)
    for slices in (0, 1, 2, 7):
        for part, expected in zip(modes(curved, starts, slices), whole, strict=True):
            assert part.numpy() == pytest.approx(expected.numpy(), rel=1e-9)


def test_no_more_points_than_a_slice_are_differentiated_at_once() -> None:
    sizes = []

    def watched(x: Tensor) -> Tensor:
        if x.requires_grad:
            sizes.append(len(x))
        return curved(x)

    modes(watched, points([0.0, 0.0], [-3.0, 4.0], [2.5, -6.0]), 4)
    assert sizes and max(sizes) <= 4


def test_gradients_need_not_be_switched_on() -> None:
    """Sampling is done without them; starts are not changed, and what is found carries none."""
    starts = points([0.0, 0.0], [-3.0, 4.0])
    before = starts.clone()
    with torch.no_grad():
        found, root = modes(curved, starts, 100)
    assert torch.equal(starts, before)
    assert not found.requires_grad and not root.requires_grad
    assert torch.equal(found, modes(curved, starts, 100)[0])


@pytest.mark.parametrize("d", [1, 2, 3])
def test_densities_alone_find_the_same(d: int) -> None:
    """In units of an unconstrained scale, and in units that are found."""
    precision = precision_of(d, seed=d, largest=20.0)
    mode = torch.linspace(-2.0, 3.0, d, dtype=torch.float64)
    starts = mode + torch.randn(5, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_density = quadratic(mode, precision)
    root = 30.0 * torch.eye(d, dtype=torch.float64).expand(5, d, d)
    for units in (None, root):
        found, c = newton.modes(log_density, starts, by_densities(log_density), units)
        assert found.numpy() == pytest.approx(mode.expand(5, d).numpy(), abs=1e-4)
        assert covariance(c) == pytest.approx(torch.linalg.inv(precision).expand(5, d, d).numpy(), rel=1e-3, abs=1e-4)
        assert torch.equal(c, c.tril())
