"""PSIS-LOO by row of a finished run, from as many draws as there is time for.

    us = rows x draws x (0.015 for a Gaussian density + 0.035 for its weights)

on one core of an AMD EPYC with AVX-512, in float64; then the first rows tell the model's own rate.
"""

import time
from collections.abc import Iterator

from torch import Tensor

from hiertorch.comparison import elpd
from hiertorch.comparison.elpd import Found, Rows, relative_efficiency
from hiertorch.draws.fit import Fit
from hiertorch.draws.pointwise import Pointwise

MOST, DRAWS, FEWEST, SMALLEST = 4_000, 1_000, 300, 25
"""Of all chains together: as many as `Posterior.criterion` takes, as many as are wanted, the least where there are
more, and the least of all.
"""

EASY = 0.1
"""Seconds that more draws than are wanted may take."""

COST, RANGE = 50e-9, 4.0
"""Seconds of a row and draw, a first guess, measured as above; models are between so many times less and more."""

HELD = 2**23
"""Numbers of effects drawn again that are held, 64 MB; with one or two effects a group, one takes some 25 to 65 ns."""

CHUNK = 2**18
"""Rows x draws at once: 2 MB a temporary, about as much as the cache of a core holds."""

SAFETY, LATEST, TIMED = 0.8, 2.0, 8
"""Share of the time that is planned for, that at which it stops, and the chunks by which that is foreseen."""

DEPENDABLE, PARAMETERS = 20, 200
"""Draws of a chain below which their relative efficiency can't be told, and over how many parameters it is averaged."""


class LeftOutError(Exception):
    """Why something can't be had, in a clause."""


class SlowError(LeftOutError):
    """It would take too long: more seconds than there were."""

    def __init__(self, needed: float, seconds: float) -> None:
        super().__init__(f"it would take about {needed:.2g} s, and {max(seconds, 0.0):.2g} s were left for it")


class Timed(Rows):
    """Rows in small chunks, until it is foreseen that they won't be done with in time.

    Attributes:
        rate: seconds of a row and draw, if it is so.
    """

    def __init__(self, pointwise: Pointwise, until: float) -> None:
        super().__init__(pointwise)
        self._until, self.rate = until, 0.0

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of `Rows`; all but the last few are done with when the next one is asked for."""
        number, rows, done, first = self.pointwise.number, len(self.index), 0, 0.0
        for k, some in enumerate(self.pointwise.told.split(max(1, CHUNK // number))):
            yield some, self.pointwise.log_likelihood(some)
            now, done = time.process_time(), done + len(some)
            first = first or now  # the first chunk has costs of its own
            if k >= TIMED and done < rows:
                rate = (now - first) / ((done - len(some)) * number)
                if now + rate * (rows - done) * number > self._until:
                    self.rate = rate
                    return


def loo(posterior: Fit, seconds: float) -> tuple[Rows, Found]:
    """PSIS-LOO of as many draws as fit in so many seconds of the processor: the rows that say something, and columns of
    `hiertorch.comparison.elpd.loo`.

    Raises:
        LeftOutError: if there are too few draws, or if it is seen to take twice as long.
    """
    rows, rate, began = posterior.data.n_rows, COST, time.process_time()
    for _ in range(2):  # by the rate that is guessed, then by the model's own
        pointwise = _thinned(posterior, rows, began + SAFETY * seconds - time.process_time(), rate)
        if pointwise.number < SMALLEST:
            raise LeftOutError(f"it needs {SMALLEST} draws or more; found {pointwise.number}")
        check_redrawn(pointwise, pointwise.number)
        pointwise.hold()
        source = Timed(pointwise, began + LATEST * seconds)
        if not len(source.index):
            raise LeftOutError("no row says anything of the latents")
        told = len(pointwise.draw) >= DEPENDABLE
        found, _ = elpd.loo(source, min(1.0, relative_efficiency(pointwise, PARAMETERS)) if told else 1.0)
        if not source.rate:
            return source, found
        rate = source.rate
    raise SlowError(rate * rows * pointwise.number, seconds)


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


def check_redrawn(pointwise: Pointwise, draws: int) -> None:
    """Raises a LeftOutError if effects that were not stored are too many to draw all again, by so many draws."""
    fitted = pointwise.posterior.fitted
    effects = sum(fitted.reads.values[name][0].numel() for name in pointwise.together)
    if effects * draws > HELD:
        raise LeftOutError(f"{effects:,} effects of groups were not stored, too many to draw all of them again")
