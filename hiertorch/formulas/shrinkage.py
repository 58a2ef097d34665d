"""Priors of many coefficients of which few are large, that learn how large: the regularised horseshoe and R2D2.

With s_k the scale of a column (`hiertorch.formulas.priors.column_scales`), s the spread of the linear predictor that
the response tells, and sigma the family's scale sigma_y where that is in the predictor's unit, else s:

    horseshoe:  beta_k ~ Normal(0, t_k / s_k),  1 / t_k^2 = 1 / c^2 + 1 / (tau lambda_k)^2,
                lambda_k ~ HalfCauchy(1),  tau ~ HalfCauchy(scale sigma),  c^2 ~ InverseGamma(d / 2, d (slab s)^2 / 2)

(Piironen & Vehtari 2017, eq. 2.8), and

    R2D2:       beta_k ~ Normal(0, t_k / s_k),  t_k^2 = sigma^2 phi_k R2 / (1 - R2),
                R2 ~ Beta(mean precision, (1 - mean) precision),  phi ~ Dirichlet(concentration, ..., concentration)

(Zhang, Naughton, Bondell & Reich 2022). They are those of brms where response and columns have sd 1.
"""

import ast
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution, HalfCauchy, InverseGamma

from hiertorch import wording
from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.formulas.priors import Following
from hiertorch.model.copies import prior_text
from hiertorch.model.distributions import HalfStudentT
from hiertorch.model.latent import Latent, Values
from hiertorch.models.entries import SHRINKING

ELSEWHERE = {
    "scale_global": "scale",
    "scale_slab": "slab",
    "df_slab": "slab_df",
    "mean_R2": "mean",
    "prec_R2": "precision",
    "cons_D2": "concentration",
}
"""Argument of brms -> its name here."""


class Written(ABC):
    """A prior that reads other latents, which can be written as code."""

    @abstractmethod
    def __call__(self, v: Values, data: Data) -> Distribution:
        """Given the latents before it."""

    @abstractmethod
    def code(self, data: Data) -> str:
        """The same as a function `lambda v: ...`, with the numbers of these data."""


@dataclass(frozen=True, kw_only=True)
class Shrinkage(ABC):
    """A prior of all coefficients of a predictor together.

    Attributes:
        name: by which text calls it.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            most = 1.0 if name == "mean" else math.inf
            if not number or not 0 < value < most:
                wanted = "a number between 0 and 1" if name == "mean" else "a positive number"
                raise ModelError(f"{name}= of {self.name} is {wanted}; found {value!r}.")

    def __str__(self) -> str:
        said = [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self)]
        return f"{self.name}({', '.join(said)})"

    @abstractmethod
    def latents(self, beta: str, scope: "Scope", labels: Sequence[str]) -> dict[str, tuple[Latent, str]]:
        """What it declares before the coefficients: name -> latent, and its prior for print."""

    @abstractmethod
    def formula(self, beta: str, scope: "Scope") -> str:
        """The prior of the coefficients for print."""

    @abstractmethod
    def roots(self, beta: str, v: Values, unit: Tensor, take: Tensor | None) -> Tensor:
        """t_k, `(chains, 1, entries)`, with sigma `(chains, 1)` or `()`, and the latent of each entry, or all."""

    @abstractmethod
    def code(self, beta: str, unit: str, take: str) -> str:
        """The same as code."""


@dataclass(frozen=True, kw_only=True)
class Horseshoe(Shrinkage):
    """beta_k ~ Normal(0, t_k / sd(x_k)),  1 / t_k^2 = 1 / c^2 + 1 / (tau lambda_k)^2,  lambda_k ~ HalfStudentT(df, 1),
    tau ~ HalfCauchy(scale sigma_y),  c^2 ~ InverseGamma(slab_df / 2, slab_df (slab s)^2 / 2), s the response's spread.

    Coefficients are near 0, or as large as the slab lets them be. `priors={"beta": ht.Horseshoe(scale=0.1)}`, or as
    text, `"horseshoe(scale=0.1)"`.

    Args:
        scale: of tau: with K columns of which p count, n rows, p / (K - p) / sqrt(n) (Piironen & Vehtari 2017, 3.3).
        slab: how large coefficients that count are, in spreads of the response.
        df: of lambda; 1 is the half-Cauchy.
        slab_df: of c^2.

    Raises:
        ModelError: for what is not positive.

    Example:
        >>> import hiertorch as ht
        >>> frame = {"y": [1.0, 2.0, 4.0, 3.0], "x": [0.0, 1.0, 2.0, 3.0], "z": [1.0, 0.0, 0.0, 2.0]}
        >>> model, data = ht.formula("y ~ x + z", frame, priors={"beta": ht.Horseshoe(scale=0.1)})
        >>> list(model.latents)
        ['mu', 'sigma_y', 'tau_beta', 'slab_beta', 'lambda_beta', 'beta']
    """

    name = "horseshoe"
    scale: float = 1.0
    slab: float = 2.0
    df: float = 1.0
    slab_df: float = 4.0

    def latents(self, beta: str, scope: "Scope", labels: Sequence[str]) -> dict[str, tuple[Latent, str]]:
        """tau, c^2 and lambda."""
        half = self.slab_df / 2
        local = HalfCauchy(1.0) if self.df == 1 else HalfStudentT(self.df, 1.0)
        scale, slab = _product(self.scale, scope.text), _product(self.slab, scope.spread)
        return {
            f"tau_{beta}": (Latent(_Global(scope, self.scale)), f"HalfCauchy({scale})"),
            f"slab_{beta}": (
                Latent(_Slab(scope, half, self.slab)),
                f"InverseGamma({half:g}, {half:g} ({slab})^2)",
            ),
            f"lambda_{beta}": (Latent(local, event=len(labels), labels=list(labels)), prior_text(local)),
        }

    def formula(self, beta: str, scope: "Scope") -> str:
        """With the latents' names."""
        return f"Normal(0, t / sd(x)), 1 / t^2 = 1 / slab_{beta} + 1 / (tau_{beta} lambda_{beta})^2"

    def roots(self, beta: str, v: Values, unit: Tensor, take: Tensor | None) -> Tensor:
        """The sd of the slab, where tau lambda is much larger."""
        local = v[f"lambda_{beta}"] if take is None else v[f"lambda_{beta}"][..., take]
        wide = v[f"tau_{beta}"].unsqueeze(-1) * local
        return (1 / v[f"slab_{beta}"].unsqueeze(-1) + wide.pow(-2)).rsqrt()

    def code(self, beta: str, unit: str, take: str) -> str:
        """Of `roots`."""
        wide = f"(v[{f'tau_{beta}'!r}].unsqueeze(-1) * v[{f'lambda_{beta}'!r}]{take})"
        return f"(1 / v[{f'slab_{beta}'!r}].unsqueeze(-1) + {wide}.pow(-2)).rsqrt()"


@dataclass(frozen=True, kw_only=True)
class R2D2(Shrinkage):
    """beta_k ~ Normal(0, t_k / sd(x_k)),  t_k^2 = sigma_y^2 phi_k R2 / (1 - R2),  R2 ~ Beta(mean precision, (1 - mean)
    precision),  phi ~ Dirichlet(concentration, ..., concentration).

    R2 is the part of the variance that columns explain, if they are independent. `priors={"beta": ht.R2D2(mean=0.3)}`,
    or as text, `"R2D2(mean=0.3)"`.

    Args:
        mean: of R2.
        precision: of R2; 2 with mean 0.5 is uniform.
        concentration: of the shares phi; below 1 few columns explain most.

    Raises:
        ModelError: for what is not positive, or a mean of 1 and more.

    Example:
        >>> import hiertorch as ht
        >>> frame = {"y": [1.0, 2.0, 4.0, 3.0], "x": [0.0, 1.0, 2.0, 3.0], "z": [1.0, 0.0, 0.0, 2.0]}
        >>> model, data = ht.formula("y ~ x + z", frame, priors={"beta": ht.R2D2(mean=0.3)})
        >>> list(model.latents)
        ['mu', 'sigma_y', 'r2_beta', 'phi_beta', 'beta']
    """

    name = "R2D2"
    mean: float = 0.5
    precision: float = 2.0
    concentration: float = 0.5

    def latents(self, beta: str, scope: "Scope", labels: Sequence[str]) -> dict[str, tuple[Latent, str]]:
        """R2 and phi."""
        if len(labels) < 2:
            raise ModelError(
                f"R2D2 shares what {beta!r} explains among two coefficients or more, and here is {len(labels)} "
                f"({wording.listed(labels)}): give a prior such as Normal(0, 1), or a horseshoe."
            )
        first, second = (
            torch.tensor(share * self.precision, dtype=torch.float64) for share in (self.mean, 1 - self.mean)
        )
        part, shares = Beta(first, second), torch.full((len(labels),), self.concentration, dtype=torch.float64)
        return {
            f"r2_{beta}": (Latent(part), f"Beta({float(first):g}, {float(second):g})"),
            f"phi_{beta}": (
                Latent(Dirichlet(shares), labels=list(labels)),
                f"Dirichlet({self.concentration:g}, ..., {self.concentration:g})",
            ),
        }

    def formula(self, beta: str, scope: "Scope") -> str:
        """With the latents' names."""
        sigma = "" if scope.text == "1" else f"{scope.text} "
        return f"Normal(0, t / sd(x)), t = {sigma}sqrt(phi_{beta} r2_{beta} / (1 - r2_{beta}))"

    def roots(self, beta: str, v: Values, unit: Tensor, take: Tensor | None) -> Tensor:
        """Their squares sum to sigma^2 R2 / (1 - R2)."""
        shares = v[f"phi_{beta}"] if take is None else v[f"phi_{beta}"][..., take]
        part = v[f"r2_{beta}"]
        return (unit * (part / (1 - part)).sqrt()).unsqueeze(-1) * shares.sqrt()

    def code(self, beta: str, unit: str, take: str) -> str:
        """Of `roots`."""
        part = f"v[{f'r2_{beta}'!r}]"
        return f"({unit} * ({part} / (1 - {part})).sqrt()).unsqueeze(-1) * v[{f'phi_{beta}'!r}]{take}.sqrt()"


@dataclass(frozen=True, eq=False)
class Scope:
    """Which coefficients are shrunk, and in which unit.

    Attributes:
        following: the prior that the data would choose.
        noise: the family's scale, if it is in the unit of the predictor; None for the spread that the response tells.
    """

    following: Following
    noise: str | None

    @property
    def spread(self) -> str:
        """s in words."""
        return self.following.units[0].texts[1]

    @property
    def text(self) -> str:
        """sigma in words."""
        return self.noise or self.spread

    def size(self, data: Data) -> Tensor:
        """s, `()`."""
        return self.following.units[0].of(data)[1]

    def unit(self, v: Values, data: Data) -> Tensor:
        """sigma, `(chains, 1)` or `()`."""
        return v[self.noise] if self.noise else self.size(data)

    def code(self, data: Data) -> str:
        """The same as code."""
        return f"v[{self.noise!r}]" if self.noise else f"tensor({float(self.size(data))!r}, dtype=torch.float64)"


@dataclass(frozen=True, eq=False)
class _Global(Written):
    """tau ~ HalfCauchy(scale sigma)."""

    scope: Scope
    scale: float

    def __call__(self, v: Values, data: Data) -> Distribution:
        return HalfCauchy(self.scale * self.scope.unit(v, data))

    def code(self, data: Data) -> str:
        return f"lambda v: HalfCauchy({self.scale!r} * {self.scope.code(data)})"


@dataclass(frozen=True, eq=False)
class _Slab(Written):
    """c^2 ~ InverseGamma(half, half (slab s)^2)."""

    scope: Scope
    half: float
    slab: float

    def __call__(self, v: Values, data: Data) -> Distribution:
        rate = self.half * (self.slab * self.scope.size(data)).square()
        return InverseGamma(torch.full_like(rate, self.half), rate)

    def code(self, data: Data) -> str:
        rate = self.half * (self.slab * float(self.scope.size(data))) ** 2
        numbers = f"tensor({self.half!r}, dtype=torch.float64), tensor({rate!r}, dtype=torch.float64)"
        return f"InverseGamma({numbers})"


def _product(number: float, unit: str) -> str:
    """A number of units, in words."""
    return f"{number:g}" if unit == "1" else unit if number == 1 else f"{number:g} {unit}"


def shrinkage_of(name: str, given: object) -> Shrinkage | None:
    """A shrinkage prior as an object or as text such as "horseshoe(scale=0.1)"; None for another prior.

    Raises:
        ModelError: for arguments that it does not have.
    """
    if isinstance(given, Shrinkage):
        return given
    if not isinstance(given, str) or not (match := re.match(SHRINKING, given)):
        return None
    kind: type[Shrinkage] = R2D2 if match["kind"].lower() == "r2d2" else Horseshoe
    known = [one.name for one in fields(kind)]
    usage = f'"{kind.name}({known[0]}={getattr(kind(), known[0]):g})"'
    try:
        call = ast.parse(given.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return kind()
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("its arguments have names")
        values = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise ModelError(f"the prior of {name!r} is text such as {usage}; found {given!r} ({error}).") from error
    if strange := [one for one in values if one not in known]:
        instead = ELSEWHERE.get(strange[0], "")
        hint = f" Did you mean {instead!r}?" if instead in known else wording.closest(strange[0], known)
        raise ModelError(f"{kind.name} has no {strange[0]}=; it has {wording.listed(known)}.{hint}")
    return kind(**values)
