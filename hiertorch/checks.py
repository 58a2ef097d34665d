"""Everything that can be said about a model and its data before sampling starts, in words."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.latent import validation
from hiertorch.model import Model, seeded
from hiertorch.space import bijection
from hiertorch.structure import Reads, overrides, record

__all__ = ["inspect"]

DRAWS = 32
"""Of each prior in each chain, to see whether values and densities are finite."""


def inspect(
    model: Model, data: Data, generator: torch.Generator | None = None, *, prior_only: bool = False
) -> tuple[Reads, list[str]]:
    """Runs every prior and the likelihood once with validation on; returns what reads what, and notes worth a warning.

    Raises:
        ModelError: a latent without a grouping for its plate, a prior that is discrete, improper, NaN or reads a later
            latent, a wrong shape, dtype or device, a likelihood that is no distribution, a density that mixes chains.
        DataError: a response outside the support of the likelihood.
    """
    if not isinstance(model, Model):
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
    for name, latent in model.latents.items():
        if latent.plate is not None and latent.plate not in data.plates:
            known = ", ".join(map(repr, data.plates)) or "none"
            raise ModelError(
                f"latent {name!r} varies over plate {latent.plate!r}, which the data lack (groupings: {known})."
            )
    generator = generator or torch.Generator(data.device).manual_seed(0)
    with torch.no_grad(), validation(True):
        reads = record(model, data, generator, prior_only=prior_only)
        again = model.sample_prior(data, next(iter(reads.values.values())).shape[0], generator)
        for name in model.latents:
            _check_support(name, reads, model.prior(name, again, data))
            _check_labels(model, name, reads)
            with seeded(generator, data.device), validation(False):
                _check_prior(model, name, reads, data)
        if overrides(model, "log_prob") and not prior_only:
            _check_density(reads)
        elif not prior_only:
            _check_likelihood(model, reads, data)
        _check_chains(model, reads, data, prior_only=prior_only)
    return reads, _notes(model, reads, data, prior_only=prior_only)


def _check_prior(model: Model, name: str, reads: Reads, data: Data) -> None:
    v = model.values(reads.values)
    try:
        shape = model.log_prior_term(name, v, data).shape
        prior = model.prior(name, v, data)
        draws = prior.expand(torch.Size((DRAWS, *shape))).sample()  # (DRAWS, chains, size, *event)
        terms = prior.log_prob(draws).expand(DRAWS, *shape)
    except ModelError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"the density of the prior of {name!r} can't be computed: {error}") from error
    # Some draws of a vague prior overflow, or are rounded to the edge of its support; but not all of a group's.
    if not bool(torch.isfinite(draws).reshape(DRAWS, *shape, -1).all(-1).flatten(0, 1).any(0).all()):
        raise ModelError(f"the prior of {name!r} draws values that are not finite; check its parameters.")
    if not bool(torch.isfinite(terms).flatten(0, 1).any(0).all()):
        raise ModelError(
            f"the log density of the prior of {name!r} is not finite at its own draws; is it improper or degenerate?"
        )


def _check_support(name: str, reads: Reads, elsewhere: Any) -> None:
    prior: Any = reads.distributions[name]
    try:
        here = bijection(prior.support)
        there = bijection(elsewhere.support)
    except NotImplementedError as error:
        raise ModelError(
            f"the prior of {name!r}, {type(elsewhere).__name__}, has no support or one that can't be made "
            f"unconstrained. {error}"
        ) from error
    free = here.inv(reads.values[name])
    if not torch.allclose(here(free), there(free), equal_nan=True):
        raise ModelError(
            f"the support of the prior of {name!r} moves with the latents that it reads; give it a fixed support, for "
            "example a fraction ~ Uniform(0.0, 1.0) that the likelihood multiplies."
        )


def _check_labels(model: Model, name: str, reads: Reads) -> None:
    labels, event = model.latents[name].labels, tuple(reads.values[name].shape[2:])
    if labels is not None and tuple(map(len, labels)) != event:
        raise ModelError(
            f"latent {name!r} has labels for an event of shape {tuple(map(len, labels))}, but its event shape is "
            f"{event}: give one label for each entry, or one list of labels for each dimension."
        )


def _check_likelihood(model: Model, reads: Reads, data: Data) -> None:
    wanted = (next(iter(reads.values.values())).shape[0], data.n_rows)
    try:
        if not overrides(model, "log_likelihood"):
            _check_response(reads.response, data, wanted)
        with validation(False):
            terms = model.log_likelihood(model.values(reads.values), data)
    except (ModelError, DataError):
        raise
    except Exception as error:
        raise ModelError(
            f"the log density of the likelihood can't be computed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(terms, Tensor) or terms.shape != wanted:
        found = f"shape {tuple(terms.shape)}" if isinstance(terms, Tensor) else type(terms).__name__
        raise ModelError(f"log_likelihood gives {found}; expected a tensor (chains, rows) = {wanted}.")
    if terms.dtype != data.dtype or terms.device != data.device:
        raise ModelError(
            f"likelihood gives {terms.dtype} on {terms.device}; the data are {data.dtype} on {data.device}. Make its "
            "tensors from latents and columns, or register them as buffers of the model."
        )
    if not reads.likelihood:
        raise ModelError(
            f"the likelihood of {type(model).__name__} reads no latent, so the data say nothing about any: read one, "
            "as in v.mu, or sample with prior_only=True."
        )


def _check_response(response: object, data: Data, wanted: tuple[int, int]) -> None:
    if not isinstance(response, Distribution):
        raise ModelError(
            f"likelihood returned {type(response).__name__}; expected a torch.distributions object of batch shape "
            "(chains, rows)."
        )
    if response.event_shape:
        raise ModelError(
            f"likelihood returned a distribution with event shape {tuple(response.event_shape)}; expected one "
            "response a row: batch shape (chains, rows) and no event."
        )
    try:
        fits = torch.broadcast_shapes(response.batch_shape, wanted) == wanted
    except RuntimeError:
        fits = False
    if not fits:
        raise ModelError(
            f"likelihood returned batch shape {tuple(response.batch_shape)}; expected (chains, rows) = {wanted}. "
            "Group effects are read row by row as v.alpha[:, data.school], and columns as data.x."
        )
    try:
        support: Any = response.support
    except NotImplementedError:  # a distribution of the user's that tells none
        return
    # A response outside the support in every chain is the data's fault; in some, perhaps the latents'.
    inside = support.check(data.y.unsqueeze(-2)).any(-2).expand(data.y.shape)
    if not bool(inside.all()):
        *_, row = where = (~inside).nonzero()[0].tolist()
        raise DataError(
            f"the response of row {row} (from 0) is {float(data.y[tuple(where)]):g}, outside the support of the "
            f"likelihood {type(response).__name__} ({support}); {int((~inside).sum())} of {inside.numel()} responses "
            "are. Change the likelihood or the data."
        )


def _check_density(reads: Reads) -> None:
    chains = next(iter(reads.values.values())).shape[0]
    found = tuple(reads.density.shape) if isinstance(reads.density, Tensor) else type(reads.density).__name__
    if found != (chains,):
        raise ModelError(f"log_prob returned {found}; expected a tensor of shape (chains,) = ({chains},).")


def _check_chains(model: Model, reads: Reads, data: Data, *, prior_only: bool) -> None:
    """Moving the first chain must leave the density of the others as it is."""
    density = model.log_prior if prior_only else model.log_prob
    moved = {name: torch.cat([value[1:2], value[1:]]) for name, value in reads.values.items()}
    with validation(False):
        before, after = density(model.values(reads.values), data), density(model.values(moved), data)
    same = (before == after) | (torch.isnan(before) & torch.isnan(after))
    if not bool(same[1:].all()):
        what = "prior" if prior_only else "density"
        raise ModelError(
            f"the {what} of {type(model).__name__} mixes chains: moving one chain changed the log {what} of another. "
            "Keep axis 0 (chains) out of sums, means and indices."
        )


def _notes(model: Model, reads: Reads, data: Data, *, prior_only: bool) -> list[str]:
    notes = []
    read = set(reads.likelihood).union(*reads.priors.values())
    unused = [name for name in model.latents if name not in read]
    if unused and not prior_only:
        notes.append(
            f"neither the likelihood nor any prior reads {', '.join(map(repr, unused))}: the data say nothing about it."
        )
    if data.n_rows == 1:
        notes.append(
            "the data have one row: it can't tell a group's effect from noise, so the answer is mostly the prior's."
        )
    for plate in data.plates:
        used = any(latent.plate == plate for latent in model.latents.values())
        if used and data.size(plate) == 1:
            notes.append(
                f"grouping {plate!r} has one group: variation between groups can't be learnt from it, only the prior "
                "speaks of it."
            )
        if not used and not reads.columns & {plate, "codes"}:
            notes.append(f"grouping {plate!r} is never read: no latent varies over it and nothing uses its codes.")
    return notes
