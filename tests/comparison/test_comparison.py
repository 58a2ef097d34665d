"""Which model predicts better: the table against arithmetic by hand, grids and arviz_stats; every kind of verdict."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, special, stats

import hiertorch as ht
from hiertorch.comparison.averaging import bootstrapped, stacked
from hiertorch.comparison.compare import Comparison, compare
from hiertorch.comparison.criteria import Criterion, question
from hiertorch.errors import DataError, HiertorchError
from hiertorch.models import CompletePooling, MixedEffects, NoPooling, VaryingIntercepts


def made(
    elpd: Any, *, k: Any = None, kind: str = "loo", by: str = "row", p: float = 3.0, index: Any = None, **more: Any
) -> Criterion:
    """A criterion of these pointwise values."""
    elpd = np.asarray(elpd, float)
    table = pd.DataFrame({"elpd": elpd, "p": p / len(elpd)}, index=index)
    if kind == "loo":
        table["pareto_k"] = 0.1 if k is None else k
    se = float(np.sqrt(len(elpd) * elpd.var()))
    return Criterion(kind, by, float(elpd.sum()), se, p, table, question=question(by), **more)


def apart(difference: float, se: float, n: int = 200, seed: int = 0, **more: Any) -> dict[str, Criterion]:
    """Two criteria whose elpd differ by so much, with that standard error of the difference."""
    rng = np.random.default_rng(seed)
    base, gap = rng.normal(-2, 1, n), rng.normal(size=n)
    gap = (gap - gap.mean()) / gap.std() * se / np.sqrt(n) + difference / n
    return {"worse": made(base - gap, **more), "better": made(base, **more)}


# ---- the table -------------------------------------------------------------------------------------------------------


def test_table_by_hand():
    a, b = made([-1.0, -2.0, -3.0, -2.0], p=2.0, k=[0.1, 0.2, 0.6, 0.3]), made([-1.0, -4.0, -3.0, -4.0], p=5.0)
    table = compare({"b": b, "a": a}).table
    assert list(table.index) == ["a", "b"]
    assert list(table.columns) == ["elpd", "se", "p", "diff", "diff_se", "stacking", "pseudo_bma", "worst_k"]
    assert table["elpd"].tolist() == [-8.0, -12.0]
    assert table["se"].tolist() == pytest.approx([2.0**0.5, 6.0**0.5])  # sqrt(4 Var): variances 1/2 and 3/2
    assert table["p"].tolist() == [2.0, 5.0]
    assert table["diff"].tolist() == [0.0, -4.0]
    assert table["diff_se"].tolist() == pytest.approx([0.0, 2.0])  # gaps 0, 2, 0, 2 have variance 1
    assert table["worst_k"].tolist() == [0.6, 0.1]
    assert table["stacking"].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)  # a is nowhere worse
    assert table["pseudo_bma"].sum() == pytest.approx(1.0)


def test_table_equals_that_of_arviz():
    arviz_stats = pytest.importorskip("arviz_stats")
    xarray = pytest.importorskip("xarray")
    from arviz_stats.utils import ELPDData

    rng = np.random.default_rng(1)
    base = rng.normal(-2, 1, (300, 1))
    values = base + rng.normal(0, 0.4, (300, 4)) + [0.0, -0.004, -0.02, 0.01]
    ours = compare({f"m{j}": made(values[:, j], p=j + 1.0) for j in range(4)})
    same = {"n_samples": 4000, "n_data_points": 300, "scale": "log", "warning": False, "good_k": 0.7}
    try:
        theirs = {
            f"m{j}": ELPDData(
                kind="loo",
                elpd=values[:, j].sum(),
                se=np.sqrt(300 * values[:, j].var()),
                p=j + 1.0,
                elpd_i=xarray.DataArray(values[:, j], dims="row"),
                **same,
            )
            for j in range(4)
        }
    except TypeError:
        pytest.skip("this arviz_stats makes ELPDData otherwise")
    found = arviz_stats.compare(theirs, method="stacking")
    assert list(found.index) == list(ours.table.index)
    for column in ("elpd", "se", "p"):
        assert ours.table[column].to_numpy() == pytest.approx(found[column].to_numpy(), rel=1e-10)
    assert ours.table["diff"].abs().to_numpy() == pytest.approx(found["elpd_diff"].abs().to_numpy(), abs=1e-9)
    assert ours.table["diff_se"].to_numpy() == pytest.approx(found["dse"].to_numpy(), abs=1e-9)
    assert ours.table["stacking"].to_numpy() == pytest.approx(found["weight"].to_numpy(), abs=2e-3)  # their optimiser's
    theirs_bma = arviz_stats.compare(theirs, method="bb-pseudo-bma")["weight"]
    # Two means of 1,000 weights, each of sd below 1/2, differ by more than 0.1 with probability below 1e-5.
    assert ours.table["pseudo_bma"].to_numpy() == pytest.approx(theirs_bma.to_numpy(), abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_stacking_equals_a_grid(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(-2, 1, (40, 1)) + rng.normal(0, 1, (40, 2))
    grid = np.linspace(0, 1, 100_001)
    score = sum(np.log(grid * np.exp(a) + (1 - grid) * np.exp(b)) for a, b in values)
    assert stacked(values)[0] == pytest.approx(grid[score.argmax()], abs=2e-5)


@pytest.mark.parametrize(("n", "number"), [(30, 3), (500, 7), (5_000, 12)])
def test_stacking_is_optimal(n, number):
    """The slope of the mean log score, a concave function, towards each corner bounds what is left to gain."""
    rng = np.random.default_rng(n)
    values = rng.normal(-600, 5, (n, 1)) + rng.normal(0, 0.3, (n, number)) + rng.normal(0, 0.05, number)
    weights = stacked(values)
    log_mixture = special.logsumexp(values, b=weights, axis=1, keepdims=True)
    assert np.exp(values - log_mixture).mean(0).max() - 1 < 1e-7
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()


def test_stacking_of_extremes():
    assert stacked(np.array([[-1.0, -2000.0]] * 5)) == pytest.approx([1.0, 0.0], abs=1e-6)
    assert stacked(np.array([[0.0, -2000.0], [-2000.0, 0.0]])) == pytest.approx([0.5, 0.5])
    assert stacked(np.full((6, 3), -4.0)) == pytest.approx([1 / 3] * 3)


def test_pseudo_bma_of_many_rows_has_its_limit():
    """n sum_i a_i gap_i with Dirichlet weights is nearly Normal(sum gap, sqrt(n) sd(gap))."""
    gap = np.random.default_rng(3).normal(0.0, 0.04, 2_000)
    mean, sd = gap.sum(), np.sqrt(len(gap)) * gap.std()
    expected = integrate.quad(lambda z: stats.norm.pdf(z, mean, sd) * special.expit(z), mean - 9 * sd, mean + 9 * sd)[0]
    found = bootstrapped(np.stack([gap - 50.0, np.full(2_000, -50.0)], 1), seed=5)
    # The sd of a weight is 0.32 here, so that of the mean of 1,000 is 0.01: 4 of these are missed once in 16,000.
    assert found[0] == pytest.approx(expected, abs=0.04)
    assert not np.array_equal(found, bootstrapped(np.stack([gap - 50.0, np.full(2_000, -50.0)], 1), seed=6))


def test_pseudo_bma_in_parts_is_the_same_weighting(monkeypatch):
    values = np.random.default_rng(0).normal(-2, 1, (900, 2)) * [1.0, 1.02]
    whole = bootstrapped(values)
    monkeypatch.setattr("hiertorch.comparison.averaging.NUMBERS", 100_000)  # nine parts
    assert bootstrapped(values) == pytest.approx(whole, abs=0.09)  # 4 sd of a difference of means of 1,000
    assert compare({"a": made(values[:, 0]), "b": made(values[:, 1])}).table["pseudo_bma"].sum() == pytest.approx(1.0)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_a_difference_that_is_clear():
    comparison = compare(apart(30.0, 5.0))
    assert (comparison.best, comparison.indistinguishable) == ("better", [])
    assert comparison.verdict == (
        "'better' predicts new rows best: 'worse' (30.0 lower, se 5.0), by more than 4 and by more than two standard "
        "errors of the difference."
    )


@pytest.mark.parametrize(
    ("difference", "se", "n", "why"),
    [
        (3.9, 0.1, 200, "since a difference below 4 is small, whatever its standard error"),
        (9.9, 5.0, 200, "since that is no more than two standard errors of the difference"),
        (15.0, 5.0, 99, "since that is no more than four standard errors of the difference"),
        (15.0, 5.0, 100, ""),
        (20.1, 5.0, 99, ""),
        (4.1, 0.1, 200, ""),
    ],
)
def test_margins(difference, se, n, why):
    comparison = compare(apart(difference, se, n))
    assert comparison.indistinguishable == (["worse"] if why else [])
    if why:
        told = "'better' has the highest elpd, but these data can't tell whether it predicts new rows better than "
        assert comparison.verdict.startswith(f"{told}'worse' ({difference:.1f} lower, se {se:.1f}), {why}.")
    few = f"With only {n} rows a standard error may be half of what it should be"
    assert (few in comparison.verdict) == (n < 100)


def test_several_candidates_are_told_apart_one_by_one():
    rng = np.random.default_rng(4)
    base, noise = rng.normal(-2, 1, 400), rng.normal(0, 1, 400)
    noise = (noise - noise.mean()) / noise.std()
    candidates = {
        "far": made(base - 0.2 - 0.2 * noise, p=2.0),  # 80 lower, se 4
        "near": made(base - 0.02 - 0.3 * noise, p=4.0),  # 8 lower, se 6
        "top": made(base, p=20.0),
        "same": made(base - 0.002, p=4.5),  # 0.8 lower
    }
    comparison = compare(candidates)
    assert (comparison.best, comparison.indistinguishable) == ("top", ["same", "near"])
    first, second = comparison.verdict.split("\n")
    assert first == (
        "'top' has the highest elpd, but these data can't tell whether it predicts new rows better than 'same' (0.8 "
        "lower, se 0.0), since a difference below 4 is small, whatever its standard error; nor than 'near' (8.0 lower, "
        "se 6.0), since that is no more than two standard errors of the difference. Worse, by more than 4 and by more "
        "than two standard errors of the difference: 'far' (80.0 lower, se 4.0)."
    )
    assert second.startswith("If you have to choose among these, 'near' (p 4.0) or 'same' (p 4.5) has the fewest")


def test_the_far_one_is_not_suggested_though_it_is_simplest():
    assert "'far' (p" not in compare({**apart(1.0, 1.0), "far": made(np.full(200, -9.0), p=0.1)}).verdict


def test_a_high_k_that_matters():
    base, gap = np.random.default_rng(0).normal(-2, 1, 200), np.full(200, 0.01)
    gap[:20] = 2.0  # 20 rows from which the difference of 41.8 comes; without them it is 1.8
    k = np.r_[np.inf, np.full(19, 0.71), np.full(180, 0.69)]
    index = [f"r{i}" for i in range(200)]
    for bad in ("better", "worse"):
        candidates = {
            "worse": made(base - gap, index=index, k=k if bad == "worse" else 0.1),
            "better": made(base, index=index, k=k if bad == "better" else 0.1),
        }
        comparison = compare(candidates)
        assert comparison.indistinguishable == ["worse"]
        assert "since without rows of a high Pareto k that is no more than 4 or two standard errors" in (
            comparison.verdict
        )
        assert f"(Pareto k up to inf) for {bad!r} in row 'r0', 'r1', 'r2' and 17 more: leave these out exactly by " in (
            comparison.verdict
        )
        assert "posterior.refit(posterior.criterion('loo')), or take posterior.kfold()" in comparison.verdict
    assert compare({"worse": made(base - gap), "better": made(base)}).indistinguishable == []


def test_a_high_k_that_does_not_matter_is_named():
    candidates = apart(60.0, 5.0, by="school", index=[f"s{i}" for i in range(200)])
    candidates["worse"].pointwise.loc["s7", "pareto_k"] = 0.9
    comparison = compare(candidates)
    assert comparison.indistinguishable == []
    assert "predicts new groups of 'school' best" in comparison.verdict
    assert "(Pareto k up to 0.90) for 'worse' in group 's7': " in comparison.verdict
    assert "posterior.refit(posterior.criterion('loo', 'school'))" in comparison.verdict


def test_an_unknown_k_is_no_good_one():
    candidates = apart(60.0, 5.0)
    candidates["worse"].pointwise.loc[7, "pareto_k"] = np.nan
    assert "can't be trusted (no Pareto k) for 'worse' in row 7: " in compare(candidates).verdict
    candidates["worse"].pointwise.loc[8, "pareto_k"] = 0.8
    assert "can't be trusted (Pareto k up to 0.80) for 'worse' in row 8, 7: " in compare(candidates).verdict


def test_few_draws_lower_the_k_that_is_good():
    candidates = apart(60.0, 5.0, details={"good_k": 0.5}, k=[0.6] + [0.1] * 199)
    assert "Pareto k up to 0.60" in compare(candidates).verdict
    assert "Pareto k" not in compare(apart(60.0, 5.0, k=[0.6] + [0.1] * 199)).verdict


def test_dic_has_no_weights_and_other_criteria_their_warnings():
    comparison = compare(apart(30.0, 5.0, kind="dic"))
    assert comparison.table[["stacking", "pseudo_bma", "worst_k"]].isna().all(axis=None)
    assert comparison.indistinguishable == []
    waic = compare(apart(30.0, 5.0, kind="waic", warnings=["3 rows have p_waic above 0.4."]))
    assert "'better': 3 rows have p_waic above 0.4." in waic.verdict.split("\n")


def test_dic_without_values_by_row_makes_no_claim():
    bare = pd.DataFrame(index=range(150))
    a, b = (Criterion("dic", "row", elpd, float("nan"), 2.0, bare) for elpd in (-100.0, -150.0))
    comparison = compare({"a": a, "b": b})
    assert comparison.indistinguishable == ["b"]
    assert np.isnan(comparison.table.loc["b", "diff_se"])
    assert "'b' (50.0 lower), since this criterion has no values by row" in comparison.verdict
    assert "stacking" not in comparison.verdict


def test_many_candidates():
    base = np.random.default_rng(0).normal(-2, 1, 200)
    candidates = {f"m{j}": made(base - 0.001 * j) for j in range(12)}
    assert "Of 12 candidates the best looks better than it is" in compare(candidates).verdict
    candidates.pop("m11")
    assert "looks better than it is" not in compare(candidates).verdict


# ---- how it looks ----------------------------------------------------------------------------------------------------


def test_text():
    comparison = compare({**apart(3.0, 1.0), "a rather long name <of a model>": made(np.full(200, -3.0), kind="loo")})
    lines = repr(comparison).splitlines()
    assert max(map(len, lines)) <= 120
    head = next(i for i, line in enumerate(lines) if line.split() == list(comparison.table.columns))
    assert " ".join(lines[:head]) == f"LOO by row, 200 rows. {question('row')}"
    assert lines[head + 1].split()[0] == "better"
    assert lines[head + 1].split()[4:6] == ["0.0", "0.0"]
    page = comparison._repr_html_()
    assert "&lt;of a model&gt;" in page
    assert "<of a model>" not in page


def test_figure():
    pytest.importorskip("arviz_plots")
    from matplotlib import pyplot

    held = pyplot.get_fignums()
    figure = compare({**apart(30.0, 5.0, n=50), "third": made(np.full(50, -4.0))}).plot()
    axes = figure.axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels[:2] == ["better\nthe best", "worse\n-30.0, se 5.0"]
    lines = [line.get_xdata() for line in axes.get_lines()]
    assert any(np.allclose(np.sort(x), [-50.0, -10.0]) for x in lines)  # four standard errors, since 50 rows are few
    assert any(np.allclose(x, -4.0) for x in lines)
    assert "4 standard errors" in axes.get_xlabel()
    assert pyplot.get_fignums() == held  # a notebook shows what pyplot holds once more


def test_a_figure_without_its_packages(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arviz_plots", None)
    with pytest.raises(HiertorchError, match=r"^a figure needs arviz_plots: pip install 'hiertorch\[plots\]'\.$"):
        compare(apart(1.0, 1.0)).plot()


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "options", "sentence"),
    [
        ({"a": made([-1.0] * 5)}, {}, "^compare takes at least two candidates by name, .*; found 1.$"),
        ([made([-1.0]), made([-2.0])], {}, "^compare takes at least two candidates by name, .*; found list.$"),
        (
            {"a": made([-1.0] * 5), "b": 3.0},
            {},
            "^candidate 'b' should be a posterior .* or a criterion.*found float.$",
        ),
        (
            {"a": made([-1.0] * 5), "b": made([-1.0] * 5, kind="waic")},
            {},
            "^candidate 'b' is 'waic' by 'row', and 'loo' by 'row' is compared",
        ),
        (
            {"a": made([-1.0] * 5), "b": made([-1.0] * 5, by="school")},
            {},
            "^candidate 'b' is 'loo' by 'school', and 'loo' by 'row'",
        ),
        (
            {"a": made([-1.0] * 5), "b": made([-1.0] * 5)},
            {"kind": "waic"},
            "^candidate 'a' is 'loo' by 'row', and 'waic'",
        ),
        (
            {"a": made([-1.0] * 5), "b": made([-1.0] * 6)},
            {},
            r"^candidates 'a' and 'b' are about different rows or groups \(5 and 6",
        ),
        (
            {"a": made([-1.0] * 2, index=["x", "y"]), "b": made([-1.0] * 2, index=["y", "x"])},
            {},
            "are about different rows or groups .*or in another order",
        ),
        (
            {"a": made([-1.0] * 3, index=["x", "y", "z"]), "b": made([-1.0, np.nan, -np.inf], index=["x", "y", "z"])},
            {},
            "^the elpd of candidate 'b' is not finite in 'y' and 1 more: its likelihood has a density of 0 or NaN",
        ),
        (
            {"a": Criterion("dic", "row", np.nan, np.nan, 1.0, pd.DataFrame(index=[0])), "b": made([1.0], kind="dic")},
            {},
            "^the elpd of candidate 'a' is not finite:",
        ),
    ],
)
def test_what_can_not_be_compared(candidates, options, sentence):
    with pytest.raises(DataError, match=sentence):
        compare(candidates, **options)


# ---- posteriors ------------------------------------------------------------------------------------------------------


def fit(model: ht.Model, data: ht.Data) -> ht.Posterior:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ht.SamplingWarning)
        return ht.sample(model, data, chains=8, warmup=150, draws=250, seed=1, progress=False, compile=False)


@pytest.fixture(scope="module")
def data() -> ht.Data:
    return ht.simulate_grouped({"school": 15}, 10, model=VaryingIntercepts("school", ["x"], priors="tutorial"), values={
        "mu_alpha": 0.0, "sigma_alpha": 1.5, "beta": 0.5, "sigma_y": 1.0,
    }, seed=1).data  # fmt: skip


@pytest.fixture(scope="module")
def posteriors(data: ht.Data) -> dict[str, ht.Posterior]:
    candidates = {
        "pooled": CompletePooling(["x"], priors="tutorial"),
        "varying": VaryingIntercepts("school", ["x"], priors="tutorial"),
        "mixed": MixedEffects("school", ["x"], priors="tutorial"),
        "alone": NoPooling("school", ["x"], priors="tutorial"),
    }
    return {name: fit(model, data) for name, model in candidates.items()}


@pytest.mark.parametrize("by", ["row", "school"])
def test_posteriors(posteriors, data, by):
    comparison = compare(posteriors, by=by)
    assert isinstance(comparison, Comparison)
    labels = data.index if by == "row" else data.labels["school"]
    for name, posterior in posteriors.items():
        criterion = posterior.criterion("loo", by)
        assert comparison.table.loc[name, "elpd"] == criterion.elpd
        assert comparison.criteria[name].pointwise.index.equals(labels)
    assert "varying" in [comparison.best, *comparison.indistinguishable]
    if by == "row":
        assert "pooled" not in [comparison.best, *comparison.indistinguishable]


def test_groups_of_complete_pooling(posteriors, data):
    """Against arviz_stats on the sums of the rows' log densities, worked out here from the draws."""
    arviz_stats, base = pytest.importorskip("arviz_stats"), pytest.importorskip("arviz_base")
    pooled, x, y = posteriors["pooled"], data.x.numpy(), data.y.numpy()
    alpha, beta, sigma = (pooled[name].numpy().reshape(8, 250, 1) for name in ("alpha", "beta", "sigma_y"))
    rows = stats.norm.logpdf(y, alpha + beta * x, sigma)
    groups = np.stack([rows[..., data.school.numpy() == j].sum(-1) for j in range(15)], -1)
    draws = {name: pooled[name].numpy().reshape(8, 250) for name in pooled.names}
    theirs = arviz_stats.loo(base.from_dict({"posterior": draws, "log_likelihood": {"y": groups}}), pointwise=True)
    ours = pooled.criterion("loo", "school")
    assert ours.pointwise["elpd"].to_numpy() == pytest.approx(theirs.elpd_i.to_numpy(), abs=1e-6)
    assert ours.pointwise["pareto_k"].to_numpy() == pytest.approx(theirs.pareto_k.to_numpy(), abs=1e-4)
    assert (ours.elpd, ours.se, ours.p) == pytest.approx((theirs.elpd, theirs.se, theirs.p))
    flat = groups.reshape(2000, 15)
    waic = special.logsumexp(flat, 0) - np.log(2000) - flat.var(0, ddof=1)
    assert pooled.criterion("waic", "school").pointwise["elpd"].to_numpy() == pytest.approx(waic)
    centre = stats.norm.logpdf(y, alpha.mean() + beta.mean() * x, sigma.mean())
    centre = np.bincount(data.school.numpy(), centre)
    dic = centre - 2 * (centre - flat.mean(0))
    assert pooled.criterion("dic", "school").pointwise["elpd"].to_numpy() == pytest.approx(dic)
    with pytest.raises(DataError, match=r"^by= is one of row, school; found 'c'"):
        pooled.criterion("loo", "c")
    with pytest.raises(DataError, match=r"^kind= is one of loo, waic, dic; found 'aic'"):
        pooled.criterion("aic", "school")


def test_groups_without_rows_are_left_out(posteriors, data):
    frame = pd.DataFrame({"y": data.y, "x": data.x, "school": data.school.numpy()})
    more = ht.Data.from_frame(frame, "y", ["school"], ["x"], labels={"school": range(20)})
    criteria = {name: fit(model, more).criterion("loo", "school") for name, model in {
        "pooled": CompletePooling(["x"], priors="tutorial"),
        "varying": VaryingIntercepts("school", ["x"], priors="tutorial"),
    }.items()}  # fmt: skip
    assert all(list(criterion.pointwise.index) == list(range(15)) for criterion in criteria.values())
    assert "5 of 20 groups have no rows that say anything, and are left out." in criteria["pooled"].warnings
    assert compare(criteria).by == "school"


def test_a_ready_criterion_beside_posteriors(posteriors):
    ready = posteriors["varying"].criterion("waic")
    comparison = compare({"ready": ready, "pooled": posteriors["pooled"]})
    assert comparison.kind == "waic"
    assert comparison.criteria["ready"] is ready
    kfold = Criterion("kfold", "row", -1.0, 1.0, 1.0, ready.pointwise[["elpd"]])
    with pytest.raises(DataError, match=r"^candidate 'pooled' is a posterior: give its posterior.kfold"):
        compare({"ready": kfold, "pooled": posteriors["pooled"]})


def test_posteriors_of_other_data(posteriors, data):
    frame = pd.DataFrame({"y": data.y, "x": data.x, "school": data.school.numpy()})

    def other(changed: pd.DataFrame, **options: Any) -> dict[str, ht.Posterior]:
        read = ht.Data.from_frame(changed, "y", ["school"], ["x"], **options)
        return {"a": posteriors["pooled"], "b": fit(CompletePooling(["x"], priors="tutorial"), read)}

    with pytest.raises(
        DataError, match=r"^candidates 'a' and 'b' were fitted to 150 and 149 rows: fit all to the same"
    ):
        compare(other(frame[:-1]))
    with pytest.raises(
        DataError, match=r"^candidates 'a' and 'b' were fitted to different responses: .* \(log y and y"
    ):
        compare(other(frame.assign(y=frame.y * 2)))
    with pytest.raises(DataError, match=r"^candidates 'a' and 'b' were fitted with different row weights"):
        compare(other(frame.assign(w=2.0), weights="w"))


def test_criteria_of_other_data(posteriors, data):
    """A criterion knows the data that it is about."""
    frame = pd.DataFrame({"y": data.y, "x": data.x, "school": data.school.numpy()})

    def criteria(changed: pd.DataFrame, by: str = "row", **options: Any) -> dict[str, ht.Criterion | ht.Posterior]:
        read = ht.Data.from_frame(changed, "y", ["school"], ["x"], **options)
        return {
            "a": posteriors["pooled"].criterion(by=by),
            "b": fit(CompletePooling(["x"], priors="tutorial"), read).criterion(by=by),
        }

    different = "^candidates 'a' and 'b' were fitted to different responses"
    for changed in (frame.assign(y=np.exp(frame.y)), frame.sample(frac=1, random_state=0).reset_index(drop=True)):
        found = criteria(changed)
        for one in (found, {**found, "a": posteriors["pooled"]}):
            with pytest.raises(DataError, match=different):
                compare(one)
    with pytest.raises(DataError, match="were fitted with different row weights"):
        compare(criteria(frame.assign(w=1.0 + (frame.index < 5)), weights="w"))
    with pytest.raises(DataError, match="have other rows in the groups of 'school'"):
        compare(criteria(frame.assign(school=np.roll(frame.school, 1)), "school"))
    compare(criteria(frame.assign(x=frame.x**2), weights=None, dtype=torch.float32))
