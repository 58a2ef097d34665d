"""Sites of several dimensions against exact conditionals of normal models."""

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from hiertorch.density.state import State
from hiertorch.model.transport import location_precision
from hiertorch.moves.guesses import WIDEN
from hiertorch.moves.vectorsites import VectorSite

F64 = torch.float64


@pytest.mark.slow
def test_a_vector_site_learns_the_exact_conditional_of_a_normal_model_from_draws_alone():
    """u_j ~ Normal(m, S) with m and S of each chain, S down to nearly 0, in units of 1 and 1e6; rows add a precision
    and a pull. Both within 3 % of the largest entry (seeds 1 to 6 have 1.1 % at most); the guess given these is
    the conditional itself.
    """
    g, chains, groups = torch.Generator().manual_seed(1), 200_000, 3
    units = torch.tensor([1.0, 1e6], dtype=F64)
    inner = torch.tensor([[[1.0, 0.4], [0.4, 0.5]], [[6.0, -2.0], [-2.0, 3.0]], [[30.0, 9.0], [9.0, 20.0]]], dtype=F64)
    site_precision = inner / units / units.unsqueeze(-1)
    pull = torch.tensor([[0.5, -0.3], [2.0, 3.0], [-20.0, 9.0]], dtype=F64) / units
    location = torch.randn(chains, 1, 2, dtype=F64, generator=g) * units
    scales = torch.randn(chains, 1, 2, dtype=F64, generator=g).exp() * units
    correlation = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=F64)
    prior = MultivariateNormal(location, correlation * scales.unsqueeze(-1) * scales.unsqueeze(-2))
    total = site_precision + prior.precision_matrix
    covariance = torch.linalg.inv(total)
    mean = (covariance @ (pull.unsqueeze(-1) + prior.precision_matrix @ location.unsqueeze(-1))).squeeze(-1)
    root = torch.linalg.cholesky(covariance)
    u = mean + (root @ torch.randn(chains, groups, 2, 1, dtype=F64, generator=g)).squeeze(-1)
    target = SimpleNamespace(location_precision=lambda name, values: location_precision(prior, 1))
    site, state = VectorSite(target, ("u",), groups, 2), State({"u": u}, {}, {}, u[..., 0])
    learnt = site.fit(site.observe(state), chains)
    largest = inner.abs().amax((1, 2))[:, None]
    assert ((learnt["precision"] * units * units.unsqueeze(-1) - inner).abs().amax(-1) / largest).max() < 0.03
    assert ((learnt["pull"] - pull) * units / largest).abs().max() < 0.03
    guess, spread, inverse = site.normal(state, {"precision": site_precision, "pull": pull})
    torch.testing.assert_close(guess / units, mean / units)
    torch.testing.assert_close(
        spread @ spread.mT / WIDEN**2 / units / units.unsqueeze(-1), covariance / units / units.unsqueeze(-1)
    )
    torch.testing.assert_close(spread @ inverse, torch.eye(2, dtype=F64).expand_as(spread), atol=1e-8, rtol=0.0)


def test_precisions_are_those_of_the_priors():
    g = torch.Generator().manual_seed(2)
    loc, scale = torch.randn(3, 1, 2, dtype=F64, generator=g), torch.rand(3, 4, 2, dtype=F64, generator=g) + 0.1
    found = location_precision(Independent(Normal(loc, scale), 1), 1)
    as_one = location_precision(MultivariateNormal(loc.expand(3, 4, 2), scale.square().diag_embed()), 1)
    torch.testing.assert_close(found, as_one)
    single = location_precision(Normal(loc[..., 0], scale[..., 0]), 0)
    torch.testing.assert_close(single, as_one[..., :1, :2])
    assert location_precision(Normal(0.0, 1.0), 0) is None  # of no chains and groups
