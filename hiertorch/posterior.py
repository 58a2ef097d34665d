"""What came out: draws by name, what to make of them, and ways to keep them. How they were sampled is unknown here."""

import difflib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import pandas as pd
import torch
from torch import Tensor

from hiertorch.arguments import check_choice, check_count, check_probability, names_of
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.draws import diagnostics, storage, summaries
from hiertorch.draws.naming import parameter_texts
from hiertorch.draws.summaries import CI_PROB, MIXING, listed, table
from hiertorch.errors import DataError, HiertorchError
from hiertorch.runtime.surroundings import feels_at_home

if TYPE_CHECKING:
    from xarray import DataTree

    from hiertorch.comparison.criteria import Criterion
    from hiertorch.criticism.predictive import PredictiveCheck
    from hiertorch.criticism.sensitivity import Sensitivity
    from hiertorch.draws.judgement import Judgement
    from hiertorch.pooling.factors import Pooling
    from hiertorch.predict.condition import Conditioned
    from hiertorch.predict.predict import Prediction

__all__ = ["Posterior", "Stats", "UnknownNameError"]

KINDS = ("all", "stats", "diagnostics")


class UnknownNameError(HiertorchError, KeyError):
    """The posterior has no latent or group of that name."""

    __str__ = Exception.__str__  # a KeyError would print its message in quotes


@dataclass(frozen=True)
class Stats:
    """What the sampler reports beside the draws.

    Attributes:
        acceptance: block -> mean acceptance rate after warm-up, `(chains,)` or `(chains, groups)`.
        blocks: block -> plate of that groups axis, or None.
        log_density: log density of every kept draw, `(chains, draws)`.
        nan: block -> number of proposals whose log density was NaN; each was rejected.
    """

    acceptance: Mapping[str, Tensor]
    blocks: Mapping[str, str | None]
    log_density: Tensor
    nan: Mapping[str, int]


class Effects(Protocol):
    """Draws that were not stored, and can be made again; see `hiertorch.gaussian.redraw`."""

    names: tuple[str, ...]

    def draws(self, names: Sequence[str], groups: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Name -> `(chains, draws, groups, *event)`, for some codes of the groups of each plate, or all."""
        ...

    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each `(groups, *event)`."""
        ...

    def log_group(self, plate: str, stored: Mapping[str, Tensor]) -> Tensor:
        """Log marginal likelihood of each group, `(chains, draws, groups)`."""
        ...


class Predictor(Protocol):
    """The model and the data behind a posterior; see `hiertorch.predict.predict`."""

    model: Any
    data: Any
    more: dict[str, Tensor]

    def predict(
        self,
        posterior: "Posterior",
        frame: pd.DataFrame,
        *,
        kind: str,
        new_groups: str | None,
        ci_prob: float,
        seed: Any,
        distinct: bool,
    ) -> "Prediction":
        """See `Posterior.predict`."""
        ...

    def condition(
        self,
        posterior: "Posterior",
        frame: pd.DataFrame,
        *,
        prior_draws: int | None,
        ci_prob: float,
        seed: Any,
        distinct: bool,
    ) -> "Conditioned":
        """See `Posterior.condition`."""
        ...


@feels_at_home
class Posterior:
    """Draws theta^(c, s) of every latent, for chains c and draws s, read by name.

    `posterior["alpha"]` is `(chains, draws, groups, *event)` for a latent that varies over a plate and
    `(chains, draws, *event)` for a population-level one. Treat draws as read-only: diagnostics are computed once.

    Args:
        draws: name -> `(chains, draws, size, *event)`; size is the number of groups, 1 for a population-level latent.
        plates: name -> plate, or None.
        labels: plate -> labels of its groups, in code order.
        event_labels: name -> one tuple of labels for each event dimension; 0, 1, ... for names left out.
        stats: what the sampler reports.
        run: what was run: model, plan, settings, seconds, versions; all that JSON can hold. Its "draws" were asked for,
            each after "thin" sweeps, and every "interval"-th of them is stored.
        interrupted: whether the run was stopped before it had all its draws.
        effects: effects that were not stored, for `redraw` and `effects`.
        predictor: the model and the data, for `predict` and `condition`.
        tuning: move -> what warm-up has learnt for it, for runs that start from this one.
        fingerprint: of the data, for a posterior that does not hold them.
        more: draws of population-level latents that `draws` leave out, likewise shaped; those of the predictor if not
            given.
        positions: where chains ended, latent -> `(chains, size, *event)`, of latents whose draws are not there.
        redrawn: latent -> plate, of effects that were not stored and could be drawn again if `effects` were given.
        collapsed: whether effects were integrated out in the run, as they were if `effects` are given.

    Raises:
        DataError: if shapes, plates and labels don't fit one another.
    """

    def __init__(
        self,
        draws: Mapping[str, Tensor],
        *,
        plates: Mapping[str, str | None],
        labels: Mapping[str, pd.Index],
        event_labels: Mapping[str, tuple[tuple[Hashable, ...], ...]],
        stats: Stats,
        run: Mapping[str, Any],
        interrupted: bool = False,
        effects: Effects | None = None,
        predictor: Predictor | None = None,
        tuning: Mapping[str, Mapping[str, Tensor]] | None = None,
        fingerprint: Fingerprint | None = None,
        more: Mapping[str, Tensor] | None = None,
        positions: Mapping[str, Tensor] | None = None,
        redrawn: Mapping[str, str] | None = None,
        collapsed: bool = False,
    ) -> None:
        self.draws = {name: x.detach() for name, x in draws.items()}
        self.plates = {name: plates.get(name) for name in draws}
        self.labels = dict(labels)
        integers = {name: tuple(tuple(range(k)) for k in x.shape[3:]) for name, x in draws.items()}
        self.event_labels = {name: event_labels.get(name, integers[name]) for name in draws}
        self.stats = stats
        self.run = dict(run)
        self.interrupted = interrupted
        self.tuning = dict(tuning or {})
        self._effects = effects
        self._predictor = predictor
        self._fingerprint = fingerprint
        self._effect_plates = {
            name: str(plates[name]) for name in (effects.names if effects else ()) if name not in draws
        } or dict(redrawn or {})
        held = predictor.more if more is None and predictor is not None else more
        self.more = dict(held or {})
        self.positions = dict(positions or {})
        self.collapsed = collapsed or effects is not None
        self._check()

    def _check(self) -> None:
        if not self.draws:
            raise DataError("A posterior needs the draws of at least one latent, found none.")
        chains, n_draws = next(iter(self.draws.values())).shape[:2]
        for name, x in self.draws.items():
            plate = self.plates[name]
            if plate is not None and plate not in self.labels:
                raise DataError(
                    f"{name!r} varies over {plate!r}, which has no labels=; there are {listed(self.labels)}."
                )
            size = 1 if plate is None else len(self.labels[plate])
            expected = (chains, n_draws, size, *(len(labels) for labels in self.event_labels[name]))
            if tuple(x.shape) != expected:
                raise DataError(
                    f"the draws of {name!r} should be (chains, draws, size, *event) = {expected}, by its labels "
                    f"and the first latent's chains and draws; found {tuple(x.shape)}."
                )

    @property
    def names(self) -> list[str]:
        """The latents, in the order of their declaration."""
        return list(self.draws)

    @property
    def model(self) -> Any:
        """What was fitted, a `Model`; a DataError if the posterior does not know it."""
        return self._knows().model

    @property
    def data(self) -> Any:
        """What it was fitted to, `Data`; after an update all rows."""
        return self._knows().data

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the data that it was fitted to; None if it does not know them."""
        return self._fingerprint if self._predictor is None else self._fitted().data.fingerprint

    @property
    def chains(self) -> int:
        """The number of chains."""
        return next(iter(self.draws.values())).shape[0]

    @property
    def n_draws(self) -> int:
        """The number of draws in each chain that are stored."""
        return next(iter(self.draws.values())).shape[1]

    @property
    def stopped(self) -> str:
        """How the run was stopped before it had all its draws, in a sentence; "" if it was not."""
        if not self.interrupted:
            return ""
        asked, by = self.run.get("draws", "more"), f" by {self.run['ended_by']}" if "ended_by" in self.run else ""
        made = self.n_draws * self.interval
        return f"The run was stopped{by} after {made} of {asked} draws: these are all there are."

    @property
    def interval(self) -> int:
        """Draws that the run made for each one that is here: of long runs every second, fourth, ... is stored."""
        return int(self.run.get("interval", 1))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.draws

    def __iter__(self) -> Iterator[str]:
        return iter(self.draws)

    def __len__(self) -> int:
        return len(self.draws)

    def __repr__(self) -> str:
        thinned = f" (each the last of {self.interval} made)" if self.interval > 1 else ""
        lines = [
            f"Posterior: {self.chains} chains x {self.n_draws} draws{thinned}" + ", interrupted" * self.interrupted
        ]
        for plate in (None, *self.labels):
            latents = [
                name + "".join(f"[{k}]" for k in x.shape[3:])
                for name, x in self.draws.items()
                if self.plates[name] == plate
            ]
            head = "population" if plate is None else f"{plate} ({len(self.labels[plate])} groups)"
            lines += [f"  {head}: {', '.join(latents)}"] if latents else []
        if self._effect_plates:
            lines.append(f"  not stored, drawn again by redraw(): {', '.join(self._effect_plates)}")
        if chosen := self.run.get("priors"):
            lines.append(
                f"  priors by the data's scale: {', '.join(f'{name} ~ {text}' for name, text in chosen.items())}"
            )
        return "\n".join(lines)

    def __getitem__(self, name: str) -> Tensor:
        """Draws of a latent: `(chains, draws, groups, *event)`, without groups for a population-level one."""
        x = self.draws[self._known(name)]
        return x.squeeze(2) if self.plates[name] is None else x

    def group(self, name: str, label: Hashable) -> Tensor:
        """Draws of one group, `(chains, draws, *event)`, by its label.

        Raises:
            UnknownNameError: if there is no such latent or group.
            DataError: if the latent doesn't vary over groups.
        """
        plate = self.plates[self._known(name)]
        if plate is None:
            raise DataError(f"{name!r} has no groups: it is population-level. Use posterior[{name!r}].")
        return self.draws[name][:, :, self._codes(plate, [label])[0]]

    def _codes(self, plate: str, labels: Iterable[Hashable]) -> list[int]:
        """The codes of groups, or an UnknownNameError that says which label is none."""
        if isinstance(labels, Tensor) or not isinstance(labels, Iterable):
            raise DataError(f"labels= is a list of labels of {plate!r}; found {labels!r}.")
        codes = {known: code for code, known in enumerate(self.labels[plate])}
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise DataError(f"labels= is a list of groups of {plate!r}; found {labels!r}: write [{labels!r}].")
        found = []
        for label in labels:
            if not isinstance(label, Hashable) or label not in codes:
                texts = {str(known): known for known in codes}
                close = difflib.get_close_matches(str(label), texts, n=3, cutoff=0.5) or list(texts)[:3]
                near = ", ".join(repr(texts[text]) for text in close)
                raise UnknownNameError(f"{plate!r} has no group {label!r}. Closest of its {len(codes)} labels: {near}.")
            found.append(codes[label])
        return found

    def _known(self, name: Any) -> str:
        if not isinstance(name, str):
            raise UnknownNameError(f"a latent is looked up by its name; found {name!r}; it has {listed(self.draws)}.")
        if name in self._effect_plates:
            raise UnknownNameError(
                f"the draws of {name!r} were not stored: posterior.effects({name!r}) has means and standard "
                f"deviations, posterior.redraw({name!r}, labels) draws some groups again, and keep= in ht.sample "
                "stores them."
            )
        if name not in self.draws:
            self._check_is_no_parameter(name)
            raise UnknownNameError(f"the posterior has no latent {name!r}; it has {listed(self.draws)}.")
        return name

    def _check_is_no_parameter(self, name: str) -> None:
        """An UnknownNameError that says how to read the draws of a parameter named as in tables: alpha[School 12]."""
        latent = str(name).partition("[")[0]
        if latent not in self.draws or latent == name:
            return
        plate = self.plates[latent]
        texts = {parameter_texts(latent, [[label]])[0]: label for label in self.labels[plate]} if plate else {}
        groups = f"posterior.group({latent!r}, {texts[name]!r})" if name in texts else f"posterior[{latent!r}]"
        raise UnknownNameError(f"posteriors are read by latent, and {name!r} is a parameter of one: write {groups}.")

    def redraw(self, name: str, labels: Iterable[Hashable] | None = None) -> Tensor:
        """Draws of effects that were not stored, given those that were: `(chains, draws, groups, *event)`.

        Exact draws from their conditional distribution in a model whose effects were integrated out; the draws of one
        call belong together, those of two calls are independent given what was stored.

        Args:
            name: a latent that varies over groups.
            labels: of the groups wanted, in this order; all if left out.

        Raises:
            UnknownNameError: if there is no such latent or group, or its draws can't be made again.
        """
        if name in self and self.plates[name] is not None:
            x = self.draws[name]
            return x if labels is None else x[:, :, self._codes(str(self.plates[name]), labels)]
        plate, effects = self._redrawn(name)
        if labels is None:
            return effects.draws([name])[name]
        codes, where = torch.tensor(self._codes(plate, labels), dtype=torch.long).unique(return_inverse=True)
        return effects.draws([name], {plate: codes})[name][:, :, where]

    def effects(self, name: str) -> pd.DataFrame:
        """Posterior mean and sd of every group's effect: one row a parameter, such as alpha[School 12].

        Averages of conditional means and variances where effects were not stored, moments of the draws where they were.

        Raises:
            UnknownNameError: if there is no such latent.
        """
        if name in self:
            mean, sd = diagnostics.moments(self.draws[name])
            return self._frame(name, {"mean": mean, "sd": sd})
        plate, effects = self._redrawn(name)
        mean, sd = effects.moments(name)
        axes: list[Iterable[Hashable]] = [self.labels[plate], *(range(k) for k in mean.shape[1:])]
        return table(name, axes, {"mean": mean, "sd": sd})

    def log_marginal(self, plate: str) -> Tensor:
        """log p(y_j | draw) of each group j of a plate, its own effects and those nested in it integrated out:
        `(chains, draws, groups)`, for leaving groups out (Merkle, Furr & Rabe-Hesketh 2019, eq. 8).

        Conditional on scales, coefficients, and the effects of other plates; in closed form.

        Raises:
            DataError: if the model's effects were not integrated out, or none vary over the plate.
        """
        if self._effects is None:
            raise DataError(
                "the marginal likelihood by group has a closed form only where effects were integrated out in the run "
                "that made this posterior; this one was not, or was loaded from a file."
            )
        if not isinstance(plate, str) or plate not in self.labels:
            raise DataError(f"no effects vary over {plate!r}; there are {listed(self.labels)}.")
        return self._effects.log_group(plate, self.draws)

    def predict(
        self,
        frame: pd.DataFrame,
        kind: Literal["mean", "response"] = "mean",
        new_groups: Literal["sample", "population", "error"] | None = None,
        *,
        ci_prob: float = CI_PROB,
        seed: int | None = None,
        distinct: bool = False,
    ) -> "Prediction":
        """E[y | latents] or simulated y of new rows, for every draw: `draws` `(chains, draws, rows)` and a `summary`
        with the index of the frame.

        A new group has one effect in each draw, drawn from the population given what is known of it (group-level
        predictors, the group it lies in), so that its interval is wider than those of groups that were fitted.

        Args:
            frame: new rows, with the columns and groupings that the data were read from, and no column that the fitted
                frame did not have.
            kind: "mean", or "response" for simulated y.
            new_groups: "sample" draws their effects, "population" sets them to the mean of their prior in each draw,
                "error" refuses them; left out, "sample" with a warning that names them.
            ci_prob: probability within the interval.
            seed: of the random numbers; left out, one that follows from the run's.
            distinct: take new labels for other groups though they are known ones in another spelling ("01001" and
                1001, "a " and "A", a day with a time zone and without), which are refused otherwise.

        Raises:
            DataError: for columns that are missing, missing values, trials, exposures or standard errors that can't be,
                levels that were not fitted, rows that contradict what was fitted (a known class in another school), new
                labels of a grouping without a population, and known ones in another spelling.
        """
        return self._fitted().predict(
            self, frame, kind=kind, new_groups=new_groups, ci_prob=ci_prob, seed=seed, distinct=distinct
        )

    def condition(
        self,
        frame: pd.DataFrame,
        *,
        prior_draws: int | None = None,
        ci_prob: float = CI_PROB,
        seed: int | None = None,
        distinct: bool = False,
    ) -> "Conditioned":
        """The effects of new groups given some of their rows, without fitting again: by importance weights, with the
        Pareto k that says whether these can be trusted.

        Each new group updates the population for itself; see `hiertorch.predict.condition`. Row weights are ignored.

        Args:
            frame: rows of new groups, with their response.
            prior_draws: draws of a group's effects from their prior for each draw of the posterior; left out, as many
                as make 40,000 in all.
            ci_prob: probability within the interval.
            seed: of the random numbers; left out, one that follows from the run's.
            distinct: as in `predict`.

        Raises:
            DataError: for rows of known groups alone, and for all that `predict` refuses.
        """
        return self._fitted().condition(
            self, frame, prior_draws=prior_draws, ci_prob=ci_prob, seed=seed, distinct=distinct
        )

    def criterion(
        self, kind: Literal["loo", "waic", "dic"] = "loo", by: str = "row", *, draws: int | None = 4000
    ) -> "Criterion":
        """elpd = sum_i log p(y_i | y without i), estimated by PSIS-LOO, WAIC or DIC: how well the model predicts what
        it has not seen; see `hiertorch.comparison.criteria`.

        Args:
            kind: "loo" leaves out one row (or group) by importance weights; "waic" and "dic" correct the fit to all.
            by: "row" asks about a new row of the groups that were fitted; a grouping, such as "school", about the rows
                of a new group, whose effects are integrated out (Merkle, Furr & Rabe-Hesketh 2019).
            draws: to look at, of all chains together; None takes all.

        Raises:
            DataError: if the posterior does not know its model and data, for a grouping that these don't have, and
                where groups are not independent given the population.
        """
        from hiertorch.comparison.criteria import criterion

        return criterion(self, kind, by, draws=draws)

    def kfold(self, k: int = 10, by: str = "row", *, stratify: str | None = None, **settings: Any) -> "Criterion":
        """sum_f log p(y_f | y without fold f): the model fitted k times, in one run; see `hiertorch.refits.folds`.

        Args:
            k: folds.
            by: "row", or a grouping whose groups are left out whole.
            stratify: a grouping whose groups each fold has its share of.
            settings: `folds` (the fold of each row, in place of chance), seed, chains (for each fold), draws and others
                of `ht.sample`.

        Raises:
            DataError: for folds that can't be.
        """
        from hiertorch.refits.folds import kfold

        return kfold(self, k, by, stratify=stratify, **settings)

    def refit(self, criterion: "Criterion", **settings: Any) -> "Criterion":
        """A LOO criterion whose rows or groups of a high Pareto k are left out by fitting again without them.

        Args:
            criterion: of this posterior, of kind "loo".
            settings: `above` (the Pareto k from which), and as in `kfold`.

        Raises:
            DataError: for a criterion of another kind or of other data.
        """
        from hiertorch.refits.folds import refit

        return refit(self, criterion, **settings)

    def predictive_check(
        self,
        statistics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        *,
        groups: Literal["known", "new"] = "known",
        draws: int = 1000,
        seed: int | None = None,
    ) -> "PredictiveCheck":
        """y_rep ~ p(y_rep | theta^(s)) against y, by statistics T, p = Pr(T(y_rep) >= T(y)); see
        `hiertorch.criticism.predictive`.

        Args:
            statistics: of your own beside the usual ones: name -> function of a response `(draws, rows)` to `(draws,)`.
            groups: "known" keeps the effects that were fitted; "new" draws them again from the population, which shows
                groups that do not fit it.
            draws: replications.
            seed: of the random numbers; left out, one that follows from the run's.
        """
        from hiertorch.criticism.predictive import predictive_check

        return predictive_check(self, statistics, draws=draws, seed=seed, groups=groups)

    def pooling(self) -> "Pooling":
        """lambda = 1 - V(E eps) / E(V eps) for the errors eps of each level, R2 = 1 - E(V eps) / E(V theta) (Gelman &
        Pardoe 2006), shrinkage by group, and shares of variance; see `hiertorch.pooling.factors`.
        """
        from hiertorch.pooling.factors import pooling

        return pooling(self)

    def sensitivity(self, names: Sequence[str] | None = None) -> "Sensitivity":
        """How much each parameter would move with a stronger or weaker prior or likelihood; see
        `hiertorch.criticism.sensitivity`.

        Args:
            names: latents to look at; None looks at the population-level ones.
        """
        from hiertorch.criticism.sensitivity import sensitivity

        return sensitivity(self, names)

    def update(self, frame: pd.DataFrame, **settings: Any) -> "Posterior":
        """The posterior given the fitted rows and new ones: by importance weights where these can be trusted, else by a
        run that starts where this one ended; see `hiertorch.refits.updating`.

        Args:
            frame: the new rows, with their response, of known or new groups.
            settings: `weights` (the column of the new rows' weights), `new_groups` ("sample" takes them without a
                warning, "error" refuses them), `distinct` (as in `predict`), and those of `ht.sample`, for the run if
                there has to be one.

        Raises:
            DataError: for rows that can't be read, or contradict what was fitted.
        """
        from hiertorch.refits.updating import update

        return update(self, frame, **settings)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML file that says what was fitted, whether it can be believed, and what came out; see
        `hiertorch.report.writing`.

        Raises:
            RunFolderError: if the file can't be written.
        """
        from hiertorch.report.writing import write

        return write(self, path)

    def _drawn(self) -> "Posterior":
        """Itself, or a DataError if the run ended before its first draw."""
        if self.n_draws == 0 and self.interrupted:
            by = self.run.get("ended_by", "Ctrl-C")
            raise DataError(f"this posterior has no draws: the run was stopped by {by} in its warm-up; run it again.")
        return self

    def _fitted(self) -> Predictor:
        self._drawn()
        return self._knows()

    def _knows(self) -> Predictor:
        if self._predictor is None:
            raise DataError(
                "this posterior does not know its model and data, since it was loaded from a file or made by hand: "
                "give them, ht.Posterior.load(path, model=..., data=...)."
            )
        self._predictor.data.check_unchanged()
        return self._predictor

    def _redrawn(self, name: str) -> tuple[str, Effects]:
        if not isinstance(name, str) or name not in self._effect_plates:
            self._known(name)
            raise UnknownNameError(f"{name!r} has no groups to draw again; use posterior[{name!r}].")
        if self._effects is None:
            raise DataError(
                f"the draws of {name!r} were not stored; they can be drawn again with the model and the data: "
                "ht.Posterior.load(path, model=..., data=...)."
            )
        return self._effect_plates[name], self._effects

    def summary(
        self,
        names: str | Sequence[str] | None = None,
        *,
        ci_prob: float = CI_PROB,
        kind: str = "all",
        round_to: int | None = None,
    ) -> pd.DataFrame:
        """Mean, sd, equal-tailed interval, ESS, R-hat and Monte Carlo errors: one row a parameter.

        Columns, their order and their values are those of `arviz_stats.summary` (of 1.x, whose sd has S - 1), but by
        `hiertorch.draws.diagnostics`, all parameters at once: for 400 parameters with 32 x 1000 draws ArviZ takes 12 s.
        Two things differ. The tail ESS is that of the 5% and 95% quantiles, as in Vehtari et al. (2021), for which
        ArviZ's summary takes 11% and 89%. Where a parameter never moved, R-hat, ESS and MCSE are NaN. For medians and
        highest-density intervals call `arviz_stats.summary(posterior.to_arviz(), ...)`.

        Args:
            names: the latents to show; None shows all.
            ci_prob: probability within the interval; 0.89 is ArviZ's default.
            kind: "all", "stats" (mean, sd, interval) or "diagnostics".
            round_to: decimals, or None for the numbers as they are.

        Raises:
            UnknownNameError: if there is no such latent.
            DataError: if an argument is none of those above.
        """
        check_choice("kind", kind, KINDS)
        check_probability(ci_prob)
        check_count("round_to", round_to, 0, none="for the numbers as they are")
        self._drawn()
        wanted = self.names if names is None else names_of("names", names)
        if not wanted:
            raise DataError(f"names= is empty: name some of {listed(self.names)}, or leave it out for all.")
        frame = pd.concat([self._frame(name, self._columns(self._known(name), ci_prob, kind)) for name in wanted])
        return frame if round_to is None else frame.round(round_to)

    def _columns(self, name: str, ci_prob: float, kind: str) -> dict[str, Tensor]:
        if kind == "stats":
            return summaries.moments(self.draws[name], ci_prob)
        every = self._looked_at[name]
        if kind == "all" and ci_prob == CI_PROB:
            return every
        found = summaries.moments(self.draws[name], ci_prob) if kind == "all" else {}
        return found | {column: every[column] for column in MIXING}

    def _frame(self, name: str, columns: Mapping[str, Tensor]) -> pd.DataFrame:
        """Columns `(size, *event)` as a table with a row for each parameter, such as alpha[School 12, 0]."""
        plate = self.plates[name]
        axes: list[Iterable[Hashable]] = [] if plate is None else [self.labels[plate]]
        axes += self.event_labels[name]
        return table(name, axes, columns)

    @cached_property
    def _looked_at(self) -> dict[str, dict[str, Tensor]]:
        """All columns of the summary with its usual interval, by latent: they share what is costly."""
        return {name: summaries.columns(x) for name, x in self._drawn().draws.items()}

    def diagnostics(self) -> pd.DataFrame:
        """The worst R-hat, bulk ESS and tail ESS of all parameters: value, parameter, limit, how many are beyond it.

        A parameter that never moved, though it could, has an infinite R-hat and no effective draws here.
        """
        return self._worst.copy()

    @cached_property
    def _worst(self) -> pd.DataFrame:
        judged = {name: summaries.judged(self.draws[name], columns) for name, columns in self._looked_at.items()}
        return summaries.worst({name: self._frame(name, columns) for name, columns in judged.items()})

    @cached_property
    def _judgement(self) -> "Judgement":
        """What a run's end says of convergence, everywhere alike."""
        from hiertorch.draws.judgement import judge

        return judge(self)

    def warnings(self) -> list[str]:
        """What a reader should know before believing the numbers, and what to do about it; an empty list if nothing."""
        return list(self._warnings)

    @cached_property
    def _warnings(self) -> list[str]:
        return summaries.warnings(self)

    def to_arviz(self) -> "DataTree":
        """The draws as an ArviZ DataTree: groups `posterior` and `sample_stats`, with labels as coordinates.

        `sample_stats` has the log density `lp` of every draw, and of every block the mean acceptance rate,
        `acceptance_<block>`, by chain and group. What was run is in the attributes of `posterior`, as JSON.
        """
        return storage.to_arviz(self._drawn())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but model and data to one file, whole or not at all: draws to the bit, labels with their
        types, and where a run with `start=` goes on. The format is safetensors, whatever the name of the file.

        A file that is there is replaced and keeps its mode; a symbolic link is followed.

        Raises:
            DataError: if a label or a setting is of a type that the file can't hold, or if there are no draws.
            RunFolderError: if the file can't be written.
        """
        storage.save(path, self._drawn())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: Any = None, data: Any = None) -> Self:
        """The posterior that `save` wrote, with its tensors on the CPU.

        Args:
            path: of the file.
            model: the model that was fitted, and
            data: its data: for predictions, criteria, updates, and for effects that were not stored, which need both.

        Raises:
            DataError: if there is no such file, or it isn't one of these, or is damaged.
            ModelError, DataError: if model and data are not those that were fitted.
        """
        arguments = storage.load(path)
        posterior = cls(arguments.pop("draws"), stats=Stats(**arguments.pop("stats")), **arguments)
        if model is not None or data is not None:
            from hiertorch.draws.attaching import attach

            attach(posterior, model, data)
        return posterior
