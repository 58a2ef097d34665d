"""What a caller's program has set in torch, and what must not change a result: kept out, and left as it was.

Inside `inference_mode` nothing can be differentiated, autocast rounds to half precision, and a default device puts new
tensors where the data are not. All three are set for one thread, and switched off there for the time of a call. The
default dtype belongs to the whole process, so that it is not touched: hiertorch names the dtype of every tensor.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property, wraps
from inspect import isfunction
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["at_home", "feels_at_home"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=type)


def at_home(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that gives what it would give in a program that has set nothing in torch.

    Gradients can be recorded in it, nothing is autocast, and new tensors are made on the device of its first argument
    that has one, such as data or a posterior.
    """

    @wraps(function)
    def inside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
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


def _contexts(arguments: tuple[Any, ...]) -> list[AbstractContextManager[Any]]:
    """What undoes the caller's settings."""
    found: list[AbstractContextManager[Any]] = []
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


def _device(arguments: tuple[Any, ...]) -> torch.device:
    found = (getattr(argument, "device", None) for argument in arguments)
    return next((device for device in found if isinstance(device, torch.device)), torch.device("cpu"))
