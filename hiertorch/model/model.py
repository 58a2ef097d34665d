"""The base class of every model: named latents, a likelihood, and densities batched over chains."""

from hiertorch.data.table import Data
from hiertorch.markup import shown
from hiertorch.model.checks import inspect
from hiertorch.model.densities import Densities
from hiertorch.runtime.surroundings import at_home


class Model(Densities):
    """p(y, theta) = prod_k p(theta_k | earlier latents) prod_i p(y_i | theta)^w_i.

    Latents are class attributes (`mu = ht.Latent(...)`), or attributes set in `__init__` when their number depends on
    arguments. A subclass inherits them, adds new ones, and replaces one by declaring its name again; the replaced one
    keeps its place in the order, and new latents that stand above it in the subclass go before it, so that its new
    prior may read them.

    A latent's value is `(chains, size, *event)`: `size` is the number of groups of its plate, 1 at the population
    level. A subclass writes `likelihood(v, data)`, which returns a distribution of batch shape `(chains, rows)`; rows
    are independent given the latents. Priors and likelihood only compute, since several threads may call them at once.
    """

    _repr_html_ = shown

    @at_home
    def check(self, data: Data, *, prior_only: bool = False) -> list[str]:
        """Raises a `ModelError` or `DataError` that says what is wrong; returns notes on what is merely odd."""
        return inspect(self, data, prior_only=prior_only)[1]
