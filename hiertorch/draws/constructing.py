"""Arguments of constructors as what a file can hold, and back: so that a model is made again without its script.

Note [No code in files]
    A file holds names and numbers. A class is looked up by the name of its module, which is imported as any program
    would import it, and must be a model, family or distribution; functions, and objects of other classes, are refused
    when the file is written. What is made again is held against what was fitted (`hiertorch.draws.attaching`).
"""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LKJCholesky, MultivariateNormal

from hiertorch.errors import DataError, HiertorchError
from hiertorch.families import Family, Link
from hiertorch.model.distributions import EntryWise
from hiertorch.model.ordering import Ordered

Kind = TypeVar("Kind")

MARK = "$"
"""With which keys begin that say what a value is; no key of a user's begins so."""

CAN = "numbers, text, lists, mappings, tensors, families and distributions"

PARTS: dict[type, tuple[str, ...]] = {
    Independent: ("base_dist", "reinterpreted_batch_ndims"),
    LKJCholesky: ("dim", "concentration"),
    MultivariateNormal: ("loc", "scale_tril"),
    Ordered: ("base", "size"),
    EntryWise: ("parts",),
}
"""Distributions whose constructor takes other things than the parameters that they name."""

RENAMED = {"base_dist": "base_distribution"}
"""Attribute -> the constructor's name for it."""


def spelled(value: object, what: str, tensors: dict[str, Tensor]) -> Any:
    """A value as what JSON can hold, with its arrays set apart.

    Args:
        value: an argument.
        what: it is, for messages.
        tensors: to which arrays are added.

    Raises:
        DataError: for what can't be held.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        each = [spelled(part, what, tensors) for part in value]
        return each if isinstance(value, list) else {"$tuple": each}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(MARK) for key in value):
            return {key: spelled(part, f"{what}[{key!r}]", tensors) for key, part in value.items()}
        return {"$pairs": [[spelled(part, what, tensors) for part in pair] for pair in value.items()]}
    if isinstance(value, Tensor | np.ndarray):
        return _array(value, what, tensors)
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Family | Distribution):
        parts = _family_parts(value, what) if isinstance(value, Family) else _prior_parts(value, what)
        held = {key: spelled(part, what, tensors) for key, part in parts.items()}
        made = {"$made": [*class_name(type(value))], "with": held}
        _check_same(value, made, tensors, what)
        return made
    raise _unheld(what, value)


def said(content: object, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `spelled` was given.

    Raises:
        DataError: if a class can't be found.
    """
    if isinstance(content, list):
        return [said(part, tensors) for part in content]
    if not isinstance(content, dict):
        return content
    one: dict[str, Any] = content
    if "$tuple" in one:
        return tuple(said(part, tensors) for part in one["$tuple"])
    if "$pairs" in one:
        return {said(key, tensors): said(value, tensors) for key, value in one["$pairs"]}
    if "$tensor" in one:
        return tensors[one["$tensor"]]
    if "$array" in one:
        return tensors[one["$array"]].numpy().copy()
    if "$dtype" in one:
        return getattr(torch, one["$dtype"])
    parts = {key: said(part, tensors) for key, part in one.get("with", one).items()}
    if "$made" not in one:
        return parts
    kind: Any = class_named(one["$made"], (Family, Distribution))
    return kind(**parts) if issubclass(kind, Family) else kind(**parts, validate_args=False)


def class_name(kind: type) -> tuple[str, str]:
    """Module and name, by which a class is found again."""
    return kind.__module__, kind.__qualname__


def class_named(names: Sequence[str], bases: tuple[type[Kind], ...]) -> type[Kind]:
    """A class by the names of its module and of itself.

    Raises:
        DataError: if it can't be found, or is of another kind.
    """
    module, name = names
    if "<locals>" in name:
        raise DataError(f"its class {name.rpartition('.')[2]} was made inside of a function, where nobody can find it")
    try:
        found: Any = import_module(module)
    except Exception as error:  # of whatever the module does
        raise DataError(
            f"its class {name} is in the module {module!r}, which can't be imported here "
            f"({type(error).__name__}: {error})"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, bases):
        where = "the script or notebook that was run" if module == "__main__" else f"the module {module!r}"
        raise DataError(f"its class {name} was written in {where}, which has no such class here")
    return found


def _array(value: Tensor | np.ndarray, what: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    key = str(len(tensors))
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_complex():
            raise _unheld(what, value)
        tensors[key] = value.detach()
        return {"$tensor": key}
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise _unheld(what, value)
    tensors[key] = torch.from_numpy(np.array(value))
    return {"$array": key}


def _family_parts(family: Family, what: str) -> dict[str, object]:
    """Arguments of a family's constructor, which it keeps under their names."""
    found = {}
    for name, parameter in inspect.signature(type(family)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(family, name):
            raise DataError(f"{what} is {type(family).__name__}, which does not keep its argument {name!r}")
        value = getattr(family, name)
        found[name] = value.name if isinstance(value, Link) else value
    return found


def _prior_parts(prior: Distribution, what: str) -> dict[str, object]:
    """Arguments of a distribution's constructor."""
    names: Sequence[str] = PARTS.get(type(prior), ())
    if not names:
        known = [*prior.arg_constraints]
        names = [name for name in known if name in vars(prior)] or known  # of probs and logits one was given
    if not names:
        raise _unheld(what, prior)
    return {RENAMED.get(name, name): getattr(prior, name) for name in names}


def _check_same(value: Family | Distribution, content: object, tensors: Mapping[str, Tensor], what: str) -> None:
    """That what is made again is the same."""
    try:
        again = said(content, tensors)
    except HiertorchError:
        raise
    except Exception as error:  # of a constructor that takes other arguments
        raise DataError(f"{what} is {value!r}, which can't be made again ({error})") from error
    if _described(value) != _described(again):
        raise DataError(f"{what} is {value!r}, which its arguments would make {again!r}")


def _described(value: object) -> object:
    """What two values share that are the same."""
    if isinstance(value, Distribution):
        parts = {name: _described(part) for name, part in _prior_parts(value, "").items()}
        return type(value), value.batch_shape, value.event_shape, parts
    if isinstance(value, Family):
        return repr(value), value.formula, value.categories, value.columns, [*value.latents]
    if isinstance(value, list):
        return [_described(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


def _unheld(what: str, value: object) -> DataError:
    kind = getattr(value, "__name__", "") if callable(value) else ""
    shown = f"the function {kind}" if kind else f"a {type(value).__name__}"
    return DataError(f"{what} is {shown}, and a file holds {CAN}")
