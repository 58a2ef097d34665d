"""How a model is sampled on its data: what can be integrated out is, and the moves that serve any model do the rest."""

from collections.abc import Sequence
from functools import partial

import torch

from hiertorch.data.table import Data
from hiertorch.density.structure import Structure, analyse, priors_alone
from hiertorch.errors import ModelError, warn
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.covariances import covariances_of
from hiertorch.gaussian.discovery import collapse as find_collapse
from hiertorch.gaussian.localscales import locals_of
from hiertorch.gaussian.surrogate import Surrogate, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.model.declared import overrides
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.run.engine import EngineMaker, check_engine
from hiertorch.run.plan import MoveSpec, Plan, collapsed_plan, make_plan, whitened_plan
from hiertorch.runtime.validating import validation

MOST_LEFT = 60
"""Dimensions beside what is integrated out up to which a model is collapsed unasked (measured up to 56, the scales and
correlations of ten effects).
"""

MOST_APART = 120
"""The same where none of them are covariances that move given effects (measured up to 103, the scales of 100
coefficients, each of which rows know nearly apart from others).
"""

MOST_FACTORED = 300
"""Effects of crossed plates that are factored for each density of a collapsed model, unasked."""

MOST_PROPOSED = 20
"""Dimensions that a whitened model proposes at once, unasked."""


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
    asked, why, not_whitened = moves.spec if isinstance(moves, Plan) else moves, "", ""
    alone, whitened = _alone(asked, model, "collapsed"), _alone(asked, model, "whitened")
    with torch.no_grad(), validation(False):
        if alone or (moves is None and collapse and not prior_only):
            found = "the likelihood is left out" if prior_only else _collapsed(model, data, reads, asked=alone)
            if isinstance(found, Plan) and not alone and (crossed := _many_crossed(found)):
                structure = analyse(model, data.in_memory(), reads)
                made = _surrogate(structure, asked=False)
                if isinstance(made, Surrogate) and made.crosswise:
                    return whitened_plan(structure, made, crossed)
            if isinstance(found, Plan):
                return found
            if alone:
                raise ModelError(f"the move 'collapsed' is not possible: {found}.")
            why = found
        data = data.in_memory()
        structure = analyse(model, data, reads, prior_only=prior_only)
        if whitened or (moves is None and collapse and not prior_only):
            made = "the likelihood is left out" if prior_only else _surrogate(structure, asked=whitened)
            if isinstance(made, Surrogate):
                return whitened_plan(structure, made, why)
            if whitened:
                raise ModelError(f"the move 'whitened' is not possible: {made}.")
            not_whitened = made
        if isinstance(moves, Plan):
            return moves.on(structure)
        if isinstance(moves, type | partial):
            return Plan(structure, (), maker=moves)
        return make_plan(structure, moves, why, not_whitened)


def _collapsed(model: Model, data: Data, reads: Reads, *, asked: bool) -> Plan | str:
    """The plan with effects and coefficients integrated out, or why there is none; unless it is asked for, few
    dimensions must be left.
    """
    found = find_collapse(model, data, reads)
    if isinstance(found, str):
        return found
    plan = collapsed_plan(priors_alone(found.composed.model, found.composed.data, reads), found)
    assert plan.collapsed is not None
    left, most = plan.collapsed.width, MOST_LEFT if plan.collapsed.covariances else MOST_APART
    if asked or left <= most:
        return plan
    return f"{left} dimensions are left beside what can be integrated out, more than {most}"


def _many_crossed(plan: Plan) -> str:
    """Why a model that can be collapsed is better whitened, in words; "" if it is not."""
    assert plan.collapsed is not None
    grams = plan.collapsed.collapsed.grams
    if grams.n_crossed <= MOST_FACTORED:
        return ""
    return f"{grams.n_crossed:,} effects are crossed with those of {grams.levels[0].plate!r}, and move faster by plate"


def _surrogate(structure: Structure, *, asked: bool) -> Surrogate | str:
    """The Gaussian model that stands for a model, or why there is none; unless it is asked for, few dimensions must be
    left beside it.
    """
    target = structure.target
    for method in ("log_prob", "log_likelihood", "log_prior_term"):
        if overrides(target.model, method):
            return f"the model overrides {method}"
    try:
        found = find_surrogate(target.model, target.data, structure.reads, structure.mixed)
    except NotAffine as reason:
        return str(reason)
    if plates := [plate for plate in found.plates if plate in structure.mixed]:
        return f"groups of {plates[0]!r} are not independent ({structure.mixed[plates[0]]})"
    coordinates = target.space.coordinates
    left = sum(c.size * c.width for name, c in coordinates.items() if name in found.first.rest)
    if left > MOST_PROPOSED and not found.crosswise and not target.data.by_chain:
        found.covariances = covariances_of(found.first.affine, structure.reads, coordinates)
    if not found.crosswise and not target.data.by_chain:
        found.local = locals_of(found.first.affine, structure.reads, coordinates)
    given = {name for one in found.local for name in one.latents}
    proposed = left - sum(one.dimensions for one in found.covariances) - sum(coordinates[n].width for n in given)
    return found if asked or proposed <= MOST_PROPOSED else f"{left} dimensions are left, more than {MOST_PROPOSED}"


def _alone(asked: object, model: Model, wanted: str) -> bool:
    """Whether a user asks for the move that takes all latents, and for no other; a ModelError if not for all, once."""
    if not isinstance(asked, list | tuple) or len(asked) != 1 or not isinstance(asked[0], list | tuple):
        return False
    kind, *rest = asked[0] or ("",)
    if kind != wanted or not rest or not isinstance(rest[0], list | tuple):
        return False
    block, *repeats = rest
    if unknown := [name for name in block if name not in model.latents]:
        known = ", ".join(model.latents)
        raise ModelError(f"move {wanted!r} names {unknown!r}; the model's latents are {known}.")
    if set(block) != set(model.latents) or repeats not in ([], [1]):
        raise ModelError(f"the {wanted} move takes all latents, once: ({wanted!r}, {list(model.latents)!r}).")
    return True
