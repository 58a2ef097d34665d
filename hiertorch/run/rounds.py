"""Rounds of a whitened warm-up: each twice as long as the one before, at whose end everything is learnt anew; and when
no more of them are needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.jointsites import JointMoments, moments_of
from hiertorch.gaussian.sites import Moments
from hiertorch.run.engine import filed, inside
from hiertorch.runtime.ranks import Share
from hiertorch.wording import listed

LONGEST_WARMUP = 200
"""Sweeps of warm-up, unless it has settled before: of every form measured, proposals and sites have by then."""

ROUNDS = (30, 60, 120, 240)
"""Sweeps of the rounds of a warm-up of 450; longer or shorter ones keep these shares."""

GAIN = 0.03
"""Of the share of accepted proposals of the population: what learning must have gained for more of it to be worth its
sweeps, twice the error of a share that 32 chains find in 27 sweeps.
"""

HIGH = 0.8
"""Share of accepted proposals to which no learning adds what its sweeps would cost."""

NUMBERED = 4
"""Sweeps between those whose numbers of groups are kept for being adjusted."""

LOOKED, FEW_LOOKED = 128, 32
"""Draws of a round, of all chains together, that sites are averaged over; and so many of very large data."""

LARGE = 2_000_000
"""Rows times chains, above which data are very large."""


CYCLE = 50
"""Sweeps of the run of which the last moves theta by a random walk: a chain that no proposal frees moves on."""


LEAST_ACCEPTED, LEAST_OF_TAILS = 0.05, 0.7
"""Share of proposals of the population, below which ordinary moves serve better; and where sites shift with a scale, so
that the tails of this and of the population's mean, which go together, are seldom offered together.
"""


def unfit(rate: float, bent: Sequence[str]) -> str | None:
    """Why a surrogate does not serve, of whose proposals such a share was accepted in the last round of warm-up.

    Args:
        rate: this share.
        bent: latents with an open end that shift sites, see `hiertorch.gaussian.predictor.Predictor`.
    """
    if rate < LEAST_ACCEPTED:
        return (
            f"a Gaussian surrogate does not fit the rows of this model: {100 * rate:.1f} % of its proposals were "
            "accepted in the last round of warm-up"
        )
    if bent and rate < LEAST_OF_TAILS:
        return (
            "a Gaussian surrogate might not reach the tails of this model, whose rows are cut off and hang on "
            f"{listed(bent)}: {100 * rate:.0f} % of its proposals were accepted in the last round of warm-up"
        )
    return None


def pieces(done: int, sweeps: int) -> list[tuple[int, int, bool]]:
    """The next sweeps, after so many of the run, in pieces: from which to which, and whether the first of them walks,
    as no other does: a walk needs to know where chains are, and all else is proposed wherever they are.
    """
    walks = {t for t in range(sweeps) if (done + t) % CYCLE == CYCLE - 1}
    return [(first, last, first in walks) for first, last in pairwise(sorted({0, sweeps} | walks))]


def ends(warmup: int) -> list[int]:
    """Sweeps after which the rounds of a warm-up end."""
    return sorted({max(1, round(warmup * end / sum(ROUNDS))) for end in accumulate(ROUNDS)})


class Course(NamedTuple):
    """How far the run has come, and its warm-up."""

    done: int = 0  # sweeps
    ahead: int = ends(LONGEST_WARMUP)[0]  # sweeps to the end of a round
    rate: float | None = None  # of the round before; see `Round.rate`
    poor: bool = False  # whether that is too low
    settled: bool = False  # with the round that has just ended

    @property
    def to_walk(self) -> int:
        """Sweeps to the next that walks; if it is the next, to the one after it."""
        return (CYCLE - 2 - self.done) % CYCLE + 1

    def after(self, done: int, warmup: int) -> "Course":
        """The same after so many sweeps."""
        return self._replace(done=done, ahead=next((end for end in ends(warmup) if end > done), warmup) - done)

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        known = {name: float(x) for name, x in self._asdict().items() if x is not None}
        return {name: torch.tensor(x, dtype=torch.float64, device="cpu") for name, x in known.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Course":
        """What such tensors hold."""
        done, ahead, poor, settled = (int(tensors[name]) for name in ("done", "ahead", "poor", "settled"))
        return cls(done, ahead, float(tensors["rate"]) if "rate" in tensors else None, bool(poor), bool(settled))


@dataclass
class Round:
    """What one round has seen.

    Attributes:
        positions: theta of all chains, `(chains, d)`, sweep by sweep.
        moments: from which sites follow.
        thetas: theta of some sweeps, to which numbers of groups may be adjusted,
        numbers: and these, `(K, groups, chains)`.
        accepted: probabilities of acceptance of the population in each sweep, `(chains,)`, of chains of this process.
    """

    positions: list[Tensor] = field(default_factory=list)
    moments: Moments | JointMoments | None = None
    thetas: list[Tensor] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    accepted: list[Tensor] = field(default_factory=list)

    def add(self, moments: Moments | JointMoments) -> None:
        """Those of one sweep."""
        before = self.moments
        self.moments = moments if before is None else before.plus(moments)  # type: ignore[arg-type] # of one kind

    @property
    def rate(self) -> float:
        """Share of the proposals of the population that were accepted; waits for the device."""
        return float(torch.stack(self.accepted).mean()) if self.accepted else 1.0

    def of_all(self, share: Share) -> "Round":
        """The same with what chains of other processes have met."""
        if share.alone or not self.accepted:
            return self
        return replace(self, accepted=[*share.every([torch.stack(self.accepted)], [1])[0]])

    def settled(self, before: float | None, longest: int) -> bool:
        """Whether warm-up may end with this round: of its proposals of the population most are accepted, or hardly more
        than in the round before; and nobody has stayed in one place for half of it.

        All this is known before the first draw that is kept, and what comes later does not depend on it but through
        what was learnt, which is frozen: whenever warm-up ends, draws are of the posterior.

        Args:
            before: the rate of the round before; None of the first round, which ends no warm-up.
            longest: sweeps of the longest stay of a chain, or of one of its groups.
        """
        return has_settled(self.rate, before, longest, len(self.accepted))

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        found = {} if self.moments is None else filed("moments", self.moments.tensors())
        for name in ("positions", "thetas", "numbers", "accepted"):
            found |= filed(name, {str(k): x for k, x in enumerate(getattr(self, name))})
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Round":
        """What such tensors hold."""
        found, moments = cls(), inside("moments", tensors)
        found.moments = moments_of(moments) if moments else None
        for name in ("positions", "thetas", "numbers", "accepted"):
            held = inside(name, tensors)
            getattr(found, name).extend(held[str(k)] for k in range(len(held)))
        return found


def has_settled(rate: float, before: float | None, longest: int, sweeps: int) -> bool:
    """Whether so many sweeps of warm-up were enough: of their proposals most are accepted, or hardly more than in those
    before; and nobody has stayed in one place for half of them.

    Args:
        rate: share of the proposals that were accepted.
        before: the same of the sweeps before, with which no warm-up ends; None of the first.
        longest: sweeps of the longest stay.
        sweeps: how many.
    """
    if before is None or 2 * longest > sweeps:
        return False
    return rate >= HIGH or rate <= before + GAIN


class Part(NamedTuple):
    """Sweeps of a round that a window has. All numbers are of sweeps of the run that have been made."""

    begin: int  # of the round,
    end: int  # and with it
    first: int  # before these sweeps,
    last: int  # and with them
    counted: int  # after which the start is forgotten
    looks: frozenset[int]  # after which sites are averaged over draws


def parts(done: int, sweeps: int, warmup: int, chains: int, rows: int) -> Iterator[Part]:
    """The next sweeps of warm-up, round by round; sites are not learnt in the last one."""
    bounds, wanted = [0, *ends(warmup)], FEW_LOOKED if rows * chains > LARGE else LOOKED
    for begin, end in pairwise(bounds):
        first, last = max(begin, done), min(end, done + sweeps)
        if first < last:
            counted = begin + (end - begin) // 4
            every = max(1, (end - counted) * chains // wanted)
            looks = frozenset(range(end, counted, -every)) if end < warmup else frozenset()
            yield Part(begin, end, first, last, counted, looks)
