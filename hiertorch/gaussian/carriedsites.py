"""Joint sites by the derivatives of a few numbers, which carry those of all others (`hiertorch.gaussian.carriers`)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hiertorch.gaussian.jointsites import FIRST, STEP, JointDerivatives, JointMoments
from hiertorch.gaussian.sites import RowDerivatives
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.model.latent import Values

AT_ONCE = 20_000_000
"""Numbers of matrices that are held at once."""


class CarriedDerivatives:
    """As `hiertorch.gaussian.jointsites.JointDerivatives`, by carriers.

    Args:
        terms: weighted log densities of the rows, `(chains, rows)`, of values of all latents.
        surrogate: knows the numbers, carriers and cells.
    """

    def __init__(self, terms: Callable[[Mapping[str, Tensor]], Tensor], surrogate: Surrogate) -> None:
        assert surrogate.cells is not None and surrogate.predictor.carried is not None
        self.terms, self.model, self.cells = terms, surrogate.model, surrogate.cells
        spreads = surrogate.predictor.spreads
        self.widths = {name: len(x) for name, x in spreads.items()}
        every = [(name, j) for name, width in self.widths.items() for j in range(width)]
        carriers, self.carried = surrogate.predictor.carried
        self.along = [every[k] for k in carriers]
        self.spread = torch.cat(list(spreads.values()))[list(carriers)]

    def __call__(self, values: Mapping[str, Tensor]) -> JointMoments:
        """Sums over the chains of values `(chains, size, *event)`."""
        x = self.model.numbers(Values(dict(values), tuple(values)), self.cells.rows)
        here, n = self.terms(values), len(self.along)
        step = self._steps(values, here)
        first, curvature = x.new_zeros(here.shape[1], n), x.new_zeros(here.shape[1], n, n)
        both = list[Tensor]()
        for a in range(n):
            up, down = (self._gain(values, here, {a: sign * float(step[a])}) for sign in (1.0, -1.0))
            first[:, a] = (up - down) / (2.0 * step[a])
            curvature[:, a, a] = -(up + down) / step[a].square()
            both.append(up + down)
        for a in range(n):
            for b in range(a):
                moved = [{a: sign * float(step[a]), b: sign * float(step[b])} for sign in (1.0, -1.0)]
                mixed = both[a] + both[b] - sum(self._gain(values, here, one) for one in moved)
                curvature[:, a, b] = curvature[:, b, a] = mixed / (2.0 * step[a] * step[b])
        return JointMoments(
            len(here), x.sum(0), *self._by_cell(first, curvature), self.widths, len(self.carried[0, 0]),
            self.cells.directions,
        )  # fmt: skip

    def _steps(self, values: Mapping[str, Tensor], here: Tensor) -> Tensor:
        """A small one of each carrier, in units of the spread that a row leaves it."""
        found = []
        for a, spread in enumerate(self.spread):
            by = FIRST * float(spread)
            up, down = (self.terms(self._moved(values, {a: sign * by})) for sign in (1.0, -1.0))
            bend = (2.0 * here - up - down).abs() / by**2
            bend = torch.where(bend.isfinite() & (bend > 0), bend, torch.nan).nanmedian()
            found.append(STEP * torch.where(bend > 0, bend, spread**-2).rsqrt())
        return torch.stack(found)

    def _gain(self, values: Mapping[str, Tensor], here: Tensor, by: Mapping[int, float]) -> Tensor:
        """Of the rows' log densities where carriers move, summed over chains, `(rows,)`."""
        return (self.terms(self._moved(values, by)) - here).nan_to_num(0.0, 0.0, 0.0).sum(0)

    def _moved(self, values: Mapping[str, Tensor], by: Mapping[int, float]) -> dict[str, Tensor]:
        moved = dict(values)
        for a, step in by.items():
            name, j = self.along[a]
            flat = moved[name].flatten(2).clone() if moved[name].dim() > 2 else moved[name].unsqueeze(2).clone()
            flat[:, :, j] += step
            moved[name] = flat.reshape(values[name].shape)
        return moved

    def _by_cell(self, first: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """Of all numbers, summed over the rows of each cell."""
        cells, numbers = self.cells.rows.n_rows, self.carried.shape[2]
        slopes, bends = first.new_zeros(cells, numbers), first.new_zeros(cells, numbers, numbers)
        rows = torch.arange(len(first), device=first.device)
        for some in rows.split(max(1, AT_ONCE // numbers**2)):
            a, at = self.carried[some], self.cells.of_row[some]
            slopes.index_add_(0, at, (a.mT @ first[some].unsqueeze(2)).squeeze(2))
            bends.index_add_(0, at, a.mT @ curvature[some] @ a)
        return slopes, bends


def derivatives_of(
    terms: Callable[[Mapping[str, Tensor]], Tensor], surrogate: Surrogate
) -> RowDerivatives | JointDerivatives | CarriedDerivatives:
    """What sites of a surrogate are made from."""
    if surrogate.cells is None:
        return RowDerivatives(terms, surrogate)
    kind = JointDerivatives if surrogate.predictor.carried is None else CarriedDerivatives
    return kind(terms, surrogate)
