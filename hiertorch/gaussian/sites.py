"""Sites of rows: where a Gaussian function of eta stands for a row's density.

    w_i = E[-d^2 log f / d eta^2],     z_i = E[eta_i] + E[d log f / d eta] / w_i

over a distribution of eta: a Gaussian approximation's at first, draws from the posterior later. For fixed rest the
surrogate then has the posterior's mean (Opper & Archambeau 2009, equations 9 to 11, for the stationary points of the
variational Gaussian approximation). Where a density has kinks, so that -d^2 log f is 0 but for a few places, its mean
over draws is that of next to nothing, and w is taken from slopes, to which it is equal under a normal distribution of
eta (Stein 1981, lemma 1):

    w_i = -Cov(d log f / d eta, eta_i) / Var(eta_i)

 A latent that rows read beside eta, such as a threshold, shifts z by
E[d^2 log f / d eta d latent] / w. Derivatives in eta are differences of the user's own density along a latent that
moves eta, so that a family needs nothing but its density.
"""

from collections.abc import Callable, Mapping, Sequence
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

ROUNDED = 8.0
"""Times the rounding error of a density, below which a difference of the second order is 0."""

LEAST = 1e-8
"""Of a row's mean slope: what a regression explains of its spread, or it explains nothing."""

NOISIER = 4.0
"""Times the variance of a mean of second derivatives is that of a regression of slopes, where rows have kinks."""

MISSED = 0.5
"""Of the sum of weights by regressions, below which means of second derivatives have missed kinks."""


class Regression(NamedTuple):
    """Sums over the same values as those of `Moments`, around means: of squares of eta, of products of eta and d log f
    / d eta, of squares of the latter, and of squares of d^2 log f / d eta^2.
    """

    eta: Tensor
    both: Tensor
    first: Tensor
    second: Tensor

    def plus(self, other: "Regression", apart: Sequence[Tensor], factor: Tensor) -> "Regression":
        """Of both, given how far means of eta, first and second derivatives are apart, and W1 W2 / (W1 + W2)."""
        eta, first, second = apart
        between = (eta * eta, eta * first, first * first, second * second)
        return Regression(*(a + b + factor * c for a, b, c in zip(self, other, between, strict=True)))

    def weights(self, first: Tensor, second: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """-Cov / Var by row, or the means `second` of -d^2 log f where eta stands still; and whether densities have
        kinks, `()`; given means of d log f / d eta as well.
        """
        known = self.eta > 0
        spread = torch.where(known, self.eta, 1.0)
        slope = torch.where(known, -self.both / spread, 0.0)
        explained = slope.abs() * (spread / weight.clamp(min=1.0)).sqrt()
        slope = torch.where(explained > LEAST * first.abs(), slope, 0.0)  # else it is a rounding error
        left = torch.where(known, (self.first + self.both * slope).clamp(min=0.0) / spread, 0.0)
        noise = torch.where(known, self.second / weight.clamp(min=1.0), 0.0)
        missed = second.clamp(min=0.0).sum() < MISSED * slope.clamp(min=0.0).sum()
        kinked = missed | (noise.sum() > NOISIER * left.sum())
        return torch.where(known, slope, second), kinked


class Moments(NamedTuple):
    """Sums over values of all latents, by row: `(rows,)`, or `(sets, rows)` of data sets with their own responses."""

    number: float
    weight: Tensor  # of the row in all of them, or `()` where that is their number
    eta: Tensor  # times this weight
    first: Tensor  # d log f / d eta
    second: Tensor  # -d^2 log f / d eta^2
    means: dict[str, Tensor]  # latents that shift sites, (numbers,)
    mixed: dict[str, Tensor]  # d^2 log f / d eta d number, (rows, numbers)
    regression: Regression | None = None  # of slopes on eta; None of rows whose closed form has no kinks

    def plus(self, other: "Moments") -> "Moments":
        """Of both."""
        mine, others = (x._replace(regression=None).tensors() for x in (self, other))
        found = Moments.of({name: x + others[name] for name, x in mine.items()})
        if self.regression is None or other.regression is None:
            return found
        apart = [
            (a / self.weight - b / other.weight).nan_to_num(0.0) for a, b in zip(self[2:5], other[2:5], strict=True)
        ]
        factor = (self.weight * other.weight / found.weight).nan_to_num(0.0)
        return found._replace(regression=self.regression.plus(other.regression, apart, factor))

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        number = torch.tensor(self.number, dtype=self.eta.dtype, device="cpu")
        found = {"number": number, "weight": self.weight, "eta": self.eta, "first": self.first, "second": self.second}
        found |= {f"mean of {name}": x for name, x in self.means.items()}
        if self.regression is not None:
            found |= {f"around {name}": x for name, x in self.regression._asdict().items()}
        return found | {f"mixed with {name}": x for name, x in self.mixed.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """What such tensors hold."""
        means, mixed = (
            {name.removeprefix(words): x for name, x in tensors.items() if name.startswith(words)}
            for words in ("mean of ", "mixed with ")
        )
        weight, eta, first, second = (tensors[name] for name in ("weight", "eta", "first", "second"))
        around = Regression(*(tensors[f"around {x}"] for x in Regression._fields)) if "around eta" in tensors else None
        return cls(float(tensors["number"]), weight, eta, first, second, means, mixed, around)

    @property
    def kinked(self) -> bool:
        """Whether weights are those of slopes; waits for the device."""
        if self.regression is None:
            return False
        return bool(self.regression.weights(self.first / self.weight, self.second / self.weight, self.weight)[1])

    def sites(self, longest: float | None = None) -> Sites:
        """Those for these moments.

        Args:
            longest: bound of z - E[eta], in units of the typical 1 / sqrt(w): far from the posterior Newton's steps are
                too long.
        """
        eta, first, second = (x / self.weight for x in (self.eta, self.first, self.second))
        finite = first.isfinite() & second.isfinite() & eta.isfinite()
        first, second, eta = (torch.where(finite, x, 0.0) for x in (first, second, eta))
        kinked = (second > 0).sum() < 0.5 * second.numel()
        if self.regression is not None:
            slope, by_slopes = self.regression.weights(first, second, self.weight)
            second, kinked = torch.where(finite & by_slopes, slope, second), kinked | by_slopes
        w = second.clamp(min=0.0)
        largest = float(w.amax())
        if longest is not None:
            w = w.maximum(first.abs() * typical(w, first).sqrt() / longest)
            largest = float(w.amax())
        w = w.clamp(min=largest * FLOOR if largest > 0 else FLOOR)
        z, shifts = eta + first / w, dict[str, Tensor]()
        for name, mixed in self.mixed.items():
            mean = mixed / self.weight.unsqueeze(-1)
            slope = mean.nan_to_num(0.0, 0.0, 0.0) / w.unsqueeze(1)  # of z in a number
            slope = torch.where(kinked, 0.0, slope)  # what few rows say of eta would be blown up
            shifts[name] = -slope
            z = z - slope @ (self.means[name] / self.number)
        return Sites(z, w, shifts)


def typical(w: Tensor, first: Tensor) -> Tensor:
    """A row's weight, `()`: the median of those above 0; where these are few, as of rows with kinks, that of squared
    slopes if it is more: both are the same on average under the right density.
    """
    some = w > 0
    found = torch.where(some, w, torch.nan).nanmedian().nan_to_num(0.0)
    found = torch.where(some.sum() < 0.5 * some.numel(), torch.maximum(found, first.square().median()), found)
    return torch.where(found > 0, found, 1.0)


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
            bend = 2.0 * here - up - down
            bend = torch.where(bend.abs() > ROUNDED * torch.finfo(bend.dtype).eps * here.abs(), bend, 0.0)
            first = torch.where(part.rows, (up - down) / (2.0 * step), first)
            second = torch.where(part.rows, bend / step.square(), second)
        finite = first.isfinite() & second.isfinite()  # a chain whose eta does not move says nothing
        first, second = torch.where(finite, first, 0.0), torch.where(finite, second, 0.0)
        means = {name: values[name].flatten(1).sum(0) for name in self.shifting}
        mixed = {name: self._mixed(values, name) for name in self.shifting}
        eta, each = eta.expand_as(here), torch.ones_like(here)
        if self.weights is not None:
            each = self.weights.repeat(len(here) // len(self.weights), 1)
        sums = [self._by_set(x) for x in (each * eta, first, second)]
        weight = torch.tensor(len(here) / self.sets, dtype=here.dtype, device="cpu")
        weight = weight if self.weights is None else self._by_set(each)
        around = self._around((eta, first, second), sums, each, weight)
        return Moments(len(here), weight, sums[0], sums[1], sums[2], means, mixed, around)

    def _around(self, values: Sequence[Tensor], sums: Sequence[Tensor], each: Tensor, weight: Tensor) -> Regression:
        """Of eta, and of first and second derivatives times weights of rows `each`, and of the sums of all three."""
        eta, first, second = values
        inverse = torch.where(each > 0, 1.0 / each, 0.0)
        times = len(eta) // self.sets
        middles = [(x / weight).nan_to_num(0.0).expand(self.sets, -1).repeat(times, 1) for x in sums]
        d, slope, bend = (x - m for x, m in zip((eta, first * inverse, second * inverse), middles, strict=True))
        return Regression(*(self._by_set(each * a * b) for a, b in ((d, d), (d, slope), (slope, slope), (bend, bend))))

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
