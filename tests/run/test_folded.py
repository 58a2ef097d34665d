"""The folded Student distribution against scipy's, and against quadrature."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from hiertorch.run.folded import FREEDOM, Folded

DRAWS = torch.tensor(np.random.default_rng(3).normal([0.3, -1.0], [0.4, 0.5], (400, 2)))


@pytest.fixture
def made():
    proposal = Folded([True, False])
    x = DRAWS.clone()
    x[:, 0] = x[:, 0].abs().log()
    return proposal, proposal.fit(x), x


def test_densities_by_scipy(made):
    """The sum over both signs of the scale, times the Jacobian of its logarithm."""
    proposal, tuning, u = made
    mean, root = tuning["mean"][0].numpy(), tuning["root"][0].numpy()
    student = stats.multivariate_t(mean, root @ root.T, df=FREEDOM)
    scale, other = u[:, 0].exp().numpy(), u[:, 1].numpy()
    own = sum(student.pdf(np.stack([sign * scale, other], 1)) for sign in (1.0, -1.0)) * scale
    np.testing.assert_allclose(proposal.log_density(tuning, u), np.log(own), rtol=1e-9)


def test_densities_integrate_to_1(made):
    proposal, tuning, _ = made

    scale, other = torch.linspace(-16.0, 4.0, 801).double(), torch.linspace(-14.0, 12.0, 601).double()
    places = torch.cartesian_prod(scale, other)
    density = proposal.log_density(tuning, places).exp().reshape(801, 601).numpy()
    total = integrate.simpson(integrate.simpson(density, x=other.numpy()), x=scale.numpy())
    assert abs(total - 1.0) < 1e-4


def test_draws_have_this_density(made):
    """Quantiles of 40,000 draws of the scale against the folded distribution function; p above 1e-3, fixed seed."""
    proposal, tuning, _ = made
    u = proposal.draw(tuning, 40_000, torch.Generator().manual_seed(2))
    mean, sd = float(tuning["mean"][0, 0]), float(tuning["root"][0, 0].square().sum().sqrt())
    student = stats.t(FREEDOM, mean, sd)
    scale = u[:, 0].exp().numpy()
    assert stats.kstest(scale, lambda x: student.cdf(x) - student.cdf(-np.asarray(x))).pvalue > 1e-3
    other = stats.t(FREEDOM, float(tuning["mean"][0, 1]), float(tuning["root"][0, 1].square().sum().sqrt()))
    assert stats.kstest(u[:, 1].numpy(), other.cdf).pvalue > 1e-3


def test_many_scales_are_not_folded():
    assert Folded([True] * 6).folded == list(range(6)) and Folded([True] * 7).folded == []
