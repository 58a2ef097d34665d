"""Families of ordered categories, by the contract of every family, with probabilities by SciPy's distributions."""

import numpy as np
import pytest
import torch
from builders import refused
from contracts.families import SCHOOL, FamilyContract
from contracts.models import ROWS
from scipy import stats
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.model import ordinals
from hiertorch.models.design import Design, Designed

LAWS = {"logit": stats.logistic, "probit": stats.norm, "cloglog": stats.gumbel_l}
ASCENDING = [[-1.0, 0.2, 1.5], [-0.5, -0.4, 2.0], [-3.0, 0.0, 0.5]]
ANY = [[0.3, -0.8, 1.0], [-0.5, 1.0, 0.2], [-2.0, 0.0, -1.0]]


class Table:
    """A distribution of the numbers 0, ..., K - 1 by its probabilities `(rows, K)`."""

    def __init__(self, p):
        self.p, self.k = p, np.arange(p.shape[1])

    def logpmf(self, y):
        return np.log(self.p[np.arange(len(self.p)), y.astype(int)])

    def mean(self):
        return self.p @ self.k

    def var(self):
        return self.p @ self.k**2 - self.mean() ** 2


class Effects(Designed):
    """eta = alpha_j + x beta + offset, alpha_j ~ Normal(0, sigma_alpha), without an intercept."""

    beta = ht.Latent(Normal(0.0, 0.5))
    sigma_alpha = ht.Latent(Gamma(4.0, 8.0))

    def __init__(self, family):
        super().__init__()
        self.family = family
        self.alpha = ht.Latent(lambda v: Normal(0.0, v.sigma_alpha), "school")
        for name, latent in family.latents.items():
            setattr(self, name, latent)

    def linear_predictor(self, v, data):
        return v.alpha[:, data["school"]] + v.beta * data["x"] + data["off"]

    def likelihood(self, v, data):
        return self.family.distribution(self.linear_predictor(v, data), v, data)

    def design(self):
        return Design(self.family, "off", ("x",), varying={"school": ()})


class OrdinalContract(FamilyContract):
    """Four categories; `cuts` of three chains."""

    closed = formed = False
    link = "logit"
    bad = (("y", 4.0, "outside the support of the likelihood"), ("y", 0.5, "outside the support of the likelihood"))

    def model(self):
        return Effects(self.family())

    def reference(self, v, data):
        own = (
            stats.norm(0, 0.5).logpdf(v["beta"]).sum() + stats.gamma(4.0, scale=1 / 8.0).logpdf(v["sigma_alpha"]).sum()
        )
        own += stats.norm(0, v["sigma_alpha"]).logpdf(v["alpha"]).sum() + stats.norm(0, 3).logpdf(v["cuts_y"]).sum()
        eta = v["alpha"][SCHOOL] + v["beta"][0] * data["x"].numpy() + data["off"].numpy()
        table = self.distribution(eta, {"cuts_y": v["cuts_y"][0]})
        return own + (np.log(6.0) if self.family().ascending else 0.0), table.logpmf(data.y.numpy())

    def test_the_link_is_that_of_the_mean(self):
        """There is none; where a linear predictor is larger, so is the expected category."""
        eta = torch.linspace(-3, 3, 9).double().expand(3, 9)
        assert (self.family().mean(eta, self.v(), None).diff(dim=1) > 0).all()

    def test_the_data_choose_its_priors(self):
        assert self.family().thresholds == "cuts_y"

    def test_level_and_spread(self):
        assert [float(x) for x in self.family().level_and_spread(self.data().y, torch.zeros(1), None)] == [0.0, 1.0]

    def test_structures_with_an_intercept_are_refused(self):
        with refused(ModelError, "thresholds in place of the intercept", "write a formula"):
            ht.models.VaryingIntercepts("school", family=self.family())

    def test_values_by_draw_and_by_chain(self):
        """log_prob of values of any batch is that of the table of probabilities."""
        eta, v = torch.randn(3, ROWS, generator=torch.Generator().manual_seed(1)).double(), self.v()
        found = self.family().distribution(eta, v, None)
        y = torch.randint(4, (5, 3, ROWS), generator=torch.Generator().manual_seed(2)).double()
        table = found.log_probs.expand(5, 3, ROWS, 4)
        torch.testing.assert_close(found.log_prob(y), table.gather(-1, y.long().unsqueeze(-1))[..., 0])
        torch.testing.assert_close(found.probs.sum(-1), torch.ones(3, ROWS).double())

    def test_predictive_checks_look_at_shares(self):
        y = torch.tensor([[0.0, 1.0, 1.0, 3.0]])
        assert [float(one(y)) for one in self.family().statistics().values()] == [0.25, 0.5, 0.0, 0.25]


class CumulativeContract(OrdinalContract):
    values = {"cuts_y": ASCENDING}  # noqa: RUF012

    def family(self):
        return ht.families.Cumulative(4, self.link)

    def distribution(self, eta, v):
        law = LAWS[self.link]
        cuts = np.r_[-np.inf, v["cuts_y"], np.inf] - eta[:, None]
        below, above = law.cdf(cuts), law.sf(cuts)  # differences of what is small
        return Table(np.where(below[:, :-1] < 0.5, np.diff(below, axis=1), -np.diff(above, axis=1)))


class TestCumulative(CumulativeContract):
    pass


class TestCumulativeProbit(CumulativeContract):
    link = "probit"


class TestCumulativeCloglog(CumulativeContract):
    link = "cloglog"


class StoppingContract(OrdinalContract):
    values = {"cuts_y": ANY}  # noqa: RUF012

    def family(self):
        return ht.families.StoppingRatio(["a", "b", "c", "d"], self.link)

    def distribution(self, eta, v):
        gaps, law = np.asarray(v["cuts_y"]) - eta[:, None], LAWS[self.link]
        p, rest = [], np.ones(len(eta))
        for k in range(3):
            p.append(rest * law.cdf(gaps[:, k]))
            rest = rest * law.sf(gaps[:, k])
        return Table(np.stack([*p, rest], 1))


class TestStoppingRatio(StoppingContract):
    pass


class TestStoppingRatioCloglog(StoppingContract):
    link = "cloglog"
    values = {"cuts_y": [[-1.5, -2.0, -1.0], [-2.0, -1.0, -1.5], [-1.0, -1.5, -2.0]]}  # noqa: RUF012


class TestAdjacentCategories(OrdinalContract):
    values = {"cuts_y": ANY}  # noqa: RUF012

    def family(self):
        return ht.families.AdjacentCategories(4)

    def distribution(self, eta, v):
        odds = np.exp(eta[:, None] - np.asarray(v["cuts_y"]))
        p = np.concatenate([np.ones((len(eta), 1)), odds.cumprod(1)], 1)
        return Table(p / p.sum(1, keepdims=True))


@pytest.mark.parametrize("link", LAWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_far_out_densities_and_their_derivatives_are_finite(link, dtype):
    """And exact where SciPy's logarithms are; those of normal tails are large, since they fall with the square."""
    eta = torch.tensor([[-40.0, -12.0, 0.0, 12.0, 40.0]], dtype=dtype).requires_grad_()
    cuts = torch.tensor([[[-1.0, 0.5, 2.0]]], dtype=dtype)
    for code in range(4):
        y = torch.full((5,), float(code), dtype=dtype)
        found = ordinals.Cumulative(eta, cuts, link).log_prob(y)
        (first,) = torch.autograd.grad(found.sum(), eta, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), eta)
        assert first.isfinite().all() and second.isfinite().all() and not found.isnan().any()
    law, x = LAWS[link], np.array([-1.0, 0.5, 2.0]) - eta.detach().double().numpy()[0, :, None]
    found = ordinals.Cumulative(eta, cuts, link).log_probs.detach()[0]
    np.testing.assert_allclose(found[1:, 0], law.logcdf(x[1:, 0]), rtol=1e-5)
    np.testing.assert_allclose(found[1:4, 3], law.logsf(x[1:4, 2]), rtol=1e-5)


@pytest.mark.parametrize("categories", [None, 1, "low", ["a", "a"], True])
def test_categories_are_two_or_more(categories):
    with refused(ModelError, "has two categories or more"):
        ht.families.Cumulative(categories)


def test_links_are_those_of_the_family():
    with refused(ModelError, "the links of acat are logit; found 'probit'"):
        ht.families.AdjacentCategories(3, "probit")
