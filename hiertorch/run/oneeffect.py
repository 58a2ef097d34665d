"""Covariances of effects, effect by effect, each of them integrated out of a surrogate of the rows.

    e_g ~ N(r' h_g, t^2)  given a group's other effects, of which h_g are the standard normal numbers

(r, t) is the last row of the root of the covariance where this effect is the last; the covariance of the others does
not hang on it. With G_g the product of the effect's column with itself, and c_g that with what all else leaves of the
response, m_g = r' h_g has under the surrogate the density

    log f = sum_g c_g m_g - G_g m_g^2 / 2 + t^2 (c_g - G_g m_g)^2 / (2 A_g) - log(A_g) / 2,     A_g = 1 + t^2 G_g,

and the effect a mean and a variance, (m_g + t^2 c_g) / A_g and t^2 / A_g, of which the standard normal number of each
group is kept, so that effects move along: neither effects nor these over their scales hold a covariance where it is,
whatever rows say of them (partially non-centred, group by group: Papaspiliopoulos, Roberts & Skold 2007). Two moves:

- Its correlations: r, which is normal given t, if the prior's power of s^2 = r'r + t^2 is a mixture of exponentials,
  s^-p proportional to the mean of exp(-v s^2 / 2) over v ~ chi-squared(p) / s^2: v is drawn, then r.
- Its scale, with correlations: (r, t) times a number, so that s is from bins of s / (s + u), u a usual value of s, with
  probabilities as f has them in their middles.

The prior, and what rows say beyond the surrogate, decide.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density.rowpass import can_compile
from hiertorch.gaussian.covariances import MOVED, Covariance
from hiertorch.run.giveneffects import Fitted

BINS = 64
"""Of s / (s + u)."""

LEAST = 1e-9
"""Added to their probabilities, in units of the largest."""

UNSURE, MOST_UNSURE = 2.0, 3
"""Times the variance that rows of a group leave an effect, below which its covariance moves more often, and of how many
effects.
"""


class Offered(NamedTuple):
    """What chains are offered."""

    row: Tensor  # r, then t, (chains, K)
    effect: Tensor  # (groups, chains)
    beyond: Tensor  # log f there less that here, less the same of the density from which it is drawn, (chains,)


class Sides(NamedTuple):
    """What a covariance's moves take.

    Attributes:
        mine: places of its effects among those of the level, the one that moves the last, `(K,)`.
        gram: products of the level's columns, `(width, width, groups)`.
        right: and with what coefficients leave of the response, `(width, groups, chains)`.
        root: the root of the covariance in the order of `mine`, `(chains, K, K)`.
        level: effects, `(width, groups, chains)`.
    """

    mine: Tensor
    gram: Tensor
    right: Tensor
    root: Tensor
    level: Tensor


class OneEffect:
    """Moves of the covariance of some effects of the finest level; see the module.

    Args:
        covariance: which.
        like: of the dtype, on the device.

    Attributes:
        orders: of the effects, each of them the last in one.
        unsure: effects of which rows say less than their prior.
        units: u of each effect,
        powers: and p.
    """

    def __init__(self, covariance: Covariance, like: Tensor) -> None:
        self.covariance, k = covariance, covariance.width
        turns = torch.arange(k, device=like.device)
        self.orders = [turns.roll(-1 - last) for last in range(k)]
        self.unsure, self.units, self.powers = list[int](), [1.0] * k, [k] * k

    def fit(self, fitted: Fitted, roots: Tensor, spread: Tensor) -> None:
        """To some roots `(n, K, K)`, given what proposals given effects know of the prior, and the variance `(K,)` that
        rows of a group leave each effect.
        """
        known = roots.square().sum(2).mean(0) / spread
        least = known.argsort()[:MOST_UNSURE]
        self.unsure = least[known[least] < UNSURE].tolist()
        self.units = torch.linalg.vector_norm(roots, dim=2).mean(0).clamp(min=1e-9).tolist()
        self.powers = (2.0 * fitted.bend - fitted.slopes).round().clamp(1, 4 * len(self.powers)).long().tolist()

    def tensors(self) -> dict[str, Tensor]:
        """What was fitted, as named tensors, which `take` takes."""
        found = {"unsure": self.unsure, "units": self.units, "powers": self.powers}
        return {name: torch.tensor(x, dtype=torch.float64, device="cpu") for name, x in found.items()}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """What such tensors hold is what was fitted."""
        self.unsure, self.powers = ([int(x) for x in tensors[name]] for name in ("unsure", "powers"))
        self.units = tensors["units"].tolist()

    def moved(self, sweep: int) -> list[int]:
        """Effects that are moved in a sweep: each in turn, and those of which rows say little more often."""
        k = self.covariance.width
        few = [self.unsure[sweep % len(self.unsure)]] if self.unsure else []
        return list(dict.fromkeys([*few, *((MOVED * sweep + i) % k for i in range(min(MOVED, k)))]))


def offered_row(sides: Sides, power: int, square: Tensor, noise: Tensor) -> Offered:
    """Other correlations of the last effect.

    Args:
        sides: of it.
        power: p.
        square: a number from chi-squared(p), `(chains,)`.
        noise: standard normal, `(K - 1, chains)`.
    """
    if (loops := _loops(sides.level)) is not None:
        return Offered(*loops.offered_row(sides, power, square, noise))
    root, x = sides.root, sides.level[sides.mine[-1]].mT
    h, left, own = _given_others(sides)
    t, row = root[:, -1, -1:], root[:, -1, :-1]
    inner, before = 1.0 + t.square() * own, torch.linalg.vector_norm(root[:, -1], dim=1)
    precision = (h * (own / inner).unsqueeze(1)) @ h.mT + (square / before.square())[:, None, None] * torch.eye(
        row.shape[1], dtype=row.dtype, device=row.device
    )
    lower, _ = torch.linalg.cholesky_ex(precision)
    half = torch.linalg.solve_triangular(lower, (h @ (left / inner).unsqueeze(2)), upper=False)
    new = torch.linalg.solve_triangular(lower.mT, half + noise.mT.unsqueeze(2), upper=True).squeeze(2)
    effect = x + ((new - row).unsqueeze(1) @ h).squeeze(1) / inner
    whole = torch.cat([new, t], 1)
    return Offered(whole, effect.mT, power * (torch.linalg.vector_norm(whole, dim=1) / before).log())


def offered_scale(sides: Sides, unit: float, uniform: Tensor) -> Offered:
    """Another scale of the last effect.

    Args:
        sides: of it.
        unit: u.
        uniform: numbers on (0, 1), `(2, chains)`.
    """
    if (loops := _loops(sides.level)) is not None:
        return Offered(*loops.offered_scale(sides, unit, BINS, LEAST, uniform))
    last, x = sides.root[:, -1], sides.level[sides.mine[-1]].mT
    h, left, own = _given_others(sides)
    before = torch.linalg.vector_norm(last, dim=1, keepdim=True)
    direction = last / before
    a, t = (direction[:, :-1].unsqueeze(1) @ h).squeeze(1), direction[:, -1:]

    def height(s: Tensor) -> Tensor:
        """log f of `(chains, n)`."""
        mean, square = s.unsqueeze(2) * a.unsqueeze(1), (s * t).square().unsqueeze(2)
        inner, rest = 1.0 + square * own, left.unsqueeze(1) - own * mean
        every = mean * (left.unsqueeze(1) - 0.5 * own * mean) + 0.5 * (square * rest.square() / inner - inner.log())
        return every.sum(2)

    middles = (torch.arange(BINS, dtype=before.dtype, device=before.device) + 0.5) / BINS
    middles = middles.expand(len(last), -1)
    weight = height(unit * middles / (1.0 - middles)) - 2.0 * (1.0 - middles).log()
    weight = (weight - weight.amax(1, keepdim=True)).exp() + LEAST
    sums, u = weight.cumsum(1), uniform.to(weight).unsqueeze(2)
    place = (u[0] * sums[:, -1:] > sums).sum(1, keepdim=True).clamp(max=BINS - 1)
    share, old = (place + u[1]) / BINS, before / (before + unit)
    there, at = unit * share / (1.0 - share), (old * BINS).long().clamp(0, BINS - 1)
    log_q = [weight.gather(1, n).log() + 2.0 * (1.0 - y).log() for n, y in ((place, share), (at, old))]
    beyond = height(there) - height(before) - log_q[0] + log_q[1]
    here, new = (before * t).square(), (there * t).square()
    inner, other = 1.0 + here * own, 1.0 + new * own
    number = (x - (before * a + here * left) / inner) * (inner / here).sqrt()
    effect = (there * a + new * left) / other + number * (new / other).sqrt()
    return Offered(last * (there / before), effect.mT, beyond.squeeze(1))


def _given_others(sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """h `(chains, K - 1, groups)`, c `(chains, groups)`, and G `(groups,)`."""
    mine, gram, right, root, level = sides
    effect, x = mine[-1:], level.movedim(2, 0)  # (chains, width, groups)
    h = torch.linalg.solve_triangular(root[:, :-1, :-1], x[:, mine[:-1]], upper=False)
    without = torch.einsum("mg,cmg->cg", gram[effect[0]], x.index_fill(1, effect, 0.0))
    return h, right[effect[0]].mT - without, gram[effect[0], effect[0]]


def _loops(like: Tensor):  # type: ignore[no-untyped-def]
    """The same moves compiled, where that is possible."""
    if not can_compile(like.device) or like.dtype != torch.float64:
        return None
    from hiertorch.run import oneeffectloops  # an extra

    return oneeffectloops
