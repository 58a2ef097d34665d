"""What a model asks of data: enough groups, rows and predictors that vary, and priors on the data's scale.

Thresholds are rules of thumb, each with its reason or reference beside it. A finding never stops a run.
"""

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import pandas as pd
import torch
from torch.distributions import Distribution

from hiertorch.advice.expectations import scale_findings
from hiertorch.advice.findings import (
    BROKEN,
    COLUMNS,
    LEVELS,
    LOOK,
    Finding,
    column_findings,
    differs_by_chain,
    label_findings,
)
from hiertorch.data.table import Data
from hiertorch.density.structure import coordinates_of
from hiertorch.errors import DataError, ModelError
from hiertorch.model.checks import inspect
from hiertorch.model.copies import prior_text
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.model.transport import location_scale
from hiertorch.models.design import design_of, family_of
from hiertorch.runtime.validating import validation
from hiertorch.wording import many, quoted

FEW_GROUPS = 5
"""With fewer, a scale of groups is its prior's (Gelman & Hill 2007, section 12.9)."""

SOME_GROUPS = 8
"""Up to which a scale of groups is vague."""

TOTAL_ROWS = 50
"""Rows in all, at least; below half of them a warning."""

IMBALANCE = 10.0
"""Times the median group's rows: the largest group's mean then has a third of the typical group's standard error
(1 / sqrt(10)), and what groups share, slopes and the spread of rows, is mostly learnt from it.
"""

ROWS_EACH = 2.0
"""Rows a parameter, at least: two are the least for coefficients of linear regression (Austin & Steyerberg 2015)."""

GROUPS_EACH = 10
"""Groups for each group-level predictor: they are its rows (Harrell 2015, section 4.4, asks for 10 to 20)."""

MOST_SHOWN = 20
"""Numbers of a prior."""


def check(model: object, data: Data) -> pd.DataFrame:
    """See `Data.check`."""
    if not isinstance(model, Model):
        raise ModelError(f"check takes an instance of ht.Model, found {model!r}.")
    model = copy.deepcopy(model).to(data.device, data.dtype)
    try:
        reads, _ = inspect(model, data)
    except (ModelError, DataError) as error:
        return pd.DataFrame([_refusal(model, data, error)], columns=COLUMNS)
    return pd.DataFrame(findings(model, data, reads), columns=COLUMNS)


def findings(model: Model, data: Data, reads: Reads) -> list[Finding]:
    """What a model that `hiertorch.model.checks.inspect` found sound asks for and the data lack, the gravest first. The
    model is on the device and in the dtype of the data; rows of weight 0 are left out.
    """
    with torch.no_grad(), validation(False):
        if data.weights is not None:
            kept = (data.weights > 0).reshape(-1, data.n_rows).any(0).nonzero()[:, 0]
            if len(kept) == 0:
                finding = "all rows have weight 0, so the data say nothing."
                return [Finding("warning", data.name, finding, "Give some rows a weight above 0.")]
            data = data if len(kept) == data.n_rows else data.take(kept)
        family = family_of(model)
        telling = None if family is None else family.informative(data)
        if telling is not None and bool(telling.any()):
            data = data if bool(telling.all()) else data.take(telling.nonzero()[:, 0])
        found = [
            *_group_findings(model, data, reads),
            *label_findings(data),
            *_row_findings(model, data, reads),
            *column_findings(model, data),
            *scale_findings(model, data, reads),
        ]
    return sorted(found, key=lambda one: LEVELS.index(one.severity))


def sentences(model: Model, data: Data, reads: Reads) -> tuple[str, ...]:
    """`findings` in sentences, for what is shown before sampling, which a check that fails must not stop."""
    try:
        return tuple(finding.sentence for finding in findings(model, data, reads))
    except BROKEN as error:
        return (f"note: {data.name}: the data could not be checked: {type(error).__name__}: {error}",)


def grave(found: Iterable[str]) -> list[str]:
    """Those of these sentences that are more than notes, as Python warnings say them."""
    return [sentence.removeprefix("warning: ") for sentence in found if not sentence.startswith("note: ")]


def chosen_priors(model: Model, reads: Reads) -> dict[str, str]:
    """Latent -> its prior in numbers, where it is a function of the data alone, such as `priors="autoscale"` makes."""
    return {
        name: prior_text(distribution)
        for name, distribution in reads.distributions.items()
        if not isinstance(model.latents[name].prior, Distribution)
        and not reads.priors[name]
        and math.prod(distribution.batch_shape) <= MOST_SHOWN  # of groups; more are no text to read
    }


def model_text(model: Model, chosen: Mapping[str, str]) -> str:
    """A model as printed, and below it the priors that the data chose."""
    lines = [f"{name} ~ {text}" for name, text in chosen.items()]
    return "\n".join([str(model), *(["", "priors by these data:", *lines] if lines else [])])


def _refusal(model: Model, data: Data, error: Exception) -> Finding:
    """What can't be sampled at all; the end of an error says what to do."""
    text = str(error)
    named = re.findall(r"(?<!\w)'([^']+)'(?!\w)", text)  # an apostrophe opens no name
    kinds = (data.columns, model.latents, data.plates)
    about = next((name for kind in kinds for name in named if name in kind), data.name)
    for sign in (". ", "; "):
        finding, found, advice = text.rpartition(sign)
        if found:
            return Finding("error", about, f"{finding}.", advice[:1].upper() + advice[1:])
    return Finding("error", about, text, "Change the model or the data.")


def _group_findings(model: Model, data: Data, reads: Reads) -> Iterator[Finding]:
    """Groups of every plate that latents vary over."""
    noise = _noise(reads)
    for plate in dict.fromkeys(latent.plate for latent in model.latents.values() if latent.plate is not None):
        names = [name for name, latent in model.latents.items() if latent.plate == plate]
        every = data.counts(plate)
        counts = every[every > 0]
        groups, largest, median = len(counts), int(counts.max()), int(counts.median())
        if empty := len(every) - groups:
            finding = f"{many(empty, 'group')} of {len(every)} {'has' if empty == 1 else 'have'} no rows."
            yield Finding("note", plate, finding, "Their effects come from the prior or the population alone.")
        if any(_spread_is_learnt(name, reads) for name in names) and groups <= SOME_GROUPS:
            if groups < FEW_GROUPS:
                finding = f"only {many(groups, 'group')}, too few to learn how much groups vary: its prior decides."
                advice = f"Give that scale a prior that you can defend, or find {FEW_GROUPS} groups or more."
                yield Finding("warning", plate, finding, advice)
            else:
                finding = f"{groups} groups say little about how much groups vary."
                advice = "Expect a wide interval for their scale, and compare another prior for it."
                yield Finding("note", plate, finding, advice)
        if largest > IMBALANCE * median:
            finding = f"the largest group has {largest} rows, where the median group has {median}."
            yield Finding("note", plate, finding, "What groups share is learnt mostly from the largest.")
        direct = [name for name in names if name in reads.likelihood]
        if noise == "known" or not direct:
            continue
        effects = sum(_effects(model, name, reads) for name in direct)
        slopes = any(reads.values[name].dim() > 2 and model.latents[name].labels_of is None for name in direct)
        least = max(3, effects + 1) if slopes or effects > 1 else 2  # effects of a group, and the noise of its rows
        few = int((counts < least).sum())
        if few and largest == 1 and noise == "none":
            finding = "every group has one row, so that its effect stands for spread beyond the likelihood's."
            yield Finding("note", plate, finding, "That is right if it is meant so.")
        elif few:
            finding = (
                f"{few} of {many(groups, 'group')} {'has' if few == 1 else 'have'} fewer than {least} rows, where "
                f"each has {many(effects, 'effect')} to learn."
            )
            advice = (
                "Their effects come mostly from the population or the prior; let less vary by group, or find more rows."
            )
            if largest == 1:
                advice = "Effects and the noise of rows can't be told apart; leave the effects out, or find more rows."
            # Partial pooling is made for some small groups; where most are small there is little to learn from.
            yield Finding("warning" if 2 * few > groups else "note", plate, finding, advice)


def _row_findings(model: Model, data: Data, reads: Reads) -> Iterator[Finding]:
    """Rows in all, against parameters, and the response."""
    rows = data.n_rows
    if rows < TOTAL_ROWS and _noise(reads) != "known":  # a known standard error may stand for many rows
        finding = f"{many(rows, 'row')} in all, where {TOTAL_ROWS} are wanted."
        advice = "Estimates depend on the priors; compare others, or find more rows."
        yield Finding("warning" if 2 * rows < TOTAL_ROWS else "note", data.name, finding, advice)
    some = data.rows(0, min(rows, LOOK)).y  # which nearly always shows that it varies
    if rows > 1 and bool((some == some[..., :1]).all()) and bool((data.y == some[..., :1]).all()):
        finding = f"the response is {float(some.flatten()[0]):.4g} in all rows, so there is nothing to explain."
        yield Finding("warning", data.name, finding, "Look at the column that was read as the response.")
    free = [name for name, latent in model.latents.items() if latent.plate is None or _is_unpooled(name, reads)]
    coordinates = coordinates_of(model, reads)
    parameters = sum(coordinates[name].size * math.prod(coordinates[name].free_event) for name in free)
    if rows < ROWS_EACH * parameters:
        finding = f"{many(rows, 'row')} for {many(parameters, 'parameter')} that no population holds together."
        advice = "Leave predictors out, let effects share a population, or use priors that you can defend."
        yield Finding("warning", data.name, finding, advice)
    design = design_of(model)
    for plate, columns in design.group_predictors.items() if design is not None else ():
        groups = int((data.counts(plate) > 0).sum())
        if groups < GROUPS_EACH * len(columns):
            finding = f"{many(groups, 'group')} for {many(len(columns), 'group-level predictor')} ({quoted(columns)})."
            advice = f"Some {GROUPS_EACH} groups for each are wanted; leave some out, or give them tighter priors."
            yield Finding("warning" if groups <= len(columns) + 1 else "note", plate, finding, advice)


def _noise(reads: Reads) -> Literal["known", "learnt", "none"]:
    """Whether the scale of rows is learnt, or known, such as standard errors; families such as Poisson have none."""
    found = None if reads.response is None else location_scale(reads.response)
    if found is None:
        return "none"
    return "learnt" if differs_by_chain(found[1]) else "known"


def _spread_is_learnt(name: str, reads: Reads) -> bool:
    """Whether the spread of a group-level latent depends on other latents."""
    if not reads.priors[name]:
        return False
    found = location_scale(reads.distributions[name])
    return found is None or differs_by_chain(found[1])


def _is_unpooled(name: str, reads: Reads) -> bool:
    """Whether effects have a prior each and no population; Normal(0, 1) is that of effects that are scaled later."""
    if reads.priors[name]:
        return False
    found = location_scale(reads.distributions[name])
    return found is None or not bool(((found[0] == 0) & (found[1] == 1)).all())


def _effects(model: Model, name: str, reads: Reads) -> int:
    """How many numbers of a group its rows have to tell; a path over another grouping counts as one."""
    return 1 if model.latents[name].labels_of is not None else math.prod(reads.values[name].shape[2:])
