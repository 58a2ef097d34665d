"""E[y_i | x_i, theta^(s)] of any rows, with the effects of groups that were not fitted averaged over.

Of a row whose groups were fitted the mean has their effects. Of any other it is

    E[y | x, population] = int mu(eta_0 + t) Normal(t; 0, z' S z) dt,

with eta_0 the linear predictor at the mean of effects, z' S z its variance by those of new groups, and mu the family's
mean: what a row of a new group has on average over groups. By Gauss-Hermite quadrature, so that intervals have no error
of simulation. For a curved link this is not the mean at effects of 0 ("population"), nor that of one new group, whose
effect is drawn ("sample"). Of several predictors, those of categories, t is a vector with their covariance, and the
quadrature a product of rules, or of more than two predictors a sequence of normal points that are spread evenly.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hiertorch.arguments import check_choice, check_count
from hiertorch.data.newrows import FrameRows
from hiertorch.draws.fit import Fit
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.model.latent import Values
from hiertorch.model.means import expected
from hiertorch.models.design import Designed, family_of
from hiertorch.pooling.variance import roots
from hiertorch.predict.categories import KIND, probabilities
from hiertorch.predict.scene import Setting
from hiertorch.runtime.validating import validation

NEW_GROUPS = ("average", "sample", "population")

KINDS = ("mean", KIND)

NODES = 32
"""Of the quadrature along each of one or two predictors."""

POINTS = 1024
"""Of more predictors."""

LEAST = 1e-9
"""Weight of a node of a product that matters."""

CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How near a mean is to that of the model's likelihood."""

INSTEAD = "take new_groups='sample' or 'population'"


def thinned(fit: Fit, draws: int | None) -> Fit:
    """At least so many draws of all chains together, evenly; None takes all."""
    check_count("draws", draws, none="for all")
    step = 1 if draws is None else max(1, fit.chains * fit.n_draws // draws)
    return fit.taken(draws=slice(None, None, step))


def means(
    fit: Fit, frame: pd.DataFrame, new_groups: str, seed: int | None, kind: str, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """A function of E[y | x] `(n, rows)`, or of probabilities `(n, rows, categories)`, of some draws at a time: all of
    its values, `(chains, draws, *)`.

    Raises:
        DataError: for rows that can't be read.
        ModelError: where averages over groups are not known.
    """
    check_choice("new_groups", new_groups, NEW_GROUPS)
    check_choice("kind", kind, KINDS)
    fitted = fit.fitted
    generator = fit.generator("means", seed, fitted.data.device)
    with torch.no_grad(), validation(False):
        setting = Setting(fitted, fit, FrameRows.read(fitted.data, frame, distinct=True))
        at = torch.arange(fit.chains * fit.n_draws, device=fitted.data.device)
        averaged = _Averaged(setting, kind) if setting.new and new_groups == "average" else None
        found = []
        for part in at.split(setting.per()):
            if averaged is None:
                y = setting.predicted(part, kind, generator, population=new_groups == "population")
            else:
                y = averaged.means(part)
            found.append(function(y))
    return torch.cat(found).unflatten(0, (fit.chains, fit.n_draws))


class _Averaged:
    """Means over the effects of new groups."""

    def __init__(self, setting: Setting, kind: str) -> None:
        self.setting, self.rows, self.kind = setting, setting.rows, kind
        model, family = setting.fitted.model, family_of(setting.fitted.model)
        if not isinstance(model, Designed) or family is None:
            raise ModelError(
                f"averages over groups need a linear predictor and a family, and {type(model).__name__} tells none: "
                f"{INSTEAD}."
            )
        self.model: Designed = model
        self.family: Family = family
        self.names = [name for name in model.latents if setting.plate(name) in setting.new]
        self.checked = False

    def means(self, at: Tensor) -> Tensor:
        """Of some draws, `(n, rows)` or `(n, rows, categories)`."""
        centre = self.model.values(self.setting.values(at, population=True))
        eta = self._eta(centre)
        several = self.family.several
        covariance = torch.zeros_like(eta.unsqueeze(-1) * eta.unsqueeze(-2) if several else eta)
        for name in self.names:
            prior = self.model.prior(name, centre, self.setting.whole)
            if not _is_normal(prior):
                raise ModelError(
                    f"averages over groups need normal effects, and {name!r} has another prior: {INSTEAD}."
                )
            for shift in roots(prior, centre[name]):
                moved = self._moved(at, centre, name, shift) - eta
                covariance += moved.unsqueeze(-1) * moved.unsqueeze(-2) if several else moved.square()
        self.checked = True
        root = _root(covariance) if several else covariance.sqrt()
        total = eta.new_zeros(())
        for node, weight in zip(*_rule(eta.shape[-1] if several else 1), strict=True):
            away = root @ eta.new_tensor(node) if several else root * node[0]
            total = total + weight * self._mean(eta + away, centre)
        return total

    def _moved(self, at: Tensor, centre: Values, name: str, shift: Tensor) -> Tensor:
        """eta where effects of new groups are shifted."""
        given = {name: (centre[name] + shift)[:, self.setting.before(name) :]}
        moved = self.model.values(self.setting.values(at, population=True, given=given))
        eta = self._eta(moved)
        if not self.checked:
            given = {name: (centre[name] - shift)[:, self.setting.before(name) :]}
            back = self._eta(self.model.values(self.setting.values(at, population=True, given=given)))
            straight = self._near(eta + back, 2 * self._eta(centre))
            if not straight or not self._near(self._mean(eta, centre), self._of(moved)):
                raise ModelError(
                    f"averages over groups need a mean that reads effects by one linear predictor alone, and "
                    f"{type(self.model).__name__} reads {name!r} otherwise: {INSTEAD}."
                )
        return eta

    def _near(self, one: Tensor, other: Tensor) -> bool:
        error = (one - other).abs() / (1 + other.abs())
        return bool((error.nan_to_num(0.0) < CLOSE[error.dtype]).all())

    def _eta(self, v: Values) -> Tensor:
        eta = self.model.linear_predictor(v, self.rows)
        if eta is None:
            raise ModelError(f"{type(self.model).__name__} does not tell its linear predictor apart: {INSTEAD}.")
        several = eta.shape[-1:] if self.family.several else ()
        return eta.expand(len(next(iter(v.values()))), self.rows.n_rows, *several)

    def _of(self, v: Values) -> Tensor:
        """As the model itself has it."""
        y = self.model.likelihood(v, self.rows)
        return probabilities(y) if self.kind == KIND else expected(y)

    def _mean(self, eta: Tensor, v: Values) -> Tensor:
        if self.kind == KIND:
            found = probabilities(self.family.distribution(eta, self.model.row_parameters(v, self.rows), self.rows))
            return found.expand(*eta.shape[:2], -1)
        mean = self.family.mean(eta, self.model.row_parameters(v, self.rows), self.rows)
        if mean is None:
            raise ModelError(f"family {self.family.name!r} does not tell its mean.")
        return mean.expand(eta.shape)


def _is_normal(prior: Distribution) -> bool:
    base = prior.base_dist if isinstance(prior, Independent) else prior
    return isinstance(base, Normal | MultivariateNormal)


def _root(covariance: Tensor) -> Tensor:
    """Lower triangles R with R R' = S, `(..., K, K)`, also of those S that are singular."""
    k, eps = covariance.shape[-1], torch.finfo(covariance.dtype).eps
    size = covariance.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(covariance.dtype).tiny / eps)
    eye = torch.eye(k, dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(covariance + (8.0 * k * eps * size)[..., None, None] * eye)


@cache
def _rule(dimensions: int) -> tuple[list[list[float]], list[float]]:
    """Nodes and weights of E[f(z)], z ~ Normal(0, I): nodes of a weight that can't matter are left out."""
    if dimensions > 2:
        points = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=0).draw(POINTS, dtype=torch.float64)
        return torch.special.ndtri(points.clamp(min=0.5 / POINTS**2)).tolist(), [1.0 / POINTS] * POINTS
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    nodes = np.stack(np.meshgrid(*[x] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    weights = np.stack(np.meshgrid(*[w / w.sum()] * dimensions, indexing="ij"), -1).reshape(-1, dimensions).prod(1)
    kept = (weights > LEAST) | (dimensions == 1)
    return nodes[kept].tolist(), (weights[kept] / weights[kept].sum()).tolist()
