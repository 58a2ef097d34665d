"""Results do not depend on the units of response and columns: they are the same numbers in other units."""

from collections.abc import Callable

import numpy as np
import pytest
from torch.distributions import HalfNormal, Normal, StudentT

import hiertorch as ht

RNG = np.random.default_rng(0)
GROUP, OTHER = np.repeat(np.arange(8), 10), np.tile(np.arange(5), 16)
X = RNG.normal(size=80)
EFFECTS, SLOPES = RNG.normal(size=(2, 8))
Y = 2.0 + 0.8 * EFFECTS[GROUP] + (1.5 + 0.4 * SLOPES[GROUP]) * X + 0.5 * RNG.normal(size=80)
UNITS = [(1e9, 1.0), (1e-9, 1e9), (1e9, 1e-9), (1.0, 1e-9)]  # of y, of x


def data(y: float, x: float) -> ht.Data:
    return ht.Data(y * Y, x=x * X, groups={"g": GROUP, "h": OTHER, "room": 2 * GROUP + np.arange(80) % 2})


def own(y: float, x: float, *, student: bool = False) -> ht.Model:
    """Priors on the data's scale."""

    class Own(ht.Model):
        mu = ht.Latent(Normal(0.0, 10.0 * y))
        b = ht.Latent(Normal(0.0, 5.0 * y / x))
        tau = ht.Latent(HalfNormal(2.0 * y))
        sigma = ht.Latent(HalfNormal(2.0 * y))
        a = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

        def likelihood(self, v, data):
            mean = v.a[:, data.g] + v.b * data.x
            return StudentT(4.0, mean, v.sigma) if student else Normal(mean, v.sigma)

    return Own()


STRUCTURES: dict[str, Callable[[float, float], ht.Model]] = {
    "own": own,
    "mixed": lambda y, x: ht.models.MixedEffects("g", ["x"]),
    "correlated": lambda y, x: ht.models.CorrelatedEffects("g", ["x"]),
    "nested": lambda y, x: ht.models.Nested(["g", "room"], ["x"]),
    "crossed": lambda y, x: ht.models.Crossed(["g", "h"], ["x"]),
}


QUICK = {("own", 1e9, 1e-9), ("crossed", 1e9, 1e-9), ("correlated", 1e-9, 1e9)}
"""The others are slow tests."""


@pytest.mark.parametrize(
    ("name", "y", "x"),
    [
        pytest.param(name, y, x, marks=() if (name, y, x) in QUICK else pytest.mark.slow)
        for name in STRUCTURES
        for y, x in UNITS
    ],
)
@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_collapsed_runs_give_the_same_in_any_unit(name: str, y: float, x: float) -> None:
    """Coefficients have the unit of y over that of x, all others that of y; the same random numbers serve."""
    options = {"chains": 16, "draws": 100, "seed": 1, "progress": False, "keep_all": True}
    one = ht.sample(STRUCTURES[name](1.0, 1.0), data(1.0, 1.0), **options)
    other = ht.sample(STRUCTURES[name](y, x), data(y, x), **options)
    assert other.run["audit"]["sound"] and other.run["audit"]["gap"] < 1e-6
    for latent in one.names:
        if latent in ("L", "effects", "rho"):
            continue
        unit = y / x if latent == "b" or "beta" in latent else y
        here, there = one.draws[latent], other.draws[latent] / unit
        assert float((here.mean((0, 1)) - there.mean((0, 1))).abs().max()) < 0.3 * float(here.std()), latent
        assert float(there.std() / here.std()) == pytest.approx(1.0, rel=0.25), latent


@pytest.mark.slow
@pytest.mark.parametrize(("y", "x"), UNITS)
@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_ordinary_moves_find_any_unit(y: float, x: float) -> None:
    options = {"chains": 16, "warmup": 500, "draws": 300, "thin": 1, "seed": 1, "progress": False, "compile": False}
    one = ht.sample(own(1.0, 1.0, student=True), data(1.0, 1.0), **options)
    other = ht.sample(own(y, x, student=True), data(y, x), **options)
    assert other.summary()["r_hat"].max() < 1.15
    for latent in ("mu", "b", "sigma", "a"):
        here, there = one.draws[latent], other.draws[latent] / (y / x if latent == "b" else y)
        assert float((here.mean((0, 1)) - there.mean((0, 1))).abs().max()) < 0.3 * float(here.std()), latent
        assert float(there.std() / here.std()) == pytest.approx(1.0, rel=0.25), latent
