"""Draws of counts whose means are beyond whole numbers of 64 bits."""

import numpy as np
import torch
from scipy import stats

from hiertorch.model.counting import draw
from hiertorch.randomness import seeded


def drawn(distribution: torch.distributions.Distribution, number: int) -> np.ndarray:
    with seeded(torch.Generator().manual_seed(3), torch.device("cpu")):
        return draw(distribution, (number,)).numpy()


def test_small_ones_are_those_of_torch() -> None:
    rate = torch.tensor([0.0, 0.5, 30.0], dtype=torch.float64)
    for one in (
        torch.distributions.Poisson(rate),
        torch.distributions.NegativeBinomial(torch.full_like(rate, 1.5), logits=(rate / 1.5).log()),
        torch.distributions.Bernoulli(logits=rate),
    ):
        with seeded(torch.Generator().manual_seed(3), rate.device):
            expected = one.sample(torch.Size([50]))
        np.testing.assert_array_equal(drawn(one, 50), expected)


def test_large_ones_have_their_law() -> None:
    """Mean and law by SciPy's gamma, which a negative binomial of such a mean is; an error rate of 1e-4."""
    mean = torch.tensor(1e30, dtype=torch.float64)
    np.testing.assert_allclose(drawn(torch.distributions.Poisson(mean), 5), 1e30)
    size = torch.tensor(3.0, dtype=torch.float64)
    found = drawn(torch.distributions.NegativeBinomial(size, logits=(mean / size).log()), 2000)
    assert stats.kstest(found / 1e30, stats.gamma(3.0, scale=1 / 3).cdf).pvalue > 1e-4
