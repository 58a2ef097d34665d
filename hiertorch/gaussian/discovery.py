"""Whether a model is conditionally Gaussian: probed, summed up, and held against its own density at random places.

    log p(y, all latents) = log p(rest) + log p(y | rest) + log p(effects, coefficients | rest, y)

The left side is what the user wrote, on all rows; the right side is what a collapsed model samples. What does not hold
is not used, and the reason is given.
"""

import copy
from collections.abc import Collection, Mapping
from math import lcm

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.columns import chunks
from hiertorch.gaussian.probing import find
from hiertorch.gaussian.several import sets_of
from hiertorch.model.densities import weighted
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.runtime.validating import validation

CLOSE = 1e-8
"""Of the log density, by which its factorisation may differ."""

MANY_ROWS = 100_000
"""Above which the two are compared at two places instead of four."""


def collapse(model: Model, data: Data, reads: Reads, kept: Collection[str] = ()) -> Collapsed | str:
    """The model with effects and coefficients integrated out, but for latents that are to be kept; or the reason why it
    can't be.
    """
    if data.dtype != torch.float64:
        model, data = copy.deepcopy(model).double(), data.to(dtype=torch.float64)
    try:
        with torch.no_grad(), validation(False):
            own = sets_of(data)
            sets = [
                data.of_chains(d % own) for d in range(lcm(own, *(latent.turns for latent in model.latents.values())))
            ]
            found = Collapsed(find(model, sets[0], reads, kept), data, sets)
            _verify(found)
    except NotAffine as reason:
        return str(reason)
    except (ModelError, torch.linalg.LinAlgError) as error:  # of the model's own code, at values far out
        return f"the model can't be computed where it was probed ({type(error).__name__}: {error})"
    return found


def _verify(found: Collapsed) -> None:
    """Holds log p(y, linear, rest) of the model against what was found, at random places and on all rows."""
    composed, affine = found.composed, found.affine
    generator = torch.Generator(composed.data.device).manual_seed(2)
    chains = found.sets if found.sets > 1 else 2 if found.data.n_rows > MANY_ROWS else 4
    places = found.possible(affine.probes)
    rest = {name: x[places[torch.arange(chains, device=x.device) % len(places)]] for name, x in affine.probes.items()}
    noise = torch.randn(found.n_noise, chains, generator=generator, dtype=torch.float64, device=composed.data.device)
    values = {**rest, **found.draw(rest, noise)}
    gap, density = differences(found, values, chains)
    gap = gap.abs() / density.abs().clamp(min=1.0)
    if not bool((gap <= CLOSE).all()):
        raise NotAffine(f"the factorisation misses the model's log density by a relative {float(gap.max()):.1e}")


def differences(collapsed: Collapsed, values: Mapping[str, Tensor], chains: int) -> tuple[Tensor, Tensor]:
    """log p(y, all latents) of the model less that of the factorisation, and the former, both `(chains,)`, at values
    `(chains, size, *event)` of all latents; of several data sets chain c has set c mod sets.
    """
    composed, data = collapsed.composed, _repeated(collapsed, chains)
    v = Values({name: values[name] for name in composed.names}, composed.names)
    factorised = collapsed.log_both(values)
    for name in collapsed.rest:
        factorised = factorised + composed.model.log_prior_term(name, v, composed.data).sum(-1)
    density = composed.model.log_prior(v, composed.data)
    for rows in chunks(data, 4 * chains):
        density = density + weighted(composed.model.log_likelihood(v, rows), rows.weights).sum(-1)
    return density - factorised, density


def _repeated(collapsed: Collapsed, chains: int) -> Data:
    """The data, with one set for each of so many chains if there are several."""
    data = collapsed.data
    own = data.by_chain
    return data.of_chains(torch.arange(chains, device=data.device) % own) if own else data
