"""Draws of several runs joined: all of them, in order, diagnosed together; and what may not be joined."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.run.warmstart import warm_start

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")
Sample = Callable[..., Posterior]
MODEL = VaryingIntercepts("school", ["x"], priors="tutorial")
EVERY = ["mu_alpha", "sigma_alpha", "beta", "sigma_y"]


def made(**changes: Any) -> ht.Data:
    rng = np.random.default_rng(4)
    school, x = np.arange(60) % 6, rng.normal(size=60)
    y = 1.0 + 0.5 * x + rng.normal(size=6)[school] + 0.5 * rng.normal(size=60)
    return ht.Data(**{"y": y, "groups": {"school": [f"s{k}" for k in school]}, "x": x, **changes})


@pytest.fixture(scope="module")
def runs(sample: Sample) -> dict[str, Posterior]:
    data, short = made(), {"warmup": 4, "draws": 40, "thin": 1, "chains": 4}
    chosen: dict[str, dict[str, Any]] = {
        "a": {"collapse": True, "seed": 1},
        "b": {"collapse": True, "seed": 2, "chains": 3},
        "unstored": {"collapse": True, "seed": 3, "keep": EVERY},
        "unstored too": {"collapse": True, "seed": 4, "keep": EVERY},
        "hidden": {"collapse": True, "seed": 5, "keep": ["beta"]},
        "ordinary": {"seed": 1},
        "one kept": {"seed": 6, "keep": ["beta"]},
        "one kept too": {"seed": 7, "keep": ["beta"]},
        "thinned": {"collapse": True, "seed": 8, "thin": 2, "draws": 25},
        "thinned by three": {"collapse": True, "seed": 9, "thin": 3},
        "single": {"collapse": True, "seed": 10, "dtype": torch.float32},
        "prior": {"seed": 11, "prior_only": True},
    }
    return {name: sample(MODEL, data, **{**short, **settings}) for name, settings in chosen.items()}


def assert_stacked(found: Posterior, *parts: Posterior) -> None:
    for name in found:
        assert torch.equal(found.draws[name], torch.cat([part.draws[name] for part in parts]))


def test_chains_stand_side_by_side(runs: dict[str, Posterior]) -> None:
    a, b = runs["a"], runs["b"]
    found = ht.concat([a, b])
    assert (found.chains, found.n_draws, found.names) == (7, 40, a.names)
    assert_stacked(found, a, b)
    assert torch.equal(found.stats.log_density, torch.cat([a.stats.log_density, b.stats.log_density]))
    for block, rate in found.stats.acceptance.items():
        assert torch.equal(rate, torch.cat([a.stats.acceptance[block], b.stats.acceptance[block]]))
    assert found.fingerprint == a.fingerprint and not found.interrupted
    by_hand = Posterior(
        {name: torch.cat([a.draws[name], b.draws[name]]) for name in a},
        plates=a.plates,
        labels=a.labels,
        event_labels=a.event_labels,
        stats=a.stats,
        run={},
    )
    pd.testing.assert_frame_equal(found.summary(), by_hand.summary())


def test_what_was_run_is_said_of_each(runs: dict[str, Posterior]) -> None:
    a, b = runs["a"], runs["b"]
    run = ht.concat([a, b]).run
    assert [(one["seed"], one["chains"], one["draws"]) for one in run["joined"]] == [(1, 4, 40), (2, 3, 40)]
    assert (run["chains"], run["draws"], run["thin"], run["interval"]) == (7, 40, 1, 1)
    assert run["seconds"]["sampling"] == a.run["seconds"]["sampling"] + b.run["seconds"]["sampling"]
    three = ht.concat([ht.concat([a, b]), runs["thinned"]]).run["joined"]
    assert [one["seed"] for one in three] == [1, 2, 8]


def test_runs_that_disagree_are_said(runs: dict[str, Posterior]) -> None:
    one, other = (
        by_hand({"mu": torch.from_numpy(np.random.default_rng(seed).normal(3.0 * seed, size=(4, 200, 1)))})
        for seed in (1, 2)
    )
    with pytest.warns(ht.SamplingWarning, match=r"R-hat is above 1.01 for 1 of 1 parameters"):
        ht.concat([one, other])


def by_hand(draws: dict[str, Tensor], **run: Any) -> Posterior:
    chains, number = next(iter(draws.values())).shape[:2]
    stats = Stats({}, {}, torch.zeros(chains, number), {})
    return Posterior(draws, plates={}, labels={}, event_labels={}, stats=stats, run=run)


# Draws of other intervals and lengths


def test_a_finer_run_is_thinned_to_the_coarser(runs: dict[str, Posterior]) -> None:
    a, thinned = runs["a"], runs["thinned"]  # 40 draws of one sweep, 25 of two
    with pytest.warns(ht.SamplingWarning, match="100 of 260 draws are left out, .* 20 draws of 2 sweeps .* 40 of 1 sw"):
        found = ht.concat([a, thinned])
    assert torch.equal(found["beta"], torch.cat([a["beta"][:, 1::2], thinned["beta"][:, 5:]]))
    assert torch.equal(found.stats.log_density[4:], thinned.stats.log_density[:, 5:])
    assert found.run["thin"] * found.interval == 2
    again = ht.concat([thinned, runs["thinned by three"]])  # 25 of two, 40 of three: 8 of six
    assert again.n_draws == 8 and again.run["thin"] * again.interval == 6
    assert torch.equal(again["beta"][:4], thinned["beta"][:, 3::3])
    assert torch.equal(again["beta"][4:], runs["thinned by three"]["beta"][:, 25::2])
    with pytest.raises(DataError, match="40 of 1 sweeps, 1 of 50 sweeps, have no even share: join runs with the same"):
        ht.concat([a, by_hand_of(runs["b"], n_draws=1, thin=50)])


def by_hand_of(posterior: Posterior, n_draws: int, **run: Any) -> Posterior:
    return Posterior(
        {name: x[:, :n_draws] for name, x in posterior.draws.items()},
        plates=posterior.plates,
        labels=posterior.labels,
        event_labels=posterior.event_labels,
        stats=Stats({}, {}, posterior.stats.log_density[:, :n_draws], {}),
        run={**posterior.run, **run},
        fingerprint=posterior.fingerprint,
        interrupted=run.get("status") == "interrupted",
    )


def test_a_run_that_was_stopped_is_marked(runs: dict[str, Posterior]) -> None:
    a = runs["a"]
    stopped = by_hand_of(runs["b"], 10, status="interrupted", ended_by="Ctrl-C")
    with pytest.warns(ht.SamplingWarning, match="120 of 190 draws are left out"):
        found = ht.concat([a, stopped])
    assert found.interrupted and found.n_draws == 10 and "interrupted" in repr(found)
    assert found.stopped == "The run was stopped by Ctrl-C after 10 of 40 draws: these are all there are."
    assert [one["status"] for one in found.run["joined"]] == ["finished", "interrupted"]


# Sampled in different ways


def test_effects_that_were_not_stored_are_drawn_for_all(runs: dict[str, Posterior]) -> None:
    one, other = runs["unstored"], runs["unstored too"]
    found = ht.concat([one, other])
    assert found.redraw("alpha").shape == (8, 40, 6) and "drawn again by redraw(): alpha" in repr(found)
    assert torch.equal(found.log_marginal("school"), torch.cat([x.log_marginal("school") for x in (one, other)]))
    mean = (one.effects("alpha")["mean"] + other.effects("alpha")["mean"]) / 2
    np.testing.assert_allclose(found.effects("alpha")["mean"], mean, atol=0.02)


def test_collapsed_and_ordinary_runs_may_be_joined(runs: dict[str, Posterior], tmp_path: Path) -> None:
    """With one seed even: they use other random numbers."""
    a, ordinary = runs["a"], runs["ordinary"]
    found = ht.concat([a, ordinary])
    assert_stacked(found, a, ordinary)
    assert bool(found.stats.log_density.isnan().all())  # of other things
    rate = found.stats.acceptance["groupwise(alpha)"]
    assert bool(rate[:4].isnan().all()) and torch.equal(rate[4:], ordinary.stats.acceptance["groupwise(alpha)"])
    mixed = ht.concat([runs["unstored"], ordinary])  # whose own effects give way to exact draws
    assert mixed.names == EVERY
    assert torch.equal(mixed.log_marginal("school")[:4], runs["unstored"].log_marginal("school"))
    mixed.save(tmp_path / "a")
    again = Posterior.load(tmp_path / "a", model=MODEL, data=made())
    assert torch.equal(again.redraw("alpha"), mixed.redraw("alpha"))
    assert again.run["joined"] == mixed.run["joined"]


def test_joined_from_files(runs: dict[str, Posterior], tmp_path: Path) -> None:
    for name in ("unstored", "unstored too"):
        runs[name].save(tmp_path / name)
    files = [tmp_path / "unstored", tmp_path / "unstored too"]
    bare = ht.concat([Posterior.load(file) for file in files])
    bare.save(tmp_path / "both")
    whole = ht.concat([runs["unstored"], runs["unstored too"]])
    assert_stacked(bare, runs["unstored"], runs["unstored too"])
    for found in (
        Posterior.load(tmp_path / "both", model=MODEL, data=made()),
        ht.concat([Posterior.load(files[0], model=MODEL, data=made()), Posterior.load(files[1])]),
    ):
        assert torch.equal(found.redraw("alpha"), whole.redraw("alpha"))
        new = pd.DataFrame({"school": ["s1"], "x": [0.5]})
        assert torch.equal(found.predict(new).draws, whole.predict(new).draws)


def test_a_run_goes_on_from_all_chains(runs: dict[str, Posterior], sample: Sample) -> None:
    both = ht.concat([runs["one kept"], runs["one kept too"]])
    found = warm_start(both, MODEL, made(), 8, torch.Generator().manual_seed(1))
    for k, one in enumerate((runs["one kept"], runs["one kept too"])):
        part = slice(4 * k, 4 * k + 4)
        assert torch.equal(found.init["beta"][part], one.draws["beta"][:, -1])
        assert torch.equal(found.init["alpha"][part], one.positions["alpha"])
    assert found.tuning.keys() == runs["one kept"].tuning.keys()
    assert sample(MODEL, made(), start=both, chains=8, warmup=5, draws=5, thin=1, seed=20).n_draws == 5


# What may not be joined


class Line(ht.Model):
    """y ~ Normal(mu + slope x, 1)."""

    slope = 0.0
    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v: Any, data: Any) -> Any:
        return Normal(v.mu + self.slope * data.x, v.tau)


def test_the_same_draws_are_not_joined_twice(runs: dict[str, Posterior], sample: Sample, tmp_path: Path) -> None:
    a, b = runs["a"], runs["b"]
    a.save(tmp_path / "a")
    for again in (a, Posterior.load(tmp_path / "a"), ht.concat([b, a])):
        with pytest.raises(DataError, match="two of these runs have seed 1: their random numbers are the same"):
            ht.concat([a, again])
    longer = sample(MODEL, made(), collapse=True, seed=1, warmup=40, draws=60, thin=1, chains=4)
    with pytest.raises(DataError, match="two of these runs have seed 1"):
        ht.concat([a, longer])
    nameless = Posterior(
        {name: x[:2, 5:25] for name, x in a.draws.items()},
        plates=a.plates,
        labels=a.labels,
        event_labels=a.event_labels,
        stats=Stats({}, {}, a.stats.log_density[:2, 5:25], {}),
        run={"model_text": a.run["model_text"]},
        fingerprint=a.fingerprint,
    )
    with pytest.raises(DataError, match="40 draws of these posteriors are the same to the bit: they are of one run"):
        ht.concat([a, nameless])


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("a", "prior", "leaves the likelihood out"),
        ("a", "single", r"a draw of 'mu_alpha' is \(1,\) of torch.float64 .* and \(1,\) of torch.float32"),
        ("ordinary", "one kept", "one of these posteriors has draws of 'mu_alpha', which another did not store"),
    ],
)
def test_runs_of_other_settings(one: str, other: str, words: str, runs: dict[str, Posterior]) -> None:
    with pytest.raises(DataError, match=words):
        ht.concat([runs[one], runs[other]])


def test_what_is_shown_in_all_is_enough(runs: dict[str, Posterior]) -> None:
    """One has hidden draws of the population and one has not: effects can't be drawn again for the latter."""
    found = ht.concat([runs["hidden"], runs["one kept"]])
    assert found.names == ["beta"] and not found.collapsed and "redraw" not in repr(found)


def test_other_data_and_models(runs: dict[str, Posterior], sample: Sample) -> None:
    short = {"collapse": True, "chains": 4, "draws": 10, "thin": 1, "seed": 30}
    data = made()
    flipped = made(y=data.y.flip(0))
    with pytest.raises(DataError, match="these posteriors are of other data: the response has other values"):
        ht.concat([runs["a"], sample(MODEL, flipped, **short)])
    wider = VaryingIntercepts("school", ["x"], priors={"beta": "Normal(0, 20)"})
    with pytest.raises(DataError, match=r"these posteriors are of other models\. One prints as"):
        ht.concat([runs["a"], sample(wider, data, **short)])
    steeper = type("Line", (Line,), {"slope": 0.5, "__doc__": Line.__doc__})
    with pytest.raises(DataError, match="of models that print alike and are others"):
        ht.concat([sample(Line(), data, **short), sample(steeper(), data, **{**short, "seed": 31})])
    own = [sample(Line(), data.replace(y=data.y.expand(4, -1)), **{**short, "seed": seed}) for seed in (1, 2)]
    with pytest.raises(DataError, match="each chain of this run has data of its own"):
        ht.concat(own)


def test_what_is_no_list_of_posteriors(runs: dict[str, Posterior]) -> None:
    for given, words in (
        (runs["a"], "concat takes a list of posteriors, .* found Posterior"),
        (3, "found int"),
        (["a", "b"], "one of them is 'a'"),
        ([runs["a"]], "two posteriors or more, and there is 1"),
        ([], "and there is none"),
        ([runs["a"], by_hand({"mu": torch.zeros(4, 40, 1)})], "made by hand, does not"),
    ):
        with pytest.raises(DataError, match=words):
            ht.concat(given)  # type: ignore[arg-type]
