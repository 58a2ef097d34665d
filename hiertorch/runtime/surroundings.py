"""What a caller's program has set in torch, and what must not change a result: kept out, and left as it was.

Inside `inference_mode` nothing can be differentiated, autocast rounds to half precision, and a default device puts new
tensors where the data are not. All three are set for one thread, and switched off there for the time of a call. The
default dtype belongs to the whole process, so that it is not touched: hiertorch names the dtype of every tensor.
"""

import difflib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import cache, cached_property, wraps
from inspect import Parameter, isfunction, signature
from typing import NamedTuple, ParamSpec, TypeVar

import torch

from hiertorch.errors import OptionError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=type)


def at_home(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that gives what it would give in a program that has set nothing in torch.

    Gradients can be recorded in it, nothing is autocast, and new tensors are made on the device of its first argument
    that has one, such as data or a posterior.
    """
    known = keywords(function)

    @wraps(function)
    def inside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not known.others and not known.names >= kwargs.keys():
            raise unknown_option(function.__qualname__, kwargs, known.names)
        contexts = _contexts((*args, *kwargs.values()))
        if not contexts:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            return function(*args, **kwargs)

    return inside


def feels_at_home(kind: Kind) -> Kind:
    """A class whose constructor and public methods are `at_home`."""
    for name, value in list(vars(kind).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isfunction(value):
            setattr(kind, name, at_home(value))
        elif isinstance(value, classmethod):
            setattr(kind, name, classmethod(at_home(value.__func__)))
        elif isinstance(value, cached_property):
            value.func = at_home(value.func)
    return kind


INSTEAD = {
    "newdata": "frame",
    "data": "frame",
    "allow_new_levels": "new_groups",
    "sample_new_levels": "new_groups",
    "re_formula": "new_groups",
    "sample_new_groups": "new_groups",
    "random_seed": "seed",
}
"""Option of other packages -> what does it here."""


def unknown_option(name: str, given: Iterable[str], known: Iterable[str]) -> OptionError:
    """The error for the first option that there is not."""
    known = sorted(known)
    option = next(x for x in given if x not in known)
    close = [INSTEAD[option]] if INSTEAD.get(option) in known else difflib.get_close_matches(option, known, 1, 0.6)
    hint = f" Did you mean {close[0]}=?" if close else ""
    return OptionError(f"{name} has no option {option}=; there are {', '.join(known) or 'none'}.{hint}")


class Keywords(NamedTuple):
    """Names by which arguments may be given, and whether any other name will do as well."""

    names: frozenset[str]
    others: bool


@cache
def keywords(function: Callable[..., object]) -> Keywords:
    """Of a function."""
    parameters = signature(function).parameters.values()
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    names = frozenset(part.name for part in parameters if part.kind in by_name) - {"self", "cls"}
    return Keywords(names, any(part.kind == Parameter.VAR_KEYWORD for part in parameters))


def _contexts(arguments: tuple[object, ...]) -> list[AbstractContextManager[object]]:
    """What undoes the caller's settings."""
    found: list[AbstractContextManager[object]] = []
    if torch.is_inference_mode_enabled():
        found.append(torch.inference_mode(False))
    default = torch.get_default_device()
    device = _device(arguments) if default.type != "cpu" or torch.cuda.is_available() else default
    for kind in {"cpu", device.type} - {"meta"}:
        if torch.is_autocast_enabled(kind):
            found.append(torch.autocast(kind, enabled=False))
    if default not in (device, torch.device("cpu")):
        found.append(device)
    return found


def _device(arguments: tuple[object, ...]) -> torch.device:
    found = (getattr(argument, "device", None) for argument in arguments)
    return next((device for device in found if isinstance(device, torch.device)), torch.device("cpu"))
