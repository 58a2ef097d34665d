"""What a run will do, settled before its first sweep: how long, what is stored, by which engine."""

import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from hiertorch.advice.requirements import chosen_priors, grave, model_text, sentences
from hiertorch.arguments import check_bytes
from hiertorch.density.rowpass import can_compile
from hiertorch.draws.fit import Fit
from hiertorch.draws.naming import unsavable
from hiertorch.draws.summaries import LIMITS
from hiertorch.errors import SamplingError
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.model.model import Model
from hiertorch.monitors import RunInfo
from hiertorch.randomness import stream
from hiertorch.run.byeffects import WhitenedByEffects
from hiertorch.run.crosswise import WhitenedCrosswise
from hiertorch.run.engine import Engine
from hiertorch.run.gathering import part_of
from hiertorch.run.independence import Independence
from hiertorch.run.options import Options
from hiertorch.run.ordinary import Ordinary
from hiertorch.run.plan import Plan
from hiertorch.run.schedule import (
    Schedule,
    aimed,
    check_memory,
    fitting,
    kept_names,
    most_room,
    room,
    schedule,
    stored_names,
    wants_compiling,
)
from hiertorch.run.sweeps import Sweep
from hiertorch.run.until import Until
from hiertorch.run.whitened import Whitened
from hiertorch.runtime.ranks import Share
from hiertorch.runtime.rooms import Place

SHORTER = 5
"""Times the usual warm-up is longer than that of a run which starts from another one."""


@dataclass(frozen=True)
class Task:
    """A run to be done.

    Attributes:
        plan: what is sampled, and how.
        schedule: how long; with a goal, up to the first look.
        goal: until when the run goes on, with its bounds; None for a run of fixed length.
        asked: whether the user has set the goal.
        until_settled: whether warm-up may end before its schedule, since the user has not said how long it is.
        names: latents whose draws are given; others are stored for what follows from them.
        room: draws of each chain that there is room for,
        most: and to which it may grow.
        place: where these are.
        engine: what runs; it has not begun.
        generator: of all random numbers of the draws.
        compiled: whether to compile the pass over the rows.
        info: what monitors are told.
        doubts: sentences to warn of beforehand.
    """

    plan: Plan
    schedule: Schedule
    goal: Until | None
    asked: bool
    until_settled: bool
    names: tuple[str, ...]
    room: int
    most: float
    place: Place
    engine: Engine
    generator: torch.Generator
    compiled: bool
    info: RunInfo
    doubts: tuple[str, ...]

    @property
    def seed(self) -> int:
        """Of all randomness."""
        return int(self.info.settings["seed"])


def settled(model: Model, plan: Plan, options: Options) -> Task:
    """What was left open is filled in.

    Raises:
        SamplingError: for options that don't fit the model, the data or the memory.
    """
    data, start = plan.data, options.start
    alike = not data.by_chain  # else chains are parts of a run, such as folds
    until = _until(options, alike)
    asked = (options.chains, options.warmup, options.draws if until is None else None, options.thin)
    usual = Schedule(*map(int, schedule(plan, *asked)))
    if start is not None and options.warmup is None and plan.collapsed is None:  # whose warm-up takes no time
        usual = usual._replace(warmup=-(-usual.warmup // SHORTER))
    every = options.keep_all or not alike
    names = kept_names(plan, usual, options.keep, room(usual, every=every))
    stored = stored_names(plan, names)
    if until is None:
        run, goal, rooms = usual, None, room(usual, every=every)
        most: float = rooms
    else:
        run, goal = aimed(usual, until, options.draws)
        most = most_room(plan, usual, goal, stored, every=every)
        rooms = int(min(run.draws, most))
    budget = check_bytes("keep_in_memory", options.keep_in_memory)
    place = Place(None if options.checkpoint is None else Path(options.checkpoint), budget)
    if options.checkpoint is None and budget is not None:
        most = min(most, fitting(plan, run, stored, budget, options.dtype))
        rooms = int(min(rooms, most))
    check_memory(plan, run, stored, rooms, data.device, options.dtype, place)
    seed = secrets.randbits(63) if options.seed is None else int(options.seed)
    wanted = options.compile is True or (options.compile == "auto" and wants_compiling(plan, usual))
    compiled = wanted and plan.collapsed is None
    generator = stream(seed, "run", device=data.device)
    engine = _engine(plan, run.chains, generator)
    found = () if options.prior_only else sentences(model, data, plan.structure.reads)
    target, coordinates = plan.target, plan.space.coordinates
    priors = chosen_priors(target.model, plan.structure.reads)
    settings = {
        **run._asdict(),
        **({} if goal is None else {"until": {"goal": asdict(goal)}}),
        "seed": seed,
        "device": str(data.device),
        "dtype": str(options.dtype).removeprefix("torch."),
        "compiled": compiled,
        "prior_only": options.prior_only,
        "keep_all": options.keep_all,
        "versions": dict(_versions()),
        **({"formula": said} if isinstance(said := getattr(target.model, "formula", None), str) else {}),
        "findings": list(found),
    }
    event_labels = {name: latent.event_labels(target.data) for name, latent in target.model.latents.items()}
    info = RunInfo(
        model=type(target.model).__name__,
        model_text=f"{(type(target.model).__doc__ or '').strip()}\n\n{model_text(target.model, priors)}".strip(),
        plan_text=str(plan),
        settings=settings,
        names=target.names,
        plates={name: c.plate for name, c in coordinates.items()},
        labels={plate: target.data.labels[plate] for plate in plan.structure.plates},
        event_labels={n: labels for n, labels in event_labels.items() if labels and fits(labels, coordinates[n].event)},
        blocks=dict(engine.blocks),
        sweeps=run.sweeps,
        findings=found,
        priors=priors,
        stored=stored,
        warmup=run.warmup,
        thin=run.thin,
        earlier=int(start.run.get("sweeps", 0)) if isinstance(start, Fit) else 0,
        alike=alike,
        rhat=LIMITS["r_hat"] if goal is None else goal.rhat,
        ess=LIMITS["ess_bulk"] if goal is None else goal.ess,
    )
    unkept = unsavable(info.labels, info.event_labels)
    doubts = [*(grave(found) if alike else ()), *(f"the posterior can be used, but not saved: {x}" for x in unkept)]
    return Task(
        plan, run, goal, options.until is not None, options.warmup is None, names, rooms, most, place, engine,
        generator, compiled, info, tuple(doubts),
    )  # fmt: skip


def dealt(task: Task, share: Share) -> Task:
    """The same for the chains of this process, which go on from where all are.

    Raises:
        SamplingError: if the chains of this engine can't be dealt out.
    """
    if share.alone:
        return task
    if not task.engine.by_chain:
        raise SamplingError(
            f"chains of {type(task.engine).__name__} can't be dealt out to {share.ranks.number} processes: an engine "
            "says by `by_chain` that they can. Run it in one process."
        )
    own = _engine(task.plan, share.chains, task.generator, len(share.own))
    own.share = share
    own.restore(part_of(task.engine.state(), own, share))
    return replace(task, engine=own)


def _until(options: Options, alike: bool) -> Until | None:
    """The goal of a run: the user's, or the usual one where nothing says how many draws there are to be.

    Raises:
        SamplingError: for a goal where chains have data of their own.
    """
    if alike:
        return Until() if options.until is None and options.draws is None else options.until
    if options.until is not None:
        raise SamplingError(
            "until= asks whether chains agree, and here each has data of its own, so that none has to agree with "
            "another; give draws= instead."
        )
    return None


def fits(labels: tuple[tuple[object, ...], ...], event: tuple[int, ...]) -> bool:
    """Whether there is a label for every entry along every event dimension."""
    return tuple(map(len, labels)) == event


def _engine(plan: Plan, chains: int, generator: torch.Generator, own: int | None = None) -> Engine:
    """What runs a plan: here alone it is chosen. Of so many chains all, or a part of them."""
    number = chains if own is None else own
    if plan.maker is not None:
        return plan.maker(plan.structure, number, generator)
    if plan.collapsed is not None:
        return Independence(plan.collapsed, number, generator)
    if plan.surrogate is not None:
        return _whitened(plan.surrogate, chains)(plan.structure, plan.surrogate, number, generator)
    return Ordinary(Sweep(plan, number), generator)


@cache
def _versions() -> Mapping[str, str]:
    """Of everything that a draw may depend on."""
    return {
        "hiertorch": version("hiertorch"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _whitened(surrogate: Surrogate, chains: int) -> type[Whitened]:
    """The engine for a model that a Gaussian stands for."""
    if surrogate.covariances or surrogate.local:
        return WhitenedByEffects
    if surrogate.crosswise:
        return WhitenedCrosswise
    if not can_compile(surrogate.data.y.device):
        return Whitened
    from hiertorch.run.compiled import WhitenedCompiled  # imports an extra

    return WhitenedCompiled if WhitenedCompiled.serves(surrogate, chains) else Whitened
