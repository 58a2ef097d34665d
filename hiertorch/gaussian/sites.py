"""Sites of rows: where a Gaussian function of eta stands for a row's density.

    w_i = E[-d^2 log f / d eta^2],     z_i = E[eta_i] + E[d log f / d eta] / w_i

over a distribution of eta: a Gaussian approximation's at first, draws from the posterior later. For fixed rest the
surrogate then has the posterior's mean (Opper & Archambeau 2009, equations 9 to 11, for the stationary points of the
variational Gaussian approximation). A latent that rows read beside eta, such as a threshold, shifts z by
E[d^2 log f / d eta d latent] / w. Derivatives in eta are differences of the user's own density along a latent that
moves eta, so that a family needs nothing but its density.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.model.latent import Values

STEP = 1e-3
"""Of eta in its unit, in differences of the second order: their error is some 1e-9."""

APART = 1e-3
"""Of latents that shift sites, in differences of slopes."""

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
    means: dict[str, Tensor]  # latents that shift sites, (numbers,)
    mixed: dict[str, Tensor]  # d^2 log f / d eta d number, (rows, numbers)

    def plus(self, other: "Moments") -> "Moments":
        """Of both."""
        mine, others = self.tensors(), other.tensors()
        return Moments.of({name: x + others[name] for name, x in mine.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        number = torch.tensor(self.number, dtype=self.eta.dtype, device="cpu")
        found = {"number": number, "eta": self.eta, "first": self.first, "second": self.second}
        found |= {f"mean of {name}": x for name, x in self.means.items()}
        return found | {f"mixed with {name}": x for name, x in self.mixed.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """What such tensors hold."""
        means, mixed = (
            {name.removeprefix(words): x for name, x in tensors.items() if name.startswith(words)}
            for words in ("mean of ", "mixed with ")
        )
        return cls(float(tensors["number"]), tensors["eta"], tensors["first"], tensors["second"], means, mixed)

    def sites(self, longest: float | None = None) -> Sites:
        """Those for these moments.

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
        w = w.clamp(min=largest * FLOOR if largest > 0 else FLOOR)
        z, shifts = eta + first / w, dict[str, Tensor]()
        for name, mixed in self.mixed.items():
            slope = (mixed / self.number).nan_to_num(0.0, 0.0, 0.0) / w.unsqueeze(1)  # of z in a number
            shifts[name] = -slope
            z = z - slope @ (self.means[name] / self.number)
        return Sites(z, w, shifts)


class Along(NamedTuple):
    """A number of a latent along which rows are differentiated."""

    name: str
    at: int
    rows: Tensor  # which, (rows,)
    step: float  # of the number, for a small one of eta


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
        self.shifting = surrogate.predictor.shifting
        self.along: list[Along] = []
        left = largest > 0
        while bool(left.any()):
            seen = {number: (x.abs() >= SEEN * largest) & left for number, x in every.items()}
            best = max(seen, key=lambda number: int(seen[number].sum()))
            if not bool(seen[best].any()):
                break
            step = STEP * surrogate.unit / float(every[best][seen[best]].abs().median())
            self.along.append(Along(*best, seen[best], step))
            left = left & ~seen[best]

    def __call__(self, values: Mapping[str, Tensor]) -> Moments:
        """Sums over the chains of values `(chains, size, *event)`."""
        eta, here = self._eta(values), self.terms(values)
        first, second = torch.zeros_like(here), torch.zeros_like(here)
        for part in self.along:
            up, down, step = self._moved(values, part)
            first = torch.where(part.rows, (up - down) / (2.0 * step), first)
            second = torch.where(part.rows, (2.0 * here - up - down) / step.square(), second)
        finite = first.isfinite() & second.isfinite()  # a chain whose eta does not move says nothing
        first, second = torch.where(finite, first, 0.0), torch.where(finite, second, 0.0)
        means = {name: values[name].flatten(1).sum(0) for name in self.shifting}
        mixed = {name: self._mixed(values, name) for name in self.shifting}
        return Moments(len(here), eta.expand_as(here).sum(0), first.sum(0), second.sum(0), means, mixed)

    def _moved(self, values: Mapping[str, Tensor], along: "Along") -> tuple[Tensor, Tensor, Tensor]:
        """The rows' log densities where eta is a little higher, and lower, and by how much, `(chains, rows)`."""
        steps = (along.step, -along.step)
        above, below = ({**values, along.name: _shifted(values[along.name], along.at, by)} for by in steps)
        step = torch.where(along.rows, 0.5 * (self._eta(above) - self._eta(below)), 1.0)
        return self.terms(above), self.terms(below), step

    def _mixed(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """d^2 log f / d eta d number summed over chains, `(rows, numbers)`."""
        found = []
        for j in range(values[name].flatten(1).shape[1]):
            total = torch.zeros(self.data.n_rows, dtype=self.data.dtype, device=self.data.device)
            for along in self.along:
                slopes = []
                for sign in (1.0, -1.0):
                    up, down, step = self._moved({**values, name: _shifted(values[name], j, sign * APART)}, along)
                    slopes.append((up - down) / (2.0 * step))
                mixed = ((slopes[0] - slopes[1]) / (2.0 * APART)).nan_to_num(0.0, 0.0, 0.0).sum(0)
                total = torch.where(along.rows, mixed, total)
            found.append(total)
        return torch.stack(found, 1)

    def _eta(self, values: Mapping[str, Tensor]) -> Tensor:
        return self.model.eta(Values(dict(values), tuple(values)), self.data)


def _shifted(x: Tensor, j: int, by: float) -> Tensor:
    moved = x.clone(memory_format=torch.contiguous_format)
    moved.view(*x.shape[:2], -1)[:, :, j] += by
    return moved
