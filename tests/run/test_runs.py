"""Runs of ordinary moves and of models whose effects are integrated out, by the contract of every engine."""

from typing import Any, ClassVar

import pytest
from contracts.engines import RUN, SCHOOLS, EngineContract, Impatient, assert_equal_draws

import hiertorch as ht
from hiertorch.errors import SamplingWarning
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor, Window
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


class Clumsy(Monitor):
    def window(self, window: Window) -> None:
        raise ValueError("no paper left")


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
def test_a_monitor_that_fails_is_dropped_with_a_warning() -> None:
    model = VaryingIntercepts("school", ["x"], priors="tutorial")
    with pytest.warns(SamplingWarning, match=r"Clumsy stopped watching: ValueError: no paper left\. The draws are not"):
        posterior = ht.sample(model, SCHOOLS, monitors=[Clumsy()], progress=False, **RUN)
    assert_equal_draws(posterior, TestIntegratedOut.run())
