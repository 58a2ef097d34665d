"""The goal of a run that goes on until the worst parameter is known well enough, and when it looks at its draws."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from hiertorch.arguments import check_count, is_number
from hiertorch.errors import SamplingError
from hiertorch.monitors.base import Seen

GROWTH = 1.5
"""Draws at a look, over those at the look before."""


@dataclass(frozen=True, kw_only=True)
class Until:
    """ESS >= `ess`, in bulk and tails, and rank R-hat <= `rhat`, of every parameter that is kept.

    A run looks at its draws after n_0, 1.5 n_0, 1.5^2 n_0, ... of each chain, at the end of the window of sweeps in
    which there are so many, and ends at the first look that finds the goal reached. The schedule is fixed: with equal
    seeds a run looks and ends at the same draws, and has those of a run whose `draws=` are so many.

    What ends by what was seen is seen at a good moment: R-hat and ESS are estimates, and at the look that ends a run
    they are a little better than they will be found in draws to come. With ESS in the hundreds and more that is slight,
    and the more so for looks that lie so far apart; means and quantiles stay consistent (Glynn & Whitt 1992; Flegal &
    Gong 2015, who ask for a least number of draws before the first look, as here). No rule sees what no chain has
    visited: R-hat compares chains that started apart (Vehtari et al. 2021), and that is all it can do.

    Args:
        ess: effective draws of all chains together, 400 at least for R-hat and ESS themselves to be reliable (Vehtari
            et al. 2021, section 4).
        rhat: above 1; of a single chain nothing is asked, since R-hat compares chains.
        seconds: of sampling after which the run ends anyhow, without warm-up; None for no bound. Such an end does not
            come at the same draw again.
        draws: of each chain at which the run ends anyhow. Left out: 8 times as many as a model of this size has by
            default (or 8 times `sample(draws=)`, if that is more); none if there are `seconds`.

    Raises:
        SamplingError: for numbers that can't be.

    References:
        Flegal & Gong (2015). Relative fixed-width stopping rules for Markov chain Monte Carlo simulations. Statistica
        Sinica 25. Glynn & Whitt (1992). The asymptotic validity of sequential stopping rules for stochastic
        simulations. Annals of Applied Probability 2. Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
        Rank-normalization, folding, and localization. Bayesian Analysis 16(2).
    """

    ess: float = 1000.0
    rhat: float = 1.01
    seconds: float | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        if not is_number(self.ess) or not 0 < self.ess < math.inf:
            raise SamplingError(f"until: ess is a number of effective draws, such as 1000; found {self.ess!r}.")
        if not is_number(self.rhat) or not self.rhat > 1:
            raise SamplingError(f"until: rhat is a number above 1, such as 1.01; found {self.rhat!r}.")
        if self.seconds is not None and (not is_number(self.seconds) or not self.seconds > 0):
            raise SamplingError(f"until: seconds is a time above 0, or None for no bound; found {self.seconds!r}.")
        check_count("until: draws", self.draws, none="for a default", error=SamplingError)

    def reached(self, seen: Seen) -> bool:
        """Whether a look has seen the goal reached; R-hat is NaN of a single chain, ESS of too few draws."""
        return seen.ess.value >= self.ess and not seen.rhat.value > self.rhat


def scheduled(first: int) -> Iterator[int]:
    """Draws of each chain at which a run looks: n_0 1.5^k, rounded up."""
    return (math.ceil(first * GROWTH**k) for k in count())
