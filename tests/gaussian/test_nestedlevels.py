"""Ladders of nested levels by a compiled loop, against SciPy's normal density and against torch's own way."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Gamma, Independent, Normal, Poisson

import hiertorch as ht
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.surrogate import Sites, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

pytest.importorskip("hiertorch.gaussian.nestedlevels")

ROWS, BATCH = 61, 37
"""A batch that fills no block."""

PLATES = ("hall", "group", "seat")


class Levels(ht.Model):
    """Poisson rows in seats in groups (in halls), with numbers before their effects."""

    def __init__(self, number, plates):
        super().__init__()
        self.number, self.plates = number, plates
        zero = torch.zeros(number, dtype=torch.float64)
        if number:
            self.beta = ht.Latent(Independent(Normal(zero + 0.3, 2.0 + 0.1 * torch.arange(number)), 1))
        for plate in plates:
            setattr(self, f"s_{plate}", ht.Latent(Gamma(2.0, 2.0)))
        for plate in plates:
            setattr(self, plate, ht.Latent(lambda v, name=plate: Normal(0.0, v[f"s_{name}"]), plate=plate))

    def likelihood(self, v, data):
        eta = 0.1 + sum((0.3 + 0.2 * i) * v[plate][:, data[plate]] for i, plate in enumerate(self.plates))
        return Poisson((eta + v.beta[:, 0] @ data.x.mT if self.number else eta).exp())


@pytest.fixture(params=[(0, 2), (2, 2), (3, 3), (33, 3)])
def made(request):
    """A ladder of so many coefficients and levels, with sites at random, scales of effects, and numbers of the root."""
    number, levels = request.param
    rng, plates = np.random.default_rng(number), PLATES[-levels:]
    seat = np.arange(ROWS) % 30
    codes = {"seat": seat, "group": seat % 7, "hall": seat % 7 % 3}
    codes = {plate: codes[plate] for plate in plates}
    x = rng.normal(size=(ROWS, number)) + 1.0
    with torch.no_grad(), validation(False):
        data = ht.Data(y=rng.integers(3, size=ROWS), groups=codes, **({"x": x} if number else {}))
        model = Levels(number, plates)
        surrogate = find_surrogate(model, data, inspect(model, data)[0])
        w = torch.as_tensor(rng.gamma(2.0, size=ROWS))
        sites = Sites(torch.as_tensor(rng.normal(size=ROWS)), w, {})
        ladder = Ladder(surrogate.given(sites))
        assert ladder.simple and ladder.root.width == number and len(ladder.sizes) == levels
        scales = {f"s_{plate}": torch.as_tensor(rng.gamma(2.0, size=(BATCH, 1))) for plate in plates}
        yield ladder, sites, codes, x, scales, torch.as_tensor(rng.normal(size=(number, BATCH)))


def test_the_marginal_density_is_scipys(made):
    """Of responses with these weights: N(z; eta, 1)^w is N(z; eta, 1 / w) up to what w alone decides."""
    ladder, sites, codes, x, scales, noise = made
    found = ladder.rungs(scales, noise).log_marginal
    z, w, number = sites.z.numpy(), sites.w.numpy(), x.shape[1]
    fixed = np.diag(1.0 / w) + x @ np.diag((2.0 + 0.1 * np.arange(number)) ** 2) @ x.T
    rest = (0.5 * np.log(2.0 * math.pi / w) - 0.5 * w * math.log(2.0 * math.pi)).sum()
    for b in range(BATCH):
        covariance = fixed.copy()
        for i, (plate, code) in enumerate(codes.items()):
            covariance += ((0.3 + 0.2 * i) * float(scales[f"s_{plate}"][b])) ** 2 * (code[:, None] == code)
        known = stats.multivariate_normal(0.1 + 0.3 * x.sum(1), covariance).logpdf(z) + rest
        assert float(found[b]) == pytest.approx(known, rel=1e-8)


def test_rungs_are_those_of_torch(made, monkeypatch):
    ladder, *_, scales, noise = made
    found, lean = (ladder.rungs(scales, noise, lean=lean) for lean in (False, True))
    groups = ladder.groups
    monkeypatch.setattr(ladder, "simple", False)
    expected = ladder.rungs(scales, noise)
    for name in ("log_marginal", "log_volume", "tail"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)
        assert torch.equal(getattr(found, name), getattr(lean, name))
    for level, (own, known, short) in enumerate(zip(found.levels, expected.levels, lean.levels, strict=True)):
        torch.testing.assert_close(own.half, known.half, rtol=1e-10, atol=0.0)
        torch.testing.assert_close(own.middle, known.middle, rtol=1e-8, atol=1e-8)
        assert len(own.couplings) == len(known.couplings)
        for one, other in zip(own.couplings, known.couplings, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        if level:
            assert torch.equal(short.half, own.half) and torch.equal(short.middle, own.middle)
    s = lean.levels[0].half.numpy().reshape(-1)
    half = s / np.sqrt(1.0 + groups.basis**2 * groups.own[:, None] * s**2)
    middle = half * groups.basis * (groups.last[:, None] - groups.tails.T @ lean.tail.numpy())
    np.testing.assert_allclose(half, expected.levels[0].half[0, 0], rtol=1e-12)
    np.testing.assert_allclose(middle, expected.levels[0].middle[0], rtol=1e-9, atol=1e-9)
    assert lean.levels[0].middle.numel() == 0


def test_there_is_no_density_where_scales_leave_the_range_of_numbers(made):
    ladder, *_, scales, noise = made
    sigma = torch.tensor([1.0, 1e200, math.inf, math.nan], dtype=torch.float64).unsqueeze(1)
    for name in scales:
        some = {other: sigma if other == name else torch.ones_like(sigma) for other in scales}
        assert ladder.rungs(some, noise[:, :4]).log_marginal.isnan().tolist() == [False, True, True, True]


def test_what_is_known_of_rows_serves_other_sites(made):
    """Columns are found once; sums are those of sites, in whatever order rows are given."""
    ladder, sites, *_ = made
    surrogate = ladder.collapsed.affine.composed.model  # stands for the model
    other = Sites(sites.z.flip(0), sites.w.flip(0) + 0.1, {})
    model, data = surrogate.stands_for, surrogate.fitted
    order = torch.arange(ROWS).flip(0)
    found = []
    for rows in (data, data.take(order)):
        with torch.no_grad(), validation(False):
            one = find_surrogate(model, rows, inspect(model, rows)[0])
            first = sites if rows is data else Sites(sites.z[order], sites.w[order], {})
            last = other if rows is data else Sites(other.z[order], other.w[order], {})
            found.append([one.given(some).grams for some in (first, last)])
            fresh = find_surrogate(model, rows, inspect(model, rows)[0]).given(last).grams
        assert torch.equal(found[-1][1].packed, fresh.packed) and torch.equal(found[-1][1].left, fresh.left)
    for mine, turned in zip(*found, strict=True):
        torch.testing.assert_close(mine.left.sum(2)[:, -1], turned.left.sum(2)[:, -1])
