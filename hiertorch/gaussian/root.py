"""The root of the elimination: what is left when all levels of effects are eliminated, dense and without groups.

    A = I + C' G C,     h = C' G_.y - C^-1 b0,     r | y ~ N(C A^-1 h, C A^-1 C')

r: the population's coefficients, and before them the effects of *crossed* plates, those that do not nest in the others.
C is block diagonal: the root of the prior covariance of each part. The batch is in the last axis of all tensors.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import plus_identity, product, solve_lower, solve_upper
from hiertorch.gaussian.grams import Grams


class Spreads(NamedTuple):
    """What the rest of the latents says about scales, for each of a batch."""

    factors: Tensor  # f, (strata, batch)
    levels: tuple[Tensor, ...]  # C_l, (K, K, groups or 1, batch)
    crossed: tuple[Tensor, ...]  # the same for crossed plates
    population: Tensor | None  # C of the population's coefficients, (P, P, batch), or its diagonal, (P, batch); None
    # where it is the identity
    location: Tensor  # C^-1 b0, (P, batch)
    held: Tensor  # coefficients less their shift, (held, batch)


class Reduced(NamedTuple):
    """A batch after elimination."""

    log_marginal: Tensor  # log p(y | rest), (batch,)
    grams: tuple[Tensor, ...]  # of levels above the finest: (q, q, groups, batch)
    root: Tensor  # L with L L' = A of the root, (R, R, batch)
    centre: Tensor  # L^-1 h of the root, (R, batch)


class Root:
    """The algebra of the root, R coefficients and effects wide.

    Args:
        grams: whose crossed plates, population and held coefficients it has.
    """

    def __init__(self, grams: Grams) -> None:
        self.crossed, self.population, self.n_crossed = grams.crossed, grams.population, grams.n_crossed
        self.width = grams.n_crossed + (grams.population.width if grams.population else 0)

    def reduce(self, gram: Tensor, spreads: Spreads) -> tuple[Tensor, Tensor, Tensor]:
        """L, L^-1 h, and what the best fit leaves of y' y, from the root's Gram matrix `(q, q, batch)`."""
        width = self.width
        right = gram[:, -1]
        for i, c in enumerate(spreads.held):
            right = right - gram[:, width + i] * c
        left = right[-1] + spreads.location.square().sum(0)
        for i, c in enumerate(spreads.held):
            left = left - right[width + i] * c
        if width == 0:
            return gram[:0, :0], right[:0], left
        inner = self.turn(
            spreads, self.turn(spreads, gram[:width, :width], transpose=True).transpose(0, 1), transpose=True
        )
        h = self.turn(spreads, right[:width].unsqueeze(1), transpose=True).squeeze(1)
        h[width - len(spreads.location) :] -= spreads.location
        lower = plus_identity(inner)
        centre = solve_lower(lower, h)
        return lower, centre, left - centre.square().sum(0)

    def turn(self, spreads: Spreads, x: Tensor, *, transpose: bool = False) -> Tensor:
        """C x, or C' x: `(R, m, batch)`, block by block."""
        found, start = [], 0
        for part, spread in zip(self.crossed, spreads.crossed, strict=True):
            end = start + part.width * part.size
            block = x[start:end].unflatten(0, (part.width, 1, part.size))  # (K, 1, J, m, batch)
            found.append(product(spread.unsqueeze(3), block, transpose=transpose).flatten(0, 2))
            start = end
        if start < len(x):
            own = spreads.population
            found.append(x[start:] if own is None else times(own, x[start:], transpose=transpose))
        return torch.cat(found) if len(found) > 1 else found[0]

    def drawn(self, reduced: Reduced, noise: Tensor, coefficients: Tensor | None) -> Tensor:
        """Standardised coefficients and effects, `(R, batch)`, from standard normal noise `(R, batch)`; those of the
        population less their location, which may be given, `(P, batch)`.
        """
        if coefficients is not None:
            # Coefficients come first in the substitution: the noise behind them holds for any crossed effects.
            n = self.n_crossed
            behind = product(reduced.root[n:, n:], coefficients.unsqueeze(1), transpose=True)
            noise = torch.cat([noise[:n], behind.squeeze(1) - reduced.centre[n:]])
        return solve_upper(reduced.root, reduced.centre + noise)

    def joined(self, spreads: Spreads, standard: Mapping[str | None, Tensor]) -> Tensor:
        """What `drawn` gives, of given standardised effects and coefficients."""
        parts = [standard[part.plate].flatten(0, 1) for part in self.crossed]
        return torch.cat([*parts, *([standard[None][:, 0] - spreads.location] if self.population else [])])

    def parts(self, spreads: Spreads, u: Tensor) -> dict[str | None, Tensor]:
        """The inverse of `joined`: plate -> `(K, groups, batch)`."""
        found: dict[str | None, Tensor] = {}
        start = 0
        for part in self.crossed:
            end = start + part.width * part.size
            found[part.plate] = u[start:end].unflatten(0, (part.width, part.size))
            start = end
        return found | ({None: (u[start:] + spreads.location).unsqueeze(1)} if self.population else {})


def times(own: Tensor, x: Tensor, *, transpose: bool = False) -> Tensor:
    """C x, or C' x, of the population's C `(P, P, batch)` or its diagonal `(P, batch)`."""
    return own.unsqueeze(1) * x if own.dim() == 2 else product(own, x, transpose=transpose)
