"""Runs of ordinary moves and of models whose effects are integrated out, by the contract of every engine."""

from typing import Any, ClassVar

import pytest
from contracts.engines import RUN, SCHOOLS, EngineContract, Impatient, assert_equal_draws
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.errors import SamplingWarning
from hiertorch.model.latent import Values
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, Window
from hiertorch.run.compiled import WhitenedCompiled
from hiertorch.run.crosswise import WhitenedCrosswise
from hiertorch.run.independence import Independence
from hiertorch.run.ordinary import Ordinary
from hiertorch.run.whitened import Whitened


class TestOrdinaryMoves(EngineContract):
    engine = Ordinary
    moved = ("mu_alpha", "sigma_alpha", "sigma_y", "beta", "alpha")

    def test_thinning_leaves_out_draws(self) -> None:
        assert_equal_draws(self.run(draws=10, thin=2), self.whole(), of_b=slice(1, None, 2))


class TestIntegratedOut(EngineContract):
    engine, options = Independence, {"collapse": True}
    moved = ("sigma_alpha", "sigma_y")

    def test_one_block_has_a_rate_for_each_chain(self) -> None:
        ((block, rates),) = self.whole().stats.acceptance.items()
        assert block == "collapsed(sigma_alpha, sigma_y)" and rates.shape == (4,)

    @pytest.mark.parametrize("sweeps", [10, 20])
    @pytest.mark.parametrize("keep", [None, ["mu_alpha", "sigma_alpha"]])
    def test_effects_are_drawn_again_for_the_draws_so_far(self, sweeps: int, keep: list[str] | None) -> None:
        part = self.run(keep=keep, monitors=[Impatient(sweeps)])
        assert part.redraw("alpha").shape == (4, sweeps - 10, 4)


class TestWhitened(EngineContract):
    engine = Whitened
    moved = ("mu_alpha", "sigma_alpha", "sigma_y", "beta", "alpha")
    options: ClassVar[dict[str, Any]] = {"plan": [("whitened", list(moved))]}

    def test_groups_have_rates_of_their_own(self) -> None:
        population, groups = self.whole().stats.acceptance.values()
        assert population.shape == (4,) and groups.shape == (4, 4)


class TestWhitenedCompiled(TestWhitened):
    engine = WhitenedCompiled

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Four chains are enough."""
        monkeypatch.setattr("hiertorch.run.compiled.FEWEST", 1)


class Rated(ht.Model):
    """Varying intercepts, and raters across schools."""

    mu_alpha = ht.Latent(Normal(0.0, 2.0))
    sigma_alpha = ht.Latent(Gamma(5.0, 5.0))
    tau = ht.Latent(Gamma(5.0, 5.0))
    sigma_y = ht.Latent(Gamma(20.0, 20.0))
    beta = ht.Latent(Normal(0.0, 2.0))
    rater = ht.Latent(lambda v: Normal(0.0, v.tau), plate="rater")
    alpha = ht.Latent(lambda v: Normal(v.mu_alpha, v.sigma_alpha), plate="school")

    def likelihood(self, v: Values, data: ht.Data) -> Normal:
        return Normal(v.alpha[:, data.school] + v.rater[:, data.rater] + v.beta * data.x, v.sigma_y)


class TestWhitenedCrosswise(EngineContract):
    engine = WhitenedCrosswise
    moved = ("mu_alpha", "sigma_alpha", "tau", "sigma_y", "beta", "rater", "alpha")
    options: ClassVar[dict[str, Any]] = {"plan": [("whitened", list(moved))]}
    data = ht.Data(SCHOOLS.y, groups={"school": list("abcabdda"), "rater": list("uvwuvvwu")}, x=SCHOOLS.x)

    @classmethod
    def model(cls) -> ht.Model:
        return Rated()

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three raters are many."""
        monkeypatch.setattr("hiertorch.gaussian.surrogate.MANY_CROSSED", 1)

    def test_groups_of_each_plate_have_rates_of_their_own(self) -> None:
        population, schools, raters = self.whole().stats.acceptance.values()
        assert population.shape == (4,) and schools.shape == (4, 4) and raters.shape == (4, 3)

    def test_the_plan_says_so(self) -> None:
        plan = str(ht.plan(self.model(), self.data, moves=self.options["plan"]))
        assert "move plate by plate" in plan and "chain and rater (3)" in plan and "\n5 passes over" in plan


class Clumsy(Monitor):
    def window(self, window: Window) -> None:
        raise ValueError("no paper left")


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_a_monitor_that_fails_is_dropped_with_a_warning() -> None:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    with pytest.warns(SamplingWarning, match=r"Clumsy stopped watching: ValueError: no paper left\. The draws are not"):
        posterior = ht.sample(model, SCHOOLS, monitors=[Clumsy()], progress=False, **RUN)
    assert_equal_draws(posterior, TestIntegratedOut.run())
