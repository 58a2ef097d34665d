"""Normal approximations of conditionals, learnt in warm-up from the draws of all chains.

Note [Walks and guesses]
A random walk keeps at best a quarter of its draws in one dimension and less in more. Most conditionals of a
hierarchical model are close to normal, and warm-up sees enough of them to learn their mean and spread; then u' ~ q(. |
rest), accepted with min(1, p(u') q(u) / (p(u) q(u'))), is nearly an independent draw. Each proposal is a guess with
probability `share`, a walk otherwise, whatever the state: a mixture of two valid kernels. A bad guess costs acceptance,
never correctness, and the walks keep the tails.

docs/decisions.md: Walks and guesses.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.moves.metropolis import Tuning

WIDEN = 1.1
"""Guesses are this much wider than what was learnt, so that the target's tails are not lighter than theirs by accident.
"""

WIDEST = 12
"""Blocks of more dimensions than this only walk: a normal guess of all of them at once is hardly ever accepted."""

SMALLEST = 1e-100
"""Variance of draws, of the smallest unit that anybody measures in."""

BEST_WALK = 2.38
"""Over sqrt(width): the best size of a walk whose covariance has the target's shape (Gelman, Roberts & Gilks 1996)."""


class Guess(Protocol):
    """A normal approximation q of a block's conditional, learnt in warm-up; see Note [Walks and guesses]."""

    def tuning(self, like: Tensor) -> Tuning:
        """Tuning with which no guess is ever made; `log_share` `()` is the log of how often one is."""
        ...

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `(chains, size, width)`, root and inverse root of the covariance, of q given the rest of the state."""
        ...

    def observe(self, state: State) -> Tensor:
        """What to average over warm-up, summed over chains."""
        ...

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """The tuning that these sums over `count` observed sweeps and all chains teach."""
        ...


class Regression:
    """u_block | rest ~ Normal(W' f(rest), S): a linear regression of a block on summaries of everything else.

    f(rest) = (1, other population-level latents, mean and log sd over the groups of every group-level latent), all
    unconstrained; of effects that the move carries along, those of z = (u - m) / s, which it holds fixed.

    Args:
        target: the density.
        block: the latents to guess, moved with one decision a chain.
        carried: group-level latents that follow the block.
        standard: those of them whose z the move holds fixed element by element; the others are left out of f.
    """

    def __init__(
        self,
        target: Target,
        block: tuple[str, ...],
        carried: tuple[str, ...] = (),
        standard: frozenset[str] = frozenset(),
    ) -> None:
        coordinates = target.space.coordinates
        self.target, self.block, self.carried = target, block, carried
        # q must be the same before and after the move, so it may not read what the move changes.
        others = [name for name in coordinates if name not in block and (name not in carried or name in standard)]
        self.population = [name for name in others if coordinates[name].plate is None]
        self.grouped = [name for name in others if coordinates[name].plate is not None and coordinates[name].size > 2]
        self.width = sum(coordinates[name].size * coordinates[name].width for name in block)
        widths = [coordinates[name].width for name in (*self.population, *self.grouped, *self.grouped)]
        self.features = 1 + sum(widths)

    def tuning(self, like: Tensor) -> Tuning:
        """See `Guess.tuning`."""
        eye = torch.eye(self.width, dtype=like.dtype, device=like.device)
        return {
            "weights": like.new_zeros(self.features, self.width),
            "spread": eye,
            "inverse": eye,
            "log_share": like.new_full((), -torch.inf),
        }

    def rest(self, state: State) -> Tensor:
        """f(rest), `(chains, features)`."""
        first = state.free[self.block[0]]
        parts = [torch.ones_like(first.reshape(first.shape[0], -1)[:, :1])]
        parts += [state.free[name].flatten(1) for name in self.population]
        for name in self.grouped:
            if name in self.carried:
                place = self.target.location_scale(name, state.values)
                assert place is not None  # a standard prior has both
                parts += _mean_and_log_sd((state.free[name] - place[0]) / place[1])
            else:
                parts += self._summary(name, state.free[name])
        return torch.cat(parts, 1)

    def _summary(self, name: str, effects: Tensor) -> tuple[Tensor, Tensor]:
        """Kept until the effects move, for the moves in between."""
        kept = self.target.memory.get(name)
        if kept is None or kept[0] is not effects:
            kept = self.target.memory[name] = (effects, *_mean_and_log_sd(effects))
        return kept[1:]

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """See `Guess.normal`."""
        return (self.rest(state) @ tuning["weights"]).unsqueeze(1), tuning["spread"], tuning["inverse"]

    def observe(self, state: State) -> Tensor:
        """Cross products of (f, u_block), `(features + width, features + width)`."""
        z = torch.cat([self.rest(state), *(state.free[name].flatten(1) for name in self.block)], 1)
        return z.transpose(0, 1) @ z

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """Least squares with the least ridge that makes it well posed."""
        moments = sums / count
        mean = moments[0, 1:]  # the first feature is 1
        covariance = moments[1:, 1:] - torch.outer(mean, mean)
        scale = covariance.diagonal().clamp(min=SMALLEST).sqrt()
        correlation = covariance / torch.outer(scale, scale)
        f = self.features - 1
        eye = torch.eye(len(mean), dtype=sums.dtype, device=sums.device)
        slopes = torch.linalg.solve(correlation[:f, :f] + 1e-6 * eye[:f, :f], correlation[:f, f:])
        residual = correlation[f:, f:] - slopes.mT @ correlation[:f, f:]
        residual = (residual + residual.mT) / 2 + 1e-8 * eye[f:, f:]
        root, failed = torch.linalg.cholesky_ex(residual)
        if bool(failed):
            root = torch.diag(residual.diagonal().clamp(min=1e-8).sqrt())
        slopes = slopes / scale[:f, None] * scale[f:]
        weights = torch.cat([(mean[f:] - mean[:f] @ slopes).unsqueeze(0), slopes])
        spread = WIDEN * scale[f:, None] * root
        inverse = torch.linalg.solve_triangular(spread, eye[f:, f:], upper=False)
        walk = (spread / WIDEN * (BEST_WALK / self.width**0.5)).unsqueeze(0)
        return {"weights": weights, "spread": spread, "inverse": inverse, "root": walk}


def _mean_and_log_sd(effects: Tensor) -> tuple[Tensor, Tensor]:
    """Over groups, `(chains, size, *free_event)` to `(chains, width)` each."""
    effects = effects.flatten(2) if effects.dim() > 2 else effects.unsqueeze(-1)
    mean = effects.sum(1) / effects.shape[1]
    variance = (effects - mean.unsqueeze(1)).square().sum(1) / effects.shape[1]
    return mean, 0.5 * torch.log(variance + torch.finfo(variance.dtype).tiny)


class Marginal:
    """u_j ~ Normal(m_j, S_j) for every group j, whatever the rest: the posterior's own moments (Haario, Saksman &
    Tamminen 2001).

    For effects of several dimensions a group. Where groups have many rows their conditional hardly depends on the
    population, and the guess is good.

    Args:
        block: group-level latents of one plate.
        size: its groups.
        width: unconstrained dimensions of the block for each group.
    """

    def __init__(self, block: tuple[str, ...], size: int, width: int) -> None:
        self.block, self.size, self.width = block, size, width

    def tuning(self, like: Tensor) -> Tuning:
        """See `Guess.tuning`."""
        eye = torch.eye(self.width, dtype=like.dtype, device=like.device).repeat(self.size, 1, 1)
        return {
            "mean": like.new_zeros(self.size, self.width),
            "spread": eye,
            "inverse": eye,
            "log_share": like.new_full((), -torch.inf),
        }

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """See `Guess.normal`."""
        return tuning["mean"], tuning["spread"], tuning["inverse"]

    def observe(self, state: State) -> Tensor:
        """Cross products of (1, u_j), `(size, 1 + width, 1 + width)`."""
        parts = [state.free[name].reshape(-1, self.size, state.free[name][0, 0].numel()) for name in self.block]
        z = torch.cat([torch.ones_like(parts[0][..., :1]), *parts], -1).transpose(0, 1)
        return z.mT @ z

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """Means and covariances by group."""
        mean = sums[:, 0, 1:] / count
        covariance = sums[:, 1:, 1:] / count - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        eye = torch.eye(self.width, dtype=sums.dtype, device=sums.device)
        scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=SMALLEST).sqrt()
        correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2)) + 1e-6 * eye
        root, failed = torch.linalg.cholesky_ex(correlation)
        root = torch.where((failed > 0)[:, None, None], eye, root) * scale.unsqueeze(-1)
        spread = WIDEN * root
        inverse = torch.linalg.solve_triangular(spread, eye.expand_as(spread), upper=False)
        return {"mean": mean, "spread": spread, "inverse": inverse, "root": root * (BEST_WALK / self.width**0.5)}


class Site:
    """u_j | rest ~ prior(u_j; m, s) x Normal-shaped site exp(h_j u_j - lambda_j u_j^2 / 2), for every group j.

    Given the rest the guess is Normal((h_j + m / s^2) / P_j, 1 / P_j) with P_j = lambda_j + 1 / s^2: it follows the
    population, so that it fits at the mouth of the funnel as well as outside. The site stands for the group's rows and
    finer groups. Its two numbers solve Stein's identity E[w (lambda u - h + (u - m) / s^2) g(u)] = E[w g'(u)] for g = 1
    and g = u, with a weight w(s) that keeps 1 / s^2 bounded; for a normal conditional they are exact.

    Args:
        target: the density.
        name: a group-level latent of width 1 whose prior has a location and a scale.
    """

    def __init__(self, target: Target, name: str) -> None:
        self.target, self.name = target, name
        self.size = target.space.coordinates[name].size

    def tuning(self, like: Tensor) -> Tuning:
        """See `Guess.tuning`."""
        return {
            "precision": like.new_ones(self.size),
            "pull": like.new_zeros(self.size),
            "log_share": like.new_full((), -torch.inf),
        }

    def _place(self, state: State) -> tuple[Tensor, Tensor]:
        """Location and 1 / scale^2 of the prior, `(chains, size)`."""
        place = self.target.location_scale(self.name, state.values)
        assert place is not None
        location, scale = place.flatten(3).squeeze(-1) if place.dim() > 3 else place
        return location, scale.square().reciprocal()

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """See `Guess.normal`."""
        location, precision = self._place(state)
        total = tuning["precision"] + precision
        mean = (tuning["pull"] + precision * location) / total
        inverse = total.sqrt() / WIDEN
        return mean.unsqueeze(-1), inverse.reciprocal()[..., None, None], inverse[..., None, None]

    def observe(self, state: State) -> Tensor:
        """Weighted moments by group, `(5, size)`."""
        u = state.free[self.name].reshape(-1, self.size)
        location, precision = self._place(state)
        typical = u.var(0) if len(u) > 1 else 1.0
        w = 1.0 / (1.0 + precision * typical)  # any function of the prior's scale would do
        score = w * precision * (u - location)
        terms = torch.stack([w.expand_as(u), w * u, w * u * u, score, score * u])
        return torch.where(terms.isfinite().all(0), terms, 0.0).sum(
            1
        )  # a chain whose 1 / s^2 overflows teaches nothing

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """Solves the two equations of Stein's identity for each group."""
        w, wu, wuu, score, score_u = sums
        mean = wu / w
        spread = (wuu / w - mean.square()).clamp(min=SMALLEST)
        least = 1e-6 / spread  # the draws have a unit, and so has a precision
        precision = torch.maximum((w - score_u + mean * score) / w / spread, least)
        precision = torch.where(torch.isfinite(precision), precision, least)
        return {"precision": precision, "pull": precision * mean + score / w}


def log_share(guess_accept: float, width: int) -> float:
    """The log of how often to guess: in proportion to how many independent draws a guess and a walk give a step.

    A guess accepted at rate a gives about a / (2 - a) (exact for an independence sampler with constant acceptance), a
    walk in d dimensions about 0.33 / (d + 0.5) (Gelman, Roberts & Gilks 1996). Walks keep a tenth at least.
    """
    guess, walk = guess_accept / (2.0 - guess_accept), 0.33 / (width + 0.5)
    return math.log(min(0.9, max(0.02, guess / (guess + walk))))
