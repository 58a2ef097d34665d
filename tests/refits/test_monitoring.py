"""What later rows say, against normal algebra and sums over a grid; how often chance alone calls for a refit."""

import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import exact, gaussian, passed, pupils, scores, split, start
from scipy import stats

import hiertorch as ht
from hiertorch.errors import DataError
from hiertorch.models import VaryingIntercepts
from hiertorch.posterior import Posterior
from hiertorch.refits.calibration import STATISTICS
from hiertorch.refits.monitoring import monitor

pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail|grouping).*:hiertorch.errors.SamplingWarning")


def test_moves_of_groups_are_exact_in_a_gaussian_model():
    """Means and sds given all rows, from normal equations; Monte Carlo errors of 4,000 and 10,000 draws are below
    0.02 sds, and 0.08 is 4 of them.
    """
    fitted, later = split(scores())
    found = monitor(gaussian(), later, growth=1.0, new_groups=1.0)
    before, after = exact(fitted), exact(scores())
    grown = found.groups[found.groups["status"] == "grown"]
    assert len(grown) >= 3
    for (plate, label), row in grown.iterrows():
        name = f"alpha[{label}]"
        assert (plate, row["effect"]) == ("school", name)
        mean, sd = before[name]
        assert row["mean"] == pytest.approx(mean, abs=0.08 * sd)
        assert row["moves_to"] == pytest.approx(after[name][0], abs=0.08 * sd)
        assert row["shift"] == pytest.approx((after[name][0] - mean) / sd, abs=0.1)
        assert row["shrinkage"] == pytest.approx(sd**2 / 1.44, rel=0.1)  # B_j, as the scales are known
        assert row["shrinkage_after"] == pytest.approx(after[name][1] ** 2 / 1.44, rel=0.1)
        assert row["fitted"] == (fitted["school"] == label).sum()
        assert row["rows"] == (later["school"] == label).sum()
    new = found.groups.loc[("school", "h")]
    assert new["status"] == "new"
    assert new["fitted"] == 0
    assert np.isnan(new["shift"])
    for name in ("mu", "beta", "total"):
        row, sd = found.parameters.loc[name], before[name][1]
        assert row["mean_after"] == pytest.approx(after[name][0], abs=0.08 * sd)
        assert row["sd_after"] == pytest.approx(after[name][1], rel=0.06)
        assert row["shift"] == pytest.approx((after[name][0] - before[name][0]) / sd, abs=0.1)
    assert "sd of alpha" in found.parameters.index


def test_moves_of_groups_by_weights():
    """Each group by its own new rows, against sums over a grid given the fitted rows and these."""
    fitted, later = pupils(80), pupils(24, seed=8)
    found = monitor(start(fitted), later, growth=1.0).groups
    for (_, label), row in found.iterrows():
        own = passed(pd.concat([fitted, later[later["school"] == label]]))
        assert row["moves_to"] == pytest.approx(own[f"alpha[{label}]"], abs=0.12)  # 4 errors of 1,500 effective draws
        assert row["mean"] == pytest.approx(passed(fitted)[f"alpha[{label}]"], abs=0.1)
        assert row["pareto_k"] < 0.7
    shift = [passed(pd.concat([fitted, later[later["school"] == s]]))[f"alpha[{s}]"] for s in "abcdefgh"]
    moved = np.array(shift) - [passed(fitted)[f"alpha[{s}]"] for s in "abcdefgh"]
    assert np.corrcoef(moved, found["shift"])[0, 1] > 0.9


def predictive(fitted: pd.DataFrame, later: pd.DataFrame) -> Any:
    """The normal predictive distribution of rows of known schools in `KnownScales`."""
    schools = sorted(fitted["school"].unique())

    def design(frame: pd.DataFrame) -> np.ndarray:
        return np.column_stack([np.zeros(len(frame)), frame["x"], *[(frame["school"] == s) * 1.0 for s in schools]])

    precision = np.diag([1 / 25 + len(schools) / 1.44, 1 / 4, *[1 / 1.44] * len(schools)])
    precision[0, 2:] = precision[2:, 0] = -1 / 1.44
    x, new = design(fitted), design(later)
    cov = np.linalg.inv(precision + x.T @ x / 0.49)
    mean = new @ cov @ x.T @ fitted["y"].to_numpy() / 0.49
    return stats.norm(mean, np.sqrt(np.einsum("ij,jk,ik->i", new, cov, new) + 0.49))


def test_calibration_is_that_of_the_predictive_distribution():
    fitted, _ = split(scores())
    later = scores(seed=0, rows=60)[lambda f: f["school"] != "h"].reset_index(drop=True)
    later = later.assign(y=later["y"] + np.random.default_rng(3).normal(0, 0.3, len(later)))
    found, exactly = monitor(gaussian(), later, growth=9.0), predictive(fitted, later)
    assert np.allclose(found.pit, exactly.cdf(later["y"]), atol=0.05)  # 2,000 draws: 4 errors are 0.045
    for probability, name in ((0.5, "50% intervals"), (0.9, "90% intervals")):
        low, high = exactly.interval(probability)
        held = ((later["y"] >= low) & (later["y"] <= high)).mean()
        assert found.calibration.loc[name, "found"] == pytest.approx(held, abs=2.5 / len(later))
        assert found.calibration.loc[name, "expected"] == pytest.approx(probability, abs=0.03)
    score = found.calibration.loc["log score", "found"]
    assert score == pytest.approx(exactly.logpdf(later["y"]).mean(), abs=0.03)
    mean = found.calibration.loc["mean residual", "found"]
    assert mean == pytest.approx(((later["y"] - exactly.mean()) / exactly.std()).mean(), abs=0.05)
    assert tuple(found.calibration.index) == STATISTICS


LEVELS = np.random.default_rng(0).normal(0, 1, 20)


def rows(
    rng: np.random.Generator,
    number: int,
    levels: np.ndarray = LEVELS,
    slope: float = 0.6,
    noise: float = 0.8,
    shift: float = 0.0,
) -> pd.DataFrame:
    g, x = rng.integers(len(levels), size=number), rng.normal(size=number)
    y = levels[g] + slope * x + noise * rng.normal(size=number) + shift * (g < 5)
    return pd.DataFrame({"g": [f"g{i:02d}" for i in g], "x": x, "y": y})


def fit(frame: pd.DataFrame, **settings: Any) -> Posterior:
    own = {"chains": 8, "draws": 500, "seed": 1, "progress": False, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ht.sample(VaryingIntercepts("g", ["x"], priors="tutorial"), ht.Data.from_frame(frame, "y", ["g"]), **own)


@cache
def fitted() -> Posterior:
    return fit(rows(np.random.default_rng(1), 200))


DRIFTS = {
    "noise": ({"noise": 1.6}, "intervals hold|less likely"),
    "slope": ({"slope": -0.3}, "its slope has drifted"),
    "groups": ({"shift": 3.0}, "a group's new rows .* its level has drifted"),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_is_called(kind):
    changed, reason = DRIFTS[kind]
    found = monitor(fitted(), rows(np.random.default_rng(2), 40, **changed))
    assert found.due
    assert re.search(reason, " ".join(found.reasons))
    assert found.reasons[0] in " ".join(repr(found).split())


def test_rows_like_those_fitted_call_for_nothing():
    found = monitor(fitted(), rows(np.random.default_rng(2), 40))
    assert not found.due
    assert "No refit is due" in repr(found)
    assert max(map(len, repr(found).splitlines())) <= 120


def test_effects_that_were_not_stored():
    unstored = fit(rows(np.random.default_rng(1), 200), keep=["mu_alpha", "sigma_alpha", "beta", "sigma_y"])
    later = rows(np.random.default_rng(2), 40)
    one, two = monitor(unstored, later).groups, monitor(fitted(), later).groups
    assert np.allclose(one["shift"], two["shift"], atol=0.12)
    assert np.allclose(one["shrinkage"], two["shrinkage"], rtol=0.15)


def test_news():
    later = rows(np.random.default_rng(2), 40)
    more = later.assign(g=later["g"].where(later.index >= 6, [f"new{i // 2}" for i in range(40)]))
    found = monitor(fitted(), more)
    assert "3 groups are new (g 'new0', 'new1', 'new2') beside 20 that were fitted, more than 10%." in found.reasons
    assert not any("groups are new" in text for text in monitor(fitted(), more, new_groups=0.2).reasons)
    reasons = monitor(fitted(), rows(np.random.default_rng(2), 60)).reasons
    assert "60 rows are new beside 200 that were fitted, more than 25%." in reasons


def test_rows_that_no_draw_explains():
    """Weights fail, which is said; the rows are judged nevertheless."""
    later = rows(np.random.default_rng(2), 40).assign(y=lambda f: f["y"] + 60)
    found = monitor(fitted(), later)
    assert found.due
    assert found.parameters["shift"].isna().all()
    assert "so that it is not known how parameters move" in " ".join(repr(found).split())


def test_what_can_not_be_asked():
    later = rows(np.random.default_rng(2), 40)
    with pytest.raises(DataError, match=r"false_alarm= is a probability from 0\.01 to 1; found 0"):
        monitor(fitted(), later, false_alarm=0.0)
    with pytest.raises(DataError, match="growth= is a share of what was fitted"):
        monitor(fitted(), later, growth=-1.0)
    with pytest.raises(DataError, match="no column 'y'"):
        monitor(fitted(), later.drop(columns="y"))


@pytest.mark.slow
def test_false_alarms():
    """Sets of 20 rows of known and new groups from the model, each after a fit of its own: at most 5 % should call for
    a refit. More than 8 of 60 would, with probability 4e-3 at that rate.
    """
    called = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        levels = rng.normal(0, 1, 21)
        posterior = fit(rows(rng, 200, levels[:20]))
        called += monitor(posterior, rows(rng, 20, levels), new_groups=1.0).due
    assert called <= 8


@pytest.mark.slow
def test_power():
    """Doubled noise in 40 rows is called in more than 15 of 20 sets (found when written: 20)."""
    rng = np.random.default_rng(3)
    assert sum(monitor(fitted(), rows(rng, 40, noise=1.6)).due for _ in range(20)) > 15
