"""What a finished run is shown by: PSIS-LOO by row and data sets simulated from the posterior, in little time.

What does not fit the allowance, or can't be had, is left out and said so: nothing here raises.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from hiertorch.comparison.elpd import Found, Rows, named, total
from hiertorch.criticism.predictive import PredictiveCheck
from hiertorch.criticism.replications import from_posterior
from hiertorch.dashboard.loo import LeftOutError, SlowError, check_redrawn, loo
from hiertorch.data.table import Data
from hiertorch.draws.fit import Fit
from hiertorch.draws.pareto import good_k
from hiertorch.draws.pointwise import Pointwise
from hiertorch.draws.spacing import evenly
from hiertorch.errors import HiertorchError
from hiertorch.model.declared import overrides
from hiertorch.model.model import Model

DATA_SETS, DRAWN, ROWS = 200, 40, 2_000
"""Simulated data sets by which misfits are found, those that are drawn, and the most rows of each."""

SIMULATION = 60e-9
"""Seconds of a simulated response, which is made twice, on one core of an AMD EPYC with AVX-512 in float64."""


@dataclass(frozen=True, eq=False)
class Closing:
    """What is known of a finished run's fit to its rows, and why the rest is not."""

    elpd: float | None  # sum_i log p(y_i | y without i) by PSIS-LOO; None if it was left out or is not finite
    se: float | None  # its standard error, over rows
    p: float | None  # effective number of parameters
    k: np.ndarray | None  # Pareto k of every row that says something of the latents, (rows,); NaN for one without
    draws: int  # that these are from, of all chains together
    limit: float  # Pareto k up to which so many draws are enough
    labels: pd.Index  # of these rows
    shown: np.ndarray  # numbers of the rows of y and of the replications, evenly spread, (shown,)
    y: np.ndarray  # their responses, (shown,); both are empty where rows have no densities
    replicated: np.ndarray | None  # simulated responses of the same rows, (data sets, shown)
    discrete: bool  # whether the response is a count, or yes and no
    misfits: tuple[str, ...] | None  # a sentence for each statistic that is not reproduced; None if nobody looked
    notes: tuple[str, ...]  # a sentence for each thing that is missing


def closing(posterior: Fit, seconds: float) -> Closing:
    """PSIS-LOO by row and replications of a posterior, in about so many seconds.

    The posterior stays as it is, and so does torch's global random state (no other thread should draw from it
    meanwhile: torch's distributions know no other). The same posterior gives the same replications, and the same
    PSIS-LOO where the allowance is for the same draws. Seconds are the processor's, of this process, whatever else the
    machine does; PSIS-LOO stops as soon as it is seen to take twice as long.
    """
    notes = _Notes()
    shown, y = np.zeros(0, dtype=np.int64), np.zeros(0)
    made: tuple[np.ndarray | None, np.ndarray | None, bool, tuple[str, ...] | None] = (None, None, False, None)
    found: tuple[Rows, Found] | None = None
    with notes.of("PSIS-LOO and replications", ""):
        model, data = posterior.model, posterior.data
        _check(posterior, model, data)
        rows = evenly(data.n_rows, ROWS, data.device)
        shown, y = rows.cpu().numpy(), data.y[rows].cpu().numpy()
        with notes.of("PSIS-LOO", "posterior.criterion()"):
            found = loo(posterior, seconds)
        with notes.of("Replications", "posterior.predictive_check()"):
            made = _replicated(posterior, model, data, shown, seconds)  # some milliseconds, or a sentence
    elpd, se, p, k, draws = None, None, None, None, 0
    labels: pd.Index = pd.RangeIndex(0)
    if found is not None:
        source, columns = found
        notes += source.notes()
        k, draws, labels = columns["pareto_k"], source.pointwise.number, source.index
        if (odd := np.flatnonzero(~columns["finite"])).size:
            notes.append(
                f"PSIS-LOO has no sum, since the log density of {named(labels, odd, 'row')} is not finite in some "
                "draws: look at these values of the response, or leave them out."
            )
        else:
            elpd, se, p = total(columns["elpd"], columns["p"])
    y = y if made[0] is None else made[0]
    return Closing(elpd, se, p, k, draws, good_k(draws), labels, shown, y, *made[1:], tuple(notes))


class _Notes(list[str]):
    """Sentences on what is missing."""

    @contextmanager
    def of(self, what: str, instead: str) -> Iterator[None]:
        """What the block finds out is left out if it raises, and told, with where else it can be had."""
        try:
            with torch.no_grad(), np.errstate(all="ignore"):
                yield
        except SlowError as error:
            self.append(f"{what} left out: {error}; {instead} takes the time.")
        except (LeftOutError, HiertorchError) as error:
            self.append(f"{what} left out: {' '.join(str(error).split()).rstrip('.')}.")
        except Exception as error:  # whatever a user's own model may raise
            first = next(iter(str(error).splitlines()), "").rstrip(".")
            self.append(f"{what} left out, since the model raised {type(error).__name__}: {first}.")


def _check(posterior: Fit, model: Model, data: Data) -> None:
    """Whether rows have densities, given the latents, that the run was about."""
    if posterior.run.get("prior_only") or "the likelihood is left out" in str(posterior.run.get("plan_text", "")):
        raise LeftOutError("the run was of the prior only, so that its draws say nothing about the rows")
    if overrides(model, "log_prob"):
        raise LeftOutError("the model overrides log_prob, so that rows are not known to have densities of their own")
    if not overrides(model, "likelihood") and not overrides(model, "log_likelihood"):
        raise LeftOutError("the model has no likelihood")
    if data.by_chain:
        raise LeftOutError("each chain was fitted to data of its own, so that no row has one density")


def _replicated(
    posterior: Fit, model: Model, data: Data, shown: np.ndarray, seconds: float
) -> tuple[np.ndarray, np.ndarray, bool, tuple[str, ...]]:
    """The response `(shown,)`, simulated ones `(data sets, shown)`, whether they are discrete, and which statistics
    differ.
    """
    if overrides(model, "log_likelihood"):
        raise LeftOutError("the model overrides log_likelihood, and its likelihood alone may not say what y is like")
    needed = (data.n_rows + DATA_SETS * len(shown)) * SIMULATION
    if needed > seconds:
        raise SlowError(needed, seconds)
    check_redrawn(Pointwise(posterior, 1), DATA_SETS)
    replications = from_posterior(posterior, DATA_SETS, "known", 0)
    if len(shown) < data.n_rows:
        replications.data = data.take(shown)
    found = replications.first(DRAWN, torch.arange(replications.data.n_rows, device=replications.data.device))
    if not len(found):
        raise LeftOutError("no response can be simulated, since a mean of y is beyond all numbers")
    misfits = PredictiveCheck("posterior", replications, None).warnings
    return replications.y.cpu().numpy(), found.cpu().numpy(), replications.discrete, tuple(misfits)
