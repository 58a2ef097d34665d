"""The collapsed sampler's kernel: it leaves posteriors known by quadrature as they are, however badly it is tuned.

Note [Invariance under bad tuning]
Chains start at exact draws, one each, and move by proposals that are fixed beforehand and wrong: off their place, too
narrow, too wide, skewed to the other side. A correct kernel hands on the distribution it was given, whatever its speed;
an error that good proposals would hide (their weights are all alike) shows at once. Thousands of chains are independent
of one another, so that two-sample tests hold exactly. Functions of the draws are compared with 25 times as many exact
ones by Kolmogorov-Smirnov at an error rate of 1e-3 over all functions of a case (Bonferroni). The exact density is
written out here, by hand.
"""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest
import torch
from builders import EFFECTS, EIGHT_SCHOOLS, ERRORS
from references import Reference, assert_matches, eight_schools
from scipy import stats
from torch import Tensor
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.errors import SamplingError
from hiertorch.gaussian import collapse
from hiertorch.models import EightSchools, VaryingIntercepts
from hiertorch.monitors import Monitor, Window
from hiertorch.moves.metropolis import Tuning
from hiertorch.posterior import Posterior
from hiertorch.run import independence, proposals
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.collapsed import CollapsedMove
from hiertorch.run.independence import CYCLE, Independence
from hiertorch.runtime.validating import validation

Sample = Callable[..., Posterior]
Functions = dict[str, np.ndarray]
ALPHA = 1e-3
CHAINS, SWEEPS = 4_000, 60
EXACT = 25  # exact draws to compare with, for each chain


@pytest.fixture(autouse=True)
def as_in_sampling() -> Any:
    """Without gradients and argument checks, as `ht.sample` calls moves."""
    with torch.no_grad(), validation(False):
        yield


@pytest.fixture(scope="module")
def collapsed(sample: Sample) -> Sample:
    """`ht.sample` by the collapsed sampler."""
    return lambda model, data, **options: sample(model, data, **{"collapse": True, **options})


# Posteriors by quadrature


class Exact(Protocol):
    """A posterior whose rest is known."""

    def draw(self, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The rest, name -> `(number,)`."""
        ...

    def functions(self, rest: Mapping[str, np.ndarray]) -> Functions:
        """What is compared, `(number,)` each."""
        ...

    def effects(self, rest: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of the first effect given rest and y, `(number,)` each."""
        ...


def between(means: np.ndarray, variances: np.ndarray, mu_sd: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(means) of groups' means ~ Normal(mu, variances), mu ~ Normal(0, mu_sd) integrated out; and mu's moments.

    Variances are `(number, groups)`; results `(number,)`.
    """
    precision = 1 / variances
    total = precision.sum(1) + mu_sd**-2
    mu = (precision * means).sum(1) / total
    fit = (precision * means**2).sum(1) - total * mu**2
    return 0.5 * np.log(precision).sum(1) - 0.5 * np.log(total) - 0.5 * fit, mu, 1 / total


def shrunk(mean: float, noise: Any, spread: Any, mu: np.ndarray, mu_variance: np.ndarray) -> Any:
    """Mean and sd of a group's effect, of variance `spread` about mu, whose mean in the data has variance `noise`."""
    share = noise / (noise + spread)
    return share * mu + (1 - share) * mean, np.sqrt((1 - share) * noise + share**2 * mu_variance)


class Schools:
    """`EightSchools` by a grid over log tau; tau beyond `most` is ruled out."""

    def __init__(self, most: float = np.inf) -> None:
        self.grid = np.linspace(-30.0, min(8.0, np.log(most)), 400_001)
        log_density = np.concatenate([self.log_density({"tau": np.exp(t)}) for t in np.array_split(self.grid, 20)])
        heights = np.exp(log_density - log_density.max())
        mass = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
        self.mass = mass / mass[-1]

    @staticmethod
    def log_density(rest: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of log tau, tau ~ Gamma(1, 0.1)."""
        tau = rest["tau"]
        return between(EFFECTS, ERRORS**2 + tau[:, None] ** 2, 10.0)[0] - 0.1 * tau + np.log(tau)

    def draw(self, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"tau": np.exp(np.interp(rng.random(number), self.mass, self.grid))}

    def functions(self, rest: Mapping[str, np.ndarray]) -> Functions:
        return {"tau": rest["tau"], "log density": self.log_density(rest)}

    def effects(self, rest: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        t2 = rest["tau"] ** 2
        _, mu, variance = between(EFFECTS, ERRORS**2 + t2[:, None], 10.0)
        return shrunk(EFFECTS[0], ERRORS[0] ** 2, t2, mu, variance)


class Intercepts:
    """`VaryingIntercepts` without predictors, 6 groups of 2 to 9 rows, by a grid over the logs of both scales."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.sizes = np.array([5, 2, 9, 4, 3, 7])
        group = np.repeat(np.arange(6), self.sizes)
        self.y = rng.normal(np.array([1.4, 0.2, -0.7, 0.6, 1.1, 0.1])[group], 0.9)
        self.data = ht.Data(self.y, groups={"school": group})
        self.means = np.array([self.y[group == j].mean() for j in range(6)])
        self.within = float(((self.y - self.means[group]) ** 2).sum())
        self.axes = [np.linspace(-16.0, 3.5, 1_951), np.linspace(-1.6, 1.4, 601)]
        table = np.stack([self.log_density({"sigma_alpha": np.exp(np.full(601, a)), "sigma_y": np.exp(self.axes[1])})
                          for a in self.axes[0]])  # fmt: skip
        self.table = np.exp(table - table.max()).ravel().cumsum()

    def log_density(self, rest: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of the logs of both scales, each ~ Gamma(1, 1)."""
        a, y = rest["sigma_alpha"], rest["sigma_y"]
        rows = -(self.sizes.sum() - 6) * np.log(y) - self.within / (2 * y**2)
        groups = between(self.means, a[:, None] ** 2 + y[:, None] ** 2 / self.sizes, 5.0)[0]
        return rows + groups - a - y + np.log(a) + np.log(y)

    def draw(self, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Uniform within cells of 0.01 by 0.005, over which the density hardly changes."""
        cell = np.searchsorted(self.table, rng.random(number) * self.table[-1])
        places = np.unravel_index(cell, [len(axis) for axis in self.axes])
        logs = [axis[k] + (axis[1] - axis[0]) * (rng.random(number) - 0.5)
                for axis, k in zip(self.axes, places, strict=True)]  # fmt: skip
        return {"sigma_alpha": np.exp(logs[0]), "sigma_y": np.exp(logs[1])}

    def functions(self, rest: Mapping[str, np.ndarray]) -> Functions:
        a, y = rest["sigma_alpha"], rest["sigma_y"]
        return {"sigma_alpha": a, "sigma_y": y, "ratio": a / y, "product": a * y, "log density": self.log_density(rest)}

    def effects(self, rest: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        a2, y2 = rest["sigma_alpha"] ** 2, rest["sigma_y"] ** 2
        _, mu, variance = between(self.means, a2[:, None] + y2[:, None] / self.sizes, 5.0)
        return shrunk(self.means[0], y2 / self.sizes[0], a2, mu, variance)


@lru_cache
def known(name: str) -> Schools | Intercepts:
    return {"eight schools": Schools, "varying intercepts": Intercepts}[name]()


@lru_cache
def move_of(name: str) -> CollapsedMove:
    case = known(name)
    plan = ht.plan(
        *(
            (EightSchools(), EIGHT_SCHOOLS)
            if isinstance(case, Schools)
            else (VaryingIntercepts("school", priors="tutorial"), case.data)
        )
    )
    assert plan.collapsed is not None
    return plan.collapsed


@lru_cache
def exact(name: str) -> tuple[dict[str, np.ndarray], Functions]:
    """Draws for chains to start at, and functions of many others."""
    case, rng = known(name), np.random.default_rng(1)
    return case.draw(CHAINS, rng), case.functions(case.draw(EXACT * CHAINS, rng))


CASES = ["eight schools", "varying intercepts"]


def position(move: CollapsedMove, rest: Mapping[str, np.ndarray]) -> Tensor:
    """Unconstrained, `(chains, width)`."""
    return move.space.join(move.space.unconstrain({name: torch.from_numpy(x)[:, None] for name, x in rest.items()}))


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_that_of_the_quadrature(name: str) -> None:
    """Up to its constant, at exact draws and far away."""
    case, move = known(name), move_of(name)
    rest = {key: np.concatenate([x[:200], x[:50]]) for key, x in exact(name)[0].items()}
    rest[move.rest[0]][200:] *= 1e-4
    difference = move.log_density(position(move, rest)).numpy() - case.log_density(rest)
    assert np.ptp(difference) < 1e-6  # the priors' 0.1 has the digits of float32


# Kernels with frozen tuning


class Kept:
    """In place of a store: all that is stored, name -> `(draws, chains, ...)`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.n_draws = names, 0
        self.wanted = range
        self.pieces: dict[int, tuple[dict[str, Tensor], Tensor]] = {}

    def fill(self, values: Mapping[str, Tensor], log_density: Tensor, at: int) -> None:
        assert at not in self.pieces
        self.pieces[at] = {name: values[name] for name in self.names}, log_density

    def filled(self, end: int) -> None:
        self.n_draws = end

    @property
    def heights(self) -> list[Tensor]:
        return [self.pieces[at][1] for at in sorted(self.pieces)]

    def all(self, name: str) -> Tensor:
        assert sum(map(len, self.heights)) == self.n_draws
        return torch.cat([self.pieces[at][0][name] for at in sorted(self.pieces)])

    def last(self, name: str) -> np.ndarray:
        return self.all(name)[-1].squeeze(1).numpy()


def tuned(move: CollapsedMove, rest: Mapping[str, np.ndarray], how: str) -> tuple[Tuning, Tensor]:
    """Proposals and random walk, from exact draws. See Note [Invariance under bad tuning]."""
    u = position(move, rest)
    mean, root = u.mean(0), proposals.scale_of(u)
    sd = root.diagonal()
    fitted = proposals.fit(u)
    if how == "fitted":
        return fitted, root
    if how == "skewed to the other side":
        return {**fitted, "skew": -fitted["skew"] - 0.8}, root
    shift, size = {"off its place": (1.5, 0.7), "too narrow": (0.0, 0.25), "too wide": (0.0, 6.0)}[how]
    return proposals.normal_start(mean + shift * sd, size * root), size * root


TUNINGS = ["fitted", "off its place", "too narrow", "too wide", "skewed to the other side"]


def engine_at(
    move: CollapsedMove, rest: Mapping[str, np.ndarray], tuning: tuple[Tuning, Tensor], seed: int = 3
) -> Independence:
    """Chains at given places, with given tuning."""
    chains = len(next(iter(rest.values())))
    engine = Independence(move, chains, torch.Generator().manual_seed(seed))
    engine.begin({}, None)
    engine.place, engine.log_density = move.evaluate(position(move, rest))
    engine.tuning, engine.walk = tuning
    return engine


def after(name: str, how: str, sweeps: int = SWEEPS, names: tuple[str, ...] = ()) -> Kept:
    """What is stored in one window of sweeps from exact draws on."""
    move, rest = move_of(name), exact(name)[0]
    engine, store = engine_at(move, rest, tuned(move, rest, how)), Kept((*move.rest, *names))
    engine.advance(0, sweeps, 0, sweeps, store, Acceptance((0,)))  # type: ignore[arg-type]
    return store


def failures(name: str, store: Kept) -> dict[str, float]:
    """Functions of the last draws whose distribution is not what it was, at ALPHA in all."""
    found, expected = known(name).functions({key: store.last(key) for key in move_of(name).rest}), exact(name)[1]
    p = {what: float(stats.ks_2samp(x, expected[what], method="asymp").pvalue) for what, x in found.items()}
    return {what: value for what, value in p.items() if not value > ALPHA / len(p)}


@pytest.mark.parametrize("how", TUNINGS)
@pytest.mark.parametrize("name", CASES)
def test_the_posterior_is_invariant(name: str, how: str) -> None:
    """Error rate 1e-3 a case; and chains have moved, since those that never do would pass."""
    store, start = after(name, how), exact(name)[0]
    assert not failures(name, store)
    assert all(np.mean(store.last(key) != start[key]) > 0.8 for key in move_of(name).rest)


@pytest.mark.parametrize("windows", [(1,), (CYCLE,), (CYCLE + 1,), (7, CYCLE, 2 * CYCLE, 5)])
def test_the_posterior_is_invariant_wherever_windows_end(windows: tuple[int, ...]) -> None:
    """Error rate 1e-3 a case."""
    move, rest = move_of("eight schools"), exact("eight schools")[0]
    engine, store, done = engine_at(move, rest, tuned(move, rest, "off its place")), Kept(move.rest), 0
    for sweeps in windows:
        engine.advance(done, sweeps, 0, 1, store, Acceptance((0,)))  # type: ignore[arg-type]
        done += sweeps
    assert len(store.all("tau")) == sum(windows)
    assert not failures("eight schools", store)


def no_correction(patch: pytest.MonkeyPatch) -> None:
    """Proposals are accepted as if they were walks, without log q(u) - log q(u')."""
    patch.setattr(proposals, "density", lambda tuning, u: u.new_zeros(len(u)))


def stale_weight(patch: pytest.MonkeyPatch) -> None:
    """The weight of where a chain stands is not computed again after a walk."""
    density, walk = proposals.density, Independence._walk
    before: list[Tensor] = []  # weights where the chains stood when they began to walk, and log densities afterwards

    def walking(engine: Independence, at: Tensor, height: Tensor, *more: Any) -> Any:
        before.append(height - density(engine.tuning, at[:, : engine.move.width]))
        result = walk(engine, at, height, *more)
        before.append(result[1])
        return result

    def stale(tuning: Tuning, u: Tensor) -> Tensor:
        if not before:
            return density(tuning, u)
        height, weight = before.pop(), before.pop()
        return height - weight

    patch.setattr(Independence, "_walk", walking)
    patch.setattr(proposals, "density", stale)


def walk_always(patch: pytest.MonkeyPatch) -> None:
    """A random walk is never rejected."""
    right = Independence._walk

    def walking(engine: Independence, at: Tensor, height: Tensor, numbers: Tensor) -> Any:
        return right(engine, at, height, torch.cat([numbers[:-1], torch.zeros_like(numbers[-1:])]))

    patch.setattr(Independence, "_walk", walking)


WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no correction": no_correction,
    "walk accepted always": walk_always,
    "stale weight after a walk": stale_weight,
}
NOTICED = [  # what is broken, where it shows, and how many sweeps there are to a walk
    ("no correction", "eight schools", "off its place", CYCLE),
    ("no correction", "varying intercepts", "too narrow", CYCLE),
    ("walk accepted always", "eight schools", "too wide", CYCLE),
    ("walk accepted always", "varying intercepts", "off its place", CYCLE),
    ("stale weight after a walk", "eight schools", "too narrow", 2),
    ("stale weight after a walk", "varying intercepts", "skewed to the other side", 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "name", "how", "cycle"), NOTICED)
def test_wrong_kernels_are_noticed(
    wrong: str, name: str, how: str, cycle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the right kernel passes, at an error rate of 1e-3."""
    monkeypatch.setattr(independence, "CYCLE", cycle)
    assert not failures(name, after(name, how, SWEEPS + 1))
    WRONG[wrong](monkeypatch)
    assert failures(name, after(name, how, SWEEPS + (cycle == 2)))


@pytest.mark.parametrize("name", CASES)
def test_a_missing_jacobian_is_noticed(name: str, sabotage: Any) -> None:
    exact(name)
    move = move_of(name)
    sabotage.jacobian()
    assert failures(name, after(name, "off its place"))
    assert move is move_of(name)


@pytest.mark.parametrize("name", CASES)
def test_effects_belong_to_their_scales(name: str) -> None:
    """(effect - mean) / sd given the scales stored with it is standard normal, and its square no matter of the scales.

    Two tests of a pivot and one of each rank correlation, at an error rate of 1e-3.
    """
    case, move = known(name), move_of(name)
    effect = "theta" if name == "eight schools" else "alpha"
    store = after(name, "off its place", names=(effect,))
    rest = {key: store.last(key) for key in move.rest}
    mean, sd = case.effects(rest)
    z = (store.all(effect)[-1, :, 0].numpy() - mean) / sd
    p = [stats.kstest(z, stats.norm.cdf).pvalue, 2 * min(f := stats.chi2(len(z)).cdf((z**2).sum()), 1 - f)]
    p += [stats.spearmanr(z**2, x).pvalue for x in rest.values()]
    assert min(p) > ALPHA / len(p)
    shuffled = {key: x[::-1] for key, x in rest.items()}
    mean, sd = case.effects(shuffled)
    z = (store.all(effect)[-1, :, 0].numpy() - mean) / sd
    assert min(stats.spearmanr(z**2, x).pvalue for x in shuffled.values()) < 1e-6  # effects of other chains' scales


# What is stored


def stored(thin: int, windows: tuple[int, ...], warmup: int = 0) -> Kept:
    move, rest = move_of("varying intercepts"), {k: x[:50] for k, x in exact("varying intercepts")[0].items()}
    engine, store, done = engine_at(move, rest, tuned(move, rest, "too wide")), Kept(move.rest), warmup
    for sweeps in windows:
        engine.advance(done, sweeps, warmup, thin, store, Acceptance((0,)))  # type: ignore[arg-type]
        done += sweeps
    return store


@pytest.mark.parametrize(
    ("thin", "windows", "warmup"), [(7, (60,), 0), (7, (20, 3, 1, 36), 30), (30, (25, 35), 11), (1, (20, 40), 5)]
)
def test_thinning_keeps_every_kth_sweep(thin: int, windows: tuple[int, ...], warmup: int) -> None:
    """The k-th, 2k-th, ... after warm-up, in order, wherever windows end."""
    every, some = stored(1, windows), stored(thin, windows, warmup)
    assert len(every.all("sigma_y")) == 60
    for name in ("sigma_alpha", "sigma_y"):
        assert torch.equal(some.all(name), every.all(name)[thin - 1 :: thin])
    assert torch.equal(torch.cat(some.heights), torch.cat(every.heights)[thin - 1 :: thin])


def test_warm_up_stores_nothing() -> None:
    move, rest = move_of("varying intercepts"), {k: x[:50] for k, x in exact("varying intercepts")[0].items()}
    engine, store = engine_at(move, rest, tuned(move, rest, "too wide")), Kept(move.rest)
    engine.advance(0, 40, 40, 1, store, Acceptance((0,)))  # type: ignore[arg-type]
    assert not store.heights


def test_log_densities_are_those_of_their_draws(collapsed: Sample) -> None:
    case = known("varying intercepts")
    assert isinstance(case, Intercepts)
    posterior = collapsed(
        VaryingIntercepts("school", priors="tutorial"), case.data, chains=8, warmup=40, draws=100, thin=3, seed=1
    )
    rest = {name: posterior[name].flatten().numpy() for name in ("sigma_alpha", "sigma_y")}
    difference = posterior.stats.log_density.flatten().numpy() - case.log_density(rest)
    assert np.ptp(difference) < 1e-6  # the priors' 0.1 has the digits of float32


@pytest.mark.parametrize("chains", [1, 16, 256])
def test_few_and_many_chains(chains: int, collapsed: Sample) -> None:
    """Error rate 1e-3 a case."""
    posterior = collapsed(EightSchools(), EIGHT_SCHOOLS, chains=chains, draws=min(4_000, 32_000 // chains), seed=1)
    expected = eight_schools(EFFECTS, ERRORS, 0.0, 10.0, stats.gamma(1, scale=10))
    for name in ("mu", "tau", "theta"):
        assert_matches(posterior[name], expected[name], alpha=ALPHA / 3, name=name)
    assert float(posterior.stats.acceptance["collapsed(tau)"].mean()) > (0.8 if chains > 1 else 0.6)


def test_the_same_seed_gives_the_same_draws(collapsed: Sample) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        collapsed(EightSchools(), EIGHT_SCHOOLS, chains=16, draws=50, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in ("mu", "tau", "theta"):
        assert torch.equal(first[name], again[name])
        assert not bool((first[name] == other[name]).any())


def test_draws_do_not_depend_on_cores_or_threads(collapsed: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches so small that a window has several."""
    monkeypatch.setattr(collapse, "BATCH_NUMBERS", 200_000)
    found, threads = [], torch.get_num_threads()
    for cores in (1, 2, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        torch.set_num_threads(min(cores, 2))
        found.append(collapsed(EightSchools(), EIGHT_SCHOOLS, chains=128, draws=300, seed=1))
    torch.set_num_threads(threads)
    for name in ("mu", "tau", "theta"):
        assert torch.equal(found[0][name], found[1][name]) and torch.equal(found[0][name], found[2][name])


class Looking(Monitor):
    """Reads everything in every window."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, int]] = []
        self.tau: list[Tensor] = []
        self.theta: list[Tensor] = []
        self.again: list[Tensor] = []  # looked at twice
        self.names: list[list[str]] = []

    def window(self, window: Window) -> None:
        self.ends.append((window.phase, window.sweep))
        self.names.append(list(window.values))
        self.tau.append(window.values["tau"].clone())
        self.theta.append(window.values["theta"].clone())
        self.again.append(window.values["theta"].clone())


def test_monitors_change_nothing(collapsed: Sample) -> None:
    looking, options = Looking(), {"chains": 64, "draws": 600, "seed": 4, "keep_all": True}
    watched, alone = (collapsed(EightSchools(), EIGHT_SCHOOLS, monitors=m, **options) for m in ([looking], []))
    for name in ("mu", "tau", "theta"):
        assert torch.equal(watched[name], alone[name])
    sampling = [
        (done, tau) for (phase, done), tau in zip(looking.ends, looking.tau, strict=True) if phase == "sampling"
    ]
    assert len(sampling) > 1
    warmup = watched.run["warmup"]
    for done, tau in sampling:
        assert torch.equal(tau[:, 0], watched["tau"][:, (done - warmup) // watched.run["thin"] - 1])
    assert all(names == ["mu", "tau", "theta"] for names in looking.names)
    assert all(torch.equal(first, second) for first, second in zip(looking.theta, looking.again, strict=True))
    other = Looking()
    collapsed(EightSchools(), EIGHT_SCHOOLS, monitors=[other, Looking()], **options)
    assert other.ends == looking.ends


def test_what_monitors_see_is_drawn_from_the_posterior(collapsed: Sample) -> None:
    """Effects of the last sweep given its scales, by their pivot; error rate 1e-3."""
    looking = Looking()
    collapsed(EightSchools(), EIGHT_SCHOOLS, monitors=[looking], chains=1_000, draws=5, seed=4)
    mean, sd = known("eight schools").effects({"tau": looking.tau[-1][:, 0].numpy()})
    assert stats.kstest((looking.theta[-1][:, 0].numpy() - mean) / sd, stats.norm.cdf).pvalue > ALPHA


# Tuning


@pytest.fixture
def tunings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Tuning, Tensor]]:
    """Sweeps done and warm-up, proposals and walk that each window of a run starts with."""
    noted: list[tuple[int, int, Tuning, Tensor]] = []
    right = Independence.advance

    def advance(engine: Independence, done: int, sweeps: int, warmup: int, *more: Any) -> None:
        noted.append((done, warmup, engine.tuning, engine.walk))
        right(engine, done, sweeps, warmup, *more)

    monkeypatch.setattr(Independence, "advance", advance)
    return noted


def test_tuning_is_learnt_in_warm_up_and_then_frozen(collapsed: Sample, tunings: list[Any]) -> None:
    collapsed(EightSchools(), EIGHT_SCHOOLS, chains=256, warmup=200, draws=300, seed=1)
    learning = [part for part in tunings if part[0] < part[1]]
    frozen = [part for part in tunings if part[0] >= part[1]]
    assert len(learning) > 2 and len(frozen) > 2
    first = {name: x.clone() for name, x in frozen[0][2].items()}
    assert all(tuning is frozen[0][2] and walk is frozen[0][3] for _, _, tuning, walk in frozen)
    assert all(torch.equal(frozen[-1][2][name], x) for name, x in first.items())
    assert len({id(tuning) for _, _, tuning, _ in learning}) > 2


def test_learning_finds_what_the_start_missed() -> None:
    """From proposals far off, to an acceptance above 0.8 within 5 windows."""
    move, rest = move_of("varying intercepts"), exact("varying intercepts")[0]
    engine = engine_at(move, {name: x[:64] for name, x in rest.items()}, tuned(move, rest, "off its place"))
    counter = Acceptance((0,))
    accepted = []
    for done in range(0, 6 * CYCLE, CYCLE):
        engine.advance(done, CYCLE, 7 * CYCLE, 1, Kept(()), counter)  # type: ignore[arg-type]
        accepted.append(float(counter.window(sampling=False)[0].mean()))
    assert accepted[0] < 0.6 and accepted[-1] > 0.8


@pytest.mark.parametrize("failing", ["LinAlgError", "NaN"])
def test_a_fit_that_fails_keeps_the_old_proposals(
    failing: str, collapsed: Sample, tunings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first fit, all others fail."""
    right, calls = proposals.fit, []

    def fit(draws: Tensor) -> Tuning:
        calls.append(len(draws))
        if len(calls) > 1 and failing == "LinAlgError":
            raise torch.linalg.LinAlgError("not positive-definite")
        tuning = right(draws)
        return tuning if len(calls) == 1 else {**tuning, "scale": tuning["scale"] * torch.nan}

    monkeypatch.setattr(proposals, "fit", fit)
    posterior = collapsed(EightSchools(), EIGHT_SCHOOLS, chains=256, warmup=200, draws=100, seed=1)
    assert len(calls) > 2
    assert all(tuning is tunings[0][2] for _, _, tuning, _ in tunings)
    assert all(bool(walk.isfinite().all()) for *_, walk in tunings)
    expected = eight_schools(EFFECTS, ERRORS, 0.0, 10.0, stats.gamma(1, scale=10))
    assert_matches(posterior["tau"], expected["tau"], alpha=ALPHA, name="tau")


@pytest.mark.parametrize("failing", ["LinAlgError", "NaN"])
def test_no_fit_at_all_leaves_the_normal_start(
    failing: str, collapsed: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error rate 1e-3."""

    def fit(draws: Tensor) -> Tuning:
        if failing == "LinAlgError":
            raise torch.linalg.LinAlgError("not positive-definite")
        return proposals.normal_start(draws[0] * torch.nan, torch.eye(draws.shape[1]).double())

    monkeypatch.setattr(proposals, "fit", fit)
    posterior = collapsed(EightSchools(), EIGHT_SCHOOLS, chains=64, draws=500, seed=1)
    expected = eight_schools(EFFECTS, ERRORS, 0.0, 10.0, stats.gamma(1, scale=10))
    for name in ("mu", "tau"):
        assert_matches(posterior[name], expected[name], alpha=ALPHA / 2, name=name)


# Densities that are not finite


class Broken(Gamma):
    """A prior without a density beyond 12, which counts how often it was asked for one there."""

    beyond = torch.nan
    asked: ClassVar[list[int]] = []

    def log_prob(self, value: Tensor) -> Tensor:
        Broken.asked.append(int((value > 12.0).sum()))
        return torch.where(value > 12.0, Broken.beyond, super().log_prob(value))


class BrokenSchools(EightSchools):
    tau = ht.Latent(Broken(1.0, 0.1))


@pytest.mark.parametrize(("beyond", "counted"), [(torch.nan, True), (torch.inf, True), (-torch.inf, False)])
def test_densities_that_are_not_finite_are_rejected_and_counted(
    beyond: float, counted: bool, collapsed: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is the posterior cut off at tau = 12, which chains start from; error rate 1e-3."""
    monkeypatch.setattr(Broken, "beyond", -torch.inf)
    move = ht.plan(BrokenSchools(), EIGHT_SCHOOLS).collapsed
    assert move is not None
    case = Schools(most=12.0)
    rest = case.draw(CHAINS, np.random.default_rng(1))
    engine = engine_at(move, rest, tuned(move, rest, "too wide"))
    store, counter = Kept(move.rest), Acceptance((0,))
    monkeypatch.setattr(Broken, "beyond", beyond)
    monkeypatch.setattr(Broken, "asked", [])
    for done in range(0, SWEEPS, CYCLE):
        engine.advance(done, CYCLE, 0, CYCLE, store, counter)  # type: ignore[arg-type]
    assert sum(Broken.asked) > 10_000
    assert counter.nans() == (sum(Broken.asked) if counted else 0)
    tau, acceptance = store.last("tau"), counter.window(sampling=True)[0]
    assert (tau <= 12.0).all() and bool(acceptance.isfinite().all())
    grid, mass = case.grid, case.mass
    assert stats.kstest(tau, lambda t: np.interp(np.log(t), grid, mass)).pvalue > ALPHA


def test_a_run_reports_densities_that_were_nan(collapsed: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives the posterior cut off at 12; error rate 1e-3."""
    monkeypatch.setattr(Broken, "beyond", torch.nan)
    posterior = collapsed(BrokenSchools(), EIGHT_SCHOOLS, chains=64, draws=300, seed=1)
    assert posterior.stats.nan["collapsed(tau)"] > 0
    assert any("NaN" in sentence for sentence in posterior.warnings())
    case = Schools(most=12.0)
    many = case.draw(400_000, np.random.default_rng(1))["tau"]
    quantiles = {p: np.quantile(many, [p]) for p in (0.05, 0.25, 0.5, 0.75, 0.95)}
    expected = Reference(many.mean(keepdims=True), many.std(keepdims=True), quantiles)
    assert_matches(posterior["tau"], expected, alpha=ALPHA, name="tau")


@pytest.mark.parametrize("collapse_", [False, True])
def test_a_start_without_a_density_is_refused(
    collapse_: bool, collapsed: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "beyond", torch.nan)
    with pytest.raises(SamplingError, match="tau"):
        collapsed(BrokenSchools(), EIGHT_SCHOOLS, chains=16, draws=20, seed=1, init={"tau": 20.0}, collapse=collapse_)


def test_no_start_at_all_is_an_error_that_names_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    move = ht.plan(EightSchools(), EIGHT_SCHOOLS).collapsed
    assert move is not None
    monkeypatch.setattr(CollapsedMove, "log_density", lambda move, u: u.sum(-1) * torch.nan)
    with pytest.raises(SamplingError, match=r"no starting point has a finite log density.* tau"):
        Independence(move, 8, torch.Generator()).begin({}, None)


def test_given_starts_are_where_chains_begin() -> None:
    move = move_of("varying intercepts")
    given = torch.linspace(0.3, 3.0, 6).double()[:, None]
    engine = Independence(move, 6, torch.Generator().manual_seed(1))
    engine.begin({"sigma_y": given, "alpha": torch.zeros(6, 6)}, None)
    values = engine.values()
    torch.testing.assert_close(values["sigma_y"], given)
    assert len(values["sigma_alpha"].unique()) > 3  # drawn with replacement
    assert values["alpha"].shape == (6, 6)


# Nothing left to sample


class Known(EightSchools):
    """tau is known to be 5."""

    tau = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.theta = ht.Latent(lambda v: Normal(v.mu, torch.full_like(v.mu, 5.0)), plate="school")


def test_draws_are_independent_where_nothing_is_left(collapsed: Sample) -> None:
    """All of the posterior is normal; error rate 1e-3."""
    posterior = collapsed(Known(), EIGHT_SCHOOLS, chains=32, draws=500, seed=1)
    _, mu, variance = between(EFFECTS, ERRORS[None] ** 2 + 25.0, 10.0)
    expected = {"mu": [stats.norm(mu[0], variance[0] ** 0.5)]}
    expected["theta"] = [
        stats.norm(*(float(x[0]) for x in shrunk(y, se**2, 25.0, mu, variance)))
        for y, se in zip(EFFECTS, ERRORS, strict=True)
    ]
    for name, marginals in expected.items():
        assert_matches(posterior[name], Reference.of(*marginals), alpha=ALPHA / 2, name=name)
    (acceptance,) = posterior.stats.acceptance.values()
    assert torch.equal(acceptance, torch.ones(32).double())
    lag = torch.corrcoef(torch.stack([posterior["mu"][:, 1:].flatten(), posterior["mu"][:, :-1].flatten()]))[0, 1]
    assert abs(float(lag)) < stats.norm.isf(ALPHA / 2) / (32 * 499) ** 0.5
