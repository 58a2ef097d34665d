"""The numbers that rows read which have joint sites (`hiertorch.gaussian.jointsites`), and which rows those are."""

from collections.abc import Collection, Mapping, Sequence
from math import log10, prod

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.carriers import MOST, find_carriers
from hiertorch.gaussian.edges import check_edges
from hiertorch.gaussian.predictor import ALONE, PREDICTORS, Predictor, read_by_rows, slopes_along
from hiertorch.model.censoring import uncut
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads

CLOSE = 1e-6
"""Of the largest slope, up to which slopes lie along one line, or in fewer directions."""

SOME_ROWS = 300
"""Of which slopes of the density itself are looked at."""

PLACES = 12
"""Draws from the prior at which directions are counted."""

MOST_NUMBERS = 24
"""That a row may read by whatever function, since the number of second derivatives grows with its square; more of which
a row has linear predictors are carried by a few (`hiertorch.gaussian.carriers`).
"""

MOST_SLOPES = 50_000_000
"""Of all rows at all places, which are looked at then."""

NEAR, FAR = 0.01, 0.3
"""Places then, from near 0 to a part of the way to draws from the prior: so that no row is sure of its response in all.
"""


def find_joint(model: Model, data: Data, reads: Reads, several: Collection[str] = ()) -> Predictor:
    """The numbers that rows read, where these do not form one linear predictor, and in how many directions a row's
    density moves with those that have a normal prior: the rank of its slopes at draws from the prior.

    Args:
        model: whose likelihood it is.
        data: what that is fitted to.
        reads: who reads whom.
        several: plates of which rows may read several groups.

    Raises:
        NotAffine: with the reason, if effects are not normal, or not a row's own, or a row reads too many numbers.
    """
    names, effects, normal = read_by_rows(model, reads)
    widths = {name: prod(reads.values[name].shape[2:]) for name in names}
    if not effects or (total := sum(widths.values())) > MOST:
        raise NotAffine(f"rows read no effects, or more than {MOST} numbers each")
    many = total > MOST_NUMBERS
    if many and (len(normal) < len(names) or data.n_rows * PLACES * total > MOST_SLOPES):
        raise NotAffine(f"rows read more than {MOST_NUMBERS} numbers each, not all of them with normal priors")
    if plates := [str(model.latents[name].plate) for name in effects if model.latents[name].plate in several]:
        raise NotAffine(f"rows read several groups of {plates[0]!r}")
    check_edges(model, data, normal)
    moving = [name for name in names if name in normal]
    generator = torch.Generator(data.device).manual_seed(0)
    drawn = {name: x.to(data.dtype) for name, x in model.sample_prior(data, PLACES, generator).items()}
    slopes = _slopes(model, data, drawn, moving)
    largest = torch.where(slopes.isfinite(), slopes.abs(), 0.0).amax((0, 1))
    slopes = slopes / torch.where(largest > 0, largest, 1.0)
    length = slopes.square().sum(2, keepdim=True).sqrt()
    known = length.isfinite() & (length > 0)
    rank = torch.linalg.matrix_rank(torch.where(known, slopes / length, 0.0).transpose(0, 1), rtol=CLOSE)
    columns = {name: data.y.new_zeros(data.n_rows, widths[name]) for name in moving}
    shifting = tuple(name for name in names if name not in normal)
    numbers = {name: drawn[name].reshape(-1, widths[name]) for name in (*moving, *shifting)}
    spreads = {name: x.std(0).nan_to_num(1.0, 1.0, 1.0).clamp(min=CLOSE) for name, x in numbers.items()}
    nothing, most = data.y.new_zeros(data.n_rows), max(1, int(rank.amax()))
    carried = None
    if many:
        share = torch.logspace(log10(NEAR), log10(FAR), PLACES, dtype=data.dtype, device=data.device)
        near = {n: share.view(-1, *[1] * (x.dim() - 1)) * x if n in normal else x for n, x in drawn.items()}
        carried = find_carriers(_slopes(model, data, near, moving, every=1))
        most = max(1, len(carried[0]))
    return Predictor(nothing, columns, {}, (), shifting, rank=most, spreads=spreads, carried=carried)


def check_whole(model: Model, data: Data, reads: Reads, predictor: Predictor) -> None:
    """Raises where rows read effects otherwise than by the predictor of their distribution, such as in its scale: the
    slopes of their densities then lie along other lines than its columns. What can't be differentiated is not looked
    at, nor is what moves with other latents.
    """
    names = [name for name in predictor.columns if model.latents[name].plate is not None]
    bare = None if reads.response is None else uncut(reads.response)
    if not names or type(bare) not in PREDICTORS or type(bare) in ALONE or predictor.moving is not None:
        return
    try:
        slopes = _slopes(model, data, {name: x.to(data.dtype) for name, x in reads.values.items()}, names)
    except NotAffine:
        return
    line = torch.cat([predictor.columns[name][:: _every(data)] for name in names], 1)
    length = line.square().sum(1, keepdim=True).clamp(min=torch.finfo(line.dtype).tiny)
    across = slopes - (slopes * line).sum(2, keepdim=True) / length * line
    known = slopes.isfinite()
    gap = torch.where(known, across, 0.0).abs() > CLOSE * torch.where(known, slopes, 0.0).abs().amax(2, keepdim=True)
    if bool((gap & known).any()):
        raise NotAffine("rows read effects in more ways than by one linear predictor")


def _every(data: Data) -> int:
    """Rows from one that is looked at to the next."""
    return -(-data.n_rows // SOME_ROWS)


def _slopes(
    model: Model, data: Data, drawn: Mapping[str, Tensor], names: Sequence[str], every: int | None = None
) -> Tensor:
    """Of some rows' log densities at some places, `(places, rows, numbers)`."""
    some = data.take(torch.arange(0, data.n_rows, every or _every(data), device=data.device))

    def terms(values: Mapping[str, Tensor]) -> Tensor:
        found = model.log_likelihood(Values(dict(values), tuple(model.latents)), some)
        return found.expand(len(next(iter(values.values()))), some.n_rows)

    return torch.cat([*slopes_along(terms, drawn, names, ()).values()], 2)
