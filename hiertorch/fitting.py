"""A model and its data in, a fit out: checks, the run with its bar and dashboard, and what is said of it."""

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from hiertorch.dashboard.monitor import TensorBoardMonitor
from hiertorch.data.fingerprint import Fingerprint
from hiertorch.data.table import Data
from hiertorch.density.structure import analyse
from hiertorch.draws.archive import checked_path
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, SamplingError, warn
from hiertorch.gaussian.audit import AuditError
from hiertorch.model.model import Model
from hiertorch.monitors import Audience, ProgressBar
from hiertorch.predict.keeping import remade
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.byrows import WhitenedByRows, why_not
from hiertorch.run.checkpoint import Checkpoint
from hiertorch.run.choosing import choose
from hiertorch.run.ending import Ending
from hiertorch.run.engine import UnsuitedError
from hiertorch.run.gathering import Gathering
from hiertorch.run.gatheringrows import GatheringRows
from hiertorch.run.looks import Looks
from hiertorch.run.options import Options
from hiertorch.run.outcome import as_fit, outline, readable, so_far
from hiertorch.run.ownrows import OwnRows, RowsRefusedError, check_parts, own_rows, wants_rows
from hiertorch.run.plan import make_plan
from hiertorch.run.resuming import (
    check_alike,
    check_density,
    check_same,
    continued,
    facts_of,
    restore,
    resumed_options,
)
from hiertorch.run.run import Past, doubted, run, together
from hiertorch.run.runfolder import Lock, Resumed, cleared, read, refuse_unasked
from hiertorch.run.schedule import few_threads
from hiertorch.run.store import Store
from hiertorch.run.task import Task, dealt, settled
from hiertorch.run.warmstart import warm_start
from hiertorch.runtime.devices import check_double
from hiertorch.runtime.interruption import Signals
from hiertorch.runtime.ranks import ALONE, Ranks, Share, Summed
from hiertorch.runtime.ranks import ranks as ranks_of_run
from hiertorch.runtime.silence import hushed
from hiertorch.runtime.validating import validation

AGAIN = (
    "These draws are discarded, and the run begins again with moves that evaluate the model itself, as with "
    "collapse=False."
)

Result = TypeVar("Result", bound=Fit)


def fit(model: Model, data: Data, options: Options, face: type[Result]) -> Result:
    """See `hiertorch.sampling.sample`; what it gives, to monitors too, is of the kind `face`."""
    with _processes(data) as ranks:
        if wants_rows(options, data, ranks):
            try:
                return _fitted_by_rows(model, data, options, face, ranks)
            except RowsRefusedError:
                if options.spread == "rows":
                    raise
        if options.checkpoint is None:
            return _fitted(model, data, options, face, ranks)
        with Lock(Path(options.checkpoint)) if ranks.first else nullcontext():
            if ranks.first:
                refuse_unasked(Path(options.checkpoint), overwrite=options.overwrite)
            return _fitted(model, data, options, face, ranks)


def resume(
    folder: str | Path, model: Model | None, data: Data | None, changed: Mapping[str, Any], face: type[Result]
) -> Result:
    """See `hiertorch.sampling.resume`."""
    with _processes(data) as ranks, Lock(checked_path(folder), there=True) if ranks.first else nullcontext():
        there = read(folder)
        options = resumed_options(there, changed)
        if model is None or data is None:
            model, data = _of_the_folder(there, model, data)
        return _fitted(model, data, options, face, ranks, there=there)


def _processes(data: Data | None) -> AbstractContextManager[Ranks]:
    """Those that chains are dealt out to; where chains have data of their own each process that asks runs them all."""
    return nullcontext(ALONE) if isinstance(data, Data) and data.by_chain else ranks_of_run()


def _of_the_folder(there: Resumed, model: Model | None, data: Data | None) -> tuple[Model, Data]:
    """Model and data as a folder has them, but for a model that is given.

    Raises:
        DataError: if they can't be made again.
    """
    call = f"ht.resume({str(there.folder)!r}, model, data)"
    if data is not None:
        raise DataError(f"resume was given data and no model: give both, {call}, or neither.")
    try:
        found = None
        if there.source is not None:
            with hushed():
                found = remade(there.source, model, Fingerprint.from_json(there.facts["data"]))
    except Exception as error:  # also of the model's own code
        why = str(error).rstrip(".")
        raise DataError(f"{there.folder} can't give its run model and data, since {why}: give them, {call}.") from error
    if found is None:
        raise DataError(f"{there.folder} does not have model and data of its run: give them, {call}.")
    return found


def _fitted(
    model: Model,
    data: Data,
    options: Options,
    face: type[Result],
    ranks: Ranks,
    *,
    fallback: Sequence[str] = (),
    there: Resumed | None = None,
) -> Result:
    """The run, from its beginning or from where it was stopped.

    Args:
        model: to be fitted,
        data: to these.
        options: of the run.
        face: of what it gives.
        ranks: the processes that it is dealt out to.
        fallback: notes of the options' plan of ordinary moves, if another engine has failed before.
        there: what there is of the run.
    """
    model, data = _placed(model, data, options)
    options = _options_here(options, ranks)
    plan = choose(model, data, options.plan, collapse=options.collapse, prior_only=options.prior_only)
    notes = fallback if there is None else there.facts["fallback"]
    if there is not None and notes:
        plan = make_plan(analyse(model, data.in_memory(), plan.structure.reads), None, *notes)
    whole = settled(model, plan, options)
    share = Share(whole.schedule.chains, ranks)
    told = there is not None or options.checkpoint is not None or not share.alone
    facts = facts_of(whole, options, notes) if told else {}
    check_alike(ranks.each(facts))
    if there is not None:
        check_same(there, facts)
        whole = continued(whole, there)
    for sentence in whole.doubts if ranks.first else ():
        warn(sentence)
    monitors = list(options.monitors)
    board = [] if options.log_dir is None else [TensorBoardMonitor(options.log_dir, announce=options.progress)]
    audience = Audience([*monitors, *board, *([ProgressBar()] if options.progress else [])])
    with torch.no_grad(), validation(False), few_threads(plan, whole.schedule), Signals() as signals:
        try:
            if there is None:
                _begin(whole, model, data, options)
            else:
                restore(whole.engine, there, data.device)
        except UnsuitedError as error:
            return _again(error, whole, model, data, options, face, ranks)
        task = dealt(whole, share)
        engine = task.engine
        store = _store(task, options)
        of_all = store if share.alone or not ranks.first else _store(whole, options)
        looks = Looks(task.schedule, task.goal, task.until_settled)
        acceptance = Acceptance(engine.order)
        every = Gathering(engine, store, acceptance, of_all)
        past, checkpoint = None, None
        if there is not None:
            past = Past(there.facts["done"], dict(there.facts["seconds"]))
            every.restore(there.parts, there.draws, there.facts["interval"], there.facts["made"])
            looks.restore(there.facts["looks"], past.done)
            if ranks.first:
                every.acceptance.restore(there.acceptance, there.facts["example"], data.device)
                before = Ending(past.done, past.seconds, None)
                check_density(whole, as_fit(whole, every.store, every.acceptance, before, looks, whole=False))
        if options.checkpoint is not None:
            folder = Path(options.checkpoint)
            if there is None and ranks.first:
                cleared(folder)
            token = ranks.each(secrets.token_hex(8))[0] if there is None else there.facts["token"]
            checkpoint = Checkpoint(
                folder, options.every, facts, partial(_outlined, whole, every, looks), every, token,
                [] if there is None else there.shards, every.store.interval,
            )  # fmt: skip
        audience.start(task.info)
        some, readable_ = partial(so_far, task, face), partial(readable, task, every.store)
        ended = run(
            engine, looks, store, acceptance, every, audience, some, readable_, signals,
            compiled=task.compiled, checkpoint=checkpoint, past=past,
        )  # fmt: skip
        if not isinstance(ended.cause, AuditError | UnsuitedError):
            try:
                as_one = task if ended.cause is not None else _put_together(task, whole, every)
                found = face.of(as_fit(as_one, every.store, every.acceptance, ended, looks))
            except BaseException:
                audience.stop("failed")
                raise
            if ranks.first:
                _close(found, task, every.store, ended, audience, signals)
            ended.give(found, signals, options.log_dir)
            return found
        audience.stop("discarded")
    if signals.met:  # whoever wants the run to end does not want another one
        raise signals.met[0]
    return _again(ended.cause, task, model, data, replace(options, monitors=monitors), face, ranks)


def _again(
    cause: AuditError | UnsuitedError, task: Task, model: Model, data: Data, options: Options, face: type[Result],
    ranks: Ranks,
) -> Result:  # fmt: skip
    """The run with ordinary moves, and why."""
    plan, why = task.plan, str(cause)
    notes = (why, "") if plan.surrogate is None else (plan.note, why)
    ordinary = make_plan(analyse(model, data.in_memory(), plan.structure.reads), None, *notes)
    if ranks.first:
        warn(f"{why}. {AGAIN}")
    again = replace(options, plan=ordinary, seed=task.seed, device=None)
    found = _fitted(model, data, again, face, ranks, fallback=notes)
    if isinstance(cause, AuditError):
        found.run["audit"] = cause.found.facts()
    return found


def _fitted_by_rows(model: Model, data: Data, options: Options, face: type[Result], ranks: Ranks) -> Result:
    """The run of a model whose groups are dealt out to processes.

    Raises:
        RowsRefusedError: on all processes, if they can't be; before anything runs.
    """
    model, data = _placed(model, data, options)
    options = _options_here(options, ranks)
    own = own_rows(model, data, options, ranks)
    plan, refused = choose(model, own.data, None), None
    if plan.surrogate is None:
        refused = RowsRefusedError(f"a model whose likelihood a Gaussian surrogate stands for ({plan.note})")
    elif why := why_not(plan.surrogate):
        refused = RowsRefusedError(why)
    met = [error for error in ranks.each(refused) if error is not None]
    if met:
        raise refused or met[0]
    assert plan.surrogate is not None
    check_parts(model, data, own)
    task = settled(model, plan, options)
    said = ranks.each((task.schedule.chains, task.names, plan.surrogate.members))
    if any(members != said[0][2] for *_, members in said):
        raise RowsRefusedError("groups whose rows say alike what moves together")
    task = settled(model, plan, replace(options, chains=said[0][0], keep=said[0][1]))
    schedule, goal, room, most = ranks.each((task.schedule, task.goal, task.room, task.most))[0]
    engine = WhitenedByRows(plan.structure, plan.surrogate, Summed(schedule.chains, ranks), task.generator)
    settings = {**task.info.settings, "spread": {"rows": ranks.number}}
    info = replace(task.info, settings=settings)
    task = replace(task, schedule=schedule, goal=goal, room=room, most=most, engine=engine, info=info)
    whole = _of_all_groups(task, data, own)
    for sentence in whole.doubts if ranks.first else ():
        warn(sentence)
    board = [] if options.log_dir is None else [TensorBoardMonitor(options.log_dir, announce=options.progress)]
    audience = Audience([*options.monitors, *board, *([ProgressBar()] if options.progress else [])])
    with torch.no_grad(), validation(False), few_threads(plan, task.schedule), Signals() as signals:
        try:
            together(ranks, partial(engine.begin, {}, None))
        except UnsuitedError as error:
            raise RowsRefusedError(f"a run without ordinary moves, and here {error}") from error
        store, acceptance = _store(task, options), Acceptance(engine.order)
        values = {
            name: x[:, :1].expand(-1, len(whole.info.labels[own.plate]), *x.shape[2:]) if task.info.plates[name] else x
            for name, x in engine.values().items()
        }
        of_all = Store(values, task.info.shown, room, options.dtype, most, task.place) if ranks.first else store
        every = GatheringRows(engine, own.groups, store, acceptance, of_all)
        looks, shown = Looks(schedule, goal, task.until_settled), whole if ranks.first else task
        audience.start(shown.info)
        ended = run(
            engine, looks, store, acceptance, every, audience, partial(so_far, shown, face),
            partial(readable, shown, every.store), signals, compiled=task.compiled,
        )  # fmt: skip
        if isinstance(ended.cause, AuditError | UnsuitedError):
            audience.stop("failed")
            raise RowsRefusedError(f"a run without ordinary moves, and here {ended.cause}") from ended.cause
        try:
            found = face.of(as_fit(shown, every.store, every.acceptance, ended, looks))
            if ended.cause is None:
                last, _ = every.values()
                found.positions = {name: x for name, x in last.items() if name not in every.store.names}
        except BaseException:
            audience.stop("failed")
            raise
        if ranks.first:
            _close(found, shown, every.store, ended, audience, signals)
        ended.give(found, signals, options.log_dir)
        return found


def _of_all_groups(task: Task, data: Data, own: OwnRows) -> Task:
    """The same of all groups, for who reads of it; its engine is that of the first process's groups."""
    target = copy.copy(task.plan.target)
    target.data = data
    plan = replace(task.plan, structure=replace(task.plan.structure, target=target))
    labels = {**task.info.labels, own.plate: data.labels[own.plate]}
    return replace(task, plan=plan, info=replace(task.info, labels=labels))


def _store(task: Task, options: Options) -> Store:
    return Store(task.engine.values(), task.info.shown, task.room, options.dtype, task.most, task.place)


def _put_together(task: Task, whole: Task, every: Gathering) -> Task:
    """On the first process the engine of all chains, at where all processes are."""
    if every.share.alone:
        return task
    state = every.state()
    if not every.share.ranks.first:
        return task
    whole.engine.restore(state)
    return whole


def _outlined(whole: Task, every: Gathering, looks: Looks, done: int, seconds: Mapping[str, float]) -> Fit:
    """The posterior so far without its draws."""
    if not every.share.alone:
        whole.engine.restore(every.latest)
    return outline(whole, every.acceptance, looks, done, seconds)


def _options_here(options: Options, ranks: Ranks) -> Options:
    """Those of this process: one seed for all, and only the first one shows and writes."""
    if ranks.number == 1:
        return options
    seed = secrets.randbits(63) if options.seed is None else int(options.seed)
    options = replace(options, seed=ranks.each(seed)[0])
    return options if ranks.first else replace(options, progress=False, monitors=(), log_dir=None)


def _placed(model: Model, data: Data, options: Options) -> tuple[Model, Data]:
    """The data on their device, and a copy of the model there."""
    if not isinstance(model, Model) or not isinstance(data, Data):
        return model, data  # which the checks of the model say in words
    check_double(data.device if options.device is None else options.device)
    try:
        data = data.to(options.device, options.dtype)
    except DataError as error:
        raise SamplingError(str(error)) from error
    return copy.deepcopy(model).to(data.device, options.dtype), data


def _begin(task: Task, model: Model, data: Data, options: Options) -> None:
    """The chains stand where `init` says, where an earlier run ended, or where the engine finds."""
    earlier, init = None, options.init
    if options.start is not None:
        earlier = warm_start(options.start, model, data, task.schedule.chains, task.generator)
        init = {**earlier.init, **(init or {})}
    task.engine.begin({} if init is None else init, earlier)


def _close(found: Fit, task: Task, store: Store, ended: Ending, audience: Audience, signals: Signals) -> None:
    """Judges the draws, tells everybody, and warns of what there is to warn of; nothing here costs a draw."""
    doubt = ended.closing(signals, lambda: doubted(task.engine, store)) if ended.cause is not None else None
    if task.engine.audit is not None:
        found.run["audit"] = task.engine.audit.facts()
    if task.info.alike and found.n_draws:  # here, so that its time is known; bar, dashboard and warnings share it
        began = time.perf_counter()
        ended.closing(signals, lambda: found.judgement)
        found.run["seconds"]["judging"] += time.perf_counter() - began
    ended.closing(signals, lambda: audience.stop(ended.status, found))
    if doubt:
        ended.closing(signals, partial(warn, doubt))
    if task.info.alike and ended.returns:
        for sentence in ended.closing(signals, lambda: found.judgement.sentences) or ():
            ended.closing(signals, partial(warn, sentence))
