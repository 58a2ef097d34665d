"""Scales and correlations given effects: chains end at what quadrature and closed forms say, and broken ones do not.

Chains are independent of one another, and begin far from where they are to end. Marginals are compared by the test of
Kolmogorov and Smirnov, at an error rate of 1e-3 a case over all of them (Bonferroni).
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Gamma,
    HalfNormal,
    Independent,
    InverseGamma,
    LKJCholesky,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import PowerTransform

import hiertorch as ht
from hiertorch.gaussian.covariances import covariances_of
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.gaussian.wishart import InverseWishart
from hiertorch.model.latent import Values
from hiertorch.run import giveneffects
from hiertorch.run.giveneffects import GivenEffects
from hiertorch.run.standing import Standing

pytestmark = pytest.mark.usefixtures("as_in_sampling")

CHAINS, STEPS, ALPHA = 3_000, 12, 1e-3
SHAPE, RATE, CONCENTRATION = 2.0, 1.5, 1.5


class Pairs(ht.Model):
    """Two correlated effects in each group."""

    sd = ht.Latent(Gamma(SHAPE, RATE), event=2)
    L = ht.Latent(LKJCholesky(2, CONCENTRATION))
    b = ht.Latent(
        lambda v: MultivariateNormal(torch.zeros(2, dtype=v.sd.dtype), scale_tril=v.sd[..., None] * v.L), plate="group"
    )

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        own = v.b[:, data.group]
        return Bernoulli(logits=own[..., 0] + own[..., 1] * data.x)


class Alone(ht.Model):
    """One effect in each group, whose variance has an inverse gamma prior; and two others without correlation."""

    tau = ht.Latent(TransformedDistribution(InverseGamma(3.0, 2.0), PowerTransform(torch.tensor(0.5))))
    sd = ht.Latent(HalfNormal(2.0), event=2)
    a = ht.Latent(lambda v: Normal(0.0, v.tau), plate="item")
    b = ht.Latent(lambda v: Independent(Normal(torch.zeros_like(v.sd), v.sd), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        own = v.b[:, data.group]
        return Bernoulli(logits=v.a[:, data.item] + own[..., 0] + own[..., 1] * data.x)


def rows(groups: int) -> ht.Data:
    rng = np.random.default_rng(groups)
    group = np.arange(3 * groups) % groups
    y = (rng.random(3 * groups) < 0.5).astype(float)
    return ht.Data(y, groups={"group": group, "item": np.arange(3 * groups) // groups}, x=rng.normal(size=3 * groups))


def given_of(model: ht.Model, data: ht.Data) -> GivenEffects:
    plan = ht.plan(model, data)
    assert plan.surrogate is not None
    affine, structure = plan.surrogate.first.affine, plan.structure
    covariances = covariances_of(affine, structure.reads, structure.target.space.coordinates)
    return GivenEffects(Standing(structure.target, plan.surrogate.first.rest), affine, covariances)


def ended(given: GivenEffects, effects: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Values of the rest after some steps from draws of the prior, at the same effects `(K, groups)` in all chains; the
    proposals are fitted after the first of them, to those of other chains.
    """
    model, generator = given.standing.target.model, torch.Generator().manual_seed(4)
    x = {
        part: torch.from_numpy(effects[str(part.plate)]).unsqueeze(2).expand(-1, -1, CHAINS)
        for part in given.affine.composed.parts if part.plate is not None
    }  # fmt: skip
    position = given.standing.position(dict(model.sample_prior(given.standing.target.data, CHAINS, generator)))
    for step in range(STEPS):
        numbers = torch.rand(given.numbers, CHAINS, generator=generator, dtype=torch.float64)
        position, info = given.step(position, x, numbers)
        assert int(info.nan) == 0
        if step == 0:
            given.fit(position.flip(0)[: CHAINS // 2])
    assert float(info.accept.mean()) > 0.5
    return given.standing.constrained(position)


def rejected(found: dict[str, Tensor], known: dict[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, float]:
    p = {name: float(stats.kstest(found[name].numpy(), cdf).pvalue) for name, cdf in known.items()}
    return {name: x for name, x in p.items() if x < ALPHA / len(p)}


def by_quadrature(x: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Distributions of both scales and of the correlation of pairs `(2, groups)`: densities by SciPy on a grid of logs
    and of atanh.
    """
    at = [np.linspace(-4.0, 2.5, 110), np.linspace(-4.0, 2.5, 110), np.linspace(-3.0, 3.0, 111)]
    a, b, z = np.meshgrid(*at, indexing="ij")
    s, t, r = np.exp(a), np.exp(b), np.tanh(z)
    scatter, groups, left = x @ x.T, x.shape[1], 1.0 - r**2
    inside = scatter[0, 0] / s**2 - 2.0 * r * scatter[0, 1] / (s * t) + scatter[1, 1] / t**2
    height = -groups * (a + b + 0.5 * np.log(left)) - 0.5 * inside / left
    height += stats.gamma(SHAPE, scale=1.0 / RATE).logpdf(s) + stats.gamma(SHAPE, scale=1.0 / RATE).logpdf(t) + a + b
    height += CONCENTRATION * np.log(left)  # (1 - r^2)^(eta - 1), and d r / d z
    weight = np.exp(height - height.max())
    found = {}
    for axis, name in enumerate(("s", "t", "r")):
        own = weight.sum(tuple(k for k in range(3) if k != axis))
        sums = (np.cumsum(own) - 0.5 * own) / own.sum()
        points = np.tanh(at[axis]) if axis == 2 else np.exp(at[axis])
        found[name] = lambda x, points=points, sums=sums: np.interp(x, points, sums)
    return found


def pairs(groups: int) -> np.ndarray:
    return np.random.default_rng(8).multivariate_normal([0.0, 0.0], [[0.5, 0.3], [0.3, 0.4]], size=groups).T


def of_pairs(groups: int) -> dict[str, float]:
    x = pairs(groups)
    values = ended(given_of(Pairs(), rows(groups)), {"group": x})
    found = {"s": values["sd"][:, 0, 0], "t": values["sd"][:, 0, 1], "r": values["L"][:, 0, 1, 0]}
    return rejected(found, by_quadrature(x))


@pytest.mark.parametrize("groups", [4, 25])
def test_correlated_effects_have_the_posterior_of_quadrature(groups: int) -> None:
    """Of few groups as well, where nu has no room for the prior."""
    assert not of_pairs(groups)


def test_single_effects_have_the_posterior_in_closed_form() -> None:
    """tau^2 ~ inverse gamma(3 + J / 2, 2 + S / 2); the others by quadrature of SciPy's densities. Covariances that are
    moved one after the other do not disturb each other.
    """
    rng, data = np.random.default_rng(5), rows(9)
    effects = {"item": rng.normal(size=(1, 3)), "group": rng.normal(size=(2, 9)) * [[0.2], [1.5]]}
    given = given_of(Alone(), data)
    assert sorted(one.latents for one in given.covariances) == [("sd",), ("sd",), ("tau",)]
    values = ended(given, effects)
    found = {"tau": values["tau"][:, 0], "s": values["sd"][:, 0, 0], "t": values["sd"][:, 0, 1]}
    exact = stats.invgamma(3.0 + 1.5, scale=2.0 + 0.5 * (effects["item"] ** 2).sum())
    known: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tau": lambda x: exact.cdf(x**2)}
    logs = np.linspace(-6.0, 4.0, 20_000)
    for name, own in zip("st", effects["group"], strict=True):
        height = stats.norm.logpdf(own[:, None], 0.0, np.exp(logs)).sum(0)
        height += stats.halfnorm(scale=2.0).logpdf(np.exp(logs))
        weight = np.exp(height + logs - (height + logs).max())
        sums = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
        known[name] = lambda x, sums=sums: np.interp(np.log(x), logs, sums)
    assert not rejected(found, known)


def without_volume(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(giveneffects, "log_polar_volume", lambda scales, unit: torch.zeros_like(scales[:, 0]))


def one_group_less(patch: pytest.MonkeyPatch) -> None:
    right = giveneffects.log_normal
    patch.setattr(giveneffects, "log_normal", lambda root, scatter, groups: right(root, scatter, groups - 1))


def without_their_own_density(patch: pytest.MonkeyPatch) -> None:
    """Proposals as if their degrees of freedom were two fewer."""
    right = InverseWishart.log_density
    patch.setattr(InverseWishart, "log_density", lambda q, root: right(q._replace(freedom=q.freedom - 2.0), root))


@pytest.mark.parametrize("broken", [without_volume, one_group_less, without_their_own_density])
def test_wrong_ratios_are_seen(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    assert of_pairs(25)


class Shifted(Pairs):
    """The prior's root is not what it looks like where a scale is above 1."""

    b = ht.Latent(
        lambda v: MultivariateNormal(
            torch.zeros(2, dtype=v.sd.dtype), scale_tril=(v.sd + 0.5 * (v.sd - 1.0).clamp(min=0.0))[..., None] * v.L
        ),
        plate="group",
    )


def test_no_place_is_left_or_entered_where_the_root_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though probes have not shown it."""
    right, data = given_of(Pairs(), rows(25)), rows(25)
    wrong = given_of(Shifted(), data)
    assert not wrong.covariances
    wrong = GivenEffects(wrong.standing, wrong.affine, [c for c in right.covariances])
    monkeypatch.setattr(wrong, "covariances", tuple(
        type(c)(next(p for p in wrong.affine.composed.parts if p.plate == "group"), c.at, c.scales, c.correlation)
        for c in right.covariances
    ))  # fmt: skip
    generator = torch.Generator().manual_seed(6)
    before = wrong.standing.position(dict(wrong.standing.target.model.sample_prior(data, 400, generator)))
    x = {p: torch.randn(2, 25, 400, generator=generator, dtype=torch.float64) for p in wrong.affine.composed.parts}
    after, _ = wrong.step(before, x, torch.rand(wrong.numbers, 400, generator=generator, dtype=torch.float64))
    scales = [(wrong.standing.constrained(u)["sd"] < 1.0).flatten(1).all(1) for u in (before, after)]
    moved = (before != after).any(1)
    assert bool(moved.any()) and not bool((moved & ~(scales[0] & scales[1])).any())


def test_covariances_are_found_or_not() -> None:
    def found(model: ht.Model, data: ht.Data) -> list[tuple[tuple[tuple[str, int], ...], str | None]]:
        return [(one.scales, one.correlation) for one in given_of(model, data).covariances]

    data = rows(12)
    three = ht.models.CorrelatedEffects("group", ["x"], family="bernoulli")
    assert found(three, data) == [((("sigma_alpha", 0), ("sigma_beta", 0)), "L")]
    assert found(Pairs(), data) == [((("sd", 0), ("sd", 1)), "L")]
    assert isinstance(ht.plan(three, data).surrogate, Surrogate)
