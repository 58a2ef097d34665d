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

from hiertorch.data.table import Data
from hiertorch.gaussian.predictor import Predictor
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.model.latent import Values

STEP = 1e-3
"""Of eta in its unit, in differences of the second order: their error is some 1e-9."""

APART = 1e-3
"""Of latents that shift sites, in differences of slopes."""

SEEN = 0.1
"""A row's derivative is taken along a number whose column is at least this part of the row's largest."""

DIRECTIONS = 4
"""Of the groups of a plate of which rows read several, each group with a step of its own."""

FLOOR = 1e-6
"""Least weight of a site, as a part of the largest."""


class Moments(NamedTuple):
    """Sums over values of all latents, by row: `(rows,)`, or `(sets, rows)` of data sets with their own responses."""

    number: float
    weight: Tensor  # of the row in all of them, or `()` where that is their number
    eta: Tensor  # times this weight
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
        found = {"number": number, "weight": self.weight, "eta": self.eta, "first": self.first, "second": self.second}
        found |= {f"mean of {name}": x for name, x in self.means.items()}
        return found | {f"mixed with {name}": x for name, x in self.mixed.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """What such tensors hold."""
        means, mixed = (
            {name.removeprefix(words): x for name, x in tensors.items() if name.startswith(words)}
            for words in ("mean of ", "mixed with ")
        )
        weight, eta, first, second = (tensors[name] for name in ("weight", "eta", "first", "second"))
        return cls(float(tensors["number"]), weight, eta, first, second, means, mixed)

    def sites(self, longest: float | None = None) -> Sites:
        """Those for these moments.

        Args:
            longest: bound of z - E[eta], in units of the typical 1 / sqrt(w): far from the posterior Newton's steps are
                too long.
        """
        eta, first, second = (x / self.weight for x in (self.eta, self.first, self.second))
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
            mean = mixed / self.weight.unsqueeze(-1)
            slope = mean.nan_to_num(0.0, 0.0, 0.0) / w.unsqueeze(1)  # of z in a number
            shifts[name] = -slope
            z = z - slope @ (self.means[name] / self.number)
        return Sites(z, w, shifts)


class Along(NamedTuple):
    """A direction of a latent along which rows are differentiated."""

    name: str
    direction: Tensor  # (groups or 1, numbers)
    rows: Tensor  # which, (rows,)
    step: float  # for a small one of eta


class RowDerivatives:
    """eta and derivatives of the rows' log densities in it.

    Args:
        terms: weighted log densities of the rows, `(chains, rows)`, of values of all latents.
        surrogate: knows eta, and which data sets there are.
    """

    def __init__(self, terms: Callable[[Mapping[str, Tensor]], Tensor], surrogate: Surrogate) -> None:
        self.terms, self.model, self.data = terms, surrogate.model, surrogate.data
        self.sets, self.weights = surrogate.sets if surrogate.own else 1, surrogate.weights
        every = _directions(surrogate.predictor, self.data)
        largest = torch.stack([x.abs() for _, _, x in every]).amax(0)
        self.shifting = surrogate.predictor.shifting
        self.along: list[Along] = []
        left = largest > 0
        while bool(left.any()):
            seen = [(x.abs() >= SEEN * largest) & left for _, _, x in every]
            best = max(range(len(every)), key=lambda i: int(seen[i].sum()))
            if not bool(seen[best].any()):
                break
            name, direction, x = every[best]
            step = STEP * surrogate.unit / float(x[seen[best]].abs().median())
            self.along.append(Along(name, direction, seen[best], step))
            left = left & ~seen[best]

    def __call__(self, values: Mapping[str, Tensor]) -> Moments:
        """Sums over the chains of values `(chains, size, *event)`, or over those of each data set."""
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
        eta, weight = eta.expand_as(here), torch.tensor(len(here) / self.sets, dtype=here.dtype, device="cpu")
        if self.weights is not None:
            each = self.weights.repeat(len(here) // len(self.weights), 1)
            eta, weight = each * eta, self._by_set(each)
        eta, first, second = map(self._by_set, (eta, first, second))
        return Moments(len(here), weight, eta, first, second, means, mixed)

    def _by_set(self, x: Tensor) -> Tensor:
        """Sums over chains."""
        return x.sum(0) if self.sets == 1 else x.unflatten(0, (-1, self.sets)).sum(0)

    def _moved(self, values: Mapping[str, Tensor], along: "Along") -> tuple[Tensor, Tensor, Tensor]:
        """The rows' log densities where eta is a little higher, and lower, and by how much, `(chains, rows)`."""
        steps = (along.step, -along.step)
        above, below = ({**values, along.name: _shifted(values[along.name], along.direction, by)} for by in steps)
        step = torch.where(along.rows, 0.5 * (self._eta(above) - self._eta(below)), 1.0)
        return self.terms(above), self.terms(below), step

    def _mixed(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """d^2 log f / d eta d number summed over chains, `(rows, numbers)`."""
        found = []
        for one in torch.eye(values[name].flatten(1).shape[1], dtype=self.data.dtype, device=self.data.device):
            total = torch.zeros(self.data.n_rows, dtype=self.data.dtype, device=self.data.device)
            for along in self.along:
                slopes = []
                for sign in (1.0, -1.0):
                    up, down, step = self._moved({**values, name: _shifted(values[name], one, sign * APART)}, along)
                    slopes.append((up - down) / (2.0 * step))
                mixed = ((slopes[0] - slopes[1]) / (2.0 * APART)).nan_to_num(0.0, 0.0, 0.0).sum(0)
                total = torch.where(along.rows, mixed, total)
            found.append(total)
        return torch.stack(found, 1)

    def _eta(self, values: Mapping[str, Tensor]) -> Tensor:
        return self.model.eta(Values(dict(values), tuple(values)), self.data)


def _directions(predictor: Predictor, data: Data) -> list[tuple[str, Tensor, Tensor]]:
    """Latents with directions `(groups or 1, numbers)`, and what a step does to eta of the rows: each number of all
    groups; where rows read several groups, whose parts may cancel, by random steps of the groups.
    """
    found = []
    for name, own in predictor.columns.items():
        found += [(name, one.unsqueeze(0), x) for one, x in zip(_eye(own), own.unbind(1), strict=True)]
    source = torch.Generator(data.device).manual_seed(0)
    for name, (group, weight) in predictor.slots.items():
        for one in _eye(weight):
            for _ in range(DIRECTIONS):
                step = torch.randn(int(group.max()) + 1, 1, generator=source, dtype=data.dtype, device=data.device)
                found.append((name, step * one, (weight @ one * step[group, 0]).sum(1)))
    return found


def _eye(columns: Tensor) -> Tensor:
    return torch.eye(columns.shape[-1], dtype=columns.dtype, device=columns.device)


def _shifted(x: Tensor, direction: Tensor, by: float) -> Tensor:
    return x + by * direction.reshape(-1, *x.shape[2:])
