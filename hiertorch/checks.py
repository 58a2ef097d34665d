"""Everything that can be said about a model and its data before sampling starts, in words."""

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to

from hiertorch.data import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.latent import validation
from hiertorch.model import Model
from hiertorch.structure import Reads, record

__all__ = ["inspect"]


def inspect(
    model: Model, data: Data, generator: torch.Generator | None = None, *, prior_only: bool = False
) -> tuple[Reads, list[str]]:
    """Runs every prior and the likelihood once with validation on; returns what reads what, and notes worth a warning.

    Raises:
        ModelError: a latent without a grouping for its plate, a prior that is discrete, improper, NaN or reads a later latent, a wrong
            shape, dtype or device, a likelihood that is no distribution, a density that mixes chains.
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
            f"{type(model).__name__} declares no latents; add class attributes such as mu = ht.Latent(Normal(0.0, 5.0))."
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
            _check_prior(model, name, reads, data)
            _check_support(name, reads, model.prior(name, again, data))
        if reads.response is not None:
            _check_likelihood(model, reads, data)
        if reads.density is not None:
            _check_density(reads)
        if not prior_only:
            _check_chains(model, reads, data)
    return reads, _notes(model, reads, data, prior_only=prior_only)


def _check_prior(model: Model, name: str, reads: Reads, data: Data) -> None:
    distribution, value = reads.distributions[name], reads.values[name]
    if getattr(distribution.support, "is_discrete", False):
        raise ModelError(
            f"the prior of {name!r}, {type(distribution).__name__}, is discrete; Metropolis-Hastings moves here need a continuous "
            "latent: sum it out in the likelihood."
        )
    sampled = distribution.sample()
    if sampled.dtype != data.dtype or sampled.device != data.device:
        raise ModelError(
            f"the prior of {name!r} gives values of {sampled.dtype} on {sampled.device}; the data are {data.dtype} on {data.device}. "
            "Make its tensors from the latents it reads, or from plain numbers."
        )
    if not bool(torch.isfinite(value).all()):
        raise ModelError(f"the prior of {name!r} draws values that are not finite; check its parameters.")
    v = model.values(reads.values)
    try:
        term = model.log_prior_term(name, v, data)
    except ModelError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"the density of the prior of {name!r} can't be computed: {error}") from error
    if not bool(torch.isfinite(term).all()):
        raise ModelError(
            f"the log density of the prior of {name!r} is not finite at its own draws; is it improper or degenerate?"
        )


def _check_support(name: str, reads: Reads, elsewhere: Distribution) -> None:
    try:
        here = biject_to(reads.distributions[name].support)
    except NotImplementedError as error:
        raise ModelError(f"the prior of {name!r} has a support for which torch knows no bijection: {error}") from error
    free = here.inv(reads.values[name])
    there = biject_to(elsewhere.support)(free)
    if not torch.allclose(here(free), there, equal_nan=True):
        raise ModelError(
            f"the support of the prior of {name!r} moves with the latents that it reads; give it a fixed support, "
            "for example a fraction ~ Uniform(0.0, 1.0) that the likelihood multiplies."
        )


def _check_likelihood(model: Model, reads: Reads, data: Data) -> None:
    response = reads.response
    chains = next(iter(reads.values.values())).shape[0]
    if not isinstance(response, Distribution):
        raise ModelError(
            f"likelihood returned {type(response).__name__}; expected a torch.distributions object of batch shape (chains, rows)."
        )
    if response.event_shape:
        raise ModelError(
            f"likelihood returned a distribution with event shape {tuple(response.event_shape)}; expected one response a row: batch shape "
            "(chains, rows) and no event."
        )
    wanted = (chains, data.n_rows)
    try:
        fits = torch.broadcast_shapes(response.batch_shape, wanted) == wanted
    except RuntimeError:
        fits = False
    if not fits or (len(response.batch_shape) == 1 and response.batch_shape[0] == chains != data.n_rows):
        raise ModelError(
            f"likelihood returned batch shape {tuple(response.batch_shape)}; expected (chains, rows) = {wanted}. Group effects "
            "are read row by row as v.alpha[:, data.school], and columns as data.x."
        )
    _check_response(response, data)
    terms = response.log_prob(data.y)
    if terms.dtype != data.dtype or terms.device != data.device:
        raise ModelError(
            f"likelihood gives {terms.dtype} on {terms.device}; the data are {data.dtype} on {data.device}."
        )


def _check_response(response: Distribution, data: Data) -> None:
    """A row that lies outside the support in every chain is the data's fault; in some, perhaps the latents'."""
    inside = response.support.check(data.y)
    if inside.dim() == 2:
        inside = inside.any(0)
    if not bool(inside.expand(data.n_rows).all()):
        row = int((~inside.expand(data.n_rows)).nonzero()[0])
        raise DataError(
            f"the response of row {row} is {float(data.y[..., row].flatten()[0]):g}, outside the support of the likelihood "
            f"{type(response).__name__} ({response.support}); {int((~inside).sum())} rows are. Change the likelihood or the data."
        )


def _check_density(reads: Reads) -> None:
    chains = next(iter(reads.values.values())).shape[0]
    found = tuple(reads.density.shape) if isinstance(reads.density, Tensor) else type(reads.density).__name__
    if found != (chains,):
        raise ModelError(f"log_prob returned {found}; expected a tensor of shape (chains,) = ({chains},).")


def _check_chains(model: Model, reads: Reads, data: Data) -> None:
    """Moving the first chain must leave the density of the others as it is."""
    if next(iter(reads.values.values())).shape[0] < 2:
        return
    with validation(False):
        values = {name: torch.cat([value[1:2], value[1:]]) for name, value in reads.values.items()}
        before, after = model.log_prob(model.values(reads.values), data), model.log_prob(model.values(values), data)
    same = (before == after) | (torch.isnan(before) & torch.isnan(after))
    if not bool(same[1:].all()):
        raise ModelError(
            "log_prob mixes chains: moving one chain changed the density of another. Keep axis 0 (chains) out of sums, means and indices."
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
                f"grouping {plate!r} has one group: variation between groups can't be learnt from it, only the prior speaks of it."
            )
        if not used and plate not in reads.columns:
            notes.append(f"grouping {plate!r} is never read: no latent varies over it and nothing uses its codes.")
    return notes
