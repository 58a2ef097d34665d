"""What the dashboard shows of a finished run: PSIS-LOO against `arviz_stats`, replications against known moments."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from torch import Tensor
from torch.distributions import Normal

import hiertorch as ht
from hiertorch.dashboard import closing as module
from hiertorch.dashboard import loo
from hiertorch.dashboard.closing import Closing, closing
from hiertorch.draws.pareto import good_k
from hiertorch.draws.pointwise import Pointwise
from hiertorch.models import CompletePooling, VaryingIntercepts
from hiertorch.posterior import Posterior

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")

SEED = 61
PLENTY = 600.0
"""Seconds, so that a busy machine leaves nothing out."""


def pupils(rows: int = 60) -> ht.Data:
    rng = np.random.default_rng(SEED)
    school = np.arange(rows) % 6
    y = 10.0 * np.arange(rows) + rng.normal(size=6)[school] + rng.normal(size=rows)
    y[7] += 5.0  # which is hard to predict
    return ht.Data(y, groups={"school": [f"s{j}" for j in school]}, x=np.arange(rows))


def sampled(model: ht.Model, data: ht.Data, chains: int = 4, draws: int = 200, **settings: Any) -> Posterior:
    settings = {"warmup": 100, "seed": SEED, "progress": False, **settings}
    return ht.sample(model, data, chains=chains, draws=draws, **settings)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return sampled(VaryingIntercepts("school", ["x"], priors="tutorial"), pupils())


def by_arviz(densities: Tensor, efficiency: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """elpd, k and p of every row, of log densities `(chains, draws, rows)`."""
    flat = densities.flatten(0, 1).mT[:, None].numpy()
    return array_stats.loo(flat, chain_axis=1, draw_axis=2, r_eff=efficiency)


def test_loo_equals_arviz_stats(posterior: Posterior) -> None:
    data, found = posterior.data, closing(posterior, PLENTY)
    v = {name: posterior.draws[name] for name in ("alpha", "beta", "sigma_y")}
    mean = v["alpha"][..., data.school] + v["beta"][..., 0] * data.x
    ess = [float(array_stats.ess(x.flatten(2)[..., k].numpy(), chain_axis=0, draw_axis=1, method="mean"))
           for x in posterior.draws.values() for k in range(x.flatten(2).shape[2])]  # fmt: skip
    elpd, k, p = by_arviz(Normal(mean, v["sigma_y"]).log_prob(data.y), min(1.0, np.mean(ess) / 800))
    assert found.draws == 800 and found.notes == ()
    assert found.elpd == pytest.approx(elpd.sum(), abs=1e-8)
    assert found.se == pytest.approx(np.sqrt(60 * elpd.var()), abs=1e-8)
    assert found.p == pytest.approx(p.sum(), abs=1e-8)
    assert found.k is not None
    np.testing.assert_allclose(found.k, k, atol=1e-8, rtol=0)
    assert found.limit == good_k(800) and list(found.labels) == list(range(60)) and found.k.argmax() == 7


def test_loo_of_some_draws_of_many_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 chains 15 draws each are taken, too few to tell how effective they are."""
    monkeypatch.setattr(loo, "MOST", loo.DRAWS)
    posterior = sampled(CompletePooling(["x"], priors="tutorial"), pupils(), chains=64, draws=90)
    found, taken = closing(posterior, PLENTY), Pointwise(posterior, 960)
    v = {name: taken.stored[name] for name in posterior.names}
    mean = v["alpha"] + v["beta"][..., 0] * posterior.data.x
    elpd, k, _ = by_arviz(Normal(mean, v["sigma_y"]).log_prob(posterior.data.y), 1.0)
    assert found.draws == 64 * len(taken.draw) == 960
    assert found.elpd == pytest.approx(elpd.sum(), abs=1e-8)
    assert found.k is not None
    np.testing.assert_allclose(found.k, k, atol=1e-8, rtol=0)


def test_effects_that_were_not_stored_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all rows: those of each chunk of two rows would be others."""
    monkeypatch.setattr(loo, "CHUNK", 800 * 2)
    posterior = sampled(VaryingIntercepts("school", ["x"], priors="tutorial"), pupils(), keep=["mu_alpha"])
    assert posterior.unstored is not None and "alpha" not in posterior
    found, data = closing(posterior, PLENTY), posterior.data
    alpha, held = posterior.redraw("alpha"), Pointwise(posterior, None)
    mean = alpha[..., data.school] + held.stored["beta"][..., 0] * data.x
    densities = Normal(mean, held.stored["sigma_y"]).log_prob(data.y)
    efficiency = min(1.0, float(array_stats.ess(posterior["mu_alpha"].numpy(), method="mean")) / 800)
    elpd, k, _ = by_arviz(densities, efficiency)
    assert found.notes == () and found.elpd == pytest.approx(elpd.sum(), abs=1e-8)
    assert found.k is not None and found.replicated is not None
    np.testing.assert_allclose(found.k, k, atol=1e-8, rtol=0)
    assert np.abs(found.replicated.mean(0) - data.y.numpy()).max() < 10  # y goes from 0 to 590
    monkeypatch.setattr(loo, "HELD", 200 * data.size("school") - 1)  # too few for 200 replications, and for 800 draws
    why = f"{data.size('school')} effects of groups were not stored, too many to draw all of them again."
    assert closing(posterior, PLENTY).notes == (f"PSIS-LOO left out: {why}", f"Replications left out: {why}")


def test_rows_of_weight_0_are_no_rows() -> None:
    """As for `Posterior.criterion`: they are neither counted nor do they make the standard error smaller."""
    data = pupils()
    weights = torch.ones(60, dtype=torch.float64)
    weights[10:40] = 0.0
    made = sampled(VaryingIntercepts("school", ["x"], priors="tutorial"), data.replace(weights=weights))
    found, criterion = closing(made, PLENTY), made.criterion(draws=None)
    assert found.k is not None and list(found.labels) == [*range(10), *range(40, 60)] and len(found.k) == 30
    assert (found.elpd, found.se) == pytest.approx((criterion.elpd, criterion.se), abs=1e-8)
    assert found.notes == (
        "30 of 60 rows have a weight of 0 or say nothing of the latents, as without trials, and are left out.",
    )


def test_chunks_change_nothing(posterior: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = closing(posterior, PLENTY)
    monkeypatch.setattr(loo, "CHUNK", 800 * 7)
    found = closing(posterior, PLENTY)
    assert found.elpd == pytest.approx(whole.elpd, abs=1e-9) and found.p == pytest.approx(whole.p, abs=1e-9)


def test_replications_have_the_moments_of_the_fit(posterior: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
    """y_rep - E[y | draws], averaged over 40 data sets of 9 rows, within 5 standard errors: error rate 1e-6. Rows are
    10 apart, so that rows of other numbers would be far off.
    """
    monkeypatch.setattr(module, "ROWS", 9)
    found, data = closing(posterior, PLENTY), posterior.data
    assert found.replicated is not None and found.replicated.shape == (40, 9) and not found.discrete
    assert found.shown[0] == 0 and found.shown[-1] == 59 and np.ptp(np.diff(found.shown)) <= 1
    np.testing.assert_array_equal(found.y, data.y.numpy()[found.shown])
    assert found.k is not None and len(found.k) == 60
    mean = posterior["alpha"][..., data.school] + posterior["beta"] * data.x
    centre, sigma = mean.mean((0, 1)).numpy()[found.shown], float(posterior["sigma_y"].mean())
    spread = np.hypot(mean.std((0, 1)).numpy()[found.shown], sigma)
    z = (found.replicated - centre) / spread
    assert abs(z.mean()) < 5 / np.sqrt(360)
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / 360)
    assert abs(z.mean(0)).max() < 5 / np.sqrt(40)


def test_counts_are_discrete() -> None:
    y = np.random.default_rng(SEED).poisson(2.0, 50)
    found = closing(
        sampled(
            CompletePooling(family="poisson", priors="tutorial"), ht.Data(y), chains=8, warmup=100, draws=250, seed=1
        ),
        PLENTY,
    )
    assert found.discrete and found.replicated is not None
    np.testing.assert_array_equal(found.replicated, np.round(found.replicated))
    assert abs(found.replicated.mean() - y.mean()) < 5 * np.sqrt(2.0 / 50 + 2.0 / 2000)  # error rate 1e-6


def test_nothing_else_changes(posterior: Posterior) -> None:
    draws = {name: x.clone() for name, x in posterior.draws.items()}
    run, y = dict(posterior.run), posterior.data.y.clone()
    torch.manual_seed(3)
    np.random.seed(3)
    state, theirs, grad = torch.get_rng_state(), np.random.get_state()[1], torch.is_grad_enabled()
    one, two = closing(posterior, PLENTY), closing(posterior, PLENTY)
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == grad
    assert np.array_equal(np.random.get_state()[1], theirs)
    assert all(torch.equal(posterior.draws[name], x) for name, x in draws.items())
    assert posterior.run == run and torch.equal(posterior.data.y, y)
    assert one.elpd == two.elpd and one.replicated is not None
    np.testing.assert_array_equal(one.replicated, two.replicated)


class Opaque(CompletePooling):
    """Of which no row's density is known."""

    def log_prob(self, v: Any, data: ht.Data) -> Tensor:
        return super().log_prob(v, data)


class Apart(CompletePooling):
    """Whose rows have densities that its likelihood doesn't tell."""

    def log_likelihood(self, v: Any, data: ht.Data) -> Tensor:
        return Normal(v["alpha"], v["sigma_y"]).log_prob(data.y)


class Broken(CompletePooling):
    """Which can be fitted, and then no more."""

    broken = False

    def likelihood(self, v: Any, data: ht.Data) -> Any:
        if self.broken:
            raise RuntimeError("no such file\nas that one")
        return super().likelihood(v, data)


class Bare(ht.Model):
    """A prior."""

    mu = ht.Latent(Normal(0.0, 1.0))


SHORT = {"chains": 4, "draws": 30, "warmup": 20}


def empty(found: Closing) -> bool:
    return found.elpd is found.se is found.p is found.k is found.replicated is None and found.draws == 0


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("prior", "PSIS-LOO and replications left out: the run was of the prior only"),
        ("bare", "PSIS-LOO and replications left out: the run was of the prior only"),
        ("opaque", "PSIS-LOO and replications left out: the model overrides log_prob"),
        ("chains", "PSIS-LOO and replications left out: each chain was fitted to data of its own"),
        ("loaded", "PSIS-LOO and replications left out: this posterior does not know its model and data"),
    ],
)
def test_what_can_not_be_had_is_a_sentence(case: str, note: str, tmp_path: Any) -> None:
    data = ht.Data(torch.randn(20, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64))
    if case in ("prior", "bare"):
        model = CompletePooling(priors="tutorial") if case == "prior" else Bare()
        made = sampled(model, data, prior_only=True, **SHORT)
    elif case == "chains":
        made = sampled(
            CompletePooling(priors="tutorial"), data.replace(y=data.y.expand(4, 20) + torch.arange(4)[:, None]), **SHORT
        )
    elif case == "opaque":
        made = sampled(Opaque(priors="tutorial"), data, **SHORT)
    else:
        sampled(CompletePooling(priors="tutorial"), data, **SHORT).save(tmp_path / "posterior.safetensors", data=False)
        made = Posterior.load(tmp_path / "posterior.safetensors")
    found = closing(made, PLENTY)
    assert empty(found) and len(found.y) == len(found.shown) == 0
    assert len(found.notes) == 1 and found.notes[0].startswith(note) and found.notes[0].endswith(".")


def test_densities_of_its_own_without_replications() -> None:
    data = pupils()
    found = closing(sampled(Apart(priors="tutorial"), data), PLENTY)
    assert found.replicated is None and found.elpd is not None and len(found.y) == 60
    assert found.notes == (
        "Replications left out: the model overrides log_likelihood, and its likelihood alone may not say what y is "
        "like.",
    )


def test_a_model_that_raises_is_told_of_and_nothing_more() -> None:
    made = sampled(Broken(priors="tutorial"), pupils(), **SHORT)
    made.model.broken = True
    found = closing(made, PLENTY)
    assert empty(found)
    assert found.notes == (
        "PSIS-LOO left out: the likelihood of Broken failed: RuntimeError: no such file as that one.",
        "Replications left out, since the model raised RuntimeError: no such file.",
    )


def test_densities_that_are_not_finite_have_no_sum() -> None:
    made = sampled(CompletePooling(priors="tutorial"), pupils(), **SHORT)
    made.draws["sigma_y"][1, 3] = torch.nan
    found = closing(made, PLENTY)
    assert found.elpd is found.se is found.p is None
    assert found.k is not None and np.isnan(found.k).all() and len(found.notes) == 1
    assert found.notes[0].startswith("PSIS-LOO has no sum, since the log density of 60 of 60 rows (0, 1, 2, 3, 4, ...)")


def test_too_few_draws() -> None:
    found = closing(sampled(CompletePooling(priors="tutorial"), pupils(), chains=4, draws=6), PLENTY)
    assert found.elpd is None and found.replicated is not None
    assert found.notes == ("PSIS-LOO left out: it needs 25 draws or more; found 24.",)


def test_no_time_at_all(posterior: Posterior) -> None:
    found = closing(posterior, 0.0)
    assert empty(found) and len(found.y) == 60
    loo, replications = found.notes
    assert replications.startswith("Replications left out: it would take about ") and "predictive_check" in replications
    assert loo.startswith("PSIS-LOO left out: it would take about ") and "posterior.criterion() takes" in loo


def test_fewer_draws_in_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for 1,000, 600 and 400 draws at the rate that is guessed, and for too few at that and at a known one."""
    monkeypatch.setattr(loo, "FEWEST", 400)
    rows, made = 7000, sampled(CompletePooling(priors="tutorial"), pupils(), chains=10, draws=300, warmup=20)
    whole = rows * 1000 * loo.COST
    taken = [loo._thinned(made, rows, part * whole, loo.COST).number for part in (5.0, 1.0, 0.6, 0.4, 0.2)]
    assert taken == [1000, 1000, 600, 430, 430]  # every 8th of 300 draws would be 380 in all
    with pytest.raises(loo.SlowError, match=r"it would take about 0\.14 s, and 0\.028 s were left for it"):
        loo._thinned(made, rows, 0.08 * whole, loo.COST)
    with pytest.raises(loo.SlowError):
        loo._thinned(made, rows, 0.3 * whole, loo.COST * 1.0001)


def test_a_slow_model_is_stopped_and_asked_for_fewer_draws(
    posterior: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a row takes a second for 1,000 draws, so that 800 draws take 48 in all."""
    now = [0.0]
    log_likelihood = Pointwise.log_likelihood

    def slow(pointwise: Pointwise, rows: Tensor) -> Tensor:
        now[0] += len(rows) * pointwise.number / 1000
        return log_likelihood(pointwise, rows)

    monkeypatch.setattr(Pointwise, "log_likelihood", slow)
    monkeypatch.setattr(loo, "CHUNK", 8000)
    monkeypatch.setattr(loo, "FEWEST", 400)
    monkeypatch.setattr(loo, "LATEST", 1.2)
    monkeypatch.setattr(loo, "TIMED", 1)
    monkeypatch.setattr(loo.time, "process_time", lambda: now[0])
    assert closing(posterior, 48.0).draws == 800
    none = closing(posterior, 39.0)  # after two of six chunks 15 s of the 31 planned for are left: 400 draws take 24
    assert none.elpd is None and "would take about 24 s, and 15 s were left for it" in none.notes[0]
    monkeypatch.setattr(loo, "FEWEST", 200)
    before = now[0]
    fewer = closing(posterior, 39.0)
    assert fewer.draws == 200 and fewer.elpd is not None and fewer.notes == ()
    assert now[0] - before == pytest.approx(2 * 8 + 12)


@pytest.mark.slow
def test_what_is_imported_and_when(tmp_path: Any) -> None:
    """The monitor comes without TensorBoard and matplotlib. A run needs neither ArviZ, which takes too much time, nor
    pyplot, whose state is that of the whole process.
    """
    code = """
import sys
from hiertorch.monitors import TensorBoardMonitor
print(sorted({"tensorboard", "matplotlib"} & set(sys.modules)))
import torch, hiertorch as ht
from hiertorch.models import CompletePooling
y = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ht.sample(CompletePooling(), ht.Data(y), chains=4, warmup=20, draws=20, seed=1, progress=False, log_dir=sys.argv[1])
print(sorted({"arviz_base", "arviz_stats", "matplotlib", "matplotlib.pyplot"} & set(sys.modules)))
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[]", "['matplotlib']"]
