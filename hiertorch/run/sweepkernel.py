"""All sweeps of a window for a block of chains, compiled by Numba (`hiertorch[fast]`): what `hiertorch.run.whitened`
does sweep by sweep in torch.

Nothing here waits for Python between sweeps, and blocks of chains share nothing, so that they run side by side. Note
[Loops along chains] in `hiertorch.density.rowkernel` says why every inner loop runs along the chains of a block.

Numbers have chains in the last axis, and are rows of WIDTH chains here, as `hiertorch.run.sweepgroups` has them.
"""

from collections.abc import Callable
from functools import cache
from hashlib import blake2s
from inspect import getsource
from types import FunctionType

import numpy as np

from hiertorch.density import rowkernel
from hiertorch.density.rowkernel import compiled, loop
from hiertorch.families import rowforms
from hiertorch.gaussian.onelevel import Groups
from hiertorch.run import heavytails, sweepgroups, sweepnumbers
from hiertorch.run.sweepgroups import Moves, Tree, climb, down, gain, locate, move
from hiertorch.run.sweepnumbers import WIDTH, decide, draw, draw_words, part

SOURCE = blake2s(
    "".join(map(getsource, (rowkernel, rowforms, heavytails, sweepgroups, sweepnumbers))).encode(), digest_size=4
).hexdigest()
"""Of the code that is compiled together with that of this file, of which alone Numba sees that it has changed."""


@part
def load(into: np.ndarray, every: np.ndarray, at: int, live: int) -> None:
    """Columns of all chains from `at` on to those of a block."""
    for r in range(into.shape[0]):
        for c in range(live):
            into[r, c] = every[r, at + c]


@part
def save(every: np.ndarray, block: np.ndarray, at: int, live: int) -> None:
    """The way back."""
    for r in range(block.shape[0]):
        for c in range(live):
            every[r, at + c] = block[r, c]


@part
def choose(old: np.ndarray, new: np.ndarray, accept: np.ndarray) -> None:
    """New rows for chains that accept, one after the other: the first `len(new)` of the old ones are written into."""
    for r in range(new.shape[0]):
        for c in range(WIDTH):
            old[r, c] = new[r, c] if accept[c] > 0.5 else old[r, c]


@part
def pick(old: np.ndarray, new: np.ndarray, row: int, accept: np.ndarray) -> None:
    """The same of one row."""
    for c in range(WIDTH):
        old[row, c] = new[row, c] if accept[c] > 0.5 else old[row, c]


def add_rows(*given: object) -> None:
    """Sums over the rows: what `hiertorch.density.rowkernel.loop` makes of a form stands here."""
    raise NotImplementedError


def advance(
    first: int, live: int, number: int, walk: bool, offers: tuple[np.ndarray, ...], lean: Groups, tree: Tree,
    moves: Moves, chains: tuple[np.ndarray, ...], state: np.ndarray, stays: tuple[np.ndarray, ...],
    rows: tuple[np.ndarray, ...], freedom: np.ndarray, constant: np.ndarray, taken: np.ndarray, rates: np.ndarray,
    wrong: np.ndarray, slots: np.ndarray, kept: np.ndarray, beyond: np.ndarray,
) -> None:  # fmt: skip
    """Some sweeps of the chains from `first` on, `live` of them, at most WIDTH.

    Args:
        first: chain of the block,
        live: and how many there are.
        number: of sweeps.
        walk: whether what the first of them offers is a random walk, whose proposal density is left out of the ratio.
        offers: what is offered, sweep by sweep and chain by chain within, `(n, number * chains)` each: density,
            proposal density, chain_0, chain_1 (and others) and constant of rows; coefficients, then crossed effects; B;
            p; G that theta moves; standardised theta. Or, of the finest level, sigma in place of B, and no p,
        lean: and then this, which has no groups else.
        tree: of the groups.
        moves: of their numbers with theta.
        chains: where chains are, `(n, chains)` each, written into but for the second and the sixth: the same, then
            numbers of groups, their log t - log N, effects, weights.
        state: of the random numbers, `(4, chains)`, written into.
        stays: present and longest ones of the population, then of groups, `(1 + groups, chains)`.
        rows: what `hiertorch.density.rowkernel.loop` takes of them.
        freedom: degrees of freedom of each group's proposals, `(groups,)`.
        constant: what sums over rows leave out, `(groups of the finest level,)`.
        taken: which offer each chain stands on after each sweep, -1 for none of these, `(number, chains)`.
        rates: sums of acceptance probabilities by sweep, then by group, `(number + groups, chains)`.
        wrong: log ratios that are no number, of the population and of levels, `(1 + levels, chains)`.
        slots: where each sweep's effects are kept, or -1, `(number,)`.
        kept: `(effects, slots, chains)`.
        beyond: sum of the weights less half the squares of numbers of groups, `(slots + 1, chains)`, that of the
            last sweep again.
    """
    every, levels, finest, front = taken.shape[1], len(tree.sizes), tree.sizes[0], rows[2].shape[1]
    behind, groups, moving = front + tree.numbers[levels], len(freedom), len(moves.location)
    last = len(chains[0]) - 1  # of the scalars: the constant of rows
    scalars, scalars_there = np.zeros((last + 1, WIDTH)), np.zeros((last + 1, WIDTH))
    half, half_there = np.zeros((len(chains[2]), WIDTH)), np.zeros((len(chains[2]), WIDTH))
    middle, middle_there = np.zeros((len(chains[3]), WIDTH)), np.zeros((len(chains[3]), WIDTH))
    coupled, coupled_there = np.zeros((len(chains[4]), WIDTH)), np.zeros((len(chains[4]), WIDTH))
    t_here, moved = np.zeros((len(chains[5]), WIDTH)), np.zeros((moving, WIDTH))
    location, location_there = np.zeros((moving, WIDTH)), np.zeros((moving, WIDTH))
    log_scale, log_scale_there = np.zeros((moving, WIDTH)), np.zeros((moving, WIDTH))
    noise, noise_there = np.zeros(middle.shape), np.zeros(middle.shape)
    heavy, heavy_there = np.zeros((groups, WIDTH)), np.zeros((groups, WIDTH))
    weights, sums, ratio = np.zeros((finest, WIDTH)), np.zeros((1, finest, WIDTH)), np.zeros((groups, WIDTH))
    places = behind + len(chains[1]) - front
    values, trial = np.zeros((1, places, WIDTH)), np.zeros((1, places, WIDTH))
    state_here, words = np.zeros((4, WIDTH), np.uint64), np.zeros(WIDTH, np.uint64)
    found, bad = np.zeros((number + groups, WIDTH)), np.zeros((1 + levels, WIDTH))
    stay, longest = np.zeros((1 + groups, WIDTH), np.int32), np.zeros((1 + groups, WIDTH), np.int32)
    accept, totals, on = np.zeros((groups, WIDTH)), np.zeros((1, WIDTH)), np.zeros(WIDTH, np.int64)
    total, scale, sd = totals[0], np.zeros((1, last - 2, WIDTH)), np.ones((1, WIDTH))
    for c in range(WIDTH):
        on[c] = -1
    load(scalars, chains[0], first, live)
    load(values[0, :front], chains[1][:front], first, live)
    load(values[0, behind:], chains[1][front:], first, live)
    load(half, chains[2], first, live)
    load(middle, chains[3], first, live)
    load(coupled, chains[4], first, live)
    load(t_here, chains[5], first, live)
    load(noise, chains[6], first, live)
    load(heavy, chains[7], first, live)
    load(values[0, front:behind], chains[8], first, live)
    load(weights, chains[9], first, live)
    load(stay, stays[0], first, live)
    load(longest, stays[1], first, live)
    load(state_here, state, first, live)
    locate(location, log_scale, t_here, moves)
    for t in range(number):
        for step in range(levels, -1, -1):  # the population, for which groups keep their numbers; then each level
            level = levels - 1 if step == levels else step
            if step == levels:
                at = t * every + first
                load(scalars_there, offers[0], at, live)
                load(trial[0, :front], offers[1][:front], at, live)
                load(trial[0, behind:], offers[1][front:], at, live)
                if len(lean.own):
                    load(sd, offers[2], at, live)
                    climb(half_there, middle_there, sd, trial[0, :front], lean)
                    load(half_there[finest:], offers[2][1:], at, live)
                    load(middle_there[finest:], offers[3], at, live)
                else:
                    load(half_there, offers[2], at, live)
                    load(middle_there, offers[3], at, live)
                load(coupled_there, offers[4], at, live)
                if moving:
                    load(t_here, offers[5], at, live)
                    locate(location_there, log_scale_there, t_here, moves)
            else:
                kept_from = front + tree.numbers[level + 1]  # finer effects follow
                load(trial[0, :front], values[0], 0, WIDTH)
                load(trial[0, kept_from:], values[0, kept_from:], 0, WIDTH)
                load(scalars_there, scalars, 0, WIDTH)
                a, b, n, m = tree.groups[level], tree.groups[level + 1], tree.numbers[level], tree.numbers[level + 1]
                draw(noise_there[n:m], heavy_there[a:b], state_here, freedom[a:b])
            for below in range(level, -1, -1):
                anew = noise_there if below == step else noise
                if below == 0 and moving:
                    if step == levels:
                        move(moved, location_there, log_scale_there, anew)
                    else:
                        move(moved, location, log_scale, anew)
                    anew = moved
                if step == levels:
                    down(trial[0], front, below, half_there, middle_there, coupled_there, anew, tree)
                else:
                    down(trial[0], front, below, half, middle, coupled, anew, tree)
            load(scale[0], scalars_there[2:last], 0, WIDTH)
            add_rows(0, finest, *rows, trial, scale, sums)
            for c in range(WIDTH):
                sums[0, 0, c] += scalars_there[last, c]
            for g in range(finest):
                for c in range(WIDTH):
                    sums[0, g, c] += constant[g]
            if moving:
                kept_noise = noise_there if step == 0 else noise
                gain(sums[0], moved, log_scale_there if step == levels else log_scale, kept_noise)
            if step == levels:
                for c in range(WIDTH):
                    total[c] = scalars_there[0, c] - scalars[0, c]
                    if t > 0 or not walk:
                        total[c] += scalars[1, c] - scalars_there[1, c]
                for g in range(finest):
                    for c in range(WIDTH):
                        total[c] += sums[0, g, c] - weights[g, c]
                draw_words(state_here, words)
                decide(total, words, accept[0], found[t], bad[0], stay[0], longest[0])
                for c in range(WIDTH):
                    on[c] = t if accept[0, c] > 0.5 else on[c]
                for c in range(live):
                    taken[t, first + c] = on[c]
                choose(scalars, scalars_there, accept[0])
                choose(half, half_there, accept[0])
                choose(middle, middle_there, accept[0])
                choose(coupled, coupled_there, accept[0])
                choose(location, location_there, accept[0])
                choose(log_scale, log_scale_there, accept[0])
                choose(values[0], trial[0], accept[0])
                choose(weights, sums[0], accept[0])
            else:
                size = tree.sizes[level]
                for g in range(size if level else 0):
                    for c in range(WIDTH):
                        ratio[g, c] = 0.0
                for g in range(finest if level else 0):
                    own = tree.above[0, level, g]
                    for c in range(WIDTH):
                        ratio[own, c] += sums[0, g, c] - weights[g, c]
                for g in range(size):
                    at = a + g
                    if level:
                        for c in range(WIDTH):
                            total[c] = ratio[g, c] + heavy[at, c] - heavy_there[at, c]
                    else:
                        for c in range(WIDTH):
                            total[c] = sums[0, g, c] - weights[g, c] + heavy[at, c] - heavy_there[at, c]
                    draw_words(state_here, words)
                    decide(total, words, accept[g], found[number + at], bad[1 + level], stay[1 + at], longest[1 + at])
                    pick(heavy, heavy_there, at, accept[g])
                    if level == 0:
                        pick(weights, sums[0], g, accept[g])
                    for row in range(n + g, m, size):
                        pick(noise, noise_there, row, accept[g])
                        pick(values[0], trial[0], front + row, accept[g])
                for below in range(level):
                    for k in range(tree.widths[below]):
                        for g in range(tree.sizes[below]):
                            row = front + tree.numbers[below] + k * tree.sizes[below] + g
                            pick(values[0], trial[0], row, accept[tree.above[below, level, g]])
                for g in range(finest if level else 0):
                    pick(weights, sums[0], g, accept[tree.above[0, level, g]])
        slot = slots[t]
        if slot >= 0 or t == number - 1:
            for c in range(WIDTH):
                total[c] = 0.0
            for r in range(len(noise)):
                for c in range(WIDTH):
                    total[c] -= 0.5 * noise[r, c] * noise[r, c]
            for g in range(finest):
                for c in range(WIDTH):
                    total[c] += weights[g, c]
            if slot >= 0:
                save(beyond[slot : slot + 1], totals, first, live)
                save(kept[:, slot], values[0, front:behind], first, live)
    save(beyond[len(beyond) - 1 :], totals, first, live)
    save(chains[0], scalars, first, live)
    save(chains[2], half, first, live)
    save(chains[3], middle, first, live)
    save(chains[4], coupled, first, live)
    save(chains[6], noise, first, live)
    save(chains[7], heavy, first, live)
    save(chains[8], values[0, front:behind], first, live)
    save(chains[9], weights, first, live)
    save(stays[0], stay, first, live)
    save(stays[1], longest, first, live)
    save(state, state_here, first, live)
    save(rates, found, first, live)
    save(wrong, bad, first, live)


@cache
def _parts(width: int) -> dict[str, object]:
    """All that the loop calls whose inner loops run along the chains of a block, for blocks of so many."""
    found: dict[str, object] = {"WIDTH": width}
    for one in (draw_words, draw, decide, down, climb, locate, move, gain, choose, pick):
        function, name = one.py_func, f"{one.py_func.__name__}_{width}"
        own = FunctionType(function.__code__, function.__globals__ | found, name)
        own.__qualname__ = name  # see Note [Names of compiled functions] in `hiertorch.density.rowkernel`
        found[function.__name__] = part(own)
    return found


@cache
def sweeps(code: int, width: int) -> Callable[..., None]:
    """`advance` for rows with one g (`hiertorch.families.rowforms`), and blocks of so many chains."""
    return compiled(advance, f"advance_{code}_{width}_{SOURCE}", **_parts(width), add_rows=loop(code, width))
