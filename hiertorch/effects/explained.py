"""R^2 of each draw: the share of the variance of y that its predictions have.

    R2_s = V_i(E[y_i | theta_s]) / (V_i(E[y_i | theta_s]) + mean_i Var(y_i | theta_s))

over the rows i (Gelman, Goodrich, Gabry & Vehtari 2019, The American Statistician 73, section 3, with the modelled
variance of the residuals). "conditional" has the effects of the groups; "marginal" has predictions with effects at the
mean of their prior above, and the same sum below, so that the two differ by what groups explain (Nakagawa & Schielzeth
2013).
"""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.arguments import check_probability
from hiertorch.draws import summaries
from hiertorch.draws.fit import Fit
from hiertorch.draws.pointwise import DRAWS, Pointwise
from hiertorch.errors import ModelError
from hiertorch.model.declared import overrides
from hiertorch.model.means import expected
from hiertorch.pooling.variance import with_effects
from hiertorch.runtime.validating import validation


def r2(fit: Fit, ci_prob: float = summaries.CI_PROB) -> pd.DataFrame:
    """See `hiertorch.posterior.Posterior.r2`."""
    check_probability(ci_prob)
    look = Pointwise(fit, DRAWS)
    model, data = look.model, look.data
    if overrides(model, "log_likelihood"):
        raise ModelError("R^2 needs a likelihood that tells its mean and variance; the model writes log_likelihood.")
    look.hold()
    grouped = any(latent.plate is not None for latent in model.latents.values())
    parts: dict[str, list[Tensor]] = {"conditional": [], "marginal": []}
    with torch.no_grad(), validation(False):
        for v, rows in look.at(torch.arange(data.n_rows, device=data.device)):
            y = model.likelihood(v, rows)
            shape = (len(next(iter(v.values()))), rows.n_rows)
            explained = expected(y).expand(shape).double().var(-1, correction=0)
            total = explained + _variance(y).expand(shape).double().mean(-1)
            parts["conditional"].append(explained / total)
            if grouped:
                population = {name: x for name, x in v.items() if model.latents[name].plate is None}
                alone = model.likelihood(with_effects(model, rows, population), rows)
                parts["marginal"].append(expected(alone).expand(shape).double().var(-1, correction=0) / total)
    draws = {name: torch.cat(each).unflatten(0, (look.chains, -1)) for name, each in parts.items() if each}
    columns: Mapping[str, Tensor] = summaries.moments(torch.stack(list(draws.values()), -1), ci_prob)
    return pd.DataFrame({name: x.cpu().numpy() for name, x in columns.items()}, index=list(draws))


def _variance(y: Distribution) -> Tensor:
    try:
        return y.variance
    except NotImplementedError as error:
        raise ModelError(f"R^2 needs the variance of the rows, and {type(y).__name__} tells none.") from error
