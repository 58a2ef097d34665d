"""The whitened sampler with its sweeps compiled, where rows have a closed form and effects levels, on the CPU.

The moves are those of `hiertorch.run.whitened`; their random numbers come from other streams, one for each chain.
docs/decisions.md: Sweeps of a window in one compiled loop.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiertorch.density.rowloops import Loops
from hiertorch.density.rowpass import can_compile
from hiertorch.density.structure import Structure
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.moves.metropolis import Info
from hiertorch.randomness import derived
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.candidates import Candidate, Walk, cut
from hiertorch.run.heavytails import FREEDOM
from hiertorch.run.rounds import Part, Round, pieces
from hiertorch.run.standing import Place
from hiertorch.run.store import Store
from hiertorch.run.sweepgroups import NO_GROUPS, Moves, Tree, stacked
from hiertorch.run.sweepkernel import sweeps
from hiertorch.run.sweepnumbers import WIDTH
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.workers import each

FEWEST = WIDTH // 2
"""Chains from which on it pays: those of a block that are not there cost as much as the others."""

NARROW, MANY_ROWS = 8, 20_000
"""Chains of a block where there are at most FEWEST, and so many rows that any number of chains pays: each takes more
time, but several blocks run side by side, and hardly a chain is not there.
"""

LARGEST = 4_000_000
"""Rows times chains, above which what Python adds is nothing, and several workers share the groups of a pass."""

SMALL = 500_000
"""Rows times chains times sweeps, below which workers would take longer to begin than to work."""


class Passed(NamedTuple):
    """What some sweeps have come to."""

    taken: Tensor  # which offer chains stand on after each sweep, -1: where they were, (sweeps, chains)
    kept: Tensor  # effects, level by level, (effects, slots, chains)
    beyond: Tensor  # weights less half the squares of numbers of groups, summed, (slots + 1, chains)


class WhitenedCompiled(Whitened):
    """Chains that move in whitened coordinates, a window in one compiled loop; see the module.

    Args:
        structure: of the model on its data.
        surrogate: the Gaussian model that stands for it, with levels of groups.
        chains: how many run side by side.
        generator: of all random numbers of the draws.
    """

    by_chain: ClassVar[Mapping[str, int]] = {**Whitened.by_chain, "words": 1}
    tree: Tree

    def __init__(self, structure: Structure, surrogate: Surrogate, chains: int, generator: torch.Generator) -> None:
        super().__init__(structure, surrogate, chains, generator)
        seeds = [derived(generator.initial_seed(), "groups", c) for c in range(chains)]
        words = np.stack([np.random.SFC64(seed).state["state"]["state"] for seed in seeds], 1)
        self.words = torch.from_numpy(words.view(np.int64))  # (4, chains)
        self.last: tuple[Place, Tensor] | None = None  # a place, and what groups add to its height
        at, places = 0, list[Tensor]()
        for width, size, slots in self.closed.crossed if self.closed is not None else ():
            places += [torch.arange(at, at + width * size)] * slots
            at += width * size
        self.behind = at, places  # crossed effects in a tail, and where rows find them

    @staticmethod
    def serves(surrogate: Surrogate, chains: int) -> bool:
        """Whether the engine is made for such a model, and pays."""
        grams, y = surrogate.first.grams, surrogate.data.y
        simple = bool(grams.levels) and not surrogate.data.by_chain
        size = (chains >= FEWEST or len(y) >= MANY_ROWS) and len(y) * chains <= LARGEST
        return simple and size and can_compile(y.device) and y.dtype == torch.float64

    @property
    def compiled(self) -> bool:
        """Whether sweeps are compiled: rows have a closed form."""
        return self.closed is not None and self.closed.rows.compiled

    def _take_sites(self, sites: Sites) -> None:
        super()._take_sites(sites)
        self.tree = Tree.of(self.ladder)

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
            if self.adjusted is not None:
                volume = offered.rungs.log_volume + self.adjusted.volume(offered.position)
                offered = offered._replace(rungs=offered.rungs._replace(log_volume=volume))
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
            effects = self.tree.split(passed.kept.flatten(1))
            values = self.standing.values(self.ladder, position, tail, effects)
            kept = {name: values[name].unflatten(0, which.shape) for name in store.names}
            store.fill(kept, heights, at)
            at += len(keep)
        store.filled(at)

    def _pass(
        self, offered: Candidate, number: int, keep: Sequence[int], acceptance: Acceptance, *, walk: bool
    ) -> Passed:
        """Some sweeps, of which some are kept, and the first of which may walk."""
        assert self.closed is not None
        at, chains, tree = self.at, self.chains, self.tree
        loops, groups = self.closed.rows.finest.rows, int(tree.groups[-1])
        assert isinstance(loops, Loops)
        offers = self._read(offered)
        own = [stacked(list(x), at.weights) for x in (at.noise, at.heavy, at.effects)]
        scalars, tail, half, middle, coupled, t = self._read(at)
        written = (scalars, half, middle, coupled, *own, at.weights, self.words)
        scalars, half, middle, coupled, noise, heavy, effects, weights, words = (
            x.clone(memory_format=torch.contiguous_format) for x in written
        )
        state = (scalars, tail, half, middle, coupled, t, noise, heavy, effects, weights)
        stays = [self._stays(x) for x in (self.counted.now, self.counted.longest)]
        constant, slots = self.closed.rows.finest.constant[:, 0], torch.full((number,), -1)
        slots[list(keep)] = torch.arange(len(keep))
        taken, rates = torch.empty(number, chains, dtype=torch.long), at.weights.new_zeros(number + groups, chains)
        wrong = at.weights.new_zeros(1 + len(self.levels), chains)
        beyond, kept = (at.weights.new_empty(*n, chains) for n in ((len(keep) + 1,), (len(noise), len(keep))))
        offered_arrays, arrays, stay_arrays = (tuple(map(_flat, part)) for part in (offers, state, stays))
        four = words.numpy().view(np.uint64)
        lean = self.ladder.groups if self.ladder.simple else NO_GROUPS
        moves = Moves.of(self.adjusted, self.standing.width)
        rest = [x.contiguous().numpy() for x in (self._freedom(), constant, taken, rates, wrong, slots, kept, beyond)]
        width = NARROW if self.share.chains <= FEWEST and len(self.surrogate.data.y) >= MANY_ROWS else WIDTH
        loop = sweeps(self.closed.rows.form.code, width)

        def run(first: int) -> None:
            size = min(width, chains - first)
            loop(
                first, size, number, walk, offered_arrays, lean, tree, moves, arrays, four, stay_arrays,
                loops.arrays(), *rest,
            )  # fmt: skip

        blocks = range(0, chains, width)
        small = number * chains * self.closed.rows.rows < SMALL
        for _ in map(run, blocks) if small else each(run, blocks, at.density.device):
            pass
        self.counted.now, self.counted.longest = (
            dict(enumerate((x[0], *x[1:].split(self.ladder.sizes)))) for x in stays
        )
        self.words = words
        last = (taken[-1] + 1) * chains + torch.arange(chains)

        def now(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new], -1)[..., last]

        rungs = at.rungs._replace(
            log_marginal=now(at.rungs.log_marginal, offered.rungs.log_marginal),
            log_volume=now(at.rungs.log_volume, offered.rungs.log_volume),
            tail=now(at.rungs.tail, offered.rungs.tail),
            levels=tree.rungs(half, middle, coupled, at.rungs.levels),
        )
        self.at = Place(
            now(at.position.mT, offered.position.mT).mT, scalars[0], scalars[1], now(at.rows, offered.rows), rungs,
            now(at.square, offered.square), tuple(tree.split(noise)), tuple(tree.split(effects)), weights,
            heavy.split(self.ladder.sizes),
        )  # fmt: skip
        population, of_groups = rates[:number], rates[number:].split(self.ladder.sizes)
        self.round.accepted.extend(population.unbind())
        accepted = [population.sum(0).unsqueeze(1), *(x.mT for x in of_groups)]
        infos = [Info(x, bad.sum(), None) for x, bad in zip(accepted, wrong, strict=True)]
        acceptance.add([infos[k] for k in self.order], number)
        self.last = self.at, beyond[-1]
        return Passed(taken, kept, beyond)

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

    def _read(self, of: Place | Candidate) -> list[Tensor]:
        """What sweeps read of what chains are offered, or of where they are, `(rows, n)` each: densities and what rows
        take from theta; coefficients, then crossed effects; B, p and G of levels; standardised theta.
        """
        assert self.closed is not None
        fits, (at, places), rungs = self.closed.chain(of.rows), self.behind, of.rungs
        scalars = torch.stack([of.density, of.proposal, *(x.expand(of.density.shape) for x in fits)])
        tail = torch.cat([rungs.tail[at:], *(rungs.tail[some] for some in places)]) if at else rungs.tail
        half, middle = (stacked(list(x), tail) for x in zip(*(rung[:2] for rung in rungs.levels), strict=True))
        t = tail[:0] if self.adjusted is None else self.adjusted.standardised(of.position)
        return [scalars, tail, half, middle, self.tree.coupled(rungs.levels), t]

    def _freedom(self) -> Tensor:
        """Degrees of freedom of all groups, `(groups,)`."""
        if not self.tails.freedom:
            return self.at.weights.new_full((int(self.tree.groups[-1]),), FREEDOM)
        all_alike = ((n, self.at.weights.new_full((n, 1), FREEDOM)) for n in self.ladder.sizes)
        return torch.cat([self.tails.freedom.get(level, one)[:, 0] for level, (_, one) in enumerate(all_alike)])

    def _stays(self, stays: Mapping[int, Tensor]) -> Tensor:
        """Stays of the population and of groups, one below the other, `(1 + groups, chains)`; none are as those of
        0.
        """
        if stays:
            return torch.cat([stays[0].unsqueeze(0), *(stays[1 + level] for level in self.levels)])
        return torch.zeros(1 + int(self.tree.groups[-1]), self.chains, dtype=torch.int32)


def _flat(x: Tensor) -> np.ndarray:
    """`(..., n)` as `(numbers, n)`."""
    return x.contiguous().view(-1, x.shape[-1]).numpy()


def _height(density: Tensor, of: Place | Candidate) -> Tensor:
    """What of a place's log density theta and the root decide."""
    return density - 0.5 * of.square - of.rungs.log_volume
