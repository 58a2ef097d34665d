"""The dashboard of real runs: what is written is what the posterior says, and no draw is changed by it.

Where two estimates from different draws are compared, the bound is four Monte Carlo errors, which are measured between
batches of draws: each such comparison fails by chance with probability below 1e-3. Seeds are fixed.
"""

import io
import math
import random
import re
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import special, stats
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]
from torch.distributions import Gamma, Normal
from windows import load, scalars, text

import hiertorch as ht
from hiertorch.dashboard import closing
from hiertorch.dashboard.worker import Worker
from hiertorch.errors import SamplingWarning
from hiertorch.models import CompletePooling, CorrelatedEffects, VaryingIntercepts
from hiertorch.monitors import Monitor, ProgressBar

SCHOOLS = ["Åsa Skola", "St. Mary's / 7", "North|East", *(f"P.S. {k}" for k in range(4, 13))]
ROWS = 8  # of each
SIZE = (576, 384)  # of a figure


def frame():
    """Slopes and intercepts differ between schools."""
    numbers = np.random.default_rng(5)
    school = np.repeat(np.arange(len(SCHOOLS)), ROWS)
    x = numbers.normal(size=len(school))
    intercept, slope = numbers.normal(1.0, 0.8, len(SCHOOLS)), numbers.normal(0.5, 0.5, len(SCHOOLS))
    eta = intercept[school] + slope[school] * x
    y = eta + numbers.normal(0.0, 0.7, len(school))
    yes = (numbers.random(len(school)) < special.expit(eta)).astype(float)
    return pd.DataFrame({"school": np.array(SCHOOLS)[school], "x": x, "y": y, "yes": yes})


class Own(ht.Model):
    """mu ~ Normal(0, 2), tau ~ Gamma(2, 2), alpha_j ~ Normal(mu, tau), y_ij ~ Normal(alpha_j, 0.7), by log_prob."""

    mu = ht.Latent(Normal(0.0, 2.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="school")

    def log_prob(self, v, data):
        groups = Normal(v.mu, v.tau).log_prob(v.alpha).sum(1)
        rows = Normal(v.alpha[:, data.school], 0.7).log_prob(data.y).sum(1)
        return (Normal(0.0, 2.0).log_prob(v.mu) + Gamma(2.0, 2.0).log_prob(v.tau)).squeeze(1) + groups + rows


@dataclass(frozen=True)
class Kind:
    """What is run, and which figures it has beside `pair`."""

    model: Any
    response: str = "y"
    options: dict[str, Any] = field(default_factory=dict)
    figures: str = "rank forest shrinkage funnel predictive pareto_k"
    grouped: bool = True


MOVES = {"collapse": False, "chains": 4, "warmup": 60, "draws": 120, "thin": 1}
FAST = {"chains": 4, "warmup": 100, "draws": 250}


def intercepts(**options):
    return VaryingIntercepts("school", ["x"], priors="tutorial", **options)


KINDS = {
    "collapsed": Kind(intercepts, options={**FAST, "chains": 12}),
    "moves": Kind(intercepts, options=MOVES, figures="rank forest shrinkage funnel acceptance predictive pareto_k"),
    "bernoulli": Kind(
        lambda: intercepts(family="bernoulli"),
        "yes",
        MOVES,
        "rank forest shrinkage funnel acceptance predictive pareto_k",
    ),
    "flat": Kind(
        lambda: CompletePooling(["x"], priors="tutorial"),
        options=FAST,
        figures="rank forest predictive pareto_k",
        grouped=False,
    ),
    "correlated": Kind(lambda: CorrelatedEffects("school", ["x"], priors="tutorial"), options=FAST),
    "one chain": Kind(intercepts, options={**FAST, "chains": 1}, figures="forest shrinkage funnel predictive pareto_k"),
    "prior": Kind(intercepts, options={**MOVES, "prior_only": True}, figures="rank forest shrinkage funnel acceptance"),
    "own": Kind(Own, options=MOVES, figures="rank forest"),
    "population": Kind(
        intercepts,
        options={**FAST, "keep": ["mu_alpha", "sigma_alpha", "beta", "sigma_y"]},
        figures="rank forest predictive pareto_k",
    ),
}


class Run:
    """A posterior, and what was written of it."""

    def __init__(self, posterior, folder, seconds):
        self.posterior, self.folder, self.seconds = posterior, folder, seconds
        self.main = load(folder)
        self.chains = [load(folder / f"chain_{c}") for c in range(min(posterior.chains, 2))]

    @property
    def parts(self):
        return [self.main, *self.chains]

    def last(self, tag):
        return self.main.Scalars(tag)[-1].value

    def tags(self, start):
        return [tag for tag in self.main.Tags()["scalars"] if tag.startswith(start)]

    def levels(self, kind):
        """Level -> last value of `variance/<level>/<kind>`."""
        found = [re.fullmatch(f"variance/(.*)/{kind}", tag) for tag in self.tags("variance/")]
        return {tag[1]: self.last(tag[0]) for tag in found if tag}


def fitted(model, data, log_dir=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an error of the dashboard is a warning
        warnings.filterwarnings("ignore", category=SamplingWarning, message="(?!TensorBoard).*")
        return ht.sample(model, data, **{"progress": False, "compile": False, "seed": 3, **options}, log_dir=log_dir)


def state():
    return torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(kind)`: made when it is first asked for, with time for all that a run is closed with."""
    made, right = {}, closing.closing

    def make(kind):
        if kind not in made:
            what, folder = KINDS[kind], tmp_path_factory.mktemp("runs") / "run"
            data = ht.Data.from_frame(frame(), response=what.response, groups=["school"], predictors=["x"])
            before, began = state(), time.perf_counter()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(closing, "closing", lambda posterior, seconds: right(posterior, 60.0))
                posterior = fitted(what.model(), data, folder, **what.options)
            seconds = time.perf_counter() - began
            assert state() == before
            made[kind] = Run(posterior, folder, seconds)
        return made[kind]

    return make


each = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("kind", ["collapsed", pytest.param("moves", marks=pytest.mark.slow), "own"])
def test_no_draw_is_changed(kind, run):
    what, watched = KINDS[kind], run(kind).posterior
    data = ht.Data.from_frame(frame(), response=what.response, groups=["school"], predictors=["x"])
    alone = fitted(what.model(), data, **what.options)
    assert list(alone.draws) == list(watched.draws)
    for name, x in alone.draws.items():
        assert torch.equal(x, watched.draws[name]), name
    assert torch.equal(alone.stats.log_density, watched.stats.log_density)


@each
def test_curves(kind, run):
    found = run(kind)
    end = found.posterior.run["sweeps"]
    for part in found.parts:
        for tag in part.Tags()["scalars"]:
            steps = list(scalars(part, tag))  # which sees that they increase
            assert 0 < len(steps) <= 400 and steps[0] > 0, tag
            assert steps[-1] == end or tag.endswith("/adapt_delta"), tag
        for tag in part.Tags()["histograms"]:
            steps = [event.step for event in part.Histograms(tag)]
            assert 2 <= len(steps) <= 50 and (np.diff(steps) > 0).all() and steps[-1] == end, tag
    means = found.tags("posterior")
    bands = {tag.rpartition("/")[0] for tag in means}
    assert len(bands) == (24 if kind == "correlated" else len(found.posterior.summary()))
    assert len(means) == 3 * len(bands)
    for band in [*bands, *{tag.rpartition("/")[0] for tag in found.tags("trace_quantiles/")}]:
        middle = "mean" if band in bands else "q50"
        points = [found.main.Scalars(f"{band}/{part}") for part in ("q05", middle, "q95")]
        assert len({tuple(event.step for event in part) for part in points}) == 1, band
        assert all(a.value <= b.value <= c.value for a, b, c in zip(*points, strict=True)), band
    assert bool(found.tags("trace_quantiles/")) == (found.posterior.chains > 8)


@each
def test_every_chart_finds_its_curves(kind, run):
    found = run(kind)
    written = found.main.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(written)
    have = {tag for part in found.parts for tag in part.Tags()["scalars"]}
    titles = [category.title.split(":")[0] for category in layout.category]
    assert titles[:2] == ["1 Health", "2 Posterior mean with 5% to 95%"] and "4 Traces by chain" in titles
    assert ("3 Groups" in titles) == (KINDS[kind].grouped and kind != "own")
    for category in layout.category:
        assert category.chart
        for chart in category.chart:
            assert chart.margin.series or chart.multiline.tag
            for band in chart.margin.series:
                assert {band.value, band.lower, band.upper} <= have, chart.title
            for pattern in chart.multiline.tag:
                assert any(re.match(pattern, tag) for tag in have), (chart.title, pattern)


@each
def test_settings_and_metrics(kind, run):
    found = run(kind)
    posterior = found.posterior

    def data(name):
        content = found.main.SummaryMetadata(f"_hparams_/{name}").plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    settings = data("session_start_info").session_start_info.hparams
    assert settings["model"].string_value == posterior.run["model"] and settings["seed"].string_value == "3"
    collapsed = "collapse" not in KINDS[kind].options
    assert settings["kernel"].string_value in (("collapsed",) if collapsed else ("ordinary", "joint"))
    assert data("session_end_info").session_end_info.status == 1  # success
    listed = {metric.name.tag for metric in data("experiment").experiment.metric_infos}
    written = set(found.tags("metric/")) - {"metric/p_loo"}  # for which the table has no room
    assert written <= listed
    missing = {"metric/rhat_max"} if kind == "one chain" else set()
    missing |= {"metric/elpd_loo"} if kind in ("prior", "own") else set()
    assert listed - written == missing
    mixing = posterior.summary(kind="diagnostics")
    least = min(mixing["ess_bulk"].min(), mixing["ess_tail"].min())
    assert found.last("metric/ess_min") == pytest.approx(least, rel=1e-4)
    if kind != "one chain":
        assert found.last("metric/rhat_max") == pytest.approx(mixing["r_hat"].max(), abs=1e-5)
        assert found.last("convergence/n_bad_rhat") == (mixing["r_hat"] > 1.01).sum()
    assert least / found.seconds < found.last("metric/ess_per_s")
    assert found.last("perf/ess_per_s") == found.last("metric/ess_per_s")


def log_likelihood(kind, posterior):
    """Of all draws in their order, `(draws, rows)`, by SciPy."""
    table = frame()
    school = table["school"].astype("category").cat.codes.to_numpy()
    x = {name: value.flatten(0, 1).numpy() for name, value in posterior.draws.items()}
    if kind == "flat":
        eta = x["alpha"] + x["beta"][:, 0] * table["x"].to_numpy()
    elif kind == "correlated":
        eta = x["effects"][:, school, 0] + x["effects"][:, school, 1] * table["x"].to_numpy()
    else:
        eta = x["alpha"][:, school] + x["beta"][:, 0] * table["x"].to_numpy()
    if kind == "bernoulli":
        return stats.bernoulli.logpmf(table["yes"].to_numpy(), special.expit(eta))
    return stats.norm.logpdf(table["y"].to_numpy(), eta, x["sigma_y"])


@pytest.mark.parametrize("kind", ["collapsed", "moves", "bernoulli", "flat", "correlated", "one chain"])
def test_elpd(kind, run):
    """sum_i -log mean_s 1 / p(y_i | draw s) of batches of successive draws tells the Monte Carlo error of as many."""
    found = run(kind)
    inverse = np.array_split(-log_likelihood(kind, found.posterior), 8)  # -log p
    elpd = [(math.log(len(x)) - special.logsumexp(x, 0)).sum() for x in inverse]
    error = np.std(elpd, ddof=1) * math.sqrt(len(inverse[0]) / min(4000, 8 * len(inverse[0])))
    assert error < 1.0
    criterion = found.posterior.criterion(draws=None)
    assert abs(found.last("metric/elpd_loo") - criterion.elpd) < 4 * error
    assert abs(found.last("metric/elpd_loo") - np.mean(elpd)) < 4 * max(error, np.std(elpd, ddof=1))
    assert abs(found.last("metric/p_loo") - criterion.p) < 4 * error
    said = text(found.main, "2_summary/prediction")
    assert f"elpd (LOO by row) {found.last('metric/elpd_loo'):.1f} (se " in said


@pytest.mark.parametrize("kind", ["collapsed", "moves", "bernoulli", "correlated", "one chain", "prior"])
def test_pooling(kind, run):
    """lambda of batches of successive draws, by its formula, tells the Monte Carlo error of a glance at 200 draws."""
    found = run(kind)
    draws = {name: x.flatten(0, 1).numpy() for name, x in found.posterior.draws.items()}
    if kind == "correlated":
        columns = found.posterior.event_labels["effects"][0]
        levels = {
            f"effects[{columns[0]}]": draws["effects"][:, :, 0] - draws["mu_alpha"],
            f"effects[{columns[1]}]": draws["effects"][:, :, 1] - draws["mu_beta"][:, 0],
        }
    else:
        levels = {"alpha": draws["alpha"] - draws["mu_alpha"]}
    table = found.posterior.pooling().table
    assert set(found.tags("pooling/")) == {f"pooling/{level}" for level in levels}
    for level, error in levels.items():
        batches = np.array_split(error, 8)
        factors = [1 - x.mean(0).var() / x.var(1).mean() for x in batches]
        spread = np.std(factors, ddof=1) * math.sqrt(len(batches[0]) / min(200, len(error)))
        assert abs(found.last(f"pooling/{level}") - table.loc[level, "pooling"]) < 4 * spread, level
        assert spread < 0.15


@each
def test_shares_of_variance(kind, run):
    found = run(kind)
    shares = found.levels("share")
    if not KINDS[kind].grouped or kind == "own":
        assert not shares
        return
    assert set(shares) == set(found.levels("of_y")) == {"school", "rows"}
    assert all(0 <= share <= 1 for share in shares.values()) and sum(shares.values()) == pytest.approx(1, abs=1e-5)
    if kind in ("collapsed", "moves"):
        draws = found.posterior.draws
        part = draws["sigma_alpha"] ** 2 / (draws["sigma_alpha"] ** 2 + draws["sigma_y"] ** 2)
        assert abs(shares["school"] - part.mean().item()) < 4 * part.std().item() / math.sqrt(
            50
        )  # of 200, few effective


def table(markdown):
    """Name -> cells of a table of Markdown."""
    rows = [re.split(r"(?<!\\) ?\| ?", line.strip()[1:-1]) for line in markdown.splitlines() if line.startswith("|")]
    return [cell.strip() for cell in rows[0]], {row[0].strip().replace("\\|", "|"): row[1:] for row in rows[2:]}


@each
def test_the_table_is_that_of_the_posterior(kind, run):
    found = run(kind)
    head, rows = table(text(found.main, "2_summary/posterior"))
    summary = found.posterior.summary(ci_prob=0.9)
    if kind == "correlated":  # L is shown without what can't vary; rho is not followed
        summary = summary.loc[[name for name in rows if name in summary.index]]
        assert len(summary) >= 20
    else:
        assert sorted(rows) == sorted(summary.index)
    columns = ["mean", "sd", *[c for c in summary if c.startswith("eti")], "mcse_mean", "r_hat", "ess_bulk", "ess_tail"]
    names = ["mean", "sd", "5%", "95%", "MCSE", "R-hat", "bulk ESS", "tail ESS"]
    assert head[1:9] == names
    for name, expected in summary[columns].iterrows():
        for column, cell, value in zip(names, rows[name], expected, strict=False):
            if column == "R-hat" and kind == "one chain":
                continue
            decimals = len(cell.partition(".")[2])
            rounding = 0.06 * abs(value) if column == "MCSE" else 0.51 * 10.0**-decimals
            number = float(cell.replace(",", ""))
            assert number == pytest.approx(value, abs=rounding + 1e-6 * abs(value)), (name, column)
    assert f"{found.posterior.chains * found.posterior.n_draws:,} draws after warm-up" in text(
        found.main, "2_summary/posterior"
    )


@each
def test_the_groups_that_mix_worst_have_their_labels(kind, run):
    found = run(kind)
    if not KINDS[kind].grouped or kind == "population":
        assert "2_summary/worst_groups" not in found.main.Tags()["tensors"]
        return
    _, rows = table(text(found.main, "2_summary/worst_groups"))
    assert len(rows) == 10
    summary = found.posterior.summary()
    assert all(any(f"[{school}" in name for school in SCHOOLS) for name in rows)
    rhat = summary.loc[list(rows), "r_hat"]
    if kind != "one chain":
        effects = summary[summary.index.str.contains(r"^(?:alpha|effects)\[")]
        assert rhat.iloc[0] == effects["r_hat"].max() and rhat.is_monotonic_decreasing


@each
def test_figures_are_pictures(kind, run):
    found = run(kind)
    figures = set(found.main.Tags()["images"])
    assert figures == {f"figures/{name}" for name in ("pair", *KINDS[kind].figures.split())}
    for tag in figures:
        image = Image.open(io.BytesIO(found.main.Images(tag)[-1].encoded_image_string))
        assert (image.format, image.size) == ("PNG", SIZE), tag
        image.load()
        assert len(image.convert("RGB").getcolors(2**20)) > 3, tag  # lines, letters and what is drawn


@each
def test_acceptance_by_group(kind, run):
    found = run(kind)
    tags = [tag for tag in found.main.Tags()["histograms"] if tag.endswith("/accept_by_group")]
    blocks = [block for block, rate in found.posterior.stats.acceptance.items() if rate.ndim > 1]
    assert len(tags) == len(blocks) == ("collapse" in KINDS[kind].options and kind != "own")
    for tag in tags:
        last = found.main.Histograms(tag)[-1].histogram_value
        assert last.num == len(SCHOOLS) and 0 < last.min <= last.max <= 1


@pytest.mark.parametrize("kind", ["collapsed", "moves"])
def test_tags_of_blocks_have_no_signs_for_which_custom_scalars_draws_no_curve(kind, run):
    found = run(kind)
    tags = [tag for tag in found.tags("sampler/block/") if tag.endswith("/accept_rate")]
    assert len(tags) == len(found.posterior.stats.acceptance)
    assert not any(set("(),") & set(tag) for tag in tags)
    assert all(0.0 < value <= 1.0 for tag in tags for value in scalars(found.main, tag).values())


@each
def test_the_verdict(kind, run):
    found = run(kind)
    lines = text(found.main, "2_summary/verdict").splitlines()
    posterior = found.posterior
    sweeps = posterior.run["sweeps"]
    assert lines[0].startswith(f"- **Finished** after {sweeps} of {sweeps} sweeps of {posterior.chains} chain")
    assert lines[0].endswith(f"with {posterior.n_draws} draws a chain.")


# One folder, several runs


class Stop(Monitor):
    """Ctrl-C after so many sweeps."""

    def __init__(self, sweep):
        self.sweep = sweep

    def window(self, window):
        if window.sweep >= self.sweep:
            raise KeyboardInterrupt


def school_data():
    return ht.Data.from_frame(frame(), response="y", groups=["school"], predictors=["x"])


@pytest.mark.slow
@pytest.mark.parametrize(("collapse", "draws"), [(True, 6000), (False, 200)])
def test_an_interrupted_run_goes_on(collapse, draws, tmp_path):
    options = {"collapse": collapse, "chains": 4, "warmup": 100, "draws": draws, "thin": 1}
    first = fitted(intercepts(), school_data(), tmp_path, monitors=[Stop(200)], **options)
    assert first.interrupted and 50 <= first.n_draws < draws
    done = first.run["sweeps"]
    assert text(load(tmp_path), "2_summary/verdict").startswith("- **Interrupted** after ")
    parts = [tmp_path, tmp_path / "chain_2"]
    before = [{tag: scalars(part, tag) for tag in part.Tags()["scalars"]} for part in map(load, parts)]
    second = fitted(intercepts(), school_data(), tmp_path, start=first, **{**options, "seed": 4})
    if collapse:
        alone = fitted(intercepts(), school_data(), start=first, **{**options, "seed": 4})
        assert all(torch.equal(x, alone.draws[name]) for name, x in second.draws.items())
    end = second.run["sweeps"]
    assert end == done + 100 + draws
    for part, earlier in zip(map(load, parts), before, strict=True):
        assert set(part.Tags()["scalars"]) >= set(earlier)
        for tag, old in earlier.items():
            now = scalars(part, tag)  # increasing
            assert old.items() <= now.items(), tag
            assert (
                (max(now) == end and min(step for step in now if step > done) <= done + 100 + draws / 2)
                or (tag.endswith("adapt_delta"))
                or tag.startswith("metric/")
            ), tag
    trace = scalars(load(parts[1]), "trace/sigma_y")
    values = second.draws["sigma_y"][2, :, 0]
    later = {step: value for step, value in trace.items() if step > done + 100}
    assert len(later) >= 150
    assert later == pytest.approx({step: values[step - done - 101].item() for step in later})
    assert text(load(tmp_path), "2_summary/verdict").startswith("- **Finished** after ")
    content = load(tmp_path).SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert plugin_data_pb2.HParamsPluginData.FromString(content).session_end_info.status == 1


@pytest.mark.slow
def test_curves_end_with_the_run_also_where_nothing_was_waiting(tmp_path, monkeypatch):
    """The last window may have been handled before anyone knew that it was the last."""
    monkeypatch.setattr(Worker, "put", lambda self, item: self._handle([item]))
    posterior = fitted(intercepts(), school_data(), tmp_path, chains=2, warmup=100, draws=6000, thin=1)
    end = posterior.run["sweeps"]
    for part in map(load, (tmp_path, tmp_path / "chain_1")):
        for tag in part.Tags()["scalars"]:
            points = scalars(part, tag)
            assert max(points) == end or tag.endswith("adapt_delta") or tag.startswith("metric/"), tag


@pytest.mark.slow
def test_a_second_run_takes_the_place_of_the_first(tmp_path):
    fitted(intercepts(), school_data(), tmp_path, collapse=False, chains=6, warmup=60, draws=60, thin=1)
    second = fitted(intercepts(), school_data(), tmp_path, **FAST)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [f"chain_{c}" for c in range(4)]
    found = Run(second, tmp_path, 1.0)
    for part in found.parts:
        for tag in part.Tags()["scalars"]:
            points = scalars(part, tag)
            assert math.isnan(points.pop(0, math.nan)), tag  # see Note [Two writers, one folder]
            others = tag.endswith("adapt_delta") or ("/block/" in tag and "/collapsed" not in tag)
            assert not points if others else max(points, default=0) == second.run["sweeps"], tag
    trace = scalars(found.chains[0], "trace/sigma_y")
    trace.pop(0, None)
    draws = second.draws["sigma_y"][0, :, 0]
    thin, warmup = second.run["thin"], second.run["warmup"]
    later = {step: value for step, value in trace.items() if step > warmup}
    assert later == pytest.approx({step: draws[(step - warmup) // thin - 1].item() for step in later})
    for tag in found.main.Tags()["histograms"]:
        assert [event.step for event in found.main.Histograms(tag) if event.histogram_value.num] or "accept" in tag


@pytest.mark.parametrize("own", ["response", "weights"])
def test_chains_with_data_of_their_own_are_shown_one_by_one(own, tmp_path):
    data, generator = school_data(), torch.Generator().manual_seed(1)
    several = (4, data.n_rows)
    if own == "response":
        data = data.replace(y=torch.randn(several, dtype=torch.float64, generator=generator))
    else:
        data = data.replace(weights=torch.rand(several, dtype=torch.float64, generator=generator))
    stream = io.StringIO()
    found = Run(fitted(intercepts(), data, tmp_path, monitors=[ProgressBar(stream)], **FAST), tmp_path, 1.0)
    assert len(scalars(found.chains[1], "trace/sigma_y")) > 200
    groups = {tag.split("/")[0] for tag in found.main.Tags()["scalars"]}
    assert groups == {"sampler", "perf"} and found.main.Tags()["histograms"] == []
    assert "R-hat" not in stream.getvalue() and "ESS" not in stream.getvalue()
    assert "Each chain has data of its own" in text(found.main, "2_summary/verdict")
    assert "**Convergence**" not in text(found.main, "1_run/contents")
