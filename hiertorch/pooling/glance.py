"""What a live view shows of pooling while a run goes on: from some of its draws, within milliseconds.

What `hiertorch.pooling.factors` finds from all draws, without the level of the rows and B_j. With S independent draws
its lambda is too small by some lambda / S.

Note [Beside a run]
    This is called from another thread than the one that samples: it draws no random numbers and leaves torch's settings
    as they are. Gradients are recorded, and arguments of distributions checked, for each thread by itself
    (`hiertorch.runtime.validating`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.advice.findings import BROKEN
from hiertorch.draws.fit import Fit
from hiertorch.model.declared import overrides
from hiertorch.model.latent import Values
from hiertorch.model.reads import Reads
from hiertorch.pooling.boundaries import scale_of
from hiertorch.pooling.information import Effects, prior_mean
from hiertorch.pooling.levels import Level, by_group, levels_of_effect
from hiertorch.pooling.shrinkage import COUPLED, no_pooling, untold
from hiertorch.pooling.variance import partition, shares
from hiertorch.runtime.validating import validation

EXAMPLES = 2
"""Draws that show what reads what."""

FAILURES = (*BROKEN, AttributeError)
"""What a prior or likelihood may raise, of a model that can't give what is asked for."""

STEPS = 15
"""Of scoring for the estimates of groups by themselves: in the data of `configs/` all that are finite had settled."""

T = TypeVar("T")
"""What is made, or left out."""


@dataclass(frozen=True)
class Glance:
    """What a glance found, by level of effects ("alpha", "effects[SES]") or by plate and "rows"; what a model can't
    give is left out.

    If it was asked for, `alone` has each group by itself and in the posterior, one row a group: `plate`, `rows` (n_j),
    `no_pooling` (what its own rows say, given all but the effects of this group; NaN where they can't) and `se`, `mean`
    of the posterior, and `population`, the mean of its prior.
    """

    pooling: dict[str, float] = field(default_factory=dict)  # level -> pooling factor lambda, 0 none to 1 complete
    variance: dict[str, float] = field(default_factory=dict)  # plate -> median of its variance of y, scale of the link
    share: dict[str, float] = field(default_factory=dict)  # plate -> its share of their sum, mean over draws
    alone: dict[str, pd.DataFrame] = field(default_factory=dict)  # level -> its groups
    scale_of: dict[str, str] = field(default_factory=dict)  # level -> the latent that is its scale ("sigma_alpha")


class Glances:
    """A glance again and again in a run, at posteriors of one model and data: what does not change in it is found once.

    Raises:
        DataError: if the posterior does not know its model and data.
    """

    def __init__(self, posterior: Fit) -> None:
        fitted = posterior.fitted
        self.model, self.data = fitted.model, fitted.data
        self._first: dict[str, Tensor] = {}  # draws, once there are any

    def at(self, posterior: Fit, draws: int = 200, *, alone: bool = False) -> Glance:
        """Pooling of a posterior from some of its draws, which need not be those of all latents: at most so many of all
        chains together, evenly spaced. What each group's own rows say ("alone") takes some passes over all rows.
        """
        own = any(overrides(self.model, method) for method in ("log_prob", "log_prior_term"))  # no levels are known
        if own or self.data.by_chain or not posterior.n_draws:
            return Glance()
        values = self._thinned(posterior, draws)
        self._first = self._first or {name: x[:EXAMPLES] for name, x in values.items()}
        with torch.no_grad(), validation(False):
            found = _given(self._shares, values)
            return Glance(
                pooling=self._pooling(values),
                variance={level: float(variance.median()) for level, (variance, _) in found.items()},
                share={level: float(share.mean()) for level, (_, share) in found.items()},
                alone=self._alone(values) if alone else {},
                scale_of=dict(self._scales),
            )

    def _thinned(self, posterior: Fit, draws: int) -> dict[str, Tensor]:
        """Draws of the latents that are at hand, `(draws, size, *event)`."""
        chains, number = posterior.chains, posterior.n_draws
        kept = min(draws, chains * number)
        at = torch.arange(kept) * (chains * number) // kept
        held = {name: x for name, x in posterior.more.items() if x.shape[:2] == (chains, number)} | posterior.draws
        some = {name: (held[name], at.to(held[name].device)) for name in self.model.latents if name in held}
        return {name: x[i // number, i % number] for name, (x, i) in some.items()}

    @cached_property
    def _reads(self) -> Reads:
        """What priors read, and examples of values and priors: of draws, since a prior that is drawn from takes random
        numbers. Effects that were not stored are at the mean of their prior.
        """
        values, order = dict(self._first), tuple(self.model.latents)
        priors: dict[str, frozenset[str]] = {}
        distributions: dict[str, Distribution] = {}
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
        for name in self._reads.distributions:  # of some no spread is known
            found |= _given(scale_of, self.model, self.data, name, self._reads)
        return found

    @cached_property
    def _effects(self) -> Effects:
        """Those that are like normal ones."""
        return Effects.found(self.model, self.data, self._reads.distributions)

    @cached_property
    def _untold(self) -> dict[str, str | None]:
        """Plate -> why its groups have no estimates of their own, or None."""
        example = {name: x[:1] for name, x in self._reads.values.items()}
        found: dict[str, str | None] = {}
        for plate in self._effects.names:
            try:
                found[plate] = untold(self._effects, example, plate)
            except FAILURES as error:
                found[plate] = str(error)
        return found

    def _pooling(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        levels: dict[str, Level] = {}
        for name in [name for name, latent in self.model.latents.items() if latent.plate is not None]:
            levels |= _given(self._levels, name, values)
        return {level: line.pooling for level, line in levels.items() if math.isfinite(line.pooling)}

    def _levels(self, name: str, values: Mapping[str, Tensor]) -> dict[str, Level]:
        """Those of an effect, if there are draws of all that its prior reads, and more groups than one."""
        path, needed = self.model.latents[name].labels_of is not None, {name, *self._reads.priors.get(name, ())}
        if not needed <= values.keys() or values[name][0].numel() < 2 or (values[name].shape[1] < 2 and not path):
            return {}
        return levels_of_effect(self.model, self.data, values, name)

    def _shares(self, values: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Plates, and rows -> variance and share of each draw."""
        given = {name: values[name] for name, latent in self.model.latents.items() if latent.plate is None}
        names = {plate: names for plate, names in self._effects.names.items() if self._untold[plate] != COUPLED}
        return shares(partition(Effects(self.model, self.data, names), given, self._reads.priors))

    def _alone(self, values: Mapping[str, Tensor]) -> dict[str, pd.DataFrame]:
        """Level -> each group, if there are draws of all latents."""
        found: dict[str, pd.DataFrame] = {}
        if values.keys() == self.model.latents.keys():
            centre = {name: x.mean(0, keepdim=True) for name, x in values.items()}
            for plate in (plate for plate, why in self._untold.items() if why is None):
                found |= _given(self._of_plate, plate, centre)
        return found

    def _of_plate(self, plate: str, centre: Mapping[str, Tensor]) -> dict[str, pd.DataFrame]:
        """The same of one grouping, given the means of all latents, `(1, size, *event)`."""
        found: dict[str, pd.DataFrame] = {}
        for name, (estimate, error) in no_pooling(self._effects, centre, plate, STEPS).items():
            mean, prior = centre[name][0], self.model.prior(name, self.model.values(centre), self.data)
            population = prior_mean(prior).expand(centre[name].shape)[0]
            columns = {"no_pooling": estimate, "se": error, "mean": mean, "population": population}
            found |= by_group(self.model, self.data, name, columns)
        return found


def _given(make: Callable[..., dict[str, T]], *given: object) -> dict[str, T]:
    """What is made; nothing, of a model that can't give it."""
    try:
        return make(*given)
    except FAILURES:
        return {}
