"""The log density on unconstrained space and its pieces. The only file that adds a Jacobian.

log_density(u) = sum_k [ log p(theta_k | earlier) + log |d theta_k / d u_k| ] + sum_i w_i log p(y_i | theta)

with theta_k = bijection_k(u_k).
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.density.recording import record
from hiertorch.density.rows import Rows
from hiertorch.density.space import Coordinate, Space
from hiertorch.density.state import State
from hiertorch.density.tally import Piece, Tally, ruled
from hiertorch.model.densities import prior_density, row_density, weighted
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.support import Condition
from hiertorch.model.transport import location_precision, location_scale, transport

Found = TypeVar("Found")


class Target:
    """A model given data, as a function of the unconstrained parts, evaluated piece by piece.

    Args:
        model: on the data's device.
        data: in any row order.
        space: where the latents live.
        reads: name -> the latents that its prior reads; `likelihood_reads` the same for the likelihood.
        rows: the rows as held for sampling.
        prior_only: leave the likelihood out.
        opaque: the model overrides `log_prob`, so that it has no pieces: the whole density stands in one cell.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        space: Space,
        reads: Mapping[str, Iterable[str]],
        likelihood_reads: Iterable[str],
        rows: Rows,
        *,
        prior_only: bool = False,
        opaque: bool = False,
    ) -> None:
        self.model, self.data, self.space, self.rows = model, data, space, rows
        self.reads = {name: frozenset(parents) for name, parents in reads.items()}
        self.parents = {name: tuple(sorted(parents)) for name, parents in self.reads.items()}
        self.likelihood_reads = frozenset() if prior_only else frozenset(likelihood_reads)
        self.prior_only, self.opaque = prior_only, opaque
        self.names = tuple(space.coordinates)
        self._read_by_rows = (
            self.names if opaque else tuple(name for name in self.names if name in self.likelihood_reads)
        )
        self._pieces: dict[tuple[str, str], Callable[..., object]] = {}
        self._recording = self._compiled = False
        self.own_priors = type(model).log_prior_term is not Model.log_prior_term
        self.own_rows = type(model).log_likelihood is not Model.log_likelihood
        self._bounds = {name: c.bounds for name, c in space.coordinates.items() if c.bounds is not None}
        self.met = Tally()
        self.watch: Callable[[State], object] | None = None  # is told of every update
        self.memory: dict[str, Any] = {}

    def to(self, device: torch.device | str) -> "Target":
        """The same density on another device, with a copy of the model; nothing is recorded of it yet."""
        new = self._unrecorded()
        new.model, new.data, new.rows = copy.deepcopy(self.model).to(device), self.data.to(device), self.rows.to(device)
        new.space = self.space.to(new.data.device, new.data.dtype)
        return new

    def __deepcopy__(self, memo: dict[int, object]) -> "Target":
        """The same density of the same data and rows, with a copy of the model; nothing is recorded of it yet."""
        new = memo[id(self)] = self._unrecorded()
        new.model, new.memory = copy.deepcopy(self.model, memo), {}
        return new

    def _unrecorded(self) -> "Target":
        new = copy.copy(self)
        new._pieces, new._recording, new._compiled, new.met = {}, False, False, Tally()
        return new

    @property
    def by_chain(self) -> bool:
        """Whether each chain has a response or weights of its own."""
        return self.data.by_chain > 0

    def state(self, free: Mapping[str, Tensor]) -> State:
        """Every piece at unconstrained parts `(chains, size, *free_event)`."""
        values = self.space.constrain(free)
        prior = {name: self.prior_term(name, free[name], values) for name in self.names}
        return State(dict(free), values, prior, self._cells(values))

    def log_density(self, position: Tensor) -> Tensor:
        """log density of flat positions `(chains, dim)`, `(chains,)`."""
        return self.state(self.space.split(position)).log_density()

    def update(self, state: State, changed: Mapping[str, Tensor]) -> State:
        """The state after some latents moved to new unconstrained parts; only pieces that read them are evaluated."""
        free, values, prior = {**state.free, **changed}, dict(state.values), dict(state.prior)
        values.update(self.space.constrain(changed))
        for name in self.priors_touched(changed):
            prior[name] = self.prior_term(name, free[name], values)
        new = State(free, values, prior, self._cells(values) if self.reads_rows(changed) else state.cells)
        if self.watch is not None:
            self.watch(new)
        return new

    def priors_touched(self, changed: Iterable[str]) -> tuple[str, ...]:
        """The latents whose prior term depends on any of the changed ones, themselves included."""
        moved = frozenset(changed)
        return tuple(name for name in self.names if name in moved or self.reads[name] & moved)

    def reads_rows(self, changed: Iterable[str]) -> bool:
        """Whether a pass over the rows is due after these latents moved."""
        return self.opaque or bool(self.likelihood_reads & frozenset(changed))

    def prior_term(self, name: str, free: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """log p(theta_name | earlier) + log |d theta / d u|, `(chains, size)`.

        It is -inf where a parameter of the prior is impossible, and where theta is rounded to an end of its support.
        """
        parents = self.parents[name]
        bounds = (None, None, *parents)  # of its own value this very piece finds out whether it lies between them
        return self._call(
            "prior", name, self._prior_term, free, values[name], *(values[n] for n in parents), bounds=bounds
        )

    def prior(self, name: str, values: Mapping[str, Tensor]) -> Distribution:
        """p(theta_name | the values before it)."""
        return self._prior(name, self._parents(name, values))

    def transport(self, name: str, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Tensor:
        """A latent's value under its prior given `old`, carried to its prior given `new`; see
        `hiertorch.model.transport`.
        """
        return self._call(
            "transport", name, self._transport, old[name], *self._parents(name, old), *self._parents(name, new)
        )

    def location_scale(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        """Location and scale of the latent's prior given the values, stacked on axis 0, or None if it has none."""
        return self._run("location_scale", name, self._location_scale, *self._parents(name, values))

    def location_precision(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        """Location and precision of the latent's prior given the values, or None; see `hiertorch.model.transport`."""
        return self._run("location_precision", name, self._location_precision, *self._parents(name, values))

    def _cells(self, values: Mapping[str, Tensor]) -> Tensor:
        if self.prior_only:
            first = values[self.names[0]]
            return first.new_zeros(first.shape[0], 1)
        names = self._read_by_rows
        blocks = self._call("rows", "", self._row_pass, *(values[name] for name in names), bounds=names)
        return blocks if self.opaque else self.rows.sum_cells(blocks)

    def record(self, *, compiled: bool) -> None:
        """From now on every piece is recorded at its first call and replayed; the pass over the rows compiled if asked.

        Later calls must have the shapes of the first; see Note [Recorded pieces] in `hiertorch.density.recording`.
        """
        self._recording, self._compiled = True, compiled

    def _call(
        self, kind: str, name: str, function: Callable[..., Piece], *args: Tensor, bounds: Sequence[str | None] = ()
    ) -> Tensor:
        """What a piece gives, without the masks of impossible parameters that it may give as well."""
        found = self._run(kind, name, function, *args, bounds=bounds)
        terms, *masks = (found,) if isinstance(found, Tensor) else found
        self.met.add((kind, name), terms, masks)
        return terms

    def _run(
        self, kind: str, name: str, function: Callable[..., Found], *args: Tensor, bounds: Sequence[str | None] = ()
    ) -> Found:
        if not self._recording:
            return function(name, *args)
        key = (kind, name)
        if key not in self._pieces:
            ends = [None if n is None else self._bounds.get(n) for n in bounds]
            compiled = self._compiled and kind == "rows"
            self._pieces[key] = record(partial(function, name), args, compiled=compiled, bounds=ends)
        return cast(Found, self._pieces[key](*args))

    def _parents(self, name: str, values: Mapping[str, Tensor]) -> list[Tensor]:
        return [values[parent] for parent in self.parents[name]]

    def _prior(self, name: str, parents: Sequence[Tensor]) -> Distribution:
        return self.model.prior(
            name, Values(dict(zip(self.parents[name], parents, strict=True)), self.names), self.data
        )

    def _prior_term(self, name: str, free: Tensor, value: Tensor, *parents: Tensor) -> Piece:
        coordinate = self.space.coordinates[name]
        v = Values({**dict(zip(self.parents[name], parents, strict=True)), name: value}, self.names, None, self._bounds)
        found = [(Condition(None, value, None), coordinate.at_ends(value))]
        if self.opaque:
            term = self.log_jacobian(coordinate, free, value)
        else:
            if self.own_priors:
                term, conditions = self.model.log_prior_term(name, v, self.data), list[Condition]()
            else:
                term, conditions = prior_density(self.model, name, v, self.data)
            term = term if coordinate.is_identity else term + self.log_jacobian(coordinate, free, value)
            found += [(condition, condition.violated()) for condition in conditions]
        return self._ruled(("prior", name), term, found)

    def _ruled(self, key: tuple[str, str], terms: Tensor, found: Sequence[tuple[Condition, list[Tensor]]]) -> Piece:
        """log densities, -inf where a condition is violated; with a mask for each parameter, if it has a condition."""
        terms, self.met.names[key], masks = ruled(terms, found)
        return (terms, *masks) if masks else terms

    def _transport(self, name: str, value: Tensor, *parents: Tensor) -> Tensor:
        n = len(parents) // 2
        return transport(self._prior(name, parents[:n]), self._prior(name, parents[n:]), value)

    def _location_scale(self, name: str, *parents: Tensor) -> Tensor | None:
        return location_scale(self._prior(name, parents))

    def _location_precision(self, name: str, *parents: Tensor) -> Tensor | None:
        return location_precision(self._prior(name, parents), len(self.space.coordinates[name].event))

    def _row_pass(self, _: str, *values: Tensor) -> Piece:
        v = Values(dict(zip(self._read_by_rows, values, strict=True)), self.names, None, self._bounds)
        if self.opaque:
            return self.model.log_prob(v, self.data)[:, None]
        data, fused = self.rows.data, self._compiled
        if self.own_rows:
            return self.rows.sum_blocks(self.row_terms(v, data), fused=fused)
        terms, conditions = row_density(self.model, v, data, checked=True)  # `hiertorch.model.checks` has looked at y
        if data.weights is None and not fused:  # a block is impossible as soon as a row is, and is looked at as a whole
            blocks = self.rows.sum_blocks(terms.expand(len(values[0]), data.n_rows))
            found = [(condition, condition.violated(self.rows.over_blocks)) for condition in conditions]
            return self._ruled(("rows", ""), blocks, found)
        found = [(condition, condition.violated()) for condition in conditions]
        terms, names, masks = ruled(terms, found)
        terms = weighted(terms, data.weights).expand(len(values[0]), data.n_rows)
        blocks = self.rows.sum_blocks(terms, fused=fused)
        return self.met.outlined(("rows", ""), blocks, names, masks)

    @staticmethod
    def log_jacobian(coordinate: Coordinate, free: Tensor, value: Tensor) -> Tensor:
        """log |d theta / d u|, `(chains, size)`, from one term an element or one an event."""
        term = coordinate.bijection.log_abs_det_jacobian(free, value)
        return term if term.dim() <= 2 else term.flatten(2).sum(-1)

    def row_terms(self, values: Mapping[str, Tensor], data: Data) -> Tensor:
        """w_i log p(y_i | theta), `(chains, rows)`, of any data that the likelihood can read."""
        chains = next(iter(values.values())).shape[0]
        terms = self.model.log_likelihood(Values(dict(values), self.names), data)
        return weighted(terms, data.weights).expand(chains, data.n_rows)
