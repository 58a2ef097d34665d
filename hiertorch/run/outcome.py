"""From the pieces of a run to what people are given: some of the draws while it goes on, all of them at its end."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor

from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import LabelledDraws, Stats
from hiertorch.errors import warn
from hiertorch.gaussian.redraw import Redraw
from hiertorch.run.acceptance import Acceptance
from hiertorch.run.ending import Ending
from hiertorch.run.looks import Looks
from hiertorch.run.stays import facts
from hiertorch.run.store import Store
from hiertorch.run.task import Task, fits
from hiertorch.runtime.interruption import ended_by


def so_far(task: Task, face: type[Fit], draws: Mapping[str, Tensor]) -> Fit:
    """Some of the draws while the run goes on, `(chains, draws, size, *event)`, with their model and data."""
    info, like = task.info, next(iter(draws.values()))
    return face(
        draws,
        plates=info.plates,
        labels=info.labels,
        event_labels=info.event_labels,
        stats=_nothing(like),
        run={"model": info.model},
        origin=Fitted(task.plan.target.model, task.plan.data, like),
    )


def _nothing(like: Tensor) -> Stats:
    """Of draws like these `(chains, draws, ...)`."""
    return Stats({}, {}, like.new_zeros(like.shape[:2]), {})


Kept = TypeVar("Kept", bound=Fit)


class Given(NamedTuple):
    """What people are given: the draws of the latents that are kept, and of what the model derives of them."""

    draws: Mapping[str, Tensor]
    plates: Mapping[str, str | None]
    event_labels: Mapping[str, tuple[tuple[Hashable, ...], ...]]
    trouble: str  # that deriving has met


def given(task: Task, stored: Mapping[str, Tensor]) -> Given:
    """From the stored draws `(chains, draws, size, *event)`."""
    info = task.info
    made = _derived(Fitted(task.plan.target.model, task.plan.data, stored[task.names[0]]), stored)
    plates, event_labels = {**info.plates, **made.plates}, {**info.event_labels, **made.event_labels}
    return Given({**{name: stored[name] for name in task.names}, **made.draws}, plates, event_labels, made.trouble)


def with_derived(fit: Kept) -> Kept:
    """Draws of a run that goes on or was stopped, and what their model, if it is known, derives of them."""
    if fit.origin is None or not fit.n_draws:
        return fit
    made = _derived(fit.origin, {**fit.more, **fit.draws})
    if made.trouble:
        warn(made.trouble)
    integers = {name: tuple(tuple(range(k)) for k in x.shape[3:]) for name, x in made.draws.items()}
    return fit.changed(
        draws={**fit.draws, **made.draws},
        plates={**fit.plates, **made.plates},
        event_labels={**fit.event_labels, **integers, **made.event_labels},
    )


def readable(task: Task, store: Store) -> LabelledDraws:
    """The draws so far, by the names of their parameters."""
    found = given(task, store.draws())
    return Fit(
        found.draws,
        plates=found.plates,
        labels=task.info.labels,
        event_labels=found.event_labels,
        stats=_nothing(found.draws[task.names[0]]),
        run={},
    )


def outline(task: Task, acceptance: Acceptance, looks: Looks, done: int, seconds: Mapping[str, float]) -> Fit:
    """What `as_fit` would give after so many sweeps, without its draws: for who reads them from elsewhere."""
    empty = Store(task.engine.values(), task.info.shown, 1)
    fit = as_fit(task, empty, acceptance, Ending(done, seconds, None), looks, whole=False)
    fit.run["status"] = "finished" if looks.over else "unfinished"
    return fit


def as_fit(task: Task, store: Store, acceptance: Acceptance, ended: Ending, looks: Looks, *, whole: bool = True) -> Fit:
    """The draws of the latents that are kept, with everything that a reader needs.

    Args:
        task: what was to be done.
        store: the draws.
        acceptance: of all sweeps.
        ended: how.
        looks: how long it went on.
        whole: with what the model derives, and what draws effects again.
    """
    plan, info, engine = task.plan, task.info, task.engine
    rates = {engine.blocks[k]: mean for k, mean in acceptance.rates().items()}
    stored, effects = store.draws(), None
    found = given(task, stored) if whole else Given(stored, info.plates, info.event_labels, "")
    redrawn = {name: str(plate) for name, plate in info.plates.items() if plate is not None and name not in stored}
    if found.trouble:
        warn(found.trouble)
    if plan.collapsed is not None and whole:
        population = {name: x for name, x in stored.items() if info.plates[name] is None}
        if population and plan.collapsed.collapsed.sets == 1:
            effects = Redraw(plan.collapsed.collapsed, population, task.seed)
    stats = Stats(
        acceptance={block.name: x if block.plate is not None else x[:, 0] for block, x in rates.items()},
        blocks={block.name: block.plate for block in rates},
        log_density=store.log_density(),
        nan={engine.blocks[k].name: int(count) for k, count in acceptance.nan.items()},
    )
    run = {
        "model": info.model,
        "model_text": info.model_text,
        "plan_text": info.plan_text,
        "collapsed": plan.collapsed is not None,  # whose log density is that of what was not integrated out
        "priors": dict(info.priors),
        **info.settings,
        "warmup": looks.schedule.warmup,
        **(looks.facts(asked=task.asked, chains=info.settings["chains"]) if looks.goal is not None else {}),
        "seconds": dict(ended.seconds),
        "status": ended.status,
        **({} if ended.cause is None else {"ended_by": ended_by(ended.cause)}),
        "sweeps": info.earlier + ended.sweeps,
        "interval": store.interval,
        **({} if info.alike else {"own_data": True}),  # each chain has its own
        **({"nan_example": acceptance.example} if acceptance.example else {}),
        **({"stays": stays} if (stays := facts(engine.stays(), dict(engine.blocks), info.labels)) else {}),
        "impossible": {name: list(pair) for name, pair in plan.target.met.found().items()},
    }
    fit = Fit(
        found.draws,
        plates=found.plates,
        labels=info.labels,
        event_labels=found.event_labels,
        stats=stats,
        run=run,
        interrupted=ended.cause is not None,
        unstored=effects,
        redrawn={} if whole else redrawn,
        collapsed=plan.collapsed is not None,
        origin=Fitted(plan.target.model, plan.data, stored[task.names[0]]),
        more={name: x for name, x in stored.items() if name not in task.names},
        tuning=engine.learnt(),
        positions={} if plan.collapsed is not None else {n: x for n, x in engine.values().items() if n not in stored},
    )
    if looks.over and looks.columns:
        fit.columns = {name: looks.columns[name] for name in fit.draws}  # of the same draws, and in their order
    return fit


def _derived(fitted: Fitted, stored: Mapping[str, Tensor]) -> Given:
    """What the model derives of its latents, and what went wrong. The user's code may fail here, which must not cost
    the draws.
    """
    try:
        found = fitted.derived(stored)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return Given({}, {}, {}, (
            f"what {type(fitted.model).__name__} derives of its latents could not be computed ({why}), and the "
            "posterior is without it."
        ))  # fmt: skip
    told = {name: fitted.model.derived[name] for name in found}
    labels = {n: own for n, x in found.items() if (own := told[n].labels) and fits(own, x.shape[3:])}
    return Given(found, {name: one.plate for name, one in told.items()}, labels, "")
