"""The collapsed sampler: adaptive independence Metropolis on what is left when effects and coefficients are integrated
out, which are then drawn exactly.

Note [Proposals that wait for nobody]
An independence proposal does not depend on where its chain is. So all proposals of a window of sweeps are made and
evaluated at once, in one batch of window x chains, and accepting them one after the other is a comparison of two
numbers a sweep. Every CYCLE-th sweep (after warm-up every SELDOM-th, if proposals fit) is a random walk instead, which
does depend on it: where proposals fit badly, the walk keeps the chain moving, and correctness never hangs on the fit.

Accept with min(1, pi(u') q(u) / (pi(u) q(u'))) (Tierney 1994, section 2.3.3). Proposals start at the modes of the
density with the curvature there, and are fitted again to the draws of all chains at the end of each window of warm-up
but the last (Haario et al. 2001; Holden, Hauge & Holden 2009, for independence proposals); then they are frozen.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hiertorch.density.newton import by_densities, by_gradients, modes
from hiertorch.errors import SamplingError
from hiertorch.gaussian.audit import Audit, AuditError, audit
from hiertorch.gaussian.exactfit import fitted_exactly
from hiertorch.moves.metropolis import Info, Tuning
from hiertorch.run import proposals
from hiertorch.run.collapsed import CollapsedMove
from hiertorch.run.store import Counter, Store
from hiertorch.runtime.workers import each

__all__ = ["Independence"]

CYCLE, SELDOM = 20, 60
"""Sweeps of which the last is a random walk; and once warm-up is over, if proposals fit."""

FIT = 0.7
"""Share of sweeps that move a chain at the end of warm-up, from which they are said to fit."""

POOL = 4
"""Times the chains: candidates from which starting positions are taken."""

STARTS, PRIOR = 8, 64
"""Places that modes are looked for from, and draws from the prior among which they are.
"""

WINDOWS, FITTED = 4, 1_000
"""Windows of warm-up whose draws proposals are fitted to, and the least number of draws."""

WALK = (0.1, 2.4)
"""Sizes of the random walk, log-uniform between these, over sqrt(dimensions), in units of the draws' covariance."""

MOST_AT_ONCE = 20_000
"""Proposals in a window."""

HELD_BACK = 8_380_000
"""Single precision numbers in a tensor of nearly 32 MiB. From having freed one, glibc knows not to hand blocks up to
that size back to the system after every batch, whose pages would have to be cleared again for the next one: a third of
the time.
"""

INFLATED = 1.3
NOISE = 1_000_000
"""Standard normal numbers that are held at once."""


class Independence:
    """Chains that move by `CollapsedMove`; see the module.

    Args:
        move: what is sampled.
        chains: how many run side by side.
        generator: of all random numbers of the draws.
        init: unconstrained starting values; only those of the rest count, since all others are drawn outright.
        seen: draws of the rest from an earlier run, name -> `(n, 1, *event)`, to which proposals are fitted instead of
            to what is found around modes; then `init` has all of the rest.
    """

    order = (0,)

    def __init__(
        self,
        move: CollapsedMove,
        chains: int,
        generator: torch.Generator,
        init: Mapping[str, Tensor],
        seen: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.move, self.chains, self.generator = move, chains, generator
        self.moves = (move,)
        # Of their own, so that chains do not depend on what is stored of them, or looked at.
        self.storing, self.watching = (
            torch.Generator(generator.device).manual_seed(generator.initial_seed()) for _ in range(2)
        )
        self.tuning: Tuning = {}
        self.walk = move.collapsed.grams.packed.new_empty(0)
        self.cycle = CYCLE
        self.seen: list[Tensor] = []
        self.last = move.collapsed.grams.packed.new_empty(
            0
        )  # positions of the last window of warm-up, (sweeps, chains, d)
        self.audit: Audit | None = None  # what audits have found so far
        like = move.collapsed.grams.packed
        torch.empty(HELD_BACK, dtype=torch.float32, device="cpu")  # freed at once: see there
        self.place = like.new_zeros(chains, move.width)  # positions, and what drawing from there takes
        if seen is None or move.width == 0:
            self._start(init)
        else:
            self._go_on(init, seen)

    def _go_on(self, init: Mapping[str, Tensor], seen: Mapping[str, Tensor]) -> None:
        """Positions and proposals that an earlier run has found."""
        move = self.move
        self._place(move.space.join({name: init[name] for name in move.rest}), move.rest)
        drawn = move.space.join(move.space.unconstrain({name: seen[name] for name in move.rest}))
        self.seen = [drawn]
        root = torch.eye(move.width, dtype=drawn.dtype, device=drawn.device)
        self.tuning, self.walk = self._fitted(self.seen, proposals.normal_start(drawn.mean(0), root))

    def _place(self, position: Tensor, given: Sequence[str]) -> None:
        """Chains begin here, or a SamplingError says why they can't."""
        move = self.move
        self.place, self.log_density = move.evaluate(position)
        if bad := int((~torch.isfinite(self.log_density)).sum()):
            raise SamplingError(
                f"the log density is not finite where {bad} of {self.chains} chains start (init: "
                f"{', '.join(given) or 'none'}; sampled: {', '.join(move.rest)}). Check init and the priors of these "
                "latents."
            )

    def _start(self, init: Mapping[str, Tensor]) -> None:
        """Modes, proposals around them, and positions drawn from these by importance."""
        move = self.move
        if move.width == 0:
            self.place, self.log_density = move.evaluate(self.place)
            return
        slices, dear = move.collapsed.batch // 2, move.collapsed.dear
        sets = move.collapsed.sets
        number = max(1, min(STARTS, slices // (2 * move.width + 1))) if sets == 1 else sets
        middle, spread, drawn = self._prior()
        starts = torch.cat([middle.expand(sets, -1), drawn])[:number]  # of several data sets, one each

        def log_density(t: Tensor) -> Tensor:
            return move.log_density((middle + spread * t).flatten(0, 1)).unflatten(0, t.shape[:2])

        derivatives = by_densities(log_density) if dear else by_gradients(log_density, slices)
        means, roots = modes(log_density, (starts - middle) / spread, derivatives)
        means, roots = middle + spread * means, spread.unsqueeze(1) * roots
        height = move.log_density(means)
        if not bool(torch.isfinite(height).any()):
            raise SamplingError(
                f"no starting point has a finite log density: near the middle of the priors of {', '.join(move.rest)} "
                f"it is {float(height[0])}. Check the priors of these latents, and the response for values far beyond "
                "them."
            )
        height = torch.where(height == torch.inf, torch.nan, height)  # a density that is infinite is none
        best = height.nan_to_num(-torch.inf, -torch.inf).max()
        keep = height >= (best - 15.0 if sets == 1 else -torch.finfo(height.dtype).max)
        means, roots = means[keep], INFLATED * roots[keep]
        around = [proposals.normal_start(mean, root) for mean, root in zip(means, roots, strict=True)]
        pool = max(POOL * self.chains, 200)
        candidates = torch.cat([proposals.propose(one, -(-pool // len(around)), self.generator) for one in around])
        density = move.log_densities(candidates).mT.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        spread = torch.stack([proposals.density(one, candidates) for one in around]).logsumexp(0)
        ratio = density - spread  # (sets, candidates)
        weight = (ratio - ratio.amax(1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)).exp()
        # Truncated weights (Ionides 2008): the pool only has to be near; the chains that start there do the rest.
        weight = weight.minimum(weight.sum(1, keepdim=True) / len(candidates) ** 0.5)
        position = candidates[self._chosen(weight, self.chains)]
        given = {name: part for name, part in init.items() if name in move.rest}
        if given:
            position = move.space.join({**move.space.split(position), **given})
        self._place(position, tuple(given))
        pooled = candidates[self._chosen(weight, max(1_000, pool))]
        self.seen = [pooled]
        self.tuning, self.walk = self._fitted(self.seen, around[int(height[keep].argmax())])

    def _prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """The middle of the prior `(d,)`, units in which to look for modes `(d,)`, and draws `(n, d)`, all of the rest
        in unconstrained space. A number on the whole line has a unit of its own, of which nothing but its prior tells;
        scales, correlations and probabilities have left theirs behind.
        """
        move, collapsed = self.move, self.move.collapsed
        composed, sets = collapsed.composed, collapsed.sets
        number = -(-PRIOR // sets) * sets
        nothing = composed.zeros({name: self.place for name in move.rest}, number)
        generator = torch.Generator(self.generator.device).manual_seed(self.generator.initial_seed())
        given = {name: nothing[name] for name in collapsed.linear}
        values = composed.model.sample_prior(composed.data, number, generator, given=given)
        drawn = move.space.join(move.space.unconstrain({name: values[name] for name in move.rest}))
        drawn = drawn[drawn.isfinite().all(1)]
        if not len(drawn):
            drawn = self.place.new_zeros(1, move.width)
        low, middle, high = torch.quantile(drawn, drawn.new_tensor([0.25, 0.5, 0.75]), 0)
        whole = [c.is_identity for c in move.space.coordinates.values() for _ in range(c.width)]
        spread = torch.where(torch.tensor(whole, dtype=torch.bool, device=drawn.device) & (high > low), high - low, 1.0)
        return middle, spread, drawn

    def _chosen(self, weight: Tensor, number: int) -> Tensor:
        """At least so many candidates by their weights `(sets, candidates)`, those of the sets in turn."""
        each = -(-number // len(weight))
        return torch.multinomial(weight, each, replacement=True, generator=self.generator).mT.flatten()

    def _fitted(self, draws: list[Tensor], otherwise: Tuning) -> tuple[Tuning, Tensor]:
        """Proposal and random walk from draws, or as they were if the draws don't allow a fit."""
        every = torch.cat(draws)
        try:
            tuning, walk = proposals.fit(every), proposals.scale_of(every)
        except torch.linalg.LinAlgError:
            return otherwise, otherwise["root"]
        sound = all(bool(x.isfinite().all()) for x in (*tuning.values(), walk))
        return (tuning, walk) if sound else (otherwise, otherwise["root"])

    def window(self, *, warming: bool) -> int:
        """Sweeps in a window: one cycle in warm-up, after which proposals are fitted again; later enough cycles to keep
        tensors busy.
        """
        wanted = min(MOST_AT_ONCE, 8 * self.move.collapsed.batch)
        return CYCLE if warming else self.cycle * max(1, wanted // (self.cycle * self.chains))

    def look(self, counter: Counter) -> None:
        """No example of a NaN density is looked for."""

    def prepare(self, *, compiled: bool) -> None:
        """Nothing to record or compile."""
        self.move.target.met.clear()

    def advance(self, done: int, sweeps: int, warmup: int, thin: int, store: Store, counter: Counter) -> None:
        """Runs sweeps `done` .. `done + sweeps`, all in warm-up or all after it; counts, learns or stores."""
        places, densities = self._run(sweeps, counter)
        self.place, self.log_density = places[-1], densities[-1]
        if done < warmup:
            self._learn(places[..., : self.move.width], last=done + sweeps >= warmup)
            moved = (places[1:] != places[:-1]).any(2).double().mean()
            self.cycle = SELDOM if done + sweeps >= warmup and bool(moved > FIT) else CYCLE
            return
        first = -(done - warmup + 1) % thin
        if len(places[first::thin]):
            self._store(places[first::thin], densities[first::thin], store)

    def _run(self, sweeps: int, counter: Counter) -> tuple[Tensor, Tensor]:
        """Places `(sweeps, chains, d + m)` and their log densities after each sweep."""
        d, chains, like = self.move.width, self.chains, self.place
        zero = torch.zeros((), dtype=torch.long, device=like.device)
        if d == 0:
            for _ in range(sweeps):
                counter.add([Info(like.new_ones(chains, 1), zero, None)])
            return like.expand(sweeps, *like.shape), self.log_density.expand(sweeps, chains)
        walks = [t % self.cycle == self.cycle - 1 for t in range(sweeps)]
        number = (sweeps - sum(walks)) * chains
        proposed, spread = proposals.propose_and_weigh(self.tuning, number, self.generator)
        proposed, density = self.move.evaluate(proposed)
        weight = density - spread
        log_uniform = -torch.empty(sweeps, chains, dtype=like.dtype, device=like.device).exponential_(
            generator=self.generator
        )
        proposed, density, weight = (x.unflatten(0, (-1, chains)) for x in (proposed, density, weight))
        sound = torch.where(torch.isfinite(weight), weight, -torch.inf)
        bad = (sound != weight).sum(1) if not bool(torch.isfinite(weight).all()) else None
        at, height = self.place, self.log_density
        here = height - proposals.density(self.tuning, at[:, :d])
        places, heights = [], []
        used = 0
        for t, walk in enumerate(walks):
            if walk:
                at, height, accept, nan = self._walk(at, height, log_uniform[t])
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
            counter.add([Info(accept.unsqueeze(1), nan, None)])
            places.append(at)
            heights.append(height)
        return torch.stack(places), torch.stack(heights)

    def _walk(self, at: Tensor, height: Tensor, log_uniform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One random walk step: place, log density, acceptance probability, and how many densities were NaN."""
        options: Any = {"generator": self.generator, "dtype": at.dtype, "device": at.device}
        d = self.move.width
        size = WALK[0] * (WALK[1] / WALK[0]) ** torch.rand(self.chains, 1, **options) / d**0.5
        jump = size * (torch.randn(self.chains, d, **options) @ self.walk.mT)
        there, density = self.move.evaluate(at[:, :d] + jump)
        ratio = density - height
        sound = torch.nan_to_num(ratio, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        accepted = log_uniform < sound
        height = torch.where(accepted, density, height)
        return torch.where(accepted.unsqueeze(1), there, at), height, sound.clamp(max=0.0).exp(), (sound != ratio).sum()

    def _learn(self, positions: Tensor, *, last: bool) -> None:
        """Fits proposals to the draws of the last windows of warm-up, and to those that the start was chosen from while
        these are few; not after the last window.
        """
        if last or self.move.width == 0:
            self.seen, self.last = [], positions
            return
        self.seen.append(positions.flatten(0, 1))
        while len(self.seen) > WINDOWS and sum(map(len, self.seen[1:])) >= FITTED:
            self.seen.pop(0)
        self.tuning, self.walk = self._fitted(self.seen, self.tuning)

    def _store(self, places: Tensor, densities: Tensor, store: Store) -> None:
        """Stores places `(n, chains, d + m)` but those that are thinned out, with effects and coefficients drawn."""
        if not (chosen := store.wanted(len(places))):
            return
        places, densities = places[chosen.start :: chosen.step], densities[chosen.start :: chosen.step]
        collapsed = self.move.collapsed
        linear = tuple(name for name in store.names if name in collapsed.linear)
        per = max(1, min(NOISE // max(1, collapsed.noise_for(linear)), collapsed.batch) // self.chains)
        starts = range(0, len(places), per)
        seeds = self._seeds(len(starts), self.storing)
        stored = store.n_draws

        def keep(piece: tuple[int, int]) -> int:
            start, seed = piece
            part = places[start : start + per]
            values = self._drawn(part.flatten(0, 1), linear, seed)
            kept = {name: x.unflatten(0, part.shape[:2]) for name, x in values.items() if name in store.names}
            store.fill(kept, densities[start : start + per], stored + start)
            return stored + start + len(part)

        for end in each(keep, list(zip(starts, seeds, strict=True)), self.place.device):
            store.filled(end)

    def _seeds(self, number: int, generator: torch.Generator) -> list[int]:
        return torch.randint(2**62, (number,), generator=generator, device=generator.device).tolist()

    def _drawn(self, place: Tensor, linear: tuple[str, ...], seed: int) -> dict[str, Tensor]:
        """Values `(n, size, *event)` of the rest at places `(n, d + m)`, and draws of the linear latents asked for."""
        collapsed, d, device = self.move.collapsed, self.move.width, place.device
        values = self.move.values(place[:, :d])
        if not linear:
            return values
        source, rows = torch.Generator(device).manual_seed(seed), collapsed.noise_for(linear)
        drawn = []
        for at in range(0, len(place), collapsed.batch):
            some = {name: x[at : at + collapsed.batch] for name, x in values.items()}
            found = place[at : at + collapsed.batch, d:]
            noise = torch.randn(rows, len(found), generator=source, dtype=place.dtype, device=device)
            drawn.append(collapsed.draw(some, noise, linear, found=found))
        return {**values, **{name: torch.cat([x[name] for x in drawn]) for name in linear}}

    def check(self, store: Store) -> None:
        """Holds the collapsed density against the model's own at stored draws or, while there are none, at those of the
        last window of warm-up.

        Raises:
            AuditError: if they differ.
            SamplingError: if there is no posterior to draw from, since rows are fitted exactly.
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
        (seed,) = self._seeds(1, self.watching)
        found = audit(move.collapsed, move.space, draws, seed)
        self.audit = found if self.audit is None else self.audit + found
        if not self.audit.sound:
            if exact := fitted_exactly(move.collapsed, rest, sound=False):
                raise SamplingError(exact)
            raise AuditError(self.audit)

    def learnt(self) -> dict[str, Tuning]:
        """Nothing that the draws don't tell: proposals are fitted to them again."""
        return {}

    def height(self) -> Tensor:
        """Log density of the last sweep's positions, `(chains,)`."""
        return self.log_density

    def values(self) -> Mapping[str, Tensor]:
        """The last sweep's values, `(chains, size, *event)`; what is drawn exactly is drawn when it is looked at."""
        return _Looked(self)


def doubted(engine: Any, store: Store) -> str | None:
    """What is wrong with the draws of a run that was stopped, and so can't begin again; None if nothing is."""
    try:
        if store.n_draws:
            engine.check(store)
    except AuditError as found:
        return f"{found}. These draws are not from the posterior: run the model again with collapse=False."
    return None


class _Looked(Mapping[str, Tensor]):
    """Values of the last sweep. Looking draws with numbers of its own, so that it changes no draw of the run."""

    def __init__(self, engine: Independence) -> None:
        self._engine, self._place = engine, engine.place
        self._known = dict(engine.move.values(self._place[:, : engine.move.width]))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            if name not in self._engine.move.collapsed.linear:
                raise KeyError(name)
            engine = self._engine
            (seed,) = engine._seeds(1, engine.watching)
            self._known |= engine._drawn(self._place, engine.move.collapsed.linear, seed)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engine.move.block)

    def __len__(self) -> int:
        return len(self._engine.move.block)
