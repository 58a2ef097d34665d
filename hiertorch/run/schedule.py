"""How many chains, warm-up sweeps and draws: what the user asked for, or what the model's size asks for."""

import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from hiertorch.errors import SamplingError
from hiertorch.run.blocks import MOST_TOGETHER
from hiertorch.run.closedweights import has_form
from hiertorch.run.plan import Plan
from hiertorch.run.rounds import LONGEST_WARMUP
from hiertorch.run.until import Until
from hiertorch.runtime.memory import free
from hiertorch.runtime.rooms import Place
from hiertorch.runtime.workers import one_thread

NUMBERS = 800_000
"""Rows times chains that a pass should have: fewer waste the fixed cost of a tensor operation, more take their full
time.
"""

COMPILE_FROM = 6e8
"""Row densities in a run (rows x chains x passes x sweeps) from which the seconds of `torch.compile` pay: it saves some
10 ns each.
"""

WARMUP = 1000
"""Sweeps of warm-up of ordinary moves, unless they have settled before."""

DRAWS = 1000
"""Draws of each chain, of a run whose length nothing else says."""

FIRST, STEADY = 100, 960
"""Draws of each chain at the first look of a run that goes on until a goal is reached: FIRST at least, and STEADY over
the root of the chains. R-hat of n independent draws of each of c chains has an error of about 1 / (n sqrt(c)), which
this makes 0.001, so that the worst of thousands of parameters that mix perfectly is still below 1.005.
"""

TIMES = 8
"""Draws of such a run at most, over those that it would have if nothing else said its length."""

THIN_BELOW = 100_000
"""Rows times chains below which there are two sweeps a draw, which cost little there. R-hat below 1.01 needs some 100
effective draws in each chain; the slowest parameters of the models measured give 0.16 a sweep (a scale near 0 in a
small model) to 0.3.
"""

STORED = 32_000_000
"""Numbers that the stored draws of a collapsed model are to have: 16 to 256 chains, since a hundred cost little more
than ten.
"""

FEWEST = 250
"""Draws of each chain of a collapsed model, at least."""

WHITENED_DRAWS = 400
"""Draws of each chain of a whitened model, of which some half are effective."""

COLLAPSED_WARMUP = 100
"""Sweeps of warm-up of a collapsed model for every three dimensions, unless it has settled before."""

FEW_CHAINS, FEW_SWEEPS = 8, 40
"""Chains (of whitened models of many covariances as well), and sweeps of warm-up for every three dimensions, of a
collapsed model of which each density takes long: its proposals are fitted to the candidates for a start already.
"""

KEPT = 32_000
"""Draws of all chains together that are stored at most, more than which no summary can use: Monte Carlo errors are then
0.6 % of a posterior sd.
"""

LEAST = 16
"""But so many of each chain: fewer say nothing of how it moves."""

MOST_STORED = 100_000_000
"""Stored numbers, 800 MB, above which effects that can be drawn again are not stored unless asked for."""

ALONE_BELOW = 2_000_000
"""Rows times chains below which one thread serves best: several gain little there, and lose much on a busy machine."""


class Schedule(NamedTuple):
    """A run: `warmup` sweeps, then `draws` stored draws with `thin` sweeps between them, in each of `chains` chains."""

    chains: int
    warmup: int
    draws: int
    thin: int

    @property
    def sweeps(self) -> int:
        """All sweeps of the run."""
        return self.warmup + self.draws * self.thin


WIDE = Schedule(chains=16, warmup=200, draws=300, thin=3)
"""Of a collapsed model of which many dimensions are left, unless the user says otherwise: a sweep of 56 gives 0.08
effective draws in three evaluations of the density, and chains that have less than a hundred each tell little. Where
covariances move given effects, every sweep is a draw.
"""


SHRUNK = Schedule(chains=16, warmup=LONGEST_WARMUP, draws=2000, thin=1)
"""Of a whitened model in which numbers stand before coefficients, which give 0.1 effective draws a draw: R-hat is below
1.01 where each chain has some hundred. Sixteen chains cost hardly more than eight.
"""


def schedule(plan: Plan, chains: int | None, warmup: int | None, draws: int | None, thin: int | None) -> Schedule:
    """Fills in what the user left open, from the size of the model.

    Raises:
        SamplingError: for other chains than the data have sets for.
    """
    given = plan.data.by_chain
    if given and chains is not None and given != chains:
        raise SamplingError(
            f"the data's response or weights hold one set for each of {given} chains, and chains={chains}; leave "
            "chains out, or repeat the data for that many."
        )
    chains = given or chains
    if plan.surrogate is not None:
        rows = max(plan.held_rows, plan.space.dim)
        found = plan.surrogate.first
        if plan.surrogate.covariances:
            return Schedule(chains or FEW_CHAINS, warmup or LONGEST_WARMUP, draws or WHITENED_DRAWS, thin or 1)
        if plan.surrogate.local:
            return Schedule(*(x or usual for x, usual in zip((chains, warmup, draws, thin), SHRUNK, strict=True)))
        most = 4 if found.dear and not found.grams.levels else 5 if found.grams.crossed else 6
        chains = chains or 1 << max(3, min(most, int(NUMBERS / rows).bit_length() - 1))
        return Schedule(chains, warmup or LONGEST_WARMUP, draws or WHITENED_DRAWS, thin or 1)
    if plan.collapsed is None:
        rows = max(plan.held_rows, plan.space.dim)
        chains = chains or 1 << max(3, min(6, int(NUMBERS / rows).bit_length() - 1))
        return Schedule(chains, warmup or WARMUP, draws or DRAWS, thin or (2 if rows * chains < THIN_BELOW else 1))
    if plan.collapsed.collapsed.dear:
        warmup = warmup or FEW_SWEEPS * max(1, -(-plan.collapsed.width // 3))
        return Schedule(chains or FEW_CHAINS, warmup, draws or FEWEST, thin or 1)
    numbers = plan.space.dim
    if plan.collapsed.width > MOST_TOGETHER:
        wide = WIDE._replace(thin=1) if plan.collapsed.covariances else WIDE
        return Schedule(*(given or usual for given, usual in zip((chains, warmup, draws, thin), wide, strict=True)))
    chains = chains or 1 << max(4, min(8, (STORED // (numbers * DRAWS)).bit_length() - 1))
    draws = draws or max(FEWEST, min(DRAWS, STORED // (numbers * chains)))
    return Schedule(chains, warmup or COLLAPSED_WARMUP * max(1, -(-plan.collapsed.width // 3)), draws, thin or 1)


def aimed(usual: Schedule, until: Until, draws: int | None) -> tuple[Schedule, Until]:
    """The run up to its first look, and the goal with its bounds filled in.

    Args:
        usual: how long the run would be without a goal.
        until: the goal.
        draws: of each chain at the first look, if the user says so.
    """
    first = draws or min(usual.draws, max(FIRST, math.ceil(STEADY / usual.chains**0.5)))
    if until.draws is None and until.seconds is None:
        until = replace(until, draws=TIMES * max(usual.draws, first))
    return usual._replace(draws=min(first, until.draws or first)), until


def room(run: Schedule, *, every: bool) -> int:
    """Draws of each chain that there is room for; the store thins what is more."""
    return run.draws if every else min(run.draws, max(LEAST, KEPT // run.chains))


def most_room(plan: Plan, usual: Schedule, until: Until, names: tuple[str, ...], *, every: bool) -> float:
    """Draws of each chain that there may be room for in a run that goes on until a goal is reached: as many as the
    longest run without one has, unless these were more than MOST_STORED numbers and than the usual run has; and twice
    as many as the goal asks effective draws, since of draws that are thinned there are no more.
    """
    if every:
        return until.draws or math.inf
    memory = MOST_STORED // max(1, _numbers(plan, names) * usual.chains)
    wanted = max(LEAST, min(KEPT // usual.chains, max(usual.draws, memory)))
    return max(wanted, 4 * math.ceil(until.ess / usual.chains))  # which is between half full and full


def wants_compiling(plan: Plan, run: Schedule) -> bool:
    """Whether a run is long enough for compiling the pass over the rows to pay, and there is a compiler to do it."""
    if plan.collapsed is not None or (plan.surrogate is not None and has_form(plan.structure.reads.response)):
        return False
    if plan.data.device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return False
    return float(plan.held_rows) * plan.passes * run.chains * run.sweeps >= COMPILE_FROM


@contextmanager
def few_threads(plan: Plan, run: Schedule) -> Iterator[None]:
    """A block in which torch computes with one thread if the model is small or collapsed (see
    `hiertorch.runtime.workers`), put back afterwards.
    """
    if plan.collapsed is None and plan.held_rows * run.chains >= ALONE_BELOW:
        yield
        return
    with one_thread():
        yield


def kept_names(plan: Plan, run: Schedule, keep: Iterable[str] | None, draws: int) -> tuple[str, ...]:
    """The latents whose draws are stored, in order: those asked for, or all; but not the effects of a collapsed model
    that would fill the memory, since they can be drawn again.

    Args:
        plan: with the latents' sizes.
        run: gives the chains.
        keep: names, or None.
        draws: of each chain that are stored.

    Raises:
        SamplingError: for a name that the model does not have, or none at all.
    """
    names = plan.target.names
    if keep is None:
        several = plan.collapsed is not None and plan.collapsed.collapsed.sets > 1
        if plan.collapsed is None or several or _numbers(plan, names) * run.chains * draws <= MOST_STORED:
            return names
        return tuple(name for name in names if plan.space.coordinates[name].plate is None) or names
    wanted = [keep] if isinstance(keep, str) else list(keep)
    if unknown := [name for name in wanted if name not in names]:
        raise SamplingError(f"keep names {unknown!r}; the model's latents are {', '.join(names)}.")
    if not wanted:
        raise SamplingError("keep is empty: there would be nothing to return; leave it out to keep every latent.")
    return tuple(name for name in names if name in wanted)


def _numbers(plan: Plan, names: Iterable[str]) -> int:
    """In a draw of these latents."""
    of = plan.space.coordinates
    return sum(of[name].size * int(torch.Size(of[name].event).numel()) for name in names)


def stored_names(plan: Plan, names: tuple[str, ...]) -> tuple[str, ...]:
    """What is stored so that these latents can be given: in a collapsed model the whole population, from which effects
    are drawn again.
    """
    if plan.collapsed is None:
        return names
    coordinates = plan.space.coordinates
    return tuple(name for name in plan.target.names if name in names or coordinates[name].plate is None)


def fitting(plan: Plan, run: Schedule, names: tuple[str, ...], budget: float, dtype: torch.dtype) -> int:
    """Draws of each chain of these latents that so many bytes hold, LEAST at least."""
    return max(LEAST, int(budget // max(1, _numbers(plan, names) * run.chains * dtype.itemsize)))


def check_memory(
    plan: Plan,
    run: Schedule,
    names: tuple[str, ...],
    draws: int,
    device: torch.device,
    dtype: torch.dtype,
    place: Place | None = None,
) -> None:
    """Raises a SamplingError if so many stored draws of each chain of these latents can't fit into memory, or on the
    disk where they are to be there.
    """
    numbers = _numbers(plan, names)
    needed = numbers * run.chains * draws * dtype.itemsize
    what = f"({run.chains} chains x {draws} draws of {numbers:,} numbers)"
    if (folder := (place or Place()).outside(needed, device)) is not None:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if 2 * needed > (space := shutil.disk_usage(existing).free):
            raise SamplingError(
                f"the draws need {2 * needed / 2**30:,.1f} GiB in {folder} {what}, and {space / 2**30:,.1f} GiB are "
                "free there; keep fewer latents (keep=), or fewer draws and more thinning."
            )
        return
    if draws < run.draws:
        needed += needed // 2  # while draws are thinned there are the old ones and the new
    room = free(device)
    if needed > 0.8 * room:
        raise SamplingError(
            f"the draws need {needed / 2**30:,.1f} GiB {what}, and {room / 2**30:,.1f} GiB are free; keep fewer "
            "latents (keep=), or fewer draws and more thinning, or give checkpoint=, a folder for what is more."
        )
