"""Diagnostics against arviz-stats, and the properties that arviz-stats has no word on."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats

from hiertorch.draws import diagnostics
from hiertorch.draws.ranked import normal_scores, score_table
from hiertorch.errors import DataError

AXES = {"chain_axis": 0, "draw_axis": 1}
REFERENCE = {
    "rhat": lambda x: array_stats.rhat(x, method="rank", **AXES),
    "ess_bulk": lambda x: array_stats.ess(x, method="bulk", **AXES),
    "ess_tail": lambda x: array_stats.ess(x, method="tail", prob=(0.05, 0.95), **AXES),
    "ess_mean": lambda x: array_stats.ess(x, method="mean", **AXES),
    "mcse_mean": lambda x: array_stats.mcse(x, method="mean", **AXES),
}


def measured(name: str, x: torch.Tensor) -> torch.Tensor:
    """A diagnostic by its name: of bulk and tail there is no function alone."""
    found = diagnostics.convergence(x)
    return getattr(found, name) if name in ("ess_bulk", "ess_tail") else getattr(diagnostics, name)(x)


def autoregressive(rng: np.random.Generator, phi: float, chains: int, draws: int, parameters: int) -> np.ndarray:
    """Stationary AR(1) draws of unit variance, `(chains, draws, parameters)`."""
    x = rng.standard_normal((chains, draws, parameters))
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * x[:, t]
    return x


def rejecting(rng: np.random.Generator, chains: int, draws: int, parameters: int) -> np.ndarray:
    """Random-walk Metropolis draws from a standard normal: runs of ties, as in every real run."""
    x = np.zeros((chains, draws, parameters))
    for t in range(1, draws):
        proposal = x[:, t - 1] + 2.4 * rng.standard_normal((chains, parameters))
        accept = np.log(rng.random((chains, parameters))) < (x[:, t - 1] ** 2 - proposal**2) / 2
        x[:, t] = np.where(accept, proposal, x[:, t - 1])
    return x


def made_draws() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20240229)
    drifting = rng.standard_normal((4, 200, 3)) + np.linspace(0, 3, 200)[:, None]
    apart = autoregressive(rng, 0.5, 4, 100, 3) + np.array([0, 0, 0, 2.0])[:, None, None]
    wider = rng.standard_normal((4, 100, 3)) * np.array([1, 1, 1, 6.0])[:, None, None]
    stuck = autoregressive(rng, 0.3, 4, 150, 3)
    stuck[2] = 0.37
    nearly_stuck = autoregressive(rng, 0.3, 4, 150, 3)
    nearly_stuck[1, 7:] = -0.1
    frozen = np.broadcast_to(np.array([0.1, 0.7, -0.3, 0.2])[:, None, None], (4, 60, 2)).copy()
    return {
        "independent": rng.standard_normal((4, 250, 5)),
        "autocorrelated": autoregressive(rng, 0.9, 4, 250, 5),
        "nearly a random walk": autoregressive(rng, 0.999, 3, 250, 5),
        "antithetic": autoregressive(rng, -0.8, 4, 250, 5),
        "rejecting": rejecting(rng, 5, 300, 5),
        "heavy-tailed": rng.standard_cauchy((4, 250, 5)),
        "far from zero": 1e6 + autoregressive(rng, 0.5, 4, 250, 3),
        "counts": rng.poisson(2.0, (4, 250, 5)),
        "binary": rng.integers(0, 2, (4, 250, 5)),
        "binary, one tail moves": rng.random((4, 250, 5)) < 0.2,
        "binary, in halves": np.tile(np.array([0.0, 1.0, 1.0, 0.0]), (4, 25))[..., None],
        "drifting": drifting,
        "a chain elsewhere": apart,
        "a wider chain": wider,
        "a stuck chain": stuck,
        "a chain that gets stuck": nearly_stuck,
        "chains frozen apart": frozen,
        "odd": autoregressive(rng, 0.6, 4, 101, 5),
        "many chains": autoregressive(rng, 0.6, 32, 50, 5),
        "one chain": autoregressive(rng, 0.6, 1, 101, 5),
        **{f"{n} draws": rng.standard_normal((4, n, 5)) for n in (3, 4, 6, 7, 8, 9, 11)},
    }


DRAWS = made_draws()


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("case", DRAWS)
def test_equal_to_arviz(name: str, case: str) -> None:
    x = DRAWS[case]
    expected = REFERENCE[name](x.astype(float))
    found = measured(name, torch.from_numpy(x)).numpy()
    if case == "chains frozen apart" and name == "rhat":  # ArviZ: infinity, or the inverse of a rounding error
        assert np.all(expected > 1e6) and np.all(np.isinf(found))
        return
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    if case not in ("3 draws", "one chain"):
        assert np.isfinite(found).all()  # NaN equals NaN above, and must not hide a function that gives nothing else


@pytest.mark.parametrize("case", [c for c in DRAWS if c != "3 draws"])
def test_mcse_of_the_sd(case: str) -> None:
    """The ESS is ArviZ's; the rest is the delta method for sqrt(mean of c)."""
    x = DRAWS[case].astype(float)
    found = diagnostics.mcse_sd(torch.from_numpy(x)).numpy()
    c = (x - x.mean((0, 1))) ** 2
    if case == "binary, in halves":  # every draw is equally far from the mean: the squared deviation never moves
        assert np.isnan(found).all()
        return
    ess = array_stats.ess(c, method="mean", **AXES)
    np.testing.assert_allclose(found, np.sqrt(c.var((0, 1)) / ess / c.mean((0, 1))) / 2, rtol=1e-8)


def test_mcse_of_independent_draws_is_the_textbook_one() -> None:
    x = np.random.default_rng(1).standard_normal((8, 4000, 1))
    assert diagnostics.mcse_mean(torch.from_numpy(x)).item() == pytest.approx(1 / math.sqrt(32000), rel=0.1)
    assert diagnostics.mcse_sd(torch.from_numpy(x)).item() == pytest.approx(1 / math.sqrt(2 * 32000), rel=0.1)


def test_ess_of_an_autoregression_has_its_closed_form() -> None:
    phi, size = 0.8, 16 * 4000
    x = autoregressive(np.random.default_rng(2), phi, 16, 4000, 8)
    found = diagnostics.ess_mean(torch.from_numpy(x)).mean().item()
    assert found == pytest.approx(size * (1 - phi) / (1 + phi), rel=0.05)


def test_convergence_is_rhat_and_effective_draws() -> None:
    x = torch.from_numpy(DRAWS["odd"])
    found = diagnostics.convergence(x)
    torch.testing.assert_close(found.rhat, diagnostics.rhat(x), rtol=0, atol=0)
    for one, other in zip(found[1:], diagnostics.effective(x), strict=False):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("case", ["rejecting", "counts", "heavy-tailed", "binary"])
def test_normal_scores_are_scipys_of_average_ranks(case: str) -> None:
    x = DRAWS[case].astype(float)
    x = x.reshape(-1, x.shape[2]).T  # (parameters, draws of all chains)
    expected = stats.norm.ppf((stats.rankdata(x, axis=1) - 3 / 8) / (x.shape[1] + 1 / 4))
    found = normal_scores(*torch.from_numpy(x).sort(-1), score_table(x.shape[1], torch.device("cpu")))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_moments_are_numpys() -> None:
    x = 1e6 + np.random.default_rng(5).standard_normal((3, 50, 2, 4))
    mean, sd = diagnostics.moments(torch.from_numpy(x))
    np.testing.assert_allclose(mean.numpy(), x.mean((0, 1)), rtol=1e-14)
    np.testing.assert_allclose(sd.numpy(), x.std((0, 1), ddof=1), rtol=1e-8)


@pytest.mark.parametrize("draws", [100, 101])
def test_quantile_is_numpys(draws: int) -> None:
    x = np.random.default_rng(3).standard_normal((3, draws, 2, 4))
    found = diagnostics.quantile(torch.from_numpy(x), (0.0, 0.055, 0.5, 0.945, 1.0)).numpy()
    expected = np.moveaxis(np.quantile(x, (0.0, 0.055, 0.5, 0.945, 1.0), axis=(0, 1)), 0, -1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [*REFERENCE, "mcse_sd"])
def test_a_parameter_that_never_moved_has_no_diagnostics(name: str) -> None:
    x = torch.randn(4, 100, 3, generator=torch.Generator().manual_seed(1))
    x[..., 1] = 0.1  # has no exact binary representation, so its mean is off by a rounding error
    assert measured(name, x).isnan().tolist() == [False, True, False]


def test_tails_that_never_moved_have_no_effective_draws() -> None:
    """Both quantiles are 0, and no draw is above: ArviZ counts every draw as effective."""
    x = torch.zeros(4, 250, dtype=torch.float64)
    x[0, 3] = x[2, 100] = -1.0
    assert REFERENCE["ess_tail"](x.numpy()) == 1000
    assert measured("ess_tail", x).isnan()
    assert measured("ess_bulk", x).isfinite()
    x[1, 7] = 1.0  # now the indicator of x <= 0 moves, and both agree again
    assert measured("ess_tail", x).item() == pytest.approx(REFERENCE["ess_tail"](x.numpy()).item(), rel=1e-8)


def test_a_stuck_chain_shows() -> None:
    """In R-hat always; in the bulk ESS if it stands away from the centre (there the ESS is blind to it, as ArviZ's)."""
    x = torch.randn(4, 500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert measured("ess_bulk", x) > 1500 and diagnostics.rhat(x) < 1.01
    for place in (0.0, 1.0, 3.0):
        x[2] = place
        assert diagnostics.rhat(x) > 1.1
    assert measured("ess_bulk", x) < 10


@pytest.mark.parametrize("scale", [2.0**-100, -1.0, 2.0**100, 1e-30, 1e30])
@pytest.mark.parametrize("name", ["rhat", "ess_bulk", "ess_tail", "ess_mean"])
def test_rescaling_changes_nothing(name: str, scale: float) -> None:
    """Where scaling rounds, two draws equally far from the median may cease to tie: one rank, and in R-hat alone."""
    x = torch.from_numpy(DRAWS["autocorrelated"])
    function = partial(measured, name)
    rounds = abs(math.frexp(scale)[0]) != 0.5
    torch.testing.assert_close(
        function(scale * x), function(x), rtol=1e-3 if rounds and name == "rhat" else 1e-9, atol=0
    )


def test_a_nan_or_an_infinite_draw_tells_on_its_parameter_alone() -> None:
    x = torch.from_numpy(DRAWS["independent"].copy())
    ranked, moment = diagnostics.convergence(x), diagnostics.ess_mean(x)
    x[1, 20, 0], x[2, 30, 3] = math.nan, math.inf
    for found, before in zip(diagnostics.convergence(x), ranked, strict=True):
        assert found.isnan().tolist() == [True, False, False, False, False]
        torch.testing.assert_close(found[[1, 2, 4]], before[[1, 2, 4]], rtol=1e-12, atol=0)
    found = diagnostics.ess_mean(x)
    assert found.isnan().tolist() == [True, False, False, True, False]
    torch.testing.assert_close(found[[1, 2, 4]], moment[[1, 2, 4]], rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["rhat", "ess_bulk", "ess_tail", "mcse_mean"])
def test_a_batch_of_good_and_bad_parameters_is_arvizs_one_by_one(name: str, dtype: torch.dtype) -> None:
    """Beside each other: constant chains, NaN and infinities. Where ArviZ has a number, so do we and it is the same,
    but for parameters that never moved (ArviZ: all draws are effective), which have NaN here.
    """
    rng = np.random.default_rng(6)
    x = torch.from_numpy(autoregressive(rng, 0.4, 4, 200, 11)).to(dtype)
    x[2, :, 1] = x[2, 0, 1]  # one chain is stuck
    x[:3, :, 2] = x[0, 0, 2]  # all but one are, at the same place
    x[:3, :, 3] = torch.tensor([0.1, 0.7, -0.3], dtype=dtype)[:, None]  # and at places of their own
    x[..., 4] = 0.1  # all are
    x[1, 20, 5] = math.nan
    x[0, 5, 6], x[3, 7, 7] = math.inf, -math.inf
    x[..., 8][x[..., 8] > 0.5] = math.inf
    x[..., 9][x[..., 9] > -0.5] = math.inf  # the median among them
    function = partial(measured, name)
    found = function(x)
    expected = REFERENCE[name](x.double().numpy())
    moments = name == "mcse_mean"
    assert found.dtype == torch.float64 and found[[4, 5]].isnan().all() and found[6:10].isnan().all() == moments
    alike = [k for k in range(11) if k != 4]
    np.testing.assert_allclose(found.numpy()[alike], expected[alike], rtol=1e-6)
    assert found[[0, 1, 2, 3, 10]].isfinite().all()
    alone = torch.stack([function(x[..., k]) for k in range(11)])
    torch.testing.assert_close(alone, found, rtol=1e-12, atol=0, equal_nan=True)


def test_chunks_shapes_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    x = autoregressive(np.random.default_rng(4), 0.5, 4, 50, 42).reshape(4, 50, 2, 3, 7)
    expected = array_stats.ess(x, method="bulk", **AXES)
    monkeypatch.setattr(diagnostics, "_CHUNK_BYTES", 5 * 8 * diagnostics._COPIES * 4 * 50)  # 5 parameters at a time
    np.testing.assert_allclose(measured("ess_bulk", torch.from_numpy(x)).numpy(), expected, rtol=1e-8)
    single = torch.from_numpy(x).float()
    found = measured("ess_bulk", single.transpose(2, 4))  # not contiguous, (7, 3, 2) parameters
    expected = array_stats.ess(single.double().numpy(), method="bulk", **AXES)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 1, 0), rtol=1e-8)
    assert diagnostics.rhat(single[:, :, 0, 0, 0]).shape == ()
    assert diagnostics.rhat(single[:, :, :0]).shape == (0, 3, 7)
    assert diagnostics.rhat(single[:, :0]).isnan().all()


@pytest.mark.parametrize("shape", [(10,), (0, 10)])
def test_draws_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"need draws of shape \(chains, draws, \*shape\), found \("):
        diagnostics.rhat(torch.zeros(shape))


@pytest.mark.parametrize("case", [c for c in DRAWS if c != "3 draws"])
def test_a_digest_is_its_parts(case: str) -> None:
    x = torch.from_numpy(DRAWS[case]).double()
    found, levels = diagnostics.digest(x, (0.05, 0.5)), diagnostics.quantile(x, (0.05, 0.5))
    parts = [*diagnostics.convergence(x), diagnostics.ess_mean(x), *diagnostics.moments(x)]
    parts += [diagnostics.mcse_sd(x), levels, diagnostics.mcse_mean(x), *diagnostics.effective(x)]
    again = (found.mcse_mean, found.ess_bulk, found.ess_tail, found.ess_mean)
    for part, whole in zip(parts, (*found, *again), strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=0, equal_nan=True)
