"""PSIS-LOO by row of a finished run, from as many draws as there is time for.

    us = rows x draws x (0.015 for a Gaussian density + 0.035 for its weights)

on one core of an AMD EPYC with AVX-512, in float64; then the first rows tell the model's own rate.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from hiertorch.comparison.elpd import Rows, psis_loo, relative_efficiency
from hiertorch.draws.fit import Fit
from hiertorch.draws.pointwise import Pointwise

MOST, DRAWS, FEWEST, SMALLEST = 4_000, 1_000, 300, 25
"""Of all chains together: as many as `Posterior.criterion` takes, as many as are wanted, the least where there are
more, and the least of all.
"""

EASY = 0.25
"""Seconds that more draws than are wanted may take."""

COST, RANGE = 50e-9, 4.0
"""Seconds of a row and draw, a first guess, measured as above; models are between so many times less and more."""

REDRAWN = 25e-9
"""Seconds of an effect of one group that is drawn again, the least; measured as above with egsingle."""

HELD, PROBED = 2**23, 64
"""Numbers of effects drawn again that are held, 64 MB, and the draws by which their cost is told."""

CHUNK = 2**18
"""Rows x draws at once: 2 MB a temporary, about as much as the cache of a core holds."""

SAFETY, LATEST, TIMED = 0.8, 2.0, 4
"""Share of the time that is planned for, that at which it stops, and the chunks by which that is foreseen."""

DEPENDABLE, PARAMETERS = 20, 200
"""Draws of a chain below which their relative efficiency can't be told, and over how many parameters it is averaged."""


class LeftOutError(Exception):
    """Why something can't be had, in a clause."""


class SlowError(LeftOutError):
    """It would take too long: more seconds than there were."""

    def __init__(self, needed: float, seconds: float) -> None:
        super().__init__(f"it would take about {needed:.2g} s, and {max(seconds, 0.0):.2g} s were left for it")


@dataclass(frozen=True, eq=False)
class Loo:
    """What PSIS-LOO found of the rows that say something of the latents, each `(rows,)`."""

    elpd: np.ndarray  # log p(y_i | y without i)
    lppd: np.ndarray  # log p(y_i | y)
    k: np.ndarray  # Pareto k
    draws: int  # that these are from, of all chains together
    labels: pd.Index
    notes: list[str]  # how many rows were left out


def loo(posterior: Fit, seconds: float) -> Loo:
    """PSIS-LOO of as many draws as fit in so many seconds of this thread.

    Raises:
        LeftOutError: if there are too few draws, or if it is seen to take twice as long.
    """
    began, rows = time.thread_time(), posterior.data.n_rows
    planned, latest = began + SAFETY * seconds, began + LATEST * seconds
    pointwise = _thinned(posterior, rows, planned - began, COST)
    if pointwise.number < SMALLEST:
        raise LeftOutError(f"it needs {SMALLEST} draws or more; found {pointwise.number}")
    found = _by_chunks(pointwise, latest)
    if isinstance(found, float):
        pointwise = _thinned(posterior, rows, planned - time.thread_time(), found)
        found = _by_chunks(pointwise, latest)
    if isinstance(found, float):
        raise SlowError(found * rows * pointwise.number, seconds)
    return found


def _by_chunks(pointwise: Pointwise, until: float) -> Loo | float:
    """PSIS-LOO of these draws; or, if it won't be done in time, the seconds of a row and draw."""
    _hold(pointwise, until)
    number, source, done, first = pointwise.number, Rows(pointwise), 0, 0.0
    efficiency, parts, rows = _efficiency(pointwise), list[tuple[np.ndarray, ...]](), len(source.index)
    if not rows:
        raise LeftOutError("no row says anything of the latents")
    for some in pointwise.told.split(max(1, CHUNK // number)):
        parts.append(_columns(pointwise, some, efficiency))
        now, done = time.thread_time(), done + len(some)
        first = first or now  # the first chunk has costs of its own
        if len(parts) > TIMED and done < rows:
            rate = (now - first) / ((done - len(some)) * number)
            if now + rate * (rows - done) * number > until:
                return rate
    elpd, lppd, k = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Loo(elpd, lppd, k, number, source.index, source.notes())


def _thinned(posterior: Fit, rows: int, seconds: float, rate: float) -> Pointwise:
    """Draws that are looked at: 1,000 to 4,000, or fewer that fit the time at a rate of seconds a row and draw."""
    chains, total = posterior.chains, posterior.chains * posterior.n_draws
    most = min(MOST, max(DRAWS, int(EASY / (rate * rows))), int(seconds / (rate * rows)))
    least = max(chains, min(FEWEST, total))
    if most < least:
        needed = rate * rows * least
        if rate != COST or needed > RANGE * seconds:
            raise SlowError(needed, seconds)
        most = least  # a guess; the first rows will tell
    each = -(-posterior.n_draws // max(1, most // chains))  # every so many-th draw of a chain
    if chains * -(-posterior.n_draws // each) < least:
        each = max(1, posterior.n_draws // -(-least // chains))
    return Pointwise(posterior, max(1, total // each))


def _efficiency(pointwise: Pointwise) -> float:
    """Effective draws over draws, at most 1: of a few draws of each chain, far apart, it can't be told and is 1."""
    return 1.0 if len(pointwise.draw) < DEPENDABLE else min(1.0, relative_efficiency(pointwise, PARAMETERS))


def _columns(pointwise: Pointwise, rows: Tensor, efficiency: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """elpd, lppd and Pareto k of some rows, `(n,)` each."""
    x = pointwise.log_likelihood(rows).flatten(0, 1).mT.double().contiguous()
    elpd, k = psis_loo(x, efficiency)
    return elpd, (x.logsumexp(1) - math.log(pointwise.number)).cpu().numpy(), k


def _hold(pointwise: Pointwise, until: float) -> None:
    """Draw effects again that were not stored, once for all rows, if there is time."""
    seconds = until - time.thread_time()
    needed = seconds_a_draw(pointwise, seconds) * pointwise.number
    if needed > seconds:
        raise SlowError(needed, seconds)
    pointwise.hold()


def seconds_a_draw(pointwise: Pointwise, seconds: float) -> float:
    """That it takes to draw all effects again which were not stored, by one draw of some chains; 0 if all were."""
    if pointwise.redraw is None:
        return 0.0
    names, data = pointwise.together, pointwise.data
    groups = sum(data.size(str(pointwise.model.latents[name].plate)) for name in names)
    if groups * pointwise.number > HELD:
        raise LeftOutError(f"the effects of {groups:,} groups were not stored, too many to draw all of them again")
    if (least := groups * pointwise.number * REDRAWN) > seconds:
        raise SlowError(least, seconds)
    chains = min(PROBED, pointwise.chains)
    few = pointwise.redraw.taken(slice(chains), slice(1))
    began = time.thread_time()
    few.draws(names)
    return (time.thread_time() - began) / chains
