"""The linear predictor of rows whose likelihood is not normal.

    eta_i = o_i + sum_k x_ik v_k[group of i],     y_i ~ F(eta_i, phi)

v: latents of which each row reads those of its own groups; phi: what else the likelihood reads. The coefficients are
derivatives of eta, found by differentiating the user's likelihood forwards along one number of all groups at once; and
along one number of one group where rows read several groups of a plate (`hiertorch.gaussian.slots`). Rows that read
effects otherwise, by several predictors or a curved one, have joint sites (`hiertorch.gaussian.jointnumbers`).

What is found here serves proposals alone (`hiertorch.gaussian.surrogate`): a predictor that misses something makes a
sampler slower, never wrong.
"""

import threading
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from math import isinf, prod
from typing import NamedTuple

import torch
from torch import Tensor, distributions
from torch.autograd import forward_ad
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.gaussian.affine import NotAffine, normal_root
from hiertorch.gaussian.edges import check_edges
from hiertorch.gaussian.logarithms import Logarithms
from hiertorch.gaussian.slots import MOST_NUMBERS, MOST_SLOTS, Slots
from hiertorch.model.censoring import uncut
from hiertorch.model.intervals import plain_bounds
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads

AT_ONCE = 4_000_000
"""Rows times numbers along which eta is differentiated at once."""

CLOSE = 1e-6
"""Of the largest eta, by which one may miss its linear form."""

PREDICTORS: dict[type[Distribution], Callable[..., Tensor]] = {
    distributions.Bernoulli: lambda d: d.logits,
    distributions.Binomial: lambda d: d.logits,
    distributions.Geometric: lambda d: d.logits,
    distributions.NegativeBinomial: lambda d: d.logits + d.total_count.log(),
    distributions.Poisson: lambda d: d.rate.log(),
    distributions.Exponential: lambda d: -d.rate.log(),
    distributions.Gamma: lambda d: d.concentration.log() - d.rate.log(),
    distributions.Weibull: lambda d: d.scale.log(),
    distributions.Normal: lambda d: d.loc,
    distributions.StudentT: lambda d: d.loc,
    distributions.Cauchy: lambda d: d.loc,
    distributions.Laplace: lambda d: d.loc,
    distributions.Gumbel: lambda d: d.loc,
    distributions.LogNormal: lambda d: d.loc,
    distributions.Beta: lambda d: d.concentration1.log() - d.concentration0.log(),
}
"""What is linear in latents where a distribution has its usual link."""

ALONE = (
    distributions.Bernoulli,
    distributions.Binomial,
    distributions.Geometric,
    distributions.Poisson,
    distributions.Exponential,
)
"""Those of which nothing else is left that a latent could move."""

LOCATIONS = (
    distributions.Normal,
    distributions.StudentT,
    distributions.Cauchy,
    distributions.Laplace,
    distributions.Gumbel,
)
"""Those of which eta is in units of y."""

_alone = threading.Lock()
"""Held while something is differentiated forwards, of which torch knows one level for all threads."""

Number = tuple[str, int | slice, int]
"""A latent, one group or all, and the flat index of one of its numbers."""

Rows = Callable[[Mapping[str, Tensor]], Tensor]
"""Something of each row, `(chains, rows)`, of values of all latents."""

Moving = Callable[[Mapping[str, Tensor], Data], Tensor]
"""eta of some rows, `(chains, rows)`, of values of all latents."""


def unit(response: Distribution | None, y: Tensor) -> float:
    """The size of differences of eta that matter: 1, or the spread of y where eta is in its units."""
    bare = None if response is None else uncut(response)
    spread = float(y.std(correction=0)) if type(bare) in LOCATIONS else 1.0
    return spread if spread > 0 else 1.0


class Predictor(NamedTuple):
    """eta = offset + sum over latents of their numbers times their columns."""

    offset: Tensor  # (rows,)
    columns: dict[str, Tensor]  # latent -> (rows, numbers); those of which a row reads its own group
    slots: dict[str, Slots]  # latents of which rows read several groups
    others: tuple[str, ...]  # latents with a normal prior that rows read in another way
    shifting: tuple[str, ...] = ()  # latents of the population that shift sites, such as thresholds
    bent: tuple[str, ...] = ()  # those of them with one open end, such as scales of rows that are cut off
    moving: Moving | None = None  # eta itself, where columns depend on other latents; `columns` are those at one place
    rank: int = 0  # directions in which the density of a row moves that has joint sites; `columns` tell shapes alone
    spreads: Mapping[str, Tensor] = {}  # of the numbers that such a row reads, in the prior
    carried: tuple[tuple[int, ...], Tensor] | None = None  # see `hiertorch.gaussian.carriers`, where these are many

    @property
    def learnt(self) -> tuple[str, ...]:
        """Latents whose columns are those of the sites."""
        return (*self.columns, *self.shifting) if self.rank else self.shifting

    @property
    def linear(self) -> tuple[str, ...]:
        """Latents that eta is linear in."""
        return (*self.columns, *self.slots)


def find_predictor(
    model: Model, data: Data, reads: Reads, several: Collection[str] = (), *, shift: bool = True
) -> Predictor:
    """The linear predictor of a likelihood: that of its distribution with the usual link, or else what all derivatives
    of a row's log density are proportional to.

    Args:
        model: whose likelihood it is.
        data: what that is fitted to.
        reads: who reads whom.
        several: plates of which rows may read several groups.
        shift: whether sites may shift with other latents, where they can do without.

    Raises:
        NotAffine: with the reason, if there is none.
    """
    names, effects, normal = read_by_rows(model, reads)
    drawn = {name: x.to(data.dtype) for name, x in reads.values.items()}
    bare = None if reads.response is None else uncut(reads.response)
    natural = next((PREDICTORS[kind] for kind in type(bare).__mro__ if kind in PREDICTORS), None)

    def density(values: Mapping[str, Tensor]) -> Tensor:
        found = model.log_likelihood(Values(dict(values), tuple(model.latents)), data)
        return found.expand(len(next(iter(values.values()))), data.n_rows)

    def by_link(values: Mapping[str, Tensor]) -> Tensor:
        assert natural is not None
        found = natural(uncut(model.likelihood(Values(dict(values), tuple(model.latents)), data)))
        return found.expand(len(next(iter(values.values()))), data.n_rows)

    def is_open(name: str) -> bool:
        """Whether the numbers of a latent are those above one of them, or below."""
        ends = plain_bounds(reads.distributions[name])
        return ends is not None and isinf(ends[0]) != isinf(ends[1])

    def by_density() -> Predictor:
        first = effects or sorted(normal)
        return _by_density(density, drawn, first, candidates, normal, model, data, apart, is_open)

    candidates = [*effects, *(name for name in names if name not in effects)]
    codes = {n: data[plate] for n in effects for plate in [str(model.latents[n].plate)] if plate not in several}
    apart = [name for name in effects if name not in codes]
    if natural is None:
        check_edges(model, data, normal)
        return by_density()
    try:
        found = _by_link(by_link, natural, drawn, effects, candidates, normal, model, data, codes, apart)
        if bare is reads.response or found.moving is not None or not shift:
            return found
        # Where rows are cut off, the place of a site depends on scales and shapes.
        others = (name for name in candidates if name not in normal and name not in found.linear)
        shifting = tuple(name for name in others if model.latents[name].plate is None)
        return found._replace(shifting=shifting, bent=tuple(filter(is_open, shifting)))
    except NotAffine as reason:  # another link, or several predictors
        if isinstance(bare, LOCATIONS):
            raise
        check_edges(model, data, normal)
        try:
            return by_density()
        except NotAffine:
            raise reason from None


def _by_link(
    of_rows: Rows,
    natural: Callable[..., Tensor],
    drawn: Mapping[str, Tensor],
    effects: Sequence[str],
    candidates: Sequence[str],
    normal: set[str],
    model: Model,
    data: Data,
    codes: Mapping[str, Tensor],
    apart: Sequence[str],
) -> Predictor:
    """Columns of what is linear in latents with the usual link of a distribution."""
    base = {name: torch.zeros_like(x[:1]) if name in normal else x[:1] for name, x in drawn.items()}
    nowhere = of_rows(base)
    linear = [name for name in candidates if _is_linear(of_rows, nowhere, base, drawn, name)]
    columns = columns_along(of_rows, base, linear, apart) if linear else {}
    columns = {name: x for name, x in columns.items() if name in effects or bool((x != 0).any())}
    if curved := [name for name in effects if name not in columns]:
        raise NotAffine(f"the predictor of the rows is not linear in {curved[0]!r}")
    if not normal & columns.keys():
        raise NotAffine("the predictor of the rows is linear in no latent with a normal prior")
    there = {name: drawn[name] if name in columns else x.expand_as(drawn[name]) for name, x in base.items()}
    moved = {name: x - base[name] for name, x in there.items()}
    along = torch.stack([_along(moved[name], x, codes.get(name)) for name, x in columns.items()]).sum(0)
    if not _close(of_rows(there), nowhere + along):
        raise NotAffine("the predictor of the rows is not linear in effects and coefficients together")
    zero = sum(_along(base[name], x, codes.get(name)) for name, x in columns.items())
    others = tuple(name for name in candidates if name in normal and name not in columns)
    without = {name: base[name].expand_as(x) if name in columns else x for name, x in drawn.items()}
    offset = (nowhere - zero)[0]
    columns, slots = _split(columns, apart, model, data)
    if _close(of_rows(drawn) - of_rows(without), along):
        return Predictor(offset, columns, slots, others)
    # Where eta does not depend on a latent after all, as on the shape beside the odds of counts, it is held fixed.
    fixed = {name: {**drawn, name: base[name].expand_as(drawn[name])} for name in candidates if name not in normal}
    unread = [name for name, values in fixed.items() if _close(of_rows(values), of_rows(drawn))]
    here = {name: base[name] for name in unread}

    def moving(values: Mapping[str, Tensor], rows: Data) -> Tensor:
        fixed = {n: here[n].expand_as(x) if n in here else x for n, x in values.items()}
        with Logarithms():
            return natural(uncut(model.likelihood(Values(fixed, tuple(model.latents)), rows)))

    return Predictor(offset, columns, slots, (), moving=moving)


def read_by_rows(model: Model, reads: Reads) -> tuple[list[str], list[str], set[str]]:
    """Latents that rows read, those of them that vary over groups, and those with a normal prior.

    Raises:
        NotAffine: if there are none of the latter, or not all of the former are among them.
    """
    names = [name for name in model.latents if name in reads.likelihood]
    normal = {name for name in names if normal_root(reads.distributions[name]) is not None}
    effects = [name for name in names if model.latents[name].plate is not None]
    if odd := [name for name in effects if name not in normal]:
        raise NotAffine(f"rows read {odd[0]!r}, which varies over groups, and whose prior is not normal")
    if not normal:
        raise NotAffine("rows read no latent with a normal prior")
    return names, effects, normal


def _is_linear(of_rows: Rows, zero: Tensor, base: Mapping[str, Tensor], drawn: Mapping[str, Tensor], name: str) -> bool:
    chains = len(drawn[name])
    fixed = {key: x.expand(chains, *x.shape[1:]) for key, x in base.items()}
    half, whole = ({**fixed, name: base[name] + s * (drawn[name] - base[name])} for s in (0.5, 1.0))
    first, second = of_rows(half) - zero, of_rows(whole) - zero
    return _close(2.0 * first, second)


def _along(x: Tensor, columns: Tensor, codes: Tensor | None) -> Tensor:
    """What a latent adds to eta, `(chains, rows)`, given the group of each row, or None where columns are of all."""
    return x.flatten(1) @ columns.mT if codes is None else (x.reshape(*x.shape[:2], -1)[:, codes] * columns).sum(2)


def _split(
    columns: Mapping[str, Tensor], apart: Container[str], model: Model, data: Data
) -> tuple[dict[str, Tensor], dict[str, Slots]]:
    """Columns of latents of which rows read their own group, and slots of the others."""
    own, slots = dict[str, Tensor](), dict[str, Slots]()
    for name, x in columns.items():
        plate = model.latents[name].plate
        if name not in apart or plate is None:
            own[name] = x
            continue
        found = Slots.of(x.unflatten(1, (data.size(plate), -1)))
        if found.number > MOST_SLOTS:
            raise NotAffine(f"rows read {found.number} groups of {plate!r}, more than {MOST_SLOTS}")
        group, weight = found
        if found.number == 1 and bool(((group[:, 0] == data[plate]) | (weight[:, 0] == 0).all(1)).all()):
            own[name] = weight[:, 0]
        else:
            slots[name] = found
    return own, slots


def _by_density(
    terms: Rows,
    drawn: Mapping[str, Tensor],
    effects: Sequence[str],
    candidates: Sequence[str],
    normal: Container[str],
    model: Model,
    data: Data,
    apart: Sequence[str],
    is_open: Callable[[str], bool],
) -> Predictor:
    """Columns as ratios of derivatives of log densities, which are those of eta where a row has one predictor: they are
    the same at all draws from the prior. The largest of a row's effects has the column 1.

    What else rows read shifts sites. A number from 0 on does so only where it takes part in eta of some rows, as the
    gap of two thresholds does: else it is a dispersion or a shape, whose posterior may go on for long, where what it
    does to sites has long ended. docs/decisions.md: Dispersions shift no sites.
    """
    slopes = {name: x.nan_to_num(0.0, 0.0, 0.0) for name, x in slopes_along(terms, drawn, candidates, apart).items()}
    own = torch.cat([slopes[name] for name in effects], 2)  # (places, rows, numbers)
    row = torch.arange(data.n_rows, device=own.device)
    number = own.abs().amax(0).argmax(1)
    reference = own[:, row, number]  # (places, rows)
    place = reference.abs().argmax(0)
    at = reference[place, row]
    columns, others, shifting = {}, list[str](), list[str]()
    for name, slope in slopes.items():
        ratio = torch.where((at != 0).unsqueeze(1), slope[place, row] / torch.where(at == 0, 1.0, at).unsqueeze(1), 0.0)
        gap = (slope - ratio * reference.unsqueeze(2)).abs()
        same = gap <= CLOSE * (slope.abs() + (ratio * reference.unsqueeze(2)).abs() + gap.new_tensor(1e-9))
        if bool(same.all()):
            columns[name] = ratio
        elif name in effects:
            raise NotAffine(f"rows do not read {name!r} by one linear predictor")
        elif name in normal:
            others.append(name)
        if name not in columns and bool((slope != 0).any()):
            somewhere = bool((same.all(0) & (ratio.abs() > CLOSE)).any())
            if somewhere or not is_open(name):
                shifting.append(name)
    columns, slots = _split(columns, apart, model, data)
    return Predictor(data.y.new_zeros(data.n_rows), columns, slots, tuple(others), tuple(shifting))


def columns_along(
    eta: Rows, base: Mapping[str, Tensor], names: Sequence[str], apart: Container[str]
) -> dict[str, Tensor]:
    """What `slopes_along` gives at the one place `(1, size, *event)`, latent -> `(rows, numbers)`."""
    return {name: x[0] for name, x in slopes_along(eta, base, names, apart).items()}


def slopes_along(
    eta: Rows, base: Mapping[str, Tensor], names: Sequence[str], apart: Container[str]
) -> dict[str, Tensor]:
    """d eta / d number, of all groups at once, at places `(places, size, *event)`: latent -> `(places, rows, numbers)`;
    of each group by itself for latents that are taken `apart`: `(places, rows, groups x numbers)`.
    """
    (places, rows), numbers, widths = eta(base).shape, list[Number](), list[int]()
    for name in names:
        every: Sequence[int | slice] = range(base[name].shape[1]) if name in apart else [slice(None)]
        widths.append(len(every) * prod(base[name].shape[2:]))
        if name in apart and rows * widths[-1] > MOST_NUMBERS:
            raise NotAffine(
                f"rows read several groups of {name!r}, and {rows:,} rows times {widths[-1]:,} numbers of these are "
                f"more than {MOST_NUMBERS:,}"
            )
        numbers += [(name, group, j) for group in every for j in range(prod(base[name].shape[2:]))]
    pieces = []
    per = max(1, AT_ONCE // (rows * places))
    for start in range(0, len(numbers), per):
        pieces.append(_derivatives(eta, base, numbers[start : start + per]))
    slopes = torch.cat(pieces).permute(1, 2, 0).split(widths, 2)
    return {name: x.contiguous() for name, x in zip(names, slopes, strict=True)}


def _derivatives(eta: Rows, base: Mapping[str, Tensor], numbers: Sequence[Number]) -> Tensor:
    """`(numbers, places, rows)`."""
    n, places = len(numbers), len(next(iter(base.values())))
    values = {name: x.expand(n, *x.shape).flatten(0, 1).contiguous() for name, x in base.items()}
    along = {name: torch.zeros_like(x) for name, x in values.items()}
    for i, (name, group, j) in enumerate(numbers):
        along[name].view(n, places, along[name].shape[1], -1)[i, :, group, j] = 1.0

    try:  # not torch.func.jvp, which imports the compiler
        with _alone, forward_ad.dual_level():
            here = eta({name: forward_ad.make_dual(x, along[name]) for name, x in values.items()})
            found = forward_ad.unpack_dual(here).tangent
    except Exception as error:  # of the user's code, or of an operation without a forward derivative
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise NotAffine(f"its likelihood can't be differentiated forwards ({why})") from error
    return (torch.zeros_like(here) if found is None else found).unflatten(0, (n, places))


def _close(a: Tensor, b: Tensor) -> bool:
    size = max(float(a.abs().amax()), float(b.abs().amax()), torch.finfo(a.dtype).tiny)
    return bool(((a - b).abs() <= CLOSE * size).all())
