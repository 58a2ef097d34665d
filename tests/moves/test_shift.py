"""Shifts of a mean against the effects around it."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from builders import MOVED, PUPILS, refused
from contracts.moves import Case, MoveContract
from torch import Tensor
from torch.distributions import Distribution, Gamma, Normal, Poisson

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.errors import ModelError
from hiertorch.model.latent import Values
from hiertorch.moves.metropolis import Info, Noise
from hiertorch.moves.shift import Shift

MOVES: tuple[Any, ...] = (("joint", ["s_a", "s_c", "s_y"]), ("groupwise", ["a"]), ("groupwise", ["c"]))
BLOCK = ("mu", "a", "c")


class TestShift(MoveContract):
    """Effects of two plates around one mean; those of one have heavy tails, for which the guess is none too good."""

    cases: ClassVar = {"crossed": Case(MOVED["crossed"], PUPILS, [("shift", BLOCK), *MOVES])}
    thorough = ("crossed",)


class Lopsided(Shift):
    """Guesses are accepted as if they came from everywhere alike."""

    def accept(self, new: State, old: State, noise: Noise, log_q: Tensor, guessed: Any = None) -> tuple[State, Info]:
        return super().accept(new, old, noise, 0.0 * log_q, guessed)


class WrongShift(MoveContract):
    cases: ClassVar = {"crossed": Case(MOVED["crossed"], PUPILS, [Lopsided(BLOCK), *MOVES])}


def test_guesses_without_their_density_are_noticed() -> None:
    with torch.no_grad(), pytest.raises(AssertionError, match=r"shift\(mu, a, c\) does not leave its target"):
        WrongShift().test_the_target_is_left_invariant("crossed")


class Pairs(ht.Model):
    """Rows read m + a + b, of two numbers each; d has a level of its own, and e moves its logarithm."""

    m = ht.Latent(Normal(0.0, 3.0), event=2)
    tau = ht.Latent(Gamma(2.0, 1.0))
    a = ht.Latent(lambda v: Normal(1.0, v.tau), plate="g", event=2)
    b = ht.Latent(Normal(0.0, 0.5), plate="h", event=2)
    level = ht.Latent(Normal(0.0, 1.0))
    d = ht.Latent(lambda v: Normal(v.level, 1.0), plate="g")
    e = ht.Latent(Normal(0.0, 1.0), plate="h")

    def likelihood(self, v: Values, data: ht.Data) -> Distribution:
        both = v.m + v.a[:, data["g"]] + v.b[:, data["h"]]
        eta = both[..., 0] + both[..., 1] * data["x"] + v.d[:, data["g"]] + v.level + v.e[:, data["h"]].exp()
        return Poisson(torch.nn.functional.softplus(eta))


RNG = np.random.default_rng(3)
DATA = ht.Data(
    RNG.poisson(2.0, 30).astype(float), groups={"g": np.arange(30) % 4, "h": np.arange(30) % 3}, x=RNG.normal(size=30)
)


def test_ridges_are_found_where_rows_read_a_sum() -> None:
    """d is drawn around `level`, which rows read beside it; e stands in no sum."""
    found = [step.move.block for step in ht.plan(Pairs(), DATA, collapse=False).steps if step.move.kind == "shift"]
    assert found == [("m", "a", "b")]


def test_guesses_from_normal_priors_are_always_accepted() -> None:
    """A draw of the exact conditional distribution has a ratio of 1, from wherever chains are."""
    shift, *_ = ht.plan(Pairs(), DATA, moves=[("shift", ("m", "a", "b")), ("joint", list(Pairs().latents))]).moves
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        v = Pairs().sample_prior(DATA, 50, generator)
        state = shift.target.state(shift.target.space.unconstrain(v))
        z = torch.randn(50, 1, 4, generator=generator, dtype=torch.float64)
        noise = Noise(z, torch.zeros(50, 1, dtype=z.dtype), torch.full((50, 1), -1.0, dtype=z.dtype))
        tuning = {**shift.learning(state).tuning, "log_share": torch.zeros((), dtype=z.dtype)}
        _, info = shift.step(state, tuning, noise)
    assert info.guessed is not None and bool(info.guessed.all())
    np.testing.assert_allclose(info.accept.numpy(), 1.0, atol=1e-8)


@pytest.mark.parametrize("block", [("m",), ("tau", "d"), ("level", "d"), ("level", "a"), ("a", "b")])
def test_blocks_that_cannot_be_shifted_are_refused(block: tuple[str, ...]) -> None:
    with refused(ModelError, f"a shift move on {block!r} is not possible"):
        ht.plan(Pairs(), DATA, moves=[("shift", block), ("joint", list(Pairs().latents))])
