"""From the pieces of a run to what people are given: the facts for monitors beforehand, the posterior afterwards."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiertorch.advice.requirements import chosen_priors, model_text
from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.draws.labelled import Stats
from hiertorch.errors import warn
from hiertorch.gaussian.redraw import Redraw
from hiertorch.monitors import RunInfo
from hiertorch.run.ending import Ending
from hiertorch.run.plan import Plan
from hiertorch.run.schedule import Schedule
from hiertorch.run.store import Counter, Store
from hiertorch.runtime.interruption import ended_by

__all__ = ["as_posterior", "glance", "run_info", "so_far", "versions"]


def versions() -> dict[str, str]:
    """Of everything that a draw may depend on."""
    return {
        "hiertorch": version("hiertorch"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def run_info(
    plan: Plan,
    settings: Mapping[str, Any],
    run: Schedule,
    stored: tuple[str, ...],
    findings: tuple[str, ...] = (),
    earlier: int = 0,
) -> RunInfo:
    """What monitors are told before the first sweep; a posterior keeps the findings with the settings."""
    target = plan.target
    model, data, coordinates = target.model, plan.data, target.space.coordinates
    priors = chosen_priors(model, plan.structure.reads)
    return RunInfo(
        model=type(model).__name__,
        model_text=f"{(type(model).__doc__ or '').strip()}\n\n{model_text(model, priors)}".strip(),
        plan_text=str(plan),
        settings={**run._asdict(), **settings, "findings": list(findings)},
        names=target.names,
        plates={name: c.plate for name, c in coordinates.items()},
        labels={plate: target.data.labels[plate] for plate in plan.structure.plates},
        event_labels={
            name: labels
            for name, latent in model.latents.items()
            if (labels := latent.event_labels(target.data)) and fits(labels, coordinates[name].event)
        },
        blocks={step.move.name: step.move.plate for step in plan.steps},
        sweeps=run.sweeps,
        findings=findings,
        priors=priors,
        stored=stored,
        warmup=run.warmup,
        thin=run.thin,
        earlier=earlier,
        alike=all(x is None or x.dim() == 1 for x in (data.y, data.weights)),
    )


def so_far(plan: Plan, info: RunInfo, draws: Mapping[str, Tensor], *, face: type[Fit] = Fit) -> Fit:
    """Some of the draws while the run goes on, `(chains, draws, size, *event)`, with their model and data."""
    model, data = plan.target.model, plan.data
    like = next(iter(draws.values()))
    nothing = Stats({}, {}, like.new_zeros(like.shape[:2]), {})
    return face(
        draws,
        plates=info.plates,
        labels=info.labels,
        event_labels=info.event_labels,
        stats=nothing,
        run={"model": info.model},
        origin=Fitted(model, data, like),
    )


def as_posterior(
    plan: Plan,
    info: RunInfo,
    names: tuple[str, ...],
    store: Store,
    counter: Counter,
    ended: Ending,
    tuning: Mapping[str, Mapping[str, Tensor]],
    last: Mapping[str, Tensor],
) -> Fit:
    """The draws of the latents that are kept, with everything that a reader needs."""
    accept = counter.acceptance()
    blocks = {step.move.name: step.move.plate for step in plan.steps}
    acceptance = {
        step.move.name: accept[k] if step.move.plate is not None else accept[k][:, 0]
        for k, step in enumerate(plan.steps)
        if k in accept
    }
    stored = store.draws()
    draws, effects = {name: stored[name] for name in names}, None
    model, data = plan.target.model, plan.data
    fitted = Fitted(model, data, stored[names[0]])
    derived = _derived(fitted, stored)
    plates = {**info.plates, **{name: model.derived[name].plate for name in derived}}
    event_labels = {
        **info.event_labels,
        **{
            name: found
            for name in derived
            if (found := model.derived[name].labels) and fits(found, derived[name].shape[3:])
        },
    }
    if plan.collapsed is not None:
        population = {name: x for name, x in stored.items() if info.plates[name] is None}
        if population and plan.collapsed.collapsed.sets == 1:
            effects = Redraw(plan.collapsed.collapsed, population, info.settings["seed"])
    stats = Stats(
        acceptance=acceptance,
        blocks={name: plate for name, plate in blocks.items() if name in acceptance},
        log_density=store.log_density(),
        nan={step.move.name: int(counter.nan[k]) for k, step in enumerate(plan.steps) if k in counter.nan},
    )
    run = {
        "model": info.model,
        "model_text": info.model_text,
        "plan_text": info.plan_text,
        "collapsed": plan.collapsed is not None,  # whose log density is that of what was not integrated out
        "priors": dict(info.priors),
        **info.settings,
        "seconds": dict(ended.seconds),
        "status": ended.status,
        **({} if ended.cause is None else {"ended_by": ended_by(ended.cause)}),
        "sweeps": info.earlier + ended.sweeps,
        "interval": store.interval,
        **({} if info.alike else {"own_data": True}),  # each chain has its own
        **({"nan_example": counter.example} if counter.example else {}),
        "impossible": {name: list(pair) for name, pair in plan.target.met.found().items()},
    }
    return Fit(
        {**draws, **derived},
        plates=plates,
        labels=info.labels,
        event_labels=event_labels,
        stats=stats,
        run=run,
        interrupted=ended.cause is not None,
        unstored=effects,
        origin=fitted,
        more={name: x for name, x in stored.items() if name not in draws},
        tuning=tuning,
        positions={} if plan.collapsed is not None else {name: last[name] for name in last if name not in stored},
    )


def _derived(fitted: Fitted, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model derives of its latents. The user's code may fail here, which must not cost the draws."""
    try:
        return fitted.derived(stored)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        warn(
            f"what {type(fitted.model).__name__} derives of its latents could not be computed ({found}), and the "
            "posterior is without it."
        )
        return {}


def glance(posterior: Fit) -> list[str]:
    """What a run warns of at its end; see `hiertorch.draws.judgement`."""
    return posterior.judgement.sentences


def fits(labels: tuple[tuple[Any, ...], ...], event: tuple[int, ...]) -> bool:
    """Whether there is a label for every entry along every event dimension."""
    return tuple(map(len, labels)) == event
