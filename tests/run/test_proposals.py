"""The independence proposals: one distribution, drawn from and evaluated, and a fit that finds it.

The reference is SciPy's: u = location + scale sinh((asinh(x) + skew) / tail) with x a mixture of two multivariate
Student distributions, so that in one dimension P(u <= c) is known in closed form.
"""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from hiertorch.moves.metropolis import Tuning
from hiertorch.randomness import uniform
from hiertorch.run import proposals
from hiertorch.run.proposals import COMPONENTS

ALPHA = 1e-3
DRAWS = 40_000


def tuning_of(
    skew: Iterable[float],
    tail: Iterable[float],
    *,
    location: float = 0.0,
    scale: float = 1.0,
    shift: float = 0.0,
    correlation: float = 0.6,
) -> Tuning:
    """Coordinates k = 0, 1, .. with location + k, scale (k + 1), shift - 0.1 k, and one correlation of all pairs."""
    skews, tails = (torch.tensor(list(x), dtype=torch.float64) for x in (skew, tail))
    each = torch.arange(len(skews), dtype=torch.float64)
    eye = torch.eye(len(skews), dtype=torch.float64)
    sd = 0.8 + 0.3 * each
    covariance = sd * sd.unsqueeze(1) * (correlation + (1.0 - correlation) * eye)
    return {
        "location": location + each,
        "scale": scale * (each + 1.0),
        "skew": skews,
        "tail": tails,
        "shift": shift - 0.1 * each,
        "root": torch.linalg.cholesky(covariance),
    }


SHAPES = {
    "symmetric": tuning_of([0.0], [1.0]),
    "skewed left": tuning_of([-0.8], [1.0], shift=0.2),
    "skewed right": tuning_of([1.5], [0.9], location=-30.0, scale=4.0),
    "heavy": tuning_of([0.3], [0.5], location=1.0, scale=1e-3),
    "light": tuning_of([-0.2], [1.4], location=1e4, scale=200.0),
}
PLANES = {
    "normal": tuning_of([0.0, 0.0], [1.0, 1.0]),
    "skewed": tuning_of([-1.2, 0.5], [0.9, 1.2], shift=0.3),
    "heavy and light": tuning_of([0.4, -0.4], [0.6, 1.4], correlation=-0.7, location=3.0, scale=0.01),
    "narrow": tuning_of([0.0, 0.8], [1.0, 1.0], correlation=0.98),
}


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inner(tuning: Tuning, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x(u) and dx / du, `(number, d)` each."""
    location, scale, skew, tail = (tuning[name].numpy() for name in ("location", "scale", "skew", "tail"))
    y = (u - location) / scale
    angle = tail * np.arcsinh(y) - skew
    return np.sinh(angle), np.cosh(angle) * tail / scale / np.hypot(1.0, y)


def log_density(tuning: Tuning, u: np.ndarray) -> np.ndarray:
    """log q by SciPy's multivariate Student distribution."""
    x, slope = inner(tuning, u)
    shift, root = tuning["shift"].numpy(), tuning["root"].numpy()
    parts = [
        np.log(share) + stats.multivariate_t(shift, s**2 * root @ root.T, df=df).logpdf(x)
        for share, df, s in COMPONENTS
    ]
    return np.logaddexp(*parts) + np.log(slope).sum(1)


def cdf(tuning: Tuning, k: int, u: np.ndarray) -> np.ndarray:
    """P(u_k <= u) for values `(number,)`: margins of the mixture are mixtures of the same shares."""
    one = {name: x[k : k + 1] for name, x in tuning.items() if name != "root"}
    x = (inner(one, u[:, None])[0][:, 0] - float(tuning["shift"][k])) / float(tuning["root"][k].norm())
    return sum(share * stats.t(df).cdf(x / s) for share, df, s in COMPONENTS)


def p_values(tuning: Tuning, draws: Tensor) -> dict[str, float]:
    """Kolmogorov-Smirnov tests of every margin, and of length and direction of t = root^-1 (x - shift)."""
    u = draws.numpy()
    d = u.shape[1]
    found = {f"margin {k}": stats.kstest(u[:, k], lambda c, k=k: cdf(tuning, k, c)).pvalue for k in range(d)}
    t = np.linalg.solve(tuning["root"].numpy(), (inner(tuning, u)[0] - tuning["shift"].numpy()).T)  # (d, number)
    square = (t**2).sum(0)
    lengths = [(share, stats.f(d, df), d * s**2) for share, df, s in COMPONENTS]
    found["length"] = stats.kstest(square, lambda r: sum(share * f.cdf(r / size) for share, f, size in lengths)).pvalue
    # The square of one entry of a direction that is uniform on the sphere is Beta(1/2, (d - 1)/2).
    for k in range(d if d > 1 else 0):
        found[f"direction {k}"] = stats.kstest(t[k] ** 2 / square, stats.beta(0.5, (d - 1) / 2).cdf).pvalue
    return found


def failures(tuning: Tuning, draws: Tensor) -> dict[str, float]:
    """Tests that fail at ALPHA in all, by Bonferroni."""
    p = p_values(tuning, draws)
    return {what: value for what, value in p.items() if not value > ALPHA / len(p)}


# One distribution


@pytest.mark.parametrize("name", SHAPES)
def test_density_in_one_dimension_integrates_to_the_cdf(name: str) -> None:
    """By the trapezoidal rule over s with u = location + scale sinh(s), where tails of a power of u are exponential."""
    tuning = SHAPES[name]
    s = np.linspace(-40.0, 40.0, 40_001)
    location, scale = float(tuning["location"]), float(tuning["scale"])
    u = location + scale * np.sinh(s)
    heights = proposals.density(tuning, torch.from_numpy(u)[:, None]).exp().numpy() * scale * np.cosh(s)
    assert np.trapezoid(heights, s) == pytest.approx(1.0, abs=1e-9)
    below = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2 * np.diff(s))])
    assert below == pytest.approx(cdf(tuning, 0, u), abs=1e-6)


@pytest.mark.parametrize("name", PLANES)
def test_density_in_two_dimensions_integrates_to_one(name: str) -> None:
    """As above, around the middle of each margin."""
    tuning = PLANES[name]
    s = np.linspace(-24.0, 24.0, 961)
    middle = proposals.propose(tuning, 4_001, generator()).median(0).values.numpy()
    scale = tuning["scale"].numpy() / 3
    axes = [middle[k] + scale[k] * np.sinh(s) for k in (0, 1)]
    u = np.stack([mesh.ravel() for mesh in np.meshgrid(*axes, indexing="ij")], 1)
    heights = proposals.density(tuning, torch.from_numpy(u)).exp().numpy().reshape(len(s), len(s))
    weights = np.cosh(s) * scale[:, None] * (s[1] - s[0])
    assert weights[0] @ heights @ weights[1] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("tuning", [*SHAPES.values(), *PLANES.values()], ids=[*SHAPES, *PLANES])
def test_density_is_that_of_scipy(tuning: Tuning) -> None:
    near = proposals.propose(tuning, 500, generator())
    far = tuning["location"] + 1e4 * (near - tuning["location"])
    u = torch.cat([near, far])
    assert proposals.density(tuning, u).numpy() == pytest.approx(log_density(tuning, u.numpy()), rel=1e-9, abs=1e-9)


def test_density_in_five_dimensions_is_that_of_scipy() -> None:
    tuning = tuning_of([0.1, -1.0, 0.0, 1.6, -0.5], [1.0, 0.7, 1.4, 1.1, 0.5], correlation=0.4, shift=0.1)
    u = proposals.propose(tuning, 300, generator())
    assert proposals.density(tuning, u).numpy() == pytest.approx(log_density(tuning, u.numpy()), rel=1e-10)


@pytest.mark.parametrize("tuning", [*SHAPES.values(), *PLANES.values()], ids=[*SHAPES, *PLANES])
def test_draws_have_the_density(tuning: Tuning) -> None:
    """Error rate 1e-3 a shape."""
    draws = proposals.propose(tuning, DRAWS, generator(2))
    assert draws.shape == (DRAWS, len(tuning["location"])) and draws.dtype == torch.float64
    assert not failures(tuning, draws)


def test_draws_in_five_dimensions_have_the_density() -> None:
    """Error rate 1e-3."""
    tuning = tuning_of([0.1, -1.0, 0.0, 1.6, -0.5], [1.0, 0.7, 1.4, 1.1, 0.5], correlation=0.4, shift=0.1)
    assert not failures(tuning, proposals.propose(tuning, DRAWS, generator(2)))


def test_draws_of_other_distributions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a root transposed, no shift, another skew, coordinates of a Student each, a larger share of the wide one."""
    tuning = PLANES["skewed"]
    wrong = {
        "root": {**tuning, "root": tuning["root"].mT.contiguous()},
        "shift": {**tuning, "shift": torch.zeros(2, dtype=torch.float64)},
        "skew": {**tuning, "skew": tuning["skew"] + 0.05},
    }
    for what, other in wrong.items():
        assert failures(tuning, proposals.propose(other, DRAWS, generator(2))), what
    alone = [tuning_of([0.0], [1.0]) for _ in range(2)]
    apart = torch.cat([proposals.propose(one, DRAWS, generator(k)) for k, one in enumerate(alone)], 1)
    together = proposals.normal_start(torch.zeros(2).double(), alone[0]["root"] * torch.eye(2).double())
    assert "length" in failures(together, apart)
    monkeypatch.setattr(proposals, "COMPONENTS", ((0.9, 20, 1.0), (0.1, 4, 2.0)))
    assert failures(tuning, proposals.propose(tuning, DRAWS, generator(2)))


def test_draws_are_those_of_the_generator() -> None:
    tuning, before = PLANES["skewed"], torch.random.get_rng_state()
    first, again, other = (proposals.propose(tuning, 50, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_dimensions_have_density_one() -> None:
    empty = proposals.normal_start(torch.zeros(0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64))
    assert torch.equal(proposals.density(empty, torch.zeros(7, 0, dtype=torch.float64)), torch.zeros(7).double())


def test_normal_start_lies_around_mean_and_root() -> None:
    mean, root = torch.tensor([3.0, -50.0]).double(), torch.tensor([[0.5, 0.0], [20.0, 7.0]]).double()
    tuning = proposals.normal_start(mean, root)
    assert not failures(tuning, proposals.propose(tuning, DRAWS, generator(2)))
    main = stats.multivariate_t(mean.numpy(), (root @ root.mT).numpy(), df=COMPONENTS[0][1])
    wide = stats.multivariate_t(mean.numpy(), (COMPONENTS[1][2] ** 2 * root @ root.mT).numpy(), df=COMPONENTS[1][1])
    u = mean + torch.randn(100, 2, dtype=torch.float64, generator=generator()) @ root.mT
    expected = COMPONENTS[0][0] * main.pdf(u.numpy()) + COMPONENTS[1][0] * wide.pdf(u.numpy())
    assert proposals.density(tuning, u).exp().numpy() == pytest.approx(expected, rel=1e-9)


# The fit


def acceptance(
    log_target: np.ndarray, target_draws: Tensor, tuning: Tuning, log_at_proposals: np.ndarray, u: Tensor
) -> float:
    """Mean of min(1, w(u') / w(u)) over draws u of the target and u' of the proposal, w = target / proposal."""
    here = log_target - proposals.density(tuning, target_draws).numpy()
    there = log_at_proposals - proposals.density(tuning, u).numpy()
    return float(np.exp(np.minimum(there - here, 0.0)).mean())


TARGETS = {
    "normal": stats.norm(3.0, 0.2),
    "log of a gamma": stats.loggamma(1.0),
    "log of a gamma of few": stats.loggamma(0.5, loc=-4.0),
    "minus log of a gamma": stats.gumbel_r(),
    "student": stats.t(5, loc=-2.0, scale=30.0),
    "logistic": stats.logistic(1e3, 1e-3),
    "skewed": stats.skewnorm(6.0),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_fit_to_draws_is_close_to_their_distribution(name: str) -> None:
    """Independence Metropolis with it accepts more than 0.9, and on skewed ones more than with mean and variance."""
    target = TARGETS[name]
    draws = torch.from_numpy(target.rvs((20_000, 1), random_state=1))
    tuning = proposals.fit(draws)
    fresh = torch.from_numpy(target.rvs((DRAWS, 1), random_state=2))
    u = proposals.propose(tuning, DRAWS, generator())
    rates = acceptance(target.logpdf(fresh[:, 0]), fresh, tuning, target.logpdf(u[:, 0]), u)
    assert rates > 0.9
    plain = proposals.normal_start(draws.mean(0), draws.std(0)[None])
    v = proposals.propose(plain, DRAWS, generator())
    others = acceptance(target.logpdf(fresh[:, 0]), fresh, plain, target.logpdf(v[:, 0]), v)
    assert rates > others - 0.02
    if name.startswith(("log of", "minus")):
        assert rates > others + 0.05


@pytest.mark.parametrize("skew", [-1.2, 0.0, 0.5])
@pytest.mark.parametrize("tail", [0.6, 1.0, 1.3])
def test_a_fit_finds_the_shape_of_transformed_normals(skew: float, tail: float) -> None:
    """Skew and tail are found up to the grid of shapes, and quantiles of 1 to 99 % to 0.05 of a standard normal."""
    z = np.random.default_rng(1).normal(size=50_000)
    p = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])

    def quantile(z: np.ndarray) -> np.ndarray:
        return 7.0 + 0.3 * np.sinh((np.arcsinh(z) + skew) / tail)

    tuning = proposals.fit(torch.from_numpy(quantile(z)[:, None]))
    assert abs(float(tuning["skew"]) / float(tuning["tail"]) - skew / tail) < 0.1
    assert abs(float(tuning["tail"]) - tail) < 0.11
    x = float(tuning["shift"]) + float(tuning["root"]) * stats.norm.ppf(p)
    found = tuning["location"].numpy() + tuning["scale"].numpy() * np.sinh(
        (np.arcsinh(x) + tuning["skew"].numpy()) / tuning["tail"].numpy()
    )
    step = 1e-4
    slope = (quantile(stats.norm.ppf(p) + step) - quantile(stats.norm.ppf(p) - step)) / (2 * step)
    assert np.abs((found - quantile(stats.norm.ppf(p))) / slope).max() < 0.05  # in units of z


def test_a_fit_finds_correlations_of_skewed_margins() -> None:
    """exp of normals: correlations of the normal scores, 0.8 and -0.3."""
    correlation = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
    z = np.random.default_rng(1).normal(size=(40_000, 3)) @ np.linalg.cholesky(correlation).T
    tuning = proposals.fit(torch.from_numpy(np.exp(0.5 * z) * [1.0, 1e3, 1e-3]))
    covariance = (tuning["root"] @ tuning["root"].mT).numpy()
    sd = covariance.diagonal() ** 0.5
    assert covariance / sd / sd[:, None] == pytest.approx(correlation, abs=0.02)
    assert sd == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["two humps", "gammas"])
def test_shift_and_root_are_moments_of_what_the_margins_leave(name: str) -> None:
    """Of x, which is standard normal only if the margins fit well; two humps are none of a sinh-arcsinh's shapes."""
    rng = np.random.default_rng(1)
    humps = np.where(rng.random((5_000, 1)) < 0.4, -1.5, 1.5) + rng.normal(size=(5_000, 2))
    draws = humps if name == "two humps" else np.log(rng.gamma([0.5, 3.0], size=(5_000, 2)))
    tuning = proposals.fit(torch.from_numpy(draws))
    x = inner(tuning, draws)[0]
    assert np.abs(x).max() < 6.0
    assert tuning["shift"].numpy() == pytest.approx(x.mean(0), abs=1e-9)
    assert (tuning["root"] @ tuning["root"].mT).numpy() == pytest.approx(np.cov(x.T), abs=1e-6)
    assert np.abs(x.mean(0)).max() > 1e-4  # so that there is something to shift


def test_a_fit_moves_with_its_draws() -> None:
    """fit(a + b u) is a + b fit(u), for scales of any size."""
    draws = torch.from_numpy(stats.loggamma(1.0).rvs((5_000, 2), random_state=1))
    place, size = torch.tensor([1e3, -1e-3]).double(), torch.tensor([1e6, 1e-4]).double()
    first, second = proposals.fit(draws), proposals.fit(place + size * draws)
    u = proposals.propose(first, 200, generator())
    expected = proposals.density(first, u) - size.log().sum()
    assert proposals.density(second, place + size * u).numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_scale_of_is_the_root_of_the_covariance() -> None:
    z = torch.randn(5_000, 3, dtype=torch.float64, generator=generator())
    draws = z @ torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.1, 0.0], [-2e4, 0.0, 1e5]]).double().mT
    root = proposals.scale_of(draws)
    assert torch.equal(root, root.tril())
    expected = np.cov(draws.numpy().T)
    sd = np.sqrt(np.diagonal(expected))
    assert (root @ root.mT).numpy() / sd / sd[:, None] == pytest.approx(expected / sd / sd[:, None], abs=1e-6)


def sample(case: str) -> Tensor:
    """Draws that a short or stuck warm-up may leave."""
    z = torch.randn(400, 2, dtype=torch.float64, generator=generator(5))
    return {
        "ten": z[:10],
        "three": z[:3],
        "huge": 1e12 * z,
        "tiny": 1e-12 * z,
        "far": 1e8 + z,
        "one heavy coordinate": torch.stack([z[:, 0] / z[:, 1].abs() ** 2, z[:, 1]], 1),
        "collinear": z[:, :1].expand(-1, 2),
        "two values": torch.where(z[:, :1] > 0, 1.0, -1.0) * torch.ones(2).double(),
        "few values": z[torch.arange(400) % 7],
        "more dimensions than draws": torch.randn(10, 14, dtype=torch.float64, generator=generator(5)),
    }[case]


CASES = ["ten", "three", "huge", "tiny", "far", "one heavy coordinate", "collinear", "two values", "few values"]


@pytest.mark.parametrize("case", [*CASES, "more dimensions than draws"])
def test_a_fit_to_few_or_degenerate_draws_is_a_distribution(case: str) -> None:
    draws = sample(case)
    tuning = proposals.fit(draws)
    assert all(bool(x.isfinite().all()) for x in tuning.values())
    assert bool((tuning["scale"] > 0).all()) and bool((tuning["tail"] > 0).all())
    assert bool(proposals.density(tuning, draws).isfinite().all())
    u = proposals.propose(tuning, 1_000, generator())
    assert bool(u.isfinite().all()) and bool(proposals.density(tuning, u).isfinite().all())


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9])
@pytest.mark.parametrize("stuck", [[0], [0, 1]])
def test_a_fit_to_draws_that_never_moved_is_refused_or_sound(stuck: list[int], value: float) -> None:
    """`Independence` keeps its proposals where a fit raises LinAlgError; NaN must not get into them unseen."""
    draws = torch.randn(400, 2, dtype=torch.float64, generator=generator())
    draws[:, stuck] = value
    for fit in (proposals.fit, proposals.scale_of):
        try:
            found = fit(draws)
        except torch.linalg.LinAlgError:
            continue
        tensors = found.values() if isinstance(found, dict) else [found]
        assert all(bool(x.isfinite().all()) for x in tensors)


def test_proposals_come_with_their_density() -> None:
    """The same numbers as `density` finds from the proposals alone."""
    skewed = torch.randn(2_000, 3, generator=generator(), dtype=torch.float64).exp()
    tuning = proposals.fit(skewed)
    d = len(tuning["location"])
    u, log_q = proposals.propose_and_weigh(tuning, uniform(d + proposals.UNIFORMS, 500, generator=generator(5)))
    assert torch.equal(u, proposals.propose(tuning, 500, generator(5)))
    np.testing.assert_allclose(log_q, proposals.density(tuning, u), rtol=1e-9, atol=1e-9)
