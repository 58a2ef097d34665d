"""Numbers before coefficients given these: chains end at what quadrature says, and broken ones do not.

Chains are independent of one another, and begin at draws from the prior. Marginals are compared by the test of
Kolmogorov and Smirnov, at an error rate of 1e-3 a case over all of them (Bonferroni).
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import hiertorch as ht
from hiertorch.gaussian.localscales import Local
from hiertorch.run import givencoefficients
from hiertorch.run.givencoefficients import GivenCoefficients
from hiertorch.run.standing import Standing

pytestmark = pytest.mark.usefixtures("as_in_sampling")

CHAINS, STEPS, ALPHA = 1_500, 20, 1e-3
BETA = np.array([0.02, -0.6, 0.3])


def made(prior: str) -> tuple[GivenCoefficients, dict[str, Tensor]]:
    """Of a model with three columns of sd 1, and draws from its prior."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3))
    x = (x - x.mean(0)) / x.std(0)
    frame = {"y": (rng.random(40) < 0.5).astype(float), **{f"x{k}": x[:, k] for k in range(3)}}
    model, data = ht.formula("y ~ x0 + x1 + x2", frame, family="bernoulli", priors={"beta": prior})
    plan = ht.plan(model, data)
    assert plan.surrogate is not None
    (local,) = plan.surrogate.local
    given = GivenCoefficients(Standing(plan.structure.target, plan.surrogate.first.rest), local)
    return given, dict(model.sample_prior(data, CHAINS, torch.Generator().manual_seed(4)))


def ended(prior: str, *, recorded: bool = False, fixed: dict[str, float] | None = None) -> dict[str, np.ndarray]:
    """Values after some steps at the same coefficients in all chains."""
    given, values = made(prior)
    unit = torch.from_numpy(given.standing.target.data["common design"].numpy().std(0))
    values["beta"] = (torch.from_numpy(BETA) / unit).expand(CHAINS, 1, 3)
    values |= {name: torch.full_like(values[name], x) for name, x in (fixed or {}).items()}
    position, generator = given.standing.position(values), torch.Generator().manual_seed(5)
    if recorded:
        given.record(position, values)
    for sweep in range(STEPS):
        uniform = torch.rand(given.numbers, CHAINS, generator=generator, dtype=torch.float64)
        position, _ = given.step(position, values, sweep, uniform)
    return {name: x.flatten(1).numpy() for name, x in given.standing.constrained(position).items()}


def rejected(found: dict[str, np.ndarray], known: dict[str, Callable[[np.ndarray], np.ndarray]]) -> dict[str, float]:
    p = {name: float(stats.kstest(found[name], cdf).pvalue) for name, cdf in known.items()}
    return {name: x for name, x in p.items() if x < ALPHA / len(p)}


def cdf_of(at: np.ndarray, height: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of heights on a grid, by the trapezoidal rule."""
    density = np.exp(height - height.max())
    whole = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(at))])
    return lambda x: np.interp(x, at, whole / whole[-1])


def horseshoe() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Of log tau, log c^2 and log lambda given b: lambda is summed over for each tau and c^2."""
    tau, slab, local = np.linspace(-12, 8, 80), np.linspace(-3, 12, 60), np.linspace(-25, 22, 240)
    t, c, u = np.exp(tau)[:, None, None], np.exp(slab)[None, :, None], np.exp(local)
    spread = (1 / c + 1 / (t * u) ** 2) ** -0.5
    each = [stats.norm.logpdf(b, 0, spread) + stats.halfcauchy.logpdf(u) + local for b in BETA]
    step = local[1] - local[0]
    summed = [np.log(np.exp(one).sum(2) * step) for one in each]  # (tau, c^2)
    outer = stats.halfcauchy.logpdf(t[:, :, 0], scale=0.3) + tau[:, None]
    outer = outer + stats.invgamma.logpdf(c[:, :, 0], 2.0, scale=8.0) + slab
    whole = outer + sum(summed)
    weight = np.exp(whole - whole.max())
    found = {"tau_beta": cdf_of(tau, np.log(weight.sum(1))), "slab_beta": cdf_of(slab, np.log(weight.sum(0)))}
    for k, one in enumerate(each):
        others = outer + sum(summed[m] for m in range(3) if m != k)
        height = (np.exp(others - others.max())[:, :, None] * np.exp(one)).sum((0, 1))
        found[f"lambda_beta[{k}]"] = cdf_of(local, np.log(height + 1e-300))
    return found


def logs(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        (f"{name}[{k}]" if x.shape[1] > 1 else name): np.log(x[:, k])
        for name, x in found.items()
        for k in range(x.shape[1])
    }


def test_a_horseshoe_given_its_coefficients_is_that_of_quadrature() -> None:
    """Recorded, as in a run."""
    assert not rejected(logs(ended("horseshoe(scale=0.3)", recorded=True)), horseshoe())


def r2d2() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Of the logits of R2 and of a share's part of two, given b: three numbers, on a grid of them."""
    r, v, w = np.linspace(-9, 9, 60), np.linspace(-30, 14, 110), np.linspace(-30, 14, 110)
    part = 1 / (1 + np.exp(-r))[:, None, None]
    # shares by log ratios to the third
    a, b = v[None, :, None], w[None, None, :]
    total = np.logaddexp(np.logaddexp(a, b), 0.0)
    shares = [a - total, b - total, -total]  # logs
    height = stats.beta.logpdf(part, 1.0, 1.0) + np.log(part * (1 - part)) + 0.5 * sum(shares)  # with the Jacobian
    for x, log_share in zip(BETA, shares, strict=True):
        height = height + stats.norm.logpdf(x, 0, np.sqrt(np.exp(log_share) * part / (1 - part)))
    weight = np.exp(height - height.max())
    return {
        "r2": cdf_of(r, np.log(weight.sum((1, 2)) + 1e-300)),
        "first": cdf_of(v, np.log(weight.sum((0, 2)) + 1e-300)),
        "second": cdf_of(w, np.log(weight.sum((0, 1)) + 1e-300)),
    }


def ratios(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    part, shares = found["r2_beta"][:, 0], found["phi_beta"]
    return {
        "r2": np.log(part / (1 - part)),
        "first": np.log(shares[:, 0] / shares[:, 2]),
        "second": np.log(shares[:, 1] / shares[:, 2]),
    }


def test_r2d2_given_its_coefficients_is_that_of_quadrature() -> None:
    assert not rejected(ratios(ended("R2D2")), r2d2())


def another_owner(patch: pytest.MonkeyPatch) -> None:
    right = Local.__init__

    def wrong(self: Local, *given: object, **named: object) -> None:
        right(self, *given, **named)  # type: ignore[arg-type]
        object.__setattr__(self, "owner", self.owner.roll(1))

    patch.setattr(Local, "__init__", wrong)


def uneven_steps(patch: pytest.MonkeyPatch) -> None:
    """Steps lean to one side, which no ratio makes good."""
    right = givencoefficients._steps
    patch.setattr(givencoefficients, "_steps", lambda uniform, unit: right(uniform, unit) + 0.3 * unit)


@pytest.mark.parametrize("broken", [another_owner, uneven_steps])
def test_broken_steps_are_found(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    assert rejected(logs(ended("horseshoe(scale=0.3)")), horseshoe())
    assert rejected(ratios(ended("R2D2")), r2d2())
