"""Whether a model is the one that draws were made from, by its log density there: its code shows in no print.

    log p(latents, y) of the model less what the run has noted of its draws is the same number at all of them.

A run notes the density on unconstrained space; of a collapsed run it is that of what was not integrated out.

docs/decisions.md: A model is known by its density.
"""

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.density.structure import analyse, priors_alone
from hiertorch.draws.fit import Fit
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.runtime.validating import validation

DRAWS = 8
LIMIT, ROUNDING = {torch.float64: 1e-3, torch.float32: 0.1}, {torch.float64: 1e-7, torch.float32: 1e-5}
"""A difference counts from LIMIT plus ROUNDING times the log density on; another model differs by about 1."""


def disagreement(posterior: Fit, model: Model, data: Data, reads: Reads, collapsed: Collapsed | None) -> float:
    """By how much log densities at some draws differ beyond a constant; 0 if that is rounding, or can't be told.

    Args:
        posterior: whose draws and noted densities they are.
        model: on the device and in the dtype of the draws, as are
        data: the rows.
        reads: what it reads of them.
        collapsed: the same with effects and coefficients integrated out, if the run's density is that of the rest.
    """
    names = model.latents if collapsed is None else collapsed.rest
    held = {**posterior.more, **posterior.draws}
    if posterior.run.get("collapsed") is not (collapsed is not None):  # it is not known, or not what was noted
        return 0.0
    several = any(x is not None and x.dim() > 1 for x in (data.y, data.weights))
    if several or "updated" in posterior.run or not names or not all(name in held for name in names):
        return 0.0  # densities of parts of the rows, or of other rows too, have constants of their own
    at = torch.linspace(0, posterior.chains * posterior.n_draws - 1, DRAWS, dtype=torch.float64).long()
    values = {name: held[name].flatten(0, 1)[at.to(data.device)] for name in names}
    noted = posterior.stats.log_density.flatten()[at.to(posterior.stats.log_density.device)].to(data.device)
    with torch.no_grad(), validation(False):
        if collapsed is None:
            target = analyse(model, data, reads, prior_only=bool(posterior.run.get("prior_only"))).target
            found = target.state(target.space.unconstrain(values)).log_density()
        else:
            found = _of_the_rest(collapsed, reads, values)
    gap = (found - noted).double()
    off = float((gap - gap.median()).abs().nan_to_num(torch.inf).max())
    dtype = posterior.stats.log_density.dtype
    return off if off > LIMIT[dtype] + ROUNDING[dtype] * float(noted.abs().max()) else 0.0


def _of_the_rest(collapsed: Collapsed, reads: Reads, values: dict[str, Tensor]) -> Tensor:
    """log p(rest | y) up to a constant, on unconstrained space: `(n,)`."""
    target = priors_alone(collapsed.composed.model, collapsed.composed.data, reads).target
    values = {name: x.to(collapsed.grams.packed) for name, x in values.items()}
    free = target.space.unconstrain(values)
    terms = [target.prior_term(name, free[name], values).sum(-1) for name in values]
    return torch.stack([collapsed.log_marginal(values), *terms]).sum(0)
