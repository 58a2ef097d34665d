"""The elimination where one eigen-decomposition serves all densities: many coefficients of one prior scale, no groups.

    A = I + w [C G_ss C   c C G_sb]      G_bb = Q diag(lambda) Q',     d = 1 + w c^2 lambda
              [   .       c^2 G_bb]

w: precision of rows, which have one scale; b: the block of coefficients whose spread is c times data, in units of which
their columns are; s: the few others, of spreads C. In the basis Q the block is diagonal whatever the rest, so that a
density takes O(b (1 + s^2)) operations and no factor of its size: breeding values of a pedigree, whose marginal
covariance is tau^2 Z A Z' + sigma^2 I (Patterson & Thompson 1971; Lippert et al. 2011, for sharing the decomposition),
or predictors with one prior scale (ridge regression). Rows may be any: how many an animal has does not matter.

Notation is that of `hiertorch.gaussian.root`. The factor is that of A with the block in its basis first, so that
standard normal numbers are those of the block, then those of the others.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import factor, log_diagonal, product, solve_lower, solve_upper, square_index
from hiertorch.gaussian.elimination import Elimination, log_normal
from hiertorch.gaussian.grams import Grams
from hiertorch.gaussian.root import Drawn, Reduced, Spreads

BESIDE = 0.5
"""Others, as a part of the block, up to which their products are less than a factor of the whole."""

KEPT = 8
"""Numbers of a coefficient that a density holds at once."""


def block_of(grams: Grams, settled: frozenset[str]) -> Tensor | None:
    """Which coefficients of a root in units of its prior are the block, `(P,)` booleans; None where there is no use.

    Args:
        grams: with the population's columns in these units.
        settled: latents whose prior has a spread that does not depend on the rest; each other has one scale.
    """
    part = grams.population
    if part is None or grams.levels or grams.crossed or len(grams.left) > 1:
        return None
    scales = [("settled" if name in settled else name) for name, width in part.widths.items() for _ in range(width)]
    widest = max(scales, key=scales.count)
    mask = torch.tensor([scale == widest for scale in scales], device=grams.left.device)
    return mask if scales.count(widest) * (1.0 + BESIDE) >= part.width else None


class Spectral(Elimination):
    """See the module; an `Elimination` of a root alone.

    Args:
        grams: the sums, of one stratum, without levels and crossed plates.
        block: which coefficients are the block, `(P,)`.
    """

    def __init__(self, grams: Grams, block: Tensor) -> None:
        super().__init__(grams)
        gram = grams.left[0, square_index(grams.width, grams.left.device), 0]
        self.block, self.others = block.nonzero().flatten(), (~block).nonzero().flatten()
        values, self.basis = torch.linalg.eigh(gram[self.block][:, self.block])
        self.values = values.clamp(min=0.0).unsqueeze(1)  # (b, 1)
        self.behind = gram[len(block) :, len(block) :]  # of held coefficients and the response
        self.turned = self.basis.mT @ gram[self.block][:, len(block) :]  # the block's by these, (b, held + 1)
        self.own = gram[self.others][:, len(block) :]  # the others' by these
        self.inner = gram[self.others][:, self.others].unsqueeze(2)
        self.across = gram[self.others][:, self.block] @ self.basis  # (s, b)
        a, b = torch.triu_indices(len(self.others), len(self.others), device=gram.device)
        self.pairs, self.place = self.across[a] * self.across[b], square_index(len(self.others), gram.device)

    @property
    def numbers(self) -> int:
        """See `Elimination`."""
        return KEPT * self.root.width + len(self.others) ** 2

    def _scaled(self, spreads: Spreads) -> tuple[Tensor, Tensor, Tensor]:
        """w and c `(batch,)`, and C `(s, batch)`."""
        precision = spreads.factors[0].square().reciprocal()
        if spreads.population is None:
            return precision, torch.ones_like(precision), torch.ones_like(precision).expand(len(self.others), -1)
        return precision, spreads.population[self.block[0]], spreads.population[self.others]

    def _split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The block in its basis, and the others, of `(P, batch)`."""
        return self.basis.mT @ u[self.block], u[self.others]

    def _joined(self, block: Tensor, others: Tensor) -> Tensor:
        """The inverse of `_split`."""
        return torch.cat([self.basis @ block, others])[torch.cat([self.block, self.others]).argsort()]

    def _system(self, spreads: Spreads) -> tuple[Tensor, Tensor, Tensor]:
        """d `(b, batch)`, and h of the block in its basis and of the others."""
        precision, c, own = self._scaled(spreads)
        tail = torch.cat([-spreads.held, torch.ones_like(spreads.factors)])
        block, others = self._split(spreads.location)
        d = torch.addcmul(torch.ones_like(self.values), self.values, precision * c.square())
        return d, (self.turned @ tail) * (precision * c) - block, own * precision * (self.own @ tail) - others

    def reduce(self, spreads: Spreads) -> Reduced:
        """See `Elimination.reduce`; `root` is the factor of what eliminating the block leaves of the others, `(s, s,
        batch)`, `centre` that of all, the block first.
        """
        precision, c, own = self._scaled(spreads)
        d, block, others = self._system(spreads)
        inverse, scale = d.reciprocal(), precision * c
        total = -(self.sums.weight @ spreads.factors.log()) - self.sums.log_scale - 0.5 * d.log().sum(0)
        weighted = own * scale  # what `across` is multiplied by
        taken = (self.pairs @ inverse)[self.place] if len(self.others) else self.inner
        inner = own * own.unsqueeze(1) * (precision * self.inner - scale.square() * taken)
        eye = torch.eye(len(self.others), dtype=inner.dtype, device=inner.device).unsqueeze(2)
        lower = factor(inner + eye) if len(self.others) else inner
        right = others - weighted * (self.across @ (block * inverse))
        centre = torch.cat([block * inverse.sqrt(), solve_lower(lower, right) if len(right) else right])
        tail = torch.cat([-spreads.held, torch.ones_like(spreads.factors)])
        left = precision * (tail * (self.behind @ tail)).sum(0) + spreads.location.square().sum(0)
        total = total - log_diagonal(lower) - 0.5 * (left - centre.square().sum(0))
        return Reduced(total, (), lower, centre)

    def drawn(self, spreads: Spreads, noise: Tensor) -> Drawn:
        """See `Elimination.drawn`."""
        reduced = self.reduce(spreads)
        return Drawn(reduced.log_marginal, (), self.log_factor(spreads, reduced), self._down(spreads, reduced, noise))

    def log_factor(self, spreads: Spreads, reduced: Reduced) -> Tensor:
        """See `Elimination.log_factor`."""
        return 0.5 * self._system(spreads)[0].log().sum(0) + log_diagonal(reduced.root)

    def _down(self, spreads: Spreads, reduced: Reduced, noise: Tensor) -> Tensor:
        """Standardised coefficients less their location, `(P, batch)`, from standard normal noise `(P, batch)`."""
        (precision, c, own), (d, _, _) = self._scaled(spreads), self._system(spreads)
        block, others = (reduced.centre + noise).tensor_split([len(self.block)])
        if len(others):
            others = solve_upper(reduced.root, others)
            block = block - precision * c * (self.across.mT @ (own * others)) * d.rsqrt()
        return self._joined(block * d.rsqrt(), others)

    def noise_of(self, spreads: Spreads, reduced: Reduced, u: Tensor) -> Tensor:
        """See `Elimination.noise_of`."""
        (precision, c, own), (d, _, _) = self._scaled(spreads), self._system(spreads)
        block, others = self._split(u)
        block = block * d.sqrt()
        if len(others):
            block = block + precision * c * (self.across.mT @ (own * others)) * d.rsqrt()
            others = product(reduced.root, others.unsqueeze(1), transpose=True).squeeze(1)
        return torch.cat([block, others]) - reduced.centre

    def draw(
        self,
        spreads: Spreads,
        reduced: Reduced | None,
        noise: Tensor,
        coefficients: Tensor | None = None,
        lowest: int = 0,
        only: Tensor | None = None,
    ) -> dict[str | None, Tensor]:
        """See `Elimination.draw`."""
        if coefficients is not None:
            return self.root.parts(spreads, coefficients - spreads.location)
        assert reduced is not None
        return self.root.parts(spreads, self._down(spreads, reduced, noise))

    def log_conditional(self, spreads: Spreads, reduced: Reduced, given: Mapping[str | None, Tensor]) -> Tensor:
        """See `Elimination.log_conditional`."""
        noise = self.noise_of(spreads, reduced, self.root.joined(spreads, given))
        return log_normal(self.log_factor(spreads, reduced), noise)
