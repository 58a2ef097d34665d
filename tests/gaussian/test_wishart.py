"""Inverse Wishart distributions by their Cholesky factor: against SciPy's density, and volumes against autograd's."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from hiertorch.gaussian.wishart import InverseWishart, log_normal, log_polar_volume, polar

BATCH = 7


def some(k: int, freedom: float = 60.0) -> InverseWishart:
    generator = torch.Generator().manual_seed(k)
    half = torch.randn(BATCH, k, k + 3, generator=generator, dtype=torch.float64)
    return InverseWishart(torch.linalg.cholesky(half @ half.mT), torch.tensor(freedom, dtype=torch.float64))


def numbers(k: int, number: int = BATCH) -> Tensor:
    return torch.randn(number, k * (k + 1) // 2, generator=torch.Generator().manual_seed(k + 50), dtype=torch.float64)


def lower(matrix: Tensor) -> Tensor:
    """Entries on and below the diagonal."""
    i, j = torch.tril_indices(matrix.shape[-1], matrix.shape[-1])
    return matrix[..., i, j]


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_density_is_that_of_the_numbers_by_the_volume_of_autograd(k: int) -> None:
    own, z = some(k), numbers(k)
    found = own.log_density(own.placed(z))
    for b in range(BATCH):
        one = InverseWishart(own.scale[b : b + 1], own.freedom)
        jacobian = torch.autograd.functional.jacobian(lambda x, one=one: lower(one.placed(x.unsqueeze(0)))[0], z[b])
        expected = stats.norm.logpdf(z[b]).sum() - float(torch.linalg.slogdet(jacobian).logabsdet)
        assert float(found[b]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_is_an_inverse_wishart_distribution_but_for_cube_roots(k: int) -> None:
    """SciPy's density of Sigma, times |d Sigma / d R| = 2^K prod R_ii^(K + 1 - i): the same up to 0.02, where densities
    differ by some 10.
    """
    own, z = some(k), numbers(k)
    root = own.placed(z)
    found = own.log_density(root).numpy()
    expected = [
        stats.invwishart(float(own.freedom), (m @ m.mT).numpy()).logpdf((r @ r.mT).numpy())
        + k * np.log(2.0) + float((torch.arange(k, 0, -1) * r.diagonal().log()).sum())
        for m, r in zip(own.scale, root, strict=True)
    ]  # fmt: skip
    assert np.abs(found - expected).max() < 0.02
    assert bool((lower(root.mT)[:, 1:] != 0).any()) is (k > 1) and torch.equal(root, root.tril())


def test_draws_have_the_moments_of_an_inverse_wishart_distribution() -> None:
    """E Sigma = M M' / (nu - K - 1), by 200,000 draws."""
    k, own = 3, some(3, 15.0)
    one = InverseWishart(own.scale[:1].expand(200_000, -1, -1), own.freedom)
    root = one.placed(numbers(k, 200_000))
    found, expected = (root @ root.mT).mean(0), own.scale[0] @ own.scale[0].mT / (15 - k - 1)
    size = expected.diagonal().sqrt()
    assert float(((found - expected) / size.outer(size)).abs().max()) < 0.005


def test_numbers_beyond_a_cube_root_of_0_are_no_draw() -> None:
    own = some(2, 4.0)
    z = numbers(2)
    z[3, 0] = -9.0
    assert own.placed(z).isnan().flatten(1).any(1).tolist() == [b == 3 for b in range(BATCH)]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_volume_of_scales_and_correlations_is_that_of_autograd(k: int) -> None:
    root = some(k).scale
    scales, unit = polar(root)
    torch.testing.assert_close(scales.unsqueeze(2) * unit, root)
    torch.testing.assert_close(unit.square().sum(2), torch.ones(BATCH, k, dtype=torch.float64))
    i, j = torch.tril_indices(k, k, -1)

    def made(x: Tensor) -> Tensor:
        below = x.new_zeros(k, k).index_put((i, j), x[k:])
        own = below + (1.0 - below.square().sum(1)).sqrt().diag_embed()
        return lower(x[:k, None] * own)

    for b in range(BATCH):
        x = torch.cat([scales[b], unit[b][i, j]])
        expected = torch.linalg.slogdet(torch.autograd.functional.jacobian(made, x)).logabsdet
        torch.testing.assert_close(log_polar_volume(scales, unit)[b], expected)


def test_the_density_of_effects_is_that_of_scipy() -> None:
    k, groups = 3, 5
    x = np.random.default_rng(1).normal(size=(groups, k))
    scatter = torch.from_numpy(x.T @ x)
    found = log_normal(some(k).scale, scatter.expand(BATCH, -1, -1), groups).numpy()
    expected = [stats.multivariate_normal(cov=(m @ m.mT).numpy()).logpdf(x).sum() for m in some(k).scale]
    assert found - found[0] == pytest.approx(np.array(expected) - expected[0], rel=1e-9)
