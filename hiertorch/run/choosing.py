"""How a model is sampled on its data: what can be integrated out is, and the moves that serve any model do the rest."""

from collections.abc import Sequence
from functools import partial

import torch

from hiertorch.data.table import Data
from hiertorch.density.structure import analyse, priors_alone
from hiertorch.errors import ModelError, warn
from hiertorch.gaussian.discovery import collapse as find_collapse
from hiertorch.model.checks import inspect
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.run.engine import EngineMaker, check_engine
from hiertorch.run.plan import MoveSpec, Plan, collapsed_plan, make_plan
from hiertorch.runtime.validating import validation

MOST_LEFT = 20
"""Dimensions beside what is integrated out up to which a model is collapsed unasked: with 46 (correlations of nine
effects) one proposal in ten was accepted.
"""


def choose(
    model: Model,
    data: Data,
    moves: Plan | EngineMaker | Sequence[MoveSpec] | None,
    *,
    collapse: bool = True,
    prior_only: bool = False,
) -> Plan:
    """The plan; see `hiertorch.sampling.plan`."""
    reads, notes = inspect(model, data, prior_only=prior_only)
    for note in notes:
        warn(note)
    if isinstance(moves, Plan):
        moves.check_fits(model, data, prior_only=prior_only)
    elif isinstance(moves, type | partial):
        check_engine(moves)
    alone, why = _collapsed_alone(moves.spec if isinstance(moves, Plan) else moves, model), ""
    with torch.no_grad(), validation(False):
        if alone or (moves is None and collapse and not prior_only):
            found = "the likelihood is left out" if prior_only else _collapsed(model, data, reads, asked=alone)
            if isinstance(found, Plan):
                return found
            if alone:
                raise ModelError(f"the move 'collapsed' is not possible: {found}.")
            why = found
        structure = analyse(model, data, reads, prior_only=prior_only)
        if isinstance(moves, Plan):
            return moves.on(structure)
        if isinstance(moves, type | partial):
            return Plan(structure, (), maker=moves)
        return make_plan(structure, moves, why)


def _collapsed(model: Model, data: Data, reads: Reads, *, asked: bool) -> Plan | str:
    """The plan with effects and coefficients integrated out, or why there is none; unless it is asked for, few
    dimensions must be left.
    """
    found = find_collapse(model, data, reads)
    if isinstance(found, str):
        return found
    plan = collapsed_plan(priors_alone(found.composed.model, found.composed.data, reads), found)
    left = plan.steps[0].move.width
    if asked or left <= MOST_LEFT:
        return plan
    return f"{left} dimensions are left beside what can be integrated out, more than {MOST_LEFT}"


def _collapsed_alone(asked: object, model: Model) -> bool:
    """Whether a user asks for the collapsed move, and for no other; a ModelError if not for all latents, once."""
    if not isinstance(asked, list | tuple) or len(asked) != 1 or not isinstance(asked[0], list | tuple):
        return False
    kind, *rest = asked[0] or ("",)
    if kind != "collapsed" or not rest or not isinstance(rest[0], list | tuple):
        return False
    block, *repeats = rest
    if unknown := [name for name in block if name not in model.latents]:
        known = ", ".join(model.latents)
        raise ModelError(f"move 'collapsed' names {unknown!r}; the model's latents are {known}.")
    if set(block) != set(model.latents) or repeats not in ([], [1]):
        raise ModelError(f"the collapsed move takes all latents, once: ('collapsed', {list(model.latents)!r}).")
    return True
