"""What `print(model)` shows of a ready structure: its formula, then every latent with prior and plate, one a line."""

import pytest
from torch.distributions import Exponential

from hiertorch.families import Poisson
from hiertorch.model.latent import Latent
from hiertorch.models import CorrelatedEffects, Nested, NoPooling, TimeVarying, VaryingIntercepts


class Narrow(VaryingIntercepts):
    sigma_alpha = Latent(Exponential(2.0))
    alpha = Latent(lambda v: Exponential(v.sigma_alpha))


PRINTED = [
    (
        VaryingIntercepts("school", ["SES", "age"], group_predictors=["sector"], priors={"beta": "Normal(0, 10)"}),
        """\
VaryingIntercepts(
  y ~ Normal(eta, sigma_y)
  eta = alpha[school] + beta . (SES, age)

  mu_alpha    ~ Normal(mean(y), 2.5 sd(y) |1, mean(x) / sd(x)|)
  sigma_alpha ~ HalfStudentT(4, sd(y))
  beta        ~ Normal(0, 10)  [SES, age]
  gamma       ~ Normal(0, 2.5 sd(y) / sd(x))  [sector]
  sigma_y     ~ HalfStudentT(4, sd(y))
  alpha       ~ Normal(mu_alpha + gamma . (sector), sigma_alpha)  for each school
)""",
    ),
    (
        CorrelatedEffects("subject", ["days", "dose"], varying=["days"]),
        """\
CorrelatedEffects(
  y ~ Normal(eta, sigma_y)
  eta = effects[subject] . (1, days) + beta_shared . (dose)

  mu_alpha    ~ Normal(mean(y), 2.5 sd(y) |1, mean(x) / sd(x)|)
  mu_beta     ~ Normal(0, 2.5 sd(y) / sd(x))  [days]
  sigma_alpha ~ HalfStudentT(4, sd(y) |1, mean(x) / sd(x)|)
  sigma_beta  ~ HalfStudentT(4, sd(y) / sd(x))  [days]
  beta_shared ~ Normal(0, 2.5 sd(y) / sd(x))  [dose]
  sigma_y     ~ HalfStudentT(4, sd(y))
  L           ~ LKJCholesky(2, 2)
  effects     ~ MultivariateNormal((mu_alpha, mu_beta), D L L' D), D = diag(sigma_alpha, sigma_beta)"""
        "  for each subject  [intercept, days]\n)",
    ),
    (
        Nested(["district", "school"], ["x"], family=Poisson("time"), offset="shift"),
        """\
Nested(
  y ~ Poisson(time exp(eta))
  eta = alpha_school[school] + beta . (x) + shift

  mu             ~ Normal(log(mean(y / time)), 2.5 sd(log(y / time)) |1, mean(x) / sd(x)|)
  beta           ~ Normal(0, 2.5 sd(log(y / time)) / sd(x))  [x]
  sigma_district ~ HalfStudentT(4, sd(log(y / time)))
  alpha_district ~ Normal(mu, sigma_district)  for each district
  sigma_school   ~ HalfStudentT(4, sd(log(y / time)))
  alpha_school   ~ Normal(alpha_district, sigma_school)  for each school
)""",
    ),
    (
        NoPooling("school", ["x"], family="student_t", priors="tutorial"),
        """\
NoPooling(
  y ~ StudentT(nu_y, eta, sigma_y)
  eta = alpha[school] + beta[school] . (x)

  alpha   ~ Normal(0, 5)  for each school
  beta    ~ Normal(0, 2)  for each school  [x]
  sigma_y ~ Gamma(1, 1)
  nu_y    ~ Gamma(2, 0.1)
)""",
    ),
    (
        TimeVarying("child", "year", dynamics="ar1", family="bernoulli"),
        """\
TimeVarying(
  y ~ Bernoulli(logit^-1(eta))
  eta = alpha[child, year]

  mu_alpha0   ~ Normal(logit(mean(y)), 2.5)
  sigma_alpha ~ HalfStudentT(4, 1)
  phi         ~ Beta(mean gap of year, 1)
  alpha       ~ AR(1) around mu_alpha0, sd sigma_alpha, correlation phi^(d year)  for each child
)""",
    ),
    (
        Narrow("school"),  # priors of a subclass, and no text for a function that only it knows
        """\
Narrow(
  y ~ Normal(eta, sigma_y)
  eta = alpha[school]

  mu_alpha    ~ Normal(mean(y), 2.5 sd(y))
  sigma_alpha ~ Exponential(2)
  sigma_y     ~ HalfStudentT(4, sd(y))
  alpha       ~ function of earlier latents  for each school
)""",
    ),
]


@pytest.mark.parametrize(("model", "text"), PRINTED, ids=[type(model).__name__ for model, _ in PRINTED])
def test_a_ready_model_prints_itself(model, text, capsys):
    print(model)
    printed = capsys.readouterr().out
    assert "\n".join(line.rstrip() for line in printed.splitlines()) == text
