"""Where chains begin that move crossed effects plate by plate: Gibbs sweeps of the surrogate in place of its draws.

Under the surrogate every conditional distribution is normal, so that a sweep needs neither rows nor decisions. With all
random numbers 0 sweeps go to the mean, as Gauss and Seidel's method does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import product, solve_lower, solve_upper
from hiertorch.gaussian.crosswise import Crosswise, Known, middles_of
from hiertorch.gaussian.ridges import Ridges
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.run.standing import Standing

FIRST, TURN = 12, 3
"""Sweeps from where nothing is known, and of each turn of sites and mode."""

UNKNOWN = 3
"""Turns with the former: those of two levels, and the first with sites of the rows."""


class Sweep:
    """Gibbs sweeps of the surrogate at given theta.

    Args:
        ladder: on crossed effects.
        ridges: of the same model.
        normal: standard normal numbers `(*shape, batch)`, or zeros for its mean.
    """

    def __init__(self, ladder: Crosswise, ridges: Ridges, normal: Callable[..., Tensor]) -> None:
        self.ladder, self.ridges, self.normal = ladder, ridges, normal

    def nowhere(self, known: Known) -> Tensor:
        """Crossed effects and coefficients, `(R + held, batch)`, that are 0, or the means of their priors."""
        ladder, zero, batch = self.ladder, known.held, known.held.shape[1]
        eps = [zero.new_zeros(part.width, part.size, batch) for part in ladder.crossed]
        return ladder.drawn(known, eps, zero.new_zeros(ladder.root.width, batch)).tail

    def once(self, known: Known, tail: Tensor) -> tuple[Tensor, Tensor]:
        """After one sweep: `tail` as `Rungs` has it, and effects of the largest plate."""
        ladder, normal = self.ladder, self.normal
        rungs = ladder.drawn(known, ladder.numbers_of(known, tail), normal(ladder.root.width))
        (effects,), tail = ladder.down(rungs.levels, [normal(ladder.widths[0], ladder.sizes[0])]), rungs.tail.clone()
        for k, part in enumerate(ladder.crossed):
            lower, right = ladder.conditional(known, tail, effects, k)
            u = solve_upper(lower, solve_lower(lower, right) + normal(part.width, part.size))
            tail[ladder.slices[k]] = product(known.roots[1 + k], u.unsqueeze(1)).flatten(0, 2)
        for ridge in self.ridges.found:
            tail = self.ridges.draw(ridge, ladder, known, tail, normal(ridge.width))
        return tail, effects

    def many(self, known: Known, tail: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
        """After some sweeps, with middles of crossed effects chosen halfway."""
        for sweep in range(sweeps):
            tail, effects = self.once(known, tail)
            if sweep == sweeps // 2:
                self.ladder.middles = middles_of(self.ladder, known, tail)
        return tail, effects


class Sweeping:
    """The surrogate for given crossed effects, of which some values are swept along; see
    `hiertorch.run.whitenedstart.Explored`.

    log pi_s(theta, eps) stands for log pi_s(theta): eps hardly depends on theta.

    Args:
        surrogate: for any sites.
        standing: what theta means.
        ridges: of the same model.
        generator: of random numbers.
    """

    def __init__(self, surrogate: Surrogate, standing: Standing, ridges: Ridges, generator: torch.Generator) -> None:
        self.surrogate, self.standing, self.ridges, self.generator = surrogate, standing, ridges, generator
        self.ladder = Crosswise(surrogate.first)
        self.number, self.turns, self.tail, self.eps = 0, 0, torch.empty(0), list[Tensor]()

    def take(self, sites: Sites, theta: Tensor) -> None:
        """See `Explored`."""
        self.ladder = Crosswise(self.surrogate.given(sites), self.ladder.middles)
        self.turns += 1
        if not self.tail.numel():
            self.tail = self._nowhere(theta, 1)
        self._sweep(theta, FIRST if self.turns <= UNKNOWN else TURN)

    def heights(self, places: Tensor) -> Tensor:
        """See `Explored`."""
        standing, batch, ladder = self.standing, self.tail.shape[1], self.ladder
        free = standing.space.split(places)
        values = standing.space.constrain(free)
        known = ladder.known({name: x.repeat_interleave(batch, 0) for name, x in values.items()}, len(places) * batch)
        eps = [x.repeat(1, 1, len(places)) for x in self.eps]
        rungs = ladder.drawn(known, eps, places.new_zeros(ladder.root.width, len(places) * batch))
        return standing.with_prior(free, values, rungs.log_marginal.unflatten(0, (len(places), batch)).mean(1))

    def drawn(self, theta: Tensor, number: int) -> dict[str, Tensor]:
        """See `Explored`."""
        batch = max(1, number)
        if not self.tail.numel():
            self.tail = self._nowhere(theta, batch)
        elif self.eps:  # effects move along with theta
            known = self._known(theta, self.tail.shape[1])
            self.tail = self.ladder.drawn(
                known, self.eps, theta.new_zeros(self.ladder.root.width, self.tail.shape[1])
            ).tail
        if self.tail.shape[1] != batch:
            self.tail = self.tail[:, :1].expand(-1, batch)
        self.number = number
        effects = self._sweep(theta, 1)
        return dict(self.standing.values(self.ladder, theta.expand(batch, -1), self.tail, [effects]))

    def _nowhere(self, theta: Tensor, batch: int) -> Tensor:
        return self._sweeps(theta.expand(batch, -1), 0).nowhere(self._known(theta, batch))

    def _known(self, theta: Tensor, batch: int) -> Known:
        return self.ladder.known(self.standing.constrained(theta.expand(batch, -1)), batch)

    def _sweeps(self, position: Tensor, number: int) -> Sweep:
        batch, source = len(position), self.generator

        def normal(*shape: int) -> Tensor:
            if not number:
                return position.new_zeros(*shape, batch)
            return torch.randn(*shape, batch, generator=source, dtype=position.dtype, device=position.device)

        return Sweep(self.ladder, self.ridges, normal)

    def _sweep(self, theta: Tensor, sweeps: int) -> Tensor:
        """Effects of the largest plate after some sweeps."""
        batch = self.tail.shape[1]
        known = self._known(theta, batch)
        self.tail, effects = self._sweeps(theta.expand(batch, -1), self.number).many(known, self.tail, sweeps)
        self.eps = self.ladder.numbers_of(known, self.tail)
        return effects
