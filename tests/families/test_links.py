"""Links by themselves, and families with another link than their default, by SciPy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from builders import refused
from scipy import optimize, special, stats

import hiertorch as ht
from hiertorch import families
from hiertorch.errors import ModelError
from hiertorch.families import links
from hiertorch.model.latent import Values
from hiertorch.runtime.validating import validation

RNG = np.random.default_rng(8)
ROWS = 60
GROUP = np.arange(ROWS) % 6
COLUMNS = {
    "x": RNG.normal(size=ROWS),
    "time": RNG.uniform(0.5, 3.0, size=ROWS),
    "trials": RNG.integers(1, 9, size=ROWS),
}
TIME, TRIALS = COLUMNS["time"], COLUMNS["trials"]
INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda eta: eta,
    "log": np.exp,
    "inverse": lambda eta: 1.0 / eta,
    "sqrt": np.square,
    "softplus": lambda eta: np.logaddexp(0.0, eta),
    "logit": special.expit,
    "probit": stats.norm.cdf,
    "cloglog": lambda eta: stats.gumbel_l.cdf(eta),
}


class Case(NamedTuple):
    """A family with a link, SciPy's distribution of a mean, and the middle of eta."""

    family: families.Family
    rows: Callable[[np.ndarray], Any]
    middle: float = 0.0
    values: dict[str, float] = {}  # noqa: RUF012


def counts(m: np.ndarray) -> Any:
    return stats.nbinom(3.0, 3.0 / (3.0 + m))


CASES = [
    *(Case(families.Bernoulli(link=link), stats.bernoulli) for link in ("probit", "cloglog")),
    *(Case(families.Binomial(link=link), lambda p: stats.binom(TRIALS, p)) for link in ("probit", "cloglog")),
    *(Case(families.Poisson("time", link), lambda m: stats.poisson(TIME * m), 9.0) for link in ("sqrt", "identity")),
    Case(families.Poisson("time", "softplus"), lambda m: stats.poisson(TIME * m)),
    *(Case(families.NegativeBinomial(link=k), counts, 9.0, {"phi_y": 3.0}) for k in ("softplus", "sqrt", "identity")),
    Case(families.Gaussian(link="log"), lambda m: stats.norm(m, 0.5), 0.0, {"sigma_y": 0.5}),
    Case(families.Gaussian(link="inverse"), lambda m: stats.norm(m, 0.5), 9.0, {"sigma_y": 0.5}),
]
NAMES = [repr(case.family) for case in CASES]
QUICK = ("Binomial(trials, link='cloglog')", "Poisson(time, link='identity')")
"""Cases of each kind of link, of which a surrogate is looked for by default."""


def made(case: Case) -> tuple[ht.Data, torch.Tensor, Values]:
    eta = case.middle + RNG.normal(size=(2, ROWS)) / 2
    y = case.rows(INVERSES[case.family.link.name](eta[0])).rvs(random_state=1)
    v = Values({name: torch.full((2, 1), x, dtype=torch.float64) for name, x in case.values.items()})
    return ht.Data(y.astype(float), groups={"g": GROUP}, **COLUMNS), torch.tensor(eta), v


@pytest.mark.parametrize("link", [getattr(links, name.upper()) for name in INVERSES], ids=list(INVERSES))
def test_a_link_is_one_to_one(link):
    eta = np.linspace(0.1, 3.0, 30) if link.name in ("inverse", "sqrt") else np.linspace(-2.0, 2.0, 30)
    mean = link.inverse(torch.tensor(eta))
    np.testing.assert_allclose(mean, INVERSES[link.name](eta), rtol=1e-12)
    np.testing.assert_allclose(link.forward(mean), eta, rtol=1e-9, atol=1e-12)
    by_difference = optimize.approx_fprime(eta, lambda x: INVERSES[link.name](x).sum(), 1e-7)
    np.testing.assert_allclose(links.slope(link, torch.tensor(eta)), by_difference, rtol=1e-4)
    if link.log_odds:
        np.testing.assert_allclose(link.log_odds(torch.tensor(eta)), special.logit(mean.numpy()), rtol=1e-9, atol=1e-9)


def test_log_odds_are_exact_where_probabilities_round():
    far = np.array([-30.0, -12.0, 12.0, 30.0])
    found = links.PROBIT.log_odds(torch.tensor(far))
    np.testing.assert_allclose(found, stats.norm.logcdf(far) - stats.norm.logsf(far), rtol=1e-12)
    far = np.array([-400.0, -50.0, 3.0, 6.0])
    found = links.CLOGLOG.log_odds(torch.tensor(far))
    np.testing.assert_allclose(found, [-400.0, -50.0, *np.exp(far[2:])], rtol=1e-8)
    for dtype in (torch.float32, torch.float64):
        assert links.CLOGLOG.log_odds(torch.tensor([-1e4, 1e4], dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_families_with_a_link_by_scipy(case):
    data, eta, v = made(case)
    found, family = case.family.distribution(eta, v, data), case.family
    for c in range(2):
        reference = case.rows(INVERSES[family.link.name](eta[c].numpy()))
        log_density = getattr(reference, "logpmf", None) or reference.logpdf
        np.testing.assert_allclose(found.log_prob(data.y)[c], log_density(data.y.numpy()), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(family.mean(eta, v, data)[c], reference.mean(), rtol=1e-8)
        np.testing.assert_allclose(family.variance(eta, v, data).expand(2, ROWS)[c], reference.var(), rtol=1e-8)
    assert family.derivatives(data.y, eta, v, data) is None and family.row_form(data) is None
    assert f"link={family.link.name!r}" in repr(family) and family.link.mean_text in family.formula


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_priors_and_shares_know_the_link(case):
    data, _, v = made(case)
    family, zero = case.family, torch.zeros(ROWS, dtype=torch.float64)
    level, spread = family.level_and_spread(data.y, zero, data)
    shares = data.y.numpy() / (TIME if "time" in family.columns else 1.0)
    if family.columns == ("trials",):
        shares = np.array([data.y.sum() / TRIALS.sum()])
    assert float(family.link.inverse(level)) == pytest.approx(shares.mean(), rel=0.05) and spread > 0
    at = torch.full((2, 1), case.middle, dtype=torch.float64)
    one = data.take(torch.zeros(1, dtype=torch.long)).replace(y=data.y[:1])
    around = family.link_variance(at, 0.1 * torch.ones_like(at), v, one)
    if family.link.log_odds:  # the variance of the latent response that is cut at 0
        latent = {"probit": stats.norm, "cloglog": stats.gumbel_l}[family.link.name]
        np.testing.assert_allclose(around, latent.var())
    else:
        step = 1e-6  # of the mean, whose slope turns a variance of y into one of eta
        up, down = (family.mean(at + s, v, one) for s in (step, -step))
        slope = (up - down) / (2 * step) / (TIME[0] if "time" in family.columns else 1.0)
        np.testing.assert_allclose(around, family.variance(at, v, one) / slope**2, rtol=1e-4)
    assert "link" not in repr(type(family)()) and len({repr(family), repr(type(family)())}) == 2


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(one, id=k, marks=[] if k in QUICK else pytest.mark.slow)
        for k, one in zip(NAMES, CASES, strict=True)
    ],
)
def test_a_surrogate_is_found_and_data_can_be_simulated(case):
    data, _, _ = made(case)
    model = ht.models.VaryingIntercepts("g", ["x"], family=case.family)
    plan = ht.plan(model, data)
    truth = {"mu_alpha": case.middle or 0.3, "sigma_alpha": 0.3, "beta": 0.2}
    found = model.check(ht.simulate_grouped({"g": 4}, 5, model=model, values=truth, seed=1).data)
    assert all("a link such as exp, wastes no proposals" in why for why in found)  # below 0 counts have no mean
    assert len(found) == (case.family.scaled and not isinstance(case.family, families.Gaussian))
    edged = bool(found) or (isinstance(case.family, families.Poisson) and case.family.link.name == "sqrt")
    assert (plan.surrogate is None) == edged == ("an edge" in str(plan))


def test_predictors_at_which_a_mean_is_impossible_have_density_zero():
    data = ht.Data([1.0, 0.0])
    eta = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    for family, known in (
        (families.Poisson(link="identity"), [-1.0, -np.inf]),
        (families.Poisson(link="sqrt"), [-1, 0]),
    ):

        class Fixed(ht.Model):
            mu = ht.Latent(torch.distributions.Normal(0.0, 1.0))
            of = family

            def likelihood(self, v, data):
                return self.of.distribution(eta + 0.0 * v.mu, v, data)

        v = Values({"mu": torch.zeros(1, 1, dtype=torch.float64)})
        with validation(False):
            np.testing.assert_allclose(Fixed().log_likelihood(v, data)[0], known)


def test_a_link_that_there_is_not():
    with refused(ModelError, "the links of poisson are log, sqrt, softplus, identity; found 'probit'"):
        families.Poisson(link="probit")
    with refused(ModelError, "the links of bernoulli are logit, probit, cloglog; found 'log'"):
        families.Bernoulli(link=families.LOG)
    assert families.Bernoulli(link=families.PROBIT).link == families.PROBIT
