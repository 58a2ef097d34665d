"""Families in the little language of `hiertorch.deploy`: what a file says of a row, for readers without torch.

A distribution is said by its parameters, as text in which `eta` is the linear predictor and latents have their names:
`normal("eta", "sigma_y")`. A family writes `exported()` in one line by a function of `hiertorch.families.laws`.

docs/decisions.md: An exported model is text that is looked up, not run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hiertorch.families.links import CLOGLOG, IDENTITY, INVERSE, LOG, LOGIT, PROBIT, SOFTPLUS, SQRT, Link

INVERSES = {
    IDENTITY: "eta",
    LOG: "exp(eta)",
    INVERSE: "1.0 / eta",
    SQRT: "square(maximum(eta, 0.0))",
    SOFTPLUS: "logaddexp(eta, 0.0)",
    LOGIT: "expit(eta)",
    PROBIT: "ndtr(eta)",
    CLOGLOG: "-expm1(-exp(eta))",
}
"""Means by the link."""

REST = {LOGIT: "expit(-eta)", PROBIT: "ndtr(-eta)", CLOGLOG: "exp(-exp(eta))"}
"""1 less the probability, which stays exact where that rounds to 1."""

END = Callable[[str], str]


@dataclass(frozen=True)
class Tails:
    """What is said of a continuous distribution that may be cut off.

    Attributes:
        below: text of y -> F(y), also at the ends of the support and at infinity.
        above: 1 - F(y).
        support: "real", "positive" or "unit".
        mean: texts of both ends and of F(high) - F(low) -> the mean between; None where it isn't known.
    """

    below: END
    above: END
    support: str
    mean: Callable[[str, str, str], str] | None = None

    def mass(self, low: str, high: str) -> str:
        """F(high) - F(low), in the tail in which both are smaller."""
        (a, b), (c, d) = (self.below(low), self.below(high)), (self.above(low), self.above(high))
        return f"where({b} <= {c}, {b} - ({a}), {c} - ({d}))"


@dataclass(frozen=True)
class Portable:
    """A family in the little language.

    Attributes:
        lets: names that stand for text, in this order.
        mean: of a row; None if it has none.
        response: a draw.
        probability: of each category; None where responses are numbers.
        log_zero: of counts, the log probability of 0.
        positive: of counts, a draw that is above 0.
        tails: of continuous rows.
        checks: columns that are "positive" or "whole".
        valid: where a row has a likelihood; "" where it always has.
    """

    lets: tuple[tuple[str, str], ...]
    mean: str | None
    response: str
    probability: str | None = None
    log_zero: str = ""
    positive: str = ""
    tails: Tails | None = None
    checks: tuple[tuple[str, str], ...] = ()
    valid: str = ""


def latent(name: str) -> str:
    """Draws of a latent."""
    return f"v[{name!r}]"


def column(name: str) -> str:
    """A column of the data."""
    return f"x[{name!r}]"


def codes(plate: str) -> str:
    """Groups of rows."""
    return f"g[{plate!r}]"


def dotted(name: str, columns: Sequence[str]) -> str:
    """Coefficients times columns, with a plus sign before it if there are any."""
    return f" + dot({latent(name)}, {', '.join(map(column, columns))})" if columns else ""


def inverse(link: Link) -> str | None:
    """The mean as text of eta; None for a link that is not the package's."""
    return INVERSES.get(link)


def probabilities(link: Link) -> tuple[str, str]:
    """A probability, and 1 less it, as texts of eta."""
    return INVERSES[link], REST[link]
