"""Numbers that stand before coefficients, given these: without a pass over the rows.

    p(s_k | b, common) is proportional to  p(s_k) N(b_k; m_k, t_k(s_k, common)),   each k by itself

s: of a `hiertorch.gaussian.localscales.Local`. Random walks, all k at once and each decided by itself, with steps of
many sizes: near 0 such a density is flat over orders of magnitude, elsewhere it is narrow. Shares, which sum to 1, are
walked in pairs that keep their sum, and pairs change from turn to turn as in a tournament. Common numbers are walked
given all s, and along ridges: as one rises, all s fall so that no t changes (Yu & Meng 2011, section 2).

docs/decisions.md: Numbers before coefficients move given these.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.distributions import Dirichlet
from torch.distributions.transforms import IndependentTransform

from hiertorch.density.recording import record
from hiertorch.gaussian.localscales import Local, one_of
from hiertorch.randomness import normal
from hiertorch.run.standing import Standing

TURNS, SHARED = 3, 6
"""Of all walks in a sweep; where there are shares, of which a turn moves each along one line."""

SIZES = (0.3, 4.0)
"""Of steps of logarithms of s, log-uniform between these; of common numbers times the root of how many s there are."""


class GivenCoefficients:
    """See the module.

    Args:
        standing: what positions of the rest mean.
        local: whose numbers are moved.

    Attributes:
        positions: numbers of theta that are moved.
        walking: those of them that coefficients hold where they are, since many know them.
    """

    def __init__(self, standing: Standing, local: Local) -> None:
        self.standing, self.local, self.target = standing, local, standing.target
        slices = standing.space.slices
        self.positions = [i for name in local.latents for i in range(slices[name].start, slices[name].stop)]
        self.walking = [slices[name].start for name in local.common]
        self.touched = self.target.priors_touched(local.latents)
        parents = {parent for name in self.touched for parent in self.target.parents[name]}
        self.given = tuple(sorted({*self.touched, *parents} - {*local.latents}))
        self.turns = SHARED if local.shares else TURNS
        self._each = local.width // 2 if local.shares else local.width
        self._turn: Callable[..., tuple[Tensor, ...]] = self._written

    @property
    def numbers(self) -> int:
        """Uniform numbers that a step takes of each chain."""
        return self.turns * 3 * (self._each + len(self.local.common) + len(self.local.ridge))

    def record(self, position: Tensor, values: Mapping[str, Tensor]) -> None:
        """From now on a turn is replayed, for as many chains as there are of these."""
        numbers = torch.full((self.numbers, len(position)), 0.5, dtype=torch.float64, device=position.device)
        self._turn = record(self._written, next(self._arguments(position, values, 0, numbers)))

    def step(
        self, position: Tensor, values: Mapping[str, Tensor], sweep: int, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The position `(chains, d)` after a step, and the mean probability of being accepted, `(chains,)`.

        Args:
            position: of the rest.
            values: of all latents.
            sweep: how many there have been.
            uniform: numbers on (0, 1), `(numbers, chains)`.
        """
        space, accepts = self.standing.space, list[Tensor]()
        free = space.split(position)
        for numbers, i, j, *others in self._arguments(position, values, sweep, uniform):
            behind = others[len(self.local.latents) :]
            *moved, accept = self._turn(numbers, i, j, *(free[name] for name in self.local.latents), *behind)
            free |= dict(zip(self.local.latents, moved, strict=True))
            accepts.append(accept)
        return space.join(free), torch.stack(accepts).mean(0)

    def _arguments(
        self, position: Tensor, values: Mapping[str, Tensor], sweep: int, uniform: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Of each turn, with what moves as it is before the first of them."""
        free = self.standing.space.split(position)
        held = {**values, **self.standing.space.constrain(free)}
        for turn, numbers in enumerate(uniform.to(position.dtype).unflatten(0, (self.turns, 3, -1))):
            pairs = _paired(self.local.width, self.turns * sweep + turn, position.device)
            yield numbers, *pairs, *(free[name] for name in self.local.latents), *(held[name] for name in self.given)

    def _written(self, uniform: Tensor, i: Tensor, j: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """A turn: unconstrained parts of all that moves, and the mean probability of being accepted, `(chains,)`.

        Args:
            uniform: numbers on (0, 1), `(3, numbers, chains)`.
            i: shares, and
            j: their partners.
            parts: unconstrained parts of what moves, then values of all else that counts.
        """
        local, width = self.local, len(self.local.latents)
        moving, held = parts[:width], dict(zip(self.given, parts[width:], strict=True))
        now = _Now(self, dict(zip(local.latents, moving, strict=True)), held)
        own, *singles = uniform.split([self._each, *[1] * (len(local.common) + len(local.ridge))], 1)
        accepts = [now.shares(i, j, own) if local.shares else now.each(own)]
        directions = [{name: 1.0} for name in local.common] + [{name: 1.0, local.name: -1.0} for name in local.ridge]
        accepts += [now.along(direction, some) for direction, some in zip(directions, singles, strict=True)]
        return *(now.free[name] for name in local.latents), torch.stack(accepts).mean(0)


class _Now:
    """Where chains are in a turn."""

    def __init__(self, given: GivenCoefficients, free: dict[str, Tensor], held: Mapping[str, Tensor]) -> None:
        self.local, self.target, self.free, self.space = given.local, given.target, free, given.target.space
        self.values = {**held, **self.space.constrain(free)}
        self.terms = dict[str, Tensor]()  # of priors, where nothing has moved since

    def each(self, uniform: Tensor) -> Tensor:
        """All s anew, with uniform numbers `(3, K, chains)`."""
        name = self.local.name
        bijection = self.space.coordinates[name].bijection
        while isinstance(bijection, IndependentTransform):
            bijection = bijection.base_transform
        here, x = self.free[name], self.values[name]
        there = here + _steps(uniform, 1.0).mT.unsqueeze(1)
        y = bijection(there)
        after = self._of_each(y) + bijection.log_abs_det_jacobian(there, y)
        before = self._of_each(x) + bijection.log_abs_det_jacobian(here, x)
        accepted, rate = _decided(after - before, uniform[2].mT.unsqueeze(1))
        self._take({name: torch.where(accepted, there, here)}, {name: torch.where(accepted, y, x)})
        return rate.mean((1, 2))

    def shares(self, i: Tensor, j: Tensor, uniform: Tensor) -> Tensor:
        """Pairs of shares anew, with uniform numbers `(3, pairs, chains)`."""
        name, x = self.local.name, self.values[self.local.name]
        least, both = torch.finfo(x.dtype).tiny, x[..., i] + x[..., j]
        ratio = x[..., i].log() - x[..., j].log() + _steps(uniform, 1.0).mT.unsqueeze(1)
        own, other = ((both * sign.sigmoid()).clamp(min=least) for sign in (ratio, -ratio))
        y = x.index_copy(2, i, own).index_copy(2, j, other)
        height = (self._of_each(y) + y.log()) - (self._of_each(x) + x.log())
        accepted, rate = _decided(height[..., i] + height[..., j], uniform[2].mT.unsqueeze(1))
        y = x.index_copy(2, i, torch.where(accepted, own, x[..., i]))
        y = y.index_copy(2, j, torch.where(accepted, other, x[..., j]))
        self._take(self.space.unconstrain({name: y}), {name: y})
        return rate.mean((1, 2))

    def along(self, direction: Mapping[str, float], uniform: Tensor) -> Tensor:
        """All numbers of some latents along a direction, with uniform numbers `(3, 1, chains)`."""
        step = _steps(uniform, self.local.width**-0.5)[0]
        there = {n: self.free[n] + sign * _behind(step, self.free[n]) for n, sign in direction.items()}
        values = {**self.values, **self.space.constrain(there)}
        touched = self.target.priors_touched(direction)
        after = {name: self._term(name, there.get(name), values) for name in touched}
        for name in touched:
            if name not in self.terms:
                self.terms[name] = self._term(name, self.free.get(name), self.values)
        before = {name: self.terms[name] for name in touched}
        accepted, rate = _decided(sum(after.values(), -sum(before.values(), 0.0 * step)), uniform[2, 0])
        self._take(
            {n: torch.where(_behind(accepted, u), u, self.free[n]) for n, u in there.items()},
            {n: torch.where(_behind(accepted, values[n]), values[n], self.values[n]) for n in there},
        )
        self.terms |= {name: torch.where(accepted, x, before[name]) for name, x in after.items()}
        return rate

    def _of_each(self, x: Tensor) -> Tensor:
        """log p(s_k) + log N(b_k; ...) of each k, `(chains, 1, K)`, up to a constant."""
        local, values = self.local, {**self.values, self.local.name: x}
        prior = self.target.prior(local.name, values)
        own = _shares(prior, x) if isinstance(prior, Dirichlet) else one_of(prior).log_prob(x)
        terms = one_of(self.target.prior(local.coefficients, values)).log_prob(values[local.coefficients])
        apart = terms.new_zeros(*terms.shape[:2], local.width + 1).index_add(2, local.owner, terms)
        return own + apart[..., :-1]

    def _take(self, free: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        self.free.update(free)
        self.values.update(values)
        for touched in self.target.priors_touched(free):
            self.terms.pop(touched, None)

    def _term(self, name: str, free: Tensor | None, values: Mapping[str, Tensor]) -> Tensor:
        """log prior of a latent, `(chains,)`; unconstrained where it moves, which `free` says."""
        x = values[name]
        found = self.target.prior(name, values).log_prob(x).expand(x.shape[:2])
        if free is not None:
            found = found + self.target.log_jacobian(self.space.coordinates[name], free, x)
        return found.sum(1)


def _behind(x: Tensor, like: Tensor) -> Tensor:
    """One of each chain, as a number of each of a latent."""
    return x.view(-1, *[1] * (like.dim() - 1))


def _shares(prior: Dirichlet, x: Tensor) -> Tensor:
    """log p of each share, up to a constant."""
    return (prior.concentration - 1.0) * x.log()


def _steps(uniform: Tensor, unit: float) -> Tensor:
    """Of numbers `(2 or more, n, chains)`."""
    return unit * SIZES[0] * (SIZES[1] / SIZES[0]) ** uniform[0] * normal(uniform[1])


def _decided(ratio: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Who moves, and with which probability; nobody to where a density is none."""
    ratio = ratio.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    return uniform.log() < ratio, ratio.clamp(max=0.0).exp()


def _paired(number: int, turn: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two halves of 0 .. number - 1 that meet in a turn, as in a tournament; of an odd number one rests."""
    even = number + number % 2
    places = [even - 1, *((turn + k) % (even - 1) for k in range(even - 1))]
    pairs = [(a, b) for a, b in zip(places[: even // 2], reversed(places[even // 2 :]), strict=True)
             if max(a, b) < number]  # fmt: skip
    i, j = torch.tensor(pairs, device=device).unbind(1)
    return i, j
