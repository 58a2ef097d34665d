"""Several groupings: students in classes in schools, or ratings of a lecturer by a student."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal

from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families import Family
from hiertorch.families.portable import codes, dotted, latent
from hiertorch.model.latent import Latent, Values
from hiertorch.models.design import Design, Population
from hiertorch.models.regression import Regression, column_names


class Nested(Regression):
    """eta_i = alpha_c[i] + x_i' beta,  alpha_c ~ Normal(alpha_s[c], sigma_c),  alpha_s ~ Normal(mu, sigma_s), and so
    on for any depth: a group's level is drawn around that of the group it lies in (Gelman & Hill 2007, section 22.6).

    Args:
        plates: the groupings from the coarsest to the finest, such as ["school", "class"]: latents `alpha_school`,
            `sigma_school`, `alpha_class`, `sigma_class`.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        group_predictors: plate -> names of columns that are constant within its groups, whose coefficients are
            `gamma_school` and so on.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    mu = Latent(Normal(0.0, 5.0))
    beta = Latent(Normal(0.0, 2.0))

    def __init__(
        self,
        plates: Sequence[str],
        predictors: Sequence[str] = (),
        *,
        group_predictors: Mapping[str, Sequence[str]] | None = None,
        family: Family | str = "gaussian",
        offset: str | None = None,
        priors: Mapping[str, object] | str | None = "autoscale",
    ) -> None:
        self.plates = column_names("plates", plates)
        if len(self.plates) < 2:
            raise ModelError(f"{type(self).__name__} takes two groupings or more, found {list(self.plates)}.")
        if group_predictors is not None and not isinstance(group_predictors, Mapping):
            raise ModelError(
                "group_predictors names columns for each grouping, as in {'school': ['size']}, found "
                f"{group_predictors!r}."
            )
        self.group_predictors = {
            plate: column_names(f"group_predictors[{plate!r}]", names)
            for plate, names in (group_predictors or {}).items()
        }
        if unknown := [plate for plate in self.group_predictors if plate not in self.plates]:
            raise ModelError(f"group_predictors names {unknown[0]!r}, which is none of the plates {list(self.plates)}.")
        super().__init__(predictors, family=family, offset=offset, priors=priors)

    def build(self) -> None:
        """Levels from the coarsest down."""
        self.shape("beta", self.predictors)
        for plate in self.plates:
            columns = self.group_predictors.get(plate, ())
            self.add(f"sigma_{plate}", Gamma(1.0, 1.0), scaled=True)
            if columns:
                zeros = torch.zeros(len(columns), dtype=torch.float64, device="cpu")
                self.add(f"gamma_{plate}", Independent(Normal(zeros, 2.0), 1), labels=[columns], scaled=True)
            around = self.around(plate)
            text = " + ".join([around or "0", *([f"gamma_{plate} . ({', '.join(columns)})"] if columns else [])])
            prior = partial(_level, plate, around, columns)
            self.add(f"alpha_{plate}", prior, plate, text=f"Normal({text}, sigma_{plate})")
        finest = self.plates[-1]
        self.eta_text = self.terms(f"alpha_{finest}[{finest}]", beta=self.predictors)

    def design(self) -> Design:
        """Predictors, those of groups, and which groupings nest."""
        explaining = {plate: names for plate, names in self.group_predictors.items() if names}
        return replace(super().design(), group_predictors=explaining, nested=self.plates)

    def around(self, plate: str) -> str | None:
        """The latent that effects of a plate are drawn around, None for 0."""
        at = self.plates.index(plate)
        return f"alpha_{self.plates[at - 1]}" if at else "mu"

    def eta_exported(self) -> str:
        """alpha of the finest group + x_i' beta."""
        return level(self.plates[-1]) + self.shared_exported()

    def populations(self, data: Data) -> dict[str, Population]:
        """Of the effects of each grouping."""
        return {f"alpha_{plate}": self._population(plate) for plate in self.plates}

    def _population(self, plate: str) -> Population:
        around = self.around(plate)
        parent = None if around is None else around.removeprefix("alpha_")
        mean = "0.0" if parent is None else latent("mu") if parent == around else level(parent)
        more = dotted(f"gamma_{plate}", self.group_predictors.get(plate, ()))
        return Population(mean + more, latent(f"sigma_{plate}"))

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha of the finest group + x_i' beta."""
        finest = self.plates[-1]
        return v[f"alpha_{finest}"][:, data[finest]] + self.shared(v, data)


class Crossed(Nested):
    """eta_i = mu + sum over groupings p of alpha_p[g_p[i]] + x_i' beta,  alpha_p ~ Normal(u' gamma_p, sigma_p)
    (Gelman & Hill 2007, section 13.5).

    Args:
        plates: the groupings, two or more, in any order: latents `alpha_student`, `sigma_student` and so on.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        group_predictors: plate -> names of columns that are constant within its groups, whose coefficients are
            `gamma_student` and so on.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    def build(self) -> None:
        """Levels side by side."""
        super().build()
        self.eta_text = self.terms("mu", *(f"alpha_{plate}[{plate}]" for plate in self.plates), beta=self.predictors)

    def design(self) -> Design:
        """No grouping nests in another."""
        return replace(super().design(), nested=())

    def around(self, plate: str) -> str | None:
        """Nothing: mu stands in eta."""
        return None

    def eta_exported(self) -> str:
        """mu + effects + x_i' beta."""
        return " + ".join([latent("mu"), *map(level, self.plates)]) + self.shared_exported()

    def eta(self, v: Values, data: Data) -> Tensor:
        """mu + effects + x_i' beta."""
        effects = [v[f"alpha_{plate}"][:, data[plate]] for plate in self.plates]
        return sum(effects, start=v.mu) + self.shared(v, data)


def level(plate: str) -> str:
    """alpha_p of each row's group, in the little language of exported models."""
    return f"at({latent(f'alpha_{plate}')}, {codes(plate)})"


def _level(plate: str, around: str | None, columns: tuple[str, ...], v: Values, data: Data) -> Distribution:
    """alpha_p ~ Normal(what it is drawn around + u' gamma_p, sigma_p)."""
    mean: Tensor | float = 0.0
    if around is not None:
        parent = around.removeprefix("alpha_")
        mean = v[around] if parent == around else v[around][:, data.parents(plate, parent)]
    if columns:
        u = torch.stack([data.group_values(name, plate) for name in columns], -1)  # (groups, U)
        mean = mean + (v[f"gamma_{plate}"] @ u.mT).squeeze(1)
    return Normal(mean, v[f"sigma_{plate}"])
