"""What a run that goes on must share with the one that was stopped, and what it may be told anew."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from hiertorch.data.fingerprint import Fingerprint
from hiertorch.draws.attaching import disagreement
from hiertorch.draws.fit import Fit
from hiertorch.errors import DataError, HiertorchError, ModelError, SamplingError, warn
from hiertorch.run.engine import Engine
from hiertorch.run.options import Options
from hiertorch.run.runfolder import Resumed
from hiertorch.run.task import Task
from hiertorch.run.until import Until

KEPT = ("chains", "warmup", "draws", "thin", "keep", "keep_all", "collapse", "compile", "prior_only", "every")
"""Options that a run goes on with."""

ANEW = ("draws", "until", "device", "monitors", "progress", "log_dir", "plan", "every", "keep_in_memory")
"""Options that it may be given."""


def facts_of(task: Task, options: Options, fallback: Sequence[str]) -> dict[str, Any]:
    """What is written of a run beside its state, as JSON can hold it."""
    settings: dict[str, Any] = {name: getattr(options, name) for name in KEPT}
    settings |= {
        "keep": None if options.keep is None else list(task.names),
        "until": None if options.until is None else vars(options.until),
        "seed": task.seed,
        "dtype": str(options.dtype).removeprefix("torch."),
    }
    return {
        "options": settings,
        "model": task.info.model,
        "model_text": task.info.model_text,
        "plan_text": task.info.plan_text,
        "plan_given": options.plan is not None and not fallback,
        "chains": task.schedule.chains,
        "compiled": task.compiled,
        "earlier": task.info.earlier,
        "data": task.plan.data.fingerprint.to_json(),
        "versions": task.info.settings["versions"],
        "fallback": list(fallback),
    }


def check_alike(said: Sequence[Mapping[str, Any]]) -> None:
    """Holds what the processes of a run were given against one another.

    Raises:
        SamplingError: if it differs.
    """
    for k, facts in enumerate(said[1:], 1):
        for what, name in (("data", "data"), ("a model", "model_text"), ("a plan", "plan_text"), ("options", "options"),
                           ("versions", "versions")):  # fmt: skip
            if facts[name] != said[0][name]:
                raise SamplingError(
                    f"process {k} of {len(said)} was given {what} other than process 0; all of them run the same "
                    f"program on the same data. Found {facts[name]!r}, and there {said[0][name]!r}."
                )


def resumed_options(there: Resumed, changed: Mapping[str, Any]) -> Options:
    """Those of the run, with what is to be another. What can't be may be said again.

    Raises:
        SamplingError: for an option that can't change while a run goes on.
    """
    known = dict(there.facts["options"])
    came_to = {**there.facts["looks"]["schedule"], "compile": there.facts["compiled"]}  # where it was left open
    changed = dict(changed)
    for name in [name for name in changed if name not in ANEW]:
        now = _written(name, changed.pop(name))
        if now is not None and now not in [facts[name] for facts in (known, came_to) if name in facts]:
            raise SamplingError(
                f"{name}= can't be another while a run goes on; resume takes {', '.join(ANEW)}. For other settings "
                "start a new run."
            )
    if there.facts["plan_given"] and changed.get("plan") is None:
        raise SamplingError(f"the run in {there.folder} was given a plan=; give resume the same one.")
    dtype = {"float32": torch.float32, "float64": torch.float64}[known.pop("dtype")]
    until = known.pop("until")
    goal = None if until is None else Until(**until)
    return Options(**{**known, "until": goal, "dtype": dtype, "checkpoint": there.folder, **changed})


def continued(task: Task, there: Resumed) -> Task:
    """A task that goes on: what monitors are told has what there was before."""
    seconds = there.facts["seconds"]
    info = replace(
        task.info,
        earlier=there.facts["earlier"],
        done=there.facts["done"],
        spent=seconds["sampling"] + seconds["judging"],
    )
    return replace(task, info=info)


def restore(engine: Engine, there: Resumed, device: torch.device) -> None:
    """Puts an engine where a run was stopped.

    Raises:
        DataError: if the state is none of this engine's.
    """
    try:
        engine.restore({name: x.to(device) for name, x in there.engine.items()})
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, HiertorchError):
            raise
        made = there.facts["versions"].get("hiertorch")
        raise DataError(
            f"the state in {there.folder}, which hiertorch {made} has written, does not fit the engine of its run "
            f"({type(error).__name__}: {error}): begin the run again."
        ) from error


def check_density(task: Task, there: Fit) -> None:
    """Holds the model against what the run has noted of its draws; see `hiertorch.draws.attaching`.

    Raises:
        ModelError: for a model that prints alike and has another density.
    """
    plan = task.plan
    collapsed = None if plan.collapsed is None else plan.collapsed.collapsed
    if off := disagreement(there, plan.target.model, plan.data, plan.structure.reads, collapsed):
        raise ModelError(
            f"{task.info.model} prints as the model of the run and is another: at draws of the run its log density "
            f"differs from what was noted, by up to {off:.3g} beyond a constant. Go on with the model that was begun."
        )


def _written(name: str, value: object) -> object:
    """An option as a state has it."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if name == "keep" and value is not None:
        return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    return value


def check_same(there: Resumed, now: Mapping[str, Any]) -> None:
    """Holds what is to go on against what was stopped.

    Raises:
        DataError: for other data.
        ModelError: for another model or plan.
    """
    before = there.facts
    differences = Fingerprint.from_json(before["data"]).differences(Fingerprint.from_json(now["data"]))
    if differences:
        raise DataError(f"these are not the data of the run in {there.folder}: {'; '.join(differences)}.")
    for what, name in (("model", "model"), ("latents or priors", "model_text"), ("plan", "plan_text")):
        if before[name] != now[name]:
            raise ModelError(
                f"the run in {there.folder} has another {what}:\n{before[name]}\n\nand now it is\n{now[name]}"
            )
    if before["chains"] != now["chains"]:
        raise SamplingError(f"the run in {there.folder} has {before['chains']} chains, and now {now['chains']}.")
    others = [f"{name} {was}, now {now['versions'].get(name)}" for name, was in before["versions"].items()
              if now["versions"].get(name) != was]  # fmt: skip
    if others:
        warn(
            f"the run in {there.folder} was begun with {', '.join(others)}: its draws may differ in their last digits."
        )
