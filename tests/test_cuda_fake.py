"""A whole sweep on a GPU that isn't there (see `fake_cuda`).

The model is analysed on the CPU and its plan moved; what is integrated out of a Gaussian model is copied there tensor
by tensor.
"""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import numbers
from fake_cuda import CUDA, ToGpu, assert_on_gpu, fake_mode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.distributions import (
    Bernoulli,
    Gamma,
    HalfNormal,
    LKJCholesky,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)
from torch.utils._pytree import tree_leaves, tree_map
from windows import RUN, make_windows
from zoo import example

import hiertorch as ht
from hiertorch.dashboard.curves import _columns
from hiertorch.dashboard.looks import split_rhat
from hiertorch.dashboard.snapshots import snapshot
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import ModelError, SamplingWarning
from hiertorch.families import Categorical, Cumulative
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.model.checks import inspect
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors.base import places, thinned, watch
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.crosswise import WhitenedCrosswise
from hiertorch.run.store import Store
from hiertorch.run.sweeps import Sweep
from hiertorch.run.warmstart import warm_start
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.validating import validation

CHAINS = 6


def school_data():
    rng = np.random.default_rng(0)
    school = np.append(np.arange(12), rng.integers(12, size=70))
    groups = {"school": school, "district": school // 4, "rater": rng.integers(5, size=82)}
    return ht.Data(rng.poisson(1.0, size=82) % 2, groups=groups, x=rng.normal(size=82), weights=rng.random(82))


class Nested(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    scales = ht.Latent(Gamma(2.0, 1.0), event=2)
    sigma = ht.Latent(HalfNormal(1.0))
    beta = ht.Latent(StudentT(3.0, 0.0, 1.0), event=2)
    district = ht.Latent(lambda v: Normal(v.mu, v.scales[..., 0]), plate="district")
    school = ht.Latent(
        lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.scales[..., 1]), plate="school"
    )

    def likelihood(self, v, data):
        return Normal(v.school[:, data.school] + v.beta[..., 0] * data.x + v.beta[..., 1] * data.x**2, v.sigma)


class Correlated(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0), event=2)
    scale = ht.Latent(HalfNormal(1.0), event=2)
    corr = ht.Latent(LKJCholesky(2, 2.0))
    effects = ht.Latent(lambda v: MultivariateNormal(v.mu, scale_tril=v.scale.unsqueeze(-1) * v.corr), plate="school")

    def likelihood(self, v, data):
        effects = v.effects[:, data.school]
        return Bernoulli(logits=effects[..., 0] + effects[..., 1] * data.x)


class Crossed(ht.Model):
    """With groups that mix, a group-level predictor and a buffer of the model that prior and likelihood read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("known", torch.linspace(1.0, 2.0, 12, dtype=torch.float64))
        self.tau = ht.Latent(Gamma(2.0, 1.0))
        self.school = ht.Latent(lambda v: Normal(0.0, v.tau * self.known), plate="school")
        self.rater = ht.Latent(lambda v: Normal(0.0, v.tau), plate="rater")

    def likelihood(self, v, data):
        rater = v.rater - v.rater.mean(1, keepdim=True)
        return Poisson((v.school[:, data.school] * self.known[data.school] + rater[:, data.rater]).exp())


class Opaque(Nested):
    def log_prob(self, v, data):
        return super().log_prob(v, data) - v.school.sum(1).square()


class Ordered(ht.Model):
    """Thresholds in order, between categories of 0 and more."""

    cuts_y = ht.Latent(ht.ordered(Normal(0.0, 3.0), 3))
    sigma = ht.Latent(HalfNormal(1.0))
    school = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="school")

    def likelihood(self, v, data):
        return Cumulative(4).distribution(v.school[:, data.school], v, data)


class Choices(ht.Model):
    """Labels, whose log shares in the population are the level of two predictors."""

    shares = ht.Latent(ht.simplex(3, 2.0))
    sigma = ht.Latent(HalfNormal(1.0))
    school = ht.Latent(lambda v: Normal(0.0, v.sigma), plate="school")

    def likelihood(self, v, data):
        level = v.shares[..., 1:].log() - v.shares[..., :1].log()
        return Categorical(3).distribution(level + v.school[:, data.school].unsqueeze(-1), v, data)


MODELS = {
    "ordered": Ordered,
    "choices": Choices,
    "zeros": lambda: VaryingIntercepts("school", predictors=["x"], family="zero_inflated_poisson"),
    "varying intercepts": lambda: VaryingIntercepts("school", predictors=["x"]),
    "nested": Nested,
    "correlated": Correlated,
    "crossed": Crossed,
    "opaque": Opaque,
}


def planned(model):
    """On the CPU, where values can be looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # not every model reads every grouping
        return ht.plan(model, school_data(), collapse=False)


def begin(plan):
    """On the GPU: the sweep, and a state of which only shapes are known."""
    plan = plan.to(CUDA)
    target = plan.target
    free = {
        name: torch.randn(CHAINS, c.size, *c.free_event, dtype=torch.float64, device=CUDA)
        for name, c in target.space.coordinates.items()
    }
    return Sweep(plan, CHAINS), target.state(free)


@pytest.mark.parametrize(("name", "recorded"), [("nested", False), *((name, True) for name in MODELS)])
def test_sweeps_stay_on_the_gpu(name, recorded):
    plan = planned(MODELS[name]())
    with fake_mode():
        sweep, state = begin(plan)
        assert_on_gpu(state)
        learning = [move.learning(state) for move in sweep.moves]
        counter, store = Acceptance(sweep.order), Store(state.values, plan.target.names, 2)
        if recorded:
            sweep.plan.target.record(compiled=False)
        normal, log_uniform = numbers(sweep, 2, state.cells, None)
        assert_on_gpu(normal, log_uniform)
        shapes = {key: x.shape for key, x in state.values.items()}
        for t, (z, log_u) in enumerate(zip(normal.unbind(0), log_uniform.unbind(0), strict=True), start=14):
            noises = sweep.noises(z, log_u)
            state, infos = sweep(state, [part.tuning for part in learning], noises)
            learning = sweep.adapt(learning, state, infos, noises, t, 100)
            counter.add(infos)
            store.keep(state.values, state.log_density())
            assert_on_gpu(state, infos, learning)
        assert {key: x.shape for key, x in state.values.items()} == shapes
        assert_on_gpu(counter.window(sampling=True), counter.rates(), counter.nan)
        assert_on_gpu(store.draws(), store.log_density())
        for key, draws in store.draws().items():
            assert draws.shape == (CHAINS, 2, *shapes[key][1:])


def test_all_moves_are_among_them():
    kinds = set()
    for model in MODELS.values():
        kinds |= {step.move.kind for step in planned(model()).steps}
    assert kinds == {"joint", "centred", "groupwise", "non-centred"}


class Constant(VaryingIntercepts):
    """A tensor on the CPU in the likelihood."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school] + OFFSETS, v.sigma_y)


class ConstantInPrior(VaryingIntercepts):
    def __init__(self, plate):
        super().__init__(plate)
        self.alpha = ht.Latent(lambda v: Normal(v.mu_alpha + OFFSETS[:12], v.sigma_alpha), plate=plate)


OFFSETS = torch.zeros(82, dtype=torch.float64)


@pytest.mark.parametrize("model", [Constant, ConstantInPrior])
def test_a_tensor_left_on_the_cpu_raises(model):
    plan = planned(model("school"))
    with fake_mode(), pytest.raises(Exception, match="Expected all tensors to be on the same device"):
        begin(plan)


def test_waiting_for_a_value_raises():
    with fake_mode(), pytest.raises(DataDependentOutputException):
        bool((torch.zeros(3, device=CUDA) > 0).any())


# What is integrated out


def on_gpu(found: Collapsed) -> Collapsed:
    with ToGpu():
        return copy.deepcopy(found)


@pytest.mark.parametrize("name", ["complete_pooling", "correlated_2", "nested_2", "crossed_slopes", "two_errors"])
def test_densities_and_draws_of_collapsed_models_stay_on_the_gpu(name):
    case = example(name)
    found = collapse(case.model, case.data, inspect(case.model, case.data)[0])
    assert isinstance(found, Collapsed)
    given = case.draw(CHAINS)
    shapes = {key: x.shape for key, x in case.model.sample_prior(case.data, CHAINS).items() if key in found.linear}
    with fake_mode():
        there, rest = on_gpu(found), {key: x.to(CUDA) for key, x in given.items()}
        assert_on_gpu(there.grams.packed, rest)
        drawn = there.draw(rest, torch.randn(found.n_noise, CHAINS, dtype=torch.float64, device=CUDA))
        marginal, conditional = there.log_marginal(rest), there.log_conditional({**rest, **drawn})
        assert_on_gpu(drawn, marginal, conditional)
        assert {key: x.shape for key, x in drawn.items()} == shapes
        assert marginal.shape == conditional.shape == (CHAINS,)


def test_what_is_integrated_out_on_the_cpu_raises_on_the_gpu():
    case = example("varying_intercepts")
    found = collapse(case.model, case.data, inspect(case.model, case.data)[0])
    given = case.draw(CHAINS)
    with fake_mode(), pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        found.log_marginal({key: x.to(CUDA) for key, x in given.items()})


def test_a_collapsed_plan_is_made_where_it_runs():
    """Its rows are summed up already; another device asks for another plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        plan = ht.plan(VaryingIntercepts("school", predictors=["x"], priors="tutorial"), school_data())
    assert plan.collapsed is not None
    with pytest.raises(ModelError, match="a collapsed plan stays on its device; make it again from data that are on"):
        plan.to(CUDA)


def one_by_one(function, axes=0):
    """`torch.vmap` over first axes, by a loop."""

    def mapped(*arguments):
        sets, each = len(tree_leaves(arguments[0])[0]), axes if axes else (0,) * len(arguments)
        parts = [
            [x if axis is None else tree_map(lambda leaf: leaf[k], x) for x, axis in zip(arguments, each, strict=True)]  # noqa: B023
            for k in range(sets)
        ]
        return tree_map(lambda *each: torch.stack(each), *(function(*own) for own in parts))

    return mapped


@pytest.mark.parametrize("name", ["correlated_2", "crossed", "two_errors"])
def test_several_data_sets_stay_on_the_gpu(name, monkeypatch):
    """One set after the other: `torch.vmap` asks for a CUDA device guard."""
    monkeypatch.setattr(torch, "vmap", one_by_one)
    case = example(name)
    data = case.data.replace(y=case.data.y + torch.arange(3.0).unsqueeze(1))
    found = collapse(case.model, data, inspect(case.model, data)[0])
    assert isinstance(found, Collapsed) and found.sets == 3
    given = case.draw(6)
    with fake_mode():
        there, rest = on_gpu(found), {key: x.to(CUDA) for key, x in given.items()}
        drawn = there.draw(rest, torch.randn(found.n_noise, 6, dtype=torch.float64, device=CUDA))
        marginal = there.log_marginal(rest)
        assert_on_gpu(drawn, marginal)
        assert marginal.shape == (6,)


# What moves in the coordinates of a surrogate


class Counts(ht.Model):
    """Schools in districts, a coefficient, and raters across."""

    mu = ht.Latent(Normal(0.0, 1.0))
    scales = ht.Latent(Gamma(2.0, 1.0), event=3)
    phi = ht.Latent(Gamma(2.0, 1.0))
    beta = ht.Latent(Normal(0.0, 1.0))
    rater = ht.Latent(lambda v: Normal(0.0, v.scales[..., 0]), plate="rater")
    district = ht.Latent(lambda v: Normal(v.mu, v.scales[..., 1]), plate="district")
    school = ht.Latent(
        lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.scales[..., 2]), plate="school"
    )

    def likelihood(self, v, data):
        eta = v.school[:, data.school] + v.rater[:, data.rater] + v.beta * data.x
        return NegativeBinomial(v.phi, logits=eta - v.phi.log())


class AnyNumbers:
    """In place of `ChainStreams`."""

    def uniform(self, number):
        return torch.rand(number, CHAINS, dtype=torch.float64, device=CUDA)


@pytest.mark.parametrize(("model", "form", "many"), [
    (Correlated, "closed", False), (Counts, "the user's own", False),
    pytest.param(Counts, "closed", True, marks=pytest.mark.slow),
])  # fmt: skip
def test_whitened_sweeps_stay_on_the_gpu(model, form, many, monkeypatch):
    """Begun on the CPU, where values can be looked at; then sweeps of warm-up and sampling, numbers of groups adjusted,
    wait for no value.
    """
    monkeypatch.setattr("hiertorch.run.adjusted.POOR", 2.0)
    monkeypatch.setattr("hiertorch.run.adjusted.LEAST", -1.0)
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 4)
    if many:
        monkeypatch.setattr("hiertorch.gaussian.surrogate.MANY_CROSSED", 1)
    monkeypatch.setattr("hiertorch.run.heavytails.LONG", 1)
    monkeypatch.setattr("hiertorch.density.rowpass.can_compile", lambda _: False)  # as on a GPU
    if form != "closed":
        monkeypatch.setattr("hiertorch.run.whitened.closed_weights", lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        plan = ht.plan(model(), school_data())
    assert plan.surrogate is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad(), validation(False):
        made = WhitenedCrosswise if many else Whitened
        engine = made(plan.structure, plan.surrogate, CHAINS, generator)
        assert (engine.closed is None) == (form != "closed")
        engine.begin({}, None)
        engine.advance(0, 60, 300, 1, Store(engine.values(), engine.target.names, 1), Acceptance(engine.order))
        assert engine.adjusted is not None and engine.tails.freedom
    engine.generator = None
    engine.numbers.streams = engine.candidates.numbers.streams = AnyNumbers()  # a fake GPU has no generators
    with fake_mode():
        with ToGpu():
            there = copy.deepcopy(engine, {id(engine.target): engine.target.to(CUDA)})
        assert_on_gpu(there.at.tensors())
        counter, store = Acceptance(there.order), Store(there.values(), there.target.names, 5)
        there.advance(60, 5, 300, 1, store, counter)
        there.advance(300, 5, 300, 1, store, counter)
        assert_on_gpu(there.at.tensors(), there.values(), there.height(), there.stays(), there.round.tensors())
        assert_on_gpu(counter.window(sampling=True), counter.rates(), counter.nan, store.draws(), store.log_density())
        assert store.n_draws == 5


# What comes out


def test_rows_are_looked_at_and_runs_go_on_where_the_draws_are():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        posterior = ht.sample(
            VaryingIntercepts("school", ["x"], priors="tutorial"),
            school_data(),
            chains=4,
            draws=10,
            seed=1,
            progress=False,
        )
    with fake_mode():
        with ToGpu():
            there = copy.deepcopy(posterior)
        assert_on_gpu(there.draws, there.data.y)
        pointwise = Pointwise(there, None)
        pointwise.told = rows = torch.arange(there.data.n_rows, device=CUDA)  # a fake GPU has no random numbers
        assert_on_gpu(pointwise.log_likelihood(rows), [terms for _, terms in pointwise.chunks()])
        found = warm_start(there, there.model, there.data, 8, None)
        assert_on_gpu(found.init, found.seen)


# Who watches


def test_what_a_dashboard_takes_stays_on_the_gpu_without_waiting_for_it(monkeypatch):
    """What the sampler's thread does, and what the worker's does before it copies to the CPU."""
    monkeypatch.setattr("hiertorch.dashboard.curves.EventFile", object)
    windows = make_windows(chains=12)
    traces, everything = watch(RUN, windows[-1].values, 5), places(RUN, windows[-1].values)
    with fake_mode():
        for window in (windows[0], windows[-1]):
            there = replace(
                window,
                values=on_gpu_each(window.values),
                draws=on_gpu_each(window.draws),
                acceptance=on_gpu_each(window.acceptance),
                log_density=window.log_density.to(CUDA),
            )
            found = snapshot(there, traces)
            assert_on_gpu(found.log_density, found.rates, found.by_group, found.draws)
            if found.trace is not None:
                assert_on_gpu(found.trace)
        draws = thinned(found.draws, everything.items(), 20)
        screen = split_rhat(draws)
        columns = _columns(found.draws, traces.at, torch.arange(3, device=CUDA), 8)
        assert_on_gpu(draws, screen, columns)
        assert screen.shape == (7,) and len(columns[0]) == 8


def on_gpu_each(tensors):
    return {name: x.to(CUDA) for name, x in tensors.items()}
