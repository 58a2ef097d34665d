"""The posterior given further rows: by weights where these can be trusted, else by a run from where the chains ended.

See reweighting.py for the weights, and laterrows.py for how new rows join those that were fitted.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from hiertorch.arguments import check_choice, check_flag
from hiertorch.data.frames import Table
from hiertorch.data.newrows import announce
from hiertorch.draws.fit import Fit
from hiertorch.draws.pareto import good_k
from hiertorch.errors import DataError, warn
from hiertorch.fitting import fit
from hiertorch.refits.laterrows import Later
from hiertorch.refits.reweighting import LEAST_ESS, Reweighted, finite, follows, reweighted
from hiertorch.run.options import Options, check_handed_on

NEW_GROUPS = ("sample", "error")

Given = TypeVar("Given", bound=Fit)
"""What is updated: the result is of its kind."""

WITHOUT = {"start": "an update starts from this posterior", "prior_only": "new rows are about the likelihood"}
"""Options of `sample` that no update can have."""


def update(
    posterior: Given,
    frame: Table,
    *,
    weights: str | None = None,
    new_groups: str | None = None,
    distinct: bool = False,
    **settings: Any,
) -> Given:
    """p(theta | y, y_new): see the module, and `hiertorch.posterior.Posterior.update` for arguments and errors.

    `run["updated"]` of the result says how: "rows", "new_groups", "by" ("weights" or "refit"), "pareto_k", "ess" and
    for a refit "why", which is a warning as well. With `draws=` (and `chains=`) among the settings, weights keep as
    many.
    """
    check_handed_on(settings, WITHOUT)
    check_flag("distinct", distinct)
    if new_groups is not None:
        check_choice("new_groups", new_groups, NEW_GROUPS)
    later = Later(posterior, frame, weights, distinct=distinct)
    if later.fitted_before:
        warn(
            f"the {len(later.y)} new rows are the last that were fitted, value by value: they count twice now. An "
            "update takes rows that were not fitted."
        )
    if later.new and new_groups == "error":
        raise DataError(
            f"new_groups='error', and the frame has new groups: {later.news()}. Leave their rows out, or take "
            "new_groups='sample'."
        )
    if new_groups is None:
        announce(later.new, "they are taken into the model", "pass new_groups='sample'")
    kept = None
    if settings.get("draws") is not None:
        kept = int(settings["draws"]) * int(settings.get("chains") or posterior.chains)
    found = reweighted(later, kept=kept, seed=settings.get("seed"))
    if isinstance(found, Reweighted):
        if found.trusted:
            return posterior.of(found.posterior)
        k, most = found.pareto_k, good_k(found.weighed)
        which = f"Pareto k is {k:.2f}, and {most:.2f} the limit"
        if k < most:
            which = f"their effective number is {found.ess:.0f}, and {LEAST_ESS} the least"
        why = f"the draws can't be weighted by {len(later.y)} new rows: {which}"
    else:
        k, why = math.inf, found
    warn(f"{why}; so the model was fitted again, from where the chains were.")
    again = _refitted(posterior, later, settings)
    again.run["updated"] = {**later.numbers(), "by": "refit", "pareto_k": finite(k), "ess": None, "why": why}
    return again


def _refitted(posterior: Given, later: Later, settings: Mapping[str, object]) -> Given:
    """A run on all rows that starts where the chains were, with their tuning, and as long as theirs."""
    model = later.fitted.model
    same = ("chains", "draws", "thin", "keep_all")
    run: dict[str, Any] = {name: value for name, value in posterior.run.items() if name in same}
    kept = [name for name in posterior.names if name in model.latents] if posterior.more else None
    own = {"seed": follows(posterior, None), "progress": False, "dtype": later.data.dtype, "keep": kept}
    options = Options(**{**run, **own, "start": posterior, **settings})
    return fit(model, later.data, options, type(posterior))
