"""Where the search for the mode of a whitened model begins, and how far each step of it goes: places that the model's
own density compares.

    eta(c) = eta_0 + c (eta_1 - eta_0),     c = 0, +-1/4, +-1, +-4, ..., +-4^14 units of eta

eta_0 and eta_1: the surrogate's mean where all rows have the same site, of 0 and of 1. One of these levels is near
enough to the rows for Newton's method, wherever the prior is centred and however wide it is; so is the prior's mean
where the prior has the data's scale. Parameters of rows alone begin in the middle of their prior, or nearer to 0 on
unconstrained space, or where a draw is.

docs/decisions.md: Whitened chains begin at the best of many places.
"""

from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import Protocol

import torch
from torch import Tensor

from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.run.standing import Standing

AT_ONCE = 4_000_000
"""Rows times places whose densities are held at once."""

MOST = 200_000_000
"""Rows times places that are compared for a start, at most."""

LEVELS = tuple(4.0**k for k in range(-1, 15))
"""Of eta, in its unit, on either side of 0."""

FINER = (1.0, 0.12)
"""Of logarithms of levels, on either side of the best one, and then of the best of these."""

ACROSS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""Places within them."""

STEPS = (0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 50.0)
"""Of a step to a mode, the parts that are compared."""

SHRUNK = (1.0, 0.3, 0.0)
"""Of the middle of the prior of theta, the parts that are compared."""


class Means(Protocol):
    """The surrogate, of which means are asked."""

    def take(self, sites: Sites, theta: Tensor) -> None:
        """From now on it has these sites, near theta `(sets, d)`."""

    def drawn(self, theta: Tensor, number: int) -> dict[str, Tensor]:
        """Values of all latents: its mean at theta `(sets, d)`, if `number` is 0."""


class FirstPlaces:
    """See the module. Values are those of all latents, `(places x sets, size, *event)`, of the sets in turn.

    Args:
        surrogate: knows eta's unit, and which data sets there are.
        standing: what theta means.
        terms: weighted log densities of the rows, `(places x sets, rows)`, of values.
    """

    def __init__(
        self, surrogate: Surrogate, standing: Standing, terms: Callable[[Mapping[str, Tensor]], Tensor]
    ) -> None:
        self.surrogate, self.standing, self.terms = surrogate, standing, terms
        self.sets, self.rows = surrogate.sets, standing.target.data.n_rows

    def heights(self, values: Mapping[str, Tensor]) -> Tensor:
        """log p(latents, y) on unconstrained space, `(places, sets)`; -inf where it is no number."""
        target, found = self.standing.target, []
        number, size = len(next(iter(values.values()))), self.sets * max(1, AT_ONCE // (self.sets * self.rows))
        for first in range(0, number, size):
            some = {name: x[first : first + size] for name, x in values.items()}
            free = target.space.unconstrain({name: some[name] for name in target.names})
            total = self.terms(some).sum(1)
            for name in target.names:
                total = total + target.prior_term(name, free[name], some).sum(-1)
            found.append(total)
        return torch.cat(found).nan_to_num(-torch.inf, -torch.inf, -torch.inf).unflatten(0, (-1, self.sets))

    def begun(
        self, means: Means, theta: Tensor, drawn: Tensor, of_rows: Sequence[bool]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """theta `(sets, d)` and values, one place for each set.

        Args:
            means: of the surrogate.
            theta: the middle of its prior, `(sets, d)`.
            drawn: from its prior, `(n, d)`.
            of_rows: which coordinates are parameters of rows alone, whose values the mean of the surrogate does not
                depend on.
        """
        room = max(len(SHRUNK), MOST // (self.rows * self.sets))
        places = self._levels(means, theta, room // len(SHRUNK))
        middle = {name: x[self.sets : 2 * self.sets] for name, x in places.items()}  # eta_0
        if not any(of_rows):
            return theta, self._refined(middle, self._best(places)[0], theta)
        mine = torch.tensor(of_rows, dtype=torch.bool, device=theta.device)
        shrunk = theta * theta.new_tensor(SHRUNK)[:, None, None]
        other = torch.cat([shrunk, drawn[:room, None].expand(-1, self.sets, -1)])
        other = torch.where(mine & other.isfinite(), other, theta)
        few = [self._at(places, own) for own in other[: len(SHRUNK)]]
        values, _ = self._best({name: torch.cat([x[name] for x in few]) for name in places})
        theta, values = self._chosen(values, other)
        return theta, self._refined(middle, values, theta)

    def _chosen(self, values: Mapping[str, Tensor], other: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The best of some theta `(places, sets, d)`, of values of each set."""
        number = len(other)
        every = {name: x.repeat(number, *[1] * (x.dim() - 1)) for name, x in values.items()}
        found, which = self._best(self._at(every, other.flatten(0, 1)))
        return other[which, torch.arange(self.sets, device=which.device)], found

    def _refined(self, middle: Mapping[str, Tensor], values: Mapping[str, Tensor], theta: Tensor) -> dict[str, Tensor]:
        """The best place around values, on the line from others."""
        found = dict(values)
        for span in FINER if self.surrogate.cells is None else ():
            parts = [exp(span * x) for x in ACROSS]
            found, _ = self._best(self._at(_between(middle, found, parts), theta))
        return found

    def along(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], theta: Tensor) -> dict[str, Tensor]:
        """The best place of a step from values to others, with theta `(sets, d)`."""
        return self._best(self._at(_between(before, after, STEPS), theta))[0]

    def _levels(self, means: Means, theta: Tensor, most: int) -> dict[str, Tensor]:
        """The mean of the prior, and levels of eta."""
        rest = self.standing.constrained(theta)
        prior = dict(self.surrogate.first.composed.values(rest, {}, self.sets))
        if self.surrogate.cells is not None:  # whose columns are not known yet
            return prior
        zero, one = (self._mean(means, theta, sites) for sites in (self.surrogate.zero, self.surrogate.alike(1.0)))
        levels = sorted([0.0, *(sign * x for x in LEVELS for sign in (1.0, -1.0))], key=abs)[: max(1, most)]
        every = _between(zero, one, levels)
        return {name: torch.cat([prior[name], x]) for name, x in every.items()}

    def _mean(self, means: Means, theta: Tensor, sites: Sites) -> dict[str, Tensor]:
        means.take(sites, theta)
        return means.drawn(theta, 0)

    def _best(self, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The place of each set where the density is highest, and its number, `(sets,)`."""
        which = self.heights(values).argmax(0)
        at = which * self.sets + torch.arange(self.sets, device=which.device)
        return {name: x[at] for name, x in values.items()}, which

    def _at(self, values: Mapping[str, Tensor], theta: Tensor) -> dict[str, Tensor]:
        """The same values with theta `(sets, d)` at all places, or one for each, `(places x sets, d)`."""
        times = len(next(iter(values.values()))) // len(theta)
        return {**values, **self.standing.constrained(theta.repeat(times, 1))}


def _between(before: Mapping[str, Tensor], after: Mapping[str, Tensor], parts: Sequence[float]) -> dict[str, Tensor]:
    """Values on the line from some, `(sets, ...)`, to others: `(parts x sets, ...)`."""
    found = {}
    for name, x in before.items():
        part = x.new_tensor(parts).reshape(-1, *[1] * x.dim())
        found[name] = (x + part * (after[name] - x)).flatten(0, 1)
    return found
