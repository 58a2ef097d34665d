"""The whitened sampler with its sweeps compiled, where rows have a closed form and groups one level, on the CPU.

The moves are those of `hiertorch.run.whitened`; their random numbers come from other streams, one for each chain.
docs/decisions.md: Sweeps of a window in one compiled loop.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiertorch.density.rowloops import Loops
from hiertorch.density.rowpass import can_compile
from hiertorch.density.structure import Structure
from hiertorch.gaussian.onelevel import Groups
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.moves.metropolis import Info
from hiertorch.randomness import derived
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.candidates import Candidate, Walk, cut
from hiertorch.run.heavytails import FREEDOM
from hiertorch.run.rounds import Part, Round, pieces
from hiertorch.run.standing import Place
from hiertorch.run.store import Store
from hiertorch.run.sweepkernel import WIDTH, sweeps
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.workers import each

NO_GROUPS = Groups(0.0, np.zeros(0), np.zeros((0, 0)), np.zeros(0))
"""Where B and p are offered."""

FEWEST = WIDTH // 2
"""Chains from which on it pays: those of a block that are not there cost as much as the others."""

LARGEST = 4_000_000
"""Rows times chains, above which what Python adds is nothing, and several workers share the groups of a pass."""


SMALL = 500_000
"""Rows times chains times sweeps, below which workers would take longer to begin than to work."""


class Passed(NamedTuple):
    """What some sweeps have come to."""

    taken: Tensor  # which offer chains stand on after each sweep, -1: where they were, (sweeps, chains)
    kept: Tensor  # effects, (K, groups, slots, chains)
    beyond: Tensor  # weights less half the squares of numbers of groups, summed, (slots + 1, chains)


class WhitenedCompiled(Whitened):
    """Chains that move in whitened coordinates, a window in one compiled loop; see the module.

    Args:
        structure: of the model on its data.
        surrogate: the Gaussian model that stands for it, of one level of groups.
        chains: how many run side by side.
        generator: of all random numbers of the draws.
    """

    def __init__(self, structure: Structure, surrogate: Surrogate, chains: int, generator: torch.Generator) -> None:
        super().__init__(structure, surrogate, chains, generator)
        seeds = [derived(generator.initial_seed(), "groups", c) for c in range(chains)]
        words = np.stack([np.random.SFC64(seed).state["state"]["state"] for seed in seeds], 1)
        self.words = torch.from_numpy(words.view(np.int64))  # (4, chains)
        self.last: tuple[Place, Tensor] | None = None  # a place, and what groups add to its height

    @staticmethod
    def serves(surrogate: Surrogate, chains: int) -> bool:
        """Whether the engine is made for such a model, and pays."""
        grams, y = surrogate.first.grams, surrogate.data.y
        simple = len(grams.levels) == 1 and not grams.crossed and not surrogate.data.by_chain
        size = chains >= FEWEST and len(y) * chains <= LARGEST
        return simple and size and can_compile(y.device) and y.dtype == torch.float64

    @property
    def compiled(self) -> bool:
        """Whether sweeps are compiled: rows have a closed form, and numbers of groups are not adjusted to theta."""
        return self.adjusted is None and self.closed is not None and self.closed.rows.compiled

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        """See `Engine.advance`."""
        if done < warmup or not self.compiled:
            super().advance(done, sweeps, warmup, thin, store, acceptance)
            return
        first = -(done - warmup + 1) % thin
        wanted = [first + thin * i for i in store.wanted(len(range(first, sweeps, thin)))]
        self._sampled(done, sweeps, wanted, store, acceptance)
        self.round, self.course = Round(), self.course.after(done + sweeps, warmup)

    def _warmed(self, part: Part, stops: Collection[int], acceptance: Acceptance) -> Iterator[tuple[int, Tensor]]:
        """See `Whitened._warmed`."""
        if not self.compiled:
            yield from super()._warmed(part, stops, acceptance)
            return
        at = part.first
        for offered, walks, number in self._offered(at, part.last - at):
            begin = 0
            for end in sorted({number} | {stop - at for stop in stops if 0 < stop - at < number}):
                before, some = self.at, offered if end - begin == number else cut(offered, begin, end, self.chains)
                passed = self._pass(some, end - begin, (), acceptance, walk=walks and not begin)
                which = (passed.taken + 1) * self.chains + torch.arange(self.chains)
                yield at + end, torch.cat([before.position, some.position])[which.flatten()]
                begin = end
            at += number

    def _offered(self, done: int, sweeps: int) -> Iterator[tuple[Candidate, bool, int]]:
        """What the next sweeps offer, in pieces: whether the first of them walks, and how many there are."""
        noise = self.candidates.noise(self.ladder.root.width, sweeps)
        for first, last, walks in pieces(done, sweeps):
            walk = Walk(self.at.position, self.walk) if walks else None
            some = noise.of(first, last)
            offered = self.candidates.batch(self.ladder, self.tuning, some, walk, lean=self.ladder.simple)
            yield offered, walks, last - first

    def _sampled(self, done: int, sweeps: int, wanted: Sequence[int], store: Store, acceptance: Acceptance) -> None:
        """A window after warm-up, of which some sweeps are kept."""
        at, chains, first = store.n_draws, self.chains, 0
        for offered, walks, number in self._offered(done, sweeps):
            keep = [t - first for t in wanted if first <= t < first + number]
            first += number
            before = self.at
            passed = self._pass(offered, number, keep, acceptance, walk=walks)
            if not keep:
                continue
            which = (passed.taken[keep] + 1) * chains + torch.arange(chains)  # (kept, chains)

            def chosen(old: Tensor, new: Tensor, which: Tensor = which) -> Tensor:
                return torch.cat([old, new], -1)[..., which.flatten()]

            position = chosen(before.position.mT, offered.position.mT).mT
            heights = chosen(_height(before.density, before), _height(offered.density, offered)).view_as(which)
            heights = heights + passed.beyond[:-1] + self.ladder.constant
            tail = chosen(before.rungs.tail, offered.rungs.tail)
            values = self.standing.values(self.ladder, position, tail, [passed.kept.flatten(2)])
            kept = {name: values[name].unflatten(0, which.shape) for name in store.names}
            store.fill(kept, heights, at)
            at += len(keep)
        store.filled(at)

    def _pass(
        self, offered: Candidate, number: int, keep: Sequence[int], acceptance: Acceptance, *, walk: bool
    ) -> Passed:
        """Some sweeps, of which some are kept, and the first of which may walk."""
        assert self.closed is not None
        at, chains, (groups,) = self.at, self.chains, self.ladder.sizes
        loops, rung, own = self.closed.rows.finest.rows, offered.rungs.levels[0], at.rungs.levels[0]
        assert isinstance(loops, Loops)
        offers = [self._scalars(offered), offered.rungs.tail, rung.half, rung.middle]
        state = [self._scalars(at), at.rungs.tail, own.half, own.middle]
        state += [at.noise[0], at.heavy[0], at.effects[0], at.weights, self.words]
        written = [x.clone(memory_format=torch.contiguous_format) for x in state]
        stays = [_stacked(x, at.weights) for x in (self.counted.now, self.counted.longest)]
        freedom = self.tails.freedom.get(0, at.weights.new_full((groups, 1), FREEDOM))[:, 0]
        constant = self.closed.rows.finest.constant[:, 0]
        slots = torch.full((number,), -1)
        slots[list(keep)] = torch.arange(len(keep))
        taken, rates = torch.empty(number, chains, dtype=torch.long), at.weights.new_zeros(number + groups, chains)
        wrong, beyond = at.weights.new_zeros(2, chains), at.weights.new_empty(len(keep) + 1, chains)
        kept = at.weights.new_empty(len(at.noise[0]) * groups, len(keep), chains)
        offered_arrays, arrays, stay_arrays = (tuple(map(_flat, part)) for part in (offers, written[:-1], stays))
        words = written[-1].numpy().view(np.uint64)
        lean = self.ladder.groups if self.ladder.simple else NO_GROUPS
        rest = [x.contiguous().numpy() for x in (freedom, constant, taken, rates, wrong, slots, kept, beyond)]
        loop = sweeps(self.closed.rows.form.code)

        def run(first: int) -> None:
            size = min(WIDTH, chains - first)
            loop(first, size, number, walk, offered_arrays, lean, arrays, words, stay_arrays, loops.arrays(), *rest)

        blocks = range(0, chains, WIDTH)
        small = number * chains * self.closed.rows.rows < SMALL
        for _ in map(run, blocks) if small else each(run, blocks, at.density.device):
            pass
        self.counted.now, self.counted.longest = ({0: x[0], 1: x[1:]} for x in stays)
        scalars, tail, half, middle, noise, heavy, effects, weights, self.words = written
        last = (taken[-1] + 1) * chains + torch.arange(chains)

        def now(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new], -1)[..., last]

        rungs = at.rungs._replace(
            log_marginal=now(at.rungs.log_marginal, offered.rungs.log_marginal),
            log_volume=now(at.rungs.log_volume, offered.rungs.log_volume),
            tail=tail,
            levels=(at.rungs.levels[0]._replace(half=half, middle=middle),),
        )
        self.at = Place(
            now(at.position.mT, offered.position.mT).mT, scalars[0], scalars[1], now(at.rows, offered.rows), rungs,
            now(at.square, offered.square), (noise,), (effects,), weights, (heavy,),
        )  # fmt: skip
        population, of_groups = rates[:number], rates[number:]
        self.round.accepted.extend(population.mean(1).unbind())
        infos = (population.sum(0).unsqueeze(1), wrong[0].sum()), (of_groups.mT, wrong[1].sum())
        acceptance.add([Info(*both, None) for both in infos], number)
        self.last = self.at, beyond[-1]
        return Passed(taken, kept.unflatten(0, at.noise[0].shape[:2]), beyond)

    def height(self) -> Tensor:
        """See `Whitened.height`; to the bit that of a draw, where it is one."""
        place, beyond = self.last if self.last is not None else (None, None)
        if beyond is None or place is not self.at:
            return super().height()
        return _height(self.at.density, self.at) + beyond + self.ladder.constant

    def state(self) -> dict[str, Tensor]:
        """See `Whitened.state`; with the random numbers of groups."""
        return super().state() | {"words": self.words}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        super().restore(state)
        self.words = state["words"]

    def _scalars(self, of: Place | Candidate) -> Tensor:
        """Densities, and what rows take from theta, `(5, n)`."""
        assert self.closed is not None
        fits = self.closed.chain(of.rows)
        return torch.stack([of.density, of.proposal, *(x.expand(of.density.shape) for x in fits)])


def _flat(x: Tensor) -> np.ndarray:
    """`(..., n)` as `(numbers, n)`."""
    return x.contiguous().view(-1, x.shape[-1]).numpy()


def _stacked(stays: Mapping[int, Tensor], like: Tensor) -> Tensor:
    """Stays of the population and of groups, one below the other, `(1 + groups, chains)`; none are as those of 0."""
    if stays:
        return torch.cat([stays[0].unsqueeze(0), stays[1]])
    return torch.zeros(1 + len(like), like.shape[1], dtype=torch.int32)


def _height(density: Tensor, of: Place | Candidate) -> Tensor:
    """What of a place's log density theta and the root decide."""
    return density - 0.5 * of.square - of.rungs.log_volume
