"""What reads what in a model: every prior and the likelihood run once, on data and values that note what is asked."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.declared import overrides
from hiertorch.model.densities import Densities
from hiertorch.model.latent import Values
from hiertorch.model.mending import mended
from hiertorch.runtime.validating import validation

Found = TypeVar("Found")

CHAINS = 4
"""Prior draws at which a model is run, where the data have no chain axis."""


@dataclass(frozen=True)
class Reads:
    """Who reads whom, and a draw from the prior with the distributions met on the way."""

    priors: dict[str, frozenset[str]]  # latent -> latents that its prior reads
    likelihood: frozenset[str]
    columns: frozenset[str]  # columns and groupings of the data that anything read
    values: dict[str, Tensor]  # a prior draw, (CHAINS, size, *event)
    distributions: dict[str, Any]  # latent -> its prior, a Distribution
    response: Distribution | None  # the likelihood, unless left out or log_likelihood is overridden
    density: Tensor | None  # what an overridden log_prob gave


class _Watched:
    """Data that notes what is read of it."""

    _data: Data
    _seen: set[str]

    def __init__(self, data: Data, seen: set[str]) -> None:
        self.__dict__.update(_data=data, _seen=seen)

    def __getattr__(self, name: str) -> object:
        self._seen.add(name)
        found = getattr(self._data, name)
        return partial(self._asked, found) if callable(found) else found

    def __getitem__(self, name: str) -> object:
        self._seen.add(name)
        return self._data[name]

    def __contains__(self, name: object) -> bool:
        return name in self._data

    def _asked(self, method: Callable[..., object], *args: object, **kwargs: object) -> object:
        """What a method such as `parents` gives; the groupings and columns that it is asked about are read."""
        self._seen.update(x for x in (*args, *kwargs.values()) if isinstance(x, str))
        return method(*args, **kwargs)


def watched(
    model: Densities,
    data: Data,
    generator: torch.Generator | None,
    *,
    prior_only: bool = False,
    rows: Data | None = None,
) -> Reads:
    """Draws every latent from its prior, and notes what each prior and the likelihood (or `log_prob`) read.

    There are as many chains as the response or the weights have, or a few. The likelihood is made for some `rows` of
    the data, or for all. Errors that user code raises come back as `ModelError`.
    """
    given = (x.shape[0] for x in (data.y, data.weights) if x is not None and x.dim() == 2 and x.shape[0] > 1)
    chains = next(given, CHAINS)
    names, seen = tuple(model.latents), set[str]()
    noting: Any = _Watched(data, seen)
    noting_rows: Any = noting if rows is None else _Watched(rows, seen)
    tensors = dict(model.sample_prior(data, chains, generator))
    if not prior_only and not overrides(model, "log_prob"):
        with suppress(Exception), validation(False):  # if the likelihood can't be computed at all, that is said later
            tensors = mended(model, data, data if rows is None else rows, tensors, generator)
    priors, distributions = {}, {}
    for i, name in enumerate(names):
        read: set[str] = set()
        earlier = {key: tensors[key] for key in names[:i]}
        distributions[name] = model.prior(name, Values(earlier, names, read), noting)
        if overrides(model, "log_prior_term"):  # which may read any latent
            try:
                _leniently(model.log_prior_term, name, Values(tensors, names, read), noting)
            except ModelError:
                raise
            except Exception as error:
                raise ModelError(
                    f"log_prior_term of {type(model).__name__} failed for {name!r}: {type(error).__name__}: {error}"
                ) from error
        priors[name] = frozenset(read - {name})
    read, response, density = set(), None, None
    v = Values(tensors, names, read)
    try:
        if overrides(model, "log_prob") and not prior_only:
            density = model.log_prob(v, noting_rows)
        elif overrides(model, "log_likelihood") and not prior_only:
            model.log_likelihood(v, noting_rows)
        elif not prior_only:
            response = _leniently(model.likelihood, v, noting_rows)
    except Exception as error:
        if not any(overrides(model, method) for method in ("likelihood", "log_likelihood", "log_prob")):
            raise  # that there is none
        why = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"the likelihood of {type(model).__name__} failed: {why}") from error
    return Reads(priors, frozenset(read), frozenset(seen), tensors, distributions, response, density)


def _leniently(function: Callable[..., Found], *args: object) -> Found:
    """What a function of the user's gives at draws from the prior, of which some may be so far out that parameters
    overflow, or a scale is negative.
    """
    try:
        return function(*args)
    except ValueError:
        with validation(False):
            return function(*args)
