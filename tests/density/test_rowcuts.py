"""Rows of ordered categories in closed form, of which a compiled pass makes sums by group: by SciPy."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import stats
from test_rowpass import CHAINS, Rows, by_group

from hiertorch.families import rowforms

K = 4
STEP = 1e-3


class Graded(Rows):
    """Categories 0 to 3, thresholds of each chain, and shares of those around a category by which sites shift."""

    def __init__(self, structure):
        super().__init__(structure)
        self.y = self.rng.integers(K, size=self.n)
        self.cuts = np.sort(self.rng.normal(size=(K - 1, CHAINS)), 0)
        low, high = self.rng.uniform(size=(2, self.n))
        self.shares = np.where(self.y > 0, low, 0.0), np.where(self.y < K - 1, high, 0.0)

    def log_density(self, eta, cuts):
        """`(rows, chains)`."""
        ends = np.concatenate([np.full((1, CHAINS), -np.inf), cuts, np.full((1, CHAINS), np.inf)])
        return np.log(stats.logistic.cdf(ends[self.y + 1] - eta) - stats.logistic.cdf(ends[self.y] - eta))

    def without_eta(self):
        """`(rows, chains)`: of categories between two thresholds alone."""
        gaps = np.diff(self.cuts, axis=0)
        ends = np.concatenate([np.zeros((1, CHAINS)), np.log(-np.expm1(-gaps)), np.zeros((1, CHAINS))])
        return ends[self.y]

    def surrogate(self):
        """`(rows, chains)`."""
        ends = np.concatenate([np.zeros((1, CHAINS)), self.cuts, np.zeros((1, CHAINS))])
        shift = self.shares[0][:, None] * ends[self.y] + self.shares[1][:, None] * ends[self.y + 1]
        return 0.5 * self.w[:, None] * (self.z[:, None] + shift - self.eta()) ** 2

    def parameters(self):
        return {f"cut{k}": torch.tensor(x) for k, x in enumerate(self.cuts)}


@pytest.mark.skipif(find_spec("numba") is None, reason="needs hiertorch[fast]")
@pytest.mark.parametrize(("structure", "weighted"), [("one", True), ("nested", False), ("crossed", False)])
def test_sums_are_those_of_scipy(structure, weighted):
    rows = Graded(structure)
    weight = (rows.weights if weighted else np.ones(rows.n))[:, None]
    built = rows.built(rowforms.Between, rows.y.astype(float), {}, rows.weights if weighted else None, compiled=True)
    built.sites(torch.tensor(rows.z), torch.tensor(rows.w), tuple(map(torch.tensor, rows.shares)))
    found = built.weights(*rows.at(), rows.parameters())
    terms = weight * (rows.log_density(rows.eta(), rows.cuts) - rows.without_eta()) + rows.surrogate()
    np.testing.assert_allclose(found, by_group(terms, rows.group, rows.groups), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(built.constants(rows.parameters()), (weight * rows.without_eta()).sum(0), rtol=1e-10)


def test_derivatives_are_differences_of_scipys_densities():
    rows = Graded("slopes")
    form = rowforms.Between(torch.tensor(rows.y.astype(float)), {}, torch.tensor(rows.weights))
    eta, chain = torch.tensor(rows.eta().T), form.chain({name: x[:, None] for name, x in rows.parameters().items()})
    first, bend = form.slopes(eta, chain)

    def at(by, cut=None, apart=0.0):
        cuts = rows.cuts.copy()
        if cut is not None:
            cuts[cut] += apart
        return rows.weights[:, None] * rows.log_density(rows.eta() + by, cuts)

    down, here, up = (at(by) for by in (-STEP, 0.0, STEP))
    np.testing.assert_allclose(first.T, (up - down) / (2.0 * STEP), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bend.T, (up - 2.0 * here + down) / STEP**2, rtol=1e-3, atol=1e-3)
    for cut in range(K - 1):
        corners = [at(a * STEP, cut, b * STEP) * a * b for a in (-1, 1) for b in (-1, 1)]
        mixed = sum(corners).sum(1) / (4.0 * STEP**2)
        np.testing.assert_allclose(form.mixed(eta, chain)[:, cut], mixed, rtol=1e-3, atol=1e-3)
