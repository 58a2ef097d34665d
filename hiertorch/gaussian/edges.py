"""Whether rows become impossible within the prior's range: at an edge, behind which their density is 0.

No Gaussian stands for a density with an edge where effects reach it: such as that of y - shift ~ LogNormal, of
y ~ Uniform(eta - s, eta + s), of a rate that is linear in effects. A density that runs out of numbers, as that of
counts does at exp(eta) for eta above 709, has fallen below anything that chains visit long before: that is no edge.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine
from hiertorch.model.latent import Values
from hiertorch.model.model import Model

SOME_ROWS = 300
"""That are looked at."""

PLACES = 12
"""Draws from the prior, and their mirror images, that are looked at."""

BETWEEN = 64
"""Places on the way from where a row is possible to where it is not."""

LOW = -1e8
"""A log density before which nothing is an edge."""


def check_edges(model: Model, data: Data, normal: Collection[str]) -> None:
    """Raises NotAffine if rows have an edge between draws from the prior, or their mirror images.

    Args:
        model: whose likelihood it is.
        data: what that is fitted to.
        normal: latents with a normal prior, which are mirrored.
    """
    every = -(-data.n_rows // SOME_ROWS)
    some = data.take(torch.arange(0, data.n_rows, every, device=data.device))
    generator = torch.Generator(data.device).manual_seed(0)
    drawn = {name: x.to(data.dtype) for name, x in model.sample_prior(data, PLACES, generator).items()}
    both = {name: torch.cat([x, -x if name in normal else x]) for name, x in drawn.items()}

    def terms(values: Mapping[str, Tensor]) -> Tensor:
        found = model.log_likelihood(Values(dict(values), tuple(model.latents)), some)
        return found.expand(len(next(iter(values.values()))), some.n_rows)

    possible = terms(both).isfinite()
    if bool(possible.all()):
        return
    best = int(possible.sum(1).argmax())
    part = torch.linspace(0.0, 1.0, BETWEEN + 1, dtype=data.dtype, device=data.device)
    for place in possible.logical_not().any(1).nonzero().flatten().tolist():
        way = {
            name: x[best] + part.reshape(-1, *[1] * (x.dim() - 1)) * (x[place] - x[best]) for name, x in both.items()
        }
        heights = terms(way)
        leaves = heights[:-1].isfinite() & ~heights[1:].isfinite()
        if bool((leaves & (heights[:-1] > LOW)).any()):
            raise NotAffine("rows are impossible within the range of the prior, and no Gaussian stands for an edge")
