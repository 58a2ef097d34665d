"""Predictive checks: does the model make data like those that it was fitted to, and the prior data like these at all?

p = Pr(T(y_rep) >= T(y)),  y_rep ~ p(y_rep | theta),  theta ~ p(theta | y), or theta ~ p(theta) for the prior.
"""

import secrets
from typing import TYPE_CHECKING

from hiertorch.arguments import check_choice, check_count, check_seed
from hiertorch.criticism.check import Check
from hiertorch.criticism.figures import draw
from hiertorch.criticism.replications import from_posterior, from_prior
from hiertorch.criticism.statistics import Statistics
from hiertorch.criticism.uniformity import loo_pit
from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import DataError
from hiertorch.model.model import Model
from hiertorch.runtime.surroundings import at_home, feels_at_home

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = ("known", "new")


@feels_at_home
class PredictiveCheck(Check):
    """What a model, or its prior, reproduces of a response; see `Check` for its tables and sentences."""

    def plot(self, kind: str = "density", plate: str | None = None) -> "Figure":
        """A matplotlib figure; save it by `.savefig(path)`.

        Args:
            kind: "density" (response and replications), "statistics" (T(y) among T(y_rep)), "groups" (group means among
                replicated ones), "loo_pit" (distribution function of LOO-PIT less the uniform one), "calibration" (of
                a binary response) or "rootogram" (of a count).
            plate: the grouping of "groups"; the first if left out.

        Raises:
            DataError: for another kind, and one that does not fit the response.
            ImportError: without the extra `plots`.
        """
        return draw(self, kind, plate)


def predictive_check(
    posterior: Fit,
    statistics: Statistics | None = None,
    *,
    draws: int = 1000,
    seed: int | None = None,
    groups: str = "known",
) -> PredictiveCheck:
    """p = Pr(T(y_rep) >= T(y) | y) of statistics T that fit the response: mean, sd, extremes, skewness, zeros, variance
    over mean, calibration, means and sds of groups, and your own (Gelman, Meng & Stern 1996).

    With known groups, y_rep is a new response of the same rows of the same groups: the check that sees whether rows are
    described. Effects of groups follow the data, so that groups that don't fit their population can't be seen: with new
    groups, effects are drawn again given the population-level latents (mixed replication: Marshall & Spiegelhalter
    2003), and their means and spread are checked. A model with an effect of each row describes any rows: check it with
    new groups. Row weights are ignored: every row counts once. Where there are more replications than draws, some draws
    make two. Arguments are those of `hiertorch.posterior.Posterior.predictive_check`.

    Raises:
        DataError: if the posterior does not know its model and data, for statistics that are no such functions or not
            finite, and fewer than one draw.
    """
    check_choice("groups", groups, GROUPS)
    check_count("draws", draws)
    replications = from_posterior(posterior, draws, groups, posterior.derived("predictive_check", seed))
    return PredictiveCheck("posterior", replications, statistics, groups, lambda: loo_pit(posterior, seed=seed))


@at_home
def prior_check(
    model: Model,
    data: Data,
    statistics: Statistics | None = None,
    *,
    draws: int = 1000,
    seed: int | None = None,
) -> PredictiveCheck:
    """p = Pr(T(y_rep) >= T(y)), y_rep ~ p(y) = int p(y | theta) p(theta) dtheta: data as the prior expects them, before
    any is seen (Box 1980). Extreme ones are those that the prior all but excludes.

    Args:
        model: any.
        data: the rows; their response is only compared with.
        statistics: of your own beside the usual ones, as in `Posterior.predictive_check`.
        draws: replications.
        seed: of the random numbers; a random one if left out.

    Raises:
        ModelError, DataError: if model and data don't fit each other, and as `predictive_check` does.
    """
    if not isinstance(model, Model) or not isinstance(data, Data):
        raise DataError(
            f"prior_check takes an ht.Model and ht.Data; found {type(model).__name__} and {type(data).__name__}."
        )
    if data.y.ndim > 1:
        raise DataError("each chain of these data has a response of its own; check one response, of shape (rows,).")
    check_count("draws", draws)
    check_seed(seed)
    model.check(data)
    fitted = Fitted(model, data, data.y)
    number = secrets.randbits(62) if seed is None else seed
    return PredictiveCheck("prior", from_prior(fitted.model, fitted.data, draws, number), statistics, "new")
