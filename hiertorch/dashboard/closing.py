"""What a finished run is shown by: PSIS-LOO by row and data sets simulated from the posterior, in little time.

    us of PSIS-LOO = rows x draws x (0.015 for a Gaussian density + 0.035 for its weights)
    us of replications = rows x data sets x 0.06, since they are made twice

on one core of an AMD EPYC with AVX-512, in float64; then the first rows tell the model's own rate. What does not fit
the allowance, or can't be had, is left out and said so: nothing here raises.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from hiertorch.draws.fit import Fit
from hiertorch.errors import HiertorchError
from hiertorch.model.declared import overrides

if TYPE_CHECKING:
    from hiertorch.draws.pointwise import Pointwise

__all__ = ["Closing", "closing"]

MOST, DRAWS, FEWEST, SMALLEST = 4_000, 1_000, 300, 25
"""Of all chains together, for PSIS-LOO: as many as `Posterior.criterion` takes, as many as are wanted, the least where
there are more, and the least of all.
"""

EASY = 0.25
"""Seconds that more draws than are wanted may take."""

DATA_SETS, DRAWN, ROWS = 200, 40, 2_000
"""Simulated data sets by which misfits are found, those that are drawn, and the most rows of each."""

COST, RANGE = 50e-9, 4.0
"""Seconds of PSIS-LOO a row and draw, a first guess, measured as above; models are between so many times less and more.
"""

SIMULATION = 60e-9
"""Seconds of a simulated response, measured as above."""

REDRAWN = 25e-9
"""Seconds of an effect of one group that is drawn again, the least; measured as above with egsingle."""

HELD, PROBED = 2**23, 64
"""Numbers of effects drawn again that are held, 64 MB, and the draws by which their cost is told."""

CHUNK = 2**18
"""Rows x draws at once: 2 MB a temporary, about as much as the cache of a core holds."""

SAFETY, LATEST, TIMED = 0.8, 2.0, 4
"""Share of the time that is planned for, that at which PSIS-LOO stops, and the chunks by which that is foreseen."""

DEPENDABLE, PARAMETERS = 20, 200
"""Draws of a chain below which their relative efficiency can't be told, and over how many parameters it is averaged."""


@dataclass(frozen=True, eq=False)
class Closing:
    """What is known of a finished run's fit to its rows, and why the rest is not.

    Attributes:
        elpd: sum_i log p(y_i | y without i) by PSIS-LOO; None if it was left out or is not finite.
        se: its standard error, over rows.
        p: effective number of parameters.
        k: Pareto k of every row, `(rows,)`; NaN for a row that has none.
        draws: that these are from, of all chains together.
        limit: Pareto k up to which so many draws are enough.
        labels: of all rows.
        shown: numbers of the rows of y and of the replications, evenly spread, `(shown,)`.
        y: their responses, `(shown,)`; both are empty where rows have no densities.
        replicated: simulated responses of the same rows, `(data sets, shown)`.
        discrete: whether the response is a count, or yes and no.
        misfits: a sentence for each statistic of these rows that the model does not reproduce, as in
            `Posterior.predictive_check`; None if that was not looked at.
        notes: one sentence for all that is missing.
        seconds: that it took.
    """

    elpd: float | None
    se: float | None
    p: float | None
    k: np.ndarray | None
    draws: int
    limit: float
    labels: pd.Index
    shown: np.ndarray
    y: np.ndarray
    replicated: np.ndarray | None
    discrete: bool
    misfits: tuple[str, ...] | None
    notes: tuple[str, ...]
    seconds: float


class _LeftOutError(Exception):
    """Why something can't be had, in a clause."""


class _SlowError(_LeftOutError):
    """It would take too long.

    Args:
        needed: seconds.
        seconds: that there were.
    """

    def __init__(self, needed: float, seconds: float) -> None:
        super().__init__(f"it would take about {needed:.2g} s, and {max(seconds, 0.0):.2g} s were left for it")


@dataclass
class _Loo:
    """Columns of PSIS-LOO over all rows, each `(rows,)`, and the draws that they are from."""

    elpd: np.ndarray
    lppd: np.ndarray
    k: np.ndarray
    draws: int


def closing(posterior: Fit, seconds: float) -> Closing:
    """PSIS-LOO by row and replications of a posterior, in about so many seconds.

    The posterior stays as it is, and so does torch's global random state (no other thread should draw from it
    meanwhile: torch's distributions know no other). The same posterior gives the same replications, and the same
    PSIS-LOO where the allowance is for the same draws.

    Args:
        posterior: a finished run's.
        seconds: of this thread, whatever else the machine does; PSIS-LOO stops as soon as it is seen to take
            twice as long.
    """
    from hiertorch.comparison.elpd import named, total
    from hiertorch.draws.pareto import good_k

    began, notes = time.thread_time(), _Notes()
    labels: pd.Index = pd.RangeIndex(0)
    shown, y = np.zeros(0, dtype=np.int64), np.zeros(0)
    made: tuple[np.ndarray | None, bool, tuple[str, ...] | None] = (None, False, None)
    found: _Loo | None = None
    with notes.of("PSIS-LOO and replications", ""):
        model, data = posterior.model, posterior.data
        labels = data.index
        _check(posterior, model, data)
        shown = np.linspace(0, data.n_rows - 1, min(data.n_rows, ROWS)).round().astype(np.int64)
        y = data.y[torch.as_tensor(shown, device=data.device)].cpu().numpy()
        with notes.of("PSIS-LOO", "posterior.criterion()"):
            found = _loo(posterior, data.n_rows, seconds)
        with notes.of("Replications", "posterior.predictive_check()"):
            made = _replicated(posterior, model, data, shown, seconds)  # some milliseconds, or a sentence
    elpd, se, p = None, None, None
    if found is not None:
        if (odd := np.flatnonzero(~(np.isfinite(found.elpd) & np.isfinite(found.lppd)))).size:
            notes.append(
                f"PSIS-LOO has no sum, since the log density of {named(labels, odd, 'row')} is not finite in some "
                "draws: look at these values of the response, or leave them out."
            )
        else:
            elpd, se = total(found.elpd)
            p = float((found.lppd - found.elpd).sum())
    k, draws = (None, 0) if found is None else (found.k, found.draws)
    took = time.thread_time() - began
    return Closing(elpd, se, p, k, draws, good_k(draws), labels, shown, y, *made, tuple(notes), took)


class _Notes(list[str]):
    """Sentences on what is missing."""

    @contextmanager
    def of(self, what: str, instead: str) -> Iterator[None]:
        """What the block finds out is left out if it raises, and told, with where else it can be had."""
        try:
            with torch.no_grad(), np.errstate(all="ignore"):
                yield
        except _SlowError as error:
            self.append(f"{what} left out: {error}; {instead} takes the time.")
        except (_LeftOutError, HiertorchError) as error:
            self.append(f"{what} left out: {str(error).rstrip('.')}.")
        except Exception as error:  # whatever a user's own model may raise
            first = next(iter(str(error).splitlines()), "").rstrip(".")
            self.append(f"{what} left out, since the model raised {type(error).__name__}: {first}.")


def _check(posterior: Fit, model: Any, data: Any) -> None:
    """Whether rows have densities, given the latents, that the run was about."""
    if posterior.run.get("prior_only") or "the likelihood is left out" in str(posterior.run.get("plan_text", "")):
        raise _LeftOutError("the run was of the prior only, so that its draws say nothing about the rows")
    if overrides(model, "log_prob"):
        raise _LeftOutError("the model overrides log_prob, so that rows are not known to have densities of their own")
    if not overrides(model, "likelihood") and not overrides(model, "log_likelihood"):
        raise _LeftOutError("the model has no likelihood")
    if data.y.dim() > 1 or (data.weights is not None and data.weights.dim() > 1):
        raise _LeftOutError("each chain was fitted to data of its own, so that no row has one density")


def _replicated(
    posterior: Fit, model: Any, data: Any, shown: np.ndarray, seconds: float
) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """Simulated responses `(data sets, shown)`, whether they are discrete, and which statistics differ."""
    from hiertorch.criticism.predictive import PredictiveCheck
    from hiertorch.criticism.replications import from_posterior
    from hiertorch.draws.pointwise import Pointwise

    if overrides(model, "log_likelihood"):
        raise _LeftOutError("the model overrides log_likelihood, and its likelihood alone may not say what y is like")
    needed = (data.n_rows + DATA_SETS * len(shown)) * SIMULATION
    thinned = Pointwise(posterior, 1)
    needed += DATA_SETS * _seconds_a_draw(thinned, seconds)
    if needed > seconds:
        raise _SlowError(needed, seconds)
    replications = from_posterior(posterior, DATA_SETS, "known", 0)
    if len(shown) < data.n_rows:
        replications.data = data.take(shown)
    found = replications.first(DRAWN, torch.arange(replications.data.n_rows, device=replications.data.device))
    if not len(found):
        raise _LeftOutError("no response can be simulated, since a mean of y is beyond all numbers")
    misfits = PredictiveCheck("posterior", replications, None).warnings
    return found.cpu().numpy(), replications.discrete, tuple(misfits)


def _loo(posterior: Fit, rows: int, seconds: float) -> _Loo:
    """PSIS-LOO of as many draws as there is time for."""
    began = time.thread_time()
    planned, latest = began + SAFETY * seconds, began + LATEST * seconds
    pointwise = _thinned(posterior, rows, planned - began, COST)
    if pointwise.number < SMALLEST:
        raise _LeftOutError(f"it needs {SMALLEST} draws or more; found {pointwise.number}")
    found = _by_chunks(pointwise, rows, latest)
    if isinstance(found, float):
        pointwise = _thinned(posterior, rows, planned - time.thread_time(), found)
        found = _by_chunks(pointwise, rows, latest)
    if isinstance(found, float):
        raise _SlowError(found * rows * pointwise.number, seconds)
    return found


def _by_chunks(pointwise: "Pointwise", rows: int, until: float) -> _Loo | float:
    """PSIS-LOO of these draws; or, if it won't be done in time, the seconds of a row and draw."""
    _hold(pointwise, until)
    number, size = pointwise.number, max(1, CHUNK // pointwise.number)
    efficiency, parts, first = _efficiency(pointwise), [], 0.0
    for start in range(0, rows, size):
        parts.append(_columns(pointwise, start, min(start + size, rows), efficiency))
        now = time.thread_time()
        first = first or now  # the first chunk has costs of its own
        done = start + size
        if len(parts) > TIMED and done < rows:
            rate = (now - first) / ((done - size) * number)
            if now + rate * (rows - done) * number > until:
                return rate
    elpd, lppd, k = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Loo(elpd, lppd, k, number)


def _thinned(posterior: Fit, rows: int, seconds: float, rate: float) -> "Pointwise":
    """Draws that are looked at: 1,000 to 4,000, or fewer that fit the time at a rate of seconds a row and draw."""
    from hiertorch.draws.pointwise import Pointwise

    chains, total = posterior.chains, posterior.chains * posterior.n_draws
    most = min(MOST, max(DRAWS, int(EASY / (rate * rows))), int(seconds / (rate * rows)))
    least = max(chains, min(FEWEST, total))
    if most < least:
        needed = rate * rows * least
        if rate != COST or needed > RANGE * seconds:
            raise _SlowError(needed, seconds)
        most = least  # a guess; the first rows will tell
    each = -(-posterior.n_draws // max(1, most // chains))  # every so many-th draw of a chain
    if chains * -(-posterior.n_draws // each) < least:
        each = max(1, posterior.n_draws // -(-least // chains))
    return Pointwise(posterior, max(1, total // each))


def _efficiency(pointwise: "Pointwise") -> float:
    """Effective draws over draws, at most 1: of a few draws of each chain, far apart, it can't be told and is 1."""
    from hiertorch.comparison.elpd import relative_efficiency

    return 1.0 if len(pointwise.draw) < DEPENDABLE else min(1.0, relative_efficiency(pointwise, PARAMETERS))


def _columns(
    pointwise: "Pointwise", start: int, stop: int, efficiency: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """elpd, lppd and Pareto k of some rows, each `(stop - start,)`."""
    from hiertorch.comparison.elpd import psis_loo

    rows = torch.arange(start, stop, device=pointwise.data.device)
    x = pointwise.log_likelihood(rows).flatten(0, 1).mT.double().contiguous()
    elpd, k = psis_loo(x, efficiency)
    return elpd, (x.logsumexp(1) - math.log(pointwise.number)).cpu().numpy(), k


def _hold(pointwise: "Pointwise", until: float) -> None:
    """Draw effects again that were not stored, once for all rows, if there is time."""
    seconds = until - time.thread_time()
    needed = _seconds_a_draw(pointwise, seconds) * pointwise.number
    if needed > seconds:
        raise _SlowError(needed, seconds)
    pointwise.hold()


def _seconds_a_draw(pointwise: "Pointwise", seconds: float) -> float:
    """That it takes to draw all effects again which were not stored, by one draw of some chains; 0 if all were."""
    if pointwise.redraw is None:
        return 0.0
    names, data = pointwise.together, pointwise.data
    groups = sum(data.size(str(pointwise.model.latents[name].plate)) for name in names)
    if groups * pointwise.number > HELD:
        raise _LeftOutError(f"the effects of {groups:,} groups were not stored, too many to draw all of them again")
    if (least := groups * pointwise.number * REDRAWN) > seconds:
        raise _SlowError(least, seconds)
    chains = min(PROBED, pointwise.chains)
    few = pointwise.redraw.taken(slice(chains), slice(1))
    began = time.thread_time()
    few.draws(names)
    return (time.thread_time() - began) / chains
