"""Distributions of continuous rows beyond what families ask of them: expanded, checked, drawn far out."""

import pytest
import torch
from scipy import integrate, stats

from hiertorch.model.continuous import AsymmetricLaplace, BetaBinomial, InverseGaussian, OpenBeta, SkewNormal
from hiertorch.model.support import has_one_support

ONES = [
    InverseGaussian(2.0, 3.0),
    SkewNormal(0.5, 1.5, -4.0),
    AsymmetricLaplace(0.5, 1.5, 0.9),
    BetaBinomial(5.0, 2.0, 3.0),
]


@pytest.mark.parametrize("one", ONES, ids=lambda x: type(x).__name__)
def test_an_expanded_one_is_the_same(one):
    y = torch.tensor([1.0, 2.0, 3.0])
    wide = one.expand((4, 3))
    assert wide.batch_shape == (4, 3) and type(wide) is type(one) and wide.sample((2,)).shape == (2, 4, 3)
    torch.testing.assert_close(wide.log_prob(y), one.log_prob(y).expand(4, 3))
    torch.testing.assert_close(wide.expand((5, 4, 3)).mean, one.mean.expand(5, 4, 3))


@pytest.mark.parametrize("one", ONES[:3], ids=lambda x: type(x).__name__)
def test_densities_integrate_to_one(one):
    ends = (0.0 if isinstance(one, InverseGaussian) else -600.0, 60.0)

    def density(y):
        return float(one.log_prob(torch.tensor(y, dtype=torch.float64)).exp())

    assert integrate.quad(density, *ends, points=[0.5], limit=500)[0] == pytest.approx(1.0, rel=1e-6)


def test_values_outside_are_refused():
    for one, wrong in ((ONES[0], 0.0), (ONES[3], 6.0), (OpenBeta(2.0, 2.0), 0.0), (OpenBeta(2.0, 2.0), 1.0)):
        with pytest.raises(ValueError, match="support"):
            one.log_prob(torch.tensor(wrong))
    assert has_one_support(OpenBeta(2.0, 2.0)) and "OpenInterval(lower_bound=0.0" in repr(OpenBeta(2.0, 2.0).support)


@pytest.mark.parametrize("shape", [1e-6, 1e6])
def test_draws_of_extreme_inverse_gaussians_keep_their_law(shape):
    """Level of the Kolmogorov-Smirnov test 1e-4; seed 1."""
    torch.manual_seed(1)
    y = InverseGaussian(torch.tensor(2.0, dtype=torch.float64), shape).sample((4_000,)).numpy()
    assert (y > 0).all()
    assert stats.kstest(y, stats.invgauss(2.0 / shape, scale=shape).cdf).pvalue > 1e-4
    assert stats.kstest(3.0 * y, stats.invgauss(2.0 / shape, scale=shape).cdf).pvalue < 1e-4
