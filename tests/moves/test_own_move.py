"""Moves from outside the package: written in one file, put into a plan, and run as any other."""

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from builders import sampled
from contracts.moves import Case, MoveContract
from references import assert_matches, mixture, positive
from torch import Tensor
from torch.distributions import Gamma, Normal

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError
from hiertorch.moves.adaptation import Learning
from hiertorch.moves.base import Move
from hiertorch.moves.metropolis import Info, Noise, Tuning
from hiertorch.posterior import Posterior


class Stretch(Move):
    """(tau, alpha) to (tau exp(s z), alpha exp(s z)): a random walk along the funnel of effects and their scale.

    It is symmetric in log tau, and the Jacobian of alpha -> alpha exp(s z) is exp(s z) to the number of effects.

    Args:
        scale: a positive latent.
        effects: latents on the whole line.
    """

    def __init__(self, scale: str, effects: str) -> None:
        super().__init__([scale, effects])

    def on(self, structure: Structure) -> "Stretch":
        new = super().on(structure)
        new.width = 1
        return new

    def log_jacobian(self, effects: Tensor, jump: Tensor) -> Tensor:
        return effects.shape[1] * jump

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        scale, effects = (state.free[name] for name in self.block)
        jump = tuning["root"][:, 0, 0] * noise.normal[..., 0]
        new = self.target.update(state, dict(zip(self.block, (scale + jump, effects * jump.exp()), strict=True)))
        return self.accept(new, state, noise, self.log_jacobian(effects, jump))


class Forgetful(Stretch):
    """Without the Jacobian."""

    def log_jacobian(self, effects: Tensor, jump: Tensor) -> Tensor:
        return torch.zeros_like(jump)


class Wander(Move):
    """alpha_j + s z for each group j, with log s uniform from log 0.05 to log 5: walks of all sizes, learning none."""

    by_group, uniforms = True, 1

    def learning(self, state: State) -> Learning:
        return Learning({})

    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        (effects,) = self.block
        jump = 5.0 * (math.log(0.01) * noise.more[0].exp()).exp() * noise.normal[..., 0]
        new = self.target.update(state, {effects: state.free[effects] + jump})
        return self.accept(new, state, noise, torch.zeros_like(jump))


class Effects(ht.Model):
    """y_j ~ Normal(alpha_j, 1),  alpha_j ~ Normal(0, tau),  tau ~ Gamma(2, 1)."""

    tau = ht.Latent(Gamma(2.0, 1.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.tau), plate="group")

    def likelihood(self, v: Any, data: ht.Data) -> Normal:
        return Normal(v.alpha[:, data.group], 1.0)


Y = np.array([-1.5, 0.2, 3.0, 0.9])
DATA = ht.Data(Y, groups={"group": range(4)})


class TestOwnMoves(MoveContract):
    cases: ClassVar = {"effects": Case(Effects(), DATA, [(Stretch("tau", "alpha"), 2), Wander(["alpha"])])}
    thorough = ("effects",)


class WrongMove(MoveContract):
    cases: ClassVar = {"effects": Case(Effects(), DATA, [Forgetful("tau", "alpha"), Wander(["alpha"])])}


def test_a_move_without_its_jacobian_is_noticed() -> None:
    with torch.no_grad(), pytest.raises(AssertionError, match=r"Forgetful\(tau, alpha\) does not leave its target"):
        WrongMove().test_the_target_is_left_invariant("effects")


def run(**options: Any) -> Posterior:
    moves = [(Stretch("tau", "alpha"), 2), ("groupwise", ["alpha"])]
    return sampled(Effects(), DATA, **{"plan": moves, "chains": 20, "warmup": 100, "draws": 200, "seed": 3, **options})


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return run()


def test_a_run_with_a_move_of_ones_own_has_the_known_posterior(posterior: Posterior) -> None:
    """Error rate 2e-3. No other move changes tau."""
    log_tau = np.linspace(-12.0, 4.0, 2001)
    tau = np.exp(log_tau)
    variance = 1.0 + tau**2
    density = tau**2 * np.exp(-tau) * variance**-2 * np.exp(-0.5 * (Y**2).sum() / variance)
    assert_matches(posterior["tau"], positive(log_tau, density))
    shrunk = (tau**2 / variance)[:, None]
    assert_matches(posterior["alpha"], mixture(density, shrunk * Y, np.sqrt(shrunk).repeat(4, 1)))


def test_it_is_printed_counted_and_saved_as_any_other(posterior: Posterior, tmp_path: Any) -> None:
    assert "Stretch x2" in posterior.run["plan_text"]
    assert 0.3 < float(posterior.stats.acceptance["Stretch(tau, alpha)"].mean()) < 0.6
    posterior.save(tmp_path / "own.safetensors")
    again = ht.Posterior.load(tmp_path / "own.safetensors")
    torch.testing.assert_close(
        again.tuning["Stretch(tau, alpha)"]["root"], posterior.tuning["Stretch(tau, alpha)"]["root"]
    )
    longer = run(start=again, warmup=10, draws=5)
    root = longer.tuning["Stretch(tau, alpha)"]["root"] / posterior.tuning["Stretch(tau, alpha)"]["root"]
    assert 0.5 < float(root) < 2.0


def test_a_plan_with_it_is_handed_back_and_edited() -> None:
    plan = ht.plan(Effects(), DATA, moves=[(Stretch("tau", "alpha"), 2), ("groupwise", ["alpha"])])
    (move, repeats), named = plan.spec
    assert isinstance(move, Stretch) and repeats == 2 and named == ("groupwise", ("alpha",), 1)
    assert str(ht.plan(Effects(), DATA, moves=plan.spec)) == str(plan) == str(ht.plan(Effects(), DATA, moves=plan))
    other = ht.Data(-Y[:3], groups={"group": range(3)})
    assert ht.plan(Effects(), other, moves=plan.spec).moves[1].size == 3
    single = run(plan=plan, dtype=torch.float32, warmup=5, draws=5)
    assert single["tau"].dtype == torch.float32 and single.run["plan_text"] == str(plan)


class Unblocked(Wander):
    def __init__(self) -> None:
        pass


class Flat(Wander):
    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        after, info = super().step(state, tuning, noise)
        return after, info._replace(accept=info.accept[:, 0])


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (Stretch, "found <class '.*Stretch'>, a class: call it"),
        (object(), "a move is a kind, a list of latents and perhaps repeats, .* or a hiertorch.moves.base.Move; found"),
        (Wander(["beta"]), r"move 'Wander' names \['beta'\]; the model's latents are tau, alpha"),
        (Wander([]), "move 'Wander' needs at least one latent and one repeat"),
        ((Wander(["alpha"]), 0), r"needs at least one latent and one repeat, found \('alpha',\) and 0"),
        (Wander(["tau"]), r"a Wander move on \('tau',\) is not possible: its latents must share one plate"),
        (Unblocked(), r"has no block of latents: its __init__ calls super\(\).__init__\(block\)"),
        (Flat(["alpha"]), r"after a step of move 'Flat\(alpha\)' the acceptance probability is torch.float64 \(20,\)"),
    ],
)
def test_moves_that_are_refused(move: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        run(plan=[("joint", ["tau", "alpha"]), move])
