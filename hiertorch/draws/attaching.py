"""Model and data for a posterior that was loaded: those that were fitted, or a sentence on how they differ."""

import torch

from hiertorch import wording
from hiertorch.data.newrows import shown
from hiertorch.data.table import Data
from hiertorch.draws.agreement import disagreement
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError, ModelError
from hiertorch.gaussian.discovery import collapse
from hiertorch.gaussian.redraw import Redraw
from hiertorch.model.checks import inspect
from hiertorch.model.latent import Latent
from hiertorch.model.model import Model
from hiertorch.runtime.validating import validation

ADVICE = "Give the model and data that this posterior was drawn from."
CHOSEN = "\n\npriors by these data:"
"""Before what `hiertorch.advice.requirements.model_text` adds to a model as printed."""


def attach(posterior: Fit, model: object, data: object) -> None:
    """Gives a posterior its model and data, in the dtype and on the device of its draws.

    Args:
        posterior: is changed.
        model: what was fitted, and
        data: to what.

    Raises:
        ModelError, DataError: unless these are, by names, formula, priors, density, rows and labels, what was fitted.
    """
    if not isinstance(model, Model) or not isinstance(data, Data):
        raise DataError(
            f"load takes model= and data= together, an ht.Model and ht.Data; found {type(model).__name__} and "
            f"{type(data).__name__}."
        )
    fitted = Fitted(model, data, next(iter(posterior.draws.values())))
    _check_model(posterior, fitted.model)
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


def _check_model(posterior: Fit, model: Model) -> None:
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
