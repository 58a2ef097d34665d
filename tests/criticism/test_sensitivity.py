"""Power-scaling against `arviz_stats.psense` fed by hand, and against power-scaled posteriors that are known."""

import re
from functools import cache
from typing import Any

import arviz_base
import arviz_stats
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Gamma, HalfNormal, Normal

import hiertorch as ht
from hiertorch.criticism.sensitivity import CONFLICT, FINE, STRONG, sensitivity
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError, UnknownNameError
from hiertorch.models import NoPooling, VaryingIntercepts
from hiertorch.posterior import Posterior

pytestmark = pytest.mark.filterwarnings("ignore:(R-hat|Bulk|Tail|grouping|one never|Found chain).*")


class Level(ht.Model):
    """y_i ~ Normal(mu, 1),  mu ~ Normal(0, spread)."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.mu = ht.Latent(Normal(0.0, spread))

    def likelihood(self, v, data):
        return Normal(v.mu, 1.0)


def normal(prior_sd: float, y: np.ndarray, prior: float = 1.0, likelihood: float = 1.0) -> Any:
    """The posterior of mu in `Level`, prior and likelihood raised to powers."""
    precision = prior / prior_sd**2 + likelihood * len(y)
    return stats.norm(likelihood * y.sum() / precision, precision**-0.5)


def drawn(spread: float, y: np.ndarray, draws: int = 4000, seed: int = 0) -> Posterior:
    """Independent draws of mu."""
    x = normal(spread, y).rvs((4, draws // 4, 1), random_state=np.random.default_rng(seed))
    data = ht.Data(y)
    return Posterior(
        {"mu": torch.from_numpy(x)},
        plates={"mu": None},
        labels={},
        event_labels={},
        stats=Stats({}, {}, torch.zeros(4, draws // 4), {}),
        run={"seed": 1},
        origin=Fitted(Level(spread), data, data.y),
    )


def distance(p: Any, q: Any, low: float, high: float) -> float:
    """Cumulative Jensen-Shannon distance on an interval, the larger one of x and -x (Kallioinen et al. 2023, eq. 8)."""
    x = np.linspace(low, high, 20_001)
    found = []
    for one, two in ((p.cdf(x), q.cdf(x)), (p.sf(x), q.sf(x))):
        middle = (one + two) / 2
        terms = [np.where(f > 0, f * np.log2(np.where(f > 0, f, 1) / middle), 0) for f in (one, two)]
        found.append(np.trapezoid(terms[0] + terms[1], x) / np.trapezoid(one + two, x))
    return max(found) ** 0.5


@pytest.mark.parametrize(("spread", "shift"), [(0.3, 2.0), (0.1, 0.5), (20.0, 0.5)])
def test_conjugate_normal(spread, shift):
    """d CJS / d log2 a of the exact posteriors; over 100 sets of 4,000 draws the ratio to it has sd 0.06 at most."""
    y = np.random.default_rng(1).normal(shift, 1, 5)
    posterior = drawn(spread, y)
    found = sensitivity(posterior).table.loc["mu"]
    low, high = float(posterior["mu"].min()), float(posterior["mu"].max())
    base = normal(spread, y)
    for part in ("prior", "likelihood"):
        up, down = (normal(spread, y, **{part: a}) for a in (1.01, 0.99))
        exact = (distance(base, up, low, high) / np.log2(1.01) - distance(base, down, low, high) / np.log2(0.99)) / 2
        assert found[part] == pytest.approx(exact, rel=0.25, abs=2e-4), part


def test_diagnoses():
    """A narrow prior far from the rows is in conflict, a wide one is not heard."""
    y = np.random.default_rng(1).normal(0, 1, 20)
    assert sensitivity(drawn(0.3, y + 2)).table.loc["mu", "diagnosis"] == CONFLICT
    assert sensitivity(drawn(20.0, y)).table.loc["mu", "diagnosis"] == FINE
    narrow = sensitivity(drawn(0.02, y[:2] - y[:2].mean()))
    assert narrow.table.loc["mu", "diagnosis"] == STRONG
    assert re.search(r"mu moves with the priors \(0\.\d+, .*hardly with the data", narrow.sentences[0])
    assert "ht.prior_grid(model, data, 'mu')" in narrow.sentences[0]
    assert sensitivity(drawn(20.0, y)).sentences[0].startswith("No parameter moves with the priors by 0.05")


@cache
def few() -> Posterior:
    own = {"sigma_alpha": Gamma(20.0, 40.0), "mu_alpha": Normal(0.0, 20.0)}
    model = VaryingIntercepts("g", ["x"], priors={**own, "beta": Normal(0.0, 2.0), "sigma_y": Gamma(1.0, 1.0)})
    frame = ht.simulate_grouped({"g": 5}, 12, seed=3).frame.rename(columns={"group": "g"})
    data = ht.Data.from_frame(frame, "y", ["g"])
    return ht.sample(model, data, chains=4, draws=1000, seed=1, progress=False)


def test_equals_arviz_stats():
    """Groups log_prior and log_likelihood made here, one entry a latent and a row."""
    posterior = few()
    names, data = ["mu_alpha", "sigma_alpha", "sigma_y", "beta"], posterior.fitted.data
    d = {name: x.numpy() for name, x in posterior.draws.items()}
    log_prior = {
        "mu_alpha": stats.norm.logpdf(d["mu_alpha"], 0, 20),
        "sigma_alpha": stats.gamma.logpdf(d["sigma_alpha"], 20, scale=1 / 40),
        "sigma_y": stats.gamma.logpdf(d["sigma_y"], 1, scale=1),
        "beta": stats.norm.logpdf(d["beta"], 0, 2),
    }
    mean = d["alpha"][..., data["g"].numpy()] + d["beta"][..., 0] * data["x"].numpy()
    log_likelihood = stats.norm.logpdf(data.y.numpy(), mean, d["sigma_y"])
    tree = arviz_base.from_dict(
        {
            "posterior": {name: d[name] for name in names},
            "log_prior": log_prior,
            "log_likelihood": {"y": log_likelihood},
        }
    )
    found = sensitivity(posterior)
    for part in ("prior", "likelihood"):
        expected = arviz_stats.psense(tree, group=part)
        for row, name in (("mu_alpha", "mu_alpha"), ("sigma_alpha", "sigma_alpha"), ("beta[x]", "beta")):
            assert found.table.loc[row, part] == pytest.approx(float(np.squeeze(expected[name])), rel=1e-6), (part, row)
    expected = arviz_stats.psense(tree, group="prior", group_var_names=["sigma_alpha"])
    assert found.by_latent.loc["mu_alpha", "sigma_alpha"] == pytest.approx(float(np.squeeze(expected["mu_alpha"])))
    assert list(found.by_latent) == ["mu_alpha", "sigma_alpha", "beta", "sigma_y"]


def test_what_a_user_reads():
    found = few().sensitivity()
    assert found.table.loc["sigma_alpha", "prior"] > 0.05
    assert found.table.loc["beta[x]", "diagnosis"] == FINE
    assert any(
        re.match(r"sigma_alpha moves with the priors .*most with that of sigma_alpha", s) for s in found.sentences
    )
    assert found.sentences[0] in repr(found)
    assert max(map(len, repr(found).split("\n- ")[0].splitlines())) <= 120
    groups = few().sensitivity(["alpha"])
    assert list(groups.table.index) == [f"alpha[{label}]" for label in few().labels["g"]]


def test_priors_of_groups_that_are_not_pooled_count():
    """alpha_j ~ Normal(0, 5) reads no other latent: it is at the top level."""
    frame = ht.simulate_grouped({"g": 5}, 12, seed=3).frame.rename(columns={"group": "g"})
    data = ht.Data.from_frame(frame, "y", ["g"])
    posterior = ht.sample(NoPooling("g", ["x"], priors="tutorial"), data, chains=4, draws=200, seed=1, progress=False)
    assert {"alpha", "beta"} <= set(posterior.sensitivity().by_latent)


def test_what_can_not_be_asked():
    with pytest.raises(UnknownNameError, match="no latent 'gamma'"):
        few().sensitivity(["gamma"])

    class Fixed(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))
        s = ht.Latent(HalfNormal(1.0))
        one = ht.Derived(lambda v: torch.ones_like(v.mu))

        def likelihood(self, v, data):
            return Normal(v.mu, v.s)

    posterior = ht.sample(Fixed(), ht.Data([1.0, 2.0, 0.5]), chains=4, draws=100, seed=1, progress=False)
    with pytest.raises(DataError, match="no parameter of these varies"):
        posterior.sensitivity(["one"])
    bare = Posterior(posterior.draws, plates={}, labels={}, event_labels={}, stats=posterior.stats, run={})
    with pytest.raises(DataError, match="does not know its model"):
        bare.sensitivity()
