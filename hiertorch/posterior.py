"""`Posterior`: what people ask of the draws of a run, one method a question. The answers lie in the districts below."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pandas as pd

from hiertorch.comparison.criteria import Criterion, criterion
from hiertorch.criticism.predictive import PredictiveCheck, predictive_check
from hiertorch.criticism.sensitivity import Sensitivity, sensitivity
from hiertorch.criticism.statistics import Statistics
from hiertorch.data.frames import Table
from hiertorch.data.table import Data
from hiertorch.draws import storage
from hiertorch.draws.fit import Fit
from hiertorch.draws.hints import Hints
from hiertorch.draws.joining import joined
from hiertorch.draws.labelled import summary
from hiertorch.draws.summaries import CI_PROB
from hiertorch.effects.conditional import ConditionalEffects, conditional_effects
from hiertorch.effects.explained import r2
from hiertorch.effects.hypotheses import hypothesis
from hiertorch.effects.margins import Estimates, comparisons, predictions, slopes
from hiertorch.effects.rows import Columns
from hiertorch.effects.tables import fixef, ranef, varcorr
from hiertorch.effects.trees import to_arviz
from hiertorch.model.model import Model
from hiertorch.pooling.factors import Pooling, pooling
from hiertorch.predict import exporting, keeping
from hiertorch.predict.condition import Conditioned, condition
from hiertorch.predict.predict import Prediction, predict
from hiertorch.refits.folds import kfold, refit
from hiertorch.refits.updating import update
from hiertorch.report.writing import write
from hiertorch.run.outcome import with_derived
from hiertorch.run.runfolder import is_run, so_far
from hiertorch.runtime.surroundings import at_home, feels_at_home

if TYPE_CHECKING:
    from xarray import DataTree


@feels_at_home
class Posterior(Hints, Fit):
    """Draws theta^(c, s) of every latent, for chains c and draws s, read by name.

    `posterior["alpha"]` is `(chains, draws, groups, *event)` for a latent that varies over a plate and
    `(chains, draws, *event)` for a population-level one. Treat draws as read-only: diagnostics are computed once.
    Arguments are those of `Fit`.
    """

    def predict(
        self,
        frame: Table | None = None,
        kind: Literal["mean", "response", "probability"] = "mean",
        new_groups: Literal["sample", "population", "error"] | None = None,
        *,
        ci_prob: float = CI_PROB,
        seed: int | None = None,
        distinct: bool = False,
    ) -> Prediction:
        """E[y | latents] or simulated y of new rows, for every draw: `draws` `(chains, draws, rows)` and a `summary`
        with the index of the frame.

        A new group has one effect in each draw, drawn from the population given what is known of it (group-level
        predictors, the group it lies in), so that its interval is wider than those of groups that were fitted.

        Args:
            frame: new rows, with the columns and groupings that the data were read from, and, but for formulas, no
                column that the fitted frame did not have; None takes the fitted rows.
            kind: "mean", of ordered categories the expected code from 0 on, of others as "probability"; "response" for
                simulated y; "probability" for that of each category.
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
        frame = Columns.of(self.fitted).rows() if frame is None else frame
        return predict(self, frame, kind=kind, new_groups=new_groups, ci_prob=ci_prob, seed=seed, distinct=distinct)

    def condition(
        self,
        frame: Table,
        *,
        prior_draws: int | None = None,
        ci_prob: float = CI_PROB,
        seed: int | None = None,
        distinct: bool = False,
    ) -> Conditioned:
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
        return condition(self, frame, prior_draws=prior_draws, ci_prob=ci_prob, seed=seed, distinct=distinct)

    def criterion(
        self, kind: Literal["loo", "waic", "dic"] = "loo", by: str = "row", *, draws: int | None = 4000
    ) -> Criterion:
        """elpd = sum_i log p(y_i | y without i), estimated by PSIS-LOO, WAIC or DIC: how well the model predicts what
        it has not seen; see `hiertorch.comparison.criteria`.

        Args:
            kind: "loo" leaves out one row (or group) by importance weights; "waic" and "dic" correct the fit to all.
            by: "row" asks about a new row of the groups that were fitted; a grouping, such as "school", about the rows
                of a new group, whose effects are integrated out (Merkle, Furr & Rabe-Hesketh 2019).
            draws: to look at, of all chains together; None takes all.

        Raises:
            DataError: if the posterior does not know its model and data, for fewer than 25 draws, a grouping that these
                don't have, and where groups are not independent given the population.
        """
        return criterion(self, kind, by, draws=draws)

    def kfold(self, k: int = 10, by: str = "row", *, stratify: str | None = None, **settings: Any) -> Criterion:
        """sum_f log p(y_f | y without fold f): the model fitted k times, in one run; see `hiertorch.refits.folds`.

        Args:
            k: folds; as many as there are rows or groups leaves out one at a time.
            by: "row" predicts new rows of known groups; a grouping leaves its groups out whole and predicts all rows of
                a new one.
            stratify: a grouping whose groups each fold has its share of; for by="row".
            settings: `folds` (the fold of each row, any labels, in place of chance and `k`), seed (of folds and run),
                and those of `ht.sample`; `chains` are those of each fold (8 if left out), `draws` 500.

        Raises:
            DataError: for folds that can't be.
            InterruptedRunError: if the run was stopped.
        """
        return kfold(self, k, by, stratify=stratify, **settings)

    def refit(self, criterion: Criterion, **settings: Any) -> Criterion:
        """A LOO criterion whose rows or groups of a high Pareto k are left out by fitting again without them.

        Args:
            criterion: of this posterior, of kind "loo".
            settings: `above` (the Pareto k from which), and as in `kfold`.

        Raises:
            DataError, InterruptedRunError: for a criterion of another kind or of other data; if the run was stopped.
        """
        return refit(self, criterion, **settings)

    def predictive_check(
        self,
        statistics: Statistics | None = None,
        *,
        groups: Literal["known", "new"] = "known",
        draws: int = 1000,
        seed: int | None = None,
    ) -> PredictiveCheck:
        """y_rep ~ p(y_rep | theta^(s)) against y, by statistics T, p = Pr(T(y_rep) >= T(y)); see
        `hiertorch.criticism.predictive`.

        Args:
            statistics: of your own beside the usual ones: name -> function of a response `(draws, rows)` to `(draws,)`,
                or a list of `hiertorch.criticism.statistics.Statistic`, which can read groups and columns.
            groups: "known" keeps the effects that were fitted; "new" draws them again from the population, which shows
                groups that do not fit it.
            draws: replications.
            seed: of the random numbers; left out, one that follows from the run's.
        """
        return predictive_check(self, statistics, draws=draws, seed=seed, groups=groups)

    def pooling(self) -> Pooling:
        """lambda = 1 - V(E eps) / E(V eps) for the errors eps of each level, R2 = 1 - E(V eps) / E(V theta) (Gelman &
        Pardoe 2006), shrinkage by group, and shares of variance; see `hiertorch.pooling.factors`.
        """
        return pooling(self)

    def predictions(self, frame: Table | None = None, **settings: object) -> Estimates:
        """E[y | x_i] of the fitted rows or of others, in `draws`, and a `summary`. Groups that were fitted have their
        effects; over those of others, and of groupings that the frame leaves out, is averaged.

        Args:
            frame: rows with the user's own columns; None takes those that were fitted.
            settings: `by` (columns: averages over their cells), `average` (over all rows), `new_groups` ("average",
                "sample" for one new group, "population" for effects at the mean of their prior), `kind` ("mean", or
                "probability" of each category), `draws` (4000; None takes all), `ci_prob`, `seed`.

        Raises:
            DataError: for columns that can't be read, and data whose original columns are not known.
        """
        return predictions(self, frame, **settings)

    def comparisons(self, variables: Any = None, frame: Table | None = None, **settings: object) -> Estimates:
        """E[y | x_k = b] - E[y | x_k = a], all else as it is in each row; arguments and errors as in `predictions`.

        Args:
            variables: columns, all if left out: a number by +1 (0 against 1 where it has no others), categories each
                against the first; or column -> a gap, "sd", or two values (a, b).
            frame: rows; None takes those that were fitted.
            settings: of `predictions`.
        """
        return comparisons(self, variables, frame, **settings)

    def slopes(self, variables: Any = None, frame: Table | None = None, **settings: object) -> Estimates:
        """dE[y | x_i] / dx_k by central differences, and of categories `comparisons`; arguments likewise."""
        return slopes(self, variables, frame, **settings)

    def conditional_effects(self, effect: str | Sequence[str], **settings: Any) -> ConditionalEffects:
        """E[y] along a column, "SES", or for values of another, "SES:Sector", with other numbers at their mean, other
        categories at their first level, and groups averaged over: `summary`, and `plot()` makes a figure.

        Args:
            effect: one column or two that predict, "x", "x:z" or ["x", "z"].
            settings: `values` (column -> values), `resolution` (100), and of `predictions` all but by and average.
        """
        return conditional_effects(self, effect, **settings)

    def fixef(self, *, ci_prob: float = CI_PROB) -> pd.DataFrame:
        """Mean, sd and interval of the coefficients that all rows share, "Intercept" and the terms' labels in models of
        formulas: lme4's fixef.
        """
        return fixef(self, ci_prob)

    def ranef(self, *, ci_prob: float = CI_PROB) -> pd.DataFrame:
        """What each group adds to its population, u_gj = e_gj - E[e_gj | population], by grouping, group and effect:
        lme4's ranef. Effects that were not stored are drawn again.
        """
        return ranef(self, ci_prob)

    def varcorr(self, *, ci_prob: float = CI_PROB) -> pd.DataFrame:
        """Sds of groups' effects, correlations (with `with`), and scales of the rows ("rows"): lme4's VarCorr."""
        return varcorr(self, ci_prob)

    def r2(self, *, ci_prob: float = CI_PROB) -> pd.DataFrame:
        """R^2 = V(E y) / (V(E y) + E V(y)) over the rows, by draw (Gelman et al. 2019): "conditional" on the groups'
        effects, and "marginal", with effects at their prior mean above; see `hiertorch.effects.explained`.
        """
        return r2(self, ci_prob)

    def hypothesis(self, sentences: str | Sequence[str], *, ci_prob: float = CI_PROB) -> pd.DataFrame:
        """Pr(left > right | y) of "SES > 0" or "SES - 2 * Sector < 0.5", its odds, and the interval of left - right.

        Args:
            sentences: of one sign, >, < or =, between numbers and parameters as `fixef` or `summary` calls them, with
                + - * / ^ exp log sqrt abs.
            ci_prob: probability within the interval.

        Raises:
            UnknownNameError, DataError: for a parameter that there isn't, and for a sentence that can't be read.
        """
        return hypothesis(self, sentences, ci_prob)

    def sensitivity(self, names: Sequence[str] | None = None) -> Sensitivity:
        """How much each parameter would move with a stronger or weaker prior or likelihood; see
        `hiertorch.criticism.sensitivity`.

        Args:
            names: latents to look at; None looks at the population-level ones.
        """
        return sensitivity(self, names)

    def update(self, frame: Table, **settings: Any) -> Self:
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
        return update(self, frame, **settings)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML file that says what was fitted, whether it can be believed, and what came out, or raise a
        RunFolderError if it can't be written; see `hiertorch.report.writing`.
        """
        return write(self, path)

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
            UnknownNameError, DataError: if there is no such latent, and for an argument that is none of those above.
        """
        return summary(self, names, ci_prob=ci_prob, kind=kind, round_to=round_to)

    def to_arviz(self, **settings: Any) -> "DataTree":
        """The draws as an ArviZ DataTree: `posterior`, `sample_stats` (log density `lp`, and by block, chain and group
        `acceptance_<block>`), and `observed_data` and `constant_data` where the data are known; labels are coordinates.
        What was run is in the attributes of `posterior`, as JSON.

        Args:
            settings: `log_likelihood=True` and `posterior_predictive=True` add these, draws x rows numbers each, for
                `arviz_stats.loo`, `compare` and `arviz_plots.plot_ppc_dist`; `draws` (thins all groups evenly), `seed`.
        """
        return to_arviz(self, **settings)

    def save(self, path: str | os.PathLike[str], *, data: bool = True) -> None:
        """Write a posterior to one file, whole or not at all: draws to the bit, labels with their types, where a run
        with `start=` goes on, and model and data, so that what is loaded predicts. Of a formula the file has its text
        and the columns that it reads; of a model of a class, ready or your own, the names of class and module and the
        arguments, where these are numbers, text, lists, tensors, families and distributions, and the data. The format
        is safetensors, whatever the name of the file; there is no code in it. A file that is there is replaced and
        keeps its mode; a symbolic link is followed.

        Args:
            path: of the file.
            data: False leaves the rows out, and keeps what new ones are read by: levels, means, knots, labels of
                groups, scales of priors. What is loaded predicts likewise, and nothing else.

        Raises:
            DataError, RunFolderError: for labels, settings that a file can't hold, no draws; if it can't be written.
        """
        keeping.save(path, self.drawn(), data=data)

    def export(self, path: str | os.PathLike[str], *, draws: int | None = 1000) -> None:
        """Write one file from which `hiertorch.deploy` predicts with NumPy, without torch and the rows: `draws` of all
        chains together, evenly thinned (None takes all), and how rows are read; see `hiertorch.predict.exporting`.

        Raises:
            ModelError, DataError, RunFolderError: for what a file can't say or hold, and if it can't be written.
        """
        exporting.export(path, self.drawn(), draws=draws)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str], *, model: Model | None = None, data: Data | None = None,
        keep_in_memory: float | str | None = None,
    ) -> Self:  # fmt: skip
        """The posterior that `save` wrote, with its tensors on the CPU, and with its model and data as far as these can
        be made again and are what was fitted; if not, who asks for predictions is told why.

        Args:
            path: of the file, or the folder of a run with `checkpoint=`, whose draws so far are read.
            model: that was fitted, in place of the file's: of a class of a notebook, or whose arguments it can't hold.
            data: its data, in place of the file's, with `model`.
            keep_in_memory: of a run with `checkpoint=`, as in `ht.sample`.

        Raises:
            DataError: if there is no such file, or it isn't one of these, or is damaged.
            ModelError, DataError: if the model and data that are given are not those that were fitted.
        """
        posterior = so_far(path, cls, keep_in_memory) if is_run(path) else storage.load(path, cls)
        keeping.restore(posterior, model, data)
        return with_derived(posterior) if is_run(path) else posterior


@at_home
def concat(posteriors: Iterable[Posterior]) -> Posterior:
    """The chains of several runs of one model and data as one posterior; see `hiertorch.draws.joining`.

    `run["joined"]` of the result has seed, chains, draws, status and versions of each run; it is marked as interrupted
    if one of them was. Effects that a collapsed run did not store are drawn again for the draws of all runs. A run that
    starts from the result goes on from the chains of all.

    Args:
        posteriors: two or more, also loaded ones; those of `concat` count as the runs that they are made of.

    Raises:
        DataError: for posteriors of other data, of another model or of other latents; for draws that are the same, or
            come from the same random numbers; for chains that each have data of their own.
    """
    return Posterior.of(joined(posteriors))
