"""log p(y_j | all latents but the effects of group j and of groups nested in it), for leaving out groups.

    p(y_j | rest) = integral of p(y_j | e_j, rest) p(e_j | rest) de_j,   e_j: effects of group j and of groups in it

(Merkle, Furr & Rabe-Hesketh 2019, eq. 8). In closed form where the model is linear-Gaussian in its effects
(`hiertorch.gaussian.marginals`), whether or not it was sampled so. Otherwise numerically, for all draws and groups at
once, by `hiertorch.comparison.quadrature` of f(e) = p(y_j | e, rest) p(e | rest). Of nested groupings the inner
integral is a factor of the outer f.
"""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.comparison.quadrature import laplace, log_integral, mode
from hiertorch.density.structure import analyse
from hiertorch.draws.closedform import collapsed_of
from hiertorch.draws.pointwise import Pointwise
from hiertorch.errors import DataError
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.redraw import Redraw
from hiertorch.model.declared import overrides, refuse_own_priors
from hiertorch.model.densities import weighted
from hiertorch.model.reads import watched
from hiertorch.runtime.validating import validation

NUMBERS = 1_000_000
"""Draws x rows that are evaluated at once."""

CHECKED = 16
"""Draws at which the integral is found again with twice as many points."""


def by_group(pointwise: Pointwise, plate: str) -> "ClosedForm | Numerical | Summed":
    """The way to log p(y_j | rest) of each group j of a plate of the data, 0 for groups without rows: its effects are
    integrated out in closed form if there is one; if none vary over the plate, nothing is.

    Raises:
        DataError: for a grouping over which no effects vary but some do within it, or whose groups are not independent
            given the rest.
    """
    data = pointwise.data
    plates = list(dict.fromkeys(x.plate for x in pointwise.model.latents.values() if x.plate is not None))
    if plate not in plates and not any(data.nests(inner, plate) for inner in plates):
        return Summed(pointwise, plate)
    if plate not in plates:
        raise DataError(
            f"no effects vary over {plate!r}, which could be integrated out, but some do within its groups; take one "
            f"of {wording.listed(plates)}."
        )
    effects = pointwise.posterior.unstored
    if effects is not None:
        return ClosedForm(pointwise, plate, effects.collapsed, effects.seed)
    found = collapsed_of(pointwise.posterior)
    return Numerical(pointwise, plate) if isinstance(found, str) else ClosedForm(pointwise, plate, found, 0)


class _Exact:
    """What needs no quadrature."""

    def error(self) -> Tensor | None:
        """None: there is none."""
        return None


class Summed(_Exact):
    """log p(y_j | theta) = sum_i log p(y_ij | theta): of a model in which nothing but the population ties the rows of a
    group, such as complete pooling, which can so be compared with models that have effects of groups.
    """

    def __init__(self, pointwise: Pointwise, plate: str) -> None:
        self.pointwise, self._codes, self._size = pointwise, pointwise.data[plate], pointwise.data.size(plate)

    def log_density(self) -> Tensor:
        """At the draws, `(chains, draws, groups)`."""
        shape = (self.pointwise.chains, len(self.pointwise.draw), self._size)
        found = torch.zeros(shape, dtype=torch.float64, device=self._codes.device)
        for rows, terms in self.pointwise.chunks():
            found.index_add_(2, self._codes[rows], terms.double())
        return found

    def at(self, values: Mapping[str, Tensor]) -> Tensor:
        """At values `(n, size, *event)` of all latents, `(n, groups)`."""
        model, data = self.pointwise.model, self.pointwise.data
        with torch.no_grad(), validation(False):
            terms = weighted(model.log_likelihood(values, data), data.weights).double()
        return terms.new_zeros(len(terms), self._size).index_add_(1, self._codes, terms)


class ClosedForm(_Exact):
    """Of a model that is linear-Gaussian in its effects; `seed` is that of the effects of other groupings, if they have
    to be drawn again.
    """

    def __init__(self, pointwise: Pointwise, plate: str, collapsed: Collapsed, seed: int) -> None:
        self.pointwise, self.plate, self.collapsed, self.seed = pointwise, plate, collapsed, seed

    def log_density(self) -> Tensor:
        """At the draws, `(chains, draws, groups)`."""
        return self._at(self.pointwise.stored)

    def at(self, values: Mapping[str, Tensor]) -> Tensor:
        """At values `(n, size, *event)` of all latents, `(n, groups)`."""
        return self._at({name: x.unsqueeze(1) for name, x in values.items()})[:, 0]

    def _at(self, draws: Mapping[str, Tensor]) -> Tensor:
        latents = self.pointwise.model.latents
        population = {name: x for name, x in draws.items() if latents[name].plate is None}
        return Redraw(self.collapsed, population, self.seed).log_group(self.plate, draws)


class Numerical:
    """Of any model whose groups are independent given the rest.

    Raises:
        DataError: if groups depend on each other given the rest, or groupings within the plate cross each other.
    """

    # Note [Effects on their free scale]
    # Effects are integrated over where they are unconstrained, as they are sampled, so that the density contains the
    # Jacobian. A batch of draws takes the place of chains. The stored draw of a group's effects, which is one from
    # f, is where the search for the mode starts; in nested groups it then starts at the last mode found.

    def __init__(self, pointwise: Pointwise, plate: str) -> None:
        self.pointwise, self.plate = pointwise, plate
        model, data = pointwise.model, pointwise.data
        if overrides(model, "log_prob"):
            raise DataError(
                f"{type(model).__name__} overrides log_prob, so that no group has a likelihood of its own: write prior "
                "and likelihood, or look at by='row'."
            )
        if data.dtype != torch.float64:
            model, data = copy.deepcopy(model).double(), data.to(dtype=torch.float64)
        with torch.no_grad(), validation(False):
            reads = watched(model, data, torch.Generator(data.device).manual_seed(0), rows=data.rows(0, 1))
            drawn = pointwise.flat
            some = {name: x[:: max(1, pointwise.number // CHECKED)].to(data.dtype) for name, x in drawn.items()}
            within = [
                name for name, latent in model.latents.items() if latent.plate and data.nests(latent.plate, plate)
            ]
            refuse_own_priors(model, some, data, f"the marginal likelihood of a group of {plate!r}", within)
            structure = analyse(model, data, reads)
        self.target, self.data = structure.target, data
        own = [name for name in structure.plates if data.nests(name, plate)]
        for i, name in enumerate(own):
            if name in structure.mixed:
                raise DataError(
                    f"the groups of {name!r} are not independent given the population, so that none has a likelihood "
                    f"of its own: {structure.mixed[name]}. Look at by='row', or leave groups out by kfold."
                )
            if crossed := [other for other in own[i + 1 :] if not data.nests(name, other)]:
                raise DataError(
                    f"{name!r} and {crossed[0]!r} cross each other within {plate!r}, and their effects can be "
                    "integrated out in Gaussian models alone: leave groups out by kfold."
                )
        self.plates = own[::-1]  # from the coarsest down
        coordinates = self.target.space.coordinates
        self.names = [[name for name, c in coordinates.items() if c.plate == p] for p in self.plates]
        for level, names in enumerate(self.names):
            inner = {name for finer in self.names[level + 1 :] for name in finer}
            for name in names:
                if early := sorted(self.target.reads[name] & inner):
                    raise DataError(f"the prior of {name!r} reads {early[0]!r} of a grouping nested in its own.")
        self.parents = [
            data.codes[p] if i == len(self.plates) - 1 else data.parents(self.plates[i + 1], p)
            for i, p in enumerate(self.plates)
        ]  # where the terms of rows, or of the next level's groups, belong
        self._empty = data.counts(plate) == 0
        self._flat = {name: x.flatten(0, 1).double() for name, x in pointwise.stored.items()}
        self._free = [self._joined(names, self._flat) for names in self.names]
        self._starts: list[tuple[Tensor, Tensor]] = []
        self._finer = False

    def log_density(self) -> Tensor:
        """At the draws, `(chains, draws, groups)`."""
        found = self._batches(self._flat, self._free)
        return found.unflatten(0, (self.pointwise.chains, len(self.pointwise.draw)))

    def at(self, values: Mapping[str, Tensor]) -> Tensor:
        """At values `(n, size, *event)` of all latents, `(n, groups)`; own effects say where the search starts."""
        values = {name: x.double() for name, x in values.items()}
        return self._batches(values, [self._joined(names, values) for names in self.names])

    def error(self) -> Tensor | None:
        """Root mean square difference to a rule of twice as many points, over a few draws: `(groups,)`."""
        number = self.pointwise.number
        at = torch.linspace(0, number - 1, min(CHECKED, number), dtype=torch.float64).long()
        flat, free = {name: x[at] for name, x in self._flat.items()}, [x[at] for x in self._free]
        coarse = self._batches(flat, free)
        self._finer = True
        finer = self._batches(flat, free)
        self._finer = False
        return (finer - coarse).square().mean(0).sqrt()

    def _joined(self, names: list[str], values: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained effects of one plate side by side, `(n, groups, K)`."""
        free = self.target.space.unconstrain({name: values[name] for name in names})
        return torch.cat([x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1) for x in free.values()], -1)

    def _batches(self, flat: Mapping[str, Tensor], free: list[Tensor]) -> Tensor:
        number = len(free[0])
        each = max(self.data.n_rows, *(x[0].numel() * x.shape[-1] for x in free))
        found, sds = [], [every.std(0, correction=0).clamp(min=1e-3) for every in self._free]
        with torch.no_grad(), validation(False):
            for at in torch.arange(number, device=self.data.device).split(max(1, NUMBERS // each)):
                # Where to look for modes (n, groups, K), and a root of the covariance there (n, groups, K, K).
                self._starts = [(x[at], sd.expand_as(x[at]).diag_embed()) for sd, x in zip(sds, free, strict=True)]
                found.append(self._log_integral(0, {name: x[at] for name, x in flat.items()}))
        return torch.cat(found).masked_fill(self._empty, 0.0)

    def _log_joint(self, level: int, values: Mapping[str, Tensor], x: Tensor, rough: bool) -> Tensor:
        """log p(y_g, x_g | values) of each group g of a level, finer levels integrated out: `(n, groups)`."""
        free, place, coordinates = {}, 0, self.target.space.coordinates
        for name in self.names[level]:
            width = coordinates[name].width
            free[name] = x[..., place : place + width].unflatten(-1, coordinates[name].free_event or (1,))
            free[name] = free[name] if coordinates[name].free_event else free[name].squeeze(-1)
            place += width
        values = {**values, **self.target.space.constrain(free)}
        prior = [self.target.prior_term(name, free[name], values) for name in self.names[level]]
        finest = level == len(self.plates) - 1
        inner = self.target.row_terms(values, self.data) if finest else self._log_integral(level + 1, values, rough)
        total = torch.stack(prior).sum(0).index_add(1, self.parents[level], inner)
        return total.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)

    def _log_integral(self, level: int, values: Mapping[str, Tensor], rough: bool = False) -> Tensor:
        """log of the integral over the effects of each group of a level, `(n, groups)`; a rough one is Laplace's, which
        will do to find the mode of a coarser level.
        """
        centre, root = self._starts[level] = mode(
            lambda x: self._log_joint(level, values, x, True), *self._starts[level]
        )
        if rough:
            return laplace(self._log_joint(level, values, centre, True), root)
        return log_integral(lambda x: self._log_joint(level, values, x, False), centre, root, finer=self._finer)
