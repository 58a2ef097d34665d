"""A glance at pooling beside a run, against the tables of all draws, conjugate closed forms and plain NumPy.

Most compare functions of the same draws, so that nothing is left to chance but in the test that says so.
"""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Cauchy,
    Distribution,
    Gamma,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)

import hiertorch as ht
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError
from hiertorch.pooling.glance import Glance, Glances
from hiertorch.posterior import Posterior

FEW = {"chains": 4, "warmup": 100, "draws": 300, "seed": 1}
ALL = 1_000_000  # draws


def glance(posterior: Posterior, draws: int = 200, *, alone: bool = False) -> Glance:
    return Glances(posterior).at(posterior, draws, alone=alone)


def light(model: ht.Model, data: ht.Data, draws: dict[str, torch.Tensor]) -> Posterior:
    """What a run gives while it goes on: some draws, their model and data, and nothing else."""
    first = next(iter(draws.values()))
    return Posterior(
        draws,
        plates={name: latent.plate for name, latent in model.latents.items()},
        labels=data.labels,
        event_labels={name: x for name, latent in model.latents.items() if (x := latent.event_labels(data))},
        stats=Stats({}, {}, first.new_zeros(first.shape[:2]), {}),
        run={},
        origin=Fitted(model, data, first),
    )


def thinned(posterior: Posterior, step: int = 50) -> Posterior:
    """Every 50th draw of each chain of a finished run."""
    model = posterior.model
    draws = {name: x[:, ::step] for name, x in posterior.draws.items() if name in model.latents}
    return light(model, posterior.data, draws)


def from_prior(model: ht.Model, data: ht.Data, chains: int = 4, number: int = 10, seed: int = 0) -> Posterior:
    """Draws of the prior, for what holds for any draws."""
    drawn = model.sample_prior(data, chains * number, torch.Generator().manual_seed(seed))
    return light(model, data, {name: x.unflatten(0, (chains, number)) for name, x in drawn.items()})


def less_of(run: Posterior, name: str) -> Posterior:
    """The same without one latent."""
    return light(run.model, run.data, {n: x for n, x in run.draws.items() if n != name})


def grouped(groups: int = 9, rows: int = 6, seed: int = 3, **columns: np.ndarray) -> ht.Data:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x, u = rng.normal(size=len(g)), rng.normal(size=groups)[g]
    y = 1.0 + 0.8 * rng.normal(size=groups)[g] + (0.5 + 0.4 * rng.normal(size=groups)[g]) * x + rng.normal(size=len(g))
    return ht.Data(y, groups={"g": g}, x=x, u=u, **columns)


def counts(kind: str) -> ht.Data:
    """Successes, or events; the first group has successes alone, or no events."""
    data = grouped(rows=12)
    rng = np.random.default_rng(6)
    codes = data.g.numpy()
    p = 1 / (1 + np.exp(-rng.normal(size=9)[codes]))
    y = rng.binomial(1, p) if kind == "bernoulli" else rng.poisson(3 * p)
    y[codes == 0] = kind == "bernoulli"
    return data.replace(y=y.astype(float))


def classes() -> ht.Data:
    rng = np.random.default_rng(2)
    c = np.repeat(np.arange(20), rng.integers(2, 7, 20))
    y = rng.normal(size=5)[c // 4] + rng.normal(size=20)[c] + rng.normal(size=len(c))
    return ht.Data(y, groups={"school": c // 4, "class": c})


def years() -> ht.Data:
    rng = np.random.default_rng(4)
    g, t = (x.ravel() for x in np.meshgrid(np.arange(6), [2000, 2001, 2003, 2004], indexing="ij"))
    y = rng.normal(size=(6, 4)).cumsum(1).ravel() + 0.5 * rng.normal(size=24)
    return ht.Data(y, groups={"g": g, "year": t})


models = ht.models
CASES = {
    "intercepts": (lambda: models.VaryingIntercepts("g", ["x"], group_predictors=["u"], priors="tutorial"), grouped),
    "correlated": (lambda: models.CorrelatedEffects("g", ["x"], priors="tutorial"), grouped),
    "mixed": (lambda: models.MixedEffects("g", ["x", "u"], varying=["x", "u"], priors="tutorial"), grouped),
    "hierarchical": (lambda: models.HierarchicalPriors("g", ["x"], priors="tutorial"), grouped),
    "student": (lambda: models.VaryingIntercepts("g", family="student_t", priors="tutorial"), grouped),
    "nested": (lambda: models.Nested(["school", "class"], priors="tutorial"), classes),
    "crossed": (lambda: models.Crossed(["school", "class"], priors="tutorial"), classes),
    "bernoulli": (
        lambda: models.VaryingIntercepts("g", family="bernoulli", priors="tutorial"),
        lambda: counts("bernoulli"),
    ),
    "poisson": (
        lambda: models.VaryingIntercepts("g", ["x"], family="poisson", priors="tutorial"),
        lambda: counts("poisson"),
    ),
    "walk": (lambda: models.TimeVarying("g", "year", priors="tutorial"), years),
    "ar1": (lambda: models.TimeVarying("g", "year", dynamics="ar1", priors="tutorial"), years),
}
SCALES = {
    "correlated": {"effects[intercept]": "sigma_alpha", "effects[x]": "sigma_beta[x]"},
    "mixed": {"alpha": "sigma_alpha", "beta[x]": "sigma_beta[x]", "beta[u]": "sigma_beta[u]"},
    "nested": {"alpha_school": "sigma_school", "alpha_class": "sigma_class"},
    "crossed": {"alpha_school": "sigma_school", "alpha_class": "sigma_class"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_tables_of_the_same_draws(sample, case):
    """Levels, shares, groups and their own estimates, of every 50th draw of a run."""
    make, rows = CASES[case]
    run = thinned(sample(make(), rows(), **FEW, collapse=case not in ("bernoulli", "poisson", "student")))
    assert (run.chains, run.n_draws) == (4, 6)
    seen, table = glance(run, ALL, alone=True), run.pooling()
    assert seen.pooling == pytest.approx(table.table["pooling"].drop("rows").to_dict(), rel=1e-9)
    link = table.variance.loc["link"]
    assert seen.variance == pytest.approx(link["variance"].to_dict(), rel=1e-9)
    assert seen.share == pytest.approx(link["share"].to_dict(), rel=1e-9)
    assert list(seen.alone) == list(table.groups["level"].unique())
    for level, found in seen.alone.items():
        groups = table.groups[table.groups["level"] == level]
        assert found.index.map(str).tolist() == groups["group"].tolist()
        for column in ("plate", "rows"):
            assert found[column].tolist() == groups[column].tolist()
        assert found["mean"].to_numpy() == pytest.approx(groups["mean"].to_numpy(), rel=1e-9, abs=1e-12)
        for column in ("no_pooling", "se"):
            assert found[column].to_numpy() == pytest.approx(groups[column].to_numpy(), rel=1e-6, nan_ok=True)
    assert seen.scale_of == SCALES.get(case, {"alpha": "sigma_alpha"})
    if case in ("bernoulli", "poisson"):  # successes alone, or no events, tell no level
        assert seen.alone["alpha"]["no_pooling"].isna().tolist() == [True] + [False] * 8


def known(tau: float) -> ht.Model:
    class Known(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, tau), plate="g")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.g], 1.0)

    return Known()


def test_closed_form_on_balanced_data():
    """With s^2 = 1 / n and B = s^2 / (s^2 + tau^2) the posterior has alpha_j | mu ~ Normal(B mu + (1 - B) ybar_j,
    sqrt((1 - B) / n)) and eps_j = alpha_j - mu, so that lambda = v / ((1 - B)^2 V(ybar) + v) with v = (1 - B) / n.

    Draws are exact and independent. Over 200 seeds lambda of 20,000 draws had an sd of 0.0006 and that of 200 one of
    0.006; the bounds are 5 of these, which chance exceeds in 1 of 2 million.
    """
    tau, groups, n = 0.7, 9, 5
    data = ht.Data(grouped(groups, n).y.numpy(), groups={"g": np.repeat(np.arange(groups), n)})
    means = data.y.reshape(groups, n).mean(1)
    b = (1 / n) / (1 / n + tau**2)
    v = (1 - b) / n
    precision = groups / (tau**2 + 1 / n) + 1 / 25
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(4, 5000, groups + 1, generator=generator, dtype=torch.float64)
    mu = groups * means.mean() / (tau**2 + 1 / n) / precision + precision**-0.5 * z[..., :1]
    run = light(known(tau), data, {"mu": mu, "alpha": b * mu + (1 - b) * means + v**0.5 * z[..., 1:]})
    expected = v / ((1 - b) ** 2 * float(means.var()) + v)
    assert glance(run, 20_000).pooling["alpha"] == pytest.approx(expected, abs=0.003)
    seen = glance(run, alone=True)
    assert seen.pooling["alpha"] == pytest.approx(expected, abs=0.03)
    assert seen.share == pytest.approx({"g": tau**2 / (tau**2 + 1), "rows": 1 / (tau**2 + 1)}, rel=1e-9)
    assert seen.variance == pytest.approx({"g": tau**2, "rows": 1.0}, rel=1e-9)
    alone = seen.alone["alpha"]
    assert alone["no_pooling"].to_numpy() == pytest.approx(means.numpy(), rel=1e-9)
    assert alone["se"].to_numpy() == pytest.approx(np.full(groups, n**-0.5), rel=1e-9)
    assert alone["rows"].tolist() == [n] * groups
    at = torch.arange(200) * 100
    assert alone["population"].mean() == pytest.approx(float(mu.flatten()[at].mean()), rel=1e-9)
    drawn = (1 - b) * alone["no_pooling"] + b * alone["population"]  # as the figure shows
    assert alone["mean"].to_numpy() == pytest.approx(drawn.to_numpy(), abs=5 * (v / 200) ** 0.5)
    assert seen.scale_of == {}  # tau is known


def test_population_of_groups_that_have_a_predictor():
    """The mean over groups of mu_alpha + gamma u_j at the means of the draws."""
    model, data = CASES["intercepts"][0](), grouped()
    run = from_prior(model, data)
    u = data.group_values("u", "g").numpy()
    expected = float(run["mu_alpha"].mean()) + float(run["gamma"].mean()) * u.mean()
    assert glance(run, ALL, alone=True).alone["alpha"]["population"].mean() == pytest.approx(expected, rel=1e-9)


def test_draws_are_spread_over_all_chains():
    """With more chains than draws that are looked at, and with fewer."""
    model, data = CASES["hierarchical"][0](), grouped()
    for chains, number in ((64, 10), (4, 160)):
        run = from_prior(model, data, chains, number)
        at = [int(k * 640 / 20) for k in range(20)]
        some = {n: torch.stack([x[k // number, k % number] for k in at])[None] for n, x in run.draws.items()}
        few, same = glance(run, 20, alone=True), glance(light(model, data, some), ALL, alone=True)
        assert few.pooling == same.pooling and few.variance == same.variance and few.share == same.share
        assert (few.alone["alpha"]["mean"] == same.alone["alpha"]["mean"]).all()
        assert few.pooling != glance(run, 21).pooling


def test_what_does_not_change_in_a_run_is_found_once(monkeypatch):
    model, data = CASES["correlated"][0](), grouped()
    first, later = from_prior(model, data, number=3), from_prior(model, data, seed=1)
    glances = Glances(first)
    glances.at(first, alone=True)
    monkeypatch.setattr("hiertorch.pooling.glance.untold", None)
    monkeypatch.setattr("hiertorch.pooling.glance.scale_of", None)
    seen = glances.at(later, alone=True)
    monkeypatch.undo()
    assert_same(seen, glance(later, alone=True))


def assert_same(one: Glance, other: Glance) -> None:
    for part in ("pooling", "variance", "share", "scale_of"):
        assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-12) if part != "scale_of" else True
    assert one.scale_of == other.scale_of and list(one.alone) == list(other.alone)
    for name, alone in one.alone.items():
        pd.testing.assert_frame_equal(alone, other.alone[name], rtol=1e-9)


@pytest.mark.parametrize("enabled", [True, False])
def test_it_leaves_torch_as_it_was(monkeypatch, enabled):
    """In another thread, too: no global random numbers, no switches."""
    model, data = CASES["correlated"][0](), grouped()
    run = from_prior(model, data)
    monkeypatch.setattr(Distribution, "_validate_args", enabled)
    for name in ("fork_rng", "manual_seed", "seed"):
        monkeypatch.setattr(torch.random, name, None)
        monkeypatch.setattr(torch, name, None, raising=False)
    before = torch.get_rng_state()
    found: list[Glance] = []
    thread = threading.Thread(target=lambda: found.append(glance(run, alone=True)))
    thread.start()
    thread.join()
    assert (torch.get_rng_state() == before).all()
    assert Distribution._validate_args is enabled and torch.is_grad_enabled()
    assert_same(found[0], glance(run, alone=True))
    assert list(found[0].pooling) == ["effects[intercept]", "effects[x]"]


def test_it_does_not_wait_for_a_computer_algebra_system(monkeypatch):
    """`torch.broadcast_shapes` imports sympy at its first call, which takes longer than all else here."""
    run = from_prior(CASES["intercepts"][0](), grouped())
    monkeypatch.setattr(torch, "broadcast_shapes", None)
    assert list(glance(run, alone=True).alone) == ["alpha"]


def test_single_precision():
    model, data = CASES["mixed"][0](), grouped()
    double = from_prior(model, data)
    single = light(model.float(), data.to("cpu", torch.float32), {n: x.float() for n, x in double.draws.items()})
    one, other = glance(single, alone=True), glance(double, alone=True)
    assert one.pooling == pytest.approx(other.pooling, rel=1e-4)
    assert one.share == pytest.approx(other.share, rel=1e-4)
    assert one.scale_of == other.scale_of == SCALES["mixed"]


def test_a_model_with_its_own_density():
    class Own(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

        def log_prob(self, v, data):
            return -0.5 * (v.alpha**2).sum(-1)

    seen = glance(from_prior(Own(), grouped()), alone=True)
    assert seen == Glance()

    class Rows(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))
        tau = ht.Latent(Gamma(2.0, 1.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

        def log_likelihood(self, v, data):
            return Normal(v.alpha[:, data.g], 1.0).log_prob(data.y)

    data = grouped()
    seen = glance(from_prior(Rows(), data), alone=True)
    assert list(seen.pooling) == ["alpha"] and seen.scale_of == {"alpha": "tau"}
    assert seen.alone["alpha"]["no_pooling"].to_numpy() == pytest.approx(data.y.reshape(9, 6).mean(1).numpy(), rel=1e-9)
    assert seen.variance == seen.share == {}


def test_chains_with_data_of_their_own():
    data = grouped()
    chained = data.replace(y=torch.stack([data.y, -data.y]))
    seen = glance(from_prior(models.VaryingIntercepts("g", priors="tutorial"), chained, chains=2), alone=True)
    assert seen == Glance()


def test_draws_that_are_not_stored():
    """Shares need no effects, and factors need none but their own."""
    model, data = CASES["mixed"][0](), grouped()
    run = from_prior(model, data)
    whole = glance(run, alone=True)
    less = glance(less_of(run, "beta"), alone=True)
    assert less.pooling == {"alpha": whole.pooling["alpha"]}
    assert less.variance == whole.variance and less.share == whole.share
    assert less.scale_of == whole.scale_of and less.alone == {}
    less = glance(less_of(run, "sigma_beta"))
    assert list(less.pooling) == ["alpha"] and less.variance == {}
    more = less_of(run, "sigma_beta")
    held = run.draws["sigma_beta"]  # beside the posterior, as where keep= leaves it out
    more.origin, more.more = Fitted(model, data, held), {"sigma_beta": held}
    assert_same(glance(more, alone=True), whole)
    more.more = {"sigma_beta": held.repeat(1, 2, 1, 1)}  # of other draws
    assert_same(glance(more, alone=True), glance(less_of(run, "sigma_beta"), alone=True))


def test_what_has_no_population():
    data = grouped()
    seen = glance(from_prior(models.NoPooling("g", ["x"], priors="tutorial"), data), alone=True)
    assert list(seen.pooling) == ["alpha", "beta[x]"] == list(seen.alone)
    assert seen.variance == seen.scale_of == {}
    seen = glance(from_prior(models.CompletePooling(["x"], priors="tutorial"), data), alone=True)
    assert seen.pooling == seen.variance == seen.alone == seen.scale_of == {}


def test_what_can_not_be_told_is_left_out():
    class Coupled(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))
        tau = ht.Latent(Gamma(2.0, 1.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

        def likelihood(self, v, data):
            return Normal((v.alpha - v.alpha.mean(1, keepdim=True))[:, data.g] + v.mu, 1.0)

    data = grouped()
    seen = glance(from_prior(Coupled(), data), alone=True)
    assert list(seen.pooling) == ["alpha"] and seen.alone == seen.variance == {}

    class Logistic(Coupled):
        def likelihood(self, v, data):
            return Bernoulli(logits=v.alpha[:, data.g])

    seen = glance(from_prior(Logistic(), counts("bernoulli")), alone=True)
    assert list(seen.alone) == ["alpha"] and seen.variance == {}

    class Shapeless(Coupled):
        alpha = ht.Latent(
            lambda v: TransformedDistribution(Normal(v.mu, v.tau), [AffineTransform(0.0, 2.0)]), plate="g"
        )

    seen = glance(from_prior(Shapeless(), data), alone=True)
    assert seen.pooling == seen.alone == seen.variance == seen.scale_of == {}

    class Prior(ht.Model):
        mu = ht.Latent(Normal(0.0, 5.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

    seen = glance(from_prior(Prior(), data), alone=True)  # it has no likelihood, and was drawn from its prior
    assert list(seen.pooling) == ["alpha"] and seen.alone == seen.variance == {}
    seen = glance(from_prior(models.VaryingIntercepts("g", priors="tutorial"), grouped(groups=1)), alone=True)
    assert seen.pooling == {} and list(seen.alone) == ["alpha"]


def test_chains_that_do_not_move():
    """All of one value: no factor where groups are alike, and 0 where they are not; nothing at all without draws."""
    model, data = models.VaryingIntercepts("g", priors="tutorial"), grouped()
    ones = {name: torch.ones_like(x) for name, x in from_prior(model, data).draws.items()}
    seen = glance(light(model, data, ones), alone=True)
    assert seen.pooling == {} and seen.variance == {"g": 1.0, "rows": 1.0} and seen.share == {"g": 0.5, "rows": 0.5}
    ones["alpha"] = torch.arange(9.0, dtype=torch.float64).expand(4, 10, 9)
    assert glance(light(model, data, ones)).pooling == {"alpha": 0.0}
    none = light(model, data, {name: x[:, :0] for name, x in ones.items()})
    glances = Glances(none)
    assert glances.at(none) == Glance()
    assert glances.at(light(model, data, ones)).scale_of == {"alpha": "sigma_alpha"}


def test_a_scale_is_told_from_what_else_widens_a_prior():
    """Degrees of freedom are positive and no scale; of two factors of a scale neither is the one; where the effect is
    scaled in the likelihood its prior has none.
    """

    class Tails(ht.Model):
        nu = ht.Latent(Gamma(2.0, 0.1))
        tau = ht.Latent(Gamma(2.0, 1.0))
        rest = ht.Latent(Uniform(0.0, 1.0))
        alpha = ht.Latent(lambda v: StudentT(v.nu, v.rest, v.tau), plate="g")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.g], 1.0)

    class Wide(Tails):
        alpha = ht.Latent(lambda v: Cauchy(v.rest, v.tau), plate="g")  # which has no variance

    class Factors(Tails):
        alpha = ht.Latent(lambda v: Normal(0.0, v.nu * v.tau), plate="g")

    class Noncentred(Tails):
        alpha = ht.Latent(Normal(0.0, 1.0), plate="g")

        def likelihood(self, v, data):
            return Normal((v.tau * v.alpha)[:, data.g], 1.0)

    found = [glance(from_prior(model(), grouped())).scale_of for model in (Tails, Wide, Factors, Noncentred)]
    assert found == [{"alpha": "tau"}, {"alpha": "tau"}, {}, {}]


def test_bad_input_is_an_error():
    run = from_prior(models.VaryingIntercepts("g", priors="tutorial"), grouped())
    run.origin = None
    with pytest.raises(DataError, match="does not know its model and data"):
        glance(run)
