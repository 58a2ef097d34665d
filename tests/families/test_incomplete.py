"""Families of rows that are censored or truncated, by SciPy."""

import numpy as np
import pytest
import torch
from builders import refused
from contracts.families import COLUMNS, FamilyContract
from scipy import stats

import hiertorch as ht
from hiertorch.errors import DataError, ModelError
from hiertorch.families import Censored, Gaussian, Poisson, Truncated, Weibull, ZeroInflated
from hiertorch.model.latent import Values


class Cut:
    """A normal distribution between two ends, given by SciPy in standard units."""

    def __init__(self, mean, sd, low, high):
        self.law = stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)

    def __getattr__(self, name):
        return getattr(self.law, name)


class TestTruncated(FamilyContract):
    """Of normal rows above a number."""

    closed = formed = False
    values = {"sigma_y": [0.5, 1.0, 2.0]}  # noqa: RUF012
    bad = (("y", -7.0, "outside the support"),)
    ends = -1.0, np.inf

    def family(self):
        return Truncated(Gaussian(), low=-1.0)

    def distribution(self, eta, v):
        return Cut(eta, v["sigma_y"], *self.ends)

    def prior(self, v):
        return stats.gamma(1.0).logpdf(v["sigma_y"])

    def test_the_link_is_that_of_the_mean(self):
        """Of the base."""
        assert self.family().link is self.family().base.link


@pytest.mark.slow
class TestTruncatedByColumns(TestTruncated):
    """Between two ends, of which one is the rows' own."""

    ends = -1.5, COLUMNS["trials"]

    def family(self):
        return Truncated(Gaussian(), -1.5, "trials")


def rows(how, **columns):
    y = np.array([0.5, 1.0, 2.0, 0.3])
    return ht.Data(y, how=how, up=[0.0, 0.0, 0.0, 0.9], **columns)


def test_censored_rows_by_scipy():
    """And their derivatives are left to autograd; means, draws and scales are those without censoring."""
    family, data = Censored(Weibull(), "how", "up"), rows([0, 1, -1, 2])
    v = Values({"shape_y": torch.tensor([[1.5]], dtype=torch.float64)})
    eta = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    law = stats.weibull_min(1.5, scale=np.exp(eta[0].numpy() - np.log(stats.weibull_min(1.5).mean())))
    y, up = data.y.numpy(), data["up"].numpy()
    known = np.where(data["how"] == 1, law.logsf(y), np.where(data["how"] == -1, law.logcdf(y), law.logpdf(y)))
    known[3] = np.log((law.cdf(up) - law.cdf(y))[3])
    np.testing.assert_allclose(family.distribution(eta, v, data).log_prob(data.y)[0], known, rtol=1e-10)
    assert family.derivatives(data.y, eta, v, data) is None and family.row_form(data) is None
    np.testing.assert_allclose(family.mean(eta, v, data)[0], law.mean())
    np.testing.assert_allclose(family.variance(eta, v, data)[0], law.var())
    offset = torch.zeros(4, dtype=torch.float64)
    assert family.level_and_spread(data.y, offset, data) == Weibull().level_and_spread(data.y, offset, data)
    torch.testing.assert_close(family.link_variance(eta, eta, v, data), Weibull().link_variance(eta, eta, v, data))


def test_bases_are_continuous():
    for base in (Poisson(), ZeroInflated(Poisson()), ht.families.Bernoulli(), ht.families.Cumulative(3)):
        for kind in (Censored, lambda base: Truncated(base, 0.0)):
            with refused(ModelError, "rows are those of a family of continuous ones", "of whole numbers"):
                kind(base)
    with refused(ModelError, "is made of a family"):
        Censored("gaussian")
    with refused(ModelError, "is censored"):
        Truncated(Censored(Gaussian()), 0.0)
    for ends, sentence in (((None, None), "found neither"), ((2.0, 1.0), "a higher high="), ((True, 1.0), "low= is")):
        with refused(ModelError, sentence):
            Truncated(Gaussian(), *ends)


@pytest.mark.parametrize(
    ("family", "data", "sentence"),
    [
        (
            Censored(Gaussian(), "how"),
            rows([0, 1, 2, 0]),
            "codes of censored rows are 0 (seen), 1 (right-)",
        ),
        (Censored(Gaussian(), "how", "up"), rows([0, 1, 3, 0]), "2 (interval-)"),
        (Censored(Gaussian(), "how", "up"), rows([2, 1, 0, 0]), "with an upper end above the response"),
        (Truncated(Gaussian(), 0.4), rows([0] * 4), "from 0.4 to inf"),
        (Truncated(Gaussian(), "up", 0.5), rows([0] * 4), "rows are truncated below a number and above a higher one"),
        (Truncated(Gaussian(), "how", "up"), rows([-1, -1, 0, -1]), "where 'how' has 0"),
    ],
)
def test_rows_that_can_not_be(family, data, sentence):
    model = ht.models.CompletePooling(family=family, priors="tutorial")
    with refused(DataError, "row", sentence):
        ht.plan(model, data)


def test_a_family_on_a_frame_with_groups():
    """It takes part in everything that a family does: the plan, predictions, a check."""
    rng = np.random.default_rng(0)
    g = rng.integers(6, size=60)
    time = np.exp(rng.normal(size=60) * 0.5 + 0.3 * g)
    data = ht.Data(np.minimum(time, 3.0), groups={"g": g}, late=time > 3.0)
    model = ht.models.VaryingIntercepts("g", family=Censored(ht.families.LogNormal(), "late"))
    assert "whitened" in str(ht.plan(model, data))
    assert "Censored(LogNormal(eta, sigma_y), late)" in str(model)
