"""Densities and means of every family stay on the device of their rows, without waiting for a value."""

import pytest
import torch
from fake_cuda import CUDA, assert_on_gpu, fake_mode

from hiertorch import families
from hiertorch.model.latent import Values

CHAINS, ROWS = 2, 3
LINKED = [kind(link=link) for kind in (families.Bernoulli, families.Poisson, families.Gamma) for link in kind.links]
CONTINUOUS = [
    getattr(families, name)()
    for name in (
        "Gaussian",
        "StudentT",
        "LogNormal",
        "Gamma",
        "Exponential",
        "Weibull",
        "InverseGaussian",
        "SkewNormal",
    )
]
CUT = [families.Censored(base, "trials", "y") for base in [*CONTINUOUS, families.Beta()]]
CUT += [families.Truncated(base, 0.1, "y") for base in [*CONTINUOUS, families.Beta()]]


class Rows(dict):
    """Columns, and a response."""

    @property
    def y(self):
        return self["y"]


@pytest.mark.slow
@pytest.mark.parametrize("family", [*(kind() for kind in families.NAMES.values()), *LINKED, *CUT], ids=repr)
def test_families_run_on_the_device(family):
    with fake_mode():

        def number(*shape):
            return torch.full(shape, 0.5, dtype=torch.float64, device=CUDA)

        data = Rows({name: 2.0 * number(ROWS) for name in ("y", "trials")})
        v, eta = Values({name: number(CHAINS, 1) for name in family.latents}), number(CHAINS, ROWS)
        made = family.distribution(eta, v, data)
        found = [made.log_prob(number(ROWS)), family.mean(eta, v, data)]
        assert_on_gpu(*found, family.derivatives(number(ROWS), eta, v, data) or ())
        assert all(x.dtype == torch.float64 for x in found)
