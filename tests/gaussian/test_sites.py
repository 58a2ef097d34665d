"""Sites of rows: weights by second derivatives, and by slopes where densities have kinks, against closed forms."""

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from hiertorch.gaussian.sites import Moments, Regression

N = 4_000
M, S = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.0, 4.0]).double(), 0.8
"""Means of eta less y, and its sd."""


def eta() -> Tensor:
    """Draws `(n, rows)`, normal, at even quantiles."""
    z = torch.from_numpy(stats.norm.ppf((np.arange(N) + 0.5) / N))
    return M + S * z[:, None]


def moments(x: Tensor, first: Tensor, second: Tensor) -> Moments:
    """Of places and derivatives there, `(n, rows)`."""

    def around(a: Tensor, b: Tensor) -> Tensor:
        return ((a - a.mean(0)) * (b - b.mean(0))).sum(0)

    sums = Regression(around(x, x), around(x, first), around(first, first), around(second, second))
    weight = torch.tensor(float(len(x))).double()
    return Moments(len(x), weight, x.sum(0), first.sum(0), second.sum(0), {}, {}, sums)


def kinked(x: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Of -|eta|, by differences."""

    def f(x: Tensor) -> Tensor:
        return -x.abs()

    up, here, down = f(x + step), f(x), f(x - step)
    return (up - down) / (2.0 * step), (2.0 * here - up - down) / step**2


def test_weights_of_kinked_rows_are_twice_the_density_at_the_kink() -> None:
    """E[-d^2 |x| / dx^2] = 2 N(0; m, s)."""
    exact = 2.0 * stats.norm.pdf(0.0, M.numpy(), S)
    for step in (1e-2, 1e-4, 1e-9):  # that hits kinks, now and then, never
        found = moments(eta(), *kinked(eta(), step)).sites()
        np.testing.assert_allclose(found.w[:-1].numpy(), exact[:-1], rtol=0.01)
        assert 0 < float(found.w[-1]) < 1e-3
        slope = 1.0 - 2.0 * stats.norm.cdf(M.numpy() / S)
        np.testing.assert_allclose((found.w * (found.z - M)).numpy(), slope, atol=1e-3)


def test_weights_of_smooth_rows_are_means_of_second_derivatives() -> None:
    """Of log p = -exp(eta), E = exp(m + s^2 / 2), to the bit as without slopes."""
    x = eta()
    found = moments(x, -x.exp(), x.exp())
    assert torch.equal(found.sites().w, found._replace(regression=None).sites().w)


def test_a_few_places_at_a_time_come_to_the_same() -> None:
    x = eta()
    first, second = kinked(x, 1e-4)
    whole = moments(x, first, second)
    parts = [moments(x[i::3], first[i::3], second[i::3]) for i in range(3)]
    both = parts[0].plus(parts[1]).plus(parts[2])
    assert both.regression is not None and whole.regression is not None
    for a, b in zip(both.regression, whole.regression, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-9)
    again = Moments.of(both.tensors())
    assert all(torch.equal(a, b) for a, b in zip(again.regression or (), both.regression, strict=True))
