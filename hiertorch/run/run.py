"""The one loop of the package: an engine moves its chains, a store keeps draws of them, an audience watches."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch

from hiertorch.draws.fit import Fit
from hiertorch.draws.labelled import LabelledDraws
from hiertorch.errors import SamplingError
from hiertorch.gaussian.audit import AuditError
from hiertorch.monitors import Monitor, Window
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.checkpoint import Checkpoint
from hiertorch.run.ending import Ending
from hiertorch.run.engine import Engine, UnsuitedError
from hiertorch.run.gathering import Gathering
from hiertorch.run.looks import Looks
from hiertorch.run.store import Store
from hiertorch.runtime.interruption import Signals
from hiertorch.runtime.ranks import Ranks


class Past(NamedTuple):
    """What there was of a run before: sweeps, and seconds of each part."""

    done: int
    seconds: dict[str, float]


def run(
    engine: Engine,
    looks: Looks,
    store: Store,
    acceptance: Acceptance,
    every: Gathering,
    audience: Monitor,
    so_far: Callable[[Mapping[str, torch.Tensor]], Fit],
    read: Callable[[], LabelledDraws],
    signals: Signals,
    *,
    compiled: bool,
    checkpoint: Checkpoint | None = None,
    past: Past | None = None,
) -> Ending:
    """Every sweep of a run, window by window: warm-up learns, sampling stores. Nothing is raised: what ended the run
    early is part of how it ended.

    Args:
        engine: has begun.
        looks: say how long; of several processes the first one looks.
        store: for the draws of the engine's chains.
        acceptance: for the rates, of the engine's `order`.
        every: gathers what the chains of all processes have drawn.
        audience: is told of every window.
        so_far: makes a fit of some of the draws, for those who watch.
        read: gives the stored draws as people get them, to be looked at.
        signals: end the run, wherever its chains are.
        compiled: whether to compile the pass over the rows.
        checkpoint: of this process; is told of every window, and writes at the end what it has been told.
        past: what there was of the run already.
    """
    ranks = engine.share.ranks
    done, seconds = past or Past(0, {"compile": 0.0, "warmup": 0.0, "sampling": 0.0, "judging": 0.0})
    before = time.perf_counter()
    began, cause = before - sum(seconds.values()), None
    try:
        engine.prepare(compiled=compiled)
        seconds["compile"] += time.perf_counter() - before
        while not looks.over:
            warming = done < (schedule := looks.schedule).warmup
            end = int(min(done + engine.window(warming=warming), schedule.warmup if warming else looks.last))
            engine.advance(done, end - done, schedule.warmup, schedule.thin, store, acceptance)
            every.window()
            done = end
            settled = warming and looks.until_settled and engine.settled()
            if not warming and ranks.first:
                turned = time.perf_counter()
                spent = turned - began - seconds["compile"] - seconds["warmup"]
                looks.after(done, spent, read)
                seconds["judging"] += time.perf_counter() - turned
            due = 0 if checkpoint is None else checkpoint.due(over=looks.over)
            *said, number = ranks.agreed([settled, looks.over, due])
            settled, looks.over = map(bool, said)
            if settled:
                looks.warmed(done)
            if done == looks.schedule.warmup or looks.over:
                _checked(engine, store, ranks)
            phase = "warmup" if warming else "sampling"
            found = every.acceptance.window(sampling=not warming)
            rates = {engine.blocks[k].name: mean for k, mean in found.items()}
            engine.look(every.acceptance)
            values, height = every.values()
            audience.window(
                Window(
                    phase,
                    done,
                    values,
                    height,
                    rates,
                    every.acceptance.nans(),
                    {} if warming else every.store.draws(),
                    log_densities=None if warming else every.store.log_density(),
                    interval=every.store.interval,
                    tuning=engine.learnt(),
                    so_far=so_far,
                    foreseen=looks.sweeps,
                    seen=looks.seen,
                    warmup=None if warming else schedule.warmup,
                )
            )
            seconds[phase] += time.perf_counter() - began - sum(seconds.values())
            if checkpoint is not None:
                if not engine.share.alone:
                    every.state()
                checkpoint.window(done, looks, seconds, int(number))
        signals.hold()
    except BaseException as error:
        signals.hold()
        cause = error
        if not isinstance(cause, AuditError | UnsuitedError):  # after which all go on together
            ranks.leave()
        every.acceptance.window(sampling=done > looks.schedule.warmup)
    if checkpoint is not None and ranks.first and not isinstance(cause, AuditError | UnsuitedError):
        checkpoint.write()
    return Ending(done, seconds, cause)


def _checked(engine: Engine, store: Store, ranks: Ranks) -> None:
    """`Engine.check`, which goes wrong in all processes if it does in one."""
    together(ranks, partial(engine.check, store))


def together(ranks: Ranks, what: Callable[[], object]) -> None:
    """Something that goes wrong in all processes if it does in one."""
    found: SamplingError | None = None
    try:
        what()
    except SamplingError as error:
        found = error
    said = [error for error in ranks.each(found) if error is not None]
    if said:
        raise found or said[0]


def doubted(engine: Engine, store: Store) -> str | None:
    """What is wrong with the draws of a run that was stopped, and so can't begin again; None if nothing is."""
    try:
        if store.n_draws:
            engine.check(store)
    except AuditError as found:
        return f"{found}. These draws are not from the posterior: run the model again with collapse=False."
    return None
