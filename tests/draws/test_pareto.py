"""Pareto smoothed importance sampling of many rows at once, against `arviz_stats`, which takes them one by one."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats

from hiertorch.draws import pareto
from hiertorch.draws.pareto import leave_one_out, psis, smoothed

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:arviz_stats")  # of tails that can't be fitted

DRAWS = (25, 26, 100, 224, 225, 226, 500, 2000)  # 225 is where the tail's length changes its formula
EFFICIENCIES = (0.05, 0.4, 1.0, 1.7)


def ratios(draws: int, seed: int = 0) -> np.ndarray:
    """Rows of light and heavy tails, k up to 40, and one in which half of the draws come twice."""
    rng = np.random.default_rng(seed)
    rows = [scale * rng.normal(size=draws) + 700 * rng.normal() for scale in (0.001, 0.1, 1.0, 3.0, 100.0)]
    rows += [-k * np.log(rng.uniform(size=draws)) for k in (0.1, 0.5, 0.9, 2.0, 40.0)]
    rows.append(rng.uniform(size=draws))  # bounded, so that k is negative
    twice = rng.normal(size=draws)
    twice[: draws // 2] = twice[-(draws // 2) :]
    return np.stack([*rows, twice])


@pytest.mark.parametrize("efficiency", EFFICIENCIES)
@pytest.mark.parametrize("draws", DRAWS)
def test_weights_and_k_equal_arviz_stats(draws: int, efficiency: float) -> None:
    """Draws that tie may change places, so that the weights of each row are compared in order of their size."""
    log_ratio = ratios(draws)
    weight, k = psis(torch.as_tensor(log_ratio), efficiency)
    theirs, their_k = array_stats.psislw(-log_ratio, r_eff=efficiency)
    fits = np.isfinite(theirs).all(1)  # where a quarter of the tail ties with what lies below it, theirs is NaN
    assert fits.sum() >= len(fits) - 1
    np.testing.assert_allclose(k.numpy()[fits], their_k[fits], atol=1e-8, rtol=0)
    np.testing.assert_allclose(weight.numpy()[:-1][fits[:-1]], theirs[:-1][fits[:-1]], atol=1e-8, rtol=0)
    np.testing.assert_allclose(np.sort(weight.numpy(), 1)[fits], np.sort(theirs, 1)[fits], atol=1e-8, rtol=0)
    np.testing.assert_allclose(weight.exp().sum(1).numpy(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("efficiency", EFFICIENCIES)
@pytest.mark.parametrize("draws", DRAWS)
def test_leave_one_out_equals_arviz_stats(draws: int, efficiency: float) -> None:
    log_density = -ratios(draws, seed=1)
    elpd, k = leave_one_out(torch.as_tensor(log_density), efficiency)
    theirs, their_k, _ = array_stats.loo(log_density[:, None], chain_axis=1, draw_axis=2, r_eff=efficiency)
    fits = np.isfinite(theirs)
    assert fits.sum() >= len(fits) - 1
    np.testing.assert_allclose(elpd.numpy()[fits], theirs[fits], atol=1e-8, rtol=0)
    np.testing.assert_allclose(k.numpy()[fits], their_k[fits], atol=1e-8, rtol=0)


def test_the_heaviest_tails_take_the_way_without_products() -> None:
    """Of terms beyond 1e200, which products of eight can't hold: beside them, rows that can are as if alone."""
    heavy = [-110.0 * np.log(np.random.default_rng(seed).uniform(size=1000)) for seed in range(3)]
    rows = np.stack([*heavy, ratios(1000)[2]])
    k = psis(torch.as_tensor(rows))[1].numpy()
    np.testing.assert_allclose(k, array_stats.psislw(-rows)[1], rtol=1e-8)
    assert k[:3].min() > 60 and k[3] == pytest.approx(float(psis(torch.as_tensor(rows[3:]))[1]), abs=1e-12)


def test_tails_that_can_not_be_smoothed() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(6, 400))
    rows[0, :100] = 5.0  # the largest are all the same
    rows[1, np.argsort(rows[1])[-70:-20]] = 1.0  # half of the tail of 60, and what lies below it, are the same
    rows[2, 1:] = -np.inf  # the others vanish
    rows[3, 7] = np.nan
    rows[4, 7] = np.inf
    weight, k = psis(torch.as_tensor(rows))
    assert (k[0], k[1], k[2]) == (-math.inf, math.inf, math.inf)
    raw = np.exp(rows[:3] - rows[:3].max(1, keepdims=True))
    np.testing.assert_allclose(weight[:3].exp().numpy(), raw / raw.sum(1, keepdims=True), atol=1e-15)
    assert weight[3:5].isnan().any(1).all() and k[3:5].isnan().all()
    alone, k_alone = psis(torch.as_tensor(rows[5:]))  # what neighbours are like changes nothing
    torch.testing.assert_close(weight[5:], alone, rtol=0, atol=1e-13)
    assert k[5] == pytest.approx(float(k_alone), abs=1e-13)


@pytest.mark.parametrize("draws", [1, 2, 10, 24])
def test_few_draws_are_weighted_as_they_are(draws: int) -> None:
    log_ratio = ratios(30)[:, :draws]
    weight, k = psis(torch.as_tensor(log_ratio))
    assert k.isnan().all()
    raw = np.exp(log_ratio - log_ratio.max(1, keepdims=True))
    np.testing.assert_allclose(weight.exp().numpy(), raw / raw.sum(1, keepdims=True), rtol=1e-12)
    elpd = leave_one_out(torch.as_tensor(-log_ratio))[0].numpy()
    np.testing.assert_allclose(elpd, math.log(draws) - np.logaddexp.reduce(log_ratio, axis=1), rtol=1e-12)


def test_leave_one_out_of_odd_densities() -> None:
    x = np.random.default_rng(3).normal(size=(6, 200))
    x[1] = -1.25
    x[2, 7] = -np.inf
    x[3, 7] = np.nan
    x[4, 7] = np.inf
    x[5, 7], x[5, 8] = -np.inf, np.nan
    elpd, k = leave_one_out(torch.as_tensor(x))
    assert elpd[0].isfinite() and k[0].isfinite()
    assert (elpd[1], k[1]) == (-1.25, 0.0)
    assert (elpd[2], k[2]) == (-math.inf, math.inf)
    assert elpd[3:].isnan().all() and k[3:].isnan().all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.as_tensor(np.concatenate([ratios(300, seed) for seed in range(5)]))
    whole = [*psis(x), *leave_one_out(x, 0.7)]
    monkeypatch.setattr(pareto, "AT_ONCE", {"cpu": 7 * pareto._points(51) * 51})
    for found, expected in zip([*psis(x), *leave_one_out(x, 0.7)], whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_single_precision_is_computed_in_double_and_left_alone() -> None:
    x = torch.as_tensor(ratios(400)).float()
    before = x.clone()
    weight, k = psis(x)
    assert weight.dtype == k.dtype == torch.float64 and torch.equal(x, before)
    torch.testing.assert_close(k, psis(x.double())[1], rtol=0, atol=0)
    assert leave_one_out(x[:0])[0].shape == psis(x[:0])[1].shape == (0,)


def test_one_row_of_numpy() -> None:
    row = ratios(1000)[6]
    weight, k = smoothed(row)
    theirs, their_k = array_stats.psislw(-row)
    np.testing.assert_allclose(weight, np.exp(theirs), atol=1e-10)
    assert k == pytest.approx(float(their_k), abs=1e-8)
