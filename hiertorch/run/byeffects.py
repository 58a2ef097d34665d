"""The whitened sampler where scales and correlations of effects are many: they are moved given effects.

theta = (xi, psi): psi are the numbers of prior covariances of effects, and those that stand before coefficients. A
sweep has five kinds of moves:

- Population: xi' ~ q and the root's numbers anew, psi as it is but for a few of its scales, which walk; numbers of
  groups are kept, so that effects move along.
- Groups, level by level, as in `hiertorch.run.whitened`.
- psi with standardised effects of the finest level kept (`hiertorch.run.rescaled`), some rows of a root at a time, each
  decided by a pass over the rows.
- psi given effects (`hiertorch.run.giveneffects`), without a pass: effects and coefficients stay, and their numbers
  are computed anew. So does what stands before coefficients (`hiertorch.run.givencoefficients`).

docs/decisions.md: Covariances of many effects are moved given these.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.density.structure import Structure
from hiertorch.gaussian.holding import Held, held, products, redrawn, remainder, standing_at
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.gaussian.wishart import log_gram_volume, turned
from hiertorch.moves.metropolis import Info, decide
from hiertorch.randomness import normal, stream
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.candidates import Candidate, Numbers
from hiertorch.run.engine import filed, inside
from hiertorch.run.folded import FREEDOM, Folded
from hiertorch.run.givencoefficients import GivenCoefficients
from hiertorch.run.giveneffects import GivenEffects
from hiertorch.run.proposals import scale_of
from hiertorch.run.rescaled import Rescaling
from hiertorch.run.rounds import pieces
from hiertorch.run.standing import Place, Standing
from hiertorch.run.warmstart import WarmStart
from hiertorch.run.whitened import FEWEST, Whitened

SIZES = (0.1, 2.0)
"""Of steps of a scale of which rows say little, log-uniform between these."""


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


class WhitenedByEffects(Whitened):
    """Chains that move covariances given effects; see the module.

    Args:
        structure: of the model on its data, which are one set.
        surrogate: the Gaussian model that stands for it, with covariances to move.
        chains: how many run side by side.
        generator: of where chains start; its seed names their streams.
    """

    adjusts = False
    held: Held

    def __init__(self, structure: Structure, surrogate: Surrogate, chains: int, generator: torch.Generator) -> None:
        super().__init__(structure, surrogate, chains, generator)
        y = surrogate.data.y
        self.given = GivenEffects(self.standing, surrogate.first.affine, surrogate.covariances)
        finest = surrogate.first.grams.levels[:1]
        self.rescaling = {k: Rescaling(c, y) for k, c in enumerate(surrogate.covariances) if c.part in finest}
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
        """Numbers of theta that are scales of which rows say little, and those common to what stands before many
        coefficients, which holds these close to where they are.
        """
        slices = self.standing.space.slices
        every = ((one.covariance.scales[i] for i in one.scaled) for one in self.rescaling.values())
        own = [slices[name].start + i for some in every for name, i in some]
        return own + [i for one in self.before for i in one.walking]

    def _hold(self) -> None:
        self.held = held(self.ladder, self.standing.constrained(self.at.position), self.chains)

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
        if self.rescaling:
            spread = torch.linalg.pinv(products(self.ladder).movedim(2, 0)).diagonal(dim1=1, dim2=2).median(0).values
        for k, one in self.rescaling.items():
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
                given = [self._rescaled(done + t)] if self.surrogate.covariances else []
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
        turn, rests = divmod(sweep, 2) if self.before else (sweep, 0)  # the root alone moves more often, and costs less
        if self.scales and not rests:
            size = SIZES[0] * (SIZES[1] / SIZES[0]) ** step[1] * normal(step[0])
            place = torch.tensor([self.scales[turn % len(self.scales)]], device=position.device)
            position = position.index_add(1, place, size.to(position.dtype).unsqueeze(1))
        if width or (self.scales and not rests) or len(self.levels) > 1:
            density, rungs = self.recorded.evaluate(self.ladder, position, noise)
        else:  # nothing but the root's numbers is another one
            density, rungs = at.density, redrawn(self.ladder, self.held, at.rungs, noise)
        found = Candidate(
            position, density, self.proposal.log_density(self.tuning, position), rows, rungs, noise.square().sum(0)
        )
        return found, decides[0].log().to(position.dtype)

    def _rescaled(self, sweep: int) -> Info:
        """psi anew with standardised effects of the finest level; some blocks of it, one after the other."""
        ladder, infos = self.ladder, list[Info]()
        if not self.rescaling:
            nothing = torch.zeros((), dtype=torch.long, device=self.at.density.device)
            return Info(torch.ones_like(self.at.density).unsqueeze(1), nothing, None)
        if self.some or self.scales:
            self._hold()
        gram, right = products(ladder), remainder(ladder, self.held, self.at.rungs.tail, self.at.effects)
        for one in self.rescaling.values():
            turn = one.turn(sweep)
            own = one.covariance.root(self.standing.constrained(self.at.position))
            root, prior = turned(own, one.orders[turn]), self._log_prior(one, self.at.position, own)
            for block in one.blocks:
                at, number = self.at, self.given_numbers.double(one.numbers(block) + 1)
                offered = one.offered(turn, root, at.effects[0], gram, right, block, normal(number[:-1]).to(root.dtype))
                own = turned(offered.root, one.orders[turn].argsort())
                there = self.given.at_root(one.covariance, at.position, own)
                after = self._log_prior(one, there, own)
                weights = self._weights(there, at.rows, at.rungs, (offered.effects, *at.effects[1:]))
                volume = log_gram_volume(offered.root) - log_gram_volume(root)
                ratio = (weights - at.weights).sum(0) + after - prior + volume - offered.beyond
                accepted, info = decide(ratio, number[-1].log().to(ratio.dtype), None, torch.zeros_like(ratio))
                root = torch.where(accepted[:, None, None], offered.root, root)
                prior = torch.where(accepted, after, prior)
                self.at = at._replace(
                    position=torch.where(accepted.unsqueeze(1), there, at.position),
                    effects=(torch.where(accepted, offered.effects, at.effects[0]), *at.effects[1:]),
                    weights=torch.where(accepted, weights, at.weights),
                )
                infos.append(info)
        accept = torch.stack([info.accept for info in infos]).mean(0)
        return Info(accept.unsqueeze(1), torch.stack([info.nan for info in infos]).sum(), None)

    def _log_prior(self, one: Rescaling, position: Tensor, root: Tensor) -> Tensor:
        """log density of the rest with Sigma = R R' in place of the numbers of a covariance, `(chains,)`."""
        return self.given.log_prior(one.covariance, position) - log_gram_volume(root)

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
        self.held = held(ladder, values, self.chains)
        rungs, root = standing_at(ladder, self.held, at.rungs.tail)
        noise = tuple(ladder.up(rungs.levels, at.effects))
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
        for k, one in self.rescaling.items():
            found[f"scaled/{k}"] = torch.tensor(one.scaled, dtype=torch.long, device="cpu")
            for turn, form in enumerate(one.forms):
                found |= filed(f"rescaling/{k}/{turn}", form._asdict())
        return found | filed("streams/given", self.given_numbers.streams.state())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        self.given.take(inside("given", state))
        for k, one in self.rescaling.items():
            one.scaled = state[f"scaled/{k}"].tolist()
            one.forms = [form._replace(**inside(f"rescaling/{k}/{turn}", state)) for turn, form in enumerate(one.forms)]
        self.given_numbers.streams.restore(inside("streams/given", state))
        super().restore(state)
        self._hold()
