"""Every collapsed run is held against the model's own density at its own draws; what is wrong begins again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import HalfNormal, Normal
from zoo import ZOO, Example

import hiertorch as ht
from hiertorch.density.space import Space
from hiertorch.density.structure import coordinates_of
from hiertorch.draws.closedform import collapsed_of
from hiertorch.errors import SamplingError, SamplingWarning
from hiertorch.gaussian import audit as audits
from hiertorch.gaussian.audit import Audit, audit
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse, differences
from hiertorch.model.checks import inspect
from hiertorch.monitors import Monitor, RunInfo, Window
from hiertorch.posterior import Posterior
from hiertorch.run import choosing
from hiertorch.run.independence import Independence

Sample = Callable[..., Posterior]
CLOSE = 1e-6
RUN: dict[str, Any] = {"chains": 8, "draws": 100, "seed": 3, "collapse": True, "progress": False}


def found(model: ht.Model, data: ht.Data) -> Collapsed:
    """The model with effects and coefficients integrated out."""
    collapsed = collapse(model, data, inspect(model, data)[0])
    assert isinstance(collapsed, Collapsed)
    return collapsed


def space_of(collapsed: Collapsed) -> Space:
    """Of the rest."""
    model = collapsed.composed.model
    coordinates = coordinates_of(model, inspect(model, collapsed.composed.data)[0])
    return Space({name: coordinates[name] for name in collapsed.rest})


class Linear(ht.Model):
    """y_i ~ Normal(b f(x_i), sigma), what discovery takes a kinked model for."""

    b = ht.Latent(Normal(0.0, 2.0))
    sigma = ht.Latent(HalfNormal(1.0))

    def mean(self, v, data):
        return v.b * data.x

    def likelihood(self, v, data):
        return Normal(self.mean(v, data), v.sigma)


class Kinked(Linear):
    """A coefficient that counts for no more than 1.5."""

    def mean(self, v, data):
        return v.b.clamp(max=1.5) * data.x


class Flat(ht.Model):
    """y_i ~ Normal(a, sigma): what a model is taken for whose k no probe sees."""

    k = ht.Latent(Normal(0.0, 1.0))
    a = ht.Latent(Normal(0.0, 3.0))
    sigma = ht.Latent(HalfNormal(1.0))

    def mean(self, v, data):
        return v.a

    def likelihood(self, v, data):
        return Normal(self.mean(v, data), v.sigma)


class Curved(Flat):
    """y_i ~ Normal(a + exp(k x_i), sigma)."""

    def mean(self, v, data):
        return v.a + (v.k * data.x).exp()


class TailKinked(Linear):
    """A coefficient that counts for more from a value on that lies above nearly all of its posterior."""

    bend = 1.0

    def mean(self, v, data):
        return (v.b + 5.0 * torch.relu(v.b - self.bend)) * data.x


RNG = np.random.default_rng(1)
X = RNG.normal(size=30)
KINKED = ht.Data(1.5 * X + 0.5 * RNG.normal(size=30), x=X)
CURVED = ht.Data(1.0 + np.exp(0.8 * X) + 0.3 * RNG.normal(size=30), x=X)


def mistaken(monkeypatch: pytest.MonkeyPatch, simple: ht.Model) -> None:
    """From now on discovery takes every model for a simpler one, and its proof is left out."""

    def wrong(model, data, reads):
        collapsed = collapse(simple, data, inspect(simple, data)[0])
        assert isinstance(collapsed, Collapsed)
        collapsed.composed.model = model
        return collapsed

    monkeypatch.setattr(choosing, "find_collapse", wrong)


def grid(model: Linear | Flat, data: ht.Data, **axes: tuple[float, float, int]) -> dict[str, tuple[float, float]]:
    """Mean and sd of every latent, by summing exp(log_prob) on a grid of all."""
    points = {name: torch.linspace(*axis, dtype=torch.float64) for name, axis in axes.items()}
    mesh = dict(zip(points, torch.meshgrid(*points.values(), indexing="ij"), strict=True))
    density = model.log_prob({name: x.reshape(-1, 1) for name, x in mesh.items()}, data)
    weight = (density - density.max()).exp()
    weight = (weight / weight.sum()).reshape(next(iter(mesh.values())).shape)
    found = {}
    for name, x in mesh.items():
        mean = float((weight * x).sum())
        found[name] = mean, float((weight * (x - mean).square()).sum().sqrt())
    return found


def assert_near(posterior: Posterior, right: dict[str, tuple[float, float]]) -> None:
    """Means within 5 Monte Carlo errors, of which fewer than one in 10^6 is by chance; sds within a tenth."""
    table = posterior.summary(list(right))
    for name, (mean, sd) in right.items():
        row = table.loc[name]
        assert abs(row["mean"] - mean) < 5 * row["mcse_mean"] + 1e-3 * sd, (name, row["mean"], mean)
        assert abs(row["sd"] / sd - 1.0) < 0.1, (name, row["sd"], sd)


class Story(Monitor):
    """What is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.plans: list[str] = []

    def start(self, run: RunInfo) -> None:
        self.told.append("start")
        self.plans.append(run.plan_text)

    def window(self, window: Window) -> None:
        if self.told[-1] != window.phase:
            self.told.append(window.phase)

    def stop(self, status: str, posterior: Posterior | None = None) -> None:
        self.told.append(status)
        assert (posterior is None) == (status == "discarded")


# Right ones


ORDINARY = ("mixed_effects", "correlated_3", "nested_slopes", "crossed", "three_groupings", "walk_of_vectors",
            "row_weights", "two_errors", "held_mean", "large_mean")  # fmt: skip


@pytest.mark.parametrize("name", [*ORDINARY[::2], *(pytest.param(n, marks=pytest.mark.slow) for n in ORDINARY[1::2])])
def test_what_is_right_has_no_gap(name: str) -> None:
    example: Example = ZOO[name](3)
    posterior = ht.sample(example.model, example.data, **RUN)
    facts = posterior.run["audit"]
    assert facts["sound"] and 0.0 <= facts["gap"] < CLOSE
    assert facts["draws"] == 128 and facts["seconds"] > 0.0  # 64 at the end of warm-up, and at the end
    assert "collapsed" in posterior.run["plan_text"]


def test_the_model_is_evaluated_row_by_row() -> None:
    """The left side of the identity is the user's own log_prob; several data sets have one each."""
    example = ZOO["mixed_effects"](3)
    rng = np.random.default_rng(2)
    y = example.data.y + 0.3 * torch.from_numpy(rng.normal(size=(3, example.data.n_rows)))
    collapsed = found(example.model, example.data.replace(y=y))
    rest = {name: x.repeat(2, *[1] * (x.dim() - 1)) for name, x in example.draw(3).items()}
    noise = torch.from_numpy(rng.normal(size=(collapsed.n_noise, 6)))
    values = {**rest, **collapsed.draw(rest, noise)}
    gap, density = differences(collapsed, values, 6)
    right = [
        example.model.log_prob({name: x[c : c + 1] for name, x in values.items()}, example.data.replace(y=y[c % 3]))
        for c in range(6)
    ]
    torch.testing.assert_close(density, torch.cat(right), rtol=1e-12, atol=0.0)
    assert bool((gap.abs() < 1e-9).all())


def test_chunks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    example = ZOO["row_weights"](3)
    collapsed = found(example.model, example.data)
    draws = {name: x.unsqueeze(1) for name, x in example.draw(10).items()}
    whole = audit(collapsed, space_of(collapsed), draws, 0)

    def one_by_one(data, width):
        return (data.rows(i, i + 1) for i in range(data.n_rows))

    monkeypatch.setattr("hiertorch.gaussian.discovery.chunks", one_by_one)
    assert audit(collapsed, space_of(collapsed), draws, 0).gap == pytest.approx(whole.gap, abs=1e-10)


@pytest.mark.parametrize(
    "options",
    [{"dtype": torch.float32}, {"keep": ["sigma_y"]}, {"keep": ["alpha"]}, {"chains": 1}, {"draws": 1}],
    ids=lambda options: next(iter(options)),
)
def test_every_kind_of_run_is_audited(options: dict[str, Any]) -> None:
    example = ZOO["mixed_effects"](3)
    facts = ht.sample(example.model, example.data, **{**RUN, **options}).run["audit"]
    assert facts["sound"] and facts["gap"] < CLOSE and facts["draws"] == 128


def test_many_data_sets_are_audited_each() -> None:
    example = ZOO["varying_intercepts"](3)
    y = example.data.y + torch.from_numpy(np.random.default_rng(2).normal(size=(80, example.data.n_rows)))
    facts = ht.sample(example.model, example.data.replace(y=y), draws=50, seed=1, progress=False).run["audit"]
    assert facts["draws"] == 160 and facts["gap"] < CLOSE


def test_an_audit_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    example = ZOO["varying_intercepts"](3)
    one = ht.sample(example.model, example.data, **RUN)
    monkeypatch.setattr(Independence, "check", lambda self, store: None)
    other = ht.sample(example.model, example.data, **RUN)
    assert "audit" not in other.run
    assert all(torch.equal(one.draws[name], other.draws[name]) for name in one.names)


def test_nothing_is_left_to_sample() -> None:
    class Known(ht.Model):
        """Scales that are given."""

        mu = ht.Latent(Normal(0.0, 5.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, 1.2), plate="school")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.school], 0.7)

    facts = ht.sample(Known(), ZOO["varying_intercepts"](3).data, **RUN).run["audit"]
    assert facts["sound"] and facts["draws"] == 64


# Where it looks


def test_the_extremes_are_among_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every coordinate of the rest, of effects over all groups, and of coefficients."""
    example = ZOO["varying_intercepts"](3)
    looked: list[dict[str, Tensor]] = []

    def spy(collapsed, values, chains, right=differences):
        looked.append(dict(values))
        return right(collapsed, values, chains)

    monkeypatch.setattr(audits, "differences", spy)
    posterior = ht.sample(example.model, example.data, **RUN)
    last = looked[-1]
    for name in ("sigma_y", "sigma_a", "alpha", "mu", "beta"):
        draws = posterior.draws[name]
        assert float(last[name].max()) == float(draws.max()), name
        assert float(last[name].min()) == float(draws.min()), name
    assert all(len(x) == 64 for x in last.values())


def test_a_million_rows_take_eight_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "MANY_ROWS", 39)
    example = ZOO["varying_intercepts"](3)
    assert example.data.n_rows > 30
    assert ht.sample(example.model, example.data, **RUN).run["audit"]["draws"] == 16


# Wrong ones


@pytest.mark.parametrize(
    ("model", "simple", "data", "axes"),
    [
        (Kinked(), Linear(), KINKED, {"b": (-1.0, 10.0, 400), "sigma": (0.2, 1.5, 80)}),
        pytest.param(
            Curved(),
            Flat(),
            CURVED,
            {"k": (0.5, 1.2, 50), "a": (0.5, 1.6, 50), "sigma": (0.15, 0.7, 40)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["taken for linear", "taken for unread"],
)
def test_a_wrong_collapse_is_discarded_after_warm_up(
    model: Linear, simple: Linear, data: ht.Data, axes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken(monkeypatch, simple)
    story = Story()
    with pytest.warns(SamplingWarning, match=r"differ by up to .* discarded.*begins again") as said:
        posterior = ht.sample(model, data, chains=16, draws=1000, seed=1, progress=False, monitors=iter([story]))
    (sentence,) = (str(w.message) for w in said if "discarded" in str(w.message))
    assert "sigma = " in sentence  # where it is worst
    assert story.told == ["start", "warmup", "discarded", "start", "warmup", "sampling", "finished"]
    assert "no passes over" in story.plans[0] and "not collapsed: effects and coefficients can't" in story.plans[1]
    facts = posterior.run["audit"]
    assert facts["draws"] == 64 and not facts["sound"] and facts["gap"] > 1.0 and set(facts["worst"]) >= {"sigma"}
    assert "not collapsed" in posterior.run["plan_text"]
    assert_near(posterior, grid(model, data, **axes))


@pytest.mark.slow
def test_what_is_wrong_in_the_tail_alone_is_found_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kink lies where one draw in two thousand does: none of the 64 at the end of warm-up, some of those stored."""
    right = ht.sample(Linear(), KINKED, chains=8, draws=1000, seed=1, progress=False)
    model = TailKinked()
    model.bend = float(right.draws["b"].quantile(0.9995))
    mistaken(monkeypatch, Linear())
    story = Story()
    with pytest.warns(SamplingWarning, match="discarded"):
        posterior = ht.sample(model, KINKED, chains=8, draws=1000, seed=2, progress=False, monitors=[story])
    assert posterior.run["audit"]["draws"] == 128  # the first 64 told nothing
    assert story.told.index("discarded") < story.told.index("finished")
    assert_near(posterior, grid(model, KINKED, b=(0.5, 2.5, 800), sigma=(0.2, 1.2, 80)))


def test_folds_and_grids_of_a_wrong_collapse_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mistaken(monkeypatch, Linear())
    with pytest.warns(SamplingWarning, match="discarded"):
        grid = ht.prior_grid(
            Kinked(), KINKED, "sigma", scales=[0.5, 1.0], chains=4, warmup=50, draws=50, compile=False, progress=False
        )
    assert all("not collapsed" in one.run["plan_text"] for one in grid.posteriors.values())


def test_draws_of_a_stopped_run_are_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped does not begin again."""

    class Stops(Monitor):
        """Ctrl-C in the first window of sampling."""

        def window(self, window: Window) -> None:
            if window.phase == "sampling":
                raise KeyboardInterrupt

    mistaken(monkeypatch, Linear())
    monkeypatch.setattr(Independence, "window", lambda self, *, warming: 20)
    right = Independence.check
    monkeypatch.setattr(Independence, "check", lambda self, store: right(self, store) if store.n_draws else None)
    with pytest.warns(SamplingWarning, match="not from the posterior: run the model again with collapse=False"):
        posterior = ht.sample(Kinked(), KINKED, **RUN, monitors=[Stops()])
    assert posterior.interrupted and posterior.run["audit"]["sound"] is False


def test_draws_made_in_another_way_are_audited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed forms of criteria by group, folds and reweighting serve such draws as well."""
    posterior = ht.sample(Linear(), KINKED, **{**RUN, "collapse": False}, warmup=50, compile=False)
    assert isinstance(collapsed_of(posterior), Collapsed)
    kinked = ht.sample(Kinked(), KINKED, **{**RUN, "collapse": False}, warmup=50, compile=False)
    mistaken(monkeypatch, Linear())
    monkeypatch.setattr(audits, "collapse", choosing.find_collapse)
    assert "differ by up to" in str(collapsed_of(kinked))
    kinked.run["audit"] = {"sound": False}
    assert "own draws have shown" in str(collapsed_of(kinked))


def test_a_density_that_is_nowhere_finite_is_not_sound() -> None:
    """Nor is one that is -inf at a draw; run folders are JSON, which has no infinity."""
    assert Audit(float("inf"), 1e-3, 1, 0.1, {}).facts() == {
        "sound": False, "gap": None, "draws": 1, "seconds": 0.1, "worst": {},
    }  # fmt: skip


# What was found


def test_the_worse_of_two_audits_counts() -> None:
    fine, bad = Audit(1e-9, 1e-3, 64, 0.1, {}), Audit(2.0, 1e-3, 64, 0.2, {"mu": [1.0]})
    both = fine + bad
    assert (both.gap, both.draws, both.worst, both.sound) == (2.0, 128, {"mu": [1.0]}, False)
    assert (bad + fine).gap == 2.0 and (fine + fine).sound
    nan = fine + Audit(float("nan"), 1e-3, 64, 0.1, {})
    assert not nan.sound


# Rows that are fitted exactly


@pytest.mark.parametrize(
    ("y", "model"),
    [
        (0.0 * X, Linear()),
        (0.0 * X + 7.3, ht.models.CompletePooling(["x"], priors="tutorial")),
        (1.0 + 2.0 * X, ht.models.CompletePooling(["x"])),
        (0.0 * X, ht.models.Crossed(["g", "h"], priors="tutorial")),
        (1.0 * (np.arange(30) % 4), ht.models.VaryingIntercepts("g", ["x"])),
    ],
    ids=["constant 0", "constant 7.3", "a line", "two groupings", "group means"],
)
def test_rows_that_are_fitted_exactly_are_refused(y: np.ndarray, model: ht.Model) -> None:
    data = ht.Data(y, x=X, groups={"g": np.arange(30) % 4, "h": np.arange(30) % 3})
    with pytest.raises(SamplingError, match=r"rows are fitted exactly.*as low as .* constant"):
        ht.sample(model, data, **RUN)


def test_small_rounding_is_no_exact_fit() -> None:
    """Nor are rows whose scale is known, or a small unit."""
    y = np.round(1.0 + 2.0 * X, 6)
    posterior = ht.sample(ht.models.CompletePooling(["x"]), ht.Data(y, x=X), **RUN)
    assert posterior.run["audit"]["sound"]
    assert float(posterior["sigma_y"].mean()) == pytest.approx(np.std(y - 1.0 - 2.0 * X), rel=0.3)
