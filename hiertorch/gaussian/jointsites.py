"""Sites of rows that read several numbers otherwise than by one linear predictor: several predictors, curved ones.

    sum over rows i of a cell of log f(y_i | x) ~ const - sum_d w_d (z_d - c_d' x)^2 / 2,
    sum_d w_d c_d c_d' = E[-d^2 sum log f / dx dx'],     w_d (z_d - c_d' E[x]) = c_d' E[d sum log f / dx]

x: the numbers with a normal prior that the rows of a cell read, of their own groups and of the population; d:
directions, the eigenvectors of the expected curvature, negative values taken for 0. Each direction is a row of the
surrogate, whose algebra is that of linear predictors. One row's curvature may be indefinite where it has several
predictors, as a location and a log scale have; that of a cell's rows together is so only far from the posterior. Where
predictors are linear in x nothing else is lost; where one is curved, as a logistic growth curve, c holds its slopes
where the posterior is. A number without a normal prior, such as a shape of the curve, has a column by the mixed
curvature, as thresholds have in `hiertorch.gaussian.sites`.

Curvatures are differences of the user's own density, number by number and pair by pair, of all groups at once.
docs/decisions.md: Sites of cells in several directions.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.sites import FLOOR, Moments
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.model.latent import Values

STEP = 1e-3
"""Of a number in units of the spread that one cell leaves it, in differences of the second order."""

FIRST = 1e-2
"""Of a number's spread in the prior: the step from which these units follow."""

AT_ONCE = 4_000_000
"""Rows times values whose densities are held at once."""


class JointMoments(NamedTuple):
    """Sums over values of all latents, by cell, of the numbers that its rows read, those with a normal prior first."""

    number: float
    eta: Tensor  # the numbers, (cells, numbers)
    first: Tensor  # d log f / d number, likewise
    curvature: Tensor  # -d^2 log f / d number d number, (cells, numbers, numbers)
    widths: dict[str, int]  # numbers of each latent
    normal: int  # how many numbers have a normal prior
    directions: int

    @property
    def second(self) -> Tensor:
        """-d^2 log f / d number^2, `(cells, numbers)`."""
        return self.curvature.diagonal(dim1=1, dim2=2)

    @property
    def weight(self) -> float:
        """Of every cell in these sums."""
        return self.number

    @property
    def kinked(self) -> bool:
        """Weights are those of second derivatives."""
        return False

    def plus(self, other: "JointMoments") -> "JointMoments":
        """Of both."""
        sums = (self.eta + other.eta, self.first + other.first, self.curvature + other.curvature)
        return JointMoments(self.number + other.number, *sums, self.widths, self.normal, self.directions)

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        numbers = {"number": self.number, "normal": self.normal, "directions": self.directions}
        numbers |= {f"width of {name}": width for name, width in self.widths.items()}
        found = {name: torch.tensor(float(x), dtype=torch.float64, device="cpu") for name, x in numbers.items()}
        return found | {"eta": self.eta, "first": self.first, "curvature": self.curvature}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "JointMoments":
        """What such tensors hold."""
        words = "width of "
        widths = {name.removeprefix(words): int(x) for name, x in tensors.items() if name.startswith(words)}
        number, normal, directions = (float(tensors[name]) for name in ("number", "normal", "directions"))
        eta, first, curvature = (tensors[name] for name in ("eta", "first", "curvature"))
        return cls(number, eta, first, curvature, widths, int(normal), int(directions))

    def sites(self, longest: float | None = None) -> Sites:
        """Those for these moments.

        Args:
            longest: as in `hiertorch.gaussian.sites.Moments.sites`, direction by direction.
        """
        x, slope, curvature = (s / self.number for s in (self.eta, self.first, self.curvature))
        finite = slope.isfinite().all(1) & curvature.isfinite().all(2).all(1) & x.isfinite().all(1)
        x, slope = (torch.where(finite.unsqueeze(1), s, 0.0) for s in (x, slope))
        curvature = torch.where(finite[:, None, None], curvature, 0.0)
        size = curvature.diagonal(dim1=1, dim2=2).clamp(min=0.0).mean(0).sqrt()
        size = torch.where(size > 0, size, 1.0)  # numbers in these units
        curvature = curvature / size / size.unsqueeze(1)
        own = slice(None, self.normal)
        if self.normal < len(size):  # else what is mixed might be more than the curvatures on both sides of it
            values, vectors = torch.linalg.eigh(curvature)
            curvature = vectors * values.clamp(min=0.0).unsqueeze(1) @ vectors.mT
        values, vectors = torch.linalg.eigh(curvature[:, own, own])
        w, vectors = values[:, -self.directions :], vectors[:, :, -self.directions :].mT  # (cells, directions, numbers)
        # Far from the posterior a step is taken up along a valley as well (saddle-free Newton).
        w = w.clamp(min=0.0) if longest is None else w.abs()
        push = (vectors @ (slope / size)[:, own].unsqueeze(2)).squeeze(2)
        largest = float(w.amax())
        if longest is not None:
            unit = longest / float(w[w > 0].median().sqrt()) if largest > 0 else longest
            w = w.maximum(push.abs() / unit)
        w = w.clamp(min=largest * FLOOR if largest > 0 else FLOOR)
        columns = torch.cat([vectors, vectors @ curvature[:, own, self.normal :] / w.unsqueeze(2)], 2) * size
        z = (columns @ x.unsqueeze(2)).squeeze(2) + push / w
        by_name = columns.flatten(0, 1).split(list(self.widths.values()), 1)
        return Sites(z.flatten(), w.flatten(), dict(zip(self.widths, by_name, strict=True)))


class JointDerivatives:
    """The numbers that rows read and derivatives of the cells' log densities in them.

    Args:
        terms: weighted log densities of the rows, `(chains, rows)`, of values of all latents.
        surrogate: knows which numbers, and the cells.
    """

    def __init__(self, terms: Callable[[Mapping[str, Tensor]], Tensor], surrogate: Surrogate) -> None:
        assert surrogate.cells is not None
        self.terms, self.model, self.cells = terms, surrogate.model, surrogate.cells
        self.spreads = surrogate.predictor.spreads
        self.normal = sum(x.shape[1] for x in surrogate.predictor.columns.values())
        self.widths = {name: len(x) for name, x in self.spreads.items()}
        self.every = [(name, j) for name, width in self.widths.items() for j in range(width)]

    def __call__(self, values: Mapping[str, Tensor]) -> JointMoments:
        """Sums over the chains of values `(chains, size, *event)`."""
        x = self.model.numbers(Values(dict(values), tuple(values)), self.cells.rows)
        spread = torch.cat(list(self.spreads.values()))
        n, here = len(self.every), self._summed(values)
        moves = torch.eye(n, dtype=x.dtype, device=x.device)
        moves = torch.cat([moves, -moves])
        up, down = self._at(values, moves * (FIRST * spread)).chunk(2)
        bend = ((2.0 * here - up - down).abs() / (FIRST * spread)[:, None, None].square()).flatten(1)
        bend = torch.where(bend.isfinite() & (bend > 0), bend, torch.nan).nanmedian(1).values
        step = STEP * torch.where(bend > 0, bend, spread.square().reciprocal()).rsqrt()
        up, down = self._at(values, moves * step).chunk(2)
        first = (up - down) / (2.0 * step[:, None, None])
        finite = (up - down).isfinite().all(0) & here.isfinite()
        curvature = (2.0 * here - up - down).div_(step[:, None, None].square()).movedim(0, -1).diag_embed()
        a, b = torch.triu_indices(n, n, 1, device=x.device)
        if len(a):
            both = moves[a] + moves[b]
            above, below = self._at(values, torch.cat([both, -both]) * step).chunk(2)
            finite &= (above - below).isfinite().all(0)
            mixed = (up[a] + up[b] + down[a] + down[b] - above - below - 2.0 * here) / 2.0
            mixed = (mixed / (step[a] * step[b])[:, None, None]).movedim(0, -1)
            curvature[..., a, b] = curvature[..., b, a] = mixed
        first = torch.where(finite.unsqueeze(2), first.movedim(0, -1), 0.0)
        curvature = torch.where(finite[..., None, None], curvature, 0.0)
        sums = (x.sum(0), first.sum(0), curvature.sum(0))
        return JointMoments(len(here), *sums, self.widths, self.normal, self.cells.directions)

    def _at(self, values: Mapping[str, Tensor], moves: Tensor) -> Tensor:
        """The cells' log densities where numbers move, by `(places, numbers)`: `(places, chains, cells)`."""
        chains = len(next(iter(values.values())))
        found = []
        for some in moves.split(max(1, AT_ONCE // (chains * len(self.cells.of_row)))):
            moved = {name: x.repeat(len(some), *(1,) * (x.dim() - 1)) for name, x in values.items()}
            for name, by in zip(self.widths, some.split(list(self.widths.values()), 1), strict=True):
                by = by.repeat_interleave(chains, 0).view(len(moved[name]), 1, *values[name].shape[2:])
                moved[name] = moved[name] + by
            found.append(self._summed(moved).unflatten(0, (len(some), chains)))
        return torch.cat(found)

    def _summed(self, values: Mapping[str, Tensor]) -> Tensor:
        """`(chains, cells)`."""
        terms = self.terms(values)
        return terms.new_zeros(len(terms), self.cells.rows.n_rows).index_add_(1, self.cells.of_row, terms)


def moments_of(tensors: Mapping[str, Tensor]) -> Moments | JointMoments:
    """What named tensors of either kind hold."""
    return JointMoments.of(tensors) if "curvature" in tensors else Moments.of(tensors)
