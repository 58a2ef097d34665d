"""One small exception tree. Every message says what was expected, what was found, and what to do."""

import sys
import warnings
from typing import Any

from hiertorch.runtime.silence import is_hushed

OURS = ("hiertorch", "torch", "contextlib", "functools")
"""Packages whose lines no warning is about."""


class HiertorchError(Exception):
    """Base of every error that hiertorch raises on purpose."""


class DataError(HiertorchError, ValueError):
    """The data can't be used as given: missing labels, NaN, lengths that differ, an unknown column or grouping."""


class ModelError(HiertorchError, ValueError):
    """The model is not well formed: a name, prior, plate, shape or likelihood that can't work."""


class SamplingError(HiertorchError, RuntimeError):
    """Sampling can't start or go on: settings below 1, or no finite starting position."""


class InterruptedRunError(SamplingError):
    """A run that is a means to something else (folds, refits, a grid) was stopped; `posterior` holds what it drew."""

    def __init__(self, message: str, posterior: object) -> None:
        super().__init__(message)
        self.posterior: Any = posterior


class UnknownNameError(HiertorchError, KeyError):
    """The posterior has no latent or group of that name."""

    __str__ = Exception.__str__  # a KeyError would print its message in quotes


class ConfigError(HiertorchError, ValueError):
    """A configuration has an unknown key, a wrong type or a class that is no `Model`."""


class OptionError(HiertorchError, TypeError):
    """A call names an option that there is not, or that can't be chosen there."""


class RunFolderError(HiertorchError, OSError):
    """The run folder can't be written."""


class SamplingWarning(UserWarning):
    """Something that a reader of the posterior should know: poor mixing, stuck chains, NaN densities."""


def warn(sentence: str) -> None:
    """A `SamplingWarning` at the line that called into the package, from however deep inside it."""
    if is_hushed():
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, SamplingWarning, stacklevel=level)
