"""Closed forms of log p(y_i | eta_i), for passes over rows that a sampler makes again and again.

Each is, up to terms without eta,

    log p(y_i | eta_i) = linear_i eta_i + g(eta_i; first_i, second_i, chain)

with three numbers a row, in which responses, trials and weights are, and two or more a chain, in which the latents of a
family are. Terms without eta are summed over the rows apart (`RowForm.constants`), over the distinct responses only.

A family names its form (`Family.row_form`); whoever knows the distribution alone takes one from here.
"""

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from hiertorch.errors import ModelError

UNIT, LOGISTIC, EXPONENTIAL, STUDENT, SQUARE, BETWEEN = range(6)
"""Codes of g, by which a compiled pass knows its loop: -log(2 cosh(eta / 2)); -(first + second chain_1)
log(1 + exp(eta + chain_0)); -first exp eta; -second chain_1 log(1 + chain_0 (first - eta)^2);
-second chain_0 (first - eta)^2; -first (log(1 + exp(eta - chain_{k+1})) + log(1 + exp(chain_k - eta))), k = second.
"""

BEYOND = 1e4
"""What stands for a threshold at infinity: exp(-BEYOND) is 0."""

Parameters = Mapping[str, Tensor]
"""Latents of a family by the names of its form, `(chains,)` each."""


class RowForm:
    """log p(y_i | eta_i), times the weight of the row, in numbers of a row and numbers of a chain.

    Args:
        y: the response, `(rows,)`.
        columns: what else a row has, by the names in `columns`, `(rows,)` each; what is left out is 1.
        weights: of the rows, `(rows,)`; None for ones.

    Attributes:
        columns: names of row columns beside y.
        parameters: names of the latents of rows.
        worth: the share of rows down to which adding up the numbers of rows with equal eta pays; 0 where they can't be
            added up.
        code: of g.
        linear, first, second: the numbers of a row, `(rows,)`.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[tuple[str, ...]] = ()
    worth: float = 0.0
    code: int
    linear: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None) -> None:
        if unknown := set(columns) - set(self.columns):
            raise ModelError(f"rows of {type(self).__name__} have the columns {self.columns}, found {sorted(unknown)}.")
        self.weights = torch.ones_like(y) if weights is None else weights

    def chain(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """chain_0, chain_1 and others, `(chains,)` or `()`."""
        zero = self.linear.new_zeros(())
        return zero, zero

    def constants(self, parameters: Parameters) -> Tensor:
        """The sum over all rows of the terms without eta, `(chains,)` or `()`."""
        raise NotImplementedError

    def merged(self, place: Tensor, places: int) -> Self:
        """The form of fewer rows, with numbers added up by place `(rows,)`."""
        new = copy.copy(self)
        new.set_numbers(*(x.new_zeros(places).index_add_(0, place, x) for x in (self.linear, self.first, self.second)))
        return new

    def set_numbers(self, linear: Tensor, first: Tensor, second: Tensor) -> None:
        """Sets the numbers of a row, `(rows,)` each."""
        self.linear, self.first, self.second = linear, first, second

    def curved(self, eta: Tensor, first: Tensor, second: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """The sum of g over the first axis of eta `(n, ..., chains)`, given the numbers of its rows `(n, ..., 1)`."""
        raise NotImplementedError

    def slopes(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """d/d eta of linear eta + g and d^2/d eta^2, at eta `(chains, rows)`, given chain_0 and others, `(chains, 1)`
        or `()`.
        """
        raise NotImplementedError

    def mixed(self, eta: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """d^2 g / d eta d parameter, summed over chains, `(rows, parameters)`, of a form whose parameters shift sites;
        given as for `slopes`.
        """
        raise NotImplementedError


class Logistic(RowForm):
    """y_i eta_i - n_i log(1 + exp eta_i): of Bernoulli and binomial rows, and with n_i = y_i + phi of negative binomial
    ones.
    """

    def merged(self, place: Tensor, places: int) -> Self:
        """With y and n added up."""
        new = copy.copy(self)
        new.linear = self.linear + 0.5 if self.code == UNIT else self.linear
        return super(Logistic, new).merged(place, places)

    def set_numbers(self, linear: Tensor, first: Tensor, second: Tensor) -> None:
        """Rows that all have n = 1 have a shorter form, y - 1/2 and log(2 cosh(eta / 2))."""
        unit = bool((first == 1.0).all()) and not bool(second.any())
        self.code, self.worth = (UNIT, 0.5) if unit else (LOGISTIC, 0.8)  # the latter takes a logarithm of each row
        super().set_numbers(linear - 0.5 if unit else linear, first, second)

    def curved(self, eta: Tensor, first: Tensor, second: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """-(first + second chain_1) log(1 + exp(eta + chain_0)); where n = 1, -|eta| / 2 - log(1 + exp(-|eta|)), with
        one logarithm of the product of all, which is at most 2^n.
        """
        if self.code == LOGISTIC:
            return (torch.nn.functional.logsigmoid(-eta - chain[0]) * (first + second * chain[1])).sum(0)
        away = eta.abs()
        total = away.sum(0).mul_(-0.5)
        return total.sub_(away.neg_().exp_().add_(1.0).prod(0).log_())

    def slopes(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """linear - n p and -n p (1 - p), with n = first + second chain_1 and p = 1 / (1 + exp(-eta - chain_0)); where
        n = 1, linear is less by 1/2, as p is.
        """
        if self.code == UNIT:
            half = 0.5 * (0.5 * eta).tanh()
            return self.linear - half, half.square() - 0.25
        p, n = (eta + chain[0]).sigmoid(), self.first + self.second * chain[1]
        return self.linear - n * p, -n * p * (1.0 - p)


class Bernoulli(Logistic):
    """Of 0 and 1, with log odds eta."""

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        self.set_numbers(self.weights * y, self.weights, torch.zeros_like(y))

    def constants(self, parameters: Parameters) -> Tensor:
        """0."""
        return self.linear.new_zeros(())


class Binomial(Logistic):
    """Successes of n_i trials, column `trials`, with log odds eta."""

    columns = ("trials",)

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        trials = _column(columns, "trials", y)
        self.set_numbers(self.weights * y, self.weights * trials, torch.zeros_like(y))
        ways = (trials + 1.0).lgamma() - (y + 1.0).lgamma() - (trials - y + 1.0).lgamma()
        self._constant = self.weights @ ways

    def constants(self, parameters: Parameters) -> Tensor:
        """log of the binomial coefficients."""
        return self._constant


class NegativeBinomial(Logistic):
    """Of mean exp(eta) and variance m + m^2 / phi: with t = eta - log phi, y_i t_i - (y_i + phi) log(1 + exp t_i)."""

    parameters = ("phi",)

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        self.set_numbers(self.weights * y, self.weights * y, self.weights)
        self._distinct, place = y.unique(return_inverse=True)
        self._weight = torch.zeros_like(self._distinct).index_add_(0, place, self.weights)  # of each distinct response

    def chain(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """-log phi and phi."""
        return -parameters["phi"].log(), parameters["phi"]

    def constants(self, parameters: Parameters) -> Tensor:
        """log(Gamma(y + phi) / Gamma(phi) / y!) - y log phi."""
        phi = parameters["phi"].unsqueeze(-1)  # (chains, 1)
        y = self._distinct
        return ((y + phi).lgamma() - phi.lgamma() - (y + 1.0).lgamma() - y * phi.log()) @ self._weight


class Poisson(RowForm):
    """Of mean exp(eta): y_i eta_i - exp eta_i."""

    worth = 0.8

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        self.code = EXPONENTIAL
        self.set_numbers(self.weights * y, self.weights, torch.zeros_like(y))
        self._constant = -(self.weights @ (y + 1.0).lgamma())

    def constants(self, parameters: Parameters) -> Tensor:
        """-log y!."""
        return self._constant

    def curved(self, eta: Tensor, first: Tensor, second: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """-first exp(eta)."""
        return (eta.exp() * first).sum(0).neg_()

    def slopes(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """linear - first exp(eta), and -first exp(eta)."""
        bend = -self.first * eta.exp()
        return self.linear + bend, bend


class StudentT(RowForm):
    """Of centre eta: -(nu + 1) / 2 log(1 + (y_i - eta_i)^2 / (nu scale^2))."""

    parameters = ("nu", "scale")

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        self.code = STUDENT
        self.set_numbers(torch.zeros_like(y), y, self.weights)
        self._total = self.weights.sum()

    def chain(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """1 / (nu scale^2) and (nu + 1) / 2."""
        nu, scale = parameters["nu"], parameters["scale"]
        return 1.0 / (nu * scale.square()), 0.5 * (nu + 1.0)

    def constants(self, parameters: Parameters) -> Tensor:
        """log(Gamma((nu + 1) / 2) / Gamma(nu / 2) / sqrt(pi nu) / scale)."""
        nu, scale = parameters["nu"], parameters["scale"]
        ratio = (0.5 * (nu + 1.0)).lgamma() - (0.5 * nu).lgamma()
        return self._total * (ratio - 0.5 * (math.pi * nu).log() - scale.log())

    def curved(self, eta: Tensor, first: Tensor, second: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """-second chain_1 log(1 + chain_0 (first - eta)^2)."""
        return (((first - eta).square_() * chain[0]).log1p_() * second).sum(0) * -chain[1]

    def slopes(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """s r / (1 + a) and -s (1 - a) / (1 + a)^2, with r = first - eta, a = chain_0 r^2, and s = 2 second chain_0
        chain_1.
        """
        r, size = self.first - eta, 2.0 * self.second * chain[0] * chain[1]
        a = chain[0] * r.square()
        return size * r / (1.0 + a), size * (a - 1.0) / (1.0 + a).square()


class Normal(RowForm):
    """Of mean eta and sd `scale`, or the column `se` times it: -(y_i - eta_i)^2 / (2 se_i^2 scale^2)."""

    columns = ("se",)
    parameters = ("scale",)

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        self.code = SQUARE
        se = _column(columns, "se", y)
        self.set_numbers(torch.zeros_like(y), y, 0.5 * self.weights / se.square())
        self._total = self.weights.sum()
        self._constant = -(self.weights @ se.log()) - 0.5 * math.log(2.0 * math.pi) * self._total

    def chain(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """1 / scale^2, or 1 where no scale is given."""
        one = self.linear.new_ones(())
        return 1.0 / parameters.get("scale", one).square(), one

    def constants(self, parameters: Parameters) -> Tensor:
        """-log(se scale sqrt(2 pi))."""
        if "scale" not in parameters:
            return self._constant
        return self._constant - self._total * parameters["scale"].log()

    def curved(self, eta: Tensor, first: Tensor, second: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """-second chain_0 (first - eta)^2."""
        return ((first - eta).square_() * second).sum(0) * -chain[0]

    def slopes(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """2 second chain_0 (first - eta) and -2 second chain_0."""
        bend = -2.0 * self.second * chain[0]
        return bend * (eta - self.first), bend.expand_as(eta)


class Between(RowForm):
    """Of the category k of a logistic number around eta, by the thresholds c_k below and c_{k+1} above it, with
    F(h) - F(l) = F(h) (1 - F(l)) (1 - exp(l - h)), of which the last factor has no eta; compiled passes alone know it.
    """

    def __init__(self, y: Tensor, columns: Parameters, weights: Tensor | None = None) -> None:
        super().__init__(y, columns, weights)
        self.code = BETWEEN
        self.set_numbers(torch.zeros_like(y), self.weights, y)

    def chain(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """All thresholds, those at infinity included."""
        inner = list(parameters.values())
        beyond = torch.full_like(inner[0], BEYOND)
        return (-beyond, *inner, beyond)

    def constants(self, parameters: Parameters) -> Tensor:
        """log(1 - exp(c_k - c_{k+1})) of categories between two."""
        cuts = torch.stack(list(parameters.values()), -1)
        number = torch.zeros(cuts.shape[-1] + 1).to(self.first).index_add(0, self.second.long(), self.first)
        return (-torch.expm1(-cuts.diff(dim=-1))).log() @ number[1:-1]

    def slopes(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """q - p and -p (1 - p) - q (1 - q), p = F(eta - c_{k+1}) and q = F(c_k - eta)."""
        p, q = self._beyond(eta, chain)
        return self.first * (q - p), -self.first * (p * (1.0 - p) + q * (1.0 - q))

    def mixed(self, eta: Tensor, chain: tuple[Tensor, ...]) -> Tensor:
        """p (1 - p) with c_{k+1} and q (1 - q) with c_k."""
        p, q = self._beyond(eta, chain)
        both = torch.stack([(q * (1.0 - q)).sum(0), (p * (1.0 - p)).sum(0)], 1) * self.first.unsqueeze(1)
        k = self.second.long().unsqueeze(1)
        found = both.new_zeros(len(both), len(chain)).scatter(1, torch.cat([k, k + 1], 1), both)
        return found[:, 1:-1]

    def _beyond(self, eta: Tensor, chain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        cuts, k = torch.cat([x.expand(len(eta), 1) for x in chain], 1), self.second.long()
        return (eta - cuts[:, k + 1]).sigmoid(), (cuts[:, k] - eta).sigmoid()


class FamilyForm(NamedTuple):
    """What a family says of its rows.

    Attributes:
        kind: the form.
        columns: its row columns, `(rows,)` each.
        offset: what the family adds to eta by itself, such as a log exposure, `(rows,)`; None for nothing.
        latents: parameter of the form -> latent of the family.
    """

    kind: type[RowForm]
    columns: Mapping[str, Tensor] = MappingProxyType({})
    offset: Tensor | None = None
    latents: Mapping[str, str] = MappingProxyType({})


def _column(columns: Parameters, name: str, y: Tensor) -> Tensor:
    return columns[name].to(y) if name in columns else torch.ones_like(y)
