"""Sites of rows: where a Gaussian function of eta stands for a row's density.

    w_i = E[-d^2 log f / d eta^2],     z_i = E[eta_i] + E[d log f / d eta] / w_i

over a distribution of eta: a Gaussian approximation's at first, draws from the posterior later. For fixed rest the
surrogate then has the posterior's mean (Opper & Archambeau 2009, equations 9 to 11, for the stationary points of the
variational Gaussian approximation). Derivatives in eta are differences of the user's own density along a latent that
moves eta, so that a family needs nothing but its density.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.predictor import Number
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.model.latent import Values

STEP = 1e-3
"""Of eta, in differences of the second order: their error is some 1e-9."""

SEEN = 0.1
"""A row's derivative is taken along a number whose column is at least this part of the row's largest."""

FLOOR = 1e-6
"""Least weight of a site, as a part of the largest."""


class Moments(NamedTuple):
    """Sums over values of all latents, by row."""

    number: float
    eta: Tensor
    first: Tensor  # d log f / d eta
    second: Tensor  # -d^2 log f / d eta^2

    def plus(self, other: "Moments") -> "Moments":
        """Of both."""
        first, second = self.first + other.first, self.second + other.second
        return Moments(self.number + other.number, self.eta + other.eta, first, second)

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        number = torch.tensor(self.number, dtype=self.eta.dtype, device="cpu")
        return {"number": number, "eta": self.eta, "first": self.first, "second": self.second}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """What such tensors hold."""
        return cls(float(tensors["number"]), tensors["eta"], tensors["first"], tensors["second"])

    def sites(self, longest: float | None = None) -> tuple[Tensor, Tensor]:
        """z and w, `(rows,)` each.

        Args:
            longest: bound of z - E[eta], in units of the typical 1 / sqrt(w): far from the posterior Newton's steps are
                too long.
        """
        eta, first, second = (x / self.number for x in (self.eta, self.first, self.second))
        finite = first.isfinite() & second.isfinite() & eta.isfinite()
        first, second, eta = (torch.where(finite, x, 0.0) for x in (first, second, eta))
        w = second.clamp(min=0.0)
        largest = float(w.amax())
        if longest is not None:
            unit = longest / float(w[w > 0].median().sqrt()) if largest > 0 else longest
            w = w.maximum(first.abs() / unit)
        w = w.clamp(min=max(largest * FLOOR, 1e-12))
        return eta + first / w, w


class RowDerivatives:
    """eta and derivatives of the rows' log densities in it.

    Args:
        terms: weighted log densities of the rows, `(chains, rows)`, of values of all latents.
        surrogate: knows eta.
    """

    def __init__(self, terms: Callable[[Mapping[str, Tensor]], Tensor], surrogate: Surrogate) -> None:
        self.terms, self.model, self.data = terms, surrogate.model, surrogate.data
        columns = surrogate.predictor.columns
        every = {(name, j): x for name, own in columns.items() for j, x in enumerate(own.unbind(1))}
        largest = torch.stack([x.abs().amax(1) for x in columns.values()]).amax(0)
        self.along: list[tuple[Number, Tensor, Tensor]] = []  # the number, which rows, and their columns
        left = largest > 0
        while bool(left.any()):
            seen = {number: (x.abs() >= SEEN * largest) & left for number, x in every.items()}
            best = max(seen, key=lambda number: int(seen[number].sum()))
            if not bool(seen[best].any()):
                break
            self.along.append((best, seen[best], every[best]))
            left = left & ~seen[best]

    def __call__(self, values: Mapping[str, Tensor]) -> Moments:
        """Sums over the chains of values `(chains, size, *event)`."""
        eta, here = self._eta(values), self.terms(values)
        first, second = torch.zeros_like(here), torch.zeros_like(here)
        for (name, j), rows, column in self.along:
            h = STEP / float(column[rows].abs().median())
            above, below = ({**values, name: _moved(values[name], j, s * h)} for s in (1.0, -1.0))
            up, down = self.terms(above), self.terms(below)
            step = torch.where(rows, 0.5 * (self._eta(above) - self._eta(below)), 1.0)
            first = torch.where(rows, (up - down) / (2.0 * step), first)
            second = torch.where(rows, (2.0 * here - up - down) / step.square(), second)
        finite = first.isfinite() & second.isfinite()  # a chain whose eta does not move says nothing
        first, second = torch.where(finite, first, 0.0), torch.where(finite, second, 0.0)
        return Moments(len(here), eta.expand_as(here).sum(0), first.sum(0), second.sum(0))

    def _eta(self, values: Mapping[str, Tensor]) -> Tensor:
        return self.model.eta(Values(dict(values), tuple(values)), self.data)


def _moved(x: Tensor, j: int, by: float) -> Tensor:
    moved = x.clone(memory_format=torch.contiguous_format)
    moved.view(*x.shape[:2], -1)[:, :, j] += by
    return moved
