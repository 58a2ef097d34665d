"""Groups whose levels move in time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, MultivariateNormal, Normal, Uniform

from hiertorch.arguments import check_choice
from hiertorch.data.table import Data
from hiertorch.errors import ModelError
from hiertorch.families.portable import codes, dotted, latent
from hiertorch.model.latent import Latent, Values
from hiertorch.models.design import Design, Population
from hiertorch.models.grouped import Grouped


class TimeVarying(Grouped):
    """eta_ijt = alpha_jt + x_ijt' beta at times tau_1 < tau_2 < .. with gaps d_t = tau_t - tau_(t-1).

    Random walk: alpha_j1 ~ Normal(m_j, sigma_alpha), alpha_jt ~ Normal(alpha_j(t-1), sigma_time sqrt(d_t)).
    AR(1): alpha_j1 ~ Normal(m_j, sigma_alpha), alpha_jt ~ Normal(m_j + phi^d_t (alpha_j(t-1) - m_j), sigma_alpha sqrt(1
    - phi^(2 d_t))), which is stationary with sd sigma_alpha. In both m_j = mu_alpha0 + u_j' gamma.

    Times may have any unit: priors follow it (Durbin & Koopman 2012, section 2.1; Rue & Held 2005, section 1.1).

    All groups share the times that the data's labels of `time` hold; a group may lack rows at any of them, and times
    may be unequally far apart. For levels at times without any rows (a forecast) give these times as labels of the
    grouping.

    Args:
        plate: the grouping j.
        time: the grouping t, whose labels are numbers or dates.
        predictors: names of the columns in x; one coefficient each, `(chains, 1, predictors)`.
        dynamics: "random_walk" or "ar1".
        group_predictors: names of columns u that are constant within groups.
        family, offset, priors: see `hiertorch.models.Regression`.
    """

    time: str
    mu_alpha0 = Latent(Normal(0.0, 5.0))
    sigma_alpha = Latent(Gamma(1.0, 1.0))
    sigma_time = Latent(Gamma(1.0, 1.0))
    phi = Latent(Uniform(0.0, 1.0))
    beta = Latent(Normal(0.0, 2.0))
    gamma = Latent(Normal(0.0, 2.0))

    def __init__(
        self,
        plate: str,
        time: str,
        predictors: Sequence[str] = (),
        *,
        dynamics: Literal["random_walk", "ar1"] = "random_walk",
        **options: Any,
    ) -> None:
        check_choice("dynamics", dynamics, ("random_walk", "ar1"), ModelError)
        if not isinstance(time, str):
            raise ModelError(f"time is the name of a grouping, found {time!r}.")
        self.time, self.dynamics = time, dynamics
        super().__init__(plate, predictors, **options)

    def build(self) -> None:
        """A path for each group."""
        walk = self.dynamics == "random_walk"
        self.drop("phi" if walk else "sigma_time")
        self.shape("beta", self.predictors)
        self.shape("gamma", self.group_predictors)
        start = self.mean_text("mu_alpha0")
        text = (
            f"random walk from Normal({start}, sigma_alpha), steps sigma_time sqrt(d {self.time})"
            if walk
            else f"AR(1) around {start}, sd sigma_alpha, correlation phi^(d {self.time})"
        )
        self.add("alpha", self.paths, self.plate, self.time, text)
        self.eta_text = self.terms(f"alpha[{self.plate}, {self.time}]", beta=self.predictors)

    def design(self) -> Design:
        """With the grouping whose labels are times."""
        return replace(super().design(), times=(self.time,))

    def paths(self, v: Values, data: Data) -> Distribution:
        """Prior of alpha, `(chains, groups)` of vectors `(times,)`: its root has a column for each shock, which acts on
        all later times.
        """
        times = data.label_numbers(self.time)
        gaps = (times[1:] - times[:-1]).clamp(min=0.0)
        first = torch.ones_like(times[:1])
        later = times.unsqueeze(1) >= times  # [t, s]: time t is not before time s
        if self.dynamics == "random_walk":
            shocks = torch.cat([v.sigma_alpha * first, v.sigma_time * gaps.sqrt()], -1)  # (chains, times)
            root = later * shocks.unsqueeze(-2)
        else:
            since = (times.unsqueeze(1) - times).clamp(min=0.0)
            shocks = torch.cat([first.expand(len(v.phi), 1), (1.0 - v.phi ** (2.0 * gaps)).sqrt()], -1)
            decay = v.phi.unsqueeze(-1) ** since
            root = later * decay * (v.sigma_alpha * shocks).unsqueeze(-2)
        mean = v.mu_alpha0 + self.by_group(v, data)  # (chains, 1 or groups)
        return MultivariateNormal(mean.unsqueeze(-1).expand(*mean.shape, len(times)), scale_tril=root.unsqueeze(1))

    def eta_exported(self) -> str:
        """alpha_jt + x_ijt' beta."""
        return f"at({latent('alpha')}, {codes(self.plate)}, {codes(self.time)})" + self.shared_exported()

    def populations(self, data: Data) -> dict[str, Population]:
        """Of the paths, as `paths` has it, at the times of these data."""
        times = data.label_numbers(self.time).double()
        gaps = (times[1:] - times[:-1]).clamp(min=0.0)
        later = f"array({(times.unsqueeze(1) >= times).double().tolist()!r})"
        alpha = latent("sigma_alpha")
        if self.dynamics == "random_walk":
            steps = f"wide({latent('sigma_time')}) * array({gaps.sqrt().tolist()!r})"
            root = f"{later} * across(joined({alpha}, {steps}))"
        else:
            phi, since = f"wide({latent('phi')})", (times.unsqueeze(1) - times).clamp(min=0.0)
            shocks = f"joined(1.0 + 0.0 * {alpha}, sqrt(1.0 - power({phi}, array({(2.0 * gaps).tolist()!r}))))"
            decay = f"power(wide({phi}), array({since.tolist()!r}))"
            root = f"{later} * {decay} * across(wide({alpha}) * {shocks})"
        mean = f"wide({latent('mu_alpha0') + dotted('gamma', self.group_predictors)})"
        return {"alpha": Population(f"{mean} * array({[1.0] * len(times)!r})", "1.0", root)}

    def eta(self, v: Values, data: Data) -> Tensor:
        """alpha_jt + x_ijt' beta."""
        return v.alpha[:, data[self.plate], data[self.time]] + self.shared(v, data)
