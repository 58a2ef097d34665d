"""Row weights of likelihoods whose rows have a closed form: in one pass that makes nothing but sums.

What `hiertorch.run.rowweights` takes from the user's density, this takes from the form of its distribution
(`hiertorch.families.rowforms`). Whether both are the same is looked up at draws from the prior, row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution

from hiertorch.data.table import Data
from hiertorch.density.rowblocks import Effects
from hiertorch.density.rowpass import RowPass, can_compile
from hiertorch.density.structure import Structure
from hiertorch.families import rowforms
from hiertorch.families.rowforms import Parameters, RowForm
from hiertorch.gaussian.affine import Part
from hiertorch.gaussian.carriedsites import derivatives_of
from hiertorch.gaussian.jointsites import JointMoments
from hiertorch.gaussian.sites import Moments
from hiertorch.gaussian.slots import Slots
from hiertorch.gaussian.surrogate import Sites, Surrogate, column_of
from hiertorch.model import ordinals
from hiertorch.model.latent import Values
from hiertorch.run.rowweights import RowWeights
from hiertorch.run.standing import Standing

CLOSE = 1e-9
"""Relative difference of sums by group, up to which a form is that of the model."""

ROUNDED = 1e-14
"""Relative size of an offset that is nothing but rounding."""

Parts = Mapping[str, Callable[..., Tensor]]


class Form(NamedTuple):
    """The closed form of a distribution: what it needs of rows, and of chains, as functions of the distribution."""

    kind: type[RowForm]
    columns: Parts
    parameters: Parts


FORMS: dict[type[Distribution], Form] = {
    distributions.Bernoulli: Form(rowforms.Bernoulli, {}, {}),
    distributions.Binomial: Form(rowforms.Binomial, {"trials": lambda d: d.total_count}, {}),
    distributions.Poisson: Form(rowforms.Poisson, {}, {}),
    distributions.NegativeBinomial: Form(rowforms.NegativeBinomial, {}, {"phi": lambda d: d.total_count}),
    distributions.StudentT: Form(rowforms.StudentT, {}, {"nu": lambda d: d.df, "scale": lambda d: d.scale}),
    distributions.Normal: Form(rowforms.Normal, {}, {"scale": lambda d: d.scale}),
}
"""Distribution -> its form."""


def has_form(response: Distribution | None) -> bool:
    """Whether the rows of a distribution have a closed form, so that no pass over them is compiled by torch."""
    return type(response) in FORMS


def form_of(response: Distribution | None, surrogate: Surrogate) -> Form | None:
    """The form of a distribution, or of one with thresholds, by which sites shift, where these are one latent."""
    learnt = surrogate.predictor.learnt
    if type(response) is not ordinals.Cumulative:
        return None if response is None or learnt else FORMS.get(type(response))
    widths = [surrogate.data[column_of(name)].shape[1] for name in surrogate.predictor.shifting]
    shifting = len(learnt) == 1 and widths == [response.categories - 1]
    if response.link != "logit" or not shifting or not can_compile(response.eta.device):
        return None

    def threshold(k: int) -> Callable[[ordinals.Cumulative], Tensor]:
        return lambda d: d.cuts[..., k]

    return Form(rowforms.Between, {}, {f"cut{k}": threshold(k) for k in range(response.categories - 1)})


class ClosedWeights:
    """lw by group of the finest plate, `(groups, chains)`, from theta, the root and effects.

    Where data sets have row weights of their own, rows of a group that have the same weight in every set are a cell.
    Sums are taken by cell, and added up by group with the weights that cells have for each chain.

    Args:
        form: of the rows.
        structure: of the model on its data.
        surrogate: knows eta.
        standing: what theta means.
    """

    def __init__(self, form: Form, structure: Structure, surrogate: Surrogate, standing: Standing) -> None:
        self.form, self.standing, self.composed = form, standing, surrogate.first.affine.composed
        self.model, data, affine = structure.target.model, surrogate.data, surrogate.first.affine
        self.eta, self.learnt = surrogate.model.eta, surrogate.predictor.learnt
        grams = surrogate.first.grams
        mean, designs = self.composed.design(affine.anchor, data)
        held = affine.held_columns(data)
        fixed = torch.cat([*([designs[None]] if grams.population is not None else []), held])
        levels, crossed = (
            [
                Effects(x.contiguous(), group, p.size)
                for p in parts
                for group, x in _slots(affine.slots, p, designs, data)
            ]
            for parts in (grams.levels, grams.crossed)
        )
        slots = {plate: own.number for plate, own in affine.slots.items()}
        self.crossed = [(part.width, part.size, slots.get(str(part.plate), 1)) for part in grams.crossed]
        self.witness = data.take(torch.zeros(1, dtype=torch.long, device=data.device))
        anchored = affine.coefficients(affine.anchor, 1)[:, 0] @ held
        whole = self.model.likelihood(self.composed.zeros(affine.anchor, 1), data)
        columns = {name: part(whole).expand(1, data.n_rows)[0] for name, part in form.columns.items()}
        one = torch.zeros(data.n_rows, dtype=torch.long, device=data.device)
        group = data[str(grams.levels[0].plate)] if grams.levels else one
        weights, number = structure.target.data.weights, grams.levels[0].size if grams.levels else 1
        self.cells: tuple[Tensor, Tensor, int] | None = None  # the group of each, its weights, and how many groups
        self.constants: list[Callable[[Parameters], Tensor]] = []  # of each data set
        if surrogate.weights is not None:
            own = torch.cat([group.unsqueeze(0).to(mean), surrogate.weights])
            found, group = torch.unique(own, dim=1, return_inverse=True)
            self.cells = found[0].long(), found[1:].mT, number
            number, weights = found.shape[1], None
            y = structure.target.data.y
            self.constants = [form.kind(y, columns, w).constants for w in surrogate.weights]
        offset = mean - anchored
        still = bool((offset.abs() <= ROUNDED * (1.0 + mean.abs().amax())).all())  # 0 up to rounding
        self.rows = RowPass(
            form.kind, structure.target.data.y, columns, None if still else offset, fixed.mT.contiguous(), levels,
            crossed, group, number, weights,
        )  # fmt: skip
        self.constants = self.constants or [self.rows.constants]
        self.data, self.every = data, form.kind(structure.target.data.y, columns, weights)

    def set_sites(self, sites: Sites) -> None:
        """Takes sites, in the order of the data."""
        shares: tuple[Tensor, ...] = ()
        if self.learnt:
            around = torch.nn.functional.pad(-sites.shifts[self.learnt[0]], (1, 1))  # and of those at infinity
            k = self.every.second.long().unsqueeze(1)
            shares = around.gather(1, k)[:, 0], around.gather(1, k + 1)[:, 0]
        self.rows.sites(sites.z, sites.w, shares)

    def parameters(self, position: Tensor) -> Tensor:
        """What rows take from theta `(n, d)`, in as few calls of the model as there are: parameters of the form, and
        the sum of the terms without eta, `(parameters + 1, n)`.
        """
        n = len(position)
        found = self._of_form(self.composed.zeros(self.standing.constrained(position), n), n)
        sets = len(self.constants)
        each = [of({name: x[d::sets] for name, x in found.items()}) for d, of in enumerate(self.constants)]
        constant = torch.stack([x.expand(n // sets) for x in each], 1).flatten()
        return torch.stack([*found.values(), constant])

    def _of_form(self, values: Values, number: int) -> dict[str, Tensor]:
        """Parameters of the form, `(number,)` each, of values of all latents."""
        if not self.form.parameters:
            return {}
        response = self.model.likelihood(values, self.witness)
        return {name: part(response).expand(number, 1)[:, 0] for name, part in self.form.parameters.items()}

    def derivatives(self, values: Mapping[str, Tensor]) -> Moments:
        """What `hiertorch.gaussian.sites.RowDerivatives` gives, in closed form, of values `(chains, size, *event)` of
        all latents; not of data sets with row weights of their own.
        """
        v = Values(dict(values), tuple(values))
        eta = self.eta(v, self.data)
        rest = self.composed.zeros({name: values[name] for name in self.standing.rest}, len(eta))
        chain = self.every.chain({name: x.unsqueeze(1) for name, x in self._of_form(rest, len(eta)).items()})
        first, bend = self.every.slopes(eta, chain)
        means = {name: values[name].flatten(1).sum(0) for name in self.learnt}
        mixed = {name: self.every.mixed(eta, chain) for name in self.learnt}
        finite = first.isfinite() & bend.isfinite()
        first, bend = torch.where(finite, first, 0.0), torch.where(finite, bend, 0.0)
        weight = torch.tensor(float(len(eta)), dtype=eta.dtype, device="cpu")
        return Moments(len(eta), weight, eta.sum(0), first.sum(0), -bend.sum(0), means, mixed)

    def __call__(self, parameters: Tensor, tail: Tensor, effects: Sequence[Tensor]) -> Tensor:
        """The sums; terms of the rows that theta alone decides stand with the first group."""
        found = self.rows.weights(*self._read(parameters, tail, effects))
        if self.cells is not None:
            of, weights, number = self.cells
            each = weights.repeat(1, found.shape[1] // weights.shape[1])
            found = torch.where(each == 0.0, 0.0, found * each)
            found = found.new_zeros(number, found.shape[1]).index_add_(0, of, found)
        found[0] += parameters[-1]
        return found

    def chain(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """chain_0, chain_1 and others of the form, and the terms that theta alone decides."""
        own = dict(zip(self.form.parameters, parameters, strict=False))
        return *self.rows.form.chain(own), parameters[-1]

    def by_crossed(self, k: int, parameters: Tensor, tail: Tensor, effects: Sequence[Tensor]) -> Tensor:
        """The sums by the groups of a crossed plate, the k-th, `(groups, chains)`, without terms of theta alone."""
        return self.rows.by(self.rows.crossed[k]).weights(*self._read(parameters, tail, effects))

    def _read(
        self, parameters: Tensor, tail: Tensor, effects: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor], dict[str, Tensor]]:
        """What a pass over the rows takes."""
        at, crossed = 0, []
        for width, size, slots in self.crossed:
            crossed += [tail[at : at + width * size].unflatten(0, (width, size))] * slots
            at += width * size
        own = dict(zip(self.form.parameters, parameters, strict=False))  # the last is no parameter
        return tail[at:], effects, crossed, own


def _slots(
    slots: Mapping[str, Slots], part: Part, designs: Mapping[str | None, Tensor], data: Data
) -> list[tuple[Tensor, Tensor]]:
    """Groups of a plate that rows read, `(rows,)`, and their columns `(rows, width)`, slot by slot."""
    plate = str(part.plate)
    if plate not in slots:
        return [(data[plate], designs[plate].mT)]
    group, weight = slots[plate]
    return list(zip(group.unbind(1), weight.unbind(1), strict=True))


def closed_weights(
    structure: Structure, surrogate: Surrogate, standing: Standing, weigh: RowWeights
) -> ClosedWeights | None:
    """The closed form of a model's rows, if there is one, and it is theirs."""
    response = structure.reads.response
    form = form_of(response, surrogate)
    if form is None or surrogate.own or surrogate.predictor.moving is not None:
        return None
    ones = torch.ones_like(surrogate.data.y)
    number = len(form.parameters)
    shifts = {name: _shifts(structure.target.data.y, number) for name in surrogate.predictor.learnt}
    sites = Sites(0.0 * ones, ones, shifts)
    weigh.set_sites(sites)
    drawn = {name: x.to(ones) for name, x in structure.reads.values.items()}
    other = {name: x if name in standing.rest else x.roll(1, 0) for name, x in drawn.items()}
    own = [weigh(values) for values in (drawn, other)]
    try:
        found = ClosedWeights(form, structure, surrogate, standing)
        found.set_sites(sites)
        given = [
            found(found.parameters(standing.position(values)), *standing.apart(surrogate.first, values))
            for values in (drawn, other)
        ]
    except (RuntimeError, IndexError, ValueError):  # such as parameters that differ from row to row
        return None
    return found if _same_moves(own, given) and _same(own[0].sum(0), given[0].sum(0), own[0].abs().sum(0)) else None


def _shifts(y: Tensor, thresholds: int) -> Tensor:
    """Columns that hang on sites, `(rows, thresholds)`: a quarter of the one below a row, half of the one above."""
    k = y.long().unsqueeze(1)
    found = y.new_zeros(len(y), thresholds + 2).scatter(1, k, -0.25).scatter(1, k + 1, -0.5)
    return found[:, 1:-1]


def row_derivatives(
    closed: ClosedWeights | None, terms: Callable[[Mapping[str, Tensor]], Tensor], surrogate: Surrogate
) -> Callable[[Mapping[str, Tensor]], Moments | JointMoments]:
    """What sites are made from: in closed form if there is one, else as differences of the user's own density, of which
    `terms` are those of rows.
    """
    return derivatives_of(terms, surrogate) if closed is None or surrogate.weights is not None else closed.derivatives


def _same_moves(own: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Whether sums by group change alike where effects alone do; terms without eta stand elsewhere in both."""
    return _same(own[1] - own[0], given[1] - given[0], own[1].abs() + own[0].abs())


def _same(own: Tensor, given: Tensor, size: Tensor) -> bool:
    seen = own.isfinite() & (size < torch.finfo(torch.float32).max)
    return bool(seen.any(-1).all()) and bool((((own - given).abs() <= CLOSE * (1.0 + size)) | ~seen).all())
