"""What warm-up learns for each move: the root of its walk's covariance, and the guess that it makes beside it.

Walks: robust adaptive Metropolis (Vihola 2012, eq. 2), pooled over chains:

    root root' <- root ( I + step_t  mean_c[ (accept_c - target) z_c z_c' / |z_c|^2 ] ) root',    step_t = min(1, width
    t^-0.6)

It moves the covariance to the shape of the target *given everything that the move holds fixed* (an empirical covariance
of the draws would learn the marginal one), and its size to the acceptance rate wanted. For width 1 it is Robbins-Monro
on the log scale.

Guesses (see `hiertorch.moves.guesses`) are fitted at the end of each window of STAGES from the draws of that window,
and how often they are made follows from how often they were accepted.

The steps diminish, and after warm-up the tuning is frozen: sampling is one fixed kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.guesses import Guess, log_share
from hiertorch.moves.metropolis import Info, Noise, Tuning, bold

TARGETS = (0.44, 0.35, 0.32, 0.28, 0.26, 0.25)
"""Best acceptance rates of a random walk on a normal target of 1 to 6 dimensions (Gelman, Roberts & Gilks 1996, table
1); 0.234 above.
"""

DECAY = 0.6
"""Power at which the steps of a walk's root diminish."""

SCALE = 0.5
"""Length of the first walks, times sqrt(width)."""

WIDE = 100.0
"""Spread of chains up to which a walk of length 1 finds its size soon."""

LOOKS = (0.25, 0.5, 1.0)
"""Parts of warm-up after which it may end: guesses are then made as often as they have served since the last fit."""

STAGES = (*(0.9 * part for part in (0.0625, 0.125, 0.25, 0.5, 1.0)),)
"""Parts of warm-up: nothing is learnt for guesses in the first, then they are fitted at the end of each window; in the
last they are only judged. Each window is as long as all before it, so that a warm-up of half the length has the same
ones.
"""

FIRST_SHARE = -0.7
"""Log of how often to guess until it is known how well that goes: about half of the time."""


def looks(warmup: int) -> list[int]:
    """Sweeps after which a warm-up of so many may end."""
    return [round(part * warmup) for part in LOOKS]


def acceptance_target(width: int) -> float:
    """The acceptance rate to aim for with a random walk in `width` dimensions."""
    return TARGETS[width - 1] if width <= len(TARGETS) else 0.234


def walk_root(root: Tensor, normal: Tensor, excess: Tensor, t: int) -> Tensor:
    """The root after one warm-up step.

    Args:
        root: `(size, width, width)`, lower triangular.
        normal: the step's standard normal numbers `(chains, size, width)`.
        excess: acceptance probability minus its target `(chains, size)`, 0 where no walk was proposed.
        t: number of the step, from 1.
    """
    width = root.shape[-1]
    step = min(1.0, width * t**-DECAY)
    if width == 1:
        return root * (1.0 + step * excess.mean(0)).sqrt()[:, None, None]
    direction = normal / normal.norm(dim=-1, keepdim=True)
    weighted = (excess.unsqueeze(-1) * direction).permute(1, 2, 0)
    inner = (
        torch.eye(width, device=root.device, dtype=root.dtype)
        + step * (weighted @ direction.transpose(0, 1)) / excess.shape[0]
    )
    return root @ torch.linalg.cholesky_ex((inner + inner.mT) / 2)[0]


@dataclass(frozen=True)
class Learning:
    """What warm-up has taught a move so far. This one learns nothing: its tuning stays as it is.

    In each sweep of warm-up, after all moves, it is told of every step that its move made, by `step`, and then of the
    state at which the sweep ended, by `observe`; both give what is known from then on, and change nothing in place.
    """

    tuning: Tuning

    def told(self, tuning: Mapping[str, Tensor]) -> Self:
        """With what an earlier run has learnt, where it fits."""
        fits = {key: x for key, x in tuning.items() if key in self.tuning and x.shape == self.tuning[key].shape}
        return replace(self, tuning={**self.tuning, **fits})

    def step(self, noise: Noise, info: Info, t: int) -> Self:
        """After the move's step in warm-up sweep `t`, from 1: its random numbers, and what came of them."""
        return self

    def observe(self, state: State, t: int, warmup: int) -> Self:
        """After warm-up sweep `t` of `warmup`, where the state is now."""
        return self

    def state(self) -> dict[str, Tensor]:
        """All that is known so far, as named tensors."""
        return dict(self.tuning)

    def restored(self, state: Mapping[str, Tensor]) -> Self:
        """With what is known in a `state`, in place of its own."""
        return replace(self, tuning={key: state[key] for key in self.tuning})


@dataclass(frozen=True)
class Adaptation(Learning):
    """The root of the walk and the guess: the tuning so far, and the sums from which the next guess is fitted.

    Args:
        tuning: `root` `(size, width, width)`, and what the guess has.
        rate: the acceptance rate that walks are to have.
        guess: what is fitted, if anything.
        sums: over the sweeps of this window.
        count: of chains and sweeps in the sums.
        guesses: acceptance summed over guesses, and how many there were, `(2,)`.
    """

    rate: float
    guess: Guess | None = None
    sums: Tensor | None = None
    count: int = 0
    guesses: Tensor | None = None

    @classmethod
    def begin(
        cls, state: State, block: Sequence[str], size: int, width: int, rate: float, guess: Guess | None = None
    ) -> Self:
        """Before the first sweep: walks of SCALE / sqrt(width) in every direction, and no guesses.

        Chains start at draws from the prior. A walk that is far too long shrinks within some sweeps, however long it
        is; one that is far too short hardly grows, since the root gains 1 + step / 2 a sweep at most. So where chains
        lie further apart than WIDE, that is its unit, if it walks in the coordinates of its block.
        """
        parts = [state.free[name].detach() for name in block]
        spread = torch.cat([x.reshape(x.shape[0] * size, -1) for x in parts], 1)
        spread = (spread - spread.mean(0)).square().mean(0).sqrt()
        units = torch.where((spread > WIDE) & spread.isfinite(), spread, 1.0)
        like = state.cells
        units = units.to(like) if len(units) == width else like.new_ones(width)
        tuning = {"root": units.diag().mul(SCALE / width**0.5).repeat(size, 1, 1)}
        return cls(tuning if guess is None else {**tuning, **guess.tuning(like)}, rate, guess)

    def step(self, noise: Noise, info: Info, t: int) -> Self:
        """See `Learning.step`."""
        aside = bold(noise) if info.guessed is None else bold(noise) | info.guessed
        excess = torch.where(aside, 0.0, info.accept - self.rate)
        guesses = self.guesses
        if info.guessed is not None:
            met = torch.stack([torch.where(info.guessed, info.accept, 0.0).sum(), info.guessed.sum()])
            guesses = met if guesses is None else guesses + met
        root = self.tuning["root"]
        walk = noise.normal[..., : root.shape[-1]]
        return replace(self, tuning={**self.tuning, "root": walk_root(root, walk, excess, t)}, guesses=guesses)

    def observe(self, state: State, t: int, warmup: int) -> Self:
        """Looks at the draws, and fits the guess where a window of STAGES ends. See `Learning.observe`."""
        ends = [round(part * warmup) for part in STAGES]
        if self.guess is None or t <= ends[0]:
            return self
        new = self
        if t <= ends[-1]:
            seen = self.guess.observe(state).double()
            new = replace(
                self, sums=seen if self.sums is None else self.sums + seen, count=self.count + state.cells.shape[0]
            )
        if t in ends[1:] and new.sums is not None:
            fitted = {key: x.to(state.cells.dtype) for key, x in self.guess.fit(new.sums, new.count).items()}
            if "root" in fitted:
                fitted["root"] = _smaller(fitted["root"], self.tuning["root"])
            return replace(new._guessing(FIRST_SHARE, fitted), sums=None, count=0, guesses=None)
        if t in looks(warmup) and self.guesses is not None:
            accept, made = self.guesses.tolist()
            return new._guessing(log_share(accept / max(made, 1.0), self.tuning["root"].shape[-1]))
        return new

    def state(self) -> dict[str, Tensor]:
        """See `Learning.state`."""
        found = {"sums": self.sums, "guesses": self.guesses, "count": torch.tensor(self.count, device="cpu")}
        return {**self.tuning, **{key: x for key, x in found.items() if x is not None}}

    def restored(self, state: Mapping[str, Tensor]) -> Self:
        """See `Learning.restored`."""
        sums, guesses, count = state.get("sums"), state.get("guesses"), int(state["count"])
        return replace(super().restored(state), sums=sums, guesses=guesses, count=count)

    def _guessing(self, log_often: float, fitted: Tuning | None = None) -> Self:
        """The same with guesses as often as this, and with what has been fitted."""
        share = torch.full_like(self.tuning["log_share"], log_often)
        return replace(self, tuning={**self.tuning, **(fitted or {}), "log_share": share})


def _smaller(one: Tensor, other: Tensor) -> Tensor:
    """Of two roots `(size, width, width)` that with the smaller determinant. What a regression leaves over can be much
    wider than the conditional distribution that a walk has found: where the regression does not hold, or where chains
    have data sets of their own.
    """
    volume = [root.diagonal(dim1=-2, dim2=-1).log().sum(-1) for root in (one, other)]
    return torch.where((volume[0] < volume[1])[:, None, None], one, other)
