"""A family that the package does not have, in one file: everything that asks families takes it."""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import sampled
from contracts.families import FamilyContract
from scipy import stats
from torch import distributions

import hiertorch as ht
from hiertorch.families import LOG, Derivatives, Family


class Duration(Family):
    """y_i ~ Gamma(shape_y, shape_y / m_i) of mean m_i = exp(eta_i) and variance m_i^2 / shape_y.

    It is a family of its own: positive, continuous, with a logarithm for link, a latent that has no unit, and a
    statistic of its own.
    """

    name = "duration"
    formula = "Gamma(mean exp(eta), shape_y)"
    link, links = LOG, (LOG,)
    latents = {"shape_y": ht.Latent(distributions.Gamma(2.0, 0.5))}  # noqa: RUF012
    scale_texts = ("log(mean(y))", "sd(log(y))")

    def distribution(self, eta, v, data):
        return distributions.Gamma(v.shape_y, v.shape_y * (-eta).exp())

    def derivatives(self, y, eta, v, data):
        ratio = v.shape_y * y * (-eta).exp()
        return Derivatives(ratio - v.shape_y, -ratio)

    def link_variance(self, eta, spread, v, data):
        """Nakagawa, Johnson & Schielzeth (2017), table 1."""
        return torch.polygamma(1, v.shape_y)

    def level_and_spread(self, y, offset, data):
        rates = y.clamp(min=1e-3).log() - offset
        return rates.exp().mean().log(), rates.std().clamp(min=1.0)

    def statistics(self):
        return {"largest / mean": lambda y: y.amax(1) / y.mean(1)}


class TestDuration(FamilyContract):
    formed = False
    values = {"shape_y": [0.8, 2.0, 9.0]}  # noqa: RUF012
    bad = (("y", -1.0, "outside the support of the likelihood"),)

    def family(self):
        return Duration()

    def distribution(self, eta, v):
        return stats.gamma(v["shape_y"], scale=np.exp(eta) / v["shape_y"])

    def prior(self, v):
        return stats.gamma(2.0, scale=2.0).logpdf(v["shape_y"])


class Bare(Family):
    """Waiting times with nothing but their distribution."""

    formula = "Exponential(mean exp(eta))"
    link, links = LOG, (LOG,)

    def distribution(self, eta, v, data):
        return distributions.Exponential((-eta).exp())


class TestBare(FamilyContract):
    closed = formed = False

    def family(self):
        return Bare()

    def distribution(self, eta, v):
        return stats.expon(scale=np.exp(eta))


@pytest.fixture(scope="module", params=[Duration(), Bare()], ids=["duration", "bare"])
def fitted(request):
    model = ht.models.VaryingIntercepts("ward", ["x"], family=request.param)
    truth = {"beta": 0.5, "mu_alpha": 1.0, "sigma_alpha": 0.5}
    made = ht.simulate_grouped({"ward": 8}, 12, model=model, values=truth, seed=3)
    posterior = sampled(model, made.data, seed=1, chains=4, warmup=40, draws=25, thin=1)
    return model, made, posterior


def test_it_is_fitted(fitted):
    _, _, posterior = fitted
    found = posterior.summary(["beta"], kind="stats").iloc[0]
    assert abs(found["mean"] - 0.5) < 5.0 * found["sd"]


def test_it_is_printed_with_its_priors(fitted):
    model, made, _ = fitted
    level, spread = model.family.scale_texts
    wide = f"{'2.5' if spread == '1' else f'2.5 {spread}'} |1, mean(x) / sd(x)|"
    assert f"y ~ {model.family.formula}" in str(model) and f"Normal({level}, {wide})" in str(model)
    assert model.check(made.data) == [] and "error" not in set(made.data.check(model)["severity"])


def test_new_rows_are_predicted(fitted):
    _, _, posterior = fitted
    rows = pd.DataFrame({"ward": ["w1", "new"], "x": [0.0, 0.0]})
    assert (posterior.predict(rows, kind="mean").draws > 0.0).all()
    assert (posterior.predict(rows, kind="response").draws > 0.0).all()


def test_predictive_checks_look_at_what_it_says(fitted):
    model, made, posterior = fitted
    for check in (posterior.predictive_check(draws=50), ht.prior_check(model, made.data, draws=50, seed=1)):
        assert ("largest / mean" in check.table.index) == bool(model.family.statistics())
        assert "skewness" in check.table.index


def test_shares_of_variance_are_given_where_it_knows_them(fitted):
    model, _, posterior = fitted
    pooled = posterior.pooling()
    if isinstance(model.family, Bare):
        assert any("how y varies around eta is not known for Bare()" in message for message in pooled.messages)
        return
    assert set(pooled.variance.index.get_level_values("scale")) == {"link", "response"}
    shape = posterior["shape_y"].double()
    rows = pooled.variance.loc[("link", "rows"), "variance"]
    assert rows == pytest.approx(float(torch.polygamma(1, shape).median()), rel=0.05)


def test_posteriors_of_it_are_saved_and_loaded(fitted, tmp_path):
    model, made, posterior = fitted
    posterior.save(tmp_path / "run")
    again = ht.Posterior.load(tmp_path / "run", model=model, data=made.data)
    assert torch.equal(again["beta"], posterior["beta"])
