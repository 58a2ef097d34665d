"""The base class of every model: named latents, a likelihood, and densities batched over chains."""

import copy
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.drawing import Share, draw_latents, fits, refuse_impossible
from hiertorch.model.latent import Derived, Latent, Values, validation
from hiertorch.model.support import Condition, density, impossible
from hiertorch.model.tolerance import attempted
from hiertorch.randomness import seeded
from hiertorch.runtime.surroundings import at_home, keywords, unknown_option

__all__ = ["Model"]


class _Body(dict[str, Any]):
    """A class body in which a latent can't be declared twice."""

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(self.get(name), Latent):
            raise ModelError(f"latent {name!r} is declared twice in one class body; give the second one another name.")
        super().__setitem__(name, value)


_construct = at_home(type.__call__)


class _ModelType(type):
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **kwargs: Any) -> MutableMapping[str, object]:
        return _Body()

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> "_ModelType":
        for base in bases:
            if isinstance(base, _ModelType):
                for key, value in body.items():
                    if why := _hides(base, key, value):
                        raise ModelError(f"class {name}: {why}")
        return super().__new__(mcs, name, bases, dict(body), **kwargs)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        known = _keywords_of(cls)
        if known is not None and not known >= kwargs.keys():
            raise unknown_option(cls.__name__, kwargs, known)
        if cls.__module__.startswith(f"{__package__}."):  # a ready structure, which makes its priors itself
            return _construct(cls, *args, **kwargs)
        return super().__call__(*args, **kwargs)


class Model(nn.Module, metaclass=_ModelType):
    """p(y, theta) = prod_k p(theta_k | earlier latents) prod_i p(y_i | theta)^w_i.

    Latents are class attributes (`mu = ht.Latent(...)`), or attributes set in `__init__` when their number depends on
    arguments. A subclass inherits them, adds new ones, and replaces one by declaring its name again; the replaced one
    keeps its place in the order, and new latents that stand above it in the subclass go before it, so that its new
    prior may read them.

    A latent's value is `(chains, size, *event)`: `size` is the number of groups of its plate, 1 at the population
    level. A subclass writes `likelihood(v, data)`, which returns a distribution of batch shape `(chains, rows)`; rows
    are independent given the latents. Priors and likelihood only compute, since several threads may call them at once.
    """

    def __init__(self) -> None:
        super().__init__()
        latents: dict[str, Latent] = {}
        others: set[str] = set()  # class attributes that are no latents
        for owner in reversed(type(self).__mro__):
            body = vars(owner)
            own = {name: part for name, part in body.items() if isinstance(part, Latent)}
            if shadows := [name for name in own if name in others]:
                raise ModelError(_shadow(shadows[0]))
            _merge(latents, own)
            for name in [n for n in latents if n in body and n not in own]:
                if body[name] is not None:
                    raise ModelError(_shadow(name))
                del latents[name]  # `beta = None` in a subclass drops a latent
            others |= {name for name, part in body.items() if part is not None} - own.keys()
        self._declared: dict[str, Latent]
        self._derived: dict[str, Derived]
        self.__dict__["_declared"] = {}
        self.__dict__["_derived"] = {
            name: part
            for owner in reversed(type(self).__mro__)
            for name, part in vars(owner).items()
            if isinstance(part, Derived)
        }
        for name, latent in latents.items():
            self._declare(name, latent)

    def _declare(self, name: str, latent: Latent) -> None:
        attribute = getattr(type(self), name, None)
        taken = name in self._parameters | self._buffers | self._modules or hasattr(Values, name)
        if taken or not isinstance(attribute, Latent | None) or (name in self.__dict__ and name not in self._declared):
            raise ModelError(_shadow(name))
        self._declared[name] = latent
        self.__dict__[name] = latent

    def __setattr__(self, name: str, value: Any) -> None:
        declared = self.__dict__.get("_declared")
        if isinstance(value, Latent):
            if declared is None:
                raise ModelError(f"call super().__init__() before declaring latent {name!r} in __init__.")
            self._declare(name, value)
        elif isinstance(value, Derived) and declared is not None and name not in declared:
            self._derived[name] = self.__dict__[name] = value
        elif declared is not None and name in declared:
            raise ModelError(_shadow(name))
        elif why := _hides(type(self), name, value):
            raise ModelError(f"an instance of {type(self).__name__}: {why}")
        else:
            super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        for name, latent in self._declared.items():  # priors that read buffers of the model read those of the copy
            new._declared[name] = new.__dict__[name] = latent.rebound(self, new)
        return new

    @property
    def latents(self) -> Mapping[str, Latent]:
        """The latents by name, in the order in which they are drawn."""
        return MappingProxyType(self._declared)

    @property
    def derived(self) -> Mapping[str, Derived]:
        """What a posterior holds beside the latents, by name."""
        return MappingProxyType(self._derived)

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """p(y_i | theta) as a distribution of batch shape `(chains, rows)`. Every model writes its own."""
        raise ModelError(
            f"{type(self).__name__} has no likelihood: write `def likelihood(self, v, data)` returning a distribution "
            "of batch shape (chains, rows), or sample with prior_only=True."
        )

    def check_columns(self, data: Data) -> None:
        """Raises a DataError for rows that the likelihood can't take, such as a standard error of 0, before anything is
        computed; called with the data of a fit, and with new rows. Ready models ask their family.
        """

    def prior(self, name: str, v: Values, data: Data | None = None) -> Distribution:
        """p(theta_name | earlier latents): batch shape broadcastable to `(chains, size)`.

        `v` holds the values that it may read; `data` gives device and dtype when nothing has a value yet.
        """
        like = next(iter(v._tensors.values()), None)
        device = like.device if like is not None else getattr(data, "device", torch.device("cpu"))
        dtype = like.dtype if like is not None else getattr(data, "dtype", torch.float64)
        try:
            distribution = attempted(self.latents[name].distribution, v, data, device, dtype)
        except Exception as error:
            raise ModelError(f"the prior of {name!r} can't be built: {error}") from error
        if not isinstance(distribution, Distribution):
            raise ModelError(
                f"the prior of {name!r} returned {type(distribution).__name__}; expected a torch.distributions "
                "object, as in lambda v: Normal(v.mu, v.sigma)."
            )
        return distribution

    def log_prior_terms(self, v: Mapping[str, Tensor], data: Data | None = None) -> dict[str, Tensor]:
        """log p(theta_k | earlier latents) by latent, each `(chains, size)`, of the constrained values `v`."""
        v = self.values(v)
        return {name: self.log_prior_term(name, v, data) for name in self.latents}

    def log_prior_term(self, name: str, v: Values, data: Data | None = None) -> Tensor:
        """log p(theta_name | earlier latents), `(chains, size)`; -inf where a parameter of the prior is impossible."""
        return impossible(*self._prior_density(name, v, data))

    def _prior_density(self, name: str, v: Values, data: Data | None = None) -> tuple[Tensor, list[Condition]]:
        """The same as torch has it, and the conditions without which it is -inf."""
        value = v._tensors.get(name)
        if value is None or value.dim() < 2:
            found = "nothing" if value is None else f"shape {tuple(value.shape)}"
            raise ModelError(f"latent {name!r} needs a value of shape (chains, size, *event), found {found}.")
        term, conditions = density(self.prior(name, v, data), value, v._satisfies)
        shape = value.shape[:2]
        if not fits(term.shape, shape):
            raise ModelError(
                f"the prior of {name!r} gives a log density of shape {tuple(term.shape)} for values "
                f"{tuple(value.shape)}; expected (chains, size) = {tuple(shape)}. For a vector use "
                "Independent(..., 1), or ht.Latent(Normal(0.0, 1.0), event=3)."
            )
        return term.expand(shape), conditions

    def log_prior(self, v: Mapping[str, Tensor], data: Data | None = None) -> Tensor:
        """log p(theta) = sum_k log p(theta_k | earlier latents), `(chains,)`, of constrained values."""
        return torch.stack([term.sum(-1) for term in self.log_prior_terms(v, data).values()]).sum(0)

    def log_likelihood(self, v: Mapping[str, Tensor], data: Data) -> Tensor:
        """log p(y_i | theta), `(chains, rows)`, in the data's row order and without the row weights; -inf where a
        parameter of the likelihood is impossible. See Note [Impossible places] in `hiertorch.model.support`.
        """
        return impossible(*self._row_density(self.values(v), data))

    def _row_density(self, v: Values, data: Data, *, checked: bool = False) -> tuple[Tensor, list[Condition]]:
        """The same as torch has it, and the conditions without which it is -inf; see `density`."""
        distribution, wanted = attempted(self.likelihood, v, data), (_chains(v), data.n_rows)
        terms, found = density(distribution, data.y, v._satisfies, checked=checked)
        if terms.dim() > 2 or not fits(terms.shape[-1:], wanted[-1:]):
            raise ModelError(
                f"the log density of the likelihood, {type(distribution).__name__}, has shape {tuple(terms.shape)}; "
                f"expected (chains, rows) = {wanted}."
            )
        return terms.expand(np.broadcast_shapes(terms.shape, wanted)), found

    def log_prob(self, v: Mapping[str, Tensor], data: Data) -> Tensor:
        """log p(theta) + sum_i w_i log p(y_i | theta), `(chains,)`, of constrained values: no Jacobian.

        A model may override it outright; then its latents are sampled jointly, since what depends on what is unknown.
        """
        rows = weighted(self.log_likelihood(v, data), data.weights)
        return self.log_prior(v, data) + rows.sum(-1)

    @at_home
    def sample_prior(
        self,
        data: Data,
        chains: int,
        generator: torch.Generator | None = None,
        given: Mapping[str, Tensor] | None = None,
        met: MutableMapping[str, Share] | None = None,
    ) -> Values:
        """theta ~ p(theta): a draw of every latent for each chain, `(chains, size, *event)`; those `given` are kept.

        Latents that make a parameter of a later prior impossible are drawn again; how many do is noted in `met`.
        """
        if isinstance(chains, bool) or not isinstance(chains, int) or chains < 1:
            raise ModelError(
                f"chains is how many draws of every latent to make, a whole number from 1; found {chains!r}."
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ModelError(f"generator is a torch.Generator or None, found {generator!r}.")
        if unknown := [name for name in given or () if name not in self.latents]:
            raise ModelError(f"given names {unknown[0]!r}; the model's latents are {', '.join(self.latents)}.")
        with seeded(generator, data.device), validation(False):
            return Values(draw_latents(self, data, chains, given or {}, met), tuple(self.latents))

    @at_home
    def simulate(self, v: Mapping[str, Tensor], data: Data, generator: torch.Generator | None = None) -> Tensor:
        """y_i ~ p(y_i | theta): a simulated response for each chain of values, `(chains, rows)`, in row order."""
        v = self.values(v)
        with seeded(generator, data.device), validation(False):
            response = attempted(self.likelihood, v, data)
            refuse_impossible(response, _chains(v), "y can't be simulated")
            return response.expand(torch.Size((_chains(v), data.n_rows))).sample().to(data.dtype)

    def values(self, v: Mapping[str, Tensor]) -> Values:
        """A mapping of tensors as what priors and likelihood read."""
        if not isinstance(v, Mapping):
            raise ModelError(
                f"values are tensors by latent, {{'mu': (chains, size, *event)}}, found {type(v).__name__}."
            )
        return v if isinstance(v, Values) else Values(v, tuple(self.latents))

    @at_home
    def check(self, data: Data, *, prior_only: bool = False) -> list[str]:
        """Raises a `ModelError` or `DataError` that says what is wrong; returns notes on what is merely odd."""
        from hiertorch.model.checks import inspect

        return inspect(self, data, prior_only=prior_only)[1]

    def extra_repr(self) -> str:
        """The latents, one a line."""
        return "\n".join(f"{name}: {latent!r}" for name, latent in self.latents.items())


def weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    """w_i log p_i, where a weight of 0 leaves the row out even if its log density is not finite."""
    return rows if weights is None else torch.where(weights == 0, torch.zeros_like(rows), weights * rows)


def _merge(latents: dict[str, Latent], body: dict[str, Latent]) -> None:
    """Puts the latents of a subclass into the order of its parents, as the class docstring says."""
    waiting: dict[str, Latent] = {}
    for name, latent in body.items():
        if name not in latents:
            waiting[name] = latent
            continue
        order = list(latents.items())
        place = [key for key, _ in order].index(name)
        latents.clear()
        latents.update([*order[:place], *waiting.items(), (name, latent), *order[place + 1 :]])
        waiting = {}
    latents.update(waiting)


def _keywords_of(kind: type) -> frozenset[str] | None:
    """Names by which a model's constructor takes arguments, with those of its parents where it hands others on."""
    found = frozenset[str]()
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        own = keywords(vars(owner)["__init__"])
        found |= own.names
        if not own.others:
            return found
    return None


FINAL = ("latents", "derived", "values", "check", "_declared", "_derived", "_declare")
"""Names of `Model` that no model may write itself: what is asked of a model goes through them."""


def _hides(base: type, name: str, value: Any) -> str | None:
    """Why an attribute of this name would break the model, or None: it stands where `Model`, a ready structure or
    `torch.nn.Module` has a method or a property.
    """
    if name.startswith("__") or isinstance(value, Latent | Derived):  # `_shadow` speaks of latents
        return None
    if name in FINAL:
        return f"its attribute {name!r} would hide what ht.Model has under this name; give it another name."
    ours = [part for part in base.__mro__ if part.__module__.startswith(f"{__package__}.") or part is nn.Module]
    owner = next((part for part in ours if name in vars(part)), None)
    if owner is not None and callable(getattr(owner, name)) and not callable(value) and not hasattr(value, "__get__"):
        return (
            f"its attribute {name!r}, {type(value).__name__}, would hide the method of that name of "
            f"{owner.__qualname__}; give it another name."
        )
    return None


def _shadow(name: str) -> str:
    return (
        f"{name!r} is both a latent and another attribute of the model (torch.nn.Module and ht.Model have many); "
        "rename the latent."
    )


def _chains(v: Values) -> int:
    return next(iter(v._tensors.values())).shape[0]
