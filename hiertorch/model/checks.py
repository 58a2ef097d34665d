"""Everything that can be said about a model and its data before sampling starts, in words."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.model.bijections import bijection
from hiertorch.model.declared import overrides
from hiertorch.model.densities import Densities
from hiertorch.model.latent import Values, chains_of
from hiertorch.model.reads import Reads, shares, watched
from hiertorch.model.rowchecks import check_likelihood, spread
from hiertorch.model.support import has_one_support
from hiertorch.model.weights import check_registered, refuse_weights
from hiertorch.randomness import seeded
from hiertorch.runtime.validating import validation

DRAWS = 32
"""Of each prior in each chain, before it is said to give no finite values or densities."""

RARE = 0.01
"""Share of prior draws that make a parameter impossible, below which nobody needs to know."""

NUMBERS = 2_000_000
"""So many of them are drawn at once at most."""


def inspect(model: Densities, data: Data, *, prior_only: bool = False) -> tuple[Reads, list[str]]:
    """Runs every prior and the likelihood; returns what reads what, and notes worth a warning.

    Raises:
        ModelError: a latent without a grouping for its plate, a prior that is discrete, improper, NaN or reads a later
            latent, a wrong shape, dtype or device, a likelihood that is no distribution, a density that mixes chains.
        DataError: a response outside the support of the likelihood.
    """
    if not isinstance(prior_only, bool):
        raise ModelError(f"prior_only must be True (leave the likelihood out) or False, found {prior_only!r}.")
    _check_kinds(model, data)
    data.check_unchanged()
    if not prior_only:
        model.check_columns(data)
    generator = torch.Generator(data.device).manual_seed(0)
    rows = data if prior_only else spread(data)
    with torch.enable_grad(), validation(False):  # which shows weights that somebody means to be learnt
        try:
            reads = _checked(model, data, rows, generator, prior_only=prior_only)
        except ModelError:
            if rows is data:
                raise
            # Some likelihoods need all rows, such as one with a buffer that has an entry for each; errors count them.
            rows, reads = data, _checked(model, data, data, generator, prior_only=prior_only)
        impossible = _impossible(model, data, None if prior_only else rows, generator)
    for looked_at in (rows, data):
        looked_at.check_unchanged()
    return reads, [*impossible, *_notes(model, reads, data, prior_only=prior_only)]


def _impossible(model: Densities, data: Data, rows: Data | None, generator: torch.Generator) -> list[str]:
    """Notes on parameters that prior draws make impossible; a ModelError if all do."""
    if overrides(model, "log_prob") or overrides(model, "log_likelihood"):
        rows = None
    notes = []
    with torch.no_grad():
        found = shares(model, data, rows, generator)
    for one in found:
        if one.share == 1.0:
            raise ModelError(f"every prior draw is impossible: {one.text}. Change the prior, or take a link.")
        if one.share >= RARE:
            notes.append(
                f"{one.share:.0%} of prior draws are impossible, and have density 0: {one.text}. A prior that keeps to "
                "what is possible, or a link such as exp, wastes no proposals."
            )
    return notes


def _check_kinds(model: Densities, data: Data) -> None:
    """That these are a model and data, and that the data have the model's plates."""
    if not isinstance(model, Densities):
        raise ModelError(
            f"expected an instance of ht.Model, found {model!r}{'; call the class' if isinstance(model, type) else ''}."
        )
    if not isinstance(data, Data):
        raise DataError(
            f"expected ht.Data, found {type(data).__name__}; make one with ht.Data(y=...) or ht.Data.from_frame(...)."
        )
    if not model.latents:
        raise ModelError(
            f"{type(model).__name__} declares no latents; add class attributes such as mu = "
            "ht.Latent(Normal(0.0, 5.0))."
        )
    for method in ("log_prior", "log_prior_terms"):
        if overrides(model, method):
            raise ModelError(
                f"{type(model).__name__} overrides {method}, which sampling does not call; override log_prior_term "
                "for one latent's prior, or log_prob for the whole density."
            )
    check_registered(model)
    for name, latent in model.latents.items():
        if latent.plate is not None and latent.plate not in data.plates:
            known = ", ".join(map(repr, data.plates)) or "none"
            raise ModelError(
                f"latent {name!r} varies over plate {latent.plate!r}, which the data lack (groupings: {known})."
            )


def _checked(model: Densities, data: Data, rows: Data, generator: torch.Generator, *, prior_only: bool) -> Reads:
    """Everything that running the model can show, with its likelihood at some rows of the data, or at all."""
    opaque = overrides(model, "log_prob") and not prior_only
    reads = watched(model, data, generator, prior_only=prior_only, rows=rows)
    v = model.values(reads.values)
    moved = model.values({name: torch.cat([value[1:2], value[1:]]) for name, value in v.items()})  # in chain 0
    again = model.sample_prior(data, chains_of(v), generator)  # a scale that is negative now and then
    terms = {}
    for name in model.latents:
        _check_support(model, name, reads, again, data)
        _check_labels(f"latent {name!r}", model.latents[name].event_labels(data), v[name])
        with validation(False):
            terms[name] = _check_prior(model, name, v, data, generator)
        refuse_weights(model, f"the prior of {name!r}", terms[name])
    for name in model.derived:
        _check_derived(model, name, v, data)
    if opaque:
        density = _checked_density(reads)
        refuse_weights(model, "log_prob", density)
    row_terms = None if opaque or prior_only else check_likelihood(model, reads, rows, data)
    with validation(False):
        if opaque:
            pairs = [(density, model.log_prob(moved, rows))]
        else:
            pairs = [(terms[name], model.log_prior_term(name, moved, data)) for name in model.latents]
        if row_terms is not None:
            pairs.append((row_terms, model.log_likelihood(moved, rows)))
    _check_chains(model, pairs, "prior" if prior_only else "density")
    return reads


def _check_prior(model: Densities, name: str, v: Values, data: Data, generator: torch.Generator) -> Tensor:
    """That draws and their densities are finite; returns log p(values), `(chains, size)`."""
    value = v[name]
    try:
        term = model.log_prior_term(name, v, data)
        drawn, dense = _finite(value.unsqueeze(0)), _finite(term.unsqueeze(0))
        if bool((drawn & dense).all()):
            return term
        # Some draws of a vague prior overflow, or are rounded to the edge of its support; but not all of a group's.
        prior, size = model.prior(name, v, data), max(1, min(DRAWS, NUMBERS // value.numel()))
        with seeded(generator, data.device):
            for _ in range(0, DRAWS, size):
                draws = prior.expand(torch.Size((size, *term.shape))).sample()  # (size, chains, groups, *event)
                drawn |= _finite(draws)
                dense |= _finite(prior.log_prob(draws).expand(size, *term.shape))
                if bool((drawn & dense).all()):
                    return term
    except ModelError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"the density of the prior of {name!r} can't be computed: {error}") from error
    if not bool(drawn.all()):
        raise ModelError(f"the prior of {name!r} draws values that are not finite; check its parameters.")
    raise ModelError(
        f"the log density of the prior of {name!r} is not finite at its own draws; is it improper or degenerate?"
    )


def _finite(draws: Tensor) -> Tensor:
    """Which groups are finite in some draw and chain: `(draws, chains, groups, *event)` to `(groups,)`."""
    return torch.isfinite(draws).reshape(-1, draws.shape[2], math.prod(draws.shape[3:])).all(-1).any(0)


def _check_support(model: Densities, name: str, reads: Reads, again: Values, data: Data) -> None:
    prior: Any = reads.distributions[name]
    try:
        here = bijection(prior.support)
        if has_one_support(prior):
            return
        elsewhere: Any = model.prior(name, again, data)
        there = bijection(elsewhere.support)
    except NotImplementedError as error:
        raise ModelError(
            f"the prior of {name!r}, {type(prior).__name__}, has no support or one that can't be made "
            f"unconstrained. {error}"
        ) from error
    free = here.inv(reads.values[name])
    if not torch.allclose(here(free), there(free), equal_nan=True):
        raise ModelError(
            f"the support of the prior of {name!r} moves with the latents that it reads; give it a fixed support, for "
            "example a fraction ~ Uniform(0.0, 1.0) that the likelihood multiplies."
        )


def _check_labels(what: str, labels: Sequence[Sequence[object]] | None, value: Tensor) -> None:
    event = tuple(value.shape[2:])
    if labels is not None and tuple(map(len, labels)) != event:
        raise ModelError(
            f"{what} has labels for an event of shape {tuple(map(len, labels))}, but its event shape is {event}: give "
            "one label for each entry, or one list of labels for each dimension."
        )


def _check_derived(model: Densities, name: str, v: Values, data: Data) -> None:
    """That it can be computed, before hours are spent on the draws that it is computed from."""
    quantity = model.derived[name]
    try:
        found = quantity(v, data)
    except (ModelError, DataError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the derived quantity {name!r} can't be computed: {error}") from error
    refuse_weights(model, f"the derived quantity {name!r}", found)
    if quantity.plate is not None and quantity.plate not in data.plates:
        raise ModelError(f"the derived quantity {name!r} varies over plate {quantity.plate!r}, which the data lack.")
    wanted = (chains_of(v), 1 if quantity.plate is None else data.size(quantity.plate))
    if not isinstance(found, Tensor) or found.shape[:2] != wanted:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"the derived quantity {name!r} should be a tensor (chains, size, *event) that begins with {wanted}, found "
            f"{shape}."
        )
    _check_labels(f"the derived quantity {name!r}", quantity.labels, found)


def _checked_density(reads: Reads) -> Tensor:
    chains, density = len(next(iter(reads.values.values()))), reads.density
    if isinstance(density, Tensor) and tuple(density.shape) == (chains,):
        return density
    found = tuple(density.shape) if isinstance(density, Tensor) else type(density).__name__
    raise ModelError(f"log_prob returned {found}; expected a tensor of shape (chains,) = ({chains},).")


def _check_chains(model: Densities, pairs: Iterable[tuple[Tensor, Tensor]], what: str) -> None:
    """Moving the first chain must leave the terms of the others as they are: `(chains, ...)` before and after."""
    for before, after in pairs:
        same = (before == after) | (torch.isnan(before) & torch.isnan(after))
        if not bool(same[1:].all()):
            raise ModelError(
                f"the {what} of {type(model).__name__} mixes chains: moving one chain changed the log {what} of "
                "another. Keep axis 0 (chains) out of sums, means and indices."
            )


def _notes(model: Densities, reads: Reads, data: Data, *, prior_only: bool) -> list[str]:
    notes = []
    read = set(reads.likelihood).union(*reads.priors.values())
    unused = [name for name in model.latents if name not in read]
    if unused and not prior_only:
        notes.append(
            f"neither the likelihood nor any prior reads {', '.join(map(repr, unused))}: the data say nothing about it."
        )
    for plate in data.plates:
        used = any(latent.plate == plate for latent in model.latents.values())
        if not used and not reads.columns & {plate, "codes"}:
            notes.append(f"grouping {plate!r} is never read: no latent varies over it and nothing uses its codes.")
    return notes
