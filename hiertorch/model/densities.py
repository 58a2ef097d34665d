"""The densities of a model, batched over chains, and draws from it."""

from collections.abc import Mapping, MutableMapping

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.counting import draw
from hiertorch.model.declaring import Declaring
from hiertorch.model.drawing import Share, broadcasts, draw_latents, refuse_impossible
from hiertorch.model.latent import Values, chains_of, known, unnoted
from hiertorch.model.support import Condition, density, impossible
from hiertorch.model.tolerance import attempted
from hiertorch.randomness import seeded
from hiertorch.runtime.surroundings import at_home
from hiertorch.runtime.validating import validation


class Densities(Declaring):
    """Prior, likelihood and what follows from them; `ht.Model` is this, with a check of it against data."""

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """p(y_i | theta) as a distribution of batch shape `(chains, rows)`. Every model writes its own."""
        raise ModelError(
            f"{type(self).__name__} has no likelihood: write `def likelihood(self, v, data)` returning a distribution "
            "of batch shape (chains, rows), or sample with prior_only=True."
        )

    def check_columns(self, data: Data) -> None:
        """Raises a DataError for rows that the likelihood can't take, such as a standard error of 0, before anything is
        computed; called with the data of a fit, and with new rows. Ready models ask their family.
        """

    def log_prior_terms(self, v: Mapping[str, Tensor], data: Data | None = None) -> dict[str, Tensor]:
        """log p(theta_k | earlier latents) by latent, each `(chains, size)`, of the constrained values `v`."""
        v = self.values(v)
        return {name: self.log_prior_term(name, v, data) for name in self.latents}

    def log_prior_term(self, name: str, v: Values, data: Data | None = None) -> Tensor:
        """log p(theta_name | earlier latents), `(chains, size)`; -inf where a parameter of the prior is impossible."""
        return impossible(*prior_density(self, name, v, data))

    def log_prior(self, v: Mapping[str, Tensor], data: Data | None = None) -> Tensor:
        """log p(theta) = sum_k log p(theta_k | earlier latents), `(chains,)`, of constrained values."""
        return torch.stack([term.sum(-1) for term in self.log_prior_terms(v, data).values()]).sum(0)

    def log_likelihood(self, v: Mapping[str, Tensor], data: Data) -> Tensor:
        """log p(y_i | theta), `(chains, rows)`, in the data's row order and without the row weights; -inf where a
        parameter of the likelihood is impossible. See Note [Impossible places] in `hiertorch.model.support`.
        """
        return impossible(*row_density(self, self.values(v), data))

    def log_prob(self, v: Mapping[str, Tensor], data: Data) -> Tensor:
        """log p(theta) + sum_i w_i log p(y_i | theta), `(chains,)`, of constrained values: no Jacobian.

        A model may override it outright; then its latents are sampled jointly, since what depends on what is unknown.
        """
        rows = weighted(self.log_likelihood(v, data), data.weights)
        return self.log_prior(v, data) + rows.sum(-1)

    @at_home
    def sample_prior(
        self,
        data: Data,
        chains: int,
        generator: torch.Generator | None = None,
        given: Mapping[str, Tensor] | None = None,
        met: MutableMapping[str, Share] | None = None,
    ) -> Values:
        """theta ~ p(theta): a draw of every latent for each chain, `(chains, size, *event)`; those `given` are kept.

        Latents that make a parameter of a later prior impossible are drawn again; how many do is noted in `met`.
        """
        if isinstance(chains, bool) or not isinstance(chains, int) or chains < 1:
            raise ModelError(
                f"chains is how many draws of every latent to make, a whole number from 1; found {chains!r}."
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ModelError(f"generator is a torch.Generator or None, found {generator!r}.")
        if unknown := [name for name in given or () if name not in self.latents]:
            raise ModelError(f"given names {unknown[0]!r}; the model's latents are {', '.join(self.latents)}.")
        with seeded(generator, data.device), validation(False):
            return Values(draw_latents(self, data, chains, given or {}, met), tuple(self.latents))

    @at_home
    def simulate(self, v: Mapping[str, Tensor], data: Data, generator: torch.Generator | None = None) -> Tensor:
        """y_i ~ p(y_i | theta): a simulated response for each chain of values, `(chains, rows)`, in row order."""
        v = self.values(v)
        with seeded(generator, data.device), validation(False):
            response = attempted(self.likelihood, v, data)
            refuse_impossible(response, chains_of(v), "y can't be simulated")
            return draw(response.expand(torch.Size((chains_of(v), data.n_rows)))).to(data.dtype)

    def values(self, v: Mapping[str, Tensor]) -> Values:
        """A mapping of tensors as what priors and likelihood read."""
        if not isinstance(v, Mapping):
            raise ModelError(
                f"values are tensors by latent, {{'mu': (chains, size, *event)}}, found {type(v).__name__}."
            )
        return v if isinstance(v, Values) else Values(v, tuple(self.latents))


def prior_density(model: Densities, name: str, v: Values, data: Data | None = None) -> tuple[Tensor, list[Condition]]:
    """log p(theta_name | earlier latents), `(chains, size)`, as torch computes it, and conditions on its parameters;
    where one is violated, the density is 0.
    """
    value = unnoted(v).get(name)
    if value is None or value.dim() < 2:
        found = "nothing" if value is None else f"shape {tuple(value.shape)}"
        raise ModelError(f"latent {name!r} needs a value of shape (chains, size, *event), found {found}.")
    prior = model.prior(name, v, data)
    term, conditions = density(prior, value, known(v), proved=model.latents[name].proves(prior))
    shape = value.shape[:2]
    if not broadcasts(term.shape, shape):
        raise ModelError(
            f"the prior of {name!r} gives a log density of shape {tuple(term.shape)} for values "
            f"{tuple(value.shape)}; expected (chains, size) = {tuple(shape)}. For a vector use "
            "Independent(..., 1), or ht.Latent(Normal(0.0, 1.0), event=3)."
        )
    return term.expand(shape), conditions


def row_density(model: Densities, v: Values, data: Data, *, checked: bool = False) -> tuple[Tensor, list[Condition]]:
    """log p(y_i | theta), `(chains, rows)`, as torch computes it, and conditions on its parameters; where one is
    violated, the density is 0. Of `checked` data nobody asks again whether y lies inside the support.
    """
    distribution, wanted = attempted(model.likelihood, v, data), (chains_of(v), data.n_rows)
    terms, found = density(distribution, data.y, known(v), checked=checked)
    if terms.dim() > 2 or not broadcasts(terms.shape[-1:], wanted[-1:]):
        raise ModelError(
            f"the log density of the likelihood, {type(distribution).__name__}, has shape {tuple(terms.shape)}; "
            f"expected (chains, rows) = {wanted}."
        )
    return terms.expand(np.broadcast_shapes(terms.shape, wanted)), found


def weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    """w_i log p_i, where a weight of 0 leaves the row out even if its log density is not finite."""
    return rows if weights is None else torch.where(weights == 0, torch.zeros_like(rows), weights * rows)
