"""What y is like around its linear predictor eta: likelihood families with their usual links.

A family knows the columns that it reads and the names of the latents that it needs beside eta; it knows nothing of
groups. Structures (`hiertorch.models`) know nothing of what y is like.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, distributions

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.model.latent import Values

__all__ = ["Bernoulli", "Binomial", "Family", "Gaussian", "NegativeBinomial", "Poisson", "StudentT", "centre", "named"]


class Family:
    """p(y_i | eta_i): a distribution of the rows, given their linear predictor.

    Attributes:
        latents: names of the latents that it reads beside eta.
        columns: names of the columns that it reads.
        formula: of a row, for print.
        scaled: whether eta is in units of y, so that the spread of y says how wide priors have to be.
        scale_texts: `level_and_spread` in words, for print.
    """

    latents: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    formula: str = ""
    scaled: bool = False
    scale_texts: tuple[str, str] = ("0", "1")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Of batch shape `(chains, rows)`, for eta `(chains, rows)`."""
        raise NotImplementedError

    def check_columns(self, data: Data) -> None:
        """Raises a DataError for rows that the likelihood can't take; not every family has such rows."""

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Where eta without its offset lies, and how widely it may differ from row to row, as a response tells, `()`
        each: mean and sd of y - offset where eta is in units of y, and 0 and 1 where nothing is known.

        Args:
            y: the response, `(rows,)` or `(chains, rows)`, float64.
            offset: `(rows,)`, zeros without one.
            data: the same rows, for columns that the family reads.
        """
        if not self.scaled:
            return y.new_zeros(()), y.new_ones(())
        centred = y - offset
        return centred.mean(), centred.std(correction=min(1, centred.numel() - 1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.columns)})"


class Gaussian(Family):
    """y_i ~ Normal(eta_i, sigma_y), or Normal(eta_i, se_i) with standard errors that are known.

    Args:
        se: the column that holds them.
    """

    scaled = True
    scale_texts = ("mean(y)", "sd(y)")

    def __init__(self, se: str | None = None) -> None:
        _check_column("se", se, optional=True)
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

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Mean and sd of y - offset; at least the root mean square of standard errors that are known, beside which
        estimates may happen to agree.
        """
        level, spread = super().level_and_spread(y, offset, data)
        if self.se is None:
            return level, spread
        return level, torch.maximum(spread, data[self.se].to(y).square().mean().sqrt())


class StudentT(Family):
    """y_i ~ StudentT(nu_y, eta_i, sigma_y): rows far from the others count less. Centre eta, scale sigma_y."""

    latents = ("nu_y", "sigma_y")
    formula = "StudentT(nu_y, eta, sigma_y)"
    scaled = True
    scale_texts = ("mean(y)", "sd(y)")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Student's t."""
        return distributions.StudentT(v.nu_y, eta, v.sigma_y)


class _Logit(Family):
    """Successes of trials, whose log odds are eta."""

    scale_texts = ("logit(mean(y))", "1")

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log odds of all trials together, less the mean offset, and 1, or the sd of the offset if that is more.
        Half a success and half a failure are added, without which none of either would be infinite.
        """
        trials = self.trials_of(y, data)
        done, all_ = y.sum() + 0.5, trials.expand_as(y).sum() + 1.0
        spread = offset.std(correction=min(1, offset.numel() - 1))
        return torch.logit(done / all_) - offset.mean(), spread.clamp(min=1.0)

    def trials_of(self, y: Tensor, data: Data) -> Tensor:
        """Of each row."""
        return torch.ones_like(y)


class Bernoulli(_Logit):
    """y_i ~ Bernoulli(p_i), logit(p_i) = eta_i."""

    formula = "Bernoulli(logit^-1(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Bernoulli."""
        return distributions.Bernoulli(logits=eta)


class Binomial(_Logit):
    """y_i ~ Binomial(n_i, p_i), logit(p_i) = eta_i.

    Args:
        trials: the column that holds n_i.
    """

    def __init__(self, trials: str = "trials") -> None:
        _check_column("trials", trials)
        self.trials, self.columns = trials, (trials,)
        self.formula = f"Binomial({trials}, logit^-1(eta))"
        self.scale_texts = (f"logit(sum(y) / sum({trials}))", "1")

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Binomial."""
        return distributions.Binomial(data[self.trials], logits=eta)

    def check_columns(self, data: Data) -> None:
        """Trials are whole and not negative, and successes among them."""
        admissible.whole(data, self.trials, "trials")
        admissible.at_most(data, self.trials, "successes are whole numbers from 0 to the number of trials")

    def trials_of(self, y: Tensor, data: Data) -> Tensor:
        """The column."""
        return data[self.trials].to(y)


class _Counts(Family):
    """Counts, whose mean is exposure_i exp(eta_i).

    Args:
        exposure: the column that holds what the mean is in proportion to, such as a population or a time; 1 if left
            out.
    """

    def __init__(self, exposure: str | None = None) -> None:
        _check_column("exposure", exposure, optional=True)
        self.exposure, self.columns = exposure, () if exposure is None else (exposure,)
        self.mean = "exp(eta)" if exposure is None else f"{exposure} exp(eta)"
        rate = "y" if exposure is None else f"y / {exposure}"
        self.scale_texts = (f"log(mean({rate}))", f"sd(log({rate}))")

    def log_mean(self, eta: Tensor, data: Data) -> Tensor:
        """eta_i + log exposure_i."""
        return eta if self.exposure is None else eta + data[self.exposure].log()

    def check_columns(self, data: Data) -> None:
        """Exposures are above 0."""
        if self.exposure is not None:
            admissible.positive(data, self.exposure, "exposures")

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The log of all counts over all expected ones, exposure exp(offset), and the sd of the rows' log rates, at
        least 1. Half a count is added, without which none would be infinite.
        """
        expected = self.log_mean(offset, data).to(y)  # (rows,)
        y = (y if y.dim() == 1 else y.mean(0)).clamp(min=0.0)
        rates = (y + 0.5).log() - expected
        spread = rates.std(correction=min(1, rates.numel() - 1))
        return (y.sum() + 0.5).log() - expected.logsumexp(0), spread.clamp(min=1.0)


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


def _check_column(name: str, column: object, *, optional: bool = False) -> None:
    if not isinstance(column, str) and not (optional and column is None):
        raise ModelError(f"{name}= is the name of a column, found {column!r}.")


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
