"""log p(y, all latents) = log p(rest) + log p(y | rest) + log p(effects, coefficients | rest, y), at given values.

The left side is what the user wrote, on all rows; the right side is what a collapsed model samples.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.grams import chunks
from hiertorch.model.latent import Values
from hiertorch.model.model import weighted

if TYPE_CHECKING:
    from hiertorch.gaussian.collapse import Collapsed

__all__ = ["differences"]


def differences(collapsed: "Collapsed", values: Mapping[str, Tensor], chains: int) -> tuple[Tensor, Tensor]:
    """log p(y, all latents) of the model less that of the factorisation, and the former, both `(chains,)`, at values
    `(chains, size, *event)` of all latents; of several data sets chain c has set c mod sets.
    """
    composed, data = collapsed.composed, _repeated(collapsed, chains)
    v = Values({name: values[name] for name in composed.names}, composed.names)
    factorised = collapsed.log_marginal(values) + collapsed.log_conditional(values)
    for name in collapsed.rest:
        factorised = factorised + composed.model.log_prior_term(name, v, composed.data).sum(-1)
    density = composed.model.log_prior(v, composed.data)
    for rows in chunks(data, 4 * chains):
        density = density + weighted(composed.model.log_likelihood(v, rows), rows.weights).sum(-1)
    return density - factorised, density


def _repeated(collapsed: "Collapsed", chains: int) -> Data:
    """The data, with one set for each of so many chains if there are several."""
    data = collapsed.data
    own = [x for x in (data.y, data.weights) if x is not None and x.dim() == 2]
    if not own:
        return data
    at = torch.arange(chains, device=data.device) % len(own[0])
    y, weights = (x if x is None or x.dim() == 1 else x[at] for x in (data.y, data.weights))
    return data._changed(y=y, weights=weights)
