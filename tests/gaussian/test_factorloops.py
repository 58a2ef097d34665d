"""Roots that a compiled loop factors and draws, against NumPy matrix by matrix and against torch's own way."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Gamma, Independent, Normal

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.surrogate import find_surrogate
from hiertorch.model.checks import inspect

factorloops = pytest.importorskip("hiertorch.gaussian.factorloops")


@pytest.mark.parametrize("size", [1, 6, 31])
@pytest.mark.parametrize("batch", [1, 16, 37])
def test_factors_and_draws_are_numpys(size, batch):
    """Of scattered numbers, of which the upper triangle's are never read."""
    rng = np.random.default_rng(size + batch)
    root = rng.normal(size=(batch, size, size + 2))
    a, h = np.einsum("bik,bjk->bij", root, root), rng.normal(size=(batch, size))
    shift, e = rng.normal(size=size), rng.normal(size=(size, batch))
    place = rng.permutation((size + 1) * size).reshape(size + 1, size)
    gram = np.full(((size + 1) * size, batch), np.nan)
    for i, j in zip(*np.tril_indices(size), strict=True):
        gram[place[i, j]] = a[:, i, j]
    gram[place[size]] = h.T
    half, square, u = factorloops.factored(*(torch.as_tensor(x) for x in (gram, place, shift, e)))
    for b in range(batch):
        lower = np.linalg.cholesky(np.eye(size) + a[b])
        c = np.linalg.solve(lower, h[b] - shift)
        np.testing.assert_allclose(float(half[b]), np.log(lower.diagonal()).sum(), rtol=1e-12)
        np.testing.assert_allclose(float(square[b]), c @ c, rtol=1e-10)
        np.testing.assert_allclose(u[:, b], np.linalg.solve(lower.T, c + e[:, b]), rtol=1e-9, atol=1e-12)


def test_what_is_not_positive_definite_has_no_number():
    """One of three matrices, beside two that do."""
    gram = torch.tensor([[1.0, -3.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    place, none = torch.tensor([[0, 1], [1, 2], [3, 4]]), torch.zeros(2, dtype=torch.float64)
    half, square, _ = factorloops.factored(gram.double(), place, none, none.unsqueeze(1).expand(2, 3))
    assert half.isnan().tolist() == square.isnan().tolist() == [False, True, False]


class Predictors(ht.Model):
    """Bernoulli rows in groups, with some predictors."""

    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="group")

    def __init__(self, number, scaled):
        super().__init__()
        zero = torch.zeros(number, dtype=torch.float64)
        self.beta = ht.Latent((lambda v: Independent(Normal(zero + 0.3, v.sigma.unsqueeze(-1) + zero), 1)) if scaled
                              else Independent(Normal(zero + 0.3, 2.0), 1))  # fmt: skip

    def likelihood(self, v, data):
        return Bernoulli(logits=v.alpha[:, data.group] + v.beta[:, 0] @ data.x.mT)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("number", [8, 33])
def test_rungs_are_those_of_torch(number, scaled, monkeypatch):
    """Of few and of many coefficients, whose prior's scale is given or depends on the rest."""
    rng = np.random.default_rng(2)
    group = np.arange(120) % 10
    data = ht.Data(y=rng.integers(2, size=120), groups={"group": group}, x=rng.normal(size=(120, number)))
    model = Predictors(number, scaled)
    structure = analyse(model, data, inspect(model, data)[0])
    surrogate = find_surrogate(model, data, structure.reads)
    ladder = Ladder(surrogate.first)
    assert ladder.root.loops and ladder.root.width == number
    monkeypatch.setattr(ladder, "simple", False)  # of which another loop makes all
    noise = torch.as_tensor(rng.normal(size=(number, 21)))
    values = {"sigma": torch.as_tensor(rng.gamma(2.0, size=(21, 1)))}
    found = ladder.rungs(values, noise)
    monkeypatch.setattr(ladder.root, "loops", False)
    expected = ladder.rungs(values, noise)
    for name in ("log_marginal", "log_volume", "tail"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.levels[0].middle, expected.levels[0].middle, rtol=1e-10, atol=1e-10)
