"""What y is like around its linear predictor eta: likelihood families with their usual links.

A family knows the columns that it reads and the names of the latents that it needs beside eta; it knows nothing of
groups. Structures (`hiertorch.models`) know nothing of what y is like.
"""

from collections.abc import Mapping

from torch import Tensor, distributions

from hiertorch import admissible
from hiertorch.data import Data
from hiertorch.errors import ModelError
from hiertorch.latent import Values

__all__ = ["Bernoulli", "Binomial", "Family", "Gaussian", "NegativeBinomial", "Poisson", "StudentT", "centre", "named"]


class Family:
    """p(y_i | eta_i): a distribution of the rows, given their linear predictor.

    Attributes:
        latents: names of the latents that it reads beside eta.
        columns: names of the columns that it reads.
        formula: of a row, for print.
        scaled: whether eta is in units of y, so that the spread of y says how wide priors have to be.
    """

    latents: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    formula: str = ""
    scaled: bool = False

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Of batch shape `(chains, rows)`, for eta `(chains, rows)`."""
        raise NotImplementedError

    def check_columns(self, data: Data) -> None:
        """Raises a DataError for rows that the likelihood can't take; not every family has such rows."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.columns)})"


class Gaussian(Family):
    """y_i ~ Normal(eta_i, sigma_y), or Normal(eta_i, se_i) with standard errors that are known.

    Args:
        se: the column that holds them.
    """

    scaled = True

    def __init__(self, se: str | None = None) -> None:
        self.se = se
        self.latents, self.columns = (("sigma_y",), ()) if se is None else ((), (se,))
        self.formula = f"Normal(eta, {'sigma_y' if se is None else se})"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Normal."""
        return distributions.Normal(eta, v.sigma_y if self.se is None else data[self.se])

    def check_columns(self, data: Data) -> None:
        """Standard errors are above 0."""
        if self.se is not None:
            admissible.positive(data, self.se, "standard errors")


class StudentT(Family):
    """y_i ~ StudentT(nu_y, eta_i, sigma_y): rows far from the others count less. Centre eta, scale sigma_y."""

    latents = ("nu_y", "sigma_y")
    formula = "StudentT(nu_y, eta, sigma_y)"
    scaled = True

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Student's t."""
        return distributions.StudentT(v.nu_y, eta, v.sigma_y)


class Bernoulli(Family):
    """y_i ~ Bernoulli(p_i), logit(p_i) = eta_i."""

    formula = "Bernoulli(logit^-1(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Bernoulli."""
        return distributions.Bernoulli(logits=eta)


class Binomial(Family):
    """y_i ~ Binomial(n_i, p_i), logit(p_i) = eta_i.

    Args:
        trials: the column that holds n_i.
    """

    def __init__(self, trials: str = "trials") -> None:
        self.trials, self.columns = trials, (trials,)
        self.formula = f"Binomial({trials}, logit^-1(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Binomial."""
        return distributions.Binomial(data[self.trials], logits=eta)

    def check_columns(self, data: Data) -> None:
        """Trials are whole and not negative, and successes among them."""
        admissible.whole(data, self.trials, "trials")
        admissible.at_most(data, self.trials, "successes are whole numbers from 0 to the number of trials")


class _Counts(Family):
    """Counts, whose mean is exposure_i exp(eta_i).

    Args:
        exposure: the column that holds what the mean is in proportion to, such as a population or a time; 1 if left
            out.
    """

    def __init__(self, exposure: str | None = None) -> None:
        self.exposure, self.columns = exposure, () if exposure is None else (exposure,)
        self.mean = "exp(eta)" if exposure is None else f"{exposure} exp(eta)"

    def log_mean(self, eta: Tensor, data: Data) -> Tensor:
        """eta_i + log exposure_i."""
        return eta if self.exposure is None else eta + data[self.exposure].log()

    def check_columns(self, data: Data) -> None:
        """Exposures are above 0."""
        if self.exposure is not None:
            admissible.positive(data, self.exposure, "exposures")


class Poisson(_Counts):
    """y_i ~ Poisson(exposure_i exp(eta_i)).

    Args:
        exposure: the column that holds it; 1 if left out.
    """

    def __init__(self, exposure: str | None = None) -> None:
        super().__init__(exposure)
        self.formula = f"Poisson({self.mean})"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Poisson."""
        return distributions.Poisson(self.log_mean(eta, data).exp())


class NegativeBinomial(_Counts):
    """y_i ~ NegativeBinomial of mean m_i = exposure_i exp(eta_i) and variance m_i + m_i^2 / phi_y.

    Args:
        exposure: the column that holds it; 1 if left out.
    """

    latents = ("phi_y",)

    def __init__(self, exposure: str | None = None) -> None:
        super().__init__(exposure)
        self.formula = f"NegativeBinomial(mean {self.mean}, phi_y)"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Negative binomial; torch's total_count is phi, and its odds are m / phi."""
        return distributions.NegativeBinomial(v.phi_y, logits=self.log_mean(eta, data) - v.phi_y.log())


NAMES: Mapping[str, type[Family]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}


def named(family: Family | str) -> Family:
    """A family, or the one of that name with its defaults.

    Raises:
        ModelError: if there is none.
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, str) and family in NAMES:
        return NAMES[family]()
    raise ModelError(
        f"family is one of {', '.join(NAMES)}, or an object such as ht.families.Binomial(trials='n'); found {family!r}."
    )


def centre(distribution: distributions.Distribution) -> Tensor:
    """E[y_i], or where y has no mean (Student's t with nu <= 1) its middle."""
    if isinstance(distribution, distributions.StudentT):
        return distribution.loc
    return distribution.mean
