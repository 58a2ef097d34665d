"""A grid of prior scales: what the answer would be with a prior half or twice as wide.

For each scale f, the prior of one latent theta is that of m + f (theta - m), with m the location of a prior on the
whole line and 0 for a prior on positive numbers; all other priors stay.

Note [One batch]
    Chain c has scale c mod S of the S scales, and the prior's parameters a chain axis `(chains, 1)`: one run serves all
    scales, tuned together. Weights with a chain axis tell every check how many chains there are. Where effects are
    integrated out, scales are like data sets of their own (`hiertorch.gaussian.several`).

docs/decisions.md: A prior grid is a latent whose priors take turns.
"""

import copy
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch import distributions as d
from torch.distributions import Distribution

from hiertorch import wording
from hiertorch.arguments import check_count, is_number, names_of
from hiertorch.data.table import Data
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.errors import DataError, ModelError
from hiertorch.model.copies import cast
from hiertorch.model.declared import overrides
from hiertorch.model.distributions import HalfStudentT
from hiertorch.model.latent import Latent, Values, chains_of
from hiertorch.model.model import Model
from hiertorch.model.reads import watched
from hiertorch.posterior import Posterior
from hiertorch.run.ending import uninterrupted
from hiertorch.run.options import check_handed_on
from hiertorch.runtime.surroundings import at_home
from hiertorch.sampling import sample

CHAINS = 16
"""Of each scale, unless more are asked for."""

SENSITIVE = 0.25
"""Posterior sds by which a mean may move, before it is said to depend on the prior: an 89 % interval, which is 3.2 sds
long, moves by a thirteenth of its length.
"""

WIDTHS = (d.Normal, d.Laplace, d.Cauchy, d.StudentT, d.Gumbel, d.HalfNormal, d.HalfCauchy, d.Weibull, HalfStudentT)
RATES = (d.Gamma, d.Exponential)


@dataclass(frozen=True)
class PriorGrid:
    """The same model with wider and narrower priors of one latent.

    Attributes:
        latent: whose prior it is.
        table: one row a parameter and scale: mean, sd, mcse_mean, r_hat, and the `shift` of the mean from that at scale
            1, in units of the sd there (NaN without scale 1).
        posteriors: scale -> `Posterior`.
        sentence: what to make of it.
    """

    latent: str
    table: pd.DataFrame
    posteriors: dict[float, Posterior]
    sentence: str

    def __repr__(self) -> str:
        shown = self.table.to_string(float_format=lambda x: f"{x:.4g}", line_width=118)
        return f"Scales of the prior of {self.latent}:\n{shown}\n{textwrap.fill(self.sentence, 118)}"


@at_home
def prior_grid(
    model: Model,
    data: Data,
    latent: str,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    *,
    names: Sequence[str] | None = None,
    chains: int = CHAINS,
    **settings: Any,
) -> PriorGrid:
    """Fits a model with several scales of one latent's prior; see Note [One batch].

    Args:
        model: as for `ht.sample`.
        data: likewise, a response and weights of shape `(rows,)`.
        latent: whose prior is scaled; it may not read other latents.
        scales: factors of its width; 1 is the prior as it is.
        names: latents in the table; None takes those of the population level.
        chains: of each scale.
        settings: of `ht.sample`.

    Raises:
        ModelError: if there is no such latent, its prior reads others, or has no width to scale.
        DataError: for scales that aren't positive, and data that differ by chain.
        SamplingError: for settings that can't work; an InterruptedRunError if the run was stopped.
    """
    check_handed_on(settings, {})
    factors = _checked(model, data, latent, scales)
    check_count("chains", chains)
    wanted = None if names is None else names_of("names", names)
    given = torch.ones_like(data.y) if data.weights is None else data.weights
    total = chains * len(factors)
    every = sample(
        _with(model, latent, factors),
        data.replace(weights=given.expand(total, -1)),
        **{"progress": False, **settings, "chains": total},
    )
    uninterrupted(every, "the run of the prior grid")
    posteriors = {
        factor: _in_turn(every, _with(model, latent, [factor]), data, slice(k, None, len(factors)))
        for k, factor in enumerate(factors)
    }
    first = posteriors[factors[0]]
    chosen = [name for name in first.names if first.plates[name] is None] if wanted is None else wanted
    table = _table(posteriors, chosen)
    return PriorGrid(latent, table, posteriors, _sentence(latent, table))


def _checked(model: Model, data: Data, latent: str, scales: Sequence[float]) -> list[float]:
    """The scales, each once."""
    if not isinstance(model, Model) or not isinstance(data, Data):
        raise DataError(
            f"prior_grid takes a model and data, an ht.Model and ht.Data; found {type(model).__name__} and "
            f"{type(data).__name__}."
        )
    if latent not in model.latents:
        hint = wording.closest(latent, model.latents)
        raise ModelError(f"the model has no latent {latent!r}; it has {wording.listed(model.latents)}.{hint}")
    listed = isinstance(scales, Iterable) and not isinstance(scales, str)
    if not listed or not len(scales) or not all(is_number(x) and 0 < x < math.inf for x in scales):
        raise DataError(f"scales= is a list of positive numbers, factors of the prior's width; found {scales!r}.")
    if len(set(map(float, scales))) < len(scales):
        raise DataError(f"scales= has a scale twice: {list(scales)}.")
    if data.by_chain:
        raise DataError(
            "prior_grid gives each chain a prior, and these data differ by chain: give rows that all share."
        )
    reads = watched(model, data, torch.Generator(data.device).manual_seed(0), rows=data.rows(0, 1), prior_only=True)
    for method in ("log_prob", "log_prior_term"):
        if overrides(model, method):
            raise ModelError(
                f"prior_grid scales the prior that {latent!r} declares, and {type(model).__name__} overrides {method}, "
                "which need not use it: declare the whole prior, or fit models with other priors and compare them."
            )
    if parents := sorted(reads.priors[latent]):
        raise ModelError(
            f"the prior of {latent!r} reads {wording.listed(parents)}, and its width is learnt: scale the prior of one "
            "that reads no other."
        )
    _scaled(latent, reads.distributions[latent], torch.ones(1, dtype=data.dtype, device=data.device))
    return [float(x) for x in scales]


def _scaled(name: str, prior: Distribution, factor: Tensor) -> Distribution:
    """The distribution of m + f (theta - m), factors f as a tensor that broadcasts with its batch shape."""
    kind = type(prior)
    if isinstance(prior, d.Independent):
        more = factor.reshape(*factor.shape, *(1,) * prior.reinterpreted_batch_ndims)
        return d.Independent(_scaled(name, prior.base_dist, more), prior.reinterpreted_batch_ndims)
    values = {key: x for key in prior.arg_constraints if (x := prior.__dict__.get(key)) is not None}
    if isinstance(prior, d.LogNormal):
        return d.LogNormal(prior.loc + factor.log(), prior.scale)
    if isinstance(prior, d.InverseGamma):
        return d.InverseGamma(prior.concentration, prior.rate * factor)
    if isinstance(prior, d.MultivariateNormal):
        return d.MultivariateNormal(prior.loc, scale_tril=prior.scale_tril * factor[..., None, None])
    if kind in RATES:
        return kind(**{**values, "rate": values["rate"] / factor})
    if isinstance(prior, d.HalfNormal | d.HalfCauchy):
        return type(prior)(prior.scale * factor)
    if kind in WIDTHS:
        return kind(**{**values, "scale": values["scale"] * factor})
    raise ModelError(
        f"the prior of {name!r}, {kind.__name__}, has no width that could be scaled: prior_grid knows priors on the "
        "whole line and on positive numbers, such as Normal, StudentT, Gamma and HalfNormal. Fit models with other "
        "priors, and compare them."
    )


class _Widened(Latent):
    """A latent the width of whose prior is multiplied by factors that chains take in turn."""

    def __init__(self, name: str, old: Latent, factors: Sequence[float]) -> None:
        self.name, self.old, self.factors = name, old, torch.tensor(factors, dtype=torch.float64)
        super().__init__(self._prior, old.plate, event=old.event, labels=old.labels_of or old.labels)
        self.turns = len(factors)

    def _prior(self, v: Values, data: Data) -> Distribution:
        base = self.old.made(v, data)
        if base is self.old.prior:
            base = cast(base, data.device, data.dtype)
        at = torch.arange(chains_of(v), device=self.factors.device) % self.turns
        return _scaled(self.name, base, self.factors[at].to(data.device, data.dtype).unsqueeze(1))


def _with(model: Model, name: str, factors: Sequence[float]) -> Model:
    """The model with a prior of another width, or with several that chains take in turn."""
    new = copy.deepcopy(model)
    setattr(new, name, _Widened(name, model.latents[name], factors))
    return new


def _in_turn(every: Posterior, model: Model, data: Data, chains: slice) -> Posterior:
    """The chains of one scale."""
    one = every.taken(chains)
    one.stats = Stats({}, {}, one.stats.log_density, {})
    one.origin = Fitted(model, data, next(iter(one.draws.values())))
    return one


def _table(posteriors: Mapping[float, Posterior], names: Sequence[str]) -> pd.DataFrame:
    """One row a parameter and scale."""
    found = {}
    for scale, posterior in posteriors.items():
        table = posterior.summary(names)
        found[scale] = table[table["sd"] > 0][["mean", "sd", "mcse_mean", "r_hat"]]
    every = pd.concat(found, names=["scale", "parameter"]).swaplevel()
    parameter = every.index.get_level_values("parameter")
    base = found.get(1.0, pd.DataFrame(columns=every.columns, dtype=float)).reindex(parameter)
    every["shift"] = (every["mean"].to_numpy() - base["mean"].to_numpy()) / base["sd"].to_numpy()
    return every.loc[[(name, scale) for name in parameter.unique() for scale in found if (name, scale) in every.index]]


def _sentence(latent: str, table: pd.DataFrame) -> str:
    parameter, scale = table.index.get_level_values("parameter"), table.index.get_level_values("scale")
    if table["shift"].isna().all():
        return "Without scale 1 among scales= there is nothing to hold the others against."
    shift = table["shift"].abs().to_numpy()
    least, most = min(scale), max(scale)
    at = int(shift.argmax())
    widths = f"with the prior of {latent} from {least:g} to {most:g} times as wide"
    moved = f"{parameter[at]}, by {shift[at]:.2f} posterior sds at scale {scale[at]:g}"
    if shift[at] < SENSITIVE:
        looked = wording.listed(dict.fromkeys(parameter))
        return (
            f"No mean moves by {SENSITIVE} posterior sds or more {widths}; most moves that of {moved}. Looked at: "
            f"{looked}."
        )
    others = dict.fromkeys(name for name, x in zip(parameter, shift, strict=True) if x >= SENSITIVE)
    return (
        f"The answer depends on this prior: {widths}, {len(others)} of {len(set(parameter))} means move by {SENSITIVE} "
        f"posterior sds or more, most that of {moved}. Say why the prior is as wide as it is."
    )
