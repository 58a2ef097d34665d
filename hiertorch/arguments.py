"""Whether arguments of a question to a posterior can be what they say, in sentences."""

import re
from collections.abc import Iterable
from typing import TypeGuard

import numpy as np
from torch import Tensor

from hiertorch import wording
from hiertorch.errors import DataError, HiertorchError


def check_choice(name: str, value: object, known: tuple[str, ...], error: type[HiertorchError] = DataError) -> None:
    """Raises a DataError, or another error, unless an argument is one of the known words."""
    if not isinstance(value, str) or value not in known:
        raise error(f"{name}= is one of {wording.listed(known)}; found {value!r}.{wording.closest(value, known)}")


def check_probability(ci_prob: object, name: str = "ci_prob", least: float = 0.0) -> None:
    """Raises a DataError unless an argument is a probability between `least` and 1."""
    above = "between 0" if least == 0.0 else f"from {least:g}"
    inside = is_number(ci_prob) and (least < ci_prob or 0.0 < least == ci_prob) and ci_prob < 1
    if not inside:
        raise DataError(f"{name}= is a probability {above} {'and' if least == 0.0 else 'to'} 1; found {ci_prob!r}.")


def check_share(name: str, value: object) -> None:
    """Raises a DataError unless an argument is a number, 0 or more."""
    if not is_number(value) or not value >= 0:
        raise DataError(f"{name}= is a share of what was fitted, 0 or more; found {value!r}.")


def check_count(
    name: str, value: object, least: int = 1, *, none: str = "", error: type[HiertorchError] = DataError
) -> None:
    """Raises an error unless an argument is a whole number from `least`, or None where that means something."""
    if (value is None and none) or (is_count(value) and value >= least):
        return
    raise error(f"{name}= is a whole number from {least}{none and f', or None {none}'}; found {value!r}.")


def check_flag(name: str, value: object, *, error: type[HiertorchError] = DataError) -> None:
    """Raises an error unless an argument is True or False."""
    if not isinstance(value, bool):
        raise error(f"{name}= is True or False; found {value!r}.")


def check_seed(seed: object, *, error: type[HiertorchError] = DataError) -> None:
    """Raises an error unless a seed is None or can be one."""
    if seed is not None and not (is_count(seed) and 0 <= seed < 2**63):
        raise error(f"seed= is a whole number from 0 to 2^63 - 1; found {seed!r}.")


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def names_of(name: str, given: object) -> list[str]:
    """One name, or several, as a list.

    Raises:
        DataError: if it holds what is no name.
    """
    names = []
    for each in [given] if isinstance(given, str | bytes | Tensor) or not isinstance(given, Iterable) else given:
        if not isinstance(each, str):
            raise DataError(f"{name}= is a name or a list of names; found {each!r} in it.")
        names.append(each)
    return names


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


UNITS = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
"""Of bytes."""


def check_bytes(name: str, value: object, *, error: type[HiertorchError] = DataError) -> float | None:
    """A number of bytes, from one or from text such as "2 GiB"; None stays None.

    Raises:
        HiertorchError: the error, for anything else.
    """
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+\.?[0-9]*) ?([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if found is not None and found[2] in UNITS:
        return float(found[1]) * UNITS[found[2]]
    if is_number(value) and value >= 0:
        return float(value)
    raise error(f'{name}= is a number of bytes, or text such as "2 GiB"; found {value!r}.')
