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

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.moves.base import Info, Move, Noise, Tuning, bold
from hiertorch.moves.guesses import log_share

__all__ = ["Adaptation", "acceptance_target", "units_of", "walk_root"]

TARGETS = (0.44, 0.35, 0.32, 0.28, 0.26, 0.25)
"""Best acceptance rates of a random walk on a normal target of 1 to 6 dimensions (Gelman, Roberts & Gilks 1996, table
1); 0.234 above.
"""

DECAY = 0.6

WIDE = 100.0
"""Spread of chains up to which a walk of length 1 finds its size soon."""

STAGES = (0.1, 0.2, 0.4, 0.65, 0.9)
"""Parts of warm-up: nothing is learnt for guesses in the first, then they are fitted at the end of each window; in the
last they are only judged.
"""

FIRST_SHARE = -0.7
"""Log of how often to guess until it is known how well that goes: about half of the time."""


def acceptance_target(width: int) -> float:
    """The acceptance rate to aim for with a random walk in `width` dimensions."""
    return TARGETS[width - 1] if width <= len(TARGETS) else 0.234


def units_of(move: Move, state: State) -> Tensor:
    """How far the chains lie apart where they start, `(width,)`, if that is beyond WIDE, else 1.

    Chains start at draws from the prior. A walk that is far too long shrinks within some sweeps, however long it is;
    one that is far too short hardly grows, since the root gains 1 + step / 2 a sweep at most.
    """
    parts = [state.free[name].detach() for name in move.block]
    chains = parts[0].shape[0]
    if move.plate is None:
        spread = torch.cat([x.reshape(chains, -1) for x in parts], 1)
    else:
        spread = torch.cat([x.reshape(chains * x.shape[1], -1) for x in parts], 1)
    spread = (spread - spread.mean(0)).square().mean(0).sqrt()
    return torch.where((spread > WIDE) & spread.isfinite(), spread, 1.0)


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
class Adaptation:
    """What is being learnt about one move in warm-up: its tuning so far, and the sums from which the next guess is
    fitted.
    """

    tuning: Tuning
    sums: Tensor | None = None
    count: int = 0
    guesses: Tensor | None = field(default=None)  # (2,): acceptance summed over guesses, and how many

    @classmethod
    def begin(cls, move: Move, like: Tensor, scale: float = 0.5, units: Tensor | None = None) -> "Adaptation":
        """Before the first sweep: walks of `scale / sqrt(width)` in every direction, in `units` `(width,)` if given; no
        guesses.
        """
        eye = torch.eye(move.width, device=like.device, dtype=like.dtype)
        eye = eye if units is None else units.to(eye).diag()
        tuning = {"root": eye.mul(scale / move.width**0.5).repeat(move.size, 1, 1)}
        return cls(tuning if move.guess is None else {**tuning, **move.guess.tuning(like)})

    def told(self, tuning: Mapping[str, Tensor]) -> "Adaptation":
        """With what an earlier run has learnt, where it fits."""
        fits = {key: x for key, x in tuning.items() if key in self.tuning and x.shape == self.tuning[key].shape}
        return replace(self, tuning={**self.tuning, **fits})

    def step(self, move: Move, noise: Noise, info: Info, t: int) -> "Adaptation":
        """After the move's step in warm-up sweep `t`, from 1."""
        aside = bold(noise) if info.guessed is None else bold(noise) | info.guessed
        excess = torch.where(aside, 0.0, info.accept - acceptance_target(move.width))
        guesses = self.guesses
        if info.guessed is not None:
            met = torch.stack([torch.where(info.guessed, info.accept, 0.0).sum(), info.guessed.sum()])
            guesses = met if guesses is None else guesses + met
        return replace(
            self,
            tuning={**self.tuning, "root": walk_root(self.tuning["root"], noise.normal, excess, t)},
            guesses=guesses,
        )

    def observe(self, move: Move, state: State, t: int, warmup: int) -> "Adaptation":
        """After warm-up sweep `t` of `warmup`: looks at the draws, and fits the guess where a window ends."""
        ends = [round(part * warmup) for part in STAGES]
        if move.guess is None or t <= ends[0]:
            return self
        new = self
        if t <= ends[-1]:
            seen = move.guess.observe(state).double()
            new = replace(
                self, sums=seen if self.sums is None else self.sums + seen, count=self.count + state.cells.shape[0]
            )
        if t in ends[1:] and new.sums is not None:
            fitted = {key: x.to(state.cells.dtype) for key, x in move.guess.fit(new.sums, new.count).items()}
            if "root" in fitted:
                fitted["root"] = _smaller(fitted["root"], self.tuning["root"])
            share = {"log_share": torch.full_like(self.tuning["log_share"], FIRST_SHARE)}
            return replace(new, tuning={**self.tuning, **fitted, **share}, sums=None, count=0, guesses=None)
        if t == warmup and self.guesses is not None:
            accept, made = self.guesses.tolist()
            share = {
                "log_share": torch.full_like(self.tuning["log_share"], log_share(accept / max(made, 1.0), move.width))
            }
            return replace(new, tuning={**self.tuning, **share})
        return new


def _smaller(one: Tensor, other: Tensor) -> Tensor:
    """Of two roots `(size, width, width)` that with the smaller determinant. What a regression leaves over can be much
    wider than the conditional distribution that a walk has found: where the regression does not hold, or where chains
    have data sets of their own.
    """
    volume = [root.diagonal(dim1=-2, dim2=-1).log().sum(-1) for root in (one, other)]
    return torch.where((volume[0] < volume[1])[:, None, None], one, other)
