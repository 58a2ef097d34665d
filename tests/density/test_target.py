"""The density in pieces: updates equal fresh states, only what is touched is evaluated, recording changes no number."""

import logging
import os
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import (
    Beta,
    Dirichlet,
    Gamma,
    HalfNormal,
    LKJCholesky,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.errors import SamplingWarning
from hiertorch.model.checks import inspect
from hiertorch.runtime.validating import validation

CHAINS = 5


class Intercepts(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 1.0))
    sigma = ht.Latent(HalfNormal(2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], v.sigma)


class Nested(ht.Model):
    """Three levels, a group-level predictor, a bounded latent and a vector of coefficients."""

    mu = ht.Latent(Normal(0.0, 1.0))
    scales = ht.Latent(Gamma(2.0, 1.0), event=2)
    share = ht.Latent(Uniform(-0.9, 0.9))
    beta = ht.Latent(Normal(0.0, 1.0), event=2)
    district = ht.Latent(lambda v: Normal(v.mu, v.scales[..., 0]), plate="district")
    school = ht.Latent(
        lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.scales[..., 1]), plate="school"
    )

    def likelihood(self, v, data):
        mean = v.school[:, data.school] + v.beta[..., 0] * data.x + v.beta[..., 1] * data.x**2
        return StudentT(4.0, mean + v.share * v.district[:, data.district], 1.0)


class Correlated(ht.Model):
    """Intercepts and slopes with a covariance matrix of their own."""

    mu = ht.Latent(Normal(0.0, 1.0), event=2)
    scale = ht.Latent(HalfNormal(1.0), event=2)
    corr = ht.Latent(LKJCholesky(2, 2.0))
    effects = ht.Latent(
        lambda v: MultivariateNormal(v.mu, scale_tril=v.scale.unsqueeze(-1) * v.corr, validate_args=False),
        plate="school",
    )

    def likelihood(self, v, data):
        effects = v.effects[:, data.school]
        return Poisson((effects[..., 0] + effects[..., 1] * data.x).clamp(max=8.0).exp())


class Crossed(ht.Model):
    """Two crossed groupings, one of them with two latents, one positive; a simplex that a prior reads."""

    weights = ht.Latent(Dirichlet(torch.ones(3)))
    size = ht.Latent(LogNormal(0.0, 1.0))
    rate = ht.Latent(lambda v: Gamma(2.0, v.weights[..., 0] + 0.5), plate="rater")
    level = ht.Latent(lambda v: Normal(v.weights[..., 1].log(), 1.0), plate="school")
    shift = ht.Latent(lambda v: Normal(v.level, 0.5), plate="school")

    def likelihood(self, v, data):
        return NegativeBinomial(v.size, logits=v.shift[:, data.school] - v.rate[:, data.rater])


class Pooled(ht.Model):
    p = ht.Latent(Beta(2.0, 3.0))
    scale = ht.Latent(Gamma(2.0, 1.0))

    def likelihood(self, v, data):
        return Normal(v.p, v.scale)


class Opaque(Intercepts):
    def log_prob(self, v, data):
        return super().log_prob(v, data) - (v.mu.square() * v.tau).sum(1)


MODELS = (Intercepts, Nested, Correlated, Crossed, Pooled, Opaque)


def counts(rows=90, seed=0, **options):
    rng = np.random.default_rng(seed)
    school = rng.choice(11, size=rows, p=rng.dirichlet(np.ones(11)))
    school[:11] = np.arange(11)
    groups = {"school": school, "district": school // 4, "rater": rng.integers(7, size=rows)}
    return ht.Data(rng.poisson(2.0, size=rows), groups=groups, x=rng.normal(size=rows), **options)


def made(model, data=None, **options):
    """The target of a model, and a position for each chain."""
    data = counts() if data is None else data
    with torch.no_grad():
        target = analyse(model, data, inspect(model, data, **options)[0], **options).target
    return target, position(target, 1)


def position(target, seed, chains=CHAINS):
    generator = torch.Generator().manual_seed(seed)
    draws = target.model.sample_prior(target.data, chains, generator)
    return {name: u.clamp(-2, 2) for name, u in target.space.unconstrain(draws).items()}


def assert_same(one, two, **tolerance):
    for part, other in zip(one[:3], two[:3], strict=True):
        assert list(part) == list(other)
        for name in part:
            torch.testing.assert_close(part[name], other[name], **tolerance)
    torch.testing.assert_close(one.cells, two.cells, **tolerance)


# The density


@pytest.mark.parametrize("model", MODELS)
def test_log_density_is_the_models_with_the_jacobian(model):
    """log p(theta, y) by the model itself, plus log |d theta / d u| by autograd."""
    model = model()
    target, free = made(model)
    values = model.values(target.space.constrain(free))
    jacobian = sum(Jacobian(target.space.coordinates[name])(u) for name, u in free.items())
    expected = model.log_prob(values, target.data) + jacobian
    torch.testing.assert_close(target.log_density(target.space.join(free)), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target.state(free).log_density(), expected, rtol=1e-9, atol=1e-9)


class Jacobian:
    """log |det| by autograd of the entries of a value that are free, summed over groups, `(chains,)`."""

    def __init__(self, coordinate):
        self.c = coordinate

    def __call__(self, u):
        total = torch.zeros(len(u), dtype=u.dtype)
        for i, j in np.ndindex(u.shape[:2]):
            matrix = torch.autograd.functional.jacobian(self.free, u[i, j].flatten())
            total[i] += torch.linalg.slogdet(matrix)[1]
        return total

    def free(self, u):
        value = self.c.bijection(u.reshape(1, 1, *self.c.free_event))[0, 0]
        if value.numel() == u.numel():
            return value.flatten()
        return value[:-1] if value.dim() == 1 else value[tuple(torch.tril_indices(*value.shape, -1))]


@pytest.mark.parametrize("model", [Intercepts, Nested, Crossed])
def test_cells_are_the_log_likelihood_by_group(model):
    model, data = model(), counts(weights=np.arange(90) % 3)
    target, free = made(model, data)
    v = target.space.constrain(free)
    rows = (model.log_likelihood(v, data) * data.weights).T.numpy()
    state = target.state(free)
    for plate in target.rows.cell_groups:
        expected = pd.DataFrame(rows).groupby(data[plate].numpy()).sum().to_numpy().T
        np.testing.assert_allclose(target.rows.by_group(state.cells, plate), expected, rtol=1e-9)


def test_prior_only_leaves_the_likelihood_out():
    model = Intercepts()
    target, free = made(model, prior_only=True)
    state = target.state(free)
    assert state.cells.shape == (CHAINS, 1)
    assert not state.cells.any()
    expected = model.log_prior(state.values, target.data) + free["tau"][:, 0] + free["sigma"][:, 0]  # exp: Jacobian u
    torch.testing.assert_close(state.log_density(), expected)
    assert not target.reads_rows(target.names)


# Updates


@pytest.mark.parametrize("model", MODELS)
def test_updates_equal_fresh_states(model):
    """After changing any subset of the latents, 30 subsets in a row."""
    target, free = made(model())
    state = target.state(free)
    rng = np.random.default_rng(0)
    for step in range(30):
        chosen = [name for name in target.names if rng.random() < 0.4]
        elsewhere = position(target, 100 + step)
        changed = {name: elsewhere[name] for name in chosen}
        before = {name: x.clone() for name, x in state.prior.items()}
        new = target.update(state, changed)
        assert_same(new, target.state({**state.free, **changed}), rtol=1e-12, atol=1e-12)
        for name, x in state.prior.items():
            assert torch.equal(x, before[name]), "an update must not change the state that it is given"
        state = new


class Noted(Nested):
    """Notes which prior terms and likelihoods are evaluated."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_prior_term(self, name, v, data=None):
        self.calls.append(name)
        return super().log_prior_term(name, v, data)

    def likelihood(self, v, data):
        self.calls.append("likelihood")
        return super().likelihood(v, data)


@pytest.mark.parametrize(
    ("changed", "touched"),
    [
        ({"mu"}, {"mu", "district"}),
        ({"scales"}, {"scales", "district", "school"}),
        ({"share"}, {"share", "likelihood"}),
        ({"beta"}, {"beta", "likelihood"}),
        ({"district"}, {"district", "school", "likelihood"}),
        ({"school"}, {"school", "likelihood"}),
        ({"mu", "beta"}, {"mu", "district", "beta", "likelihood"}),
        (set(), set()),
    ],
)
def test_only_what_is_touched_is_evaluated(changed, touched):
    model = Noted()
    target, free = made(model)
    state, elsewhere = target.state(free), position(target, 9)
    model.calls.clear()
    new = target.update(state, {name: elsewhere[name] for name in changed})
    assert sorted(model.calls) == sorted(touched)
    for name in target.names:
        assert (new.prior[name] is state.prior[name]) == (name not in touched)
    assert (new.cells is state.cells) == ("likelihood" not in touched)
    assert set(target.priors_touched(changed)) == touched - {"likelihood"}
    assert target.reads_rows(changed) == ("likelihood" in touched)


def test_an_opaque_model_is_evaluated_as_a_whole():
    model = Opaque()
    target, free = made(model)
    assert target.reads_rows(["mu"])
    assert target.reads_rows([])
    state = target.state(free)
    assert state.cells.shape == (CHAINS, 1)
    torch.testing.assert_close(state.cells[:, 0], model.log_prob(model.values(state.values), target.data))
    torch.testing.assert_close(state.prior["mu"], torch.zeros(CHAINS, 1).double())  # the Jacobian alone
    torch.testing.assert_close(state.prior["tau"], free["tau"])


def test_an_overridden_log_likelihood_is_what_counts():
    class Truncated(Intercepts):
        """y_i ~ Normal(alpha_j, sigma) given y_i > 0."""

        def log_likelihood(self, v, data):
            prior = Normal(v.alpha[:, data.school], v.sigma)
            return prior.log_prob(data.y) - (1 - prior.cdf(torch.zeros_like(data.y))).log()

    model = Truncated()
    target, free = made(model)
    values = model.values(target.space.constrain(free))
    torch.testing.assert_close(target.state(free).cells.sum(1), model.log_likelihood(values, target.data).sum(1))
    assert target.reads_rows(["sigma"])


# Recording


@pytest.mark.parametrize("model", MODELS)
def test_recorded_pieces_equal_those_as_written(model):
    with torch.no_grad(), validation(False):
        target, free = made(model())
        carried = [n for n in target.names if n in ("alpha", "school", "district", "effects", "shift", "level")]
        places = [position(target, seed) for seed in range(2, 5)]

        def all_pieces():
            states = [target.state(place) for place in places]
            moved = [target.update(state, {target.names[0]: free[target.names[0]]}) for state in states]
            transported = [  # the first of them with the same parents, and with some
                target.transport(name, states[0].values, other.values)
                for name in carried
                for other in (*states, *moved)
            ]
            return states + moved, transported

        written = all_pieces()
        target.record(compiled=False)
        target.state(free)  # the first call records
        recorded = all_pieces()
    assert {kind for kind, _ in target._pieces} >= {"prior", "rows"}
    for one, two in zip(written[0], recorded[0], strict=True):
        assert_same(one, two, rtol=1e-12, atol=1e-12)
    for one, two in zip(written[1], recorded[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_pieces_are_recorded_as_graphs():
    with torch.no_grad(), validation(False):
        target, free = made(Nested())
        target.record(compiled=False)
        target.state(free)
    assert all(isinstance(piece, torch.fx.GraphModule) for piece in target._pieces.values())


class Branches(Intercepts):
    """Python that looks at values: heavier tails once the scale is large."""

    def likelihood(self, v, data):
        mean = v.alpha[:, data.school]
        return Normal(mean, v.sigma) if float(v.sigma.max()) < 2.0 else StudentT(3.0, mean, v.sigma)


def test_branches_on_values_run_as_written(caplog):
    with torch.no_grad(), validation(False):
        model = Branches()
        target, free = made(model)
        target.record(compiled=False)
        places = [{**free, "sigma": torch.full((CHAINS, 1), u).double()} for u in (0.0, 1.5, -1.0, 2.0)]
        with caplog.at_level(logging.INFO, logger="hiertorch"):
            states = [target.state(place) for place in places]
        for state in states:
            expected = model.log_likelihood(state.values, target.data).sum(1)
            torch.testing.assert_close(state.cells.sum(1), expected, rtol=1e-9, atol=1e-9)
    assert "runs as written, since it can't be recorded" in caplog.text
    assert not isinstance(target._pieces["rows", ""], torch.fx.GraphModule)
    assert isinstance(target._pieces["prior", "alpha"], torch.fx.GraphModule)


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)
@pytest.mark.parametrize("model", [Nested, Crossed])
def test_compiled_rows_equal_those_as_written(model):
    with torch.no_grad(), validation(False):
        target, free = made(model())
        written = [target.state(position(target, seed)) for seed in (2, 3)]
        target.record(compiled=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SamplingWarning)  # that compiling failed
            target.state(free)
        parts = target._pieces["rows", ""].modules()
        assert any(isinstance(part, torch._dynamo.OptimizedModule) for part in parts)
        compiled = [target.state(position(target, seed)) for seed in (2, 3)]
    for one, two in zip(written, compiled, strict=True):
        assert_same(one, two, rtol=1e-10, atol=1e-10)


# Other devices


def test_a_target_on_another_device_is_a_copy():
    model = Intercepts()
    model.register_buffer("known", torch.ones(3))
    with torch.no_grad(), validation(False):
        target, free = made(model)
        target.record(compiled=False)
        target.state(free)
        there = target.to("meta")
        assert there.model.known.device.type == there.data.device.type == "meta"
        assert target.model is model
        assert model.known.device.type == target.data.device.type == "cpu"
        assert there._pieces == {}
        state = there.state({name: u.to("meta") for name, u in free.items()})
    assert {x.device.type for x in (*state.values.values(), *state.prior.values(), state.cells)} == {"meta"}
    assert {name: tuple(x.shape) for name, x in state.prior.items()} == {
        "mu": (CHAINS, 1),
        "tau": (CHAINS, 1),
        "sigma": (CHAINS, 1),
        "alpha": (CHAINS, 11),
    }
