"""Where a model and its data meet the moves: the one loop of the package."""

import copy
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from hiertorch.advice.requirements import grave, sentences
from hiertorch.dashboard.monitor import TensorBoardMonitor
from hiertorch.data.table import Data
from hiertorch.density.initial import initial_state, read_init
from hiertorch.density.structure import analyse, priors_alone
from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import unsavable
from hiertorch.errors import DataError, ModelError, SamplingError, warn
from hiertorch.gaussian.audit import AuditError
from hiertorch.gaussian.discovery import collapse as find_collapse
from hiertorch.model.checks import inspect
from hiertorch.model.latent import validation
from hiertorch.model.model import Model
from hiertorch.monitors import Audience, Monitor, ProgressBar, Window
from hiertorch.run.ending import Ending
from hiertorch.run.independence import Independence, doubted
from hiertorch.run.options import check_options
from hiertorch.run.ordinary import Ordinary
from hiertorch.run.outcome import as_posterior, glance, run_info, so_far, versions
from hiertorch.run.plan import MoveSpec, Plan, collapsed_plan, make_plan
from hiertorch.run.schedule import (
    Schedule,
    check_memory,
    few_threads,
    kept_names,
    room,
    schedule,
    stored_names,
    wants_compiling,
)
from hiertorch.run.store import Counter, Store
from hiertorch.run.sweeps import Sweep
from hiertorch.run.warmstart import WarmStart, warm_start
from hiertorch.runtime.interruption import Signals

__all__ = ["fit", "plan"]

MOST_LEFT = 20
"""Dimensions beside what is integrated out up to which a model is collapsed unasked: with 46 (correlations of nine
effects) one proposal in ten was accepted.
"""

SHORTER = 5
"""Times the usual warm-up is longer than that of a run which starts from another one."""

AGAIN = (
    "These draws are discarded, and the run begins again with moves that evaluate the model itself, as with "
    "collapse=False."
)

Result = TypeVar("Result", bound=Fit)

Engine = Ordinary | Independence
"""Chains with all that a run changes: `advance` moves them by some sweeps. One for ordinary moves, one for collapsed
models.
"""


def plan(
    model: Model,
    data: Data,
    *,
    moves: Plan | Sequence[MoveSpec] | None = None,
    collapse: bool = True,
    prior_only: bool = False,
) -> Plan:
    """See `hiertorch.sampling.plan`."""
    check_options({"collapse": collapse, "prior_only": prior_only})
    reads, notes = inspect(model, data, prior_only=prior_only)
    for note in notes:
        warn(note)
    if isinstance(moves, Plan):
        moves.check_fits(model, data, prior_only=prior_only)
    spec = moves.spec if isinstance(moves, Plan) else moves
    alone = _collapsed_alone(spec, model)
    why = ""
    if alone or (spec is None and collapse and not prior_only):
        found = "the likelihood is left out" if prior_only else find_collapse(model, data, reads)
        if not isinstance(found, str):
            with torch.no_grad(), validation(False):
                whole = collapsed_plan(priors_alone(found.composed.model, found.composed.data, reads), found)
            if alone or (whole.collapsed is not None and whole.collapsed.width <= MOST_LEFT):
                return whole
            left = whole.steps[0].move.width
            found = f"{left} dimensions are left beside what can be integrated out, more than {MOST_LEFT}"
        if alone:
            raise ModelError(f"the move 'collapsed' is not possible: {found}.")
        why = found
    with torch.no_grad(), validation(False):
        structure = analyse(model, data, reads, prior_only=prior_only)
        return moves.on(structure) if isinstance(moves, Plan) else make_plan(structure, spec, why)


def _collapsed_alone(spec: Any, model: Model) -> bool:
    """Whether a user asks for the collapsed move, and for no other; a ModelError if not for all latents, once."""
    if not isinstance(spec, list | tuple) or len(spec) != 1 or not isinstance(spec[0], list | tuple):
        return False
    if len(spec[0]) < 2 or spec[0][0] != "collapsed" or not isinstance(spec[0][1], list | tuple):
        return False
    if unknown := [name for name in spec[0][1] if name not in model.latents]:
        known = ", ".join(model.latents)
        raise ModelError(f"move 'collapsed' names {unknown!r}; the model's latents are {known}.")
    if set(spec[0][1]) != set(model.latents) or spec[0][2:] not in ((), (1,), [], [1]):
        raise ModelError(f"the collapsed move takes all latents, once: ('collapsed', {list(model.latents)!r}).")
    return True


_plan = plan  # `fit` has an argument of that name


def fit(
    model: Model,
    data: Data,
    face: type[Result] = Fit,  # type: ignore[assignment]
    *,
    chains: int | None = None,
    warmup: int | None = None,
    draws: int | None = None,
    thin: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
    keep: Iterable[str] | None = None,
    keep_all: bool = False,
    monitors: Iterable[Monitor] = (),
    progress: bool = True,
    log_dir: str | Path | None = None,
    plan: Plan | Sequence[MoveSpec] | None = None,
    collapse: bool = True,
    compile: bool | Literal["auto"] = "auto",
    init: Mapping[str, Any] | None = None,
    start: Fit | None = None,
    prior_only: bool = False,
) -> Result:
    """See `hiertorch.sampling.sample`; what it gives, to monitors too, is of the kind `face`."""
    check_options(
        {
            "chains": chains, "warmup": warmup, "draws": draws, "thin": thin, "seed": seed, "device": device,
            "dtype": dtype, "keep": keep, "keep_all": keep_all, "monitors": monitors, "progress": progress,
            "log_dir": log_dir, "collapse": collapse, "compile": compile, "prior_only": prior_only,
        }
    )  # fmt: skip
    if isinstance(model, Model) and isinstance(data, Data):
        data = _on_device(data, device, dtype)
        model = copy.deepcopy(model).to(data.device, dtype)
    moves = _plan(model, data, moves=plan, collapse=collapse, prior_only=prior_only)
    run = schedule(moves, chains, warmup, draws, thin)
    if start is not None and warmup is None and moves.collapsed is None:  # whose warm-up takes no time
        run = run._replace(warmup=-(-run.warmup // SHORTER))
    several = any(x is not None and x.dim() > 1 for x in (data.y, data.weights))  # posteriors, each with draws to keep
    most = room(run, every=keep_all or several)
    names = kept_names(moves, run, keep, most)
    stored = stored_names(moves, names)
    check_memory(moves, run, stored, most, data.device, dtype)
    seed = secrets.randbits(63) if seed is None else seed
    compiled = wants_compiling(moves, run) if compile == "auto" else compile and moves.collapsed is None
    settings = {
        "seed": seed,
        "device": str(data.device),
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": compiled,
        "prior_only": prior_only,
        "keep_all": keep_all,
    }
    found = () if prior_only else sentences(model, data, moves.structure.reads)
    if data.weights is None or data.weights.dim() == 1:  # else chains are parts of a run, such as folds
        for sentence in grave(found):
            warn(sentence)
    earlier = int(start.run.get("sweeps", 0)) if isinstance(start, Fit) else 0
    info = run_info(moves, {**settings, "versions": versions()}, run, stored, found, earlier)
    for sentence in unsavable(info.labels, info.event_labels):
        warn(f"the posterior can be used, but not saved: {sentence}")
    monitors, bar = list(monitors), [ProgressBar()] if progress else []
    board = [TensorBoardMonitor(log_dir, announce=progress)] if log_dir is not None else []
    audience = Audience([*monitors, *board, *bar])
    generator = torch.Generator(data.device).manual_seed(seed)
    with torch.no_grad(), validation(False), few_threads(moves, run), Signals() as signals:
        warm = None if start is None else warm_start(start, model, data, run.chains, generator)
        engine = _engine(moves, run, generator, init, warm)
        store, counter = Store(engine.values(), stored, most, dtype), Counter(engine.order)
        audience.start(info)
        look = partial(so_far, moves, info, face=face)
        ended = _loop(engine, run, store, counter, audience, look, signals, compiled=compiled)
        if not isinstance(ended.cause, AuditError):
            try:
                posterior = face.of(
                    as_posterior(moves, info, names, store, counter, ended, engine.learnt(), engine.values())
                )
            except BaseException:
                audience.stop("failed")
                raise
            doubt = ended.closing(signals, lambda: doubted(engine, store)) if ended.cause is not None else None
            if engine.audit is not None:
                posterior.run["audit"] = engine.audit.facts()
            # Judged here, so that its time is known; bar, dashboard and warnings share it.
            if info.alike and posterior.n_draws:
                began = time.perf_counter()
                ended.closing(signals, lambda: posterior.judgement)
                posterior.run["seconds"]["judging"] = time.perf_counter() - began
            ended.closing(signals, lambda: audience.stop(ended.status, posterior))
            if doubt:
                ended.closing(signals, partial(warn, doubt))
            if info.alike and ended.returns:
                for sentence in ended.closing(signals, lambda: glance(posterior)) or ():
                    ended.closing(signals, partial(warn, sentence))
            ended.give(posterior, signals, log_dir)
            return posterior
        audience.stop("discarded")
        ordinary = make_plan(analyse(model, data, moves.structure.reads), note=str(ended.cause))
    if signals.met:  # whoever wants the run to end does not want another one
        raise signals.met[0]
    warn(f"{ended.cause}. {AGAIN}")
    posterior = fit(
        model, data, face=face, chains=chains, warmup=warmup, draws=draws, thin=thin, seed=seed, dtype=dtype, keep=keep,
        keep_all=keep_all, monitors=monitors, progress=progress, log_dir=log_dir, plan=ordinary, compile=compile,
        init=init, start=start
    )  # fmt: skip
    posterior.run["audit"] = ended.cause.found.facts()
    return posterior


def _on_device(data: Data, device: torch.device | str | None, dtype: torch.dtype) -> Data:
    """The data on a device, or a SamplingError that says why not."""
    try:
        return data.to(device, dtype)
    except DataError as error:
        raise SamplingError(str(error)) from error


def _engine(
    moves: Plan, run: Schedule, generator: torch.Generator, init: Mapping[str, Any] | None, warm: WarmStart | None
) -> Engine:
    """The chains, where they start, and how they move."""
    target = moves.target
    if warm is not None:
        init = {**warm.init, **(init or {})}
    if moves.collapsed is not None:
        given = read_init(target, run.chains, init or {})
        return Independence(moves.collapsed, run.chains, generator, given, warm.seen if warm is not None else None)
    state = initial_state(target, run.chains, generator, init)
    return Ordinary(Sweep(moves, run.chains), state, generator, warm.tuning if warm is not None else None)


def _loop(
    engine: Engine,
    run: Schedule,
    store: Store,
    counter: Counter,
    audience: Monitor,
    so_far: Callable[[Mapping[str, torch.Tensor]], Fit],
    signals: Signals,
    *,
    compiled: bool,
) -> Ending:
    """Every sweep of a run, window by window: warm-up learns, sampling stores. Nothing is raised: what ended the run
    early is part of how it ended.
    """
    seconds = {"compile": 0.0, "warmup": 0.0, "sampling": 0.0}
    began = time.perf_counter()
    done, cause = 0, None
    try:
        engine.prepare(compiled=compiled)
        seconds["compile"] = time.perf_counter() - began
        while done < run.sweeps:
            warming = done < run.warmup
            end = min(done + engine.window(warming=warming), run.warmup if warming else run.sweeps)
            engine.advance(done, end - done, run.warmup, run.thin, store, counter)
            done = end
            if done in (run.warmup, run.sweeps):
                engine.check(store)
            phase = "warmup" if warming else "sampling"
            acceptance = {engine.moves[k].name: mean for k, mean in counter.window(sampling=not warming).items()}
            drawn, densities = ({}, None) if warming else (store.draws(), store.log_density())
            engine.look(counter)
            audience.window(
                Window(
                    phase,
                    done,
                    engine.values(),
                    engine.height(),
                    acceptance,
                    counter.nans(),
                    drawn,
                    log_densities=densities,
                    interval=store.interval,
                    tuning=engine.learnt(),
                    so_far=so_far,
                )
            )
            seconds[phase] += time.perf_counter() - began - sum(seconds.values())
        signals.hold()
    except BaseException as error:
        signals.hold()
        cause = error
        counter.window(sampling=done > run.warmup)
    return Ending(done, seconds, cause)
