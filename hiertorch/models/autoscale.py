"""Priors as wide as the data ask for (as rstanarm and Bambi have them).

With m and s the mean and sd of y where eta is in units of y (gaussian, Student's t), and m = 0, s = 1 elsewhere, and
s_x the sd of a predictor over rows:

    intercepts ~ Normal(m, 2.5 s),  coefficients ~ Normal(0, 2.5 s / s_x),
    scales ~ HalfStudentT(4, s), those of slopes HalfStudentT(4, s / s_x),  lambda ~ Gamma(1, s).

Goodrich et al. (2020), rstanarm, "Prior Distributions"; Westfall (2017) for the reasoning.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal

from hiertorch.data import Data
from hiertorch.distributions import HalfStudentT
from hiertorch.latent import Latent, Values

if TYPE_CHECKING:
    from hiertorch.models.regression import Regression

__all__ = ["autoscaled"]

WIDE, DF = 2.5, 4.0
INTERCEPTS = ("alpha", "mu", "mu_alpha", "mu_alpha0")

Scaled = tuple[Callable[..., Distribution], str]


def autoscaled(model: "Regression") -> dict[str, Scaled]:
    """Latent -> its prior as a function of the data, and as text, for latents whose prior is fixed and whose meaning is
    known.
    """
    found = {}
    for name, latent in model.latents.items():
        if isinstance(latent.prior, Distribution) and (scaled := _prior(name, latent, scaled=model.family.scaled)):
            found[name] = scaled
    return found


def _prior(name: str, latent: Latent, *, scaled: bool) -> Scaled | None:
    """By the latent's name and its labels, which are columns."""
    axes = latent.axes
    unit = " sd(y)" if scaled else ""
    one = unit.strip() or "1"

    def spread(data: Data) -> Tensor:
        """s over the sds of the columns that label the latent, `event`."""
        total = data.scale_of(data.name)[1] if scaled else data.y.new_ones(())
        for k, axis in enumerate(axes):
            sds = torch.stack([data.y.new_ones(()) if c == "intercept" else data.scale_of(str(c))[1] for c in axis])
            total = total / sds.reshape(-1, *(1,) * (len(axes) - 1 - k))
        return total

    def independent(distribution: Distribution) -> Distribution:
        return Independent(distribution, len(axes)) if axes else distribution

    over = " / sd(x)" * len(axes)
    if name in INTERCEPTS:

        def intercept(v: Values, data: Data) -> Distribution:
            mean = data.scale_of(data.name)[0] if scaled else data.y.new_zeros(())
            return independent(Normal(mean, WIDE * spread(data)))

        return intercept, f"Normal({'mean(y)' if scaled else '0'}, {WIDE}{unit})"
    if name.startswith(("beta", "mu_beta", "gamma")):

        def slopes(v: Values, data: Data) -> Distribution:
            return independent(Normal(data.y.new_zeros(()), WIDE * spread(data)))

        return slopes, f"Normal(0, {WIDE}{unit}{over})"
    if name.startswith("sigma"):

        def scales(v: Values, data: Data) -> Distribution:
            return independent(HalfStudentT(DF, spread(data)))

        return scales, f"HalfStudentT({DF:g}, {one}{over})"
    if name.startswith("lambda"):

        def rates(v: Values, data: Data) -> Distribution:
            return independent(Gamma(1.0, spread(data)))

        return rates, f"Gamma(1, {one})"
    return None
