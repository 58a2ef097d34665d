"""One named unknown: its prior, the plate it varies over, and what follows from them."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.copies import cast, exact, home_of, prior_text, with_axes
from hiertorch.model.intervals import Bounds, within
from hiertorch.model.support import Sure, conditions, shares_memory
from hiertorch.runtime.surroundings import at_home

Prior = Distribution | Callable[..., Distribution]


class Latent:
    """theta ~ prior, one copy for each group of its plate; a value is `(chains, size, *event)`.

    Args:
        prior: a `torch.distributions` object, or a function of the latents declared before, as in
            `lambda v: Normal(v.mu, v.sigma)`; with two parameters it is given the data as well, `lambda v, data: ...`.
            Its support (fixed, continuous) decides on which scale the latent is sampled.
        plate: name of the grouping that the latent varies over; None for a population-level latent (size 1).
        event: shape of independent copies to make of a scalar prior, such as 3 for three coefficients.
        labels: names of the entries of an event, for summaries: `["SES", "sector"]`, or one list a dimension; or the
            name of a grouping, whose labels they are.

    Raises:
        ModelError: if the prior is neither a distribution nor a function, or the event shape is no shape.

    Attributes:
        turns: how many priors the chains have in turn, as in `hiertorch.priorgrid`: chain c has that of c mod turns.
    """

    turns: int = 1

    @at_home
    def __init__(
        self,
        prior: Prior,
        plate: str | None = None,
        *,
        event: int | Sequence[int] = (),
        labels: Sequence[object] | str | None = None,
    ) -> None:
        if not isinstance(prior, Distribution) and (isinstance(prior, type) or not callable(prior)):
            raise ModelError(
                "a latent's prior must be a torch.distributions object or a function of the latents before it, found "
                f"{prior!r}; write ht.Latent(Normal(0.0, 1.0)) or ht.Latent(lambda v: Normal(v.mu, v.sigma))."
            )
        _check_plate(plate)
        self.prior = exact(prior) if isinstance(prior, Distribution) else prior
        self.plate = plate
        listed = isinstance(event, Iterable) and not isinstance(event, str)
        self.event = (event,) if isinstance(event, int) else tuple(event) if listed else (0,)
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in self.event):
            raise ModelError(f"event is a shape such as 3 or (2, 3), without zeros; found {event!r}.")
        self.labels_of = labels if isinstance(labels, str) else None
        self.labels = None if isinstance(labels, str) else _label_tuples(labels)
        self._wants_data = not isinstance(prior, Distribution) and _arity(prior) >= 2
        self._home = home_of(self.prior) if isinstance(self.prior, Distribution) else None
        self._at_home: Distribution | None = None
        self._possible = isinstance(self.prior, Distribution) and self._home is not None and _is_possible(self.prior)

    def distribution(
        self, values: "Values", data: Data | None, device: torch.device, dtype: torch.dtype
    ) -> Distribution:
        """The prior given the latents before it: batch shape broadcastable to `(chains, size)`.

        A prior function of two parameters is given `data`; a prior of plain numbers is moved to `device` and `dtype`.
        """
        distribution = self.made(values, data)
        if not isinstance(distribution, Distribution):
            return distribution  # `Model.prior` says so
        if distribution is not self.prior or (device, dtype) != self._home:
            return self._placed(distribution, device, dtype)
        if self._at_home is None:  # it is asked for again and again
            self._at_home = self._placed(distribution, device, dtype)
        return self._at_home

    def proves(self, prior: Distribution) -> bool:
        """Whether a prior is the one that was declared, and its parameters have been found possible."""
        return prior is self._at_home and self._possible

    def _placed(self, distribution: Distribution, device: torch.device, dtype: torch.dtype) -> Distribution:
        """A prior of plain numbers on a device and in a dtype; with the axes of the event."""
        # PyTorch makes float32 on the CPU of plain numbers, and like them they take on whatever they meet.
        fixed = distribution is self.prior or not distribution.batch_shape
        if fixed:
            distribution = cast(distribution if distribution is self.prior else exact(distribution, 1), device, dtype)
        if self.event:
            if distribution.event_shape:
                raise ModelError(
                    f"event={self.event} makes copies of a scalar prior, found event shape "
                    f"{tuple(distribution.event_shape)}; leave event= out."
                )
            batch = distribution.batch_shape
            # (chains, size) parameters gain the event axes behind them
            distribution = distribution.expand(batch + self.event) if fixed else with_axes(distribution, self.event)
            distribution = Independent(distribution, len(self.event))
        return distribution

    def made(self, values: "Values", data: Data | None) -> Distribution:
        """The prior that was declared, or what the function that was declared gives, as it is."""
        if isinstance(self.prior, Distribution):
            return self.prior
        return self.prior(values, data) if self._wants_data else self.prior(values)

    @property
    def axes(self) -> tuple[tuple[object, ...], ...]:
        """Labels of the event by dimension, none if it has none."""
        return self.labels or ()

    def event_labels(self, data: Data) -> tuple[tuple[object, ...], ...] | None:
        """The same, looked up in the data if they are those of a grouping."""
        return (tuple(data.labels[self.labels_of]),) if self.labels_of is not None else self.labels

    @property
    def text(self) -> str:
        """The prior for print."""
        return prior_text(self.prior) if isinstance(self.prior, Distribution) else "function of earlier latents"

    def __repr__(self) -> str:
        prior = str(self.prior) if isinstance(self.prior, Distribution) else "function of earlier latents"
        return f"Latent({prior}{f', plate={self.plate!r}' if self.plate else ''})"

    def __deepcopy__(self, memo: dict[int, object]) -> "Latent":
        return self  # a latent is a constant declaration

    def rebound(self, old: object, new: object) -> "Latent":
        """The same latent; a prior that is a method of `old`, or a function that refers to it, is one of `new`."""
        prior: Any = self.prior
        if isinstance(prior, MethodType) and prior.__self__ is old:
            prior = MethodType(prior.__func__, new)
        elif isinstance(prior, FunctionType) and (cells := prior.__closure__) and any(_holds(c, old) for c in cells):
            cells = tuple(CellType(new) if _holds(cell, old) else cell for cell in cells)
            defaults = prior.__kwdefaults__
            prior = FunctionType(prior.__code__, prior.__globals__, prior.__name__, prior.__defaults__, cells)
            prior.__kwdefaults__ = defaults
        else:
            return self
        twin = copy.copy(self)
        twin.prior = prior
        return twin


class Derived:
    """A function of the latents that a posterior holds beside them, such as a correlation: it has no prior.

    Args:
        function: of the latents (`lambda v: ...`) or of latents and data (`lambda v, data: ...`), to
            `(chains, size, *event)`.
        plate: name of the grouping that it varies over; None for size 1.
        labels: names of the entries of its event, as for a latent.
    """

    def __init__(
        self, function: Callable[..., Tensor], plate: str | None = None, *, labels: Sequence[object] | None = None
    ) -> None:
        if not callable(function):
            raise ModelError(f"a derived quantity is a function of the latents, lambda v: ..., found {function!r}.")
        _check_plate(plate)
        self.function, self.plate = function, plate
        self.labels = _label_tuples(labels)
        self._wants_data = _arity(function) >= 2

    def __call__(self, values: "Values", data: Data) -> Tensor:
        """Its value, `(chains, size, *event)`."""
        return self.function(values, data) if self._wants_data else self.function(values)

    def __deepcopy__(self, memo: dict[int, object]) -> "Derived":
        return self


class Values(Mapping[str, Tensor]):
    """Latent values by name, each `(chains, size, *event)`: `v.alpha` or `v["alpha"]`.

    Args:
        tensors: the values.
        declared: all latents of the model in order, for a helpful message when one is read too early.
        read: set to which every name read as an attribute or item is added (how the dependency graph is found).
        bounds: name -> two numbers between which all its values are known to lie, so that nobody needs to look.
        chains: how many chains there are, which the first latent is drawn for before there are values.
    """

    __slots__ = ("_bounds", "_chains", "_declared", "_read", "_tensors")

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        declared: Sequence[str] = (),
        read: set[str] | None = None,
        bounds: Mapping[str, Bounds] | None = None,
        chains: int = 1,
    ) -> None:
        self._chains = chains
        self._tensors = tensors
        self._declared = declared
        self._read = read
        self._bounds = bounds or {}

    def __getitem__(self, name: str) -> Tensor:
        try:
            value = self._tensors[name]
        except KeyError:
            raise ModelError(self._missing(name)) from None
        if self._read is not None:
            self._read.add(name)
        return value

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def _missing(self, name: str) -> str:
        known = ", ".join(self._tensors) or "none"
        if name in self._declared:
            advice = f"declare {name!r} above it (readable here: {known})."
            return f"it reads latent {name!r}, which is declared later; {advice}"
        return f"it reads latent {name!r}, which the model does not declare (readable here: {known})."


def unnoted(v: Values) -> Mapping[str, Tensor]:
    """The tensors of values, for one whose reading is not to be noted."""
    return v._tensors


def chains_of(v: Values) -> int:
    """Of how many chains values are."""
    return next((len(x) for x in v._tensors.values()), v._chains)


def known(v: Values) -> Sure:
    """Whether a tensor is the value of a latent, or a part of it, whose bounds say that it satisfies a constraint."""

    def satisfies(x: Tensor, constraint: Constraint) -> bool:
        return any(
            within(found, constraint) and shares_memory(x, v._tensors[name])
            for name, found in v._bounds.items()
            if name in v._tensors
        )

    return satisfies


def _is_possible(prior: Distribution) -> bool:
    """Whether a prior of plain numbers has no parameter that is impossible."""
    return not any(bool(mask.any()) for condition in conditions(prior) for mask in condition.violated())


def _check_plate(plate: object) -> None:
    if plate is not None and not isinstance(plate, str):
        raise ModelError(f"a plate is the name of a grouping (str) or None, found {plate!r}.")


def _holds(cell: CellType, thing: object) -> bool:
    try:
        return cell.cell_contents is thing
    except ValueError:  # it is empty
        return False


def _arity(prior: Callable[..., object]) -> int:
    try:
        parameters = inspect.signature(prior).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _label_tuples(labels: Sequence[object] | None) -> tuple[tuple[object, ...], ...] | None:
    if labels is None:
        return None
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise ModelError(f"labels are a list of names, one for each entry of the event, found {labels!r}.")
    entries = list(labels)
    axes = [tuple(entry) for entry in entries if isinstance(entry, list | tuple)]
    return tuple(axes) if len(axes) == len(entries) else (tuple(entries),)
