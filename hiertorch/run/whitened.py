"""The whitened sampler: adaptive Metropolis in the coordinates in which a Gaussian surrogate is standard normal.

    p(theta, r, x | y) is proportional to  pi_s(theta) N(e; 0, I) exp(sum_i lw_i),     (r, x) = ladder(theta, e)

theta: what the surrogate does not integrate out; pi_s: its marginal density; r, x: coefficients and effects; e: their
standard normal numbers given theta (`hiertorch.gaussian.ladder`); lw: what rows say beyond their sites
(`hiertorch.run.rowweights`). This is exact whatever the sites are; under the surrogate itself all lw are constant.

- Population: theta' ~ q and the root's numbers anew, those of groups kept, so that effects move along. Accepted with
  exp(sum lw' - sum lw) pi_s(theta') q(theta) / (pi_s(theta) q(theta')), by chain.
- Groups of a level: their numbers anew from a Student distribution, finer ones kept. Accepted with exp(sum of lw' - lw
  over the group's rows) times N(e') t(e) / (N(e) t(e')), by chain and group.

After Christensen, Roberts & Skold (2006, section 4) and Papaspiliopoulos, Roberts & Skold (2007, section 3): neither is
a centring chosen by the user, it follows from the data, group by group. Proposals of theta depend on no chain, so that
those of a window of sweeps are made in one batch, as in `hiertorch.run.independence`.

Warm-up has rounds (`hiertorch.run.rounds`). After each, sites are averaged over the draws of all chains and proposals
are fitted to them; numbers of groups are adjusted to theta (`hiertorch.run.adjusted`) if the population moves seldom,
and groups that stayed long have heavier tails (`hiertorch.run.heavytails`). Effects stay where they are.
After the round that shows that all has settled everything is frozen.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hiertorch.density.initial import read_init
from hiertorch.density.structure import Structure
from hiertorch.errors import SamplingError
from hiertorch.gaussian.audit import Audit, audit_densities
from hiertorch.gaussian.ladder import Ladder, Rung, Rungs
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.moves.metropolis import Info, decide
from hiertorch.randomness import stream
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.adjusted import Adjusted, fitted, wanted
from hiertorch.run.candidates import Candidate, Candidates, Numbers, Walk
from hiertorch.run.closedweights import closed_weights, row_derivatives
from hiertorch.run.engine import Engine, UnsuitedError, filed, inside
from hiertorch.run.folded import Folded
from hiertorch.run.heavytails import FREEDOM, HeavyTails
from hiertorch.run.proposals import scale_of
from hiertorch.run.rounds import NUMBERED, Course, Part, Round, parts, pieces, unfit
from hiertorch.run.rowweights import RowWeights
from hiertorch.run.standing import Place, Standing
from hiertorch.run.stays import Stays
from hiertorch.run.store import Store
from hiertorch.run.warmstart import WarmStart
from hiertorch.run.whitenedstart import Explored, Whole, blocks_of, found_around_mode, starting

WINDOW_NUMBERS = 6_000_000
"""Numbers of the proposals of a window, at most."""

FEWEST = 10
"""Positions for each dimension of theta from which proposals are fitted to them."""

POOL, WIDER = 4_000, 1.3
"""Draws that the first proposal is fitted to, and times their spread."""

TRIALS = 8
"""Of starting places, each half as far from the mode as the one before, for chains whose density is not finite."""


class Whitened(Engine):
    """Chains that move in whitened coordinates; see the module.

    Args:
        structure: of the model on its data.
        surrogate: the Gaussian model that stands for it.
        chains, generator: see `Engine`.
    """

    by_chain: ClassVar[Mapping[str, int]] = {"at/position": 0, "at": -1, "round/accepted": 0, "stays": -1}
    at: Place
    ladder: Ladder
    still: Sequence[int] = ()  # numbers of theta that are not sought when chains start
    adjusts = True  # numbers of groups to theta

    def __init__(self, structure: Structure, surrogate: Surrogate, chains: int, generator: torch.Generator) -> None:
        super().__init__(structure, chains, generator)
        self.surrogate, grams = surrogate, surrogate.first.grams
        self.standing = Standing(self.target, surrogate.first.rest)
        self.parents, self.levels = grams.parents, range(len(grams.levels))
        self.blocks = blocks_of(surrogate)
        self.order = tuple(range(len(self.blocks)))
        self.proposal = Folded(self.standing.scales)
        self.numbers = Numbers(generator, chains, surrogate.data.y)
        offers = Numbers(stream(generator.initial_seed(), "offers", device=generator.device), chains, surrogate.data.y)
        self.candidates = Candidates(self.standing, self.proposal, self._of_rows, offers)
        self.weigh = RowWeights(structure, surrogate, grams.levels[0].plate if grams.levels else None)
        self.closed = closed_weights(structure, surrogate, self.standing, self.weigh)
        self.derivatives = row_derivatives(self.closed, self.weigh.terms, surrogate)
        self.tuning: dict[str, Tensor] = {}
        self.walk = surrogate.data.y.new_zeros(self.standing.width, self.standing.width)  # the root of its covariance
        self.tails = HeavyTails()
        self.adjusted: Adjusted | None = None
        self.round, self.counted, self.course = Round(), Stays(), Course()

    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        """Around a mode of the surrogate, whose sites are found with it; see `Engine.begin`."""
        standing, source = self.standing, self.generator
        start, sets = starting(source, self.target.data.device), self.surrogate.sets
        mode, spread, sites = self._around(start)
        self._take_sites(sites)
        number = sets * max(-(-POOL // sets), FEWEST * (1 + standing.width), self.chains // sets)
        pool = Folded([False] * standing.width).draw({"mean": mode, "root": spread.diag_embed()}, number, source)
        self.tuning, mode = self.proposal.fit(pool, WIDER, sets), mode.repeat(number // sets, 1)
        given = read_init(self.target, self.chains, init)
        self.at = self._started(pool, given, 1.0)
        for attempt in range(1, TRIALS):  # nearer to the mode, where the density is not finite
            if bool((sound := self.height().isfinite()).all()):
                break
            nearer = mode + 0.5**attempt * (pool.roll(-attempt * self.chains, 0) - mode)
            self.at = self.at.where(sound, self._started(nearer, given, 0.5**attempt))
        if bad := int((~torch.isfinite(self.height())).sum()):
            what = f"the log density is not finite where {bad} of {self.chains} chains start"
            if given:
                raise SamplingError(f"{what} (init: {', '.join(given)}). Check init and the priors of these latents.")
            raise UnsuitedError(f"{what}, by a Gaussian surrogate of the rows")

    def _around(self, start: torch.Generator) -> tuple[Tensor, Tensor, Sites]:
        parts = (self.surrogate, self.standing, self.weigh.terms, self.derivatives)
        return found_around_mode(self._explored(start), *parts, start, self.still)

    def _explored(self, source: torch.Generator) -> Explored:
        return Whole(self.surrogate, self.standing, source)

    def _started(self, pool: Tensor, given: Mapping[str, Tensor], spread: float) -> Place:
        """At the first positions of a pool and given values, others at the surrogate's draws, or nearer to its mean."""
        standing, position = self.standing, self.standing.told(pool[: self.chains], given)
        root = spread * self.numbers.normal(self.ladder.root.width)
        noise = tuple(spread * self._of_level(k) for k in self.levels)
        density, rungs = standing.evaluate(self.ladder, position, root)
        rows, heavy = self._of_rows(position), self._heavy(noise)
        effects, weights, rungs = self._down(position, rows, rungs, noise)
        at = Place(position, density, density, rows, rungs, root.square().sum(0), noise, effects, weights, heavy)
        if any(name not in standing.rest for name in given):  # others stay where the surrogate has them
            values = {**self._values_at(at), **self.target.space.constrain(given)}
            at = self._standing_at(position, *standing.apart(self.ladder.collapsed, values))
        return at._replace(proposal=self.proposal.log_density(self.tuning, position))

    def _take_sites(self, sites: Sites) -> None:
        self.sites, self.ladder = sites, Ladder(self.surrogate.given(sites))
        (self.closed or self.weigh).set_sites(sites)

    def _of_level(self, level: int) -> Tensor:
        return self.numbers.normal(self.ladder.widths[level], self.ladder.sizes[level])

    def _of_rows(self, position: Tensor) -> Tensor:
        return position.new_zeros(0, len(position)) if self.closed is None else self.closed.parameters(position)

    def _heavy(self, noise: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.tails.heavier(x, level) for level, x in enumerate(noise))

    def _down(
        self, position: Tensor, rows: Tensor, rungs: Rungs, noise: tuple[Tensor, ...], known: tuple[Tensor, ...] = ()
    ) -> tuple[tuple[Tensor, ...], Tensor, Rungs]:
        """Effects, weights, and rungs whose volume is that of the numbers that are kept."""
        if self.adjusted is None:
            effects = tuple(self.ladder.down(rungs.levels, noise, known))
            return effects, self._weights(position, rows, rungs, effects), rungs
        e, more, volume = self.adjusted.numbers(position, noise[0])
        effects = tuple(self.ladder.down(rungs.levels, (e, *noise[1:]), known))
        weights = self._weights(position, rows, rungs, effects) + more
        return effects, weights, rungs._replace(log_volume=rungs.log_volume + volume)

    def _weights(self, position: Tensor, rows: Tensor, rungs: Rungs, effects: Sequence[Tensor]) -> Tensor:
        if self.closed is not None:
            return self.closed(rows, rungs.tail, effects)
        return self.weigh(self.standing.values(self.ladder, position, rungs.tail, effects))

    def window(self, *, warming: bool) -> int:
        """Sweeps whose proposals are made in one batch: to the next walk, or the end of a round, at most."""
        ladder = self.ladder
        numbers = ladder.root.width + sum(k * (k + 2) * n for k, n in zip(ladder.widths, ladder.sizes, strict=True))
        most = min(self.course.to_walk, self.course.ahead if warming else self.course.to_walk)
        return max(1, min(most, WINDOW_NUMBERS // (numbers * self.share.chains)))

    def prepare(self, *, compiled: bool) -> None:
        """Records (and compiles) the pass over the rows."""
        if self.closed is None:
            self.weigh.record(compiled=compiled)
        self._weights(self.at.position, self.at.rows, self.at.rungs, self.at.effects)
        self.target.met.clear()

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        """See `Engine.advance`."""
        if done >= warmup:
            places = list(self._run(done, sweeps, acceptance))
            self._store(places[-(done - warmup + 1) % thin :: thin], store)
            self.round, self.course = Round(), self.course.after(done + sweeps, warmup)
            return
        self.course = self.course._replace(settled=False)
        for part in parts(done, sweeps, warmup, self.share.chains, self.target.data.n_rows):
            if part.first == part.begin:
                self.round = Round()
            numbered = range(0, part.last + 1, NUMBERED) if self.course.poor else ()
            for sweep, position in self._warmed(part, {part.counted, *part.looks, *numbered}, acceptance):
                if sweep > part.counted:  # what is left of the start is forgotten
                    self._see(position, look=sweep in part.looks, numbered=sweep in numbered)
            if part.last == part.end:
                self._learn()
        self.course = self.course.after(done + sweeps, warmup)

    def _warmed(self, part: Part, stops: Collection[int], acceptance: Acceptance) -> Iterator[tuple[int, Tensor]]:
        """Sweeps of warm-up, some of them at a time, none beyond the next stop: how many have been made then, and theta
        after each of these, `(sweeps x chains, d)`.
        """
        for sweep, at in enumerate(self._run(part.first, part.last - part.first, acceptance), part.first + 1):
            yield sweep, at.position

    def _see(self, position: Tensor, *, look: bool, numbered: bool) -> None:
        """Notes what sweeps of warm-up have come to, of all chains."""
        now, at, share = self.round, self.at, self.share
        now.positions.append(share.every([position.unflatten(0, (-1, self.chains))], [1])[0].flatten(0, 1))
        if numbered:
            e = at.noise[0] if self.adjusted is None else self.adjusted.numbers(at.position, at.noise[0])[0]
            theta, e = share.every([at.position, e], [0, 2])
            now.thetas.append(theta)
            now.numbers.append(e)
        if look:
            now.add(self.derivatives(share.named(self.values(), 0)))

    def _run(self, done: int, sweeps: int, acceptance: Acceptance) -> Iterator[Place]:
        """The places after each sweep."""
        population, *_ = self.order
        noise = self.candidates.noise(self.ladder.root.width, sweeps)
        for first, last, walks in pieces(done, sweeps):
            walk = Walk(self.at.position, self.walk) if walks else None
            offered = self.candidates.window(self.ladder, self.tuning, noise.of(first, last), walk)
            for t, there in enumerate(offered, first):
                infos = {population: self._population(there, noise.log_uniform[0, t], walk=walks and t == first)}
                for level in reversed(self.levels):
                    infos[1 + level] = self._groups(level)
                acceptance.add([infos[k] for k in self.order])
                yield self.at

    def _population(self, proposed: Candidate, log_uniform: Tensor, *, walk: bool) -> Info:
        """theta and the root anew; groups keep their numbers."""
        at, (position, density, spread, rows, rungs, square) = self.at, proposed
        effects, weights, rungs = self._down(position, rows, rungs, at.noise)
        ratio = self.share.total((weights - at.weights).sum(0), density, -at.density)
        log_q = torch.zeros_like(spread) if walk else at.proposal - spread
        accepted, info = decide(ratio, log_uniform, None, log_q)
        self.round.accepted.append(info.accept)
        self.counted.add(0, accepted)
        there = Place(position, density, spread, rows, rungs, square, at.noise, effects, weights, at.heavy)
        self.at = there.where(accepted, at)
        return info._replace(accept=info.accept.unsqueeze(1))

    def _groups(self, level: int) -> Info:
        """The numbers of all groups of a level anew, each decided by itself."""
        at, tails = self.at, self.tails
        normal = self._of_level(level)
        noise = tails.drawn(normal, self.numbers.uniform(FREEDOM // 2, normal.shape[1]), level)
        every, coarser = (*at.noise[:level], noise, *at.noise[level + 1 :]), at.effects[level + 1 :]
        effects, weights, _ = self._down(at.position, at.rows, at.rungs, every, coarser)
        ratio, heavy = self.ladder.summed(weights - at.weights, level), tails.heavier(noise, level)
        accepted, info = decide(ratio, self.numbers.uniform(len(ratio)).log_(), None, at.heavy[level] - heavy)
        self.counted.add(1 + level, accepted)
        masks = [accepted]
        for m in reversed(range(level)):
            masks.insert(0, masks[0][self.parents[m]])
        both = zip(masks, effects, at.effects, strict=False)  # levels from the finest to this one
        moved = tuple(torch.where(mask, new, old) for mask, new, old in both)
        self.at = at._replace(
            noise=(*at.noise[:level], torch.where(accepted, noise, at.noise[level]), *at.noise[level + 1 :]),
            heavy=(*at.heavy[:level], torch.where(accepted, heavy, at.heavy[level]), *at.heavy[level + 1 :]),
            effects=(*moved, *coarser),
            weights=torch.where(masks[0], weights, at.weights),
        )
        return info._replace(accept=info.accept.mT)

    def _learn(self) -> None:
        """Proposals from the positions of a round, sites from its draws; effects stay where they are."""
        at, seen, share = self.at, self.round.of_all(self.share), self.share
        moments, longest = seen.moments, share.named(self.counted.longest, -1)
        self._fit(torch.cat(seen.positions))
        for level in self.levels:
            self.tails.widen(level, longest[1 + level])
        rate, stay = seen.rate, max(int(x.max()) for x in longest.values())
        self.counted.forget()
        before, poor = self.adjusted, self.adjusts and self.surrogate.sets == 1 and wanted(rate, at.noise, share.chains)
        if seen.numbers and (poor or before is not None):
            half, middle = share.every([*at.rungs.levels[0][:2]], [-1, -1])
            self.adjusted = fitted(torch.cat(seen.thetas), torch.cat(seen.numbers, 2), Rung(half, middle, ()))
        settled = seen.settled(self.course.rate, stay) and self.adjusted is before
        self.course = self.course._replace(poor=poor, rate=rate, settled=settled)
        if moments is not None:
            self._take_sites(moments.sites())
        if moments is not None or self.adjusted is not before:
            at = self._standing_at(at.position, at.rungs.tail, at.effects)
        self.at = at._replace(proposal=self.proposal.log_density(self.tuning, at.position), heavy=self._heavy(at.noise))

    def _fit(self, every: Tensor) -> None:
        """Proposals of theta, from positions `(n, d)`."""
        own = every.unflatten(0, (-1, sets := self.surrogate.sets))
        if len(own) >= FEWEST * (1 + self.standing.width):
            self.tuning, self.walk = self.proposal.fit(every, sets=sets), scale_of((own - own.mean(0)).flatten(0, 1))

    def _standing_at(self, position: Tensor, tail: Tensor, effects: Sequence[Tensor]) -> Place:
        """The place of given theta, root and effects under the present sites; what is proposed is to be filled in."""
        free = self.standing.space.split(position)
        values = self.standing.space.constrain(free)
        rungs, root = self.ladder.at(values, tail)
        density = self.standing.with_prior(free, values, rungs.log_marginal)
        return self._settled(position, density, density, self._of_rows(position), rungs, root, effects)

    def _settled(
        self, position: Tensor, density: Tensor, q: Tensor, rows: Tensor, rungs: Rungs, root: Tensor,
        effects: Sequence[Tensor],
    ) -> Place:  # fmt: skip
        """The place with numbers of groups and weights that belong to given effects."""
        noise = tuple(self.ladder.up(rungs.levels, effects))
        weights = self._weights(position, rows, rungs, effects)
        if self.adjusted is not None:
            noise = (self.adjusted.back(position, noise[0]), *noise[1:])
            _, more, volume = self.adjusted.numbers(position, noise[0])
            weights, rungs = weights + more, rungs._replace(log_volume=rungs.log_volume + volume)
        square, heavy = root.square().sum(0), self._heavy(noise)
        return Place(position, density, q, rows, rungs, square, noise, tuple(effects), weights, heavy)

    def _store(self, places: Sequence[Place], store: Store) -> None:
        if not (chosen := [places[i] for i in store.wanted(len(places))]):
            return
        values = self.standing.values_of(self.ladder, chosen)
        kept = {name: values[name].unflatten(0, (len(chosen), -1)) for name in store.names}
        store.fill(kept, self.heights(chosen), store.n_draws)
        store.filled(store.n_draws + len(chosen))

    def check(self, store: Store) -> None:
        """See `Engine.check`: chains move often enough, at the end of warm-up, and at the model's own density."""
        found = audit_densities(self.target, self.values(), self.height())
        self.audit = found if self.audit is None else self.audit + found
        if not found.sound:
            raise UnsuitedError(
                f"the log density of the run and that of the model differ by {found.gap:.3g} at draws of the run itself"
            )
        rate, bent = self.round.of_all(self.share).rate, self.surrogate.predictor.bent
        if not store.n_draws and (why := unfit(rate, bent)):
            raise UnsuitedError(why)
        self.round = Round()

    def settled(self) -> bool:
        """See `Round.settled`."""
        return self.course.settled

    def stays(self) -> dict[str, Tensor]:
        """See `Engine.stays`."""
        return {self.blocks[k].name: x for k, x in self.counted.longest.items()}

    def values(self) -> Mapping[str, Tensor]:
        """The last sweep's values, `(chains, size, *event)`."""
        return self._values_at(self.at)

    def _values_at(self, at: Place) -> Mapping[str, Tensor]:
        found = self.standing.values(self.ladder, at.position, at.rungs.tail, at.effects)
        return {name: found[name] for name in self.target.names}

    def height(self) -> Tensor:
        """See `Engine.height`."""
        return self.heights([self.at])[0]

    def heights(self, places: Sequence[Place]) -> Tensor:
        """The same at some places, `(places, chains)`."""
        return torch.stack([place.height(self.ladder.constant) for place in places])

    def state(self) -> dict[str, Tensor]:
        """Places, sites, proposals with what they are fitted to next, and streams."""
        found = {"z": self.sites.z, "w": self.sites.w, "walk": self.walk}
        found |= filed("streams", self.numbers.streams.state()) | filed("shifts", self.sites.shifts)
        found |= filed("streams/offers", self.candidates.numbers.streams.state())
        found |= filed("at", self.at.tensors()) | filed("tuning", self.tuning)
        found |= filed("round", self.round.tensors()) | filed("stays", self.counted.tensors())
        found |= filed("tails", self.tails.tensors()) | filed("course", self.course.tensors())
        found |= filed("adjusted", self.adjusted.tensors()) if self.adjusted is not None else {}
        found |= filed("audit", self.audit.tensors()) if self.audit is not None else {}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        self._take_sites(Sites(state["z"], state["w"], inside("shifts", state)))
        self.walk, self.tuning = state["walk"], inside("tuning", state)
        self.at = Place.of(inside("at", state), self.ladder)
        self.round, self.counted = Round.of(inside("round", state)), Stays.of(inside("stays", state))
        self.tails = HeavyTails.of(inside("tails", state))
        self.course, adjusted = Course.of(inside("course", state)), inside("adjusted", state)
        self.adjusted = Adjusted.of(adjusted) if adjusted else None
        self.audit = Audit.of(audited) if (audited := inside("audit", state)) else None
        self.numbers.streams.restore(inside("streams", state))
        self.candidates.numbers.streams.restore(inside("streams/offers", state))
