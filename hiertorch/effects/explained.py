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
from torch.distributions import Categorical, Distribution

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
    if isinstance(fit.fitted.response, Categorical):
        raise ModelError(
            "R^2 is the share of a variance, and categories without order have none: criterion() says how well they "
            "are predicted."
        )
    look.hold()
    grouped = any(latent.plate is not None for latent in model.latents.values())
    names = ["conditional", "marginal"] if grouped else ["conditional"]
    # Made at once: small results between large ones that come and go would keep the memory of these from being reused.
    found = torch.empty(look.number, len(names), dtype=torch.float64, device=data.device)
    start = 0
    with torch.no_grad(), validation(False):
        for v, rows in look.at(torch.arange(data.n_rows, device=data.device)):
            y = model.likelihood(v, rows)
            shape = (len(next(iter(v.values()))), rows.n_rows)
            own = found[start : start + shape[0]]
            start += shape[0]
            own[:, 0] = expected(y).expand(shape).double().var(-1, correction=0)
            total = own[:, 0] + _variance(y).expand(shape).double().mean(-1)
            if grouped:
                population = {name: x for name, x in v.items() if model.latents[name].plate is None}
                alone = model.likelihood(with_effects(model, rows, population), rows)
                own[:, 1] = expected(alone).expand(shape).double().var(-1, correction=0)
            own /= total.unsqueeze(-1)
    draws = found.unflatten(0, (look.chains, -1))
    columns: Mapping[str, Tensor] = summaries.moments(draws, ci_prob)
    return pd.DataFrame({name: x.cpu().numpy() for name, x in columns.items()}, index=names)


def _variance(y: Distribution) -> Tensor:
    try:
        return y.variance
    except NotImplementedError as error:
        raise ModelError(f"R^2 needs the variance of the rows, and {type(y).__name__} tells none.") from error
