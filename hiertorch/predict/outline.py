"""What new rows need of the data that were fitted, without their rows: how frames are read, labels of groups, and the
numbers by which priors are scaled.

Note [A few rows stand for all]
    A model reads data, so that an outline has some: three rows, the mean of each column and those of its lower and
    upper half, in the first group of each grouping. Nothing is predicted from them. Whether predictions are those of
    the whole data is looked up when an outline is made, at rows of these data; and a model is known again by its
    densities there.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.facts import prior_numbers
from hiertorch.data.newrows import FrameRows
from hiertorch.data.reading import spread_rows
from hiertorch.data.recipe import Recipe
from hiertorch.data.table import Data, made_again
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.naming import decode_index, decode_label, encode_index, encode_label
from hiertorch.draws.storage import as_bytes, from_bytes
from hiertorch.errors import DataError, HiertorchError
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.predict.scene import Setting, close
from hiertorch.randomness import seeded
from hiertorch.runtime.validating import validation

ROWS = 12
"""Of the fitted data, at which predictions of an outline are compared."""

DRAWS = 4
"""Of the posterior, likewise."""

NO_ROWS = "it was saved without its rows (data=False), of which it predicts new ones and nothing else"


class Outline(Fitted):
    """A model and how it reads new rows.

    Args:
        model: that was fitted.
        data: a few rows that stand for all.
        draws: of the posterior.
        axes, across: `Fitted.is_axis` and `Fitted.across` of the whole data.
    """

    has_rows = False

    def __init__(
        self, model: Model, data: Data, draws: Mapping[str, Tensor], axes: frozenset[str], across: frozenset[str]
    ) -> None:
        super().__init__(model, data, next(iter(draws.values())))
        self._axes, self._across = axes, across
        self._values = {name: x[0, [0, -1]] for name, x in draws.items() if name in self.model.latents}

    @cached_property
    def reads(self) -> Reads:
        """Not known without rows."""
        raise DataError(f"this posterior does not know its rows, since {NO_ROWS}.")

    @cached_property
    def response(self) -> Distribution | None:
        """The likelihood at two draws of the posterior, or of the prior of effects that were not stored; None where it
        reads facts of groups.
        """
        generator = torch.Generator(self.data.device).manual_seed(0)
        with torch.no_grad(), validation(False), suppress(HiertorchError):
            values = self.model.sample_prior(self.data, 2, generator, given=self._values)
            return self.model.likelihood(self.model.values(values), self.data)
        return None

    def width(self, name: str) -> int:
        """Numbers that a group has of a latent, 1 if no draws say so."""
        return self._values[name][0, 0].numel() if name in self._values else 1

    def is_axis(self, plate: str) -> bool:
        """As of the whole data."""
        return plate in self._axes

    @cached_property
    def across(self) -> frozenset[str]:
        """As of the whole data."""
        return self._across

    @cached_property
    def marks(self) -> dict[str, float]:
        """By which the model is known: its log densities at two draws in these few rows, of what can be computed."""
        model, found = self.model, dict[str, float]()
        with torch.no_grad(), validation(False):
            for name in model.latents:
                with suppress(Exception):  # of priors that read facts of groups
                    term = model.log_prior_term(name, model.values(self._values), self.data)
                    found[f"prior of {name}"] = float(term.double().sum())
            with suppress(Exception):
                found["rows"] = float(model.log_likelihood(model.values(self._values), self.data).double().sum())
        return found


def written(fitted: Fitted, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An outline of fitted data as what JSON can hold, and tensors; see `read`.

    Raises:
        DataError: for labels that a file can't hold.
    """
    data = fitted.data
    _ = fitted.reads  # which evaluates all priors, so that what scales them is known
    numbers = prior_numbers(data)
    tensors["y"] = _summaries(data.y.reshape(-1))
    tensors |= {f"column/{k}": _summaries(x) for k, x in enumerate(data.columns.values())}
    tensors |= {f"number/{k}": x for k, x in enumerate(numbers.values())}
    tensors |= {f"labels/{k}": as_bytes(encode_index(index)) for k, index in enumerate(data.labels.values())}
    return {
        "name": data.name,
        "columns": [*data.columns],
        "plates": [*data.plates],
        "numbers": [list(key) for key in numbers],
        "axes": [plate for plate in data.plates if fitted.is_axis(plate)],
        "across": sorted(fitted.across),
        "recipe": recipe_written(data.recipe),
    }


def read(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Model, recipe: Recipe, draws: Mapping[str, Tensor]
) -> Outline:
    """The outline that `written` made."""
    y = tensors["y"]
    plates, numbers = header["plates"], header["numbers"]
    data = made_again(
        header["name"],
        y,
        {name: tensors[f"column/{k}"] for k, name in enumerate(header["columns"])},
        {plate: torch.zeros(len(y), dtype=torch.long) for plate in plates},
        {plate: labels_read(tensors[f"labels/{k}"]) for k, plate in enumerate(plates)},
        recipe,
        numbers={tuple(key): tensors[f"number/{k}"] for k, key in enumerate(numbers)},
    )
    return Outline(model, data, draws, frozenset(header["axes"]), frozenset(header["across"]))


def labels_read(tensor: Tensor) -> pd.Index:
    """Labels of a grouping."""
    return decode_index(from_bytes(tensor))


def recipe_written(recipe: Recipe) -> dict[str, Any]:
    """How frames are read, but for a reader, as what JSON can hold."""
    every = [encode_label(name) for name in recipe.every]
    groups, columns = dict(recipe.groups), dict(recipe.columns)
    levels = {name: list(known) for name, known in recipe.levels.items()}
    return {"response": recipe.response, "groups": groups, "columns": columns, "levels": levels, "every": every}


def recipe_read(header: Mapping[str, Any]) -> Recipe:
    """The recipe that `recipe_written` was given."""
    levels = {name: tuple(known) for name, known in header["levels"].items()}
    every = tuple(decode_label(name) for name in header["every"])
    return Recipe(header["response"], header["groups"], header["columns"], levels, every)


def check_faithful(fit: Fit, outline: Outline) -> None:
    """Raises a DataError unless an outline predicts as the data of a posterior do, at some of their rows as they are
    and as rows of new groups.
    """
    fitted, data = fit.fitted, fit.fitted.data
    at = spread_rows(data.n_rows, ROWS, data.device)
    part = data.take(at)
    labels = {plate: data.labels[plate].take(part.codes[plate].cpu().numpy()) for plate in data.plates}
    known = FrameRows(part.columns, labels, pd.RangeIndex(len(at)))
    fresh = dict(labels)
    for plate in data.plates:
        if fitted.varies(plate) and not fitted.is_axis(plate) and not fitted.across:
            fresh[plate] = pd.Index([_Fresh(plate) for _ in at], dtype=object)
    few = fit.taken(slice(0, 1), slice(0, None, max(1, fit.n_draws // DRAWS)))
    stored = all(name in few.draws for name, latent in fitted.model.latents.items() if latent.plate is not None)
    y = part.y if part.y.dim() == 1 else part.y[0]
    with torch.no_grad(), validation(False):
        for rows in ([known] if stored else []) + [FrameRows(part.columns, fresh, known.index)]:
            one, other = Setting(fitted, few, rows, y), Setting(outline, few.changed(unstored=None), rows, y)
            if not _same(one, other):
                raise DataError("predictions of this model read more of the fitted rows than a file has without them")


class _Fresh(str):
    """A label that no data have."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def _same(one: Setting, other: Setting) -> bool:
    model, draws = one.fitted.model, one.posterior.chains * one.posterior.n_draws
    at = torch.arange(draws, device=one.rows.device)
    with seeded(torch.Generator(at.device).manual_seed(0), at.device):
        v = model.values(one.values(at))
    names = [name for name in model.latents if one.plate(name) in one.new]
    w = model.values(other.values(at, given={name: v[name][:, one.before(name) :] for name in names}))
    rows = close(model.log_likelihood(v, one.rows), other.fitted.model.log_likelihood(w, other.rows))
    priors = [
        (
            model.log_prior_term(name, v, one.whole)[:, one.before(name) :],
            other.fitted.model.log_prior_term(name, w, other.whole)[:, other.before(name) :],
        )
        for name in names
    ]
    return rows and all(close(*both) for both in priors)


def _summaries(x: Tensor) -> Tensor:
    """Means of all rows `(rows, *trailing)`, and of the lower and the upper half of them, `(3, *trailing)`."""
    low, half = x.sort(0).values, max(1, len(x) // 2)
    return torch.stack([x.mean(0), low[:half].mean(0), low[len(x) // 2 :].mean(0)])


def differing(outline: Outline, marks: Mapping[str, float], dtype: torch.dtype) -> list[str]:
    """Of which parts the densities of an outline are others than they were."""
    tolerance = 1e-6 if dtype == torch.float64 else 1e-2
    found = outline.marks
    same = {
        key: key in found and bool(np.isclose(found[key], value, rtol=tolerance, atol=tolerance, equal_nan=True))
        for key, value in marks.items()
    }
    return [key for key, good in same.items() if not good]
