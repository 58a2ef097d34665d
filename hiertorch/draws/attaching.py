"""Model and data for a posterior that was loaded: those that were fitted, or a sentence on how they differ.

Note [A model is known by its density]
    Its code shows in no print. But log p(latents, y) of the model less what the run has noted of its draws is the same
    number at all of them. A run notes the density on unconstrained space; of a collapsed run it is that of what was not
    integrated out.

docs/decisions.md: A model is known by its density.
"""

import torch
from torch import Tensor

from hiertorch import wording
from hiertorch.data.newrows import shown
from hiertorch.data.table import Data
from hiertorch.density.structure import analyse, priors_alone
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError, ModelError
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.gaussian.redraw import Redraw
from hiertorch.model.checks import inspect
from hiertorch.model.latent import Latent
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.runtime.validating import validation

ADVICE = "Give the model and data that this posterior was drawn from."
"""The end of a sentence on what differs."""

CHOSEN = "\n\npriors by these data:"
"""Before what `hiertorch.advice.requirements.model_text` adds to a model as printed."""

DRAWS = 8
"""At which densities are compared."""

LIMIT, ROUNDING = {torch.float64: 1e-3, torch.float32: 0.1}, {torch.float64: 1e-7, torch.float32: 1e-5}
"""A difference counts from LIMIT plus ROUNDING times the log density on; another model differs by about 1."""


def attach(posterior: Fit, model: object, data: object) -> None:
    """Gives a posterior its model and data, in the dtype and on the device of its draws: the posterior is changed.

    Raises:
        ModelError, DataError: unless these are, by names, formula, priors, density, rows and labels, what was fitted.
    """
    if not isinstance(model, Model) or not isinstance(data, Data):
        raise DataError(
            f"load takes model= and data= together, an ht.Model and ht.Data; found {type(model).__name__} and "
            f"{type(data).__name__}."
        )
    fitted = Fitted(model, data, next(iter(posterior.draws.values())))
    check_model(posterior, fitted.model)
    _check_data(posterior, fitted.data)
    _check_latents(posterior, fitted.model, fitted.data)
    reads, _ = inspect(fitted.model, fitted.data, prior_only=bool(posterior.run.get("prior_only")))
    found = collapse(fitted.model, fitted.data, reads) if posterior.collapsed else None
    if isinstance(found, str):
        raise ModelError(
            f"effects were integrated out when this posterior was drawn, and now they can't be: {found}. {ADVICE}"
        )
    if off := disagreement(posterior, fitted.model, fitted.data, reads, found):
        raise ModelError(
            "the model prints as the one that was fitted and is another: at draws of this posterior its log density "
            f"differs from what the run has noted, by up to {off:.3g} beyond a constant. {ADVICE}"
        )
    posterior.origin = fitted
    if found is not None:
        stored = {**posterior.draws, **posterior.more}
        population = {name: stored[name] for name, latent in fitted.model.latents.items() if latent.plate is None}
        posterior.unstored = Redraw(found, population, int(posterior.run.get("seed", 0)))


def check_model(posterior: Fit, model: Model) -> None:
    """Raises a ModelError unless a model prints as the one that was fitted, and has its latents."""
    text = str(posterior.run.get("model_text", "")).split(CHOSEN)[0]
    if text and not text.endswith(str(model)):  # before it stands what its class says
        raise ModelError(
            f"the model is not the one that was fitted, which prints as\n{text}\nand not as\n{model}\n{ADVICE}"
        )
    missing = [name for name in posterior.draws if name not in model.latents and name not in model.derived]
    if missing:
        raise ModelError(
            f"the posterior has {missing[0]!r}, which the model does not declare; it has "
            f"{wording.listed(model.latents)}. {ADVICE}"
        )


def _check_data(posterior: Fit, data: Data) -> None:
    for plate, labels in posterior.labels.items():
        if plate not in data.labels or list(data.labels[plate]) != list(labels):
            found = shown(data.labels[plate]) if plate in data.labels else "no such grouping"
            raise DataError(f"the groups of {plate!r} were {shown(labels)}; the data have {found}. {ADVICE}")
    known = posterior.fingerprint  # none if it was made by hand
    if known is not None and (other := known.differences(data.fingerprint)):
        raise DataError(f"the data are not those that were fitted: {'; '.join(other)}. {ADVICE}")


def _check_latents(posterior: Fit, model: Model, data: Data) -> None:
    with torch.no_grad(), validation(False):
        prior = model.sample_prior(data, 1, torch.Generator(data.device).manual_seed(0))
    for name, x in posterior.draws.items():
        latent: Latent | None = model.latents.get(name)
        if latent is None:
            continue
        if latent.plate != posterior.plates[name] or prior[name].shape[1:] != x.shape[2:]:
            raise ModelError(
                f"{name!r} is {tuple(prior[name].shape[1:])} over {latent.plate} in the model, and the posterior's is "
                f"{tuple(x.shape[2:])} over {posterior.plates[name]}. {ADVICE}"
            )
        event = latent.event_labels(data)
        if event is not None and tuple(map(tuple, event)) != tuple(map(tuple, posterior.event_labels[name])):
            raise ModelError(
                f"the entries of {name!r} are {event} in the model, and {posterior.event_labels[name]} in the "
                f"posterior. {ADVICE}"
            )


def disagreement(posterior: Fit, model: Model, data: Data, reads: Reads, collapsed: Collapsed | None) -> float:
    """By how much log densities at some draws differ beyond a constant; 0 if that is rounding, or can't be told. Model
    and data are on the device and in the dtype of the draws; `collapsed` is the same with effects and coefficients
    integrated out, if the run's density is that of the rest.
    """
    names = model.latents if collapsed is None else collapsed.rest
    held = {**posterior.more, **posterior.draws}
    if posterior.run.get("collapsed") is not (collapsed is not None):  # it is not known, or not what was noted
        return 0.0
    if (
        not posterior.n_draws
        or data.by_chain
        or "updated" in posterior.run
        or not names
        or not all(name in held for name in names)
    ):
        return 0.0  # densities of parts of the rows, or of other rows too, have constants of their own
    at = torch.linspace(0, posterior.chains * posterior.n_draws - 1, DRAWS, dtype=torch.float64).long()
    chain, draw = (x.to(data.device) for x in (at // posterior.n_draws, at % posterior.n_draws))
    values = {name: held[name][chain, draw] for name in names}
    noted = posterior.stats.log_density.flatten()[at.to(posterior.stats.log_density.device)].to(data.device)
    with torch.no_grad(), validation(False):
        if collapsed is None:
            target = analyse(model, data, reads, prior_only=bool(posterior.run.get("prior_only"))).target
            found = target.state(target.space.unconstrain(values)).log_density()
        else:
            found = _of_the_rest(collapsed, reads, values)
    gap = (found - noted).double()
    off = float((gap - gap.median()).abs().nan_to_num(torch.inf).max())
    dtype = posterior.stats.log_density.dtype
    return off if off > LIMIT[dtype] + ROUNDING[dtype] * float(noted.abs().max()) else 0.0


def _of_the_rest(collapsed: Collapsed, reads: Reads, values: dict[str, Tensor]) -> Tensor:
    """log p(rest | y) up to a constant, on unconstrained space: `(n,)`."""
    target = priors_alone(collapsed.composed.model, collapsed.composed.data, reads).target
    values = {name: x.to(collapsed.grams.packed) for name, x in values.items()}
    free = target.space.unconstrain(values)
    terms = [target.prior_term(name, free[name], values).sum(-1) for name in values]
    return torch.stack([collapsed.log_marginal(values), *terms]).sum(0)
