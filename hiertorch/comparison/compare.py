"""elpd_A - elpd_B = sum_i (elpd_Ai - elpd_Bi): which model predicts better, and whether the data can tell."""

import html
import itertools
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import pandas as pd

from hiertorch import wording
from hiertorch.arguments import check_seed
from hiertorch.comparison.averaging import bootstrapped, stacked
from hiertorch.comparison.criteria import Criterion, criterion
from hiertorch.comparison.verdict import doubt, errors_asked, sentences
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, HiertorchError
from hiertorch.runtime.surroundings import at_home

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 118  # of text


@dataclass(frozen=True, eq=False)
class Comparison:
    """Candidates from the best to the worst, and what may be said of them.

    Attributes:
        kind: "loo", "waic", "dic" or "kfold".
        by: "row", or the grouping whose groups were left out whole.
        table: one row a candidate, the best first: elpd, its standard error se, effective parameters p; diff, which is
            elpd minus that of the best, and diff_se = sqrt(n Var_i(elpd_i - elpd_best,i)); weights by stacking and by
            pseudo-BMA+; worst_k, the highest Pareto k. NaN where a criterion has no such number.
        verdict: what the table allows to say, in sentences.
        best: the candidate with the highest elpd.
        indistinguishable: the others that can't be told from it, see `compare`.
        criteria: what was compared.
    """

    kind: str
    by: str
    table: pd.DataFrame
    verdict: str
    best: str
    indistinguishable: list[str]
    criteria: Mapping[str, Criterion]

    def __repr__(self) -> str:
        head, *paragraphs = (textwrap.fill(line, WIDTH) for line in self._lines)
        return "\n".join([head, self._shown.to_string(line_width=WIDTH), "", *paragraphs])

    def _repr_html_(self) -> str:
        head, *paragraphs = (f"<p>{html.escape(line)}</p>" for line in self._lines)
        return "".join([head, self._shown.to_html(), *paragraphs])

    @property
    def _title(self) -> str:
        number = len(next(iter(self.criteria.values())).pointwise)
        return f"{self.kind.upper()} by {self.by}, {number:,} {'rows' if self.by == 'row' else 'groups'}"

    @property
    def _lines(self) -> list[str]:
        question = next(iter(self.criteria.values())).question
        return [self._title + (f". {question}" if question else ""), *self.verdict.split("\n")]

    @property
    def _shown(self) -> pd.DataFrame:
        """The table as text; weights and k with two decimals."""
        fine = ("stacking", "pseudo_bma", "worst_k")
        columns = {
            name: [("" if math.isnan(x) else f"{x:.{2 if name in fine else 1}f}") for x in self.table[name] + 0.0]
            for name in self.table
        }
        return pd.DataFrame(columns, index=self.table.index.rename(None))

    def plot(self) -> "Figure":
        """Each candidate's difference to the best, with as many of its paired standard errors as the verdict asks for.

        Drawn by `arviz_plots.plot_compare`, in inches that fit the number of candidates.

        Raises:
            HiertorchError: if arviz-plots or matplotlib are not installed.
        """
        try:
            from arviz_plots import plot_compare
            from matplotlib import pyplot
            from matplotlib.figure import Figure
        except ImportError as error:
            raise HiertorchError(f"a figure needs {error.name}: pip install 'hiertorch[plots]'.") from error
        shown = self._shown
        errors = errors_asked(len(next(iter(self.criteria.values())).pointwise))
        known = self.table.assign(elpd=self.table["diff"], se=errors * self.table["diff_se"].fillna(0.0))
        known.index = pd.Index(
            [f"{self.best}\nthe best"]
            + [f"{name}\n{shown['diff'][name]}, se {shown['diff_se'][name] or 'unknown'}" for name in known.index[1:]]
        )
        size = {"figsize": (8.0, 1.2 + 0.55 * len(known)), "figsize_units": "inches"}
        collection = plot_compare(known, backend="matplotlib", visuals={"similar_line": True}, figure_kwargs=size)
        figure = cast(Figure, collection.viz["figure"].item())
        pyplot.close(figure)  # which else shows it a second time in a notebook
        axes = figure.axes[0]
        axes.set_title(f"{self._title}: worse than the best by how much?")
        axes.set_xlabel(f"difference of elpd, and {errors} standard errors (dotted: -4, small if right of it)")
        axes.margins(y=0.1)
        figure.set_layout_engine("constrained")
        return figure


@at_home
def compare(
    candidates: Mapping[str, Fit | Criterion],
    *,
    kind: Literal["loo", "waic", "dic", "kfold"] | None = None,
    by: str | None = None,
    draws: int | None = 4000,
    seed: int | None = None,
) -> Comparison:
    """sum_i (elpd_Ai - elpd_Bi) +- sqrt(n Var_i(elpd_Ai - elpd_Bi)) of candidates A and B, over rows or groups i
    (Vehtari, Gelman & Gabry 2017, equation 24).

    The verdict says that one candidate predicts better than another only if its elpd is higher by more than 4 (a
    smaller difference is small whatever its standard error) and by more than two of the difference's standard errors
    (Sivula, Magnusson & Vehtari 2020); by more than four where there are fewer than 100 rows or groups, with which the
    standard error may be half of what it should be (Bengio & Grandvalet 2004). Where some have a Pareto k above 0.7 in
    one of the two, the same has to hold without these.

    Weights are for averaging predictions, not probabilities of being true. Stacking maximises
    sum_i log sum_k w_k p_k(y_i | y_-i); pseudo-BMA+ is the mean over Bayesian bootstraps of the rows of
    w_k proportional to exp(elpd_k) (Yao, Vehtari, Simpson & Gelman 2018, sections 3.1 and 3.4).

    Args:
        candidates: name -> posterior, or a criterion that is ready, such as `posterior.kfold()`.
        kind: of criterion; left out, that of ready ones, "loo" if there is none.
        by: "row", or the grouping whose groups are left out whole, of which the data must know, also those of a model
            that ignores it; left out, that of ready criteria, or "row".
        draws: of each posterior that are looked at; None takes all.
        seed: of the bootstraps; left out, always the same.

    Raises:
        DataError: for fewer than two candidates, other data, kinds or groups in one than in another, an elpd that is
            not finite, and for all that `Posterior.criterion` refuses.
    """
    _check(candidates)
    check_seed(seed)
    wanted, by = _asked(candidates, kind, by)
    criteria = {
        name: one if isinstance(one, Criterion) else criterion(one, wanted, by, draws=draws)
        for name, one in candidates.items()
    }
    _check_criteria(criteria)
    order = sorted(criteria, key=lambda name: -criteria[name].elpd)
    criteria = {name: criteria[name] for name in order}
    best = criteria[order[0]]
    unknown = np.full(len(best.pointwise), np.nan)  # where a DIC has no values by row or group
    pointwise = np.stack([one.pointwise.get("elpd", unknown) for one in criteria.values()], 1).astype(np.float64)
    averaged = best.kind != "dic"  # whose terms are no predictive densities
    every, gaps = list(criteria.values()), pointwise - pointwise[:, :1]
    table = pd.DataFrame(
        {
            "elpd": [one.elpd for one in every],
            "se": [one.se for one in every],
            "p": [one.p for one in every],
            "diff": [one.elpd - best.elpd for one in every],
            "diff_se": np.sqrt(len(gaps) * gaps.var(0)),
            "stacking": stacked(pointwise) if averaged else math.nan,
            "pseudo_bma": bootstrapped(pointwise, seed) if averaged else math.nan,
            "worst_k": [one.pointwise.get("pareto_k", pd.Series(math.nan)).max() for one in every],
        },
        index=pd.Index(order, name="model"),
    )
    doubts = {name: doubt(best, criteria[name]) for name in order[1:]}
    same = [name for name, reason in doubts.items() if reason]
    return Comparison(best.kind, best.by, table, sentences(table, criteria, doubts), order[0], same, criteria)


def _check(candidates: Mapping[str, Fit | Criterion]) -> None:
    """Whether there are candidates, and posteriors of the same data."""
    if not isinstance(candidates, Mapping) or len(candidates) < 2:
        found = len(candidates) if isinstance(candidates, Mapping) else type(candidates).__name__
        raise DataError(
            f"compare takes at least two candidates by name, {{'a': posterior, 'b': other}}; found {found}."
        )
    for name, one in candidates.items():
        if not isinstance(one, Fit | Criterion):
            raise DataError(
                f"candidate {name!r} should be a posterior of ht.sample or a criterion, such as posterior.kfold(); "
                f"found {type(one).__name__}."
            )
    marks = {name: one.fingerprint for name, one in candidates.items() if one.fingerprint is not None}
    for first, name in itertools.pairwise(marks):
        a, b, both = marks[first], marks[name], f"candidates {first!r} and {name!r}"
        if a.n_rows != b.n_rows:
            raise DataError(f"{both} were fitted to {a.n_rows} and {b.n_rows} rows: fit all to the same rows.")
        if a.response != b.response:
            raise DataError(
                f"{both} were fitted to different responses: fit all to the same rows in the same order, on the same "
                "scale (log y and y have no common elpd)."
            )
        if a.weights != b.weights:
            raise DataError(f"{both} were fitted with different row weights: fit all with the same ones.")


def _asked(candidates: Mapping[str, Fit | Criterion], kind: str | None, by: str | None) -> tuple[str, str]:
    """Kind and grouping, given or those of the criteria that are ready, which must be the same."""
    for what, word in (("kind", kind), ("by", by)):
        if word is not None and not isinstance(word, str):
            raise DataError(f"{what}= is a word, as posterior.criterion has it; found {word!r}.")
    ready = {name: one for name, one in candidates.items() if isinstance(one, Criterion)}
    for name, one in ready.items():
        kind, by = one.kind if kind is None else kind, one.by if by is None else by
        if (one.kind, one.by) != (kind, by):
            raise DataError(
                f"candidate {name!r} is {one.kind!r} by {one.by!r}, and {kind!r} by {by!r} is compared: criteria of "
                "different kinds answer different questions, so compute the same of each candidate."
            )
    if kind == "kfold" and len(ready) < len(candidates):
        name = next(name for name in candidates if name not in ready)
        raise DataError(f"candidate {name!r} is a posterior: give its posterior.kfold(...), as of the others.")
    return kind or "loo", by or "row"


def _check_criteria(criteria: Mapping[str, Criterion]) -> None:
    """Whether criteria are numbers, and of the same rows or groups."""
    (first, model), *others = criteria.items()
    for name, one in others:
        marks = [c.fingerprint.groups.get(c.by) for c in (model, one) if c.fingerprint is not None]
        if len(marks) == 2 and None not in marks and marks[0] != marks[1]:
            raise DataError(
                f"candidates {first!r} and {name!r} have other rows in the groups of {one.by!r}, or these in another "
                "order: fit all to the same data."
            )
        if not one.pointwise.index.equals(model.pointwise.index):
            raise DataError(
                f"candidates {first!r} and {name!r} are about different rows or groups ({len(model.pointwise)} and "
                f"{len(one.pointwise)}, or in another order): fit all to the same data."
            )
    for name, one in criteria.items():
        values = one.pointwise["elpd"].to_numpy(np.float64) if "elpd" in one.pointwise else np.empty(0)
        if not math.isfinite(one.elpd) or (one.kind != "dic" and not np.isfinite(values).all()):
            bad = np.flatnonzero(~np.isfinite(values))
            where = f" in {wording.show(one.pointwise.index[bad[0]])} and {len(bad) - 1} more" if len(bad) else ""
            raise DataError(
                f"the elpd of candidate {name!r} is not finite{where}: its likelihood has a density of 0 or NaN there; "
                "look at posterior.criterion(...).pointwise."
            )
