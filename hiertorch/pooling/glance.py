"""What a live view shows of pooling while a run goes on: from some of its draws, within milliseconds.

    lambda = 1 - V(E[eps]) / E[V(eps)]    by level of effects, V over groups and E over draws

(Gelman & Pardoe 2006), shares of variance, and what each group's own rows say of it: what `hiertorch.pooling.factors`
finds
from all draws, without the level of the rows and B_j. With S independent draws lambda is too small by some lambda / S.

Note [Beside a run]
    This is called from another thread than the one that samples: it draws no random numbers and leaves torch's settings
    as they are. Gradients are recorded or not for each thread. Validation of distributions is off in all threads at
    once (`hiertorch.model.latent.validation`): it is off already while chains move, and a run must wait for whoever
    looks at it before it ends.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hiertorch.advice.findings import BROKEN
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError
from hiertorch.model.declared import overrides
from hiertorch.model.latent import Values, validation
from hiertorch.model.reads import Reads
from hiertorch.pooling.boundaries import scale_of
from hiertorch.pooling.information import effects_of, prior_mean
from hiertorch.pooling.levels import entries_of, level_lines
from hiertorch.pooling.shrinkage import COUPLED, no_pooling, untold
from hiertorch.pooling.variance import parted, shares

__all__ = ["Alone", "Glance", "Glances", "glance"]

EXAMPLES = 2
"""Draws that show what reads what."""

FAILURES = (*BROKEN, AttributeError)
"""What a prior or likelihood may raise, of a model that can't give what is asked for."""

STEPS = 15
"""Of scoring for the estimates of groups by themselves: in the data of `configs/` all that are finite had settled."""


@dataclass(frozen=True)
class Alone:
    """What a shrinkage figure needs of one effect of each group, arrays of `(groups,)`.

    Attributes:
        plate: the grouping.
        labels: of its groups.
        rows: how many rows each has.
        estimate: what its own rows say, given all but the effects of this group; NaN where they can't.
        error: the standard error of that.
        mean: of the posterior.
        population: the mean of the prior, averaged over groups.
    """

    plate: str
    labels: pd.Index
    rows: np.ndarray
    estimate: np.ndarray
    error: np.ndarray
    mean: np.ndarray
    population: float


@dataclass(frozen=True)
class Glance:
    """What `glance` found.

    Attributes:
        pooling: level of effects ("alpha", "effects[SES]") -> pooling factor lambda, 0 none to 1 complete.
        variance: plate, or "rows" -> posterior median of its variance of y on the scale of the link.
        share: the same -> its share of their sum, mean over draws.
        alone: effect ("alpha", "effects[SES]") -> each group by itself and in the posterior, if it was asked for.
        scale_of: level of effects -> the latent that is its scale ("sigma_alpha", "sigma_beta[SES]").
        notes: sentences on what was left out, and why.
    """

    pooling: dict[str, float] = field(default_factory=dict)
    variance: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    alone: dict[str, Alone] = field(default_factory=dict)
    scale_of: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def glance(posterior: Fit, draws: int = 200, *, alone: bool = False) -> Glance:
    """Pooling of a posterior from some of its draws, see `Glance`.

    What a model can't give is left out and noted.

    Args:
        posterior: knows its model and data; it need not hold all latents.
        draws: at most so many of all chains together, evenly spaced.
        alone: also what each group's own rows say, which takes some passes over all rows.

    Raises:
        DataError: if the posterior does not know its model and data, or `draws` is no whole number from 1.
    """
    return Glances(posterior).at(posterior, draws, alone=alone)


class Glances:
    """`glance` again and again in a run: what does not change in it is found once.

    Args:
        posterior: the first one; those that follow are of the same model and data.

    Raises:
        DataError: if the posterior does not know its model and data.
    """

    def __init__(self, posterior: Fit) -> None:
        fitted = posterior.fitted
        self.model, self.data = fitted.model, fitted.data
        self._first: dict[str, Tensor] = {}  # draws, once there are any

    def at(self, posterior: Fit, draws: int = 200, *, alone: bool = False) -> Glance:
        """See `glance`."""
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise DataError(f"draws= is a whole number from 1, found {draws!r}.")
        name = type(self.model).__name__
        if overrides(self.model, "log_prob"):
            return Glance(notes=(f"Pooling was left out: {name} writes log_prob itself, so that no levels are known.",))
        if any(x is not None and x.ndim > 1 for x in (self.data.y, self.data.weights)):
            return Glance(notes=("Pooling was left out: each chain was fitted to data of its own.",))
        if not posterior.n_draws:
            return Glance(notes=("Pooling was left out: there are no draws yet.",))
        values, notes = _thinned(posterior, draws), list[str]()
        if overrides(self.model, "log_prior_term"):
            return Glance(notes=(f"Pooling was left out: {name} writes log_prior_term itself.",))
        self._first = self._first or {name: x[:EXAMPLES] for name, x in values.items()}
        with torch.no_grad(), validation(False):
            pooling = self._pooling(values, notes)
            found = self._shares(values, notes)
            return Glance(
                pooling=pooling,
                variance={level: float(variance.median()) for level, (variance, _) in found.items()},
                share={level: float(share.mean()) for level, (_, share) in found.items()},
                alone=self._alone(values, notes) if alone else {},
                scale_of=dict(self._scales),
                notes=tuple(notes),
            )

    @cached_property
    def _reads(self) -> Reads:
        """What priors read, and examples of values and priors: of draws, since a prior that is drawn from takes random
        numbers. Effects that were not stored are at the mean of their prior.
        """
        values, order = dict(self._first), tuple(self.model.latents)
        priors: dict[str, frozenset[str]] = {}
        distributions: dict[str, Any] = {}
        with torch.no_grad(), validation(False):
            for name, latent in self.model.latents.items():
                read = set[str]()
                try:
                    prior = self.model.prior(name, Values(values, order, read), self.data)
                    if name not in values:
                        size = 1 if latent.plate is None else self.data.size(latent.plate)
                        number = len(next(iter(values.values())))
                        values[name] = prior_mean(prior).expand(number, size, *prior.event_shape)
                except FAILURES:
                    continue
                priors[name], distributions[name] = frozenset(read), prior
        return Reads(priors, frozenset(), frozenset(), values, distributions, None, None)

    @cached_property
    def _scales(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self._reads.distributions:
            try:
                found |= scale_of(self.model, self.data, name, self._reads)
            except FAILURES:  # no spread is known
                continue
        return found

    @cached_property
    def _effects(self) -> dict[str, list[str]]:
        """Plate -> its effects that are like normal ones."""
        return effects_of(self.model, self._reads.distributions)

    @cached_property
    def _untold(self) -> dict[str, str]:
        """Plate -> why its groups have no estimates of their own, if so."""
        found: dict[str, str] = {}
        example = {name: x[:1] for name, x in self._reads.values.items()}
        for plate in self._effects:
            try:
                why = untold(self.model, self.data, example, self._effects, plate)
            except FAILURES as error:
                why = _why(error)
            found |= {} if why is None else {plate: why}
        return found

    def _pooling(self, values: Mapping[str, Tensor], notes: list[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, latent in self.model.latents.items():
            if latent.plate is None:
                continue
            if why := self._unlevelled(name, values):
                notes.append(f"The pooling factor of {name} was left out: {why}.")
                continue
            try:
                lines = level_lines(self.model, self.data, values, [name])
            except FAILURES as error:
                notes.append(f"The pooling factor of {name} was left out: {_why(error)}.")
                continue
            for level, line in lines.items():
                if math.isfinite(line.pooling):
                    found[level] = line.pooling
                else:
                    notes.append(f"The pooling factor of {level} was left out: its draws do not vary.")
        return found

    def _unlevelled(self, name: str, values: Mapping[str, Tensor]) -> str | None:
        """Why there is no V over units."""
        latent, needed = self.model.latents[name], {name, *self._reads.priors.get(name, ())}
        if missing := [key for key in self.model.latents if key in needed and key not in values]:
            return f"the draws of {', '.join(missing)} are not stored"
        if values[name][0].numel() < 2 or (latent.labels_of is None and values[name].shape[1] < 2):
            return "there is one group"
        return None

    def _shares(self, values: Mapping[str, Tensor], notes: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Plates, and rows -> variance and share of each draw."""
        population = [name for name, latent in self.model.latents.items() if latent.plate is None]
        found: Any = ""
        if missing := [name for name in population if name not in values]:
            found = f"the draws of {', '.join(missing)} are not stored"
        else:
            single = {plate: names for plate, names in self._effects.items() if self._untold.get(plate) != COUPLED}
            try:
                given = {name: values[name] for name in population}
                found = parted(self.model, self.data, given, single, self._reads.priors)
            except FAILURES as error:
                found = _why(error)
        if isinstance(found, str):
            notes.append(f"Shares of variance were left out: {found.rstrip('.')}.")
            return {}
        return shares(found)

    def _alone(self, values: Mapping[str, Tensor], notes: list[str]) -> dict[str, Alone]:
        found: dict[str, Alone] = {}
        if missing := [name for name in self.model.latents if name not in values]:
            notes.append(f"Groups by themselves were left out: the draws of {', '.join(missing)} are not stored.")
            return found
        centre = {name: x.mean(0, keepdim=True) for name, x in values.items()}
        for plate, names in self._effects.items():
            if why := self._untold.get(plate):
                notes.append(f"Groups of {plate} by themselves were left out: {why}.")
                continue
            try:
                estimates = no_pooling(self.model, self.data, centre, self._effects, plate, STEPS)
            except FAILURES as error:
                notes.append(f"Groups of {plate} by themselves were left out: {_why(error)}.")
                continue
            for name in names:
                found |= self._each(name, centre, *estimates[name])
        return found

    def _each(self, name: str, centre: Mapping[str, Tensor], estimate: Tensor, error: Tensor) -> dict[str, Alone]:
        """The entries of an effect."""
        plate, mean = str(self.model.latents[name].plate), centre[name][0]  # (groups, *event)
        prior = prior_mean(self.model.prior(name, Values(centre, tuple(self.model.latents)), self.data))
        population = prior.expand(centre[name].shape)[0]
        parts = [x.reshape(len(mean), -1).cpu().numpy() for x in (estimate, error, mean, population)]
        labels, rows = self.data.labels[plate], self.data.counts(plate).cpu().numpy()
        found = {}
        for k, entry in enumerate(entries_of(self.model, self.data, name, mean.shape[1:])):
            own, se, together, around = (x[:, k] for x in parts)
            found[entry] = Alone(plate, labels, rows, own, se, together, float(around.mean()))
        return found


def _why(error: Exception) -> str:
    """What went wrong, within a sentence."""
    if isinstance(error, NotImplementedError):
        return "a mean or variance of its prior is not known"
    return f"{error}".strip().rstrip(".") or type(error).__name__


def _thinned(posterior: Fit, draws: int) -> dict[str, Tensor]:
    """At most so many draws of all chains together, evenly spaced: those of latents, `(draws, size, *event)`."""
    fitted = posterior.fitted
    chains, number = posterior.chains, posterior.n_draws
    kept = min(draws, chains * number)
    at = torch.arange(kept) * (chains * number) // kept
    held = {name: x for name, x in posterior.more.items() if x.shape[:2] == (chains, number)} | posterior.draws
    return {
        name: held[name][at.to(held[name].device) // number, at.to(held[name].device) % number]
        for name in fitted.model.latents
        if name in held
    }
