"""What whitened chains are offered: theta by a proposal that depends on no chain, or by a walk, and the root anew."""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.ladder import Ladder, Rungs
from hiertorch.randomness import ChainStreams, normal
from hiertorch.run import standing
from hiertorch.run.folded import FREEDOM, Folded
from hiertorch.run.standing import Standing


class Numbers:
    """Random numbers of all chains, of each from a stream of its own.

    Args:
        generator: whose seed names the streams.
        chains: how many there are, in the last axis.
        like: of their dtype, on their device.
    """

    def __init__(self, generator: torch.Generator, chains: int, like: Tensor) -> None:
        self.streams, self.chains, self.dtype = ChainStreams(generator, chains), chains, like.dtype

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers `(*shape, chains)`."""
        return normal(self.streams.uniform(prod(shape))).to(self.dtype).view(*shape, self.chains)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers on (0, 1), `(*shape, chains)`."""
        return self.double(*shape).to(self.dtype)

    def double(self, *shape: int) -> Tensor:
        """The same in double precision."""
        return self.streams.uniform(prod(shape)).view(*shape, self.chains)


class Noise(NamedTuple):
    """Random numbers of what some sweeps offer, `(numbers, sweeps, chains)`, and of what they decide."""

    theta: Tensor  # standard normal, (d, sweeps, chains)
    radius: Tensor  # uniform, (FREEDOM / 2, sweeps, chains)
    root: Tensor  # standard normal, (R, sweeps, chains)
    log_uniform: Tensor  # (1, sweeps, chains)

    def of(self, first: int, last: int) -> "Noise":
        """Those of sweeps `first` to `last` - 1."""
        return Noise(*(x[:, first:last] for x in self))


class Walk(NamedTuple):
    """What a random walk takes to be made."""

    at: Tensor  # theta, (chains, d)
    root: Tensor  # of the covariance of its steps, (d, d)


class Candidate(NamedTuple):
    """One for each chain, or for each chain in each of some sweeps, one sweep after the other."""

    position: Tensor  # theta, (chains, d)
    density: Tensor  # log pi_s(theta)
    proposal: Tensor  # log q(theta)
    rows: Tensor  # what rows take from theta
    rungs: Rungs
    square: Tensor  # of the root's numbers, summed


class Candidates:
    """See the module.

    Args:
        standing: what theta means.
        proposal: q.
        of_rows: what rows take from theta `(n, d)`, `(numbers, n)`.
        numbers: random ones, of which nothing else takes any: those of a sweep stand one after the other, whether it
            ends in a proposal or in a walk, so that they do not depend on how many sweeps are made at once.
    """

    def __init__(
        self, standing: Standing, proposal: Folded, of_rows: Callable[[Tensor], Tensor], numbers: Numbers
    ) -> None:
        self.standing, self.proposal, self.of_rows, self.numbers = standing, proposal, of_rows, numbers

    def noise(self, root: int, sweeps: int) -> Noise:
        """The random numbers of the next sweeps, of a root of some width."""
        widths = [self.standing.width, FREEDOM // 2, root, 1]
        theta, radius, own, decides = self.numbers.double(sweeps, sum(widths)).transpose(0, 1).split(widths)
        theta, own = normal(theta), normal(own)
        return Noise(*(x.to(self.numbers.dtype) for x in (theta, radius, own, decides.log())))

    def window(
        self, ladder: Ladder, tuning: Mapping[str, Tensor], noise: Noise, walk: Walk | None
    ) -> Iterator[Candidate]:
        """One candidate after the other, made in one batch."""
        return split(self.batch(ladder, tuning, noise, walk), self.numbers.chains)

    def batch(
        self, ladder: Ladder, tuning: Mapping[str, Tensor], noise: Noise, walk: Walk | None, *, lean: bool = False
    ) -> Candidate:
        """The same side by side: those of a sweep for all chains, then those of the next one; see `Ladder.rungs` of
        what is `lean`.
        """
        position, root = self.positions(tuning, noise, walk), noise.root.flatten(1)
        density, rungs = self.standing.evaluate(ladder, position, root, lean=lean)
        spread, square = self.proposal.log_density(tuning, position), root.square().sum(0)
        return Candidate(position, density, spread, self.of_rows(position), rungs, square)

    def positions(self, tuning: Mapping[str, Tensor], noise: Noise, walk: Walk | None) -> Tensor:
        """theta from the proposal, of all chains in turn: `(sweeps x chains, d)`; in the first sweep, if it walks, from
        where chains are.
        """
        found, sweeps = [], noise.theta.shape[1]
        if walk is not None:
            found.append(walk.at + max(1, self.standing.width) ** -0.5 * noise.theta[:, 0].mT @ walk.root.mT)
        if sweeps > len(found):
            own = noise.of(len(found), sweeps)
            found.append(self.proposal.placed(tuning, own.theta.flatten(1).mT, own.radius.flatten(1)))
        return torch.cat(found) if len(found) > 1 else found[0]


def split(batch: Candidate, chains: int) -> Iterator[Candidate]:
    """The candidates of each sweep."""
    apart = (batch.position.split(chains), batch.density.split(chains), batch.proposal.split(chains))
    rungs = standing.split(batch.rungs, chains)
    return map(Candidate, *apart, batch.rows.split(chains, 1), rungs, batch.square.split(chains))


def cut(batch: Candidate, first: int, last: int, chains: int) -> Candidate:
    """The candidates of sweeps `first` to `last` - 1, side by side."""
    some = slice(first * chains, last * chains)
    position, density, proposal = (x[some] for x in (batch.position, batch.density, batch.proposal))
    rungs = standing.cut(batch.rungs, some)
    return Candidate(position, density, proposal, batch.rows[:, some], rungs, batch.square[some])
