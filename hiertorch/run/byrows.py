"""Whitened chains whose groups are dealt out to processes, with their rows.

    log p(latents, y) = log p(population) + sum over processes [ log p(their groups' effects, their rows | population) ]

Each process has all chains. Population latents stand alike on all processes, from the same random numbers; effects, row
weights and sites are those of a process's own groups. Of a window's proposals the surrogate's sums by group are added
up over processes in one message, `(1 + pairs, proposals x chains)`; a population move is decided in one more of
`(chains,)`; moves of groups need none. Everything else is as in `hiertorch.run.whitened`.

docs/decisions.md: Groups over processes.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import log, pi

import torch
from torch import Tensor

from hiertorch.density.structure import Structure
from hiertorch.density.summed import SummedTarget
from hiertorch.errors import SamplingError
from hiertorch.gaussian.affine import Coordinates
from hiertorch.gaussian.elimination import Elimination
from hiertorch.gaussian.grams import WIDE
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.randomness import stream
from hiertorch.run.candidates import Numbers
from hiertorch.run.standing import Place
from hiertorch.run.store import Store
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.ranks import Summed

ALIKE = 1e-6
"""Differences of theta between processes that rounding may make: decisions are the same to the bit."""


class Apart(Numbers):
    """Random numbers of groups, `(.., groups, chains)`, from streams of this process; of the root, which stand in one
    row `(R, chains)`, from streams that are the same for all processes.
    """

    def __init__(self, generator: torch.Generator, rank: int, chains: int, like: Tensor) -> None:
        super().__init__(stream(generator.initial_seed(), "groups", rank, device=generator.device), chains, like)
        self._root = Numbers(generator, chains, like)

    def normal(self, *shape: int) -> Tensor:
        """See `Numbers.normal`."""
        return self._root.normal(*shape) if len(shape) == 1 else super().normal(*shape)


class WhitenedByRows(Whitened):
    """See the module.

    Args:
        structure: of the model on the rows of this process's groups.
        surrogate: for these rows; `why_not` finds nothing against it.
        share: the processes.
        generator: of the same seed on all of them.
    """

    by_chain = {}  # noqa: RUF012 - of a class variable
    adjusts = False  # since whether to is for each process to say
    share: Summed

    def __init__(self, structure: Structure, surrogate: Surrogate, share: Summed, generator: torch.Generator) -> None:
        whole = replace(structure, target=SummedTarget.of(structure.target, share))
        super().__init__(whole, surrogate, share.chains, generator)
        self.share = share
        self.numbers = Apart(generator, share.ranks.rank, share.chains, surrogate.data.y)

    def _around(self, start: torch.Generator) -> tuple[Tensor, Tensor, Sites]:
        """Each process looks for the mode of its own groups. Chains begin around the mean of these modes, weighted by
        their curvatures (Scott et al. 2016, consensus Monte Carlo), which warm-up corrects.
        """
        mode, spread, sites = super()._around(start)
        precision = spread.square().reciprocal()
        total, weighted = self.share.total(torch.stack([precision, precision * mode]))
        first, grams = self.surrogate.first, self.surrogate.given(sites).grams
        basis, shifts = grams.bases.get(None), (grams.shift, grams.held_shift)
        first.affine = replace(
            first.affine,
            coordinates=Coordinates(
                None if basis is None else self.share.of_first(basis), *map(self.share.of_first, shifts)
            ),
        )
        return weighted / total, total.rsqrt(), sites

    def _take_sites(self, sites: Sites) -> None:
        collapsed = self.surrogate.given(sites)
        assert isinstance(collapsed.elimination, Elimination)
        collapsed.elimination.over = self.share
        self.sites, self.ladder = sites, Ladder(collapsed)
        (self.closed or self.weigh).set_sites(sites)

    def heights(self, places: Sequence[Place]) -> Tensor:
        """See `Whitened.heights`."""
        each = [self._apart(place) for place in places]
        own, root = (torch.stack(x) for x in zip(*each, strict=True))
        return self.share.total(own, root)

    def _apart(self, at: Place) -> tuple[Tensor, Tensor]:
        """Of a height what belongs to this process's groups, and what to the population, `(chains,)`; what sites leave
        out stands in `at.density` for all groups.
        """
        volume = sum(_volume(rung.half) for rung in at.rungs.levels)  # |d effects / d e|
        square = sum(x.square().sum((0, 1)) for x in at.noise)
        of_root = 0.5 * log(2.0 * pi) * self.ladder.root.width
        constant = float(self.ladder.constant) + of_root
        own = at.weights.sum(0) - 0.5 * square - volume + constant
        return own, at.density - 0.5 * at.square - (at.rungs.log_volume - volume) - of_root

    def window(self, *, warming: bool) -> int:
        """See `Whitened.window`: of all processes alike."""
        return min(self.share.ranks.each(super().window(warming=warming)))

    def settled(self) -> bool:
        """See `Whitened.settled`: for all processes."""
        return all(self.share.ranks.each(super().settled()))

    def check(self, store: Store) -> None:
        """See `Whitened.check`, and all processes have the same population; nothing where others are not there."""
        if not self.share.ranks.there:
            return
        gap = (self.at.position - self.share.of_first(self.at.position)).abs().amax(1)
        if not (apart := float(self.share.total(gap).max())) < ALIKE:  # which all of them find
            raise SamplingError(
                f"processes have come apart: their population latents differ by {apart:.3g}. Run all of them with the "
                "same versions on machines of one kind, or use spread='chains'."
            )
        super().check(store)


def _volume(half: Tensor) -> Tensor:
    """log |B| summed over groups, `(batch,)`, of `(K, K, groups, batch)`."""
    if len(half) == 1:
        return half[0, 0].log().sum(0)
    return torch.linalg.slogdet(half.movedim((0, 1), (2, 3))).logabsdet.sum(0)


def why_not(surrogate: Surrogate) -> str:
    """What stands against dealing out the groups of a whitened model, in words; "" if nothing does."""
    first = surrogate.first
    grams, affine = first.grams, first.affine
    if len(grams.levels) != 1 or grams.crossed or affine.slots:
        return "effects of one grouping alone, and each row in one group of it"
    if surrogate.covariances or surrogate.local or surrogate.cells is not None or surrogate.zero.shifts:
        return "rows with one linear predictor, and few scales and correlations"
    if first.sets > 1 or affine.turning or type(first.elimination) is not Elimination:
        return "one data set, whose columns do not depend on other latents"
    if grams.population is not None and grams.population.width > WIDE:
        return f"{WIDE} coefficients at most"
    return ""
