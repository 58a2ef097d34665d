"""The whitened sampler where scales and correlations of effects are many: they are moved given effects.

theta = (xi, psi): psi are the numbers of prior covariances of effects, and those that stand before coefficients. A
sweep has five kinds of moves:

- Population: xi' ~ q and the root's numbers anew, psi as it is but for scales common to many numbers, which walk;
  numbers of groups are kept, so that effects move along.
- Groups, level by level, as in `hiertorch.run.whitened`.
- psi of the finest level, effect by effect (`hiertorch.run.oneeffect`), each decided by passes over the rows.
- psi given effects (`hiertorch.run.giveneffects`), without a pass: effects and coefficients stay, and their numbers
  are computed anew. So does what stands before coefficients (`hiertorch.run.givencoefficients`).

docs/decisions.md: Covariances of many effects are moved given these.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.density.structure import Structure
from hiertorch.gaussian.holding import Holding
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.gaussian.wishart import log_gram_volume, turned
from hiertorch.moves.metropolis import Info, decide
from hiertorch.randomness import normal, stream
from hiertorch.run import oneeffect
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.candidates import Candidate, Numbers
from hiertorch.run.engine import filed, inside
from hiertorch.run.folded import FREEDOM, Folded
from hiertorch.run.givencoefficients import GivenCoefficients
from hiertorch.run.giveneffects import GivenEffects
from hiertorch.run.oneeffect import Offered, OneEffect, Sides
from hiertorch.run.proposals import scale_of
from hiertorch.run.rounds import pieces
from hiertorch.run.standing import Place, Standing
from hiertorch.run.warmstart import WarmStart
from hiertorch.run.whitened import FEWEST, Whitened

SIZES = (0.1, 2.0)
"""Of steps of a scale that walks, log-uniform between these."""


class SomeFolded(Folded):
    """A distribution of some numbers of theta, of whole positions.

    Args:
        scales: of all numbers.
        some: which numbers.
    """

    def __init__(self, scales: Sequence[bool], some: Sequence[int]) -> None:
        super().__init__([scales[i] for i in some])
        self.some = list(some)

    def fit(self, draws: Tensor, wider: float = 1.0, sets: int = 1) -> dict[str, Tensor]:
        """See `Folded.fit`."""
        return super().fit(draws[:, self.some], wider, sets)

    def log_density(self, tuning: Mapping[str, Tensor], u: Tensor) -> Tensor:
        """See `Folded.log_density`."""
        return super().log_density(tuning, u[:, self.some])


class Psi(NamedTuple):
    """Where chains are with one covariance."""

    root: Tensor  # R, (chains, K, K)
    prior: Tensor  # log density of the rest with R R' in place of its numbers, (chains,)
    moved: Tensor  # whether it is another one than it was, (chains,)

    def sides(self, order: Tensor, at: Place) -> tuple[Tensor, Tensor]:
        """R with effects in another order, and effects."""
        return turned(self.root, order), at.effects[0]


class WhitenedByEffects(Whitened):
    """Chains that move covariances given effects; see the module.

    Args:
        structure: of the model on its data, which are one set.
        surrogate: the Gaussian model that stands for it, with covariances to move.
        chains: how many run side by side.
        generator: of where chains start; its seed names their streams.
    """

    adjusts = False
    holding: Holding

    def __init__(self, structure: Structure, surrogate: Surrogate, chains: int, generator: torch.Generator) -> None:
        super().__init__(structure, surrogate, chains, generator)
        y = surrogate.data.y
        self.given = GivenEffects(self.standing, surrogate.first.affine, surrogate.covariances)
        finest = surrogate.first.grams.levels[:1]
        self.moving = {k: OneEffect(c, y) for k, c in enumerate(surrogate.covariances) if c.part in finest}
        self.before = [GivenCoefficients(self.standing, one) for one in surrogate.local]
        self.recorded = self.standing  # until there is one
        mine = {i for one in self.before for i in one.positions}
        self.still, self.some = [*self.given.correlations, *mine], [i for i in self.given.others if i not in mine]
        self.proposal = SomeFolded(self.standing.scales, self.some)
        self.walk = y.new_zeros(len(self.some), len(self.some))
        source = stream(generator.initial_seed(), "given effects", device=generator.device)
        self.given_numbers = Numbers(source, chains, y)

    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        """See `Whitened.begin`."""
        super().begin(init, earlier)
        self._fit(self.at.position)
        self._hold()

    @property
    def scales(self) -> list[int]:
        """Numbers of theta that are scales common to what stands before many coefficients, which holds these close to
        where they are.
        """
        return [i for one in self.before for i in one.walking]

    def _take_sites(self, sites: Sites) -> None:
        super()._take_sites(sites)
        self.holding = Holding.of(self.ladder)

    def _hold(self) -> None:
        self.holding.hold(self.standing.constrained(self.at.position), self.chains)

    def _learn(self) -> None:
        """See `Whitened._learn`."""
        super()._learn()
        self._hold()

    def prepare(self, *, compiled: bool) -> None:
        """See `Whitened.prepare`; priors are recorded as well, for so many chains, and moves given coefficients."""
        super().prepare(compiled=compiled)
        target = copy.deepcopy(self.target)
        target.record(compiled=False)
        target.met = self.target.met
        self.recorded = Standing(target, self.standing.rest)
        for one in self.before:
            one.record(self.at.position, self._values_at(self.at))

    def _fit(self, every: Tensor) -> None:
        self.given.fit(every)
        values = self.standing.constrained(every)
        if self.moving:
            products = self.holding.products.movedim(2, 0)
            spread = torch.linalg.pinv(products).diagonal(dim1=1, dim2=2).median(0).values
        for k, one in self.moving.items():
            one.fit(self.given.fitted[k], one.covariance.root(values), spread[one.covariance.at])
        own = every[:, self.some]
        if self.some and len(own) >= FEWEST * (1 + len(self.some)):
            self.tuning, self.walk = self.proposal.fit(every), scale_of(own - own.mean(0))

    def _run(self, done: int, sweeps: int, acceptance: Acceptance) -> Iterator[Place]:
        """The places after each sweep."""
        population, *others = self.order
        moves = others[len(self.levels) :]
        for first, last, walks in pieces(done, sweeps):
            for t in range(first, last):
                walk = walks and t == first
                there, log_uniform = self._candidate(done + t, walk=walk)
                infos = {population: self._population(there, log_uniform, walk=walk)}
                for level in reversed(self.levels):
                    infos[1 + level] = self._groups(level)
                before = self.at.position
                given = [self._by_effect(done + t)] if self.surrogate.covariances else []
                given += self._given(done + t)
                infos |= dict(zip(moves, given, strict=True))
                self.counted.add(moves[-1], (self.at.position != before).any(1))
                acceptance.add([infos[k] for k in self.order])
                yield self.at

    def _candidate(self, sweep: int, *, walk: bool) -> tuple[Candidate, Tensor]:
        """What each chain is offered, and the number that decides."""
        width, at, position = len(self.some), self.at, self.at.position
        widths = [width, FREEDOM // 2, self.ladder.root.width, 2, 1]
        theta, radius, root, step, decides = self.candidates.numbers.double(sum(widths)).split(widths)
        noise, rows = normal(root).to(position.dtype), at.rows
        if width:
            jump = normal(theta).to(position.dtype).mT
            own = position[:, self.some] + width**-0.5 * jump @ self.walk.mT
            proposed = own if walk else self.proposal.placed(self.tuning, jump, radius.to(position.dtype))
            position = position.index_copy(1, torch.tensor(self.some, device=position.device), proposed)
            rows = self._of_rows(position)
        turn, rests = divmod(sweep, 2)  # the root alone moves more often, and costs less
        if self.scales and not rests:
            size = SIZES[0] * (SIZES[1] / SIZES[0]) ** step[1] * normal(step[0])
            place = torch.tensor([self.scales[turn % len(self.scales)]], device=position.device)
            position = position.index_add(1, place, size.to(position.dtype).unsqueeze(1))
        if width or (self.scales and not rests) or len(self.levels) > 1:
            density, rungs = self.recorded.evaluate(self.ladder, position, noise)
        else:  # nothing but the root's numbers is another one
            density, rungs = at.density, self.holding.redrawn(at.rungs, noise)
        found = Candidate(
            position, density, self.proposal.log_density(self.tuning, position), rows, rungs, noise.square().sum(0)
        )
        return found, decides[0].log().to(position.dtype)

    def _by_effect(self, sweep: int) -> Info:
        """psi anew of some effects of the finest level, one after the other, each by its correlations and its scale."""
        infos = list[Info]()
        if not self.moving:
            nothing = torch.zeros((), dtype=torch.long, device=self.at.density.device)
            return Info(torch.ones_like(self.at.density).unsqueeze(1), nothing, None)
        values = self.standing.constrained(self.at.position)
        right = self.holding.remainder(values, self.at.rungs.tail, self.at.effects)
        for k, one in self.moving.items():
            before, width = self.at.position, one.covariance.width
            values = self.standing.constrained(before) if infos else values  # others have moved
            own = one.covariance.root(values)
            still = torch.zeros(self.chains, dtype=torch.bool, device=own.device)
            now = Psi(own, self._log_prior(k, values, own), still)
            for which in one.moved(sweep):
                order, power = one.orders[which], one.powers[which]
                number = self.given_numbers.double((width > 1) * (power + width) + 3)
                sides = Sides(one.covariance.at.start + order, self.holding.products, right, *now.sides(order, self.at))
                if width > 1:
                    normals = normal(number[3 + 1 :]).to(own.dtype)
                    square = normals[:power].square().sum(0)
                    row = oneeffect.offered_row(sides, power, square, normals[power:])
                    now, info = self._decided(k, values, now, sides, row, number[3])
                    infos.append(info)
                    sides = sides._replace(**dict(zip(("root", "level"), now.sides(order, self.at), strict=True)))
                scale = oneeffect.offered_scale(sides, one.units[which], number[:2].to(own.dtype))
                volume = width * (scale.row[:, -1] / sides.root[:, -1, -1]).log()  # |d covariance / d scale|
                scale = scale._replace(beyond=scale.beyond + volume)
                now, info = self._decided(k, values, now, sides, scale, number[2])
                infos.append(info)
            there = self.given.at_root(one.covariance, before, now.root)
            self.at = self.at._replace(position=torch.where(now.moved.unsqueeze(1), there, before))
        accept = torch.stack([info.accept for info in infos]).mean(0)
        return Info(accept.unsqueeze(1), torch.stack([info.nan for info in infos]).sum(), None)

    def _decided(
        self, k: int, values: Mapping[str, Tensor], now: "Psi", sides: Sides, offered: Offered, uniform: Tensor
    ) -> tuple["Psi", Info]:
        """After a move of one effect's covariance, this effect moving along."""
        one, at, effect = self.moving[k], self.at, sides.mine[-1:]
        there = torch.cat([sides.root[:, :-1], offered.row.unsqueeze(1)], 1)
        root = turned(there, (sides.mine - one.covariance.at.start).argsort())
        prior = self._log_prior(k, values, root)
        level = at.effects[0].index_copy(0, effect, offered.effect.unsqueeze(0))
        position = at.position if self.closed is not None else self.given.at_root(one.covariance, at.position, root)
        weights = self._weights(position, at.rows, at.rungs, (level, *at.effects[1:]))
        ratio = (weights - at.weights).sum(0) + prior - now.prior + offered.beyond
        accepted, info = decide(ratio, uniform.log().to(ratio.dtype), None, torch.zeros_like(ratio))
        self.at = at._replace(
            effects=(torch.where(accepted, level, at.effects[0]), *at.effects[1:]),
            weights=torch.where(accepted, weights, at.weights),
        )
        return Psi(
            torch.where(accepted[:, None, None], root, now.root), torch.where(accepted, prior, now.prior),
            now.moved | accepted,
        ), info  # fmt: skip

    def _log_prior(self, k: int, values: Mapping[str, Tensor], root: Tensor) -> Tensor:
        """log density of the rest with Sigma = R R' in place of the numbers of a covariance, `(chains,)`."""
        return self.given.log_prior(k, values, root) - log_gram_volume(root)

    def _given(self, sweep: int) -> list[Info]:
        """psi anew; effects, coefficients, and what rows say of them stay. Their numbers are computed anew."""
        at, ladder, standing, infos, position = self.at, self.ladder, self.standing, list[Info](), self.at.position
        if self.given.covariances:
            effects = {**dict(zip(ladder.grams.levels, at.effects, strict=True)), **ladder.apart(at.rungs.tail)}
            position, info = self.given.step(position, effects, self.given_numbers.double(self.given.numbers))
            infos.append(info)
        if self.before:
            values, accepts = self.standing.values(ladder, position, at.rungs.tail, at.effects), list[Tensor]()
            for one in self.before:
                position, accept = one.step(position, values, sweep, self.given_numbers.double(one.numbers))
                accepts.append(accept)
            nothing = torch.zeros((), dtype=torch.long, device=position.device)
            infos.append(Info(torch.stack(accepts).mean(0).unsqueeze(1), nothing, None))
        free = standing.space.split(position)
        values = standing.space.constrain(free)
        rungs, root, noise = self.holding.stand(values, at.rungs.tail, at.effects)
        self.at = at._replace(
            position=position,
            density=self.recorded.with_prior(free, values, rungs.log_marginal),
            rungs=rungs,
            square=root.square().sum(0),
            noise=noise,
            heavy=self._heavy(noise),
        )
        return infos

    def state(self) -> dict[str, Tensor]:
        """See `Whitened.state`."""
        found = super().state() | filed("given", self.given.tensors())
        for k, one in self.moving.items():
            found |= filed(f"moving/{k}", one.tensors())
        return found | filed("streams/given", self.given_numbers.streams.state())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        self.given.take(inside("given", state))
        for k, one in self.moving.items():
            one.take(inside(f"moving/{k}", state))
        self.given_numbers.streams.restore(inside("streams/given", state))
        super().restore(state)
        self._hold()
