"""What y is like around its linear predictor eta: likelihood families with their usual links.

A family knows the columns that it reads and the latents that it needs beside eta; it knows nothing of groups.
Structures (`hiertorch.models`) know nothing of what y is like. `hiertorch.families.family` says how one is written.
"""

from collections.abc import Callable

from hiertorch.errors import ModelError
from hiertorch.families.asymmetric_laplace import AsymmetricLaplace
from hiertorch.families.categorical import Categorical
from hiertorch.families.counts import Geometric, NegativeBinomial, NegativeBinomial1, Poisson
from hiertorch.families.family import Derivatives, Family
from hiertorch.families.gaussian import Gaussian
from hiertorch.families.incomplete import Censored, Truncated
from hiertorch.families.links import CLOGLOG, IDENTITY, INVERSE, LOG, LOGIT, PROBIT, SOFTPLUS, SQRT, Link
from hiertorch.families.lognormal import LogNormal
from hiertorch.families.ordinal import AdjacentCategories, Cumulative, Ordinal, StoppingRatio
from hiertorch.families.positive import Exponential, Gamma, InverseGaussian, Weibull
from hiertorch.families.shares import Beta
from hiertorch.families.skew_normal import SkewNormal
from hiertorch.families.student_t import StudentT
from hiertorch.families.successes import Bernoulli, BetaBinomial, Binomial
from hiertorch.families.zeros import Hurdle, ZeroInflated, ZeroOneInflated

__all__ = [
    "CLOGLOG",
    "CODED",
    "IDENTITY",
    "INVERSE",
    "LOG",
    "LOGIT",
    "NAMES",
    "PROBIT",
    "SOFTPLUS",
    "SQRT",
    "AdjacentCategories",
    "AsymmetricLaplace",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "Censored",
    "Cumulative",
    "Derivatives",
    "Exponential",
    "Family",
    "Gamma",
    "Gaussian",
    "Geometric",
    "Hurdle",
    "InverseGaussian",
    "Link",
    "LogNormal",
    "NegativeBinomial",
    "NegativeBinomial1",
    "Poisson",
    "SkewNormal",
    "StoppingRatio",
    "StudentT",
    "Truncated",
    "Weibull",
    "ZeroInflated",
    "ZeroOneInflated",
    "named",
]

KINDS = (
    Gaussian, StudentT, SkewNormal, AsymmetricLaplace, LogNormal, Gamma, Exponential, Weibull, InverseGaussian, Beta,
    Bernoulli, Binomial, BetaBinomial, Poisson, Geometric, NegativeBinomial, NegativeBinomial1,
)  # fmt: skip

MADE: dict[str, Callable[[], Family]] = {
    "hurdle_poisson": lambda: Hurdle(Poisson()),
    "hurdle_negative_binomial": lambda: Hurdle(NegativeBinomial()),
    "hurdle_gamma": lambda: Hurdle(Gamma()),
    "hurdle_lognormal": lambda: Hurdle(LogNormal()),
    "zero_inflated_poisson": lambda: ZeroInflated(Poisson()),
    "zero_inflated_negative_binomial": lambda: ZeroInflated(NegativeBinomial()),
    "zero_inflated_binomial": lambda: ZeroInflated(Binomial()),
    "zero_one_inflated_beta": lambda: ZeroOneInflated(Beta()),
}
"""Those that are made of another one, by name."""

NAMES: dict[str, Callable[[], Family]] = {**{kind.name: kind for kind in KINDS}, **MADE}
"""The built-in families by the names that configs and `family=` take."""


CODED: dict[str, type[Ordinal] | type[Categorical]] = {
    kind.name: kind for kind in (Cumulative, StoppingRatio, AdjacentCategories, Categorical)
}
"""Those of categories, which are told how many there are."""


def named(family: Family | str) -> Family:
    """A family, or the one of that name with its defaults.

    Raises:
        ModelError: if there is none.
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, type) and issubclass(family, Family):
        return family()
    if isinstance(family, str) and family in NAMES:
        return NAMES[family]()
    if isinstance(family, str) and family in CODED:
        kind = CODED[family].__name__
        raise ModelError(
            f"{family!r} is told its categories: take ht.families.{kind}(categories=4), or ht.fit and ht.formula, "
            "which count those of the response."
        )
    raise ModelError(
        f"family is one of {', '.join(NAMES)}, or an object such as ht.families.Binomial(trials='n'); found {family!r}."
    )
