"""Where whitened chains begin: sites and a mode of the surrogate, found in turns; and what they decide."""

from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from hiertorch.gaussian.jointsites import JointMoments
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.sites import Moments
from hiertorch.gaussian.surrogate import Sites, Surrogate
from hiertorch.randomness import stream
from hiertorch.run.engine import Block
from hiertorch.run.firstplaces import FirstPlaces
from hiertorch.run.standing import Standing

TURNS = 12
"""Of sites and mode, at most."""

STILL = 0.2
"""Steps of theta in a turn, in units of its spread, and of eta in those of its sites, below which turns end: chains
begin far wider around both.
"""

NEAR = 6
"""Turns in which steps of sites are bounded."""

MEANS = 3
"""Of these, turns with sites of the surrogate's mean alone: as many as it needs, and no turn but a later one ends the
search.
"""

DRAWS, FEW_DRAWS = 24, 4
"""Of the surrogate, over which sites are averaged; and so many of very large data."""

HEIGHTS = 8
"""Of these, at which parameters of rows alone climb: all steps see the same draws, and need no more."""

LARGE = 4_000_000
"""Rows times draws that are held at once."""

PRIOR = 64
"""Draws from the prior whose middle theta starts from."""

DIFFERENCE = 0.1
"""Of coordinates of theta, for slopes and curvatures."""

PAIRED = 3
"""Of coordinates of theta, at most, whose steps are taken together."""

LONGEST = 0.7
"""Step of a coordinate of theta."""

TRIED = 16
"""Of them, from whose parameters of rows the search may begin."""

FAR = 2.0
"""Step of eta in units of its sites, and of theta in units of its spread, up to which the mean has arrived."""

MOST_MEANS = 15
"""Turns of the mean, at most."""

STEPS = 3
"""Of theta for each turn, at most: they end with one that is small."""

SMALL = 0.1
"""Such a step, in units of the spread of theta."""

LONGEST_SITE = 3.0
"""Of sites from eta in these turns, in units of their typical sd."""

FLOOR = 1.0
"""Least curvature that is believed."""


GIVEN = ("effect by effect", "given effects", "given coefficients")
"""Moves beside those in whitened coordinates."""


class Explored(Protocol):
    """What is asked of the surrogate on the way to its mode; of several data sets, to that of each."""

    def take(self, sites: Sites, theta: Tensor) -> None:
        """From now on it has these sites, near theta `(sets, d)`."""

    def heights(self, places: Tensor) -> Tensor:
        """log pi_s at theta `(n, d)`, of the sets in turn, up to a constant: `(n,)`."""

    def drawn(self, theta: Tensor, number: int) -> dict[str, Tensor]:
        """Values of all latents, drawn from the surrogate at theta `(sets, d)`, so many for each set; its mean if
        `number` is 0.
        """


class Whole:
    """The surrogate with all effects and coefficients integrated out; drawn in antithetic pairs.

    Args:
        surrogate: for any sites.
        standing: what theta means.
        generator: of random numbers.
    """

    def __init__(self, surrogate: Surrogate, standing: Standing, generator: torch.Generator) -> None:
        self.surrogate, self.standing, self.generator = surrogate, standing, generator
        self.ladder = Ladder(surrogate.first)

    def take(self, sites: Sites, theta: Tensor) -> None:
        """See `Explored`."""
        self.ladder = Ladder(self.surrogate.given(sites))

    def heights(self, places: Tensor) -> Tensor:
        """See `Explored`."""
        return self.standing.evaluate(self.ladder, places, places.new_zeros(self.ladder.root.width, len(places)))[0]

    def drawn(self, theta: Tensor, number: int) -> dict[str, Tensor]:
        """See `Explored`."""
        standing, ladder, source = self.standing, self.ladder, self.generator

        def noise(*shape: int) -> Tensor:
            if not number:
                return theta.new_zeros(*shape, len(theta))
            some = number // 2 * len(theta)
            half = torch.randn(*shape, some, generator=source, dtype=theta.dtype, device=theta.device)
            return torch.cat([half, -half], -1)

        position = theta.repeat(max(1, number), 1)
        rungs = ladder.rungs(standing.constrained(position), noise(ladder.root.width))
        effects = ladder.down(rungs.levels, [noise(k, n) for k, n in zip(ladder.widths, ladder.sizes, strict=True)])
        return dict(standing.values(ladder, position, rungs.tail, effects))


def starting(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The stream of random numbers of the start, which that of the draws names by its seed."""
    return stream(generator.initial_seed(), "start", device=device)


def found_around_mode(
    explored: Explored,
    surrogate: Surrogate,
    standing: Standing,
    terms: Callable[[Mapping[str, Tensor]], Tensor],
    derivatives: Callable[[Mapping[str, Tensor]], Moments | JointMoments],
    source: torch.Generator,
    still: Collection[int] = (),
) -> tuple[Tensor, Tensor, Sites]:
    """theta `(sets, d)`, its spread by coordinate `(sets, d)`, and sites.

    Args:
        explored: the surrogate.
        surrogate: which latents move the predictor.
        standing: what theta means.
        terms: weighted log densities of the rows, `(chains, rows)`, of values of all latents, of the sets in turn.
        derivatives: of these in eta.
        source: of random numbers.
        still: numbers of theta that stay at the middle of their prior.
    """
    space, target, sets = standing.space, standing.target, surrogate.sets
    prior = target.model.sample_prior(target.data, PRIOR, source)
    drawn = standing.position(prior)
    theta = torch.where(drawn.isfinite(), drawn, torch.nan).nanmedian(0).values.repeat(sets, 1)
    curvature = torch.ones_like(theta)
    of_rows = [
        target.reads_rows([name]) and name not in surrogate.predictor.linear
        for name, c in space.coordinates.items()
        for _ in range(c.size * c.width)
    ]
    number = DRAWS if surrogate.own else max(2, DRAWS // sets // 2 * 2)
    number = number if number * sets * target.data.n_rows <= LARGE else min(number, FEW_DRAWS)
    own, rows = ([i for i, x in enumerate(of_rows) if x == wanted and i not in still] for wanted in (False, True))
    places = FirstPlaces(surrogate, standing, terms)
    found = [x and i not in still for i, x in enumerate(of_rows)]
    theta, values = places.begun(explored, theta, drawn[:TRIED], found)
    moments = derivatives(values)
    shifting, means, turn = bool(surrogate.predictor.shifting), 0, 0
    while turn < TURNS:
        before, eta = theta, moments.eta / moments.weight
        if rows and shifting:  # with the sites of these values, else neither says how far eta moves along
            sites = moments.sites()
            explored.take(sites, theta)
            heights = _of_rows(explored, surrogate, standing, terms, sites, _fewer(values, sets), _stencil(theta, rows))
            theta, curvature = _climbed(heights, theta, curvature, rows)
        explored.take(moments.sites(LONGEST_SITE if turn < NEAR or moments.kinked else None), theta)
        for _ in range(STEPS if own else 0):
            last = theta
            theta, curvature = _climbed(explored.heights(_stencil(theta, own)), theta, curvature, own)
            if bool(_is_still(last, theta, curvature, SMALL)):
                break
        mean = turn < MEANS
        at, values = values, explored.drawn(theta, 0 if mean else number)
        if mean:
            values = places.along(at, values, theta)
        if rows and not shifting:
            heights = _of_rows(explored, surrogate, standing, terms, None, _fewer(values, sets), _stencil(theta, rows))
            theta, curvature = _climbed(heights, theta, curvature, rows)
            values |= _repeated(standing, theta, values)
        moments = derivatives(values)
        weight = (moments.second / moments.weight).clamp(min=0.0)
        moved = (weight * (moments.eta / moments.weight - eta).square()).nanmean().sqrt()
        if turn > MEANS and bool(_is_still(before, theta, curvature, STILL) & (moved < STILL)):
            break
        if mean:
            means += 1
            arrived = bool(_is_still(before, theta, curvature, FAR) & (moved < FAR))
            turn = MEANS if arrived or means == MOST_MEANS else turn
        else:
            turn += 1
    # Of a group whose rows have no kink where draws of the surrogate are nothing would hold the effect.
    return theta, curvature.clamp(min=FLOOR).rsqrt(), moments.sites(LONGEST_SITE if moments.kinked else None)


def _is_still(before: Tensor, theta: Tensor, curvature: Tensor, step: float) -> Tensor:
    """Whether no coordinate has moved by a step, in units of its spread."""
    return ((theta - before).abs() * curvature.clamp(min=FLOOR).sqrt() < step).all()


def _stencil(theta: Tensor, some: list[int]) -> Tensor:
    """theta `(sets, d)`, then each of some coordinates up, each of them down, and of few each pair of them up:
    `(places sets, d)`.
    """
    steps = theta.new_zeros(len(some), 1, theta.shape[1])
    steps[range(len(some)), 0, some] = DIFFERENCE
    both = [steps[i] + steps[j] for i, j in _pairs(some)]
    return torch.cat(
        [theta.unsqueeze(0), theta + steps, theta - steps, *(theta.unsqueeze(0) + x for x in both)]
    ).flatten(0, 1)


def _pairs(some: list[int]) -> list[tuple[int, int]]:
    return list(combinations(range(len(some)), 2)) if len(some) <= PAIRED else []


def _climbed(heights: Tensor, theta: Tensor, curvature: Tensor, some: list[int]) -> tuple[Tensor, Tensor]:
    """A bounded step of Newton's method by the heights of `_stencil`: of few coordinates together, of many each by
    itself.
    """
    heights = heights.unflatten(0, (-1, len(theta)))
    here, (up, down) = heights[0], heights[1 : 1 + 2 * len(some)].unflatten(0, (2, len(some)))
    slope = ((up - down) / (2.0 * DIFFERENCE)).nan_to_num(0.0, 0.0, 0.0).mT
    bend = ((2.0 * here - up - down) / DIFFERENCE**2).nan_to_num(FLOOR, FLOOR, FLOOR).mT
    step = slope / bend.clamp(min=FLOOR)
    if pairs := _pairs(some):
        matrix = bend.diag_embed()
        for (i, j), both in zip(pairs, heights[1 + 2 * len(some) :], strict=True):
            mixed = ((up[i] + up[j] - both - here) / DIFFERENCE**2).nan_to_num(0.0, 0.0, 0.0)
            matrix[:, i, j] = matrix[:, j, i] = mixed
        values, vectors = torch.linalg.eigh(matrix)
        together = (vectors @ ((vectors.mT @ slope.unsqueeze(2)) / values.clamp(min=FLOOR).unsqueeze(2))).squeeze(2)
        step = torch.where(values[:, :1] > FLOOR, together, step)
    theta, curvature = theta.clone(), curvature.clone()
    theta[:, some] += step.clamp(-LONGEST, LONGEST)
    curvature[:, some] = bend
    return theta, curvature


def _of_rows(
    explored: Explored, surrogate: Surrogate, standing: Standing, terms: Callable[[Mapping[str, Tensor]], Tensor],
    sites: Sites | None, values: Mapping[str, Tensor], places: Tensor,
) -> Tensor:  # fmt: skip
    """log pi_s of theta `(places sets, d)` and what rows say beyond their sites, its mean over some draws of eta: of
    parameters of rows alone, `(places sets,)`, up to a constant.

    Where these shift sites, as thresholds do, eta moves along: pi_s knows how far, and sites hold what rows lose by
    that. Where they do not, pi_s is their prior but for a constant.
    """
    sets, chains = surrogate.sets, len(next(iter(values.values())))
    each = []
    for some in places.split(sets * max(1, LARGE // (chains * standing.target.data.n_rows))):
        number = len(some) // sets
        every = {name: x.repeat(number, *[1] * (x.dim() - 1)) for name, x in values.items()}
        for name, x in standing.constrained(some).items():
            every[name] = x.unflatten(0, (number, sets)).repeat(1, chains // sets, *[1] * (x.dim() - 1)).flatten(0, 1)
        found = terms(every).sum(1)
        if sites is not None:
            found = found + surrogate.misfit(sites, every)
        each.append(found.unflatten(0, (number, -1, sets)).mean(1).flatten())
    if sites is not None:
        return explored.heights(places) + torch.cat(each)
    free = standing.space.split(places)
    prior = standing.with_prior(free, standing.space.constrain(free), places.new_zeros(len(places)))
    return prior + torch.cat(each)


def _fewer(values: Mapping[str, Tensor], sets: int) -> dict[str, Tensor]:
    """HEIGHTS of the draws of each set, in antithetic pairs, which stand half of all draws apart."""
    draws = len(next(iter(values.values()))) // sets
    if draws <= HEIGHTS:
        return dict(values)
    halves = [slice(first * sets, (first + HEIGHTS // 2) * sets) for first in (0, draws // 2)]
    return {name: torch.cat([x[half] for half in halves]) for name, x in values.items()}


def _repeated(standing: Standing, theta: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Constrained theta `(sets, d)`, of each set once for each of its chains of some values."""
    times = len(next(iter(values.values()))) // len(theta)
    return {name: x.repeat(times, *[1] * (x.dim() - 1)) for name, x in standing.constrained(theta).items()}


def blocks_of(surrogate: Surrogate) -> tuple[Block, ...]:
    """What is decided together: the population, then the groups of each level, finest first, and of crossed plates that
    move by themselves.
    """
    kinds = ["whitened"] * (1 + len(surrogate.plates))
    kinds += [*(GIVEN[:2] if surrogate.covariances else ()), *(GIVEN[2:] if surrogate.local else ())]
    plates = [None, *surrogate.plates, *[None] * len(GIVEN)]
    every = zip(kinds, surrogate.members, plates, strict=False)
    return tuple(Block(f"{kind}({', '.join(names)})", plate) for kind, names, plate in every)
