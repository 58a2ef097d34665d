"""Rows that a formula says are censored or truncated."""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import refused
from scipy import stats

import hiertorch as ht
from hiertorch.errors import DataError, ModelError

QUIET = {"chains": 4, "draws": 50, "seed": 1, "progress": False, "compile": False}
pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail).*:hiertorch.errors.SamplingWarning")


@pytest.fixture(scope="module")
def frame():
    n, r = 60, np.random.default_rng(3)
    g = np.repeat([*"uvwxyz"], 10)
    time = np.exp(r.normal(size=n) * 0.5 + np.repeat(r.normal(size=6), 10))
    status = 1 * (time < 2.0)
    return pd.DataFrame(
        {
            "time": np.minimum(time, 2.0),
            "x": r.normal(size=n),
            "g": g,
            "status": status,
            "late": status == 0,
            "code": 1 - status,
            "word": np.where(status == 1, "none", "right"),
            "kind": pd.Categorical(np.where(np.arange(n) % 3 == 0, "interval", "none")),
            "end": np.where(np.arange(n) % 3 == 0, 4.0, np.nan),
            "lo": 0.5 * np.minimum(time, 2.0),
        }
    )


def rows(model, data):
    """log densities of the rows at a draw from the prior, and what the base is there."""
    v = model.sample_prior(data, 3, torch.Generator().manual_seed(0))
    return model.log_likelihood(v, data), model.likelihood(model.values(v), data)


@pytest.mark.parametrize("code", ["late", "code", "word", "1 - status", "status == 0"])
def test_codes_are_words_numbers_truths_or_expressions(frame, code):
    model, data = ht.formula(f"time | cens({code}) ~ x + (1 | g)", frame, family="lognormal")
    found, made = rows(model, data)
    law = stats.lognorm(made.base.scale.numpy(), scale=np.exp(made.base.loc.numpy()))
    y = frame.time.to_numpy()
    np.testing.assert_allclose(found, np.where(frame.late, law.logsf(y), law.logpdf(y)), rtol=1e-9)
    assert "y ~" not in str(model) and "Censored(LogNormal(eta, sigma_y), cens)" in str(model)


@pytest.mark.parametrize("told", ["cens(kind, end)", "cens(kind, y2 = end)", "cens(kind, time + 1)"])
def test_intervals(frame, told):
    """Upper ends may be missing where there are none."""
    model, data = ht.formula(f"time | {told} ~ x", frame, family="weibull")
    found, made = rows(model, data)
    law = stats.weibull_min(made.base.concentration.numpy(), scale=made.base.scale.numpy())
    y = frame.time.to_numpy()
    end = y + 1.0 if "+" in told else frame.end.to_numpy()
    with np.errstate(all="ignore"):
        inside = np.log(law.cdf(end) - law.cdf(y))
    some = frame.kind.to_numpy() == "interval"
    good = ~some | (inside > -20)
    np.testing.assert_allclose(found[good], np.where(some, inside, law.logpdf(y))[good], rtol=1e-6)


@pytest.mark.parametrize(
    ("told", "low", "high"),
    [("lb = 0.01", 0.01, None), ("0.01, 3", 0.01, 3.0), ("lo, Inf", "lo", None), ("NULL, ub = 2 + x**2", None, "ub")],
)
def test_ends_are_numbers_columns_or_expressions(frame, told, low, high):
    model, data = ht.formula(f"time | trunc({told}) ~ x + (1 | g)", frame)
    found, made = rows(model, data)
    y, base = frame.time.to_numpy(), made.base
    a = frame[low].to_numpy() if isinstance(low, str) else -np.inf if low is None else low
    b = 2 + frame.x.to_numpy() ** 2 if isinstance(high, str) else np.inf if high is None else high
    m, s = base.loc.numpy(), base.scale.numpy()
    np.testing.assert_allclose(found, stats.truncnorm((a - m) / s, (b - m) / s, m, s).logpdf(y), rtol=1e-7)


def test_both_at_once_with_weights_and_standard_errors(frame):
    text = "time | cens(late) + trunc(lb = 0) + se(s) + weights(w) ~ x"
    model, data = ht.formula(text, frame.assign(s=0.5, w=2.0))
    found, made = rows(model, data)
    m, y = made.base.base.loc.numpy(), frame.time.to_numpy()
    law = stats.truncnorm(-m / 0.5, np.inf, m, 0.5)
    known = np.where(frame.late, law.logsf(y), law.logpdf(y))
    seen = np.isfinite(known) & (known > -200)
    np.testing.assert_allclose(found[seen], known[seen], rtol=1e-6)
    assert bool((data.weights == 2.0).all())


WRONG = {
    "time | cens(g) ~ x": (DataError, 'cens(g) is \'u\' in row 0 (from 0); it takes "none", "right"'),
    "time | cens(x) ~ x": (DataError, "cens(x) is", "it takes"),
    "time | cens(status + 1) ~ x": (DataError, "lies in an interval (2), and no upper end is told"),
    "time | cens(kind) ~ x": (DataError, "write cens(kind, y2)"),
    "time | cens(kind, lo) ~ x": (DataError, "is interval-censored from", "are above the response"),
    "time | cens(kind, g) ~ x": (DataError, "the upper ends 'g' are numbers"),
    "time | cens() ~ x": (ModelError, "cens() takes cens, y2, and nothing is told"),
    "time | cens(late, end, x) ~ x": (ModelError, "cens() takes cens, y2"),
    "time | cens(late) + cens(late) ~ x": (ModelError, "cens() is told twice"),
    "time | cens(lates) ~ x": (DataError, "no column 'lates'", "Did you mean 'late'"),
    "time | trunc(ub = 1) ~ x": (DataError, "above its upper end 1, where trunc() says that no row is seen"),
    "time | trunc(lb = time + 1) ~ x": (DataError, "below its lower end"),
    "time | trunc(-Inf, Inf) ~ x": (ModelError, "and nothing is told"),
    "time | trunc(ub = 1, lower = 2) ~ x": (ModelError, "trunc() takes lb, ub"),
    "time | trunc(3, 1) ~ x": (ModelError, "a higher high="),
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_ones_get_their_sentence(frame, text):
    error, *parts = WRONG[text]
    with refused(error, *parts):
        ht.formula(text, frame)


def test_counts_are_refused(frame):
    for told in ("cens(late)", "trunc(0)"):
        with refused(ModelError, "rows are those of a family of continuous ones", "poisson"):
            ht.formula(f"status | {told} ~ x", frame, family="poisson")


def test_missing_values(frame):
    """Of codes they are missing rows; of upper ends only where rows have them."""
    hole = frame.assign(kind=frame.kind.where(frame.index != 1), end=frame.end.where(frame.index != 0))
    with refused(DataError, "2 rows of 60 lack a value", "1 of 'kind', 2 of 'end'"):
        ht.formula("time | cens(kind, end) ~ x", hole)
    with pytest.warns(ht.SamplingWarning, match="2 rows lack a value"):
        _, data = ht.formula("time | cens(kind, end) ~ x", hole, na="drop")
    assert data.n_rows == 58


@pytest.mark.slow
def test_everything_that_is_asked_of_a_posterior(frame, tmp_path):
    """Saved and read again, predictions of rows without codes, updates by rows with them, and checks."""
    text = "time | cens(kind, end) + trunc(lb = 0) ~ x + (1 | g)"
    posterior = ht.fit(text, frame, **QUIET)
    posterior.save(tmp_path / "cut")
    again = ht.Posterior.load(tmp_path / "cut")
    new = frame[["x", "g"]].head(3)
    torch.testing.assert_close(again.predict(new, seed=1).draws, posterior.predict(new, seed=1).draws)
    drawn = posterior.predict(new, kind="response", seed=1).draws
    assert bool((drawn >= 0.0).all())
    with refused(DataError, "no column 'kind'"):
        posterior.predict(frame[["time", "x", "g"]].head(3))
    assert posterior.update(frame.head(2).assign(x=0.3), **QUIET).data.n_rows == 62
    assert posterior.conditional_effects("x").summary["mean"].notna().all()
    assert posterior.comparisons("x").summary["mean"].notna().all()
    names: dict[str, object] = {}
    exec(compile(posterior.model.source(posterior.data), "source", "exec"), names)
    own, v = names["FromFormula"](), posterior.model.sample_prior(posterior.data, 2, torch.Generator().manual_seed(1))
    v = {name: v[name] for name in posterior.model.latents}
    torch.testing.assert_close(own.log_prob(v, posterior.data), posterior.model.log_prob(v, posterior.data))
    assert posterior.criterion("loo").elpd < 0


@pytest.mark.slow
def test_predictive_checks_compare_what_would_be_seen_with_what_would_be_seen(frame):
    """Rows cut off at a number count with what they may have been, so that the mean is above that of the numbers."""
    frame = frame.assign(late=frame.time >= 1.0, time=frame.time.clip(upper=1.0))
    posterior = ht.fit("time | cens(late) ~ (1 | g)", frame, family="lognormal", **QUIET)
    check = posterior.predictive_check(draws=200, seed=2)
    assert check.observed["mean"] > float(frame.time.mean()) * 1.02
    assert float(check.observed["smallest"]) == frame.time.min() and check.observed["largest"] > 1.0
    assert 0.01 < check.table.loc["mean", "p"] < 0.99
    pit = check.loo_pit.values[frame.late.to_numpy()]
    assert pit.between(0, 1).all() and pit.std() > 0.05
    assert posterior.pooling().table.loc["rows", "r2"] > 0.2  # -0.33 of responses as they were cut off
