"""Ready models, and models of one's own, by the contract of every model; and what the ready ones refuse."""

import re

import numpy as np
import pytest
from contracts.models import ModelContract, made_data
from scipy import stats
from torch.distributions import Bernoulli, Gamma, HalfNormal, LKJCholesky, MultivariateNormal, Normal, Poisson

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.models import CompletePooling, EightSchools, VaryingIntercepts


def gamma_one(x):
    return stats.gamma(1.0).logpdf(x).sum()


class TestCompletePooling(ModelContract):
    def model(self):
        return CompletePooling(["x", "z"], priors="tutorial")

    def test_check_finds_nothing(self):
        note = "grouping 'school' is never read: no latent varies over it and nothing uses its codes."
        assert self.model().check(self.data()) == [note]

    @pytest.mark.filterwarnings("ignore:grouping 'school' is never read")
    def test_a_plan_can_be_made(self):
        super().test_a_plan_can_be_made()

    def reference(self, v, data):
        log_prior = stats.norm(0, 5).logpdf(v["alpha"]).sum() + stats.norm(0, 2).logpdf(v["beta"]).sum()
        mean = v["alpha"] + v["beta"][0, 0] * data.x.numpy() + v["beta"][0, 1] * data.z.numpy()
        return log_prior + gamma_one(v["sigma_y"]), stats.norm(mean, v["sigma_y"]).logpdf(data.y)


class TestPoolingWithoutPredictors(TestCompletePooling):
    def model(self):
        return CompletePooling(priors="tutorial")

    def reference(self, v, data):
        log_prior = stats.norm(0, 5).logpdf(v["alpha"]).sum() + gamma_one(v["sigma_y"])
        return log_prior, stats.norm(v["alpha"], v["sigma_y"]).logpdf(data.y)


class TestVaryingIntercepts(ModelContract):
    def model(self):
        return VaryingIntercepts("school", predictors=["x"], priors="tutorial")

    def reference(self, v, data):
        log_prior = stats.norm(0, 5).logpdf(v["mu_alpha"]).sum() + stats.norm(0, 2).logpdf(v["beta"]).sum()
        log_prior += gamma_one(v["sigma_alpha"]) + gamma_one(v["sigma_y"])
        log_prior += stats.norm(v["mu_alpha"], v["sigma_alpha"]).logpdf(v["alpha"]).sum()
        mean = v["alpha"][data.school.numpy()] + v["beta"][0, 0] * data.x.numpy()
        return log_prior, stats.norm(mean, v["sigma_y"]).logpdf(data.y)


class TestEightSchools(ModelContract):
    def model(self):
        return EightSchools()

    def reference(self, v, data):
        log_prior = stats.norm(0, 10).logpdf(v["mu"]).sum() + stats.gamma(1.0, scale=10.0).logpdf(v["tau"]).sum()
        log_prior += stats.norm(v["mu"], v["tau"]).logpdf(v["theta"]).sum()
        return log_prior, stats.norm(v["theta"][data.school.numpy()], data.se.numpy()).logpdf(data.y)


class CorrelatedEffects(ht.Model):
    """logit p_ij = a_j + b_j x_ij,  (a_j, b_j) ~ Normal(mu, diag(s) Omega diag(s))."""

    mu = ht.Latent(Normal(0.0, 1.0), event=2)
    s = ht.Latent(HalfNormal(1.0), event=2)
    omega = ht.Latent(LKJCholesky(2, 2.0))
    effects = ht.Latent(lambda v: MultivariateNormal(v.mu, scale_tril=v.s.unsqueeze(-1) * v.omega), plate="school")

    def likelihood(self, v, data):
        effects = v.effects[:, data.school]
        return Bernoulli(logits=effects[..., 0] + effects[..., 1] * data.x)


class TestCorrelatedEffects(ModelContract):
    def model(self):
        return CorrelatedEffects()

    def reference(self, v, data):
        s, factor = v["s"][0], v["omega"][0]
        log_prior = stats.norm.logpdf(v["mu"]).sum() + stats.halfnorm.logpdf(s).sum()
        log_prior += stats.beta(2.0, 2.0).logpdf((factor[1, 0] + 1) / 2) - np.log(2)
        root = s[:, None] * factor
        log_prior += stats.multivariate_normal(v["mu"][0], root @ root.T).logpdf(v["effects"]).sum()
        a, b = v["effects"][data.school.numpy()].T
        p = 1 / (1 + np.exp(-(a + b * data.x.numpy())))
        return log_prior, stats.bernoulli(p).logpmf(data.y.numpy())


class Vectors(ht.Model):
    """Three coefficients a group, one scale each, and counts."""

    s = ht.Latent(Gamma(2.0, 4.0), event=3)
    beta = ht.Latent(lambda v: Normal(v.s[..., 0], 0.5), plate="school", event=3)

    def likelihood(self, v, data):
        beta = v.beta[:, data.school]
        return Poisson((beta[..., 0] + beta[..., 1] * data.x + beta[..., 2] * data.z).exp())


class TestVectors(ModelContract):
    def model(self):
        return Vectors()

    def reference(self, v, data):
        log_prior = stats.gamma(2.0, scale=0.25).logpdf(v["s"]).sum()
        log_prior += stats.norm(v["s"][0, 0], 0.5).logpdf(v["beta"]).sum()
        beta = v["beta"][data.school.numpy()]
        rate = np.exp(beta[:, 0] + beta[:, 1] * data.x.numpy() + beta[:, 2] * data.z.numpy())
        return log_prior, stats.poisson(rate).logpmf(data.y.numpy())


# Arguments of the ready models


def test_coefficients_are_labelled_by_their_columns():
    assert VaryingIntercepts("school", predictors=["x", "z"], priors="tutorial").latents["beta"].labels == (("x", "z"),)
    assert "beta" not in VaryingIntercepts("school", priors="tutorial").latents
    assert list(CompletePooling(("x",), priors="tutorial").latents) == ["alpha", "beta", "sigma_y"]


@pytest.mark.parametrize("model", [lambda p: VaryingIntercepts("school", p, priors="tutorial"), CompletePooling])
def test_predictors_that_are_no_list_of_names(model):
    for wrong in ("x", [3], [None]):
        with pytest.raises(ModelError, match=re.escape(f"predictors must be a list of column names, found {wrong!r}")):
            model(wrong)
    with pytest.raises(ModelError, match="predictors names a column twice"):
        model(["x", "x"])


def test_a_column_that_the_data_lack():
    with pytest.raises(ModelError, match=r"(?s)the likelihood of CompletePooling failed.*no column or grouping 'age'"):
        CompletePooling(["age"], priors="tutorial").check(made_data())
    with pytest.raises(
        ModelError, match=r"the prior of 'alpha' can't be built: no column or grouping 'age'; columns: x"
    ):
        CompletePooling(["age"]).check(made_data())
    with pytest.raises(ModelError, match="varies over plate 'class', which the data lack"):
        VaryingIntercepts("class").check(made_data())
    with pytest.raises(ModelError, match=r"(?s)no column or grouping 'error'"):
        EightSchools(se="error").check(made_data())


def test_one_line_changes_a_prior():
    class Wide(VaryingIntercepts):
        mu_alpha = ht.Latent(Normal(0.0, 100.0))

    assert list(Wide("school", priors="tutorial").latents) == list(
        VaryingIntercepts("school", priors="tutorial").latents
    )
    assert float(Wide("school", priors="tutorial").latents["mu_alpha"].prior.scale) == 100.0
