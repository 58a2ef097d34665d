"""A plan that was made and printed before, run: exactly its steps, or none.

Its moves hold the model and the data that it was made of. So a plan of other data, or of another model, is refused. Of
the very same model and data, as they stand on the device, its own moves run, on a copy that leaves the plan as it was.
On another device or in another dtype they are made again by their names, which is the same for all moves of hiertorch,
and not for those of others.
"""

import copy
from dataclasses import replace

import torch

from hiertorch.data.table import Data
from hiertorch.density.structure import Structure
from hiertorch.errors import DataError, ModelError
from hiertorch.model.model import Model
from hiertorch.moves.groupwise import Groupwise
from hiertorch.moves.joint import Joint
from hiertorch.moves.noncentred import NonCentred
from hiertorch.run.plan import Plan, make_plan

__all__ = ["again", "check_fits", "with_reasons"]

ADVICE = "Make it of these, by ht.plan(model, data), or hand over its moves by name, plan=plan.spec."


def check_fits(plan: Plan, model: Model, data: Data, *, prior_only: bool) -> None:
    """Raises a ModelError or DataError if a plan is of another model, of other data, or of the prior alone."""
    target = plan.structure.target
    own = target.model if plan.collapsed is None else plan.collapsed.collapsed.composed.model
    there = target.data if plan.collapsed is None else plan.collapsed.collapsed.data
    if type(own) is not type(model) or str(own) != str(model):
        raise ModelError(
            f"the plan is of another model, {type(own).__name__}, which prints as\n{own}\nand not as\n{model}\n{ADVICE}"
        )
    if found := there.fingerprint.differences(data.fingerprint):
        raise DataError(f"the plan is of other data: {'; '.join(found)}. {ADVICE}")
    if plan.collapsed is None and target.prior_only != prior_only:
        what = "of the prior alone, without the likelihood" if target.prior_only else "of prior and likelihood"
        raise ModelError(f"the plan is {what}, and prior_only={prior_only} asks for another one. {ADVICE}")


def again(plan: Plan, model: Model, device: torch.device, dtype: torch.dtype) -> Plan | None:
    """A copy of the plan with its own moves, ready to run; None if these have to be made again.

    Raises:
        ModelError: if they would have to be, and can't.
    """
    target = plan.structure.target
    if plan.collapsed is not None:
        return None  # there is one way to make it
    if target.model is model and (target.data.device, target.data.dtype) == (device, dtype):
        new = copy.deepcopy(plan, {id(plan.structure.reads): plan.structure.reads})
        new.structure.target.model.to(device, dtype)
        return new
    if not all(type(step.move) in (Groupwise, Joint, NonCentred) for step in plan.steps):
        raise ModelError(
            f"the plan has moves that are not hiertorch's own, of a model and data that are {target.data.dtype} on "
            f"{target.data.device}: they run with that very model object there alone, and not in {dtype} on {device}."
        )
    return None


def with_reasons(plan: Plan, structure: Structure) -> Plan:
    """The moves of a plan made again by name, with the reasons and the note that it has."""
    made = make_plan(structure, plan.spec)
    steps = (replace(new, reason=old.reason) for new, old in zip(made.steps, plan.steps, strict=True))
    return Plan(structure, tuple(steps), plan.note)
