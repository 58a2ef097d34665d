"""The whitened sampler where many effects are crossed: no sweep factors a matrix as wide as there are crossed effects.

    p(theta, eps, r, x | y) is proportional to  pi_s(theta, eps) N(e; 0, I) exp(sum_i lw_i)

eps: what crossed effects are functions of beside theta; e: numbers of coefficients and of the largest plate's effects,
given theta and crossed effects (`hiertorch.gaussian.crosswise`). A sweep has three kinds of moves:

- Population: theta' ~ q and coefficients anew; eps and numbers of groups are kept, so that all effects move along.
- Groups of the largest plate, as in `hiertorch.run.whitened`.
- Crossed plates, one after the other: every group's effect anew around its own conditional mean under the surrogate,
  from a Student distribution, all other effects and theta as they are. Rows of a group have no other group of that
  plate, so each is decided by itself, by its own rows: exp(sum of lw' - lw) N(e') t(e) / (N(e) t(e')). Then
  coefficients and crossed effects are drawn along ridges, on which no row changes (`hiertorch.gaussian.ridges`), and
  numbers of the largest plate's effects, which stay, are computed anew: they depend on what is left of the rows.

docs/decisions.md: Many crossed effects.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from hiertorch.density.structure import Structure
from hiertorch.gaussian.cholesky import product, solve_lower, solve_upper
from hiertorch.gaussian.crosswise import Crosswise, Known, Middles, middles_of
from hiertorch.gaussian.ridges import Ridges
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.moves.metropolis import Info, decide
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.candidates import Noise, Walk
from hiertorch.run.crosswisestart import Sweep, Sweeping
from hiertorch.run.engine import filed, inside
from hiertorch.run.heavytails import FREEDOM
from hiertorch.run.rounds import pieces
from hiertorch.run.rowweights import RowWeights
from hiertorch.run.standing import Place
from hiertorch.run.whitened import Whitened
from hiertorch.run.whitenedstart import Explored

STARTING = 20
"""Sweeps of the surrogate by itself, from its means on, that chains start from."""


class Offered(NamedTuple):
    """What chains are offered, one for each."""

    position: Tensor  # theta, (chains, d)
    prior: Tensor  # log p(theta), (chains,)
    proposal: Tensor  # log q(theta)
    rows: Tensor  # what rows take from theta
    known: Known
    noise: Tensor  # of coefficients, (P, chains)


class WhitenedCrosswise(Whitened):
    """Chains that move crossed effects plate by plate; see the module.

    Args:
        structure: of the model on its data.
        surrogate: the Gaussian model that stands for it, with crossed plates.
        chains: how many run side by side.
        generator: of where chains start; its seed names their streams.
    """

    by_chain: ClassVar[Mapping[str, int]] = {**Whitened.by_chain, "known": -1}
    ladder: Crosswise
    known: Known

    def __init__(self, structure: Structure, surrogate: Surrogate, chains: int, generator: torch.Generator) -> None:
        super().__init__(structure, surrogate, chains, generator)
        self.plates = [str(part.plate) for part in surrogate.first.grams.crossed]
        self.by_plate = [] if self.closed else [RowWeights(structure, surrogate, plate) for plate in self.plates]
        self.ridges = Ridges(surrogate.first.affine, Crosswise(surrogate.first))
        self.middles: Middles | None = None

    def begin(self, init: Mapping[str, object], earlier: object) -> None:
        """See `Whitened.begin`."""
        super().begin(init, None)
        self._centre()

    def _explored(self, source: torch.Generator) -> Explored:
        return Sweeping(self.surrogate, self.standing, self.ridges, source)

    def _started(self, pool: Tensor, given: Mapping[str, Tensor], spread: float) -> Place:
        """See `Whitened`; the surrogate draws effects and coefficients by some sweeps of its own."""
        standing, position, ladder = self.standing, self.standing.told(pool[: self.chains], given), self.ladder
        known = ladder.known(standing.constrained(position), self.chains)
        sweeping = Sweep(ladder, self.ridges, lambda *shape: spread * self.numbers.normal(*shape))
        tail, effects = sweeping.many(known, sweeping.nowhere(known), STARTING)
        if any(name not in standing.rest for name in given):
            values = {**standing.values(ladder, position, tail, [effects]), **self.target.space.constrain(given)}
            tail, (effects,) = standing.apart(ladder.collapsed, values)
        at = self._standing_at(position, tail, [effects])
        return at._replace(proposal=self.proposal.log_density(self.tuning, position))

    def _take_sites(self, sites: Sites) -> None:
        self.sites, self.ladder = sites, Crosswise(self.surrogate.given(sites), self.middles)
        for weigh in (self.closed or self.weigh, *self.by_plate):
            weigh.set_sites(sites)

    def _centre(self) -> None:
        """Chooses of what crossed effects are functions, from where chains are, where they stay."""
        at, ladder = self.at, self.ladder
        position, tail = self.share.every([at.position, at.rungs.tail], [0, -1])
        known = ladder.known(self.standing.constrained(position), self.share.chains)
        self.known = known if self.share.alone else ladder.known(self.standing.constrained(at.position), self.chains)
        ladder.middles = self.middles = middles_of(ladder, known, tail)
        self.at = self._standing_at(at.position, at.rungs.tail, at.effects)._replace(proposal=at.proposal)
        for k in range(len(self.plates)):
            self._by_plate(k, at.rungs.tail)  # which arranges rows, so that no sweep has to

    def prepare(self, *, compiled: bool) -> None:
        """See `Whitened.prepare`."""
        for weigh in self.by_plate:
            weigh.record(compiled=compiled)
            weigh(self.values())
        super().prepare(compiled=compiled)

    def _learn(self) -> None:
        """See `Whitened._learn`."""
        longest = self.share.named(self.counted.longest, -1)
        for k in range(len(self.plates)):
            self.tails.widen(len(self.levels) + k, longest[1 + len(self.levels) + k])
        super()._learn()
        self._centre()

    def _run(self, done: int, sweeps: int, acceptance: Acceptance) -> Iterator[Place]:
        """The places after each sweep."""
        noise = self.candidates.noise(self.ladder.root.width, sweeps)
        for first, last, walks in pieces(done, sweeps):
            some, walk = noise.of(first, last), Walk(self.at.position, self.walk) if walks else None
            offered = self._offered(self.candidates.positions(self.tuning, some, walk), some)
            for t, there in enumerate(offered, first):
                infos = [self._anew(there, noise.log_uniform[0, t], walk=walks and t == first), self._groups(0)]
                infos += [self._across(k) for k in range(len(self.plates))]
                self._along()
                acceptance.add(infos)
                yield self.at

    def _offered(self, position: Tensor, noise: Noise) -> Iterator[Offered]:
        """Candidates at so many theta `(n, d)`, for all chains in turn."""
        standing, chains = self.standing, self.chains
        free = standing.space.split(position)
        values = standing.space.constrain(free)
        prior = standing.with_prior(free, values, position.new_zeros(len(position)))
        apart = (position, prior, self.proposal.log_density(self.tuning, position))
        rows, known = self._of_rows(position).split(chains, 1), self.ladder.known(values, len(position)).split(chains)
        return map(Offered, *(x.split(chains) for x in apart), rows, known, noise.root.unbind(1))

    def _anew(self, there: Offered, log_uniform: Tensor, *, walk: bool) -> Info:
        """theta and coefficients anew; effects keep their numbers."""
        at, ladder = self.at, self.ladder
        rungs = ladder.drawn(there.known, ladder.numbers_of(self.known, at.rungs.tail), there.noise)
        density = (there.prior + rungs.log_marginal).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        effects, weights, rungs = self._down(there.position, there.rows, rungs, at.noise)
        ratio = (weights - at.weights).sum(0) + density - at.density
        log_q = torch.zeros_like(density) if walk else at.proposal - there.proposal
        accepted, info = decide(ratio, log_uniform, None, log_q)
        self.round.accepted.append(info.accept)
        self.counted.add(0, accepted)
        square = there.noise.square().sum(0)
        new = Place(
            there.position, density, there.proposal, there.rows, rungs, square, at.noise, effects, weights, at.heavy
        )
        self.at, self.known = new.where(accepted, at), there.known.where(accepted, self.known)
        return info._replace(accept=info.accept.unsqueeze(1))

    def _across(self, k: int) -> Info:
        """Effects of a crossed plate anew, each decided by itself; what depends on them follows in `_along`."""
        at, ladder, place = self.at, self.ladder, len(self.levels) + k
        tail = at.rungs.tail
        lower, right = ladder.conditional(self.known, tail, at.effects[0], k)
        centre, here = solve_lower(lower, right), ladder.standardised(self.known, tail)[0][k]
        before = product(lower, here.unsqueeze(1), transpose=True).squeeze(1) - centre
        normal = self.numbers.normal(*before.shape[:2])
        noise = self.tails.drawn(normal, self.numbers.uniform(FREEDOM // 2, normal.shape[1]), place)
        moved = product(self.known.roots[1 + k], solve_upper(lower, centre + noise).unsqueeze(1)).squeeze(1)
        there = tail.clone()
        there[ladder.slices[k]] = moved.flatten(0, 1)
        ratio = self._by_plate(k, there) - self._by_plate(k, tail)
        log_q = self.tails.heavier(before, place) - self.tails.heavier(noise, place)
        accepted, info = decide(ratio, self.numbers.uniform(len(ratio)).log_(), None, log_q)
        self.counted.add(1 + place, accepted)
        mask = accepted.repeat(len(moved), 1)
        there[ladder.slices[k]] = torch.where(mask, there[ladder.slices[k]], tail[ladder.slices[k]])
        self.at = at._replace(rungs=at.rungs._replace(tail=there))
        return info._replace(accept=info.accept.mT)

    def _by_plate(self, k: int, tail: Tensor) -> Tensor:
        """lw by group of a crossed plate, up to what does not depend on its effects."""
        at = self.at
        if self.closed is not None:
            return self.closed.by_crossed(k, at.rows, tail, at.effects)
        return self.by_plate[k](self.standing.values(self.ladder, at.position, tail, at.effects))

    def _along(self) -> None:
        """Draws along ridges, and computes anew what depends on crossed effects and coefficients."""
        at, ladder = self.at, self.ladder
        tail = at.rungs.tail
        for ridge in self.ridges.found:
            tail = self.ridges.draw(ridge, ladder, self.known, tail, self.numbers.normal(ridge.width))
        rungs, root = ladder.given(self.known, tail)
        density = self._height_of_theta(at) + rungs.log_marginal
        self.at = self._settled(at.position, density, at.proposal, at.rows, rungs, root, at.effects)

    def _height_of_theta(self, at: Place) -> Tensor:
        return at.density - at.rungs.log_marginal

    def state(self) -> dict[str, Tensor]:
        """See `Whitened.state`."""
        assert self.middles is not None
        weights, right = ({str(k): x for k, x in enumerate(some)} for some in self.middles)
        return super().state() | filed("known", self.known.tensors()) | filed("W", weights) | filed("b", right)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        numbers = [str(k) for k in range(len(self.plates))]
        weights, right = (tuple(inside(name, state)[k] for k in numbers) for name in ("W", "b"))
        self.middles, self.known = Middles(weights, right), Known.of(inside("known", state))
        super().restore(state)
