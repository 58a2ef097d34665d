"""Ladders of one level by a compiled loop, against SciPy's normal density and against torch's own way."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Gamma, Independent, Normal

import hiertorch as ht
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.surrogate import Sites, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

onelevel = pytest.importorskip("hiertorch.gaussian.onelevel")

GROUPS, ROWS, BATCH = 10, 93, 37
"""Groups of 9 and of 10 rows; a batch that fills no block."""


class Predictors(ht.Model):
    """Bernoulli rows in groups, with 0.3 before each effect."""

    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="group")

    def __init__(self, number):
        super().__init__()
        zero = torch.zeros(number, dtype=torch.float64)
        self.number = number
        if number:
            self.beta = ht.Latent(Independent(Normal(zero + 0.3, 2.0 + 0.1 * torch.arange(number)), 1))

    def likelihood(self, v, data):
        eta = 0.3 * v.alpha[:, data.group] + 0.1
        return Bernoulli(logits=eta + v.beta[:, 0] @ data.x.mT if self.number else eta)


@pytest.fixture(params=[(0, False), (1, False), (3, True), (34, False)])
def made(request):
    """A ladder of so many coefficients, with sites at random (or with the same weight in every row, so that groups of
    equal size are alike), scales of effects, and numbers of the root.
    """
    number, alike = request.param
    rng = np.random.default_rng(number)
    group = np.arange(ROWS) % GROUPS
    x = rng.normal(size=(ROWS, number)) + 2.0
    with torch.no_grad(), validation(False):
        data = ht.Data(y=rng.integers(2, size=ROWS), groups={"group": group}, **({"x": x} if number else {}))
        model = Predictors(number)
        surrogate = find_surrogate(model, data, inspect(model, data)[0])
        w = torch.full((ROWS,), 0.7, dtype=torch.float64) if alike else torch.as_tensor(rng.gamma(2.0, size=ROWS))
        sites = Sites(torch.as_tensor(rng.normal(size=ROWS)), w, {})
        ladder = Ladder(surrogate.given(sites))
        assert ladder.simple and ladder.root.width == number
        sigma, noise = torch.as_tensor(rng.gamma(2.0, size=BATCH)), torch.as_tensor(rng.normal(size=(number, BATCH)))
        yield ladder, sites, group, x, sigma, noise


def test_the_marginal_density_is_scipys(made):
    """Of responses with these weights: N(z; eta, 1)^w is N(z; eta, 1 / w) up to what w alone decides."""
    ladder, sites, group, x, sigma, noise = made
    found = ladder.rungs({"sigma": sigma.unsqueeze(1)}, noise).log_marginal
    z, w, number = sites.z.numpy(), sites.w.numpy(), x.shape[1]
    fixed = np.diag(1.0 / w) + x @ np.diag((2.0 + 0.1 * np.arange(number)) ** 2) @ x.T
    rest = (0.5 * np.log(2.0 * math.pi / w) - 0.5 * w * math.log(2.0 * math.pi)).sum()
    for s, own in zip(sigma.tolist(), found.tolist(), strict=True):
        covariance = fixed + (0.3 * s) ** 2 * (group[:, None] == group)
        known = stats.multivariate_normal(0.1 + 0.3 * x.sum(1), covariance).logpdf(z) + rest
        assert own == pytest.approx(known, rel=1e-8)


def test_rungs_are_those_of_torch(made, monkeypatch):
    ladder, *_, sigma, noise = made
    found = ladder.rungs({"sigma": sigma.unsqueeze(1)}, noise)
    lean = ladder.rungs({"sigma": sigma.unsqueeze(1)}, noise, lean=True)
    monkeypatch.setattr(ladder, "simple", False)
    expected = ladder.rungs({"sigma": sigma.unsqueeze(1)}, noise)
    for name in ("log_marginal", "log_volume", "tail"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
        assert torch.equal(getattr(found, name), getattr(lean, name))
    (own,), (known,), (scale,) = found.levels, expected.levels, lean.levels
    torch.testing.assert_close(own.half, known.half, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(own.middle, known.middle, rtol=1e-10, atol=1e-10)
    groups = onelevel.Groups.of(ladder.sums)
    s = scale.half.numpy().reshape(-1)
    half = s / np.sqrt(1.0 + groups.basis**2 * groups.own[:, None] * s**2)
    middle = half * groups.basis * (groups.last[:, None] - groups.tails.T @ lean.tail.numpy())
    np.testing.assert_allclose(half, known.half[0, 0], rtol=1e-12)
    np.testing.assert_allclose(middle, known.middle[0], rtol=1e-9, atol=1e-9)
    assert scale.middle.numel() == 0


def test_there_is_no_density_where_scales_leave_the_range_of_numbers(made):
    ladder, *_, noise = made
    sigma = torch.tensor([1.0, 1e200, math.inf, math.nan], dtype=torch.float64)
    found = ladder.rungs({"sigma": sigma.unsqueeze(1)}, noise[:, :4]).log_marginal
    assert found.isnan().tolist() == [False, True, True, True]
