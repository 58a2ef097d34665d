"""One latent: what it takes as a prior, the distribution that it makes of it, what reading others' values says."""

import copy
import functools
from functools import partial

import builders
import pytest
import torch
from scipy import stats
from torch.distributions import (
    AffineTransform,
    Beta,
    Chi2,
    Dirichlet,
    Distribution,
    ExpTransform,
    Gamma,
    Gumbel,
    HalfNormal,
    Independent,
    LKJCholesky,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
    Weibull,
)

from hiertorch.errors import ModelError
from hiertorch.model.copies import cast
from hiertorch.model.latent import Latent, Values
from hiertorch.runtime.validating import validation

CPU = torch.device("cpu")


refused = partial(builders.refused, ModelError)


def built(latent, data=None, **tensors):
    values = Values({name: torch.as_tensor(x, dtype=torch.float64) for name, x in tensors.items()})
    return latent.distribution(values, data, CPU, torch.float64)


# Declaring


@pytest.mark.parametrize("prior", [5.0, Normal, "Normal(0, 1)", None, [Normal(0.0, 1.0)]])
def test_a_prior_is_a_distribution_or_a_function(prior):
    with refused("a latent's prior must be", repr(prior), "write ht.Latent(Normal(0.0, 1.0))"):
        Latent(prior)


@pytest.mark.parametrize("plate", [3, ["school"], True])
def test_a_plate_is_a_name(plate):
    with refused("a plate is the name of a grouping (str) or None", repr(plate)):
        Latent(Normal(0.0, 1.0), plate=plate)


@pytest.mark.parametrize("event", [0, -1, (2, 0), "ab", (2.0,)])
def test_an_event_is_a_shape(event):
    with refused("event is a shape such as 3 or (2, 3)", repr(event)):
        Latent(Normal(0.0, 1.0), event=event)


def test_labels_are_one_list_a_dimension():
    assert Latent(Normal(0.0, 1.0), event=2, labels=["SES", "sector"]).labels == (("SES", "sector"),)
    assert Latent(Normal(0.0, 1.0), event=(1, 2), labels=[["a"], ["b", "c"]]).labels == (("a",), ("b", "c"))
    assert Latent(Normal(0.0, 1.0)).labels is None


def test_what_a_latent_looks_like():
    assert repr(Latent(Normal(0.0, 5.0))) == "Latent(Normal(loc: 0.0, scale: 5.0))"
    assert repr(Latent(lambda v: v, plate="school")) == "Latent(function of earlier latents, plate='school')"


def test_a_copy_of_a_latent_is_the_latent():
    latent = Latent(Normal(0.0, 1.0))
    assert copy.deepcopy({"a": latent})["a"] is latent


# What the prior function is given


class Scaled:
    def prior(self, v, data):
        return Normal(v.mu, float(data))


@pytest.mark.parametrize(
    ("prior", "scale"),
    [
        (lambda v: Normal(v.mu, 1.0), 1.0),
        (lambda v, data: Normal(v.mu, data), 2.0),
        (lambda v, scale=3.0: Normal(v.mu, scale), 3.0),
        (lambda v, *, scale=3.0: Normal(v.mu, scale), 3.0),
        (functools.partial(lambda scale, v: Normal(v.mu, scale), 4.0), 4.0),
        (Scaled().prior, 2.0),
    ],
)
def test_functions_of_two_parameters_are_given_the_data(prior, scale):
    distribution = built(Latent(prior), 2.0, mu=[[7.0]])
    assert distribution.loc.tolist() == [[7.0]]
    assert distribution.scale.unique().tolist() == [scale]


def test_plain_numbers_take_on_device_and_dtype():
    for prior in (Normal(0.0, 1.0), lambda v: Normal(0.0, 1.0), lambda v: LKJCholesky(3, 2.0)):
        sample = built(Latent(prior)).sample()
        assert sample.dtype == torch.float64
    wide = built(Latent(lambda v: Normal(v.mu, 1.0)), mu=[[0.0]])
    assert wide.sample().dtype == torch.float64


def test_wrong_precision_of_tensors_is_not_hidden():
    latent = Latent(lambda v: Normal(v.mu.float(), 1.0))
    assert built(latent, mu=[[0.0]]).loc.dtype == torch.float32


# event=


CHAINS, SIZE = 4, 5


def grid(low, high):
    """Parameters `(chains, size)` that all differ."""
    return torch.linspace(low, high, CHAINS * SIZE, dtype=torch.float64).reshape(CHAINS, SIZE)


SCALAR = {
    "normal": (lambda v: Normal(v.a, v.b), lambda a, b: stats.norm(a, b)),
    "gamma": (lambda v: Gamma(v.b, v.a), lambda a, b: stats.gamma(b, scale=1 / a)),
    "student": (lambda v: StudentT(3.0, v.a, v.b), lambda a, b: stats.t(3.0, a, b)),
    "gumbel": (lambda v: Gumbel(v.a, v.b), lambda a, b: stats.gumbel_r(a, b)),
    "weibull": (lambda v: Weibull(v.b, v.a), lambda a, b: stats.weibull_min(a, scale=b)),
    "shifted": (
        lambda v: TransformedDistribution(Normal(0.0 * v.a, 1.0), [AffineTransform(v.a, v.b), ExpTransform()]),
        lambda a, b: stats.lognorm(b, scale=torch.as_tensor(a).exp()),
    ),
}


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("event", [3, (2, 3), CHAINS, SIZE])
def test_event_makes_independent_copies_of_every_group(name, event):
    prior, reference = SCALAR[name]
    a, b = grid(0.5, 2.0), grid(1.0, 3.0)
    distribution = built(Latent(prior, plate="g", event=event), a=a, b=b)
    shape = (event,) if isinstance(event, int) else event
    assert distribution.batch_shape == (CHAINS, SIZE)
    assert distribution.event_shape == shape
    torch.manual_seed(0)
    x = distribution.sample()
    assert x.shape == (CHAINS, SIZE, *shape)
    ones = (CHAINS, SIZE, *(1,) * len(shape))
    expected = reference(a.reshape(ones), b.reshape(ones)).logpdf(x).reshape(CHAINS, SIZE, -1).sum(-1)
    torch.testing.assert_close(distribution.log_prob(x), torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_event_of_a_fixed_prior():
    distribution = built(Latent(Gamma(2.0, 0.5), event=(2, 3)))
    assert isinstance(distribution, Independent)
    x = distribution.expand((4, 1)).sample()
    assert x.shape == (4, 1, 2, 3)
    expected = stats.gamma(2.0, scale=2.0).logpdf(x).sum((2, 3))
    torch.testing.assert_close(distribution.log_prob(x), torch.as_tensor(expected))


@pytest.mark.parametrize("prior", [Dirichlet(torch.ones(3)), lambda v: Dirichlet(v.a)])
def test_event_is_for_scalar_priors(prior):
    with refused("event=(2,) makes copies of a scalar prior", "event shape (3,)", "leave event= out"):
        built(Latent(prior, event=2), a=torch.ones(4, 1, 3))


# Casting


def mixture():
    return MixtureSameFamily(torch.distributions.Categorical(torch.tensor([0.25, 0.75])), Normal(torch.zeros(2), 1.0))


def inverted():
    """A transform that knows its inverse, which knows it."""
    step = ExpTransform()
    assert step.inv.inv is step
    return TransformedDistribution(Normal(0.0, 1.0), [step, AffineTransform(torch.tensor(1.0), torch.tensor(2.0))])


@pytest.mark.parametrize(
    "prior", [Normal(0.0, 1.0), Gumbel(0.0, 1.0), LKJCholesky(3, 2.0), Uniform(-1.0, 1.0), mixture(), inverted()]
)
def test_cast_is_a_deep_copy_in_another_precision(prior):
    before = str(vars(prior))
    double = cast(prior, CPU, torch.float64)
    torch.manual_seed(1)
    x = double.sample((6,))
    assert x.dtype == double.log_prob(x).dtype == torch.float64
    torch.testing.assert_close(double.log_prob(x), prior.log_prob(x.float()).double(), rtol=1e-4, atol=1e-4)
    assert str(vars(prior)) == before
    assert prior.sample().dtype == torch.float32


def test_cast_does_not_validate():
    outside = torch.tensor(-1.0, dtype=torch.float64)
    with pytest.raises(ValueError, match="support"):
        Gamma(1.0, 1.0).log_prob(outside)
    assert cast(Gamma(1.0, 1.0), CPU, torch.float64).log_prob(outside).shape == ()


@pytest.mark.parametrize("before", [True, False])
def test_validation_is_put_back(before):
    standing = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(before)
        with pytest.raises(RuntimeError, match="inside"), validation(not before):
            assert Distribution._validate_args is not before
            raise RuntimeError("inside")
        assert Distribution._validate_args is before
    finally:
        Distribution.set_default_validate_args(standing)


# Values


def test_values_are_read_by_name():
    v = Values({"mu": torch.zeros(2, 1), "get_": torch.ones(2, 1)})
    assert v.mu is v["mu"]
    assert list(v) == ["mu", "get_"]
    assert len(v) == 2
    assert "mu" in v
    assert "nu" not in v
    assert dict(v) == {"mu": v.mu, "get_": v.get_}


def test_values_note_what_is_read():
    read = set()
    v = Values({"a": torch.zeros(1, 1), "b": torch.zeros(1, 1), "c": torch.zeros(1, 1)}, (), read)
    assert "c" in v
    assert v.a is not v["b"]
    assert read == {"a", "b"}


def test_reading_too_early_or_what_is_not_there():
    v = Values({"mu": torch.zeros(1, 1)}, ("mu", "tau"))
    with refused("'tau'", "declared later", "declare 'tau' above it", "readable here: mu"):
        _ = v.tau
    with refused("'sigma'", "which the model does not declare", "readable here: mu"):
        _ = v["sigma"]
    with refused("readable here: none"):
        _ = Values({}).mu
    with pytest.raises(AttributeError):
        _ = v.__wrapped__


def test_priors_as_people_write_them():
    for prior, text in (
        (Normal(0.0, 5.0), "Normal(0, 5)"),
        (Gamma(2.0, 0.1), "Gamma(2, 0.1)"),
        (HalfNormal(0.3), "HalfNormal(0.3)"),
        (LogNormal(0.0, 2.0), "LogNormal(0, 2)"),
        (LKJCholesky(3, 2.0), "LKJCholesky(3, 2)"),
        (Independent(Normal(torch.zeros(2), torch.tensor([5.0, 2.0])), 1), "Normal(0, [5, 2])"),
        (Uniform(-0.9, 0.9), "Uniform(-0.9, 0.9)"),
        (Beta(2.0, 3.5), "Beta(2, 3.5)"),
        (Chi2(3.0), "Chi2(3)"),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), "MultivariateNormal(0, [1, 0, 0, 1])"),
    ):
        assert Latent(prior).text == text
    assert Latent(lambda v: v).text == "function of earlier latents"


def placed(latent: Latent, dtype: torch.dtype = torch.float64) -> Distribution:
    return latent.distribution(Values({}), None, CPU, dtype)


def test_a_declared_prior_is_placed_once() -> None:
    """Wherever all its numbers are as they are wanted, and it keeps nothing of what it is asked for."""
    for latent in (Latent(Gamma(2.0, 3.0)), Latent(HalfNormal(1.0)), Latent(Normal(0.0, 1.0), event=3)):
        assert placed(latent) is placed(latent) and latent.proves(placed(latent))
        assert not latent.proves(placed(latent, torch.float32))
    vector = Latent(MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert placed(vector) is not placed(vector) and not vector.proves(placed(vector))
    remembering = TransformedDistribution(Normal(0.0, 1.0), [ExpTransform(cache_size=1)])
    assert placed(Latent(remembering)) is not remembering


def test_declared_parameters_that_are_impossible_are_not_proved() -> None:
    latent = Latent(Gamma(-1.0, 1.0, validate_args=False))
    assert not latent.proves(placed(latent))
