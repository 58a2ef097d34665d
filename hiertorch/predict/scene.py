"""New rows and the values of the latents there: those stored of known groups, and draws from the population for new."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.newrows import FrameRows, NewRows, appended, shown
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError, ModelError
from hiertorch.model.copies import repaired
from hiertorch.model.counting import draw
from hiertorch.model.declared import overrides, refuse_own_likelihood, refuse_own_priors
from hiertorch.model.latent import Values
from hiertorch.model.means import expected
from hiertorch.model.rowchecks import refuse_fixed, refuse_shares
from hiertorch.predict import categories
from hiertorch.randomness import seeded
from hiertorch.runtime.rooms import let_go

Found = TypeVar("Found")

NUMBERS = 1_000_000
"""Draws x (rows + effects) that are computed with at once."""

CLOSE = 1e-4

LOOKED_AT = 1000
"""Fitted rows at which an overridden `log_likelihood` is held against the declared likelihood."""


class Held(dict[str, Tensor]):
    """Values of the latents that a posterior holds."""

    def __missing__(self, name: str) -> Tensor:
        raise DataError(
            f"the draws of {name!r} are needed, and the posterior does not hold them: name it in keep= of ht.sample."
        )


class Setting:
    """New rows as the model reads them, with the latents that they need.

    Args:
        fitted: model and data.
        posterior: the draws.
        read: the new rows.
        y: their response `(rows,)`, if it is known.

    Attributes:
        rows: the new rows.
        new: plate -> labels of its new groups, in the order of their codes, which stand behind those of known groups.

    Raises:
        DataError: for rows that can't be read, contradict the fitted data, or have a new label where there can be none.
        ModelError: for a model that can't be read with other groups.
    """

    def __init__(self, fitted: Fitted, posterior: Fit, read: FrameRows, y: Tensor | None = None) -> None:
        self.fitted, self.posterior = fitted, posterior
        data, labels = fitted.data, read.labels
        found = {plate: data.labels[plate].get_indexer(rows) for plate, rows in labels.items()}
        fresh = {plate: rows[found[plate] < 0].unique() for plate, rows in labels.items()}
        self.across = fitted.across
        heads = self._heads(found)
        self.codes: dict[str, Tensor] = {}  # plate -> codes of its known groups in the data that were fitted
        codes, every = {}, {}
        for plate, rows in labels.items():
            known = data.labels[plate]
            axis, at = fitted.is_axis(plate), found[plate]
            before = data.whole_codes[plate][heads]
            kept = np.arange(len(known)) if axis or self.across else np.unique(np.concatenate([before, at[at >= 0]]))
            if len(fresh[plate]):
                self._check_fresh(plate, fresh[plate], axis=axis)
            place = np.full(len(known), -1)
            place[kept] = np.arange(len(kept))
            behind = len(kept) + fresh[plate].get_indexer(rows)
            codes[plate] = np.concatenate([place[before], np.where(at >= 0, place[at], behind)])
            every[plate] = appended(known[kept], fresh[plate])
            self.codes[plate] = torch.from_numpy(kept).to(data.device)
        self.new = {plate: index for plate, index in fresh.items() if len(index) and fitted.varies(plate)}
        y = data.y.new_zeros(len(read.index)) if y is None else y
        self.whole = NewRows.behind(data, heads, read, y, codes, every)
        self.rows = self.whole.rows(len(heads), len(heads) + len(y))
        fitted.model.check_columns(self.rows)
        self._check_model(heads)

    def _heads(self, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows of the fitted data in which each known group occurs."""
        parts = [np.zeros(0, np.int64)]
        if not self.fitted.has_rows:
            return parts[0]
        for plate, at in found.items():
            if self.across or self.fitted.is_axis(plate):
                parts.append(self.fitted.first(plate))
            elif self.fitted.varies(plate):
                parts.append(self.fitted.first(plate)[np.unique(at[at >= 0])])
        rows = np.unique(np.concatenate(parts))
        return rows[rows >= 0]

    def _check_fresh(self, plate: str, fresh: pd.Index, *, axis: bool) -> None:
        """That a grouping can have new labels, which have the codes of other groups in another grouping."""
        if axis:
            raise DataError(
                f"grouping {plate!r} has new labels {shown(fresh)}: the model has no population from which they could "
                f"be drawn. Give them at the fit, in labels={{{plate!r}: [...]}} of the data, or leave their rows out."
            )
        for other in sorted(self.across - {plate}):
            raise DataError(
                f"grouping {plate!r} has new labels {shown(fresh)}, and the model reads effects of {other!r} through "
                "the codes of other groupings, where a new label stands for another group: give them at the fit, in "
                f"labels={{{plate!r}: [...], {other!r}: [...]}} of the data, or leave their rows out."
            )

    def _check_model(self, heads: np.ndarray) -> None:
        """See Note [Groups of new rows]."""
        model, data = self.fitted.model, self.fitted.data
        if not self.fitted.has_rows:
            return self._check_rows()
        full = {name: x[:2] for name, x in self.fitted.reads.values.items()}
        known = {name: x if self.plate(name) is None else self._few(name, x) for name, x in full.items()}
        with seeded(torch.Generator(data.device).manual_seed(0), data.device):
            v = self._complete(known, 2)
        names = [name for name in known if self.plate(name) is not None]
        before = {name: self._few(name, model.log_prior_term(name, model.values(full), data)) for name in names}
        terms = self._facts(lambda: {name: model.log_prior_term(name, v, self.whole) for name in names})
        wrong = [name for name in names if not close(before[name], terms[name][:, : before[name].shape[1]])]
        what = f"the prior of {wrong[0]!r}" if wrong else "the likelihood"
        if len(heads) and not wrong:
            taken = data.whole_data.take(torch.from_numpy(heads)).to(data.device, data.dtype)
            fitted_rows = self.whole.rows(0, len(heads))
            one = model.log_likelihood(model.values(full), taken.replace(y=fitted_rows.y))
            wrong = [] if close(one, model.log_likelihood(v, fitted_rows)) else ["likelihood"]
        if wrong:
            raise ModelError(
                f"{what} of {type(model).__name__} is another one for the same groups and rows when other groups stand "
                "beside them, as if it held facts about groups in the order of their codes, or of all rows; make them "
                "a column, read by data.group_values(column, plate)."
            )
        self._check_rows(v)

    def _check_rows(self, v: Values | None = None) -> None:
        """That the likelihood of the new rows varies with the latents; at two draws, if no values are given."""
        model, device = self.fitted.model, self.fitted.data.device
        if v is None:
            last = self.posterior.chains * self.posterior.n_draws - 1
            with seeded(torch.Generator(device).manual_seed(0), device):
                v = model.values(self.values(torch.tensor([0, last], device=device)))
        if not overrides(model, "log_likelihood"):
            refuse_fixed(model.likelihood(v, self.rows), (2, self.rows.n_rows), self.rows.row_text)

    def plate(self, name: str) -> str | None:
        """The plate of a latent."""
        return self.fitted.model.latents[name].plate

    def before(self, name: str) -> int:
        """The number of known groups of a latent, behind which new ones stand."""
        plate = self.plate(name)
        return 0 if plate is None else len(self.codes[plate])

    def _few(self, name: str, x: Tensor) -> Tensor:
        """The known groups of `(n, groups, *event)`."""
        return x[:, self.codes[str(self.plate(name))]]

    @cached_property
    def redrawn(self) -> dict[str, Tensor]:
        """Effects of known groups that are drawn again, name -> `(chains, draws, groups, *event)`; together, so that
        also stored ones are drawn again if others have to be.
        """
        effects = self.posterior.unstored
        if effects is None:
            return {}
        names = [name for name in effects.names if len(self.codes[str(self.plate(name))])]
        if all(name in self.posterior.draws for name in names):
            return {}
        return effects.draws(names, {str(self.plate(name)): self.codes[str(self.plate(name))] for name in names})

    def values(
        self, at: Tensor, *, population: bool = False, given: Mapping[str, Tensor] | None = None
    ) -> Mapping[str, Tensor]:
        """Latents of the draws `at` (all chains' draws in one row), `(n, size, *event)`, those of new groups drawn
        anew, or the mean of their prior, or `given`, name -> `(n, new groups, *event)`.
        """
        chain, draw = at // self.posterior.n_draws, at % self.posterior.n_draws
        known, held = {}, {**self.posterior.more, **self.posterior.draws}
        for name in self.fitted.model.latents:
            plate = self.plate(name)
            if plate is not None and name in self.redrawn:
                known[name] = self.redrawn[name][chain, draw]
            elif plate is not None and name in self.posterior.draws:
                known[name] = self.posterior.draws[name][chain[:, None], draw[:, None], self.codes[plate]]
            elif plate is None and name in held:
                known[name] = held[name][chain, draw]
        v = self._complete(known, len(at), population=population, given=given or {})
        fresh = [name for name in self.fitted.model.latents if self.plate(name) in self.new and name in v]
        if fresh and not given:
            refuse_own_priors(self.fitted.model, v, self.whole, "the effects of new groups", fresh)
        return v

    def _complete(
        self,
        known: Mapping[str, Tensor],
        number: int,
        *,
        population: bool = False,
        given: Mapping[str, Tensor] | None = None,
    ) -> Values:
        """Values of known groups, with those of new groups behind them."""
        model, held = self.fitted.model, Held()
        for name, latent in model.latents.items():
            plate, before = latent.plate, self.before(name)
            new = 0 if plate is None else self.whole.size(plate) - before
            if name not in known and (before or plate is None):
                continue  # `Held` says so if it is read
            parts = [known[name]] if before or plate is None else []
            if new and given and name in given:
                parts.append(given[name])
            elif new:
                v = Values(held, tuple(model.latents))
                prior = self._facts(model.prior, name, v, self.whole)
                parts.append(_mean(name, prior, number, before, new) if population else _drawn(prior, number, new))
            held[name] = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return Values(held, tuple(model.latents))

    def _facts(self, function: Callable[..., Found], *arguments: object) -> Found:
        """What a function gives; if a prior found rows that contradict one another, that is what is wrong."""
        try:
            return function(*arguments)
        except ModelError as error:
            if isinstance(error.__cause__, DataError):
                raise error.__cause__ from None
            raise

    def predicted(
        self,
        at: Tensor,
        kind: str,
        generator: torch.Generator,
        *,
        population: bool = False,
        given: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """E[y | latents] or simulated y of the draws `at`, `(n, rows)`; or probabilities, `(n, rows, categories)`."""
        model, rows, fitted = self.fitted.model, self.rows, self.fitted
        if kind == "response" and overrides(model, "log_likelihood") and not overrides(model, "simulate"):
            if not fitted.has_rows:
                raise DataError(
                    f"{type(model).__name__} writes log_likelihood itself, and whether it is that of the likelihood "
                    "from which responses are drawn is looked up in the fitted rows, which the file does not have: "
                    "write simulate(self, v, data, generator), or save with data=True."
                )
            some = fitted.data.rows(0, min(fitted.data.n_rows, LOOKED_AT))
            refuse_own_likelihood(model, fitted.reads.values, some, "simulated responses")
        found = rows.y.new_empty(len(at), rows.n_rows, *categories.event(fitted, kind))
        for part in torch.arange(len(at), device=at.device).split(self.per()):
            with seeded(generator, rows.device):
                own = {name: x[part] for name, x in (given or {}).items()}
                v = self.values(at[part], population=population, given=own)
                y = model.likelihood(model.values(v), rows)
                refuse_shares(y, (len(part), rows.n_rows), rows.row_text, "the draws")
                if kind == "mean":
                    found[part] = expected(y).to(found.dtype).expand(len(part), rows.n_rows)
                elif kind == "probability":
                    found[part] = categories.probabilities(y).to(found.dtype).expand(len(part), rows.n_rows, -1)
                elif overrides(model, "simulate"):
                    found[part] = model.simulate(v, rows, generator)
                else:
                    found[part] = draw(y.expand(torch.Size((len(part), rows.n_rows)))).to(found.dtype)
            for x in self.posterior.draws.values():
                let_go(x)
        return found

    def per(self) -> int:
        """Draws to compute with at once."""
        names = [name for name in self.fitted.model.latents if self.plate(name) is not None]
        groups = sum(self.whole.size(str(self.plate(name))) * self.fitted.width(name) for name in names)
        return max(1, NUMBERS // (self.rows.n_rows + groups))

    def news(self) -> str:
        """New groups for a message."""
        return "; ".join(f"{plate} {shown(labels)}" for plate, labels in self.new.items())


def close(one: Tensor, other: Tensor) -> bool:
    """Whether log densities agree."""
    return bool(torch.isclose(one, other, rtol=CLOSE, atol=CLOSE, equal_nan=True).all())


def _drawn(prior: Distribution, number: int, new: int) -> Tensor:
    """A draw of each new group, `(number, new, *event)`; new groups are the last ones where the prior tells groups
    apart.
    """
    several = prior.batch_shape[-1:] not in ((), (1,))
    size = prior.batch_shape[-1] if several else new
    return repaired(prior).expand(torch.Size((number, size))).sample()[:, -new:]


def _mean(name: str, prior: Distribution, number: int, before: int, new: int) -> Tensor:
    """E[effects of new groups | population], `(number, new, *event)`."""
    try:
        mean = prior.expand(torch.Size((number, before + new))).mean[:, before:]
    except NotImplementedError:
        mean = torch.full((1,), torch.nan, dtype=torch.float64)
    if not bool(torch.isfinite(mean).all()):
        raise DataError(
            f"new_groups='population' needs the mean of the prior of {name!r}, and {type(prior).__name__} has none; "
            "take new_groups='sample'."
        )
    return mean
