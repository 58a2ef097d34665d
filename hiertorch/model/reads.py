"""What reads what in a model: every prior and the likelihood run once, on data and values that note what is asked; and
draws from the prior at which the likelihood is possible.
"""

from collections.abc import Callable, Mapping, Sequence
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
from hiertorch.model.drawing import Share, impossible_at
from hiertorch.model.latent import Values
from hiertorch.model.tolerance import attempted
from hiertorch.runtime.validating import validation

Found = TypeVar("Found")

CHAINS = 4
"""Prior draws at which a model is run, where the data have no chain axis."""

TURNS = 16
"""Times that groups, or chains, at which the likelihood is 0 are drawn again."""

LOOKS = 256
"""Prior draws at which parameters are looked at."""

NUMBERS = 500_000
"""Of draws and rows together at most."""


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
    chains = data.by_chain if data.by_chain > 1 else CHAINS
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


def mended(
    model: Densities,
    data: Data,
    rows: Data,
    values: Mapping[str, Tensor],
    generator: torch.Generator | None,
    fixed: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Prior draws, of which those of the groups where the likelihood of some rows is not finite are drawn again, or
    those of all latents; those that are `fixed` are kept. Not all may be mended.
    """
    values, chains = dict(values), len(next(iter(values.values())))
    latents = model.latents
    varying = [name for name, latent in latents.items() if latent.plate is not None and name not in fixed]
    for turn in range(TURNS):
        terms = model.log_likelihood(model.values(values), rows)
        bad = ~torch.isfinite(terms) if rows.weights is None else ~torch.isfinite(terms) & (rows.weights != 0)
        bad = bad.expand(chains, rows.n_rows)
        if not bool(bad.any()):
            break
        whole = not varying or turn % 4 == 3
        keep = [name for name in latents if name in fixed or (not whole and latents[name].plate is None)]
        fresh = model.sample_prior(data, chains, generator, given={name: values[name] for name in keep})
        for name in latents:
            if name in keep:
                continue
            if whole:
                where = bad.any(1, keepdim=True)
            else:
                size = values[name].shape[1]
                groups = bad.new_zeros(chains, size, dtype=terms.dtype)
                where = groups.index_add(1, rows.codes[str(latents[name].plate)], bad.to(terms.dtype)) > 0
            where = where.reshape(*where.shape, *(1,) * (values[name].dim() - 2))
            values[name] = torch.where(where, fresh[name], values[name])
    return values


def shares(model: Densities, data: Data, rows: Data | None, generator: torch.Generator) -> list[Share]:
    """How many prior draws make parameters of priors, or of the likelihood of some rows (if any), impossible."""
    met: dict[str, Share] = {}
    number = data.by_chain or (LOOKS if rows is None else max(8, min(LOOKS, NUMBERS // rows.n_rows)))
    values = model.sample_prior(data, number, generator, met=met)
    if rows is not None:
        for condition, mask in impossible_at(attempted(model.likelihood, values, rows), number):
            share = Share(condition, mask)
            met.setdefault(share.name, share)
    return list(met.values())
