"""A Gaussian model that stands for one whose likelihood is not normal.

    log f(y_i | eta_i) ~ const - w_i (z_i - eta_i)^2 / 2

A row's *site* is (z_i, w_i); where rows have several predictors, or a curved one, those of the same groups have one
together, in several directions, each of them a row of the surrogate (`hiertorch.gaussian.jointsites`). Once sites are
chosen, the model with the responses z and the weights w in place of the likelihood is conditionally Gaussian, and all
of `hiertorch.gaussian.collapse` serves it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from hiertorch import wording
from hiertorch.data.table import Data
from hiertorch.density.rows import cells
from hiertorch.gaussian.affine import Composed, NotAffine, Part
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.covariances import MOVED, Covariance
from hiertorch.gaussian.discovery import collapse
from hiertorch.gaussian.jointnumbers import check_whole, find_joint
from hiertorch.gaussian.localscales import Local
from hiertorch.gaussian.predictor import Predictor, find_predictor, unit
from hiertorch.gaussian.several import sets_of
from hiertorch.gaussian.slots import slots_of, with_slots
from hiertorch.model.latent import Values
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads

MANY_CROSSED = 60
"""Crossed effects from which on they move plate by plate: of 30 it does not pay, of 200 it does (measured)."""

MOST_PRODUCTS = 20_000_000
"""Numbers that products of coefficients' columns by group may be, for that."""

Found = TypeVar("Found")

OFFSET = "offset of the predictor"
"""The column of the data that holds it."""


def column_of(name: str) -> str:
    """The column of the data that holds what a latent is multiplied with."""
    return f"{name} in the predictor"


class Sites(NamedTuple):
    """What stands for the rows.

    Attributes:
        z: responses, `(rows,)`, or `(sets, rows)` where data sets have responses of their own; of joint sites of each
            direction of each cell, `(cells x directions,)`.
        w: weights, likewise; of rows of weight 1 where data sets have row weights of their own.
        shifts: latent -> its columns that hang on sites, likewise by `numbers`: what its numbers take from eta, for as
            thresholds move, so do sites; of joint sites all columns.
    """

    z: Tensor
    w: Tensor
    shifts: Mapping[str, Tensor]


class SurrogateModel(Model):
    """A model with its priors as they are, and Normal(eta, 1) rows.

    Args:
        model: what it stands for.
        data: what that is fitted to, which its priors may read.
        predictor: eta.
    """

    def __init__(self, model: Model, data: Data, predictor: Predictor) -> None:
        super().__init__()
        self.stands_for = model
        self.__dict__["fitted"] = data
        self.read, self.moving = (*predictor.columns, *predictor.shifting), predictor.moving
        self.slots = tuple(predictor.slots)
        for name, latent in model.latents.items():
            setattr(self, name, latent)

    def prior(self, name: str, v: Values, data: Data | None = None) -> Distribution:
        """That of the model, on its own response, by which it may be scaled."""
        return self.stands_for.prior(name, v, self.__dict__["fitted"])

    def likelihood(self, v: Values, data: Data) -> Distribution:
        """Normal(eta, 1); weights of the rows are those of the sites."""
        return Normal(self.eta(v, data), torch.ones((), dtype=data.dtype, device=data.device))

    def eta(self, v: Values, data: Data) -> Tensor:
        """`(chains, rows)`."""
        if self.moving is not None:
            return self.moving(v, data)
        eta = data[OFFSET].unsqueeze(0)
        for name in self.read:
            x, plate = v[name].reshape(*v[name].shape[:2], -1), self.latents[name].plate
            columns = data[column_of(name)]
            eta = eta + (x[:, 0] @ columns.mT if plate is None else (x[:, data[plate]] * columns).sum(2))
        for name in self.slots:
            eta = eta + slots_of(data, name).read(v[name])
        return eta

    def numbers(self, v: Values, data: Data) -> Tensor:
        """All numbers that each row reads, `(chains, rows, numbers)`."""
        found = []
        for name in self.read:
            x, plate = v[name].reshape(*v[name].shape[:2], -1), self.latents[name].plate
            found.append(x.expand(-1, data.n_rows, -1) if plate is None else x[:, data[plate]])
        return torch.cat(found, 2)


class ComposedOnce(Composed):
    """Of a surrogate with the same columns for all sites: what they are at one value of the rest, computed once.

    Args:
        like: whose model and parts these are.
        data: what priors read.
        anchor: that value; the object itself is known again, as the data's columns are.
        known: what has been found, for all sites.
    """

    def __init__(
        self, like: Composed, data: Data, anchor: Mapping[str, Tensor], known: dict[str, tuple[Tensor, object]]
    ) -> None:
        super().__init__(like.model, data, like.parts, like.means)
        self._anchor, self._known = anchor, known

    def design(self, rest: Mapping[str, Tensor], data: Data) -> tuple[Tensor, dict[str | None, Tensor]]:
        """See `Composed.design`."""
        return self._once("design", lambda: super(ComposedOnce, self).design(rest, data), rest, data)

    def slopes(self, rest: Mapping[str, Tensor], numbers: Sequence[tuple[str, int]], rows: Data) -> Tensor:
        """See `Composed.slopes`."""
        what = f"slopes in {list(numbers)}"
        return self._once(what, lambda: super(ComposedOnce, self).slopes(rest, numbers, rows), rest, rows)

    def scale(self, rest: Mapping[str, Tensor], data: Data, chains: int) -> Tensor:
        """See `Composed.scale`."""
        return self._once(f"scale {chains}", lambda: super(ComposedOnce, self).scale(rest, data, chains), rest, data)

    def _once(self, what: str, find: Callable[[], Found], rest: Mapping[str, Tensor], rows: Data) -> Found:
        if rest is not self._anchor:
            return find()
        if what not in self._known:
            self._known[what] = rows[OFFSET], find()
        whose, found = self._known[what]
        return cast(Found, found) if whose is rows[OFFSET] else find()  # of other rows, or these in another order


class Cells(NamedTuple):
    """Rows that read the same effects, and have one joint site.

    Attributes:
        of_row: the cell of each row, `(rows,)`.
        rows: one row of each.
        directions: in which a cell's site is Gaussian.
    """

    of_row: Tensor
    rows: Data
    directions: int

    @classmethod
    def of(cls, data: Data, plates: Iterable[str | None], predictor: Predictor) -> "Cells":
        """Those of some plates."""
        codes = [data.codes[plate].cpu().numpy() for plate in dict.fromkeys(plates) if plate is not None]
        of_row, first = cells(codes, data.n_rows)
        numbers = sum(x.shape[1] for x in predictor.columns.values())
        directions = min(numbers, predictor.rank * int(np.bincount(of_row).max()))
        place = torch.from_numpy(of_row).to(data.device)
        return cls(place, data.take(torch.from_numpy(first).to(data.device)), directions)


class Surrogate:
    """The Gaussian model that stands for another one, for any sites; see the module.

    Attributes:
        model: with normal rows.
        data: its rows, with the columns of the predictor: those of the model, or the directions of cells.
        sets: of data, of which chain c has set c mod sets (`hiertorch.gaussian.several`).
        own: whether each has a response of its own, and so sites.
        weights: of rows, `(sets, rows)`; None if no set has its own.
        cells: of joint sites; None without.
        unit: size of differences of eta that matter.
        zero: the site 0 in all rows, of the weight 1 / unit^2, and columns of 0 that hang on sites.
        first: with these sites.
        covariances: of effects, which are moved given these; none where the rest has few dimensions.
        local: numbers that stand before coefficients, which are moved given these.

    Args:
        model: whose likelihood is not normal.
        data: what it is fitted to.
        reads: who reads whom in it.
        predictor: of its rows.

    Raises:
        NotAffine: with the reason, if there is none.
    """

    def __init__(self, model: Model, data: Data, reads: Reads, predictor: Predictor) -> None:
        self.predictor, self.cells, self._known = predictor, None, dict[str, tuple[Tensor, object]]()
        self.covariances: tuple[Covariance, ...] = ()
        self.local: tuple[Local, ...] = ()
        self.sets, self.own, self.weights, one = sets_of(data), data.y.dim() == 2, None, data.of_chains(0)
        if data.weights is not None and data.weights.dim() == 2:
            self.weights = data.weights[: self.sets]
        if self.own and self.predictor.shifting:
            raise NotAffine("chains have responses of their own, and sites shift with other latents")
        columns = {OFFSET: self.predictor.offset} | {column_of(n): x for n, x in self.predictor.columns.items()}
        if predictor.rank:
            self.cells = Cells.of(data, [model.latents[name].plate for name in predictor.columns], predictor)
            first = torch.arange(self.cells.rows.n_rows, device=data.device).repeat_interleave(self.cells.directions)
            data = self.cells.rows.take(first)
            columns = {OFFSET: data.y.new_zeros(data.n_rows)}
        ones = torch.ones(data.n_rows, dtype=data.dtype, device=data.device)
        widths = {name: prod(reads.values[name].shape[2:]) for name in self.predictor.learnt}
        columns |= {column_of(name): ones.unsqueeze(1).expand(-1, width) for name, width in widths.items()}  # any
        self.model = SurrogateModel(model, one, self.predictor)
        self.data = with_slots(data.with_columns(columns), self.predictor.slots)
        response = Normal(torch.zeros_like(ones), ones)
        seen = replace(reads, likelihood=frozenset((*self.model.read, *self.model.slots)), response=response)
        self.unit = unit(reads.response, one.y)
        weights = ones / self.unit**2
        found = collapse(
            self.model, self.data.replace(y=torch.zeros_like(ones), weights=weights), seen, self.predictor.others
        )
        if isinstance(found, str):
            raise NotAffine(found)
        self.first = found
        still = {name: ones.new_zeros(data.n_rows, width) for name, width in widths.items()}
        self.zero = Sites(torch.zeros_like(ones), weights, still)
        self.data = self.data.with_columns({column_of(name): x for name, x in still.items()})
        if still:
            self.first = self._given(self.zero, [self.zero[:2]])
        if data.by_chain and self._many_crossed:
            raise NotAffine("chains have data of their own, and many effects are crossed")

    @property
    def members(self) -> list[tuple[str, ...]]:
        """Latents that move together: the rest with coefficients and few crossed effects, then effects of each of
        `plates`.
        """
        found = self.first
        grouped = [tuple(part.events) for part in self._parts]
        inside = {name for names in grouped for name in names}
        given = tuple(dict.fromkeys(name for one in self.covariances for name in one.latents))
        before = tuple(dict.fromkeys(name for one in self.local for name in one.latents))
        rest = (name for name in found.rest if name not in (*given, *before))
        return [
            (*rest, *(name for name in found.linear if name not in inside)),
            *grouped,
            *([given, given] if given else []),
            *([before] if before else []),
        ]

    @property
    def crosswise(self) -> bool:
        """Whether so many effects are crossed that they move plate by plate (`hiertorch.gaussian.crosswise`)."""
        return not self.data.by_chain and self._many_crossed

    @property
    def _many_crossed(self) -> bool:
        grams = self.first.grams
        width = grams.population.width if grams.population is not None else 0
        products = (width * sum(part.width for part in grams.levels)) ** 2 * sum(part.size for part in grams.levels)
        crossed = len(grams.levels) == 1 and not self.first.affine.slots  # of which groups are independent
        return grams.n_crossed >= MANY_CROSSED and crossed and products <= MOST_PRODUCTS

    @property
    def _parts(self) -> list[Part]:
        grams = self.first.grams
        return [*grams.levels, *(grams.crossed if self.crosswise else ())]

    @property
    def plates(self) -> list[str]:
        """Whose groups are decided one by one."""
        return [str(part.plate) for part in self._parts]

    @property
    def passes(self) -> list[int]:
        """Over the rows, for each of `members`: crossed effects need sums by their own plate before and after, and in
        the end sums by the finest one.
        """
        levels = len(self.first.grams.levels)
        found = [1] * (1 + levels) + [2] * (len(self._parts) - levels)
        found = [*found[:-1], 3] if self.crosswise else found
        return [*found, *([2 * MOVED, 0] if self.covariances else []), *([0] if self.local else [])]

    @property
    def why(self) -> list[str]:
        """Reasons, in words, for each of `members`."""
        levels, parts = self.first.grams.levels, self._parts
        first = "a Gaussian surrogate of the rows says where they are"
        if self.cells is not None:
            first = first.replace("the rows", "what rows say of all effects and coefficients together")
        first += f"; effects of {wording.listed([str(part.plate) for part in parts])} move along" if parts else ""
        if slots := self.first.affine.slots:
            first += f"; rows read several groups of {wording.listed(slots)}, whose effects depend on each other"
        inside = "groups are independent in the coordinates in which the surrogate is standard normal"
        across = "so many crossed effects move plate by plate, each near where the surrogate has it given all others"
        given = (
            [
                "effect by effect, each integrated out of the surrogate; rows decide",
                "sums of squares of effects say all of their scales and correlations",
            ]
            if self.covariances
            else []
        )
        given += ["coefficients say all of what stands before them"] if self.local else []
        return [first, *[inside] * len(levels), *[across] * (len(parts) - len(levels)), *given]

    def alike(self, level: float) -> Sites:
        """The same site in all rows, of a level of eta in its unit; columns that hang on sites are 0."""
        return self.zero._replace(z=self.zero.z + level * self.unit)

    def misfit(self, sites: Sites, values: Mapping[str, Tensor]) -> Tensor:
        """sum of w (z - eta)^2 / 2 at values `(chains, size, *event)` of all latents, `(chains,)`, of one data set."""
        data = self.data.with_columns({column_of(name): x for name, x in sites.shifts.items()})
        eta = self.model.eta(Values(dict(values), tuple(values)), data)
        return 0.5 * (sites.w * (sites.z - eta).square()).sum(1)

    def given(self, sites: Sites) -> Collapsed:
        """The Gaussian model with these sites; a row's site counts in each data set as the row itself does."""
        if self.sets == 1 and self.weights is None and sites is self.zero:
            return self.first
        if self.sets == 1:
            return self._given(sites, [(sites.z, sites.w if self.weights is None else self.weights[0] * sites.w)])
        w = sites.w if self.weights is None else self.weights * sites.w
        return self._given(sites, list(zip(*(x.expand(self.sets, -1) for x in (sites.z, w)), strict=True)))

    def _given(self, sites: Sites, each: Sequence[tuple[Tensor, Tensor]]) -> Collapsed:
        """With the response and the weights of each data set; coordinates are those of their means."""
        affine = self.first.affine
        data = self.data.with_columns({column_of(name): x for name, x in sites.shifts.items()})
        sets = [data.replace(y=z, weights=w) for z, w in each]
        middle = sets[0]
        if len(sets) > 1:
            middle = data.replace(
                y=torch.stack([z for z, _ in each]).mean(0), weights=sum(w for _, w in each) / len(sets)
            )
        if sites.shifts:
            composed = Composed(affine.composed.model, middle, affine.composed.parts, affine.composed.means)
        else:
            composed = ComposedOnce(affine.composed, middle, affine.anchor, self._known)
        return Collapsed(replace(affine, composed=composed), middle, sets, reduces=not self.crosswise)


def find_surrogate(model: Model, data: Data, reads: Reads, several: Collection[str] = ()) -> Surrogate:
    """The Gaussian model that stands for another one: by one linear predictor of each row, or else by joint sites.

    Args:
        model: whose likelihood is not normal.
        data: what it is fitted to.
        reads: who reads whom in it.
        several: plates of which rows may read several groups.

    Raises:
        NotAffine: with the reason, if there is none.
    """
    if data.dtype != torch.float64:
        raise NotAffine("the data are in single precision")
    if any(latent.turns > 1 for latent in model.latents.values()):
        raise NotAffine("chains have priors of their own")
    try:
        predictor = find_predictor(model, data.of_chains(0), reads, several, shift=data.y.dim() == 1)
        check_whole(model, data.of_chains(0), reads, predictor)
        return Surrogate(model, data, reads, predictor)
    except NotAffine as reason:
        if data.by_chain:  # which joint sites do not serve
            raise
        try:
            return Surrogate(model, data, reads, find_joint(model, data, reads, several))
        except NotAffine:
            raise reason from None
