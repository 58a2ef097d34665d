"""One Gaussian model on several data sets at once, against dense algebra and against runs of one data set each."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import ZOO, Example, assert_moments, collapsed_of, dense, example, stacked

import hiertorch as ht
from hiertorch.draws import diagnostics
from hiertorch.gaussian import several
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.several import sets_of
from hiertorch.posterior import Posterior

SETS = 3
Sample = Callable[..., Posterior]


def apart(one: Tensor, other: Tensor) -> float:
    """Difference of two means of draws `(chains, draws, 1, *event)` in Monte Carlo errors, the largest."""
    error = (diagnostics.mcse_mean(one).square() + diagnostics.mcse_mean(other).square()).sqrt()
    return float(((one.mean((0, 1)) - other.mean((0, 1))) / error).abs().max())


def varied(case: Example, seed: int = 5) -> ht.Data:
    """The data with a response and weights of its own in each of SETS chains; some weights are 0."""
    generator = torch.Generator().manual_seed(seed)
    y = case.data.y + torch.randn(SETS, case.data.n_rows, dtype=torch.float64, generator=generator)
    weights = torch.tensor([0.0, 1.0, 1.0, 2.5], dtype=torch.float64)
    drawn = weights[torch.randint(4, (SETS, case.data.n_rows), generator=generator)]
    own = torch.ones(case.data.n_rows) if case.data.weights is None else case.data.weights
    return case.data.replace(y=y, weights=drawn * own)


SOME = ["varying_intercepts", "effects_alone", "empty_groups", "correlated_2", "conditional", "nested_added_empty"]
SOME += ["crossed", "three_groupings", "autoregression", "fixed_covariance", "two_errors", "weightless_group", "ridge"]


@cache
def found(name: str) -> tuple[Example, ht.Data, Collapsed]:
    case = example(name)
    data = varied(case)
    collapsed = collapsed_of(case.model, data)
    assert not isinstance(collapsed, str), collapsed
    return case, data, collapsed


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in ZOO])
def test_densities_and_moments_are_those_of_each_set(name: str) -> None:
    case, data, collapsed = found(name)
    assert collapsed.sets == SETS
    assert (collapsed.linear, collapsed.rest) == (case.linear, case.rest)
    rest = case.draw(2 * SETS, 3)
    densities = collapsed.log_marginal(rest) if rest else collapsed.evaluate({}, 2 * SETS)[0]
    zero = torch.zeros(collapsed.n_noise, 2 * SETS, dtype=torch.float64)
    mean = stacked(collapsed.draw(rest, zero), collapsed.linear)
    for i in range(2 * SETS):
        here = {key: x[i : i + 1] for key, x in rest.items()}
        expected = dense(case.model, data.of_chains(i % SETS), here, case.linear)
        assert float(densities[i]) == pytest.approx(float(expected.log_marginal[0]), rel=1e-8)
        sd = np.sqrt(np.diagonal(expected.covariance[0])).astype(float)
        off = np.abs(mean[i] - expected.mean[0]).astype(float) / sd
        assert (off < 1e-6 + 1e-13 * np.abs(mean[i]) / sd).all()


@pytest.mark.parametrize(
    "name", ["varying_intercepts", "correlated_2", "correlated_3", "nested_2", "crossed", "two_errors"]
)
def test_draws_have_the_covariances_of_their_set(name: str) -> None:
    """Noise of one set reaches no other: all sets are asked with the same noise, and one set's moments looked at."""
    case, data, collapsed = found(name)

    class Only:
        """One set of the batch, as `assert_moments` reads it."""

        n_noise, linear = collapsed.n_noise, collapsed.linear

        def __init__(self, number: int) -> None:
            self.number = number

        def draw(self, values: dict[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
            every = {key: x.repeat_interleave(SETS, 0) for key, x in values.items()}
            drawn = collapsed.draw(every, noise.repeat_interleave(SETS, 1))
            return {key: x[self.number :: SETS] for key, x in drawn.items()}

    for number in range(SETS):
        one = Example(case.model, data.of_chains(number), case.linear, case.rest)
        assert_moments(Only(number), one, case.draw(1, 4), 1, 1e-6)  # type: ignore[arg-type]


def test_values_of_all_latents_have_their_density() -> None:
    case, data, collapsed = found("correlated_2")
    rest = case.draw(SETS, 6)
    drawn = collapsed.draw(rest, torch.randn(collapsed.n_noise, SETS, dtype=torch.float64))
    for i in range(SETS):
        alone = collapsed_of(case.model, data.of_chains(i))
        assert isinstance(alone, Collapsed)
        values = {**rest, **drawn}
        one = alone.log_conditional({key: x[i : i + 1] for key, x in values.items()})
        assert float(collapsed.log_conditional(values)[i]) == pytest.approx(float(one), rel=1e-9)


# The data


def test_sets_are_the_period_of_the_chains() -> None:
    data = ht.Data([1.0, 2.0, 3.0], x=[0.0, 1.0, 2.0])
    assert sets_of(data) == 1
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert sets_of(data.replace(weights=weights.repeat(4, 1))) == 2
    assert sets_of(data.replace(weights=weights.repeat_interleave(2, 0))) == 4  # in another order each is its own
    assert sets_of(data.replace(weights=weights[:1].repeat(5, 1))) == 1
    both = data.replace(y=data.y + torch.arange(6.0).unsqueeze(1), weights=weights.repeat(3, 1))
    assert sets_of(both) == 6
    assert both.of_chains(4).y.tolist() == [5.0, 6.0, 7.0]
    assert both.of_chains(3).weights.tolist() == [0.0, 1.0, 1.0]  # type: ignore[union-attr]


def test_chains_of_one_set_are_one_set(sample: Sample) -> None:
    """A single fit without a row, weights repeated for each chain."""
    case = example("varying_intercepts")
    weights = torch.ones(case.data.n_rows)
    weights[0] = 0.0
    one = sample(case.model, case.data.replace(weights=weights), collapse=True, chains=4, draws=20, seed=1)
    same = sample(case.model, case.data.replace(weights=weights.repeat(4, 1)), collapse=True, draws=20, seed=1)
    assert torch.equal(one.draws[case.linear[0]], same.draws[case.linear[0]])


def test_too_many_numbers_are_left_to_ordinary_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "MOST_NUMBERS", 10)
    reason = collapsed_of(example("varying_intercepts").model, varied(example("varying_intercepts")))
    assert isinstance(reason, str) and "data sets hold" in reason


# The sampler


@pytest.mark.parametrize("order", ["in turn", pytest.param("in blocks", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_batch_of_folds_is_as_many_runs(order: str, sample: Sample) -> None:
    """Means of three folds against runs of their own, within 4.5 combined Monte Carlo errors (z of 12 means; error rate
    1e-4), and other folds' means are not within it.
    """
    made = ht.simulate_grouped(groups=12, rows=[4] * 6 + [9] * 6, seed=3)
    model, folds, chains = ht.models.VaryingIntercepts("group", ["x"], priors="tutorial"), 3, 20
    fold = torch.arange(made.data.n_rows) % folds
    weights = (fold != torch.arange(folds).unsqueeze(1)).double()
    every = weights.repeat(chains, 1) if order == "in turn" else weights.repeat_interleave(chains, 0)
    batch = sample(model, made.data.replace(weights=every), collapse=True, draws=250, seed=1)
    assert "collapsed" in str(batch.stats.blocks)
    others = []
    for k in range(folds):
        one = sample(model, made.data.replace(weights=weights[k]), collapse=True, chains=chains, draws=250, seed=2 + k)
        mine = (
            torch.arange(k, folds * chains, folds) if order == "in turn" else torch.arange(k * chains, (k + 1) * chains)
        )
        for name in ("mu_alpha", "sigma_alpha", "beta", "sigma_y"):
            assert apart(batch.draws[name][mine], one.draws[name]) < 4.5, (name, k)
        other = batch.draws["sigma_y"][(mine + (1 if order == "in turn" else chains)) % (folds * chains)]
        others.append(apart(other, one.draws["sigma_y"]))
    assert max(others) > 8.0


def test_responses_far_apart_keep_their_own_places(sample: Sample) -> None:
    """y and y + 10: their grand means are 10 apart, in the same run."""
    data = example("varying_intercepts").data
    y = torch.stack([data.y, data.y + 10.0]).repeat(10, 1)
    posterior = sample(
        ht.models.VaryingIntercepts("school", ["x"], priors={"mu_alpha": "Normal(0, 100)"}),
        data.replace(y=y), collapse=True, draws=300, seed=1,
    )  # fmt: skip
    low, high = posterior["mu_alpha"][0::2], posterior["mu_alpha"][1::2]
    assert float((high - low).mean()) == pytest.approx(10.0, abs=0.1)
    assert posterior.origin is not None and posterior.origin.data.y.shape == y.shape
