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
        return self.streams.uniform(prod(shape)).to(self.dtype).view(*shape, self.chains)


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
        numbers: random ones.
    """

    def __init__(
        self, standing: Standing, proposal: Folded, of_rows: Callable[[Tensor], Tensor], numbers: Numbers
    ) -> None:
        self.standing, self.proposal, self.of_rows, self.numbers = standing, proposal, of_rows, numbers

    def window(self, ladder: Ladder, tuning: Mapping[str, Tensor], sweeps: int) -> Iterator[Candidate]:
        """For so many sweeps, made in one batch."""
        return split(self.batch(ladder, tuning, sweeps), self.numbers.chains) if sweeps else iter(())

    def batch(self, ladder: Ladder, tuning: Mapping[str, Tensor], sweeps: int) -> Candidate:
        """The same side by side: those of a sweep for all chains, then those of the next one."""
        position = self.positions(tuning, sweeps)
        return self._made(ladder, tuning, position, self.numbers.normal(ladder.root.width, sweeps).flatten(1))

    def positions(self, tuning: Mapping[str, Tensor], sweeps: int) -> Tensor:
        """theta from the proposal, for so many sweeps of all chains: `(sweeps x chains, d)`."""
        normal, uniform = self.numbers.normal(self.standing.width, sweeps), self.numbers.uniform(FREEDOM // 2, sweeps)
        return self.proposal.placed(tuning, normal.flatten(1).mT, uniform.flatten(1))

    def walked(self, ladder: Ladder, tuning: Mapping[str, Tensor], at: Tensor, walk: Tensor) -> Candidate:
        """A random walk from theta `(chains, d)`, whose steps have the root `walk` of their covariance."""
        d = self.standing.width
        position = at + max(1, d) ** -0.5 * self.numbers.normal(d).mT @ walk.mT
        return self._made(ladder, tuning, position, self.numbers.normal(ladder.root.width))

    def _made(self, ladder: Ladder, tuning: Mapping[str, Tensor], position: Tensor, root: Tensor) -> Candidate:
        density, rungs = self.standing.evaluate(ladder, position, root)
        spread, square = self.proposal.log_density(tuning, position), root.square().sum(0)
        return Candidate(position, density, spread, self.of_rows(position), rungs, square)


def split(batch: Candidate, chains: int) -> Iterator[Candidate]:
    """The candidates of each sweep."""
    apart = (batch.position.split(chains), batch.density.split(chains), batch.proposal.split(chains))
    rungs = standing.split(batch.rungs, chains)
    return map(Candidate, *apart, batch.rows.split(chains, 1), rungs, batch.square.split(chains))
