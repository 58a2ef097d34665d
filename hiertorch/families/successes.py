"""Successes of trials: rows of 0 and 1, and rows whose trials a column counts."""

import math
from dataclasses import replace

import torch
from torch import Tensor, distributions

from hiertorch.data import admissible
from hiertorch.data.table import Data
from hiertorch.families import laws, portable, rowforms
from hiertorch.families.family import Derivatives, Family, check_column_name, sd
from hiertorch.families.links import CLOGLOG, LOGIT, PROBABILITIES, Link
from hiertorch.model import continuous
from hiertorch.model.latent import Latent, Values

MOST = 20
"""Trials of a simulated row."""


class Successes(Family):
    """Successes of trials, whose log odds are eta, or whose probability is another link's inverse of eta.

    Args:
        link: "logit", "probit" or "cloglog".
    """

    link, links = LOGIT, PROBABILITIES
    scale_texts = ("logit(mean(y))", "1")

    def __init__(self, link: Link | str | None = None) -> None:
        self.set_link(link)
        self.scale_texts = (f"{self.link.name}(mean(y))", "1")

    def log_odds(self, eta: Tensor) -> Tensor:
        """log(p / (1 - p)) of linear predictors of any shape."""
        return self.link.log_odds(eta) if self.link.log_odds else torch.logit(self.link.inverse(eta))

    def trials_of(self, data: Data) -> Tensor:
        """Of each row, `(rows,)`, or `()` if all have the same number."""
        return data.y.new_ones(())

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> Derivatives | None:
        """y - n p and -n p (1 - p), with the logit."""
        if not self.has_default_link:
            return None
        p, trials = eta.sigmoid(), self.trials_of(data)
        return Derivatives(y - trials * p, -trials * p * (-eta).sigmoid())

    def link_variance(self, eta: Tensor, spread: Tensor, v: Values, data: Data) -> Tensor | None:
        """pi^2 / 3, that of the logistic distribution; 1 with the probit; pi^2 / 6, that of the Gumbel distribution,
        with the cloglog (Nakagawa, Johnson & Schielzeth 2017, table 2).
        """
        variance = math.pi**2 / 3 if self.link == LOGIT else math.pi**2 / 6 if self.link == CLOGLOG else 1.0
        return torch.full_like(eta, variance)

    def level_and_spread(self, y: Tensor, offset: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """The link of the share of all trials together, less the mean offset, and 1, or the sd of the offset if that is
        more. Half a success and half a failure are added, without which none of either would be infinite.
        """
        trials = self.trials_of(data).to(y).expand_as(y)
        done, all_ = y.sum() + 0.5, trials.sum() + 1.0
        return self.link.forward(done / all_) - offset.mean(), sd(offset).clamp(min=1.0)


class Bernoulli(Successes):
    """y_i ~ Bernoulli(p_i), logit(p_i) = eta_i.

    Args:
        link: "logit", "probit" or "cloglog".
    """

    name = "bernoulli"
    formula = "Bernoulli(logit^-1(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Bernoulli:
        """Bernoulli."""
        return distributions.Bernoulli(logits=self.log_odds(eta))

    def exported(self) -> portable.Portable:
        """One trial."""
        return laws.binomial("1", portable.probabilities(self.link)[0])

    def row_form(self, data: Data) -> rowforms.FamilyForm | None:
        """Of 0 and 1, with the logit."""
        return rowforms.FamilyForm(rowforms.Bernoulli) if self.has_default_link else None


class Trials(Successes):
    """Successes of the trials that a column counts.

    Args:
        trials: the column.
        link: "logit", "probit" or "cloglog".
    """

    def __init__(self, trials: str = "trials", link: Link | str | None = None) -> None:
        check_column_name("trials", trials)
        self.trials, self.columns = trials, (trials,)
        self.formula = self.formula.replace("trials", trials)
        super().__init__(link)
        self.scale_texts = (f"{self.link.name}(sum(y) / sum({trials}))", "1")

    def trials_of(self, data: Data) -> Tensor:
        """The column."""
        return data[self.trials]

    def typical_row(self, data: Data) -> dict[str, Tensor]:
        """One trial: shares of variance are those of its success."""
        return {self.trials: data.y.new_ones(())}

    def of_trials(self, made: portable.Portable) -> portable.Portable:
        """With what `check_columns` asks of new rows."""
        return replace(made, checks=((self.trials, "whole"),))

    def check_columns(self, data: Data) -> None:
        """Trials are whole and not negative, and successes among them."""
        admissible.whole(data, self.trials, "trials")
        admissible.at_most(data, self.trials, "successes are whole numbers from 0 to the number of trials")

    def informative(self, data: Data) -> Tensor:
        """Rows with trials."""
        return data[self.trials] > 0

    def draw_columns(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trials, whole numbers from 1 to 20."""
        return {self.trials: torch.randint(1, MOST + 1, (rows,), generator=generator, device=generator.device)}


class Binomial(Trials):
    """y_i ~ Binomial(n_i, p_i), logit(p_i) = eta_i.

    Args:
        trials: the column that holds n_i.
        link: "logit", "probit" or "cloglog".
    """

    name = "binomial"
    formula = "Binomial(trials, logit^-1(eta))"

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Binomial:
        """Binomial."""
        return distributions.Binomial(data[self.trials], logits=self.log_odds(eta))

    def exported(self) -> portable.Portable:
        """Binomial."""
        return self.of_trials(laws.binomial(portable.column(self.trials), portable.probabilities(self.link)[0]))

    def row_form(self, data: Data) -> rowforms.FamilyForm | None:
        """Successes of trials, with the logit."""
        return rowforms.FamilyForm(rowforms.Binomial, {"trials": data[self.trials]}) if self.has_default_link else None


class BetaBinomial(Trials):
    """y_i ~ Binomial(n_i, p_i), p_i ~ Beta(m_i phi_y, (1 - m_i) phi_y) of mean m_i, logit(m_i) = eta_i: successes that
    vary more than those of a binomial, by 1 + (n_i - 1) / (1 + phi_y).

    phi_y ~ LogNormal(2, 1.5): two trials of a row have a correlation, 1 / (1 + phi_y), of 0.007 to 0.72 in 95 %.

    Args:
        trials: the column that holds n_i.
        link: "logit", "probit" or "cloglog".
    """

    name = "beta_binomial"
    formula = "BetaBinomial(trials, mean logit^-1(eta), phi_y)"
    latents = {"phi_y": Latent(distributions.LogNormal(2.0, 1.5))}  # noqa: RUF012

    def distribution(self, eta: Tensor, v: Values, data: Data) -> distributions.Distribution:
        """Beta-binomial."""
        odds = self.log_odds(eta)
        return continuous.BetaBinomial(data[self.trials], v.phi_y * odds.sigmoid(), v.phi_y * (-odds).sigmoid())

    def exported(self) -> portable.Portable:
        """Beta-binomial."""
        mean, rest = portable.probabilities(self.link)
        return self.of_trials(laws.beta_binomial(portable.column(self.trials), mean, rest, "phi_y"))

    def derivatives(self, y: Tensor, eta: Tensor, v: Values, data: Data) -> None:
        """Left to autograd."""
