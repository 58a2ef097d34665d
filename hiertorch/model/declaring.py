"""Latents declared by name, in the body of a class or in `__init__`: their order, and names that they can't have."""

import copy
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import nn
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.latent import Derived, Latent, Values, unnoted
from hiertorch.model.tolerance import attempted
from hiertorch.runtime.surroundings import at_home, keywords, unknown_option

OURS = "hiertorch."
"""How the names of the package's modules begin."""

BASES = "hiertorch.model."
"""How the names of those begin that make up `ht.Model`."""


class _Body(dict[str, object]):
    """A class body in which a latent can't be declared twice."""

    def __setitem__(self, name: str, value: object) -> None:
        if isinstance(self.get(name), Latent):
            raise ModelError(f"latent {name!r} is declared twice in one class body; give the second one another name.")
        super().__setitem__(name, value)


_construct = at_home(type.__call__)


class Given:
    """What the constructor of a model was given, so that a file can say how the model is made again. Copies of a model
    share it, since it may be large; pickles leave it out, since it may be what they can't hold.
    """

    def __init__(self, arguments: tuple[tuple[object, ...], dict[str, object]] | None = None) -> None:
        self.arguments = arguments

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


class _ModelType(type):
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **kwargs: object) -> MutableMapping[str, object]:
        return _Body()

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, object], **kwargs: object) -> "_ModelType":
        for base in bases if not str(body.get("__module__", "")).startswith(BASES) else ():
            if isinstance(base, _ModelType):
                for key, value in body.items():
                    if why := _hides(base, key, value):
                        raise ModelError(f"class {name}: {why}")
        return super().__new__(mcs, name, bases, dict(body), **kwargs)

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        known = _keywords_of(cls)
        if known is not None and not known >= kwargs.keys():
            raise unknown_option(cls.__name__, kwargs, known)
        ours = cls.__module__.startswith(OURS)  # a ready structure, which makes its priors itself
        made = _construct(cls, *args, **kwargs) if ours else super().__call__(*args, **kwargs)
        if isinstance(made, Declaring):
            made.__dict__["_given"] = Given((args, kwargs))
        return made


class Declaring(nn.Module, metaclass=_ModelType):
    """What a model has by name: latents, in the order in which they are drawn, their priors, and derived quantities."""

    def __init__(self) -> None:
        super().__init__()
        latents: dict[str, Latent] = {}
        derived: dict[str, Derived] = {}
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
            derived |= {name: part for name, part in body.items() if isinstance(part, Derived)}
        self._declared: dict[str, Latent]
        self._derived: dict[str, Derived]
        self.__dict__.update(_declared={}, _derived=derived)
        for name, latent in latents.items():
            self._declare(name, latent)

    def _declare(self, name: str, latent: Latent) -> None:
        attribute = getattr(type(self), name, None)
        taken = name in self._parameters | self._buffers | self._modules or hasattr(Values, name)
        if taken or not isinstance(attribute, Latent | None) or (name in self.__dict__ and name not in self._declared):
            raise ModelError(_shadow(name))
        self._declared[name] = latent
        self.__dict__[name] = latent

    def __setattr__(self, name: str, value: object) -> None:
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
            super().__setattr__(name, value)  # type: ignore[arg-type]

    def __delattr__(self, name: str) -> None:
        if self._declared.pop(name, None) is None:
            super().__delattr__(name)
        else:
            del self.__dict__[name]

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
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

    def prior(self, name: str, v: Values, data: Data | None = None) -> Distribution:
        """p(theta_name | earlier latents): batch shape broadcastable to `(chains, size)`.

        `v` holds the values that it may read; `data` gives device and dtype when nothing has a value yet.
        """
        like = next(iter(unnoted(v).values()), None)
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

    def extra_repr(self) -> str:
        """The latents, one a line."""
        return "\n".join(f"{name}: {latent!r}" for name, latent in self.latents.items())


def given(model: Declaring) -> tuple[tuple[object, ...], dict[str, object]] | None:
    """The arguments with which a model was made; None if they are not known, as of one that was pickled."""
    return vars(model).get("_given", Given()).arguments


def _merge(latents: dict[str, Latent], body: dict[str, Latent]) -> None:
    """Puts the latents of a subclass into the order of its parents, as `ht.Model` says."""
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


def _hides(base: type, name: str, value: object) -> str | None:
    """Why an attribute of this name would break the model, or None: it stands where `Model`, a ready structure or
    `torch.nn.Module` has a method or a property.
    """
    if name.startswith("__") or isinstance(value, Latent | Derived):  # `_shadow` speaks of latents
        return None
    if name in FINAL:
        return f"its attribute {name!r} would hide what ht.Model has under this name; give it another name."
    ours = [part for part in base.__mro__ if part.__module__.startswith(OURS) or part is nn.Module]
    owner = next((part for part in ours if name in vars(part)), None)
    if owner is not None and callable(getattr(owner, name)) and not callable(value) and not hasattr(value, "__get__"):
        kind = "ht.Model" if owner.__module__.startswith(BASES) else owner.__qualname__
        return (
            f"its attribute {name!r}, {type(value).__name__}, would hide the method of that name of {kind}; give it "
            "another name."
        )
    return None


def _shadow(name: str) -> str:
    return (
        f"{name!r} is both a latent and another attribute of the model (torch.nn.Module and ht.Model have many); "
        "rename the latent."
    )
