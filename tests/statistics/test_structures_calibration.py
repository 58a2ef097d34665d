"""Simulation-based calibration of every ready structure and family; see test_calibration.py for what is ranked and how.

Each case simulates 200 data sets or more from its prior, on rows that `simulate_grouped` laid out, and samples them as
one batch by the moves that serve any model: `data.y` has a chain axis. Gaussian structures are also run with what can
be integrated out integrated out. Priors are narrow, so that few rows and a few hundred sweeps are enough everywhere.

Note [One tuning for all data sets]
What warm-up learns is pooled over chains, and here chains have data of their own, so that one walk and one guess serve
posteriors of different places and widths. Mixing is the slower, the wider coefficients and noise scatter over data sets
in comparison with a posterior. So these have narrower priors, and draws are 30 sweeps apart. Of runs that integrate
out, one in ten proposals is accepted where it is one in two with data of one kind: 6 sweeps apart, draws of three
correlated effects had an autocorrelation of 0.4, and over 60 sets of truths p-values of what is sampled were too small
(a third of them below 0.05, and none of what is drawn exactly); 60 sweeps apart they are uniform.

Note [Draws beside each truth]
A truth is ranked among 24 draws. That its place u is known to sqrt(u (1 - u) / 24) <= 0.1 alone hides little: of 200
data sets, what is seen is a distribution that is off by more than 0.14 anywhere. More draws cost more than they show.

Error rate: 1e-3 a test, shared by its p-values (Bonferroni), so about 2 in 100 for the file; seeds are fixed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from references import failures, uniformity
from torch import Tensor

import hiertorch as ht
from hiertorch.families import Binomial, Gaussian, NegativeBinomial, Poisson
from hiertorch.posterior import Posterior

pytestmark = pytest.mark.slow
Sample = Callable[..., Posterior]
DATA_SETS, CHAINS, DRAWS, THIN, THIN_INTEGRATED = 200, 2, 12, 30, 60
GROUPS = 2  # of each plate, whose effects are ranked

UNIT, SCALE = "Normal(0, 1)", "Gamma(3, 3)"  # the scale is seldom below 0.1
SLOPE, NOISE = "Normal(0, 0.5)", "Gamma(10, 10)"  # of what rows read, see Note [One tuning for all data sets]
INTERCEPTS = {"mu_alpha": UNIT, "sigma_alpha": SCALE, "beta": SLOPE}
BOTH = {"mu_alpha": UNIT, "mu_beta": UNIT, "sigma_alpha": SCALE, "sigma_beta": SCALE, "sigma_y": NOISE}
PATHS = {"mu_alpha0": UNIT, "sigma_alpha": SCALE, "beta": SLOPE, "sigma_y": NOISE}
LEVELS = {"mu": SLOPE, "beta": SLOPE, "sigma_y": NOISE}


class Case(NamedTuple):
    """A model, and groups and rows of the data that it is given."""

    model: ht.Model
    groups: Any = 4
    rows: Any = (3, 4, 5, 7)


def uneven(priors: Mapping[str, str], **options: Any) -> Case:
    """Varying intercepts with one predictor, of some family."""
    return Case(ht.models.VaryingIntercepts("school", ["x"], priors=priors, **options))


GAUSSIAN = {
    "complete pooling": Case(
        ht.models.CompletePooling(["x"], priors={"alpha": SLOPE, "beta": SLOPE, "sigma_y": NOISE}), 1, 12
    ),
    "no pooling": Case(ht.models.NoPooling("school", ["x"], priors={"alpha": UNIT, "beta": UNIT, "sigma_y": NOISE})),
    "varying intercepts": uneven({**INTERCEPTS, "sigma_y": NOISE, "gamma": UNIT}, group_predictors=["u"]),
    "varying slopes": Case(
        ht.models.VaryingSlopes(
            "school", ["x"], priors={"alpha": SLOPE, "mu_beta": UNIT, "sigma_beta": SCALE, "sigma_y": NOISE}
        )
    ),
    "mixed effects": Case(ht.models.MixedEffects("school", ["x"], priors=BOTH)),
    "correlated effects, lkj": Case(ht.models.CorrelatedEffects("school", ["x"], priors=BOTH), 6, 4),
    "correlated effects, lkj, three": Case(ht.models.CorrelatedEffects("school", ["x", "z"], priors=BOTH), 6, 5),
    "correlated effects, uniform": Case(
        ht.models.CorrelatedEffects("school", ["x"], correlation="uniform", priors=BOTH), 6, 4
    ),
    "hierarchical priors": Case(
        ht.models.HierarchicalPriors(
            "school", ["x"], priors={"mu_alpha": UNIT, "beta": SLOPE, "lambda_alpha": SCALE, "lambda_y": SCALE}
        )
    ),
    "time-varying, random walk": Case(
        ht.models.TimeVarying("school", "year", ["x"], priors={**PATHS, "sigma_time": SCALE}),
        {"school": 4, "year": [1, 2, 4, 5]},
        [4, 5, 6, 3],
    ),
    "time-varying, AR(1)": Case(
        ht.models.TimeVarying("school", "year", ["x"], dynamics="ar1", priors=PATHS),
        {"school": 4, "year": [1, 2, 4, 5]},
        [4, 5, 6, 3],
    ),
    "nested": Case(
        ht.models.Nested(["school", "class"], ["x"], priors={**LEVELS, "sigma_school": SCALE, "sigma_class": SCALE}),
        {"school": 3, "class": 2},
        [2, 3, 4, 5, 3, 4],
    ),
    "crossed": Case(
        ht.models.Crossed(
            ["student", "lecturer"], ["x"], priors={**LEVELS, "sigma_student": SCALE, "sigma_lecturer": SCALE}
        ),
        {"student": 4, "lecturer": 3},
        6,
    ),
}
FAMILIES = {
    "gaussian, known standard errors": uneven(INTERCEPTS, family=Gaussian("se")),
    "student_t": uneven({**INTERCEPTS, "sigma_y": NOISE}, family="student_t"),
    "bernoulli": uneven(INTERCEPTS, family="bernoulli"),
    "binomial": uneven(INTERCEPTS, family=Binomial("trials")),
    "poisson": uneven(INTERCEPTS, family=Poisson("exposure")),
    "negative_binomial": uneven({**INTERCEPTS, "phi_y": "Gamma(3, 1)"}, family=NegativeBinomial("exposure")),
}
CASES = GAUSSIAN | FAMILIES


def laid_out(case: Case, seed: int = 31) -> ht.Data:
    """Groups and columns, with a response that is not used."""
    return ht.simulate_grouped(case.groups, case.rows, model=case.model, seed=seed).data


def ranked(model: ht.Model, values: Mapping[str, Tensor], data: ht.Data) -> dict[str, Tensor]:
    """What is ranked, `(chains, ..., entries)`: latents of the first groups, entries that vary, and correlations."""
    found = {name: x[:, :GROUPS].flatten(1) for name, x in values.items()}
    found |= {name: part(model.values(values), data).flatten(1) for name, part in model.derived.items()}
    return {name: x[:, x.std(0) > 0] for name, x in found.items()}


def p_values(model: ht.Model, truth: Mapping[str, Tensor], draws: Mapping[str, Tensor], data: ht.Data) -> dict:
    """Of the ranks of truths `(data sets, ...)` in draws `(data sets x chains, draws, ...)`."""
    drawn = {name: draws[name].flatten(0, 1) for name in model.latents}
    number = CHAINS * DRAWS
    among = ranked(model, drawn, data)
    return uniformity(
        {name: x.unflatten(0, (-1, number)) for name, x in among.items()}, ranked(model, truth, data), number
    )


def batched(
    case: Case, sample: Sample, data_sets: int, *, thin: int = THIN, simulated_by: ht.Model | None = None
) -> dict:
    """p-values of all data sets sampled as one batch; the log density is ranked, too."""
    model, data, generator = case.model, laid_out(case), torch.Generator().manual_seed(32)
    with torch.no_grad():
        truth = (simulated_by or model).sample_prior(data, data_sets, generator)
        y = model.simulate(truth, data, generator)
        posterior = sample(
            model,
            data.replace(y=y.repeat_interleave(CHAINS, 0)),
            chains=data_sets * CHAINS,
            warmup=250,
            draws=DRAWS,
            thin=thin,
            seed=33,
        )
        found = p_values(model, truth, posterior.draws, data)
        target = ht.plan(model, data.replace(y=y), collapse=False).target
        density = target.state(target.space.unconstrain(truth)).log_density()
    return found | uniformity({"log density": posterior.stats.log_density}, {"log density": density}, CHAINS * DRAWS)


def integrated(case: Case, sample: Sample, data_sets: int, *, simulated_by: ht.Model | None = None) -> dict:
    """p-values of a run that integrates out, of all data sets in turn."""
    model, data, generator = case.model, laid_out(case), torch.Generator().manual_seed(34)
    with torch.no_grad():
        truth = (simulated_by or model).sample_prior(data, data_sets, generator)
        y = model.simulate(truth, data, generator).repeat(CHAINS, 1)
        run = sample(model, data.replace(y=y), collapse=True, warmup=400, draws=DRAWS, thin=THIN_INTEGRATED, seed=35)
    assert all(block.startswith("collapsed(") for block in run.stats.acceptance)
    draws = {name: x.unflatten(0, (CHAINS, -1)).transpose(0, 1).flatten(0, 1) for name, x in run.draws.items()}
    return p_values(model, truth, draws, data)


@pytest.mark.filterwarnings("ignore:grouping 'group' is never read")
@pytest.mark.parametrize("name", CASES)
def test_structures_and_families_are_calibrated(name: str, sample: Sample) -> None:
    assert not failures(batched(CASES[name], sample, DATA_SETS))


@pytest.mark.filterwarnings("ignore:grouping 'group' is never read")
@pytest.mark.parametrize("name", [*GAUSSIAN, "gaussian, known standard errors"])
def test_runs_that_integrate_out_are_calibrated(name: str, sample: Sample) -> None:
    assert not failures(integrated(CASES[name], sample, DATA_SETS))


@pytest.mark.parametrize("run", [batched, integrated])
def test_truths_of_another_model_are_noticed(run: Callable[..., dict], sample: Sample) -> None:
    """The truth has slopes with twice the spread that the fitted model expects."""
    case = CASES["varying slopes"]
    priors = {"alpha": SLOPE, "mu_beta": UNIT, "sigma_beta": "Gamma(3, 1.5)", "sigma_y": NOISE}
    wider = ht.models.VaryingSlopes("school", ["x"], priors=priors)
    found = failures(run(case, sample, DATA_SETS, simulated_by=wider))
    assert any(what.startswith("sigma_beta") for what in found)
    assert found
