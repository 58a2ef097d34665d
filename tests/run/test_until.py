"""Runs that go on until the worst parameter is known well enough: where they end, of chains of known ESS."""

import json
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from builders import sampled
from contracts.engines import assert_equal_draws
from torch import Tensor
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.density.structure import Structure
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, Window
from hiertorch.moves.metropolis import Info
from hiertorch.posterior import Posterior
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.choosing import choose
from hiertorch.run.engine import Engine
from hiertorch.run.options import Options
from hiertorch.run.schedule import Schedule, aimed, most_room
from hiertorch.run.store import Store
from hiertorch.run.task import settled
from hiertorch.run.until import Until, scheduled
from hiertorch.run.warmstart import WarmStart

DATA = ht.Data(torch.arange(5.0))


class Two(ht.Model):
    """Two latents that the engine below moves in its own way."""

    mu = ht.Latent(Normal(0.0, 1.0))
    nu = ht.Latent(Normal(0.0, 1.0))

    def likelihood(self, v: Any, data: ht.Data) -> Normal:
        return Normal(v.mu + v.nu, 1.0)


class Autoregressive(Engine):
    """mu' = m_c + phi (mu - m_c) + sqrt(1 - phi^2) z, whatever the model, and nu' = z: c n draws of mu count for
    c n (1 - phi) / (1 + phi), those of nu for c n.

    Args:
        phi: correlation of neighbours.
        apart: sd of the m_c, the same in every run.
    """

    def __init__(
        self, structure: Structure, chains: int, generator: torch.Generator, phi: float = 0.0, apart: float = 0.0
    ) -> None:
        super().__init__(structure, chains, generator)
        self.phi, self.centre = phi, apart * torch.linspace(-1.7, 1.7, chains, dtype=torch.float64)

    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        self.at = self.centre + self._noise()
        self.other = self._noise()

    def _noise(self) -> Tensor:
        return torch.randn(self.chains, generator=self.generator, dtype=torch.float64)

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        for t in range(done + 1, done + sweeps + 1):
            self.at = self.centre + self.phi * (self.at - self.centre) + (1 - self.phi**2) ** 0.5 * self._noise()
            self.other = self._noise()
            acceptance.add([Info(torch.ones(self.chains, 1), torch.tensor(0), None)])
            if t > warmup and (t - warmup) % thin == 0:
                store.keep(self.values(), self.height())

    def values(self) -> Mapping[str, Tensor]:
        return {"mu": self.at[:, None], "nu": self.other[:, None]}

    def height(self) -> Tensor:
        return self.at

    def state(self) -> dict[str, Tensor]:
        return {"at": self.at, "other": self.other, "generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.at, self.other = state["at"], state["other"]
        self.generator.set_state(state["generator"])


def run(phi: float = 0.0, apart: float = 0.0, **options: Any) -> Posterior:
    plan = partial(Autoregressive, phi=phi, apart=apart)
    settings = {"chains": 16, "warmup": 1, "thin": 1, "seed": 1, "progress": False, "plan": plan}
    return ht.sample(Two(), DATA, **{**settings, **options})


# Where a run ends


def test_the_schedule_of_looks() -> None:
    assert list(islice(scheduled(100), 6)) == [100, 150, 225, 338, 507, 760]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("phi", [0.3, 0.7])
def test_it_ends_when_chains_of_known_autocorrelation_have_the_ess(phi: float, seed: int) -> None:
    """The goal lies between what is there after 760 and after 1140 draws of each chain, 22 % from both, which is 4 sd
    of the ESS or more: so 1150 draws, at the end of a window of 50.
    """
    goal = 16 * (760 * 1140) ** 0.5 * (1 - phi) / (1 + phi)
    posterior = run(phi, draws=100, until=Until(ess=goal, rhat=1.1), seed=seed)
    found = posterior.run["until"]
    assert found["ended"] == "goal" and found["looks"] == 7 and posterior.run["draws"] == found["draws"] == 1150
    assert found["ess"]["parameter"] == posterior.judgement.ess.name == "mu"
    assert found["ess"]["worst"] == posterior.judgement.ess.value >= goal
    assert found["r_hat"]["worst"] == posterior.judgement.rhat.value
    json.dumps(posterior.run, allow_nan=False)


def test_r_hat_may_be_what_a_run_waits_for() -> None:
    """R-hat - 1 is about (tau - 1) / n for draws with tau = (1 + phi) / (1 - phi): 0.01 after some 1800 of each chain.
    The ESS is there at once.
    """
    posterior = run(0.9, draws=100, until=Until(ess=20))
    assert posterior.run["until"]["ended"] == "goal" and 760 < posterior.run["draws"] <= 2600
    assert posterior.judgement.rhat.value <= 1.01
    shorter = run(0.9, draws=400)
    assert shorter.judgement.ess.value > 200 and shorter.judgement.rhat.value > 1.01


def test_chains_that_never_agree_run_to_the_bound_with_a_warning() -> None:
    """R-hat of means sd 0.5 apart with sd 1 within is about sqrt(1 + 0.5^2), 1.1."""
    with pytest.warns(ht.SamplingWarning, match="short of its goal: ESS is .* of mu, and R-hat up to 1.1.* of mu"):
        posterior = run(apart=0.5, draws=100, until=Until(ess=100, draws=600))
    assert posterior.run["draws"] == posterior.n_draws == 600
    found = posterior.run["until"]
    assert found["ended"] == "draws" and found["looks"] == 6 and found["draws"] == 600
    assert found["short"] in posterior.warnings() and posterior.run["status"] == "finished"
    assert found["r_hat"] == {"worst": posterior.judgement.rhat.value, "parameter": "mu"}
    assert found["r_hat"]["worst"] == pytest.approx(1.1, abs=0.05)


def test_seconds_end_a_run_with_a_warning() -> None:
    with pytest.warns(ht.SamplingWarning, match=r"ended after 0\.05 seconds, short of its goal: ESS is [\d,]+ of "):
        posterior = run(until=Until(ess=1e9, seconds=0.05))
    assert posterior.run["until"]["ended"] == "seconds" and posterior.run["until"]["goal"]["draws"] is None
    assert_equal_draws(run(draws=posterior.run["draws"]), posterior) if posterior.interval == 1 else None


def test_one_chain_has_no_r_hat_to_wait_for() -> None:
    with pytest.warns(ht.SamplingWarning, match="only 1"):
        posterior = run(chains=1, draws=100, until=Until(ess=300))
    assert posterior.run["until"]["ended"] == "goal" and posterior.run["draws"] in (350, 550)


def test_a_latent_that_never_moves_is_never_known() -> None:
    class Still(Autoregressive):
        def values(self) -> Mapping[str, Tensor]:
            return {**super().values(), "nu": torch.zeros(self.chains, 1, dtype=torch.float64)}

    with pytest.warns(ht.SamplingWarning, match="ESS is 0 of nu"):
        found = run(plan=Still, draws=50, until=Until(draws=200)).run["until"]
    assert found["ended"] == "draws" and found["ess"]["worst"] == 0.0 and found["r_hat"]["worst"] is None


# The usual run


def test_left_alone_a_run_goes_on_to_1000_effective_draws() -> None:
    quick, slow, fixed = run(), run(0.95), run(draws=300)
    assert quick.run["until"]["goal"] == {"ess": 1000.0, "rhat": 1.01, "seconds": None, "draws": 8000}
    assert quick.run["draws"] == 250 and quick.run["until"]["looks"] == 1  # 960 / sqrt(16), and windows of 50
    assert slow.judgement.ess.value >= 1000 and slow.judgement.rhat.value <= 1.01 and slow.run["draws"] > 1000
    assert "until" not in fixed.run and fixed.run["draws"] == 300


def test_a_usual_run_that_does_not_get_there_warns_as_any_other() -> None:
    usual = Schedule(16, 1, 30, 1)
    assert aimed(usual, Until(), None) == (usual, Until(draws=240))
    with pytest.MonkeyPatch.context() as patch, pytest.warns(ht.SamplingWarning) as met:
        patch.setattr("hiertorch.run.schedule.DRAWS", 30)
        posterior = run(apart=0.5)
    assert posterior.run["draws"] == 240 and posterior.run["until"]["ended"] == "draws"
    assert str(met[0].message).startswith("R-hat is above 1.01 for 1 of")
    assert "short" not in posterior.run["until"] and not any("its goal" in str(one.message) for one in met)


def test_what_is_known_of_a_model_is_what_its_posterior_says() -> None:
    """Of latents and of what is derived of them, with groups and without; nothing is computed twice, or otherwise."""

    class Derived(VaryingIntercepts):
        spread = ht.Derived(lambda v: v.sigma_alpha / v.sigma_y)

    data = ht.Data(torch.arange(40.0) % 7, groups={"school": [k % 8 for k in range(40)]})
    model = Derived("school", [], priors="tutorial")
    posterior = sampled(model, data, collapse=True, seed=1, chains=32, draws=50, until=Until(ess=800, rhat=1.02))
    assert posterior.run["until"]["ended"] == "goal" and "spread" in posterior.names
    assert posterior.diagnostics().loc["ess_bulk", "worst"] >= 800
    for name, columns in posterior.changed().columns.items():
        for column, x in columns.items():
            torch.testing.assert_close(posterior.columns[name][column], x, rtol=0, atol=0, equal_nan=True)


def test_of_very_many_groups_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are judged at the end."""
    monkeypatch.setattr("hiertorch.run.looks.WHOLE", 1000)
    monkeypatch.setattr("hiertorch.draws.judgement.WHOLE", 1000)
    monkeypatch.setattr("hiertorch.run.looks.GROUPS", 3)
    monkeypatch.setattr("hiertorch.draws.judgement.GROUPS", 3)
    data = ht.Data(torch.arange(40.0) % 7, groups={"school": [k % 8 for k in range(40)]})
    model = VaryingIntercepts("school", [], priors="tutorial")
    posterior = sampled(model, data, collapse=True, seed=1, chains=32, draws=50, until=Until(ess=800, rhat=1.02))
    found = posterior.run["until"]
    assert found["ended"] == "goal" and "of 11 parameters" in posterior.judgement.part
    assert found["ess"]["parameter"] == posterior.judgement.ess.name
    more = sampled(model, data, collapse=True, seed=2, chains=2, draws=posterior.n_draws)
    assert "until" not in ht.concat([posterior, more]).run  # how one of them ended


# What is kept


def test_the_room_grows_and_then_thins_as_that_of_a_fixed_run() -> None:
    options: dict[str, Any] = {"chains": 400, "until": Until(ess=1e6, draws=170)}
    with pytest.warns(ht.SamplingWarning, match="short of its goal"):
        posterior = run(draws=20, **options)
    fixed = run(chains=400, draws=170)
    assert (posterior.n_draws, posterior.interval) == (170, 1)  # since the goal asks for more than is kept by default
    assert (fixed.n_draws, fixed.interval) == (42, 4)
    for name in fixed.names:
        assert torch.equal(posterior.draws[name][:, 3::4], fixed.draws[name])
    with pytest.warns(ht.SamplingWarning, match="short of its goal"):
        posterior = run(apart=0.5, draws=20, chains=400, until=Until(ess=400, draws=170))
    assert_equal_draws(posterior, run(apart=0.5, chains=400, draws=170))
    assert posterior.interval == 4
    with pytest.warns(ht.SamplingWarning, match="short of its goal"):
        posterior = run(apart=0.5, draws=20, chains=400, until=Until(ess=400, draws=170), keep_all=True)
    assert (posterior.n_draws, posterior.interval) == (170, 1)


def test_room_is_bounded_by_memory_and_by_the_goal() -> None:
    plan, usual = ht.plan(Two(), DATA, collapse=False), Schedule(64, 500, 1000, 1)
    names = ("mu", "nu")
    assert most_room(plan, usual, Until(), names, every=False) == 500
    assert most_room(plan, usual, Until(ess=64_000), names, every=False) == 4000
    assert most_room(plan, usual, Until(draws=70), names, every=True) == 70
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hiertorch.run.schedule.MOST_STORED", 2 * 64 * 300)
        assert most_room(plan, usual._replace(draws=250), Until(), names, every=False) == 300
        assert most_room(plan, usual._replace(draws=400), Until(), names, every=False) == 400


class Impatient(Monitor):
    """Presses Ctrl-C after so many sweeps; remembers what it was told."""

    def __init__(self, sweeps: float = float("inf")) -> None:
        self.sweeps, self.told = sweeps, list[Window]()

    def window(self, window: Window) -> None:
        self.told.append(window)
        if window.sweep >= self.sweeps:
            raise KeyboardInterrupt


def test_monitors_are_told_what_was_seen_and_how_long_it_will_take() -> None:
    monitor = Impatient()
    run(0.5, draws=100, until=Until(ess=3000, rhat=1.1), monitors=[monitor])
    sampling = [window for window in monitor.told if window.phase == "sampling"]
    first = sampling[1]
    assert sampling[0].seen is None and sampling[0].foreseen == 101  # one sweep of warm-up, and the first look
    assert first.seen is not None and first.seen.draws == 100 and first.seen.ess.name == "mu"
    assert first.seen.ess.value == pytest.approx(1600 / 3, rel=0.3)
    assert first.foreseen in (508, 761)  # the first look after 100 x 3000 / ESS draws
    last = sampling[-1]
    assert last.seen is not None and last.seen.ess.value >= 3000 and last.foreseen == last.sweep


def test_ctrl_c_gives_what_was_drawn() -> None:
    part = run(0.9, draws=100, until=Until(), monitors=[Impatient(201)])
    assert part.interrupted and part.n_draws == 200 and part.run["until"]["ended"] is None
    assert part.run["until"]["looks"] == 2 and part.run["draws"] > 200
    assert f"stopped by Ctrl-C after 200 of {part.run['draws']} draws" in part.stopped
    assert_equal_draws(part, run(0.9, draws=200))


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ess": 0}, "until: ess is a number of effective draws"),
        ({"ess": "many"}, "found 'many'"),
        ({"rhat": 1.0}, "rhat is a number above 1"),
        ({"seconds": -1.0}, "seconds is a time above 0, or None for no bound; found -1.0"),
        ({"draws": 1.5}, "until: draws= is a whole number from 1"),
    ],
)
def test_goals_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ht.SamplingError, match=words):
        Until(**options)


def test_what_is_no_goal() -> None:
    with pytest.raises(ht.SamplingError, match=r"until must be an ht.Until, such as ht.Until\(ess=1000\), found 1000"):
        Options(until=1000)  # type: ignore[arg-type]


def test_chains_with_data_of_their_own_have_no_common_goal() -> None:
    class Mean(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))
        sigma = ht.Latent(Gamma(3.0, 2.0))

        def likelihood(self, v: Any, data: ht.Data) -> Normal:
            return Normal(v.mu, v.sigma)

    data = ht.Data(torch.randn(4, 10, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(ht.SamplingError, match=r"each has data of its own, .* give draws= instead"):
        ht.sample(Mean(), data, until=Until())
    task = settled(Mean(), choose(Mean(), data, None), Options())
    assert task.goal is None and task.schedule.draws == 1000
