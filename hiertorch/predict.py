"""Predictions for rows of known groups, and of groups that were never seen.

    E[y_i | theta^(s)]  or  y_i ~ p(y_i | theta^(s)),  for each stored draw s of the latents theta. The effects of a new
    group are drawn from p(effects | population^(s)), once a draw: its rows share them, and its interval is wider.

Note [Groups of new rows]
    A model reads groups by code, the facts about them (where a class lies, a school's sector) from rows. So new rows
    become data whose groups are those that occur in them, known ones first, and which begin with one fitted row of each
    known group. These rows are not predicted: they say what is known of their groups, and new rows that say otherwise
    are an error. A grouping whose labels are the entries of an event (times of a path) keeps them all.
    A model that holds facts about its groups itself (a buffer in the order of their codes) can't be read like this.
    So the densities of the fitted rows in front, and the priors of their groups, are held against those in the data
    that were fitted.
"""

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch import diagnostics, reading
from hiertorch.data import Data
from hiertorch.errors import DataError, ModelError
from hiertorch.families import centre
from hiertorch.latent import Latent, Values, repaired, validation
from hiertorch.model import Model, seeded
from hiertorch.structure import Reads, record

if TYPE_CHECKING:
    from hiertorch.conditioning import Conditioned
    from hiertorch.posterior import Posterior

__all__ = ["Fitted", "Prediction", "Rows", "Setting", "attached", "intervals", "stream"]

KINDS = ("mean", "response")
NEW_GROUPS = ("sample", "population", "error")

NUMBERS = 1_000_000
"""Draws x (rows + effects) that are computed with at once."""

ROWS = 1000
"""Of the fitted data, in which it is looked up which columns and groupings a likelihood reads."""

CLOSE = 1e-4


@dataclass(frozen=True)
class Prediction:
    """What a posterior says about new rows.

    Attributes:
        draws: E[y | latents] or simulated y, `(chains, draws, rows)`.
        summary: mean, sd and equal-tailed interval of each row, with the index of the frame.
        new: grouping -> labels that the fitted data do not have.
    """

    draws: Tensor
    summary: pd.DataFrame
    new: Mapping[str, pd.Index]


@dataclass(frozen=True)
class Rows:
    """A frame of new rows, read as the fitted data were."""

    columns: Mapping[str, Tensor]  # (rows,)
    labels: Mapping[str, pd.Index]  # of each row
    index: pd.Index

    @classmethod
    def read(cls, data: Data, frame: pd.DataFrame) -> Self:
        """The rows of a frame.

        Raises:
            DataError: for columns that are missing or can't be read.
        """
        if matrices := [name for name, x in data.columns.items() if x.ndim > 1]:
            raise DataError(
                f"column {matrices[0]!r} is a matrix in the data that were fitted, and a column of a frame is not: fit "
                "with one column for each of its predictors."
            )
        return cls(*data.read_rows(frame), frame.index)

    def part(self, where: np.ndarray) -> "Rows":
        """Those rows at which a mask is True."""
        columns = {name: x[torch.from_numpy(where).to(x.device)] for name, x in self.columns.items()}
        return Rows(columns, {plate: rows[where] for plate, rows in self.labels.items()}, self.index[where])

    def then(self, other: "Rows") -> "Rows":
        """These rows, and others behind them."""
        columns = {name: torch.cat([x, other.columns[name]]) for name, x in self.columns.items()}
        labels = {plate: appended(rows, other.labels[plate]) for plate, rows in self.labels.items()}
        return Rows(columns, labels, appended(self.index, other.index))


class NewRows(Data):
    """Data of new rows behind fitted ones; see Note [Groups of new rows]."""

    _fitted: Data
    _frame_index: pd.Index

    @classmethod
    def behind(
        cls,
        fitted: Data,
        heads: np.ndarray,
        rows: Rows,
        y: Tensor,
        codes: Mapping[str, np.ndarray],
        labels: Mapping[str, pd.Index],
    ) -> Self:
        """New rows behind the rows `heads` of the whole of the fitted data.

        Args:
            fitted: the data that were fitted.
            heads: `(heads,)`.
            rows: the new ones.
            y: their response, `(rows,)`.
            codes: grouping -> `(heads + rows,)`.
            labels: grouping -> its labels in the order of these codes.
        """
        whole, at = fitted._whole or fitted, torch.from_numpy(heads)
        before = whole.y if whole.y.ndim == 1 else whole.y[0]
        columns = {
            name: torch.cat([whole.columns[name][at.to(whole.device)].to(x), x]) for name, x in rows.columns.items()
        }
        data = cls.__new__(cls)
        data._fill(
            fitted.name,
            torch.cat([before[at.to(whole.device)].to(y), y]),
            columns,
            codes,
            None,
            {plate: range(len(known)) for plate, known in labels.items()},
            fitted.dtype,
        )
        data.labels = dict(labels)
        data._fitted, data._frame_index = fitted, rows.index
        return data

    def scale_of(self, column: str) -> tuple[Tensor, Tensor]:
        """Of the data that were fitted, by which their priors were scaled."""
        return self._fitted.scale_of(column)

    def nests(self, child: str, parent: str) -> bool:
        """As in the data that were fitted."""
        return self._fitted.nests(child, parent)

    def label_numbers(self, plate: str) -> Tensor:
        """Labels as numbers, dates in days since the first that was fitted: `(groups,)`."""
        key = ("numbers", plate)
        if plate in self.labels and key not in self._cache:
            known = self._fitted.labels[plate]
            both = reading.label_numbers(plate, known.append(self.labels[plate]))
            shift = reading.label_numbers(plate, known)[0] - both[0]
            self._cache[key] = torch.as_tensor(both[len(known) :] + shift).to(self.y)
        return super().label_numbers(plate)

    def _of_groups(self, plate: str, values: np.ndarray, what: str) -> tuple[np.ndarray, int, int | None]:
        found, one, other = super()._of_groups(plate, values, what)
        if other is None:
            return found, one, other
        first = len(self._row_codes[plate]) - len(self._frame_index)

        def value(row: int) -> str:
            text = reading.show(self.labels[what][values[row]]) if what in self.labels else str(values[row].tolist())
            index = self._frame_index[row - first] if row >= first else None
            return f"{text} in the data that were fitted" if row < first else f"{text} in row {reading.show(index)}"

        raise DataError(
            f"{self._label(plate, one)} has one {what}, but it is {value(one)} and {value(other)} of the frame: "
            "correct the row, or give another group a label of its own."
        )


class Held(dict[str, Tensor]):
    """Values of the latents that a posterior holds."""

    def __missing__(self, name: str) -> Tensor:
        raise DataError(
            f"the draws of {name!r} are needed, and the posterior does not hold them: name it in keep= of ht.sample."
        )


class Fitted:
    """The model and the data behind a posterior.

    Args:
        model: as it was fitted.
        data: likewise.
        like: some draws, whose device and dtype model and data are given.
        more: draws that the posterior does not hold, name -> `(chains, draws, 1, *event)`.
    """

    def __init__(self, model: Model, data: Data, like: Tensor, more: Mapping[str, Tensor] | None = None) -> None:
        self.model = copy.deepcopy(model).to(like.device, like.dtype)
        self.data, self.more = data.to(like.device, like.dtype), dict(more or {})
        self._first: dict[str, np.ndarray] = {}

    @cached_property
    def reads(self) -> Reads:
        """What the model reads, and a draw of all latents from the prior."""
        rows = self.data.rows(0, min(self.data.n_rows, ROWS))
        with torch.no_grad(), validation(False):
            return record(self.model, self.data, torch.Generator(self.data.device).manual_seed(0), rows=rows)

    def varies(self, plate: str) -> bool:
        """Whether groups of a plate have effects that new groups can be given."""
        latents = self.model.latents.values()
        return any(x.plate == plate for x in latents) and all(x.labels_of != plate for x in latents)

    def is_axis(self, plate: str) -> bool:
        """Whether the model reads a plate whose groups have no effects of their own."""
        named = any(latent.labels_of == plate for latent in self.model.latents.values())
        return named or (not self.varies(plate) and bool(self.reads.columns & {plate, "codes"}))

    def first(self, plate: str) -> np.ndarray:
        """The first row of each group in the whole of the data, -1 if it has none: `(groups,)`."""
        if plate not in self._first:
            codes = self.data._row_codes[plate]
            self._first[plate] = np.full(self.data.size(plate), -1)
            self._first[plate][codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last assignment stands
        return self._first[plate]

    def predict(
        self, posterior: "Posterior", frame: pd.DataFrame, *, kind: str, new_groups: str, ci_prob: float, seed: Any
    ) -> Prediction:
        """See `Posterior.predict`."""
        check_choice("kind", kind, KINDS)
        check_choice("new_groups", new_groups, NEW_GROUPS)
        check_probability(ci_prob)
        generator = stream(posterior, seed, "predict", self.data.device)
        with torch.no_grad(), validation(False):
            setting = Setting(self, posterior, Rows.read(self.data, frame))
            if new_groups == "error" and setting.new:
                raise DataError(
                    f"new_groups='error', and the frame has new groups: {setting.news()}. Leave their rows out, or "
                    "take new_groups='sample'."
                )
            at = torch.arange(posterior.chains * posterior.n_draws, device=self.data.device)
            flat = setting.predicted(at, kind, generator, population=new_groups == "population")
        draws = flat.unflatten(0, (posterior.chains, posterior.n_draws))
        return Prediction(draws, intervals(draws, ci_prob, frame.index), setting.new)

    def condition(
        self, posterior: "Posterior", frame: pd.DataFrame, *, prior_draws: int | None, ci_prob: float, seed: Any
    ) -> "Conditioned":
        """See `Posterior.condition`."""
        from hiertorch.conditioning import condition

        return condition(self, posterior, frame, prior_draws=prior_draws, ci_prob=ci_prob, seed=seed)


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

    def __init__(self, fitted: Fitted, posterior: "Posterior", read: Rows, y: Tensor | None = None) -> None:
        self.fitted, self.posterior = fitted, posterior
        data, labels = fitted.data, read.labels
        found = {plate: data.labels[plate].get_indexer(rows) for plate, rows in labels.items()}
        fresh = {plate: rows[found[plate] < 0].unique() for plate, rows in labels.items()}
        heads = self._heads(found)
        self.codes: dict[str, Tensor] = {}  # plate -> codes of its known groups in the data that were fitted
        codes, every = {}, {}
        for plate, rows in labels.items():
            known = data.labels[plate]
            axis, at = fitted.is_axis(plate), found[plate]
            before = data._row_codes[plate][heads]
            kept = np.arange(len(known)) if axis else np.unique(np.concatenate([before, at[at >= 0]]))
            if len(fresh[plate]) and (axis or fitted.varies(plate)):
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
        self._check_model(heads)
        self._redrawn = self._unstored()

    def _heads(self, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows of the fitted data in which each known group occurs."""
        parts = [np.zeros(0, np.int64)]
        for plate, at in found.items():
            if self.fitted.is_axis(plate):
                parts.append(self.fitted.first(plate))
            elif self.fitted.varies(plate):
                parts.append(self.fitted.first(plate)[np.unique(at[at >= 0])])
        rows = np.unique(np.concatenate(parts))
        return rows[rows >= 0]

    def _check_fresh(self, plate: str, fresh: pd.Index, *, axis: bool) -> None:
        texts = {_text(label): label for label in self.fitted.data.labels[plate]}
        for label in fresh:
            if (known := texts.get(_text(label))) is not None:
                raise DataError(
                    f"{plate} {reading.show(label)} of the frame is {reading.show(known)} in the data that were "
                    "fitted, a label of another type: give the column the type that it had."
                )
        if axis:
            raise DataError(
                f"grouping {plate!r} has new labels {shown(fresh)}: the model has no population from which they could "
                f"be drawn. Give them at the fit, in labels={{{plate!r}: [...]}} of the data, or leave their rows out."
            )

    def _check_model(self, heads: np.ndarray) -> None:
        """See Note [Groups of new rows]."""
        model, data = self.fitted.model, self.fitted.data
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
            taken = (data._whole or data).take(torch.from_numpy(heads)).to(data.device, data.dtype)
            fitted_rows = self.whole.rows(0, len(heads))
            one = model.log_likelihood(model.values(full), taken.replace(y=fitted_rows.y))
            wrong = [] if close(one, model.log_likelihood(v, fitted_rows)) else ["likelihood"]
        if wrong:
            raise ModelError(
                f"{what} of {type(model).__name__} is another one for the same groups and rows when other groups stand "
                "beside them, as if it held facts about groups in the order of their codes, or of all rows; make them "
                "a column, read by data.group_values(column, plate)."
            )

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

    @property
    def redraws(self) -> bool:
        """Whether effects of known groups were not stored, and drawn again."""
        return bool(self._redrawn)

    def _unstored(self) -> dict[str, Tensor]:
        """Effects of known groups that are drawn again, name -> `(chains, draws, groups, *event)`; together, so that
        also stored ones are drawn again if others have to be.
        """
        effects = self.posterior._effects
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
        known = {}
        for name in self.fitted.model.latents:
            plate = self.plate(name)
            if plate is not None and name in self._redrawn:
                known[name] = self._redrawn[name][chain, draw]
            elif plate is not None and name in self.posterior.draws:
                known[name] = self.posterior.draws[name][chain[:, None], draw[:, None], self.codes[plate]]
            elif plate is None and (x := self._population(name)) is not None:
                known[name] = x[chain, draw]
        return self._complete(known, len(at), population=population, given=given or {})

    def _population(self, name: str) -> Tensor | None:
        return self.posterior.draws.get(name, self.fitted.more.get(name))

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
                prior = self._prior(name, Values(held, tuple(model.latents)))
                parts.append(_mean(name, prior, number, before, new) if population else _drawn(prior, number, new))
            held[name] = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return Values(held, tuple(model.latents))

    def _prior(self, name: str, v: Values) -> Distribution:
        return self._facts(lambda: self.fitted.model.prior(name, v, self.whole))

    def _facts(self, function: Any) -> Any:
        """What a function gives; if a prior found rows that contradict one another, that is what is wrong."""
        try:
            return function()
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
        """E[y | latents] or simulated y of the draws `at`: `(n, rows)`."""
        model, rows = self.fitted.model, self.rows
        found = rows.y.new_empty(len(at), rows.n_rows)
        for part in torch.arange(len(at), device=at.device).split(self.per()):
            with seeded(generator, rows.device):
                own = {name: x[part] for name, x in (given or {}).items()}
                v = self.values(at[part], population=population, given=own)
                y = model.likelihood(model.values(v), rows)
                if kind == "mean":
                    found[part] = _expected(y).to(found.dtype).expand(len(part), rows.n_rows)
                else:
                    found[part] = y.expand(torch.Size((len(part), rows.n_rows))).sample().to(found.dtype)
        return found

    def per(self) -> int:
        """Draws to compute with at once."""
        held = self.fitted.reads.values
        groups = sum(self.whole.size(p) * held[n][0, 0].numel() for n in held if (p := self.plate(n)) is not None)
        return max(1, NUMBERS // (self.rows.n_rows + groups))

    def news(self) -> str:
        """New groups for a message."""
        return "; ".join(f"{plate} {shown(labels)}" for plate, labels in self.new.items())


def attached(model: Any, data: Any, posterior: "Posterior") -> Fitted:
    """Model and data for a posterior that was loaded, in the dtype and on the device of its draws.

    Raises:
        ModelError, DataError: unless these are, by names, plates, labels and formula, what was fitted.
    """
    if not isinstance(model, Model) or not isinstance(data, Data):
        raise DataError(
            f"load takes model= and data= together, an ht.Model and ht.Data; found {type(model).__name__} and "
            f"{type(data).__name__}."
        )
    fitted = Fitted(model, data, next(iter(posterior.draws.values())))
    model, data = fitted.model, fitted.data
    advice = "Give the model and data that this posterior was drawn from."
    text = str(posterior.run.get("model_text", ""))
    if text and not text.endswith(str(model)):
        raise ModelError(
            f"the model is not the one that was fitted, which prints as\n{text}\nand not as\n{model}\n{advice}"
        )
    missing = [name for name in posterior.draws if name not in model.latents and name not in model.derived]
    if missing:
        raise ModelError(
            f"the posterior has {missing[0]!r}, which the model does not declare; it has "
            f"{reading.listed(model.latents)}. {advice}"
        )
    for plate, labels in posterior.labels.items():
        if plate not in data.labels or list(data.labels[plate]) != list(labels):
            found = shown(data.labels[plate]) if plate in data.labels else "no such grouping"
            raise DataError(f"the groups of {plate!r} were {shown(labels)}; the data have {found}. {advice}")
    with torch.no_grad(), validation(False):
        prior = model.sample_prior(data, 1, torch.Generator(data.device).manual_seed(0))
    for name, x in posterior.draws.items():
        latent: Latent | None = model.latents.get(name)
        if latent is None:
            continue
        if latent.plate != posterior.plates[name] or prior[name].shape[1:] != x.shape[2:]:
            raise ModelError(
                f"{name!r} is {tuple(prior[name].shape[1:])} over {latent.plate} in the model, and the posterior's is "
                f"{tuple(x.shape[2:])} over {posterior.plates[name]}. {advice}"
            )
        event = latent.event_labels(data)
        if event is not None and tuple(map(tuple, event)) != tuple(map(tuple, posterior.event_labels[name])):
            raise ModelError(
                f"the entries of {name!r} are {event} in the model, and {posterior.event_labels[name]} in the "
                f"posterior. {advice}"
            )
    return fitted


def intervals(draws: Tensor, ci_prob: float, index: pd.Index) -> pd.DataFrame:
    """Mean, sd and equal-tailed interval of `(chains, draws, rows)`, one row each."""
    percent, edge = int(ci_prob * 100), (1 - ci_prob) / 2
    mean, sd = diagnostics.moments(draws)
    low, high = diagnostics.quantile(draws, (edge, 1 - edge)).unbind(-1)
    columns = {"mean": mean, "sd": sd, f"eti{percent}_lb": low, f"eti{percent}_ub": high}
    return pd.DataFrame({name: x.cpu().numpy() for name, x in columns.items()}, index=index)


def stream(posterior: "Posterior", seed: Any, what: str, device: torch.device) -> torch.Generator:
    """Random numbers of a use of a posterior: by `seed`, or else by that of its run."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise DataError(f"seed= is a whole number from 0 to 2^63 - 1; found {seed!r}.")
    own = int(posterior.run.get("seed", 0)) if seed is None else seed
    state = np.random.SeedSequence([own, *what.encode()]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises a DataError unless an argument is one of the known words."""
    if value not in known:
        raise DataError(f"{name}= is one of {reading.listed(known)}; found {value!r}.{reading.closest(value, known)}")


def check_probability(ci_prob: float) -> None:
    """Raises a DataError unless it is one."""
    if not 0 < ci_prob < 1:
        raise DataError(f"ci_prob= is a probability between 0 and 1; found {ci_prob!r}.")


def appended(known: pd.Index, fresh: pd.Index) -> pd.Index:
    """Labels, with new ones behind them; a tuple is one label."""
    if not len(fresh):
        return known
    if known.dtype == fresh.dtype and known.dtype != object:
        return known.append(fresh)
    labels: list[Hashable] = [*known, *fresh]
    return pd.Index(labels, dtype=None if len(known) else fresh.dtype, tupleize_cols=False)


def shown(labels: pd.Index, most: int = 5) -> str:
    """Some labels for a message."""
    texts = ", ".join(reading.show(label) for label in labels[:most])
    return texts + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _text(label: Hashable) -> str:
    """A label of any type; a day is the same text as a date, a time stamp or text."""
    return str(label).removesuffix(" 00:00:00")


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
        mean = torch.full((1,), torch.nan)
    if not bool(torch.isfinite(mean).all()):
        raise DataError(
            f"new_groups='population' needs the mean of the prior of {name!r}, and {type(prior).__name__} has none; "
            "take new_groups='sample'."
        )
    return mean


def _expected(y: Distribution) -> Tensor:
    try:
        return centre(y)
    except NotImplementedError as error:
        raise ModelError(
            f"the likelihood, {type(y).__name__}, tells no mean; take kind='response' and average what is drawn."
        ) from error
