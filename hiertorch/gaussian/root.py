"""The root of the elimination: what is left when all levels of effects are eliminated, dense and without groups.

    A = I + C' G C,     h = C' G_.y - C^-1 b0,     r | y ~ N(C A^-1 h, C A^-1 C')

r: the population's coefficients, and before them the effects of *crossed* plates, those that do not nest in the others.
C is block diagonal: the root of the prior covariance of each part. The batch is in the last axis of all tensors.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density.rowpass import can_compile
from hiertorch.gaussian.cholesky import UNROLLED, log_diagonal, plus_identity, product, solve_lower, solve_upper
from hiertorch.gaussian.grams import Grams

MOST_LOOPED = 64
"""Rows of the largest root that is drawn by a compiled loop, whose numbers stay in a cache."""


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


class Drawn(NamedTuple):
    """A batch after elimination, with the root drawn: all that effects given it take."""

    log_marginal: Tensor  # log p(y | rest), (batch,)
    grams: tuple[Tensor, ...]  # of levels above the finest: (q, q, groups, batch)
    half: Tensor  # log |L| of the root, (batch,)
    root: Tensor  # standardised coefficients and effects less location, (R, batch)


class Root:
    """The algebra of the root, R coefficients and effects wide.

    Args:
        grams: whose crossed plates, population and held coefficients it has.
    """

    def __init__(self, grams: Grams) -> None:
        self.crossed, self.population, self.n_crossed = grams.crossed, grams.population, grams.n_crossed
        self.width = grams.n_crossed + (grams.population.width if grams.population else 0)
        double = grams.packed.dtype == torch.float64
        self.loops = UNROLLED < self.width <= MOST_LOOPED and double and can_compile(grams.packed.device)  # on the CPU

    def reduce(self, gram: Tensor, spreads: Spreads) -> tuple[Tensor, Tensor, Tensor]:
        """L, L^-1 h, and what the best fit leaves of y' y, from the root's Gram matrix `(q, q, batch)`."""
        inner, h, left = self._system(gram, spreads)
        if self.width == 0:
            return inner, h, left
        lower = plus_identity(inner)
        centre = solve_lower(lower, h)
        return lower, centre, left - centre.square().sum(0)

    def reduced_and_drawn(self, gram: Tensor, spreads: Spreads, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log |L|, what the best fit leaves of y' y, and standardised coefficients and effects less location, `(R,
        batch)`, from standard normal noise.
        """
        inner, h, left = self._system(gram, spreads)
        if self.width == 0:
            return torch.zeros_like(left), left, noise
        if self.loops and noise.device.type == "cpu":
            numbers = torch.cat([inner.flatten(0, 1), h])
            place = torch.arange(len(numbers)).view(-1, self.width)
            half, square, u = self._looped(numbers, place, h.new_zeros(self.width), noise)
            return half, left - square, u
        lower = plus_identity(inner)
        centre = solve_lower(lower, h)
        return log_diagonal(lower), left - centre.square().sum(0), solve_upper(lower, centre + noise)

    def of_packed(
        self, packed: Tensor, place: Tensor, spreads: Spreads, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """The same, from the Gram matrix's numbers `(n, batch)` and where among them each of its entries is, `(q, q)`,
        if that is all a compiled loop has to know.
        """
        simple = not self.crossed and spreads.population is None and not len(spreads.held)
        if not self.loops or not simple or noise.device.type != "cpu":
            return None
        shift = spreads.location[:, 0]  # the same for all of a batch, as C is
        of = torch.cat([place[:-1, :-1], place[-1:, :-1]])
        half, square, u = self._looped(packed, of, shift, noise)
        return half, packed[place[-1, -1]] + shift.square().sum() - square, u

    def _looped(self, numbers: Tensor, place: Tensor, shift: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from hiertorch.gaussian.factorloops import factored  # an extra, and half a second to import

        return factored(numbers, place, shift, noise)

    def _system(self, gram: Tensor, spreads: Spreads) -> tuple[Tensor, Tensor, Tensor]:
        """A less the identity, h, and y' y less what held coefficients explain."""
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
        return inner, h, left

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
