"""Ready models, and the contract that every model keeps: batched equals stacked, proper densities, its own randomness.

A new model gets a subclass of `Contract` that says how it is made and what its density is by SciPy.
"""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Gamma, HalfNormal, LKJCholesky, MultivariateNormal, Normal, Poisson

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.models import CompletePooling, EightSchools, VaryingIntercepts

ROWS, GROUPS = 40, 6


def made_data(**options):
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=ROWS), "z": rng.normal(size=ROWS), "se": rng.uniform(1.0, 2.0, size=ROWS)}
    school = np.append(np.arange(GROUPS), rng.integers(GROUPS, size=ROWS - GROUPS))
    return ht.Data(rng.integers(0, 2, size=ROWS), groups={"school": school}, **columns, **options)


class Contract:
    chains = 4

    def model(self):
        raise NotImplementedError

    def reference(self, v, data):
        """Log prior of one chain and log likelihood of its rows by SciPy, of values `(size, *event)` by name."""
        raise NotImplementedError

    def drawn(self, chains=None, seed=0):
        model, data = self.model(), made_data()
        return model, data, model.sample_prior(data, chains or self.chains, torch.Generator().manual_seed(seed))

    def test_check_finds_nothing(self):
        assert self.model().check(made_data()) == []

    def test_density_by_scipy(self):
        model, data, v = self.drawn()
        for chain in range(self.chains):
            log_prior, rows = self.reference({name: x[chain].numpy() for name, x in v.items()}, data)
            assert float(model.log_prior(v, data)[chain]) == pytest.approx(log_prior, rel=1e-6)
            np.testing.assert_allclose(model.log_likelihood(v, data)[chain], rows, rtol=1e-6, atol=1e-8)
            assert float(model.log_prob(v, data)[chain]) == pytest.approx(log_prior + rows.sum(), rel=1e-6)

    def test_batched_equals_stacked(self):
        model, data, v = self.drawn()
        weighted = data.replace(weights=np.arange(ROWS) % 3)
        for function, arguments in (
            (model.log_prior, (data,)),
            (model.log_likelihood, (data,)),
            (model.log_prob, (data,)),
            (model.log_prob, (weighted,)),
        ):
            batched = function(v, *arguments)
            one_by_one = [function({k: x[c : c + 1] for k, x in v.items()}, *arguments) for c in range(self.chains)]
            torch.testing.assert_close(batched, torch.cat(one_by_one), rtol=1e-12, atol=1e-12)

    def test_chains_with_data_of_their_own_equal_single_fits(self):
        model, data, v = self.drawn()
        y = model.simulate(v, data, torch.Generator().manual_seed(1))
        weights = torch.rand(self.chains, ROWS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        batched = model.log_prob(v, data.replace(y=y, weights=weights))
        for c in range(self.chains):
            alone = data.replace(y=y[c], weights=weights[c])
            torch.testing.assert_close(batched[c], model.log_prob({k: x[c : c + 1] for k, x in v.items()}, alone)[0])

    def test_simulations_are_possible_and_reproducible(self):
        model, data, v = self.drawn()
        y = model.simulate(v, data, torch.Generator().manual_seed(3))
        assert y.shape == (self.chains, ROWS)
        assert torch.isfinite(model.log_likelihood(v, data.replace(y=y))).all()
        assert torch.equal(y, model.simulate(v, data, torch.Generator().manual_seed(3)))

    def test_float32(self):
        model, data, v = self.drawn()
        low = model.log_prob({name: x.float() for name, x in v.items()}, data.to(dtype=torch.float32))
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), model.log_prob(v, data), rtol=1e-4, atol=1e-3)

    def test_a_plan_can_be_made(self):
        """One that integrates out where rows are Gaussian, and one of ordinary moves."""
        gaussian = type(self.model().likelihood(*reversed(self.drawn()[1:]))) is Normal
        for collapse in (True, False):
            plan = ht.plan(self.model(), made_data(), collapse=collapse)
            moved = {name for step in plan.steps for name in step.move.block}
            assert moved == set(self.model().latents)
            assert (plan.collapsed is not None) == (gaussian and collapse)


def gamma_one(x):
    return stats.gamma(1.0).logpdf(x).sum()


class TestCompletePooling(Contract):
    def model(self):
        return CompletePooling(["x", "z"], priors="tutorial")

    def test_check_finds_nothing(self):
        note = "grouping 'school' is never read: no latent varies over it and nothing uses its codes."
        assert self.model().check(made_data()) == [note]

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


class TestVaryingIntercepts(Contract):
    def model(self):
        return VaryingIntercepts("school", predictors=["x"], priors="tutorial")

    def reference(self, v, data):
        log_prior = stats.norm(0, 5).logpdf(v["mu_alpha"]).sum() + stats.norm(0, 2).logpdf(v["beta"]).sum()
        log_prior += gamma_one(v["sigma_alpha"]) + gamma_one(v["sigma_y"])
        log_prior += stats.norm(v["mu_alpha"], v["sigma_alpha"]).logpdf(v["alpha"]).sum()
        mean = v["alpha"][data.school.numpy()] + v["beta"][0, 0] * data.x.numpy()
        return log_prior, stats.norm(mean, v["sigma_y"]).logpdf(data.y)


class TestEightSchools(Contract):
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


class TestCorrelatedEffects(Contract):
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


class TestVectors(Contract):
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
