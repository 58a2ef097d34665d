"""`ht.sample` of Gaussian models, whose effects and coefficients it integrates out, against quadrature, against its own
ordinary moves, and by simulation-based calibration.

Two of the three need no algebra of ours. The ordinary moves share with the collapsed sampler only the priors and the
bijections, and calibration (Talts et al. 2018) nothing but `simulate`. Models are those of `gaussian`, which users
might write; every statistical test is two-sided and states its error rate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from builders import EFFECTS, EIGHT_SCHOOLS, ERRORS, Nested, Slopes
from references import Reference, assert_matches, chi_square_p, ecdf_p, eight_schools, varying_intercepts
from scipy import stats
from torch import Tensor
from torch.distributions import Gamma, Normal
from zoo import (
    Autoregression,
    Correlated,
    Crossed,
    NonCentred,
    TwoErrors,
    TwoLevels,
    crossed,
    nested,
    schools,
    simulated,
)

import hiertorch as ht
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.models import EightSchools, VaryingIntercepts
from hiertorch.posterior import Posterior

Sample = Callable[..., Posterior]
ALPHA = 1e-3


@pytest.fixture(scope="module")
def collapsed(sample: Sample) -> Sample:
    """`ht.sample`, of models that must collapse."""

    def run(model: ht.Model, data: ht.Data, **options: Any) -> Posterior:
        posterior = sample(model, data, **{"collapse": True, "seed": 1, **options})
        assert list(posterior.stats.acceptance) == [next(iter(posterior.stats.acceptance))]
        assert next(iter(posterior.stats.acceptance)).startswith("collapsed(")
        return posterior

    return run


# Answers known by quadrature


@dataclass(frozen=True)
class Known:
    """Data of `VaryingIntercepts` with one predictor, and what is known of its latents."""

    model: ht.Model
    data: ht.Data
    known: dict[str, tuple[Callable[[Posterior], Tensor], Reference]]


def entry(name: str, at: int | slice = 0) -> Callable[[Posterior], Tensor]:
    """A latent; of one that is a vector or varies, some entries."""
    return lambda posterior: posterior[name] if posterior[name].dim() == 2 else posterior[name][..., at]


def intercepts(
    y: np.ndarray,
    x: np.ndarray,
    group: np.ndarray,
    model: ht.Model | None = None,
    data: ht.Data | None = None,
    **options: Any,
) -> Known:
    """Quadrature over both scales, for all latents."""
    expected = varying_intercepts(y, x, group, **options)
    known = {name: (entry(name, slice(None) if name == "alpha" else 0), r) for name, r in expected.items()}
    data = data or ht.Data(y, groups={"school": group}, x=x)
    return Known(model or VaryingIntercepts("school", ["x"], priors="tutorial"), data, known)


def rows(sizes: tuple[int, ...], levels: tuple[float, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, x and group of rows with a slope of 0.6 and an sd of 0.8."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = rng.normal(size=len(group))
    return np.array(levels)[group] + 0.6 * x + 0.8 * rng.normal(size=len(group)), x, group


def tutorial() -> Known:
    """Six groups of 15 rows."""
    return intercepts(*rows((15,) * 6, (-1.2, -0.5, 0.2, 0.8, 1.1, 1.5), seed=7))


@lru_cache
def two_groups() -> Known:
    return intercepts(*rows((3, 9), (0.0, 0.9), seed=1))


def one_group() -> Known:
    """What the group's level tells about sigma_alpha is next to nothing."""
    return intercepts(*rows((8,), (0.5,), seed=2))


def no_variation_between_groups() -> Known:
    """Means of y and of x that are equal in all groups: the mode of sigma_alpha is near 0."""
    y, x, group = rows((6,) * 4, (0.0,) * 4, seed=3)
    for values in (y, x):
        values -= np.array([values[group == j].mean() for j in range(4)])[group]
    return intercepts(y, x, group)


def empty_groups() -> Known:
    """Groups 1 and 3 of 4 have no rows; what is known of one is known of the other."""
    y, x, group = rows((4, 0, 7), (-0.4, 0.0, 0.7), seed=4)
    data = ht.Data(y, groups={"school": group}, labels={"school": range(4)}, x=x)
    known = intercepts(y, x, group, data=data)
    three = known.known["alpha"][1]
    quantiles = {p: np.append(q, q[1]) for p, q in three.quantiles.items()}
    four = Reference(np.append(three.mean, three.mean[1]), np.append(three.sd, three.sd[1]), quantiles)
    return Known(known.model, data, {**known.known, "alpha": (known.known["alpha"][0], four)})


class Wide(VaryingIntercepts):
    """mu_alpha ~ Normal(0, 1e6)."""

    mu_alpha = ht.Latent(Normal(0.0, 1e6))


def a_mean_of_a_million() -> Known:
    """y = 1e6 + y': of mu_alpha and alpha, what y' says plus 1e6, since their prior is as good as flat on either."""
    y, x, group = rows((3, 9), (0.0, 0.9), seed=1)
    found = intercepts(
        y,
        x,
        group,
        Wide("school", ["x"], priors="tutorial"),
        ht.Data(1e6 + y, groups={"school": group}, x=x),
        mu_sd=1e6,
    )

    def less(of: Callable[[Posterior], Tensor]) -> Callable[[Posterior], Tensor]:
        return lambda posterior: of(posterior) - 1e6

    moved = {name: (less(of), r) for name, (of, r) in found.known.items() if name in ("mu_alpha", "alpha")}
    return Known(found.model, found.data, {**found.known, **moved})


def collinear_predictors() -> Known:
    """x and 2 x: beta_1 + 2 beta_2 ~ Normal(0, 2 sqrt 5) is what rows read; 2 beta_1 - beta_2 keeps its prior."""
    y, x, group = rows((5, 8), (0.0, 0.9), seed=5)
    data = ht.Data(y, groups={"school": group}, x=x, twice=2 * x)
    found = intercepts(
        y, x, group, VaryingIntercepts("school", ["x", "twice"], priors="tutorial"), data, beta_sd=2 * 5**0.5
    )
    known = {name: part for name, part in found.known.items() if name != "beta"}
    known["beta read"] = (lambda p: p["beta"][..., 0] + 2 * p["beta"][..., 1], found.known["beta"][1])
    known["beta unread"] = (
        lambda p: 2 * p["beta"][..., 0] - p["beta"][..., 1],
        Reference.of(stats.norm(0, 2 * 5**0.5)),
    )
    return Known(found.model, data, known)


def meta_analysis() -> Known:
    expected = eight_schools(EFFECTS, ERRORS, 0.0, 10.0, stats.gamma(1, scale=10))
    return Known(EightSchools(), EIGHT_SCHOOLS, {name: (entry(name, slice(None)), r) for name, r in expected.items()})


SLOW = [tutorial, one_group, no_variation_between_groups, a_mean_of_a_million, collinear_predictors]


@pytest.mark.parametrize(
    "case",
    [meta_analysis, two_groups, empty_groups, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda case: case.__name__,
)
def test_posteriors(case: Callable[[], Known], collapsed: Sample) -> None:
    """With all settings left out. Means, sds and quantiles of all latents, at an error rate of 1e-3 a case."""
    of = case()
    posterior = collapsed(of.model, of.data)
    for name, (draws, reference) in of.known.items():
        assert_matches(draws(posterior), reference, alpha=ALPHA / len(of.known), name=name)
    assert posterior.summary()["r_hat"].max() < 1.01
    assert not posterior.warnings()
    assert sum(posterior.stats.nan.values()) == 0


def drop_log_determinant(patch: pytest.MonkeyPatch, sizes: np.ndarray) -> None:
    """The density of varying intercepts lacks that of its effects, sum_j log(1 + n_j sigma_a^2 / sigma_y^2) / 2."""
    right, n = Collapsed.evaluate, torch.from_numpy(sizes)

    def evaluate(self: Collapsed, values: Any, *more: Any) -> tuple[Tensor, Tensor]:
        density, found = right(self, values, *more)
        ratio = (values["sigma_alpha"] / values["sigma_y"]).square()  # (chains, 1)
        return density + 0.5 * torch.log1p(n * ratio).sum(1), found

    patch.setattr(Collapsed, "evaluate", evaluate)


def other_scales(patch: pytest.MonkeyPatch) -> None:
    """Effects and coefficients are drawn given the scales of another chain."""
    right: Any = Collapsed.draw

    def draw(
        self: Collapsed, values: Any, noise: Tensor, *more: Any, found: Tensor | None = None, **options: Any
    ) -> Any:
        turned = {name: x.roll(1, 0) for name, x in values.items()}
        return right(self, turned, noise, *more, found=None if found is None else found.roll(1, 0), **options)

    patch.setattr(Collapsed, "draw", draw)


def too_little_noise(patch: pytest.MonkeyPatch) -> None:
    """Effects and coefficients have 0.9 of the spread that they should have about their mean."""
    right = Collapsed.draw

    def draw(self: Collapsed, values: Any, noise: Tensor, *more: Any, **options: Any) -> Any:
        return right(self, values, 0.9 * noise, *more, **options)

    patch.setattr(Collapsed, "draw", draw)


WRONG: dict[str, tuple[Callable[[Any], None], str]] = {  # what is broken, and a latent that shows it
    "log determinant": (lambda s: drop_log_determinant(s.patch, np.array([3, 9])), "sigma_alpha"),
    "Jacobian": (lambda s: s.jacobian(), "sigma_alpha"),
    "too little noise": (lambda s: too_little_noise(s.patch), "beta"),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_samplers_are_noticed(how: str, collapsed: Sample, sabotage: Any) -> None:
    """By the checks of `test_posteriors`, on the data of two groups."""
    of, (break_it, name) = two_groups(), WRONG[how]
    draws, reference = of.known[name]
    break_it(sabotage)
    posterior = collapsed(of.model, of.data, draws=100)
    with pytest.raises(AssertionError, match="checks fail"):
        assert_matches(draws(posterior), reference, alpha=ALPHA / len(of.known), name=name)


# Against the ordinary moves


def ess(values: np.ndarray) -> np.ndarray:
    """Of means of `(chains, draws, entries)`."""
    return np.asarray(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean"), float)


def disagreements(first: Posterior, second: Posterior, alpha: float = ALPHA) -> list[str]:
    """Entries whose means or variances differ: two-sided, (a - b) / sqrt(MCSE_a^2 + MCSE_b^2) against Student's t with
    a third of the smaller ESS as its degrees of freedom, by Bonferroni over all entries of all latents.
    """
    found = []
    for name in first.names:
        parts = [p.draws[name].flatten(2).numpy() for p in (first, second)]
        moving = np.ptp(parts[0], axis=(0, 1)) > 0  # not the constants in a Cholesky factor
        parts = [part[..., moving] for part in parts]
        for what in ("mean", "variance"):
            if what == "variance":
                parts = [(part - part.mean((0, 1))) ** 2 for part in parts]
            sizes = [ess(part) for part in parts]
            error = sum(part.var((0, 1)) / n for part, n in zip(parts, sizes, strict=True))
            units = (parts[0].mean((0, 1)) - parts[1].mean((0, 1))) / error**0.5
            p = 2 * stats.t.sf(np.abs(units), np.minimum(*sizes) / 3)
            found += [
                (f"{what} of {name}[{k}]: {u:+.1f} MCSE", value)
                for k, (u, value) in enumerate(zip(units, p, strict=True))
            ]
    return [what for what, p in found if not p > alpha / len(found)]


def quicker(name: str, model: ht.Model, data: ht.Data, linear: str) -> Any:
    return pytest.param(model, data, linear, id=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "linear"),
    [
        quicker("correlated slopes", Correlated(2), schools(1), "centre effects"),
        quicker("nested", TwoLevels(), nested(1), "mu beta school room"),
        quicker("crossed", Crossed(), crossed(1), "mu beta school rater"),
        quicker("autoregression", Autoregression(), schools(1), "mu state"),
        quicker("non-centred", NonCentred(), schools(1), "mu beta z"),
        quicker("two row scales", TwoErrors(), schools(1), "mu beta alpha"),
    ],
)
def test_ordinary_moves_agree(model: ht.Model, data: ht.Data, linear: str, sample: Sample, collapsed: Sample) -> None:
    """Posterior means and variances of all entries of all latents, at an error rate of 1e-3 a model.

    The ordinary moves have a warm-up of 800 sweeps: with 400 their slowest means (of few groups) are not there yet.
    """
    data = simulated(2, model, data, linear).data
    ordinary = sample(model, data, collapse=False, chains=128, warmup=800, draws=120, thin=10, seed=2)
    assert not any(name.startswith("collapsed") for name in ordinary.stats.acceptance)
    assert not disagreements(collapsed(model, data, draws=250), ordinary)


def test_disagreements_are_noticed(collapsed: Sample) -> None:
    """Of data that differ by 0.1 sd in one row; and none between two seeds, at an error rate of 1e-3."""
    y, x, group = rows((3, 9), (0.0, 0.9), seed=1)
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    first, second = (
        collapsed(model, ht.Data(y, groups={"school": group}, x=x), draws=200, seed=seed) for seed in (1, 2)
    )
    assert not disagreements(first, second)
    y[0] += 0.1
    other = collapsed(model, ht.Data(y, groups={"school": group}, x=x), draws=200, seed=3)
    assert disagreements(first, other)


# How many draws are effective


class SlopesOfSize(Slopes):
    """With priors as in the benchmark."""

    scale = ht.Latent(Gamma(1.0, 1.0), event=2)
    s_y = ht.Latent(Gamma(1.0, 1.0))


class RoomsOfSize(Nested):
    """With priors as in the benchmark."""

    mu = ht.Latent(Normal(0.0, 5.0))
    s_a = ht.Latent(Gamma(1.0, 1.0))
    s_b = ht.Latent(Gamma(1.0, 1.0))
    s_y = ht.Latent(Gamma(1.0, 1.0))


def of_size(name: str) -> tuple[ht.Model, ht.Data]:
    rng = np.random.default_rng(6)
    if name == "eight schools":
        return EightSchools(), EIGHT_SCHOOLS
    if name == "tutorial":
        y, x, group = rows((15,) * 6, (-1.2, -0.5, 0.2, 0.8, 1.1, 1.5), seed=7)
        return VaryingIntercepts("school", ["x"], priors="tutorial"), ht.Data(y, groups={"school": group}, x=x)
    if name.startswith("correlated slopes"):
        group = np.repeat(np.arange(60), 1 + rng.poisson(9, 60))
        x = rng.normal(size=len(group)) if name == "correlated slopes" else (rng.random(len(group)) < 0.3).astype(float)
        effects = rng.multivariate_normal([1.5, -0.65], [[0.12, -0.04], [-0.04, 0.09]], 60)[group]
        y = rng.normal(effects[:, 0] + effects[:, 1] * x, 0.75)
        return SlopesOfSize(), ht.Data(y, groups={"school": group}, x=x)
    room = np.repeat(np.arange(300), 20)
    y = rng.normal(1.0 + rng.normal(0.0, 0.5, 50)[room // 6] + rng.normal(0.0, 0.3, 300)[room], 1.0)
    return RoomsOfSize(), ht.Data(y, groups={"school": room // 6, "room": room})


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("tutorial", 0.5),
        ("eight schools", 0.5),
        ("correlated slopes", 0.5),
        ("nested", 0.5),
        ("correlated slopes of few rows", 0.2),  # of which a spread may be 0 and the correlation anything
    ],
)
def test_most_draws_are_effective(name: str, least: float, collapsed: Sample) -> None:
    """Effective draws a draw, of every scale and correlation and of all else at the population level."""
    model, data = of_size(name)
    population = [latent for latent, of in model.latents.items() if of.plate is None]
    posterior = collapsed(model, data, draws=250, keep=population)
    summary = posterior.summary()
    summary = summary[summary["sd"] > 0]
    total = posterior.chains * posterior.n_draws
    assert summary["ess_bulk"].min() > least * total
    assert summary["ess_tail"].min() > least * total
    assert summary["r_hat"].max() < 1.01


# Simulation-based calibration


def calibration(model: ht.Model, data: ht.Data, effect: str, sample: Sample, data_sets: int) -> dict[str, float]:
    """p-values of uniform ranks of the truth among 128 nearly independent draws: parameter and test -> p.

    Ranked are all population-level latents, an effect, and two densities that see a wrong dependence among them
    (Modrak et al. 2023): log p(theta, y) and log p(y | theta).
    """
    generator = torch.Generator().manual_seed(31)
    with torch.no_grad():
        truth = model.sample_prior(data, data_sets, generator)
        responses = model.simulate(truth, data, generator)
    ranks: dict[str, list[int]] = {}
    for k, y in enumerate(responses):
        of = data.replace(y=y)
        posterior = sample(model, of, chains=64, draws=2, thin=8, seed=k)
        drawn = {name: x.flatten(0, 1) for name, x in posterior.draws.items()}
        true = {name: truth[name][k : k + 1] for name in drawn}
        with torch.no_grad():
            both = [
                {
                    **{f"{name}[{i}]": x for name in drawn for i, x in enumerate(v[name].flatten(1).unbind(1))
                       if model.latents[name].plate is None or (name, i) == (effect, 0)},
                    "log p(theta, y)": model.log_prob(v, of),
                    "log p(y | theta)": model.log_likelihood(v, of).sum(-1),
                }
                for v in (drawn, true)
            ]  # fmt: skip
        for name, x in both[0].items():
            ranks.setdefault(name, []).append(int((x < both[1][name]).sum()) if float(x.std()) > 0 else -1)
    tests = {"chi-square": chi_square_p, "distance": ecdf_p}
    moving = {name: np.array(of) for name, of in ranks.items() if min(of) >= 0}
    return {f"{name}, {what}": test(of, 129) for name, of in moving.items() for what, test in tests.items()}


def uneven(p: dict[str, float]) -> dict[str, float]:
    """Those that fail at ALPHA in all, by Bonferroni."""
    return {what: value for what, value in p.items() if not value > ALPHA / len(p)}


DATA_SETS = 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "effect"),
    [
        pytest.param(
            VaryingIntercepts("school", ["x"], priors="tutorial"), schools(1), "alpha", id="varying intercepts"
        ),
        pytest.param(Correlated(2), schools(1), "effects", id="correlated slopes"),
        pytest.param(TwoLevels(), nested(1), "room", id="nested"),
    ],
)
def test_calibration(model: ht.Model, data: ht.Data, effect: str, collapsed: Sample) -> None:
    """Error rate 1e-3 a model."""
    assert not uneven(calibration(model, data, effect, collapsed, DATA_SETS))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["log determinant", "scales of other chains"])
def test_calibration_notices_wrong_samplers(wrong: str, collapsed: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    data = schools(1)
    if wrong == "log determinant":
        drop_log_determinant(monkeypatch, np.bincount(data["school"].numpy()))
    else:
        other_scales(monkeypatch)
    assert uneven(
        calibration(VaryingIntercepts("school", ["x"], priors="tutorial"), data, "alpha", collapsed, DATA_SETS)
    )
