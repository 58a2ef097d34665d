"""The collapsed sampler: adaptive independence Metropolis on what is left when effects and coefficients are integrated
out, which are then drawn exactly.

Note [Proposals that wait for nobody]
An independence proposal does not depend on where its chain is. So all proposals of a window of sweeps are made and
evaluated at once, in one batch of window x chains, and accepting them one after the other is a comparison of two
numbers a sweep. Every CYCLE-th sweep (after warm-up every SELDOM-th, if proposals fit) is a random walk instead, which
does depend on it: where proposals fit badly, the walk keeps the chain moving, and correctness never hangs on the fit.

Accept with min(1, pi(u') q(u) / (pi(u) q(u'))) (Tierney 1994, section 2.3.3). Proposals start at the modes of the
density with the curvature there, and are fitted again to the draws of all chains at the end of each window of warm-up
(Haario et al. 2001; Holden, Hauge & Holden 2009, for independence proposals) but the last of a given number, or up to
the one that shows that they have settled; then they are frozen.
Where many dimensions are left, proposals for blocks of them stand beside these or, while few would be accepted, in
their place (`hiertorch.run.blocks`), and do wait; and slopes of the density help to fit them.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hiertorch.density.initial import read_init
from hiertorch.errors import SamplingError
from hiertorch.gaussian.audit import Audit, AuditError, audit
from hiertorch.gaussian.exactfit import fitted_exactly
from hiertorch.moves.metropolis import Info, Tuning
from hiertorch.randomness import ChainStreams, normal, stream
from hiertorch.run import proposals
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.beside import Beside
from hiertorch.run.blocks import MOST_TOGETHER, TOGETHER, sweep_in_blocks
from hiertorch.run.collapsed import CollapsedMove
from hiertorch.run.engine import Block, Engine, filed, inside
from hiertorch.run.importance import found_around_modes
from hiertorch.run.outright import Looked, Outright, drawn_outright
from hiertorch.run.rounds import has_settled
from hiertorch.run.stays import moved
from hiertorch.run.store import Store
from hiertorch.run.warmstart import WarmStart
from hiertorch.runtime.devices import any_here
from hiertorch.runtime.ranks import Share
from hiertorch.runtime.workers import each

CYCLE = 20
"""Sweeps of which the last is a random walk."""

SELDOM = 60
"""The same once warm-up is over, if proposals fit."""

FIT = 0.7
"""Share of sweeps that move a chain at the end of warm-up, from which they are said to fit."""

WINDOWS = 4
"""Windows of warm-up whose draws proposals are fitted to, or more if they have few."""

FITTED, SUFFICE = 1_000, 2_000
"""The least number of these draws, and draws of warm-up with fewer than which more of it pays."""

WALK = (0.1, 2.4)
"""Sizes of the random walk, log-uniform between these, over sqrt(dimensions), in units of the draws' covariance."""

SLOPED = 8
"""Slopes a dimension that are computed in a window of warm-up, where many dimensions are left."""

SOME = 2
"""Blocks that are offered after each proposal for many dimensions: a few of these keep a chain where it is."""

MOST_AT_ONCE = 20_000
"""Proposals in a window."""

MOST_SWEEPS = 240
"""Sweeps in a window: a run that goes on until a goal is reached looks at its draws between windows only."""

HELD_BACK = 8_380_000
"""Single precision numbers in a tensor of nearly 32 MiB. From having freed one, glibc knows not to hand blocks up to
that size back to the system after every batch, whose pages would have to be cleared again: a third of the time.
"""

NOISE = 1_000_000
"""Standard normal numbers that are held at once."""


class Independence(Engine):
    """Chains that move by `CollapsedMove`; see the module. Arguments are those of `Engine`, but for the move."""

    by_chain: ClassVar[Mapping[str, int]] = {"place": 0, "log_density": 0}
    log_density: Tensor

    def __init__(self, move: CollapsedMove, chains: int, generator: torch.Generator) -> None:
        self.move, self.chains, self.generator, self.share = move, chains, generator, Share(chains)
        self.blocks = (Block(move.name, None),)
        # Of their own, so that chains do not depend on what is stored of them, or looked at, nor on windows.
        seed, device = generator.initial_seed(), generator.device
        self.moving = ChainStreams(generator, chains)
        self.of_blocks = ChainStreams(stream(seed, "blocks", device=device), chains)
        self.outright = Outright(move.collapsed, seed, chains)
        self.streams = {"moving": self.moving, "blocks": self.of_blocks, **self.outright.streams}
        self.dealing, self.watching = (stream(seed, use, device=device) for use in ("dealing", "watching"))
        self.generators = {"dealing": self.dealing, "watching": self.watching}
        like = move.collapsed.grams.packed
        torch.empty(HELD_BACK, dtype=torch.float32, device="cpu")  # freed at once: see there
        self.place = like.new_zeros(chains, move.width)  # positions, and what drawing from there takes
        self.tuning: Tuning = {}
        self.walk = like.new_empty(0)  # root of the random walk's covariance
        self.cycle = CYCLE
        self.wide = move.width > MOST_TOGETHER
        self.beside = Beside(move, seed, chains) if move.covariances else None
        self.streams |= self.beside.streams if self.beside is not None else {}
        self.in_blocks = self.wide  # whether proposals change blocks of what is left, until all of it can be
        self.seen: list[Tensor] = []  # that proposals are fitted to, (n, d) each
        self.sloped: list[Tensor] = []  # some of them beside their slopes, (n, 2 d) each, if d is large
        self.last = like.new_empty(0)  # positions of the last window of warm-up, (sweeps, chains, d)
        self.rate: float | None = None  # share of the sweeps of that window that moved a chain
        self.over = False  # whether warm-up may end with it

    def begin(self, init: Mapping[str, object], earlier: WarmStart | None) -> None:
        """Positions and proposals that an earlier run has found, or those found around modes. Of starting values only
        those of the rest count, since all others are drawn outright. See `Engine.begin`.
        """
        move = self.move
        given = {n: x for n, x in read_init(move.target, self.chains, init).items() if n in move.rest}
        if move.width == 0:
            self.place, self.log_density = move.evaluate(self.place)
            return
        if earlier is not None and earlier.seen is not None:
            start = given
            pool = move.space.join(move.space.unconstrain({name: earlier.seen[name] for name in move.rest}))
            root = torch.eye(move.width, dtype=pool.dtype, device=pool.device)
            proposal = proposals.normal_start(pool.mean(0), root)
        else:
            position, pool, proposal = found_around_modes(move, self.chains, self.generator)
            start = {**move.space.split(position), **given}
        self.place, self.log_density = move.evaluate(move.space.join({name: start[name] for name in move.rest}))
        if bad := int((~torch.isfinite(self.log_density)).sum()):
            raise SamplingError(
                f"the log density is not finite where {bad} of {self.chains} chains start (init: "
                f"{', '.join(given) or 'none'}; sampled: {', '.join(move.rest)}). Check init and the priors of these "
                "latents."
            )
        self.seen = [pool]
        if self.wide and earlier is None:  # to so few candidates as weigh anything, no proposal can be fitted
            self.seen, self.tuning, self.walk = [], proposal, proposal["root"]
            return
        self.tuning, self.walk = proposals.refitted(self.seen, proposal)

    def window(self, *, warming: bool) -> int:
        """Sweeps in a window: one cycle in warm-up, after which proposals are fitted again; later enough cycles to keep
        tensors busy.
        """
        wanted = min(MOST_AT_ONCE, 8 * self.move.collapsed.batch)
        many = min(wanted // self.share.chains, MOST_SWEEPS)
        return CYCLE if warming else self.cycle * max(1, many // self.cycle)

    def prepare(self, *, compiled: bool) -> None:
        """See `Engine.prepare`."""
        self.move.target.met.clear()

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, acceptance: Acceptance) -> None:
        """See `Engine.advance`."""
        before, (places, densities) = self.place, self._run(sweeps, acceptance)
        self.place, self.log_density = places[-1], densities[-1]
        if done < warmup:
            every = torch.cat([before.unsqueeze(0), places])[..., : self.move.width]
            every, densities = self.share.every([every, densities], [1, 1])
            self._warm(every, densities, done + sweeps, last=done + sweeps >= warmup)
            return
        self.seen, self.sloped = [], []
        first = -(done - warmup + 1) % thin
        if len(places[first::thin]):
            self._store(places[first::thin], densities[first::thin], store)

    def _run(self, sweeps: int, acceptance: Acceptance) -> tuple[Tensor, Tensor]:
        """Places `(sweeps, chains, d + m)` and their log densities after each sweep."""
        d, chains, like = self.move.width, self.chains, self.place
        zero = torch.zeros((), dtype=torch.long, device=like.device)
        if d == 0:
            for _ in range(sweeps):
                acceptance.add([Info(like.new_ones(chains, 1), zero, None)])
            return like.expand(sweeps, *like.shape), self.log_density.expand(sweeps, chains)
        if self.in_blocks:
            return self._run_blocks(sweeps, acceptance)
        walks = [t % self.cycle == self.cycle - 1 for t in range(sweeps)]
        numbers = self._numbers(sweeps)
        offered = torch.stack([some[:-1] for some, walk in zip(numbers, walks, strict=True) if not walk], 1)
        proposed, spread = proposals.propose_and_weigh(self.tuning, offered.flatten(1))
        proposed, density = self.move.evaluate(proposed)
        weight, log_uniform = density - spread, numbers[:, -1].log().to(like.dtype)
        proposed, density, weight = (x.unflatten(0, (-1, chains)) for x in (proposed, density, weight))
        sound = torch.where(torch.isfinite(weight), weight, -torch.inf)
        bad = (sound != weight).sum(1) if any_here(~torch.isfinite(weight)) else None
        at, height = self.place, self.log_density
        here = height - proposals.density(self.tuning, at[:, :d])
        places, heights, used = [], [], 0
        for t, walk in enumerate(walks):
            if walk:
                at, height, accept, nan = (
                    self._sweep_in_blocks(at, height) if self.wide else self._walk(at, height, numbers[t])
                )
                here = height - proposals.density(self.tuning, at[:, :d])
            else:
                ratio = sound[used] - here
                accepted = log_uniform[t] < ratio
                accept = ratio.clamp(max=0.0).exp()
                here = torch.where(accepted, sound[used], here)
                height = torch.where(accepted, density[used], height)
                at = torch.where(accepted.unsqueeze(1), proposed[used], at)
                nan = zero if bad is None else bad[used]
                used += 1
                if self.wide:
                    at, height, more = self._more(at, height)
                    here, nan = height - proposals.density(self.tuning, at[:, :d]), nan + more
            acceptance.add([Info(accept.unsqueeze(1), nan, None)])
            places.append(at)
            heights.append(height)
        return torch.stack(places), torch.stack(heights)

    def _run_blocks(self, sweeps: int, acceptance: Acceptance) -> tuple[Tensor, Tensor]:
        """The same by blocks."""
        at, height, places, heights = self.place, self.log_density, [], []
        for t, numbers in enumerate(self._numbers(sweeps)):
            walk = t % self.cycle == self.cycle - 1
            at, height, accept, nan = self._walk(at, height, numbers) if walk else self._sweep_in_blocks(at, height)
            if self.beside is not None:
                at, height, more = self.beside.step(at, height)
                nan = nan + more
            acceptance.add([Info(accept.unsqueeze(1), nan, None)])
            places.append(at)
            heights.append(height)
        return torch.stack(places), torch.stack(heights)

    def _numbers(self, sweeps: int) -> Tensor:
        """Uniform numbers of these sweeps, the last of which decides, `(sweeps, d + UNIFORMS + 1, chains)`."""
        each = self.move.width + proposals.UNIFORMS + 1
        return self.moving.uniform(sweeps * each).view(sweeps, each, self.chains)

    def _sweep_in_blocks(
        self, at: Tensor, height: Tensor, some: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return sweep_in_blocks(self.move.evaluate, self.tuning, at, height, self.of_blocks, self.dealing, some)

    def _more(self, at: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What follows a proposal for all dimensions: place, log density, and how many densities were NaN."""
        if self.beside is not None:
            return self.beside.step(at, height)
        at, height, _, nan = self._sweep_in_blocks(at, height, SOME)
        return at, height, nan

    def _walk(self, at: Tensor, height: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One random walk step: place, log density, acceptance probability, and how many densities were NaN."""
        d, (z, sizes, decides) = self.move.width, numbers.tensor_split([self.move.width, len(numbers) - 1])
        size = WALK[0] * (WALK[1] / WALK[0]) ** sizes[0] / d**0.5
        jump = (size * normal(z)).mT.to(at.dtype) @ self.walk.mT
        there, density = self.move.evaluate(at[:, :d] + jump)
        ratio = density - height
        sound = torch.nan_to_num(ratio, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        accepted = decides[0].log() < sound
        height = torch.where(accepted, density, height)
        return torch.where(accepted.unsqueeze(1), there, at), height, sound.clamp(max=0.0).exp(), (sound != ratio).sum()

    def _warm(self, every: Tensor, densities: Tensor, done: int, *, last: bool) -> None:
        """After a window of warm-up, given positions of all chains before it and after each sweep: whether that may be
        the last, and what is learnt of it. Where many dimensions are left, more is learnt as long as it lasts.
        """
        self.last = positions = every[1:]
        if self.move.width == 0:
            self.over = True
            return
        rate, longest = moved(every)
        enough = not self.wide and done * self.share.chains >= SUFFICE
        self.over = enough and has_settled(rate, self.rate, longest, len(positions))
        self.rate = rate
        self.cycle = SELDOM if (last or self.over) and rate > FIT else CYCLE
        if not last:
            self._learn(positions, densities)

    def settled(self) -> bool:
        """With the last window; see `hiertorch.run.rounds.has_settled`."""
        return self.over

    def _learn(self, positions: Tensor, densities: Tensor) -> None:
        """Fits proposals to the draws of the last windows of warm-up, and to those that the start was chosen from while
        these are few; not after the last window of a warm-up of given length.
        """
        self.seen.append(positions.flatten(0, 1))
        if self.wide:
            self.sloped.append(self._with_slopes(self.seen[-1]))
        enough = max(FITTED, 2 * self.move.width**2)  # there are half so many covariances
        while len(self.seen) > WINDOWS and sum(map(len, self.seen[1:])) >= enough:
            self.seen.pop(0)
        del self.sloped[: -max(WINDOWS, -(-len(self.sloped) // 2))]
        self.tuning, self.walk = proposals.refitted(self.seen, self.tuning, self.sloped)
        if self.beside is not None:
            self.beside.fit(self.seen)
        if self.wide:
            self.in_blocks = proposals.accepted(self.tuning, self.seen[-1], densities.flatten()) < TOGETHER

    def _with_slopes(self, positions: Tensor) -> Tensor:
        """Some of these positions, and the slopes of the log density there, `(n, 2 d)`, where they are finite."""
        move, found = self.move, []
        some = positions[:: max(1, len(positions) // (SLOPED * move.width))]
        with torch.enable_grad():
            for part in some.split(max(1, move.collapsed.batch // 2)):
                moving = part.detach().requires_grad_()
                (slope,) = torch.autograd.grad(move.log_density(moving).sum(), moving)
                found.append(torch.cat([part, slope], 1))
        every = torch.cat(found)
        return every[every.isfinite().all(1)]

    def _store(self, places: Tensor, densities: Tensor, store: Store) -> None:
        """Stores places `(n, chains, d + m)` but those that are thinned out, with effects and coefficients drawn."""
        if not (chosen := store.wanted(len(places))):
            return
        places, densities = places[chosen.start :: chosen.step], densities[chosen.start :: chosen.step]
        collapsed = self.move.collapsed
        linear = tuple(name for name in store.names if name in collapsed.linear)
        rows, stored = collapsed.noise_for(linear), store.n_draws
        per = max(1, min(NOISE // max(1, rows), collapsed.batch) // self.share.chains)

        def piece(start: int) -> tuple[int, Tensor | None]:
            return start, self.outright.uniform(rows, len(places[start : start + per])) if linear else None

        def keep(piece: tuple[int, Tensor | None]) -> int:
            start, numbers = piece
            part = places[start : start + per]
            values = drawn_outright(self.move, part.flatten(0, 1), linear, numbers)
            kept = {name: x.unflatten(0, part.shape[:2]) for name, x in values.items() if name in store.names}
            store.fill(kept, densities[start : start + per], stored + start)
            return stored + start + len(part)

        for end in each(keep, map(piece, range(0, len(places), per)), self.place.device):
            store.filled(end)

    def check(self, store: Store) -> None:
        """Holds the collapsed density against the model's own at stored draws or, while there are none, at those of the
        last window of warm-up; see `Engine.check`. A SamplingError tells of rows that are fitted exactly.
        """
        move, draws = self.move, store.draws()
        if not store.n_draws:
            if not self.last.numel():
                return
            places = self.last.transpose(0, 1)
            draws = {n: x.unflatten(0, places.shape[:2]) for n, x in move.values(places.flatten(0, 1)).items()}
        rest = {name: draws[name][:, -1].to(self.place) for name in move.rest}
        if exact := fitted_exactly(move.collapsed, rest):
            raise SamplingError(exact)
        found = audit(move.collapsed, move.space, draws, self._watched())
        self.audit = found if self.audit is None else self.audit + found
        if not self.audit.sound:
            if exact := fitted_exactly(move.collapsed, rest, sound=False):
                raise SamplingError(exact)
            raise AuditError(self.audit)

    def height(self) -> Tensor:
        """Of the last sweep's positions, `(chains,)`."""
        return self.log_density

    def values(self) -> Mapping[str, Tensor]:
        """The last sweep's values. Looking draws with numbers of its own, so that it changes no draw of the run."""
        device = self.place.device
        return Looked(self.move, self.place, lambda: torch.Generator(device).manual_seed(self._watched()))

    def _watched(self) -> int:
        """The seed of the next look."""
        return int(torch.randint(2**62, (1,), generator=self.watching, device=self.watching.device))

    def state(self) -> dict[str, Tensor]:
        """Places of chains, the proposals with the draws that they are fitted to, what was audited, and the streams."""
        found = {"place": self.place, "log_density": self.log_density, "walk": self.walk, "last": self.last}
        found |= filed("tuning", self.tuning)
        found |= filed("beside", self.beside.tensors()) if self.beside is not None else {}
        for name, some in (("seen", self.seen), ("sloped", self.sloped)):
            found |= filed(name, {str(k): x for k, x in enumerate(some)})
        kept = {"cycle": self.cycle, "blocks": self.in_blocks, "rate": self.rate, "over": self.over}
        found |= {name: torch.tensor(x, device="cpu") for name, x in kept.items() if x is not None}
        found |= filed("generators", {name: source.get_state() for name, source in self.generators.items()})
        for name, streams in self.streams.items():
            found |= filed(f"streams/{name}", streams.state())
        if self.audit is not None:
            found |= filed("audit", self.audit.tensors())
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        self.place, self.log_density = state["place"], state["log_density"]
        self.walk, self.last = state["walk"], state["last"]
        self.tuning, audited = inside("tuning", state), inside("audit", state)
        if self.beside is not None:
            self.beside.take(inside("beside", state))
        self.seen, self.sloped = (
            [held[str(k)] for k in range(len(held))] for held in (inside("seen", state), inside("sloped", state))
        )
        self.cycle, self.in_blocks, self.over = int(state["cycle"]), bool(state["blocks"]), bool(state["over"])
        self.rate = float(state["rate"]) if "rate" in state else None
        for name, source in self.generators.items():
            source.set_state(state[f"generators/{name}"].cpu())
        for name, streams in self.streams.items():
            streams.restore(inside(f"streams/{name}", state))
        self.audit = Audit.of(audited) if audited else None
