"""Runs that go on from another: where chains begin, what tuning they take over, and that they end where others do."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor

import hiertorch as ht
from hiertorch.draws import diagnostics
from hiertorch.errors import SamplingError
from hiertorch.models import CorrelatedEffects, VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.run.warmstart import warm_start

Sample = Callable[..., Posterior]
MODEL = VaryingIntercepts("school", ["x"], family="bernoulli", priors="tutorial")


def simulated(rows: int = 12) -> pd.DataFrame:
    made = ht.simulate_grouped(
        {"school": 8}, rows=rows, model=MODEL, values={"mu_alpha": 0.3, "sigma_alpha": 1.0, "beta": 0.5}, seed=1
    )
    return made.frame


def read(frame: pd.DataFrame) -> ht.Data:
    return ht.Data.from_frame(frame, response="y", groups=["school"], predictors=["x"])


@pytest.fixture(scope="module")
def before(sample: Sample) -> Posterior:
    return sample(MODEL, read(simulated()), chains=8, warmup=60, draws=60, thin=2, seed=1)


def errors_apart(one: Tensor, other: Tensor) -> float:
    """Difference of means in Monte Carlo errors, the largest."""
    error = (diagnostics.mcse_mean(one).square() + diagnostics.mcse_mean(other).square()).sqrt()
    return float(((one.mean((0, 1)) - other.mean((0, 1))) / error).abs().max())


def test_chains_begin_at_the_last_draws_by_label(before: Posterior) -> None:
    frame = simulated()
    later = pd.concat([frame[frame["school"] != "g1"], frame.iloc[:4].assign(school="a new one")])
    data = read(later)
    found = warm_start(before, MODEL, data, 8, torch.Generator().manual_seed(1))
    assert torch.equal(found.init["mu_alpha"], before.draws["mu_alpha"][:, -1])
    labels = list(data.labels["school"])
    assert labels[0] == "a new one"
    for code, label in enumerate(labels[1:], 1):
        assert torch.equal(found.init["alpha"][:, code], before.group("alpha", label)[:, -1])
    many = warm_start(before, MODEL, data, 4000, torch.Generator().manual_seed(1)).init
    z = (many["alpha"][:, 0] - many["mu_alpha"][:, 0]) / many["sigma_alpha"][
        :, 0
    ]  # standard normal: from the population
    assert float(z.mean()) == pytest.approx(0.0, abs=4 / 4000**0.5)
    assert float(z.std()) == pytest.approx(1.0, abs=4 / 8000**0.5)


def test_more_chains_begin_at_different_draws(before: Posterior) -> None:
    found = warm_start(before, MODEL, read(simulated()), 24, None).init["beta"].flatten()
    assert len(found.unique()) > 16
    fewer = warm_start(before, MODEL, read(simulated()), 3, None).init["beta"]
    assert torch.equal(fewer, before.draws["beta"][:3, -1])


def test_tuning_is_taken_over_and_a_new_group_is_given_the_mean(before: Posterior) -> None:
    frame = simulated()
    same = warm_start(before, MODEL, read(frame), 8, None).tuning
    assert same.keys() == before.tuning.keys()
    assert all(torch.equal(same[move][key], x) for move, tuning in before.tuning.items() for key, x in tuning.items())
    more = warm_start(before, MODEL, read(pd.concat([frame, frame.iloc[:3].assign(school="z")])), 8, None).tuning
    root = before.tuning["groupwise(alpha)"]["root"]
    assert list(more["groupwise(alpha)"]) == ["root"]
    assert torch.equal(more["groupwise(alpha)"]["root"][:-1], root)
    assert torch.allclose(more["groupwise(alpha)"]["root"][-1], root.mean(0))


@pytest.mark.parametrize("collapse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_that_goes_on_ends_where_others_do(collapse: bool, sample: Sample) -> None:
    """On other rows than before, with a new group: means within 4.5 Monte Carlo errors (13 of them; error rate 1e-4).
    Where it started from is more than that away.
    """
    frame = ht.simulate_grouped({"school": 8}, rows=10, slope=0.5, seed=2).frame
    later = ht.simulate_grouped({"school": 9}, rows=25, slope=1.0, seed=3).frame
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    first = sample(model, read(frame), collapse=collapse, chains=16, draws=100, seed=1)
    cold = sample(model, read(later), collapse=True, chains=32, draws=1000, seed=2)
    warm = sample(model, read(later), collapse=collapse, chains=16, draws=400, start=first, seed=3)
    assert warm.run["warmup"] <= 200
    for name in cold.draws:
        assert errors_apart(warm.draws[name], cold.draws[name]) < 4.5, name
    assert errors_apart(first.draws["beta"], cold.draws["beta"]) > 10.0


def test_the_warm_up_of_ordinary_moves_is_a_fifth(before: Posterior, sample: Sample) -> None:
    settings = {"chains": 4, "draws": 2, "thin": 1, "seed": 1}
    assert sample(MODEL, read(simulated()), start=before, **settings).run["warmup"] <= 200
    assert sample(MODEL, read(simulated()), start=before, warmup=7, **settings).run["warmup"] == 7


def test_what_init_gives_comes_first(before: Posterior, sample: Sample) -> None:
    run = sample(
        MODEL, read(simulated()), start=before, init={"beta": 3.0}, warmup=1, draws=1, chains=4, thin=1, seed=1
    )
    assert bool((run["beta"] > 1.5).all())


def test_effects_that_were_not_stored_are_drawn(sample: Sample) -> None:
    made = ht.simulate_grouped({"school": 8}, rows=10, seed=2)
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    keep = ["mu_alpha", "sigma_alpha", "beta", "sigma_y"]
    first = sample(model, made.data, collapse=True, keep=keep, chains=8, draws=50, seed=1)
    run = sample(model, made.data, start=first, chains=8, warmup=20, draws=20, seed=2)
    assert run["alpha"].shape == (8, 20, 8)


def test_a_posterior_of_something_else_is_refused(before: Posterior, sample: Sample) -> None:
    data = read(simulated())
    with pytest.raises(SamplingError, match="start= is a posterior"):
        sample(MODEL, data, start="before", draws=1)  # type: ignore[arg-type]
    with pytest.raises(SamplingError, match="no draws of 'sigma_y'"):
        sample(VaryingIntercepts("school", ["x"]), data, start=before, draws=1)
    two = data.columns["x"]
    wider = ht.Data(data.y, groups={"school": data.codes["school"].tolist()}, x=two, z=two + 1.0)
    with pytest.raises(SamplingError, match="entries of its 'beta'"):
        sample(VaryingIntercepts("school", ["x", "z"], family="bernoulli"), wider, start=before, draws=1)


def test_correlations_go_on(sample: Sample) -> None:
    made = ht.simulate_grouped({"school": 8}, rows=10, seed=2)
    model = CorrelatedEffects("school", ["x"], priors="tutorial")
    first = sample(model, made.data, collapse=True, chains=8, draws=50, seed=1)
    for collapse in (True, False):
        run = sample(model, made.data, collapse=collapse, start=first, chains=8, warmup=10, draws=10, thin=1, seed=2)
        assert bool(run["rho"].isfinite().all())
