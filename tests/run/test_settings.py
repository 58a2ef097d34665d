"""What a run is by default, and settings that can't work, each refused in words before anything is sampled."""

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.run import schedule as settings
from hiertorch.run.plan import Plan
from hiertorch.run.schedule import Schedule, check_memory, kept_names, schedule, stored_names, wants_compiling


class Mean(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))

    def likelihood(self, v, data):
        return Normal(v.mu, 1.0)


def run(data, **options):
    return ht.sample(
        Mean(), data, **{"warmup": 20, "draws": 8, "seed": 1, "progress": False, "compile": False, **options}
    )


DATA = ht.Data(torch.arange(5.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "nonsense"}, "device 'nonsense'"),
        ({"log_dir": 3}, "log_dir must be the path"),
        ({"plan": 3}, "a plan is a list of moves"),
        ({"plan": "joint"}, "a plan is a list of moves"),
        ({"keep": []}, "keep is empty"),
        ({"chains": 10**9}, "GiB"),
        ({"device": "mps"}, "has no float64"),
        ({"device": torch.device("mps", 0), "dtype": torch.float32}, "has no float64"),
    ],
)
def test_settings_that_cannot_work(options, words):
    with pytest.raises(ht.HiertorchError, match=words):
        run(DATA, **options)


def test_chains_follow_data_that_hold_a_set_for_each():
    """The posterior of a normal mean with prior and noise of sd 1 is Normal(sum y / (n + 1), 1 / (n + 1)), by chain."""
    y = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) + torch.arange(6.0)[:, None]
    posterior = run(ht.Data(y), warmup=300, draws=1500, thin=4)
    assert posterior.chains == 6
    np.testing.assert_allclose(posterior["mu"].mean(1), y.sum(1) / 41, atol=5 * 41**-0.5 / 400**0.5)
    with pytest.raises(ht.SamplingError, match="one set for each of 6 chains, and chains=4"):
        run(ht.Data(y), chains=4)


def test_one_chain_runs():
    assert run(ht.Data(torch.zeros(8), groups={"g": [0, 0, 1, 1, 2, 2, 3, 3]}), chains=1)["mu"].shape == (1, 8)


@pytest.mark.parametrize(("rows", "chains", "thin"), [(10, 64, 2), (12_573, 32, 1), (100_000, 8, 1)])
def test_defaults_follow_the_rows(rows, chains, thin):
    plan = ht.plan(Mean(), ht.Data(torch.zeros(rows)), collapse=False)
    assert schedule(plan, None, None, None, None) == (chains, 1000, 1000, thin)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    run(DATA)
    assert torch.get_num_threads() == before


# Collapsed models


class Effects(ht.Model):
    """y_ij ~ Normal(mu + alpha_j, sigma),  alpha_j ~ Normal(0, tau)."""

    mu = ht.Latent(Normal(0.0, 5.0))
    tau = ht.Latent(Gamma(2.0, 2.0))
    sigma = ht.Latent(Gamma(2.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.tau), plate="g")

    def likelihood(self, v, data):
        return Normal(v.mu + v.alpha[:, data.g], v.sigma)


class Alone(ht.Model):
    """y_ij ~ Normal(alpha_j, 1),  alpha_j ~ Normal(0, 1): nothing at the population level."""

    alpha = ht.Latent(Normal(0.0, 1.0), plate="g")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.g], 1.0)


def grouped(groups: int, rows: int | None = None) -> ht.Data:
    code = torch.arange(rows or groups) % groups
    return ht.Data(torch.linspace(-1.0, 1.0, len(code)) + 0.1 * code.sin(), groups={"g": code})


def plan_of(groups: int) -> Plan:
    plan = ht.plan(Effects(), grouped(groups))
    assert plan.collapsed is not None
    return plan


@pytest.mark.parametrize(
    ("numbers", "chains", "draws"),
    [
        (6, 256, 1000),
        (125, 256, 1000),
        (126, 128, 1000),
        (250, 128, 1000),
        (500, 64, 1000),
        (1000, 32, 1000),
        (1001, 16, 1000),
        (4000, 16, 500),
        (8000, 16, 250),
        (20_000, 16, 250),
    ],
)
def test_defaults_of_a_collapsed_run_follow_the_numbers_in_a_draw(numbers, chains, draws):
    """32 million stored numbers, by 1,000 draws in as many of 16 to 256 chains as that allows, then by fewer draws."""
    plan = plan_of(numbers - 3)
    assert plan.space.dim == numbers
    assert schedule(plan, None, None, None, None) == (chains, 100, draws, 1)
    assert draws == 250 or numbers * chains * draws <= 32_000_000


def test_defaults_of_a_collapsed_run_do_not_follow_the_rows():
    for rows in (5, 5_000):
        plan = ht.plan(Effects(), grouped(5, rows))
        assert schedule(plan, None, None, None, None) == (256, 100, 1000, 1)
        assert not wants_compiling(plan, schedule(plan, None, None, None, None))


def test_what_is_asked_for_is_what_is_run():
    plan = plan_of(4)
    assert schedule(plan, 3, 7, 11, 5) == (3, 7, 11, 5)
    assert schedule(plan, 3, 7, 11, 5).sweeps == 7 + 11 * 5
    assert schedule(plan, 1000, None, None, None) == (1000, 100, 1000, 1)
    assert schedule(plan, None, None, 12, None) == (256, 100, 12, 1)
    assert schedule(plan_of(9_997), 100, None, None, None) == (100, 100, 250, 1)


def test_effects_that_would_fill_the_memory_are_not_stored_unless_asked_for(monkeypatch):
    plan, run = plan_of(50), Schedule(16, 100, 250, 1)
    names = ("mu", "tau", "sigma", "alpha")
    assert settings.MOST_STORED == 100_000_000
    assert kept_names(plan, run, None, 250) == names
    monkeypatch.setattr(settings, "MOST_STORED", 53 * 16 * 250)
    assert kept_names(plan, run, None, 250) == names
    monkeypatch.setattr(settings, "MOST_STORED", 53 * 16 * 250 - 1)
    assert kept_names(plan, run, None, 250) == ("mu", "tau", "sigma")
    assert kept_names(plan, run, ["alpha"], 250) == ("alpha",)
    assert kept_names(plan, run, "tau", 250) == ("tau",)
    ordinary = ht.plan(Effects(), grouped(50), collapse=False)
    assert kept_names(ordinary, run, None, 250) == names


def test_the_population_is_stored_so_that_effects_can_be_drawn_again():
    plan, ordinary = plan_of(5), ht.plan(Effects(), grouped(5), collapse=False)
    assert stored_names(plan, ("tau",)) == ("mu", "tau", "sigma")
    assert stored_names(plan, ("alpha",)) == ("mu", "tau", "sigma", "alpha")
    assert stored_names(ordinary, ("alpha",)) == ("alpha",)


def test_the_memory_for_effects_is_only_asked_for_if_they_are_stored():
    plan, cpu = plan_of(2_000), torch.device("cpu")
    few = Schedule(16, 100, 10**7, 1)
    check_memory(plan, few, ("mu",), 10**7, cpu, torch.float64)
    with pytest.raises(ht.SamplingError, match=r"the draws need .* GiB .*2,001 numbers.*keep fewer latents"):
        check_memory(plan, few, ("mu", "alpha"), 10**7, cpu, torch.float64)


def small(model, data, **options):
    return ht.sample(model, data, **{"chains": 8, "draws": 30, "seed": 1, "progress": False, **options})


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_a_run_whose_effects_are_not_stored(monkeypatch):
    data = grouped(12, 40)
    stored = small(Effects(), data)
    monkeypatch.setattr(settings, "MOST_STORED", 15 * 8 * 30 - 1)
    posterior = small(Effects(), data)
    assert posterior.names == ["mu", "tau", "sigma"] and stored.names == ["mu", "tau", "sigma", "alpha"]
    assert "not stored, drawn again by redraw(): alpha" in repr(posterior) and "redraw" not in repr(stored)
    assert posterior.redraw("alpha").shape == stored["alpha"].shape == (8, 30, 12)
    kept = small(Effects(), data, keep=["alpha"])
    assert kept.names == ["alpha"] and kept["alpha"].shape == (8, 30, 12)


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_effects_without_a_population_have_to_be_stored(monkeypatch):
    """There is nothing from which to draw them again."""
    monkeypatch.setattr(settings, "MOST_STORED", 0)
    posterior = small(Alone(), grouped(12, 40))
    assert posterior["alpha"].shape == (8, 30, 12)


def test_memory_is_what_is_free_and_not_what_is_built_in(monkeypatch):
    plan, cpu = plan_of(2_000), torch.device("cpu")
    few = Schedule(16, 100, 1_000, 1)  # a quarter of a GiB
    check_memory(plan, few, ("alpha",), 1_000, cpu, torch.float64)
    monkeypatch.setattr(settings, "free", lambda device: 0.25 * 2**30)
    with pytest.raises(ht.SamplingError, match=r"the draws need 0.2 GiB .*, and 0.2 GiB are free; keep fewer latents"):
        check_memory(plan, few, ("alpha",), 1_000, cpu, torch.float64)
