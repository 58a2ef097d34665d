"""Bad input gets a sentence before sampling starts: every test goes through `ht.sample`, in which no sweep may run."""

import numpy as np
import pandas as pd
import pytest
import torch
from builders import refused
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Gamma,
    HalfNormal,
    Independent,
    InverseGamma,
    MultivariateNormal,
    Normal,
    Pareto,
    Poisson,
    Uniform,
    constraints,
)

import hiertorch as ht
from hiertorch.errors import DataError, HiertorchError, ModelError, RunFolderError, SamplingError, SamplingWarning
from hiertorch.model import checks, rowchecks
from hiertorch.model.copies import cast
from hiertorch.run.independence import Independence
from hiertorch.run.ordinary import Ordinary
from hiertorch.runtime.validating import validation


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch):
    """Errors must come before the first sweep."""

    def began(*args, **kwargs):
        raise AssertionError("sampling began")

    for engine in (Ordinary, Independence):
        monkeypatch.setattr(engine, "advance", began)


@pytest.fixture(autouse=True, params=[50_000, 5], ids=["all rows", "some rows"])
def looked_at(request, monkeypatch):
    """What is refused, and in which words, does not depend on whether the likelihood is looked at for all rows."""
    monkeypatch.setattr(rowchecks, "ROWS", request.param)
    return request.param


def schools(y=None, **options):
    rng = np.random.default_rng(0)
    groups = {"school": np.arange(12) % 4}
    arguments = {"y": rng.normal(size=12) if y is None else y, "groups": groups, "x": rng.normal(size=12), **options}
    return ht.Data(**arguments)


class Intercepts(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(HalfNormal(1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], 1.0)


def sample(model=None, data=None, **options):
    model = Intercepts() if model is None else model
    return ht.sample(
        model,
        schools() if data is None else data,
        **{"chains": 2, "warmup": 5, "draws": 5, "progress": False, "seed": 0, "compile": False, **options},
    )


def with_prior(prior, **options):
    class OnePrior(Intercepts):
        extra = ht.Latent(prior, **options)

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.school], 1.0 + 0.0 * v.extra.flatten(1)[:, :1].square())

    return OnePrior()


def with_likelihood(function):
    class OneLikelihood(Intercepts):
        def likelihood(self, v, data):
            return function(v, data)

    return OneLikelihood()


def test_good_input_reaches_the_first_sweep():
    for collapse in (True, False):
        with pytest.raises(AssertionError, match="sampling began"):
            sample(collapse=collapse)
    with pytest.raises(AssertionError, match="sampling began"):
        sample(with_prior(lambda v: Normal(v.mu, 1.0)))
    with pytest.raises(AssertionError, match="sampling began"):
        sample(with_likelihood(lambda v, data: Normal(v.alpha[:, data.school], 1.0)))


def test_every_error_is_one_of_ours():
    for error in (DataError, ModelError, SamplingError, RunFolderError):
        assert issubclass(error, HiertorchError)


# Model and data themselves


def test_a_class_in_place_of_a_model():
    with refused(ModelError, "expected an instance of ht.Model, found <class", "Intercepts", "call the class"):
        sample(Intercepts)


@pytest.mark.parametrize("model", [None, "Intercepts", Normal(0.0, 1.0), torch.nn.Linear(1, 1)])
def test_no_model(model):
    with refused(ModelError, "expected an instance of ht.Model, found"):
        ht.sample(model, schools(), progress=False)


@pytest.mark.parametrize("data", [pd.DataFrame({"y": [1.0]}), {"y": [1.0]}, None, torch.zeros(3)])
def test_data_that_is_no_data(data):
    with refused(
        DataError, f"expected ht.Data, found {type(data).__name__}", "ht.Data(y=...) or ht.Data.from_frame(...)"
    ):
        ht.sample(Intercepts(), data, progress=False)


def test_a_model_without_latents():
    class Empty(ht.Model):
        def likelihood(self, v, data):
            return Normal(0.0, 1.0)

    with refused(ModelError, "Empty declares no latents", "mu = ht.Latent(Normal(0.0, 5.0))"):
        sample(Empty())


def test_check_without_sampling():
    with refused(ModelError, "varies over plate 'school'"):
        Intercepts().check(ht.Data([1.0]))
    assert Intercepts().check(schools()) == []


# Data


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda v: schools(y=v), "the response 'y'"),
        (lambda v: schools(x=v), "column 'x'"),
        (lambda v: schools(weights=np.abs(v)), "the weights"),
    ],
)
def test_values_that_are_not_finite(make, what, bad):
    values = np.ones(12)
    values[3] = bad
    with refused(DataError, what, "1 value is NaN, missing or infinite", "first in row 3"):
        sample(data=make(values))


def test_other_data_that_can_not_be_used():
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0], "school": ["a", None, "b"], "x": [1, 2, 3]})
    with refused(DataError, "grouping 'school'", "1 value is missing", "first in row 1"):
        sample(data=ht.Data.from_frame(frame, "y", groups=["school"]))
    with refused(DataError, "the frame has no column 'scool'", "Did you mean 'school'?"):
        sample(data=ht.Data.from_frame(frame, "y", groups=["scool"]))
    with refused(DataError, "column 'x': 5 rows, but the response has 12"):
        sample(data=schools(x=np.ones(5)))
    with refused(DataError, "grouping 'school': 5 rows, but the response has 12"):
        sample(data=schools(groups={"school": [1] * 5}))
    with refused(DataError, "the weights: 11 rows, but the response has 12"):
        sample(data=schools(weights=np.ones(11)))
    with refused(DataError, "the response 'y' has shape (0,)", "at least one row"):
        sample(data=ht.Data([]))


def test_a_plate_that_the_data_lack():
    with refused(ModelError, "latent 'alpha' varies over plate 'school', which the data lack (groupings: 'class')"):
        sample(data=ht.Data([1.0, 2.0], groups={"class": [0, 1]}))
    with refused(ModelError, "'school', which the data lack (groupings: none)"):
        sample(data=ht.Data([1.0, 2.0]))


def test_a_column_that_the_data_lack():
    with refused(ModelError, "the likelihood of OneLikelihood failed", "no column or grouping 'age'", "columns: x"):
        sample(with_likelihood(lambda v, data: Normal(v.mu * data.age, 1.0)))
    with refused(ModelError, "the prior of 'extra' can't be built", "no column or grouping 'age'"):
        sample(with_prior(lambda v, data: Normal(data.age.mean(), 1.0)))


def test_a_prior_that_asks_for_groups_that_do_not_nest():
    data = schools(groups={"school": np.arange(12) % 4, "rater": np.arange(12) % 3})
    model = with_prior(lambda v, data: Normal(v.alpha[:, data.parents("rater", "school")], 1.0), plate="rater")
    with refused(ModelError, "the prior of 'extra' can't be built", "'rater' does not nest in 'school'"):
        sample(model, data)


@pytest.mark.parametrize(
    ("likelihood", "y", "parts"),
    [
        (lambda v, d: Poisson(v.alpha[:, d.school].exp()), -1.0, ["is -1, outside the support", "Poisson"]),
        (lambda v, d: Poisson(v.alpha[:, d.school].exp()), 0.5, ["is 0.5, outside the support", "Poisson"]),
        (lambda v, d: Bernoulli(logits=v.alpha[:, d.school]), 2.0, ["is 2, outside", "Bernoulli", "Boolean"]),
        (lambda v, d: Gamma(1.0, v.alpha[:, d.school].exp()), -3.0, ["is -3, outside", "Gamma"]),
        (lambda v, d: Uniform(v.alpha[:, d.school] - 5, v.alpha[:, d.school] + 5), 99.0, ["is 99, outside", "Uniform"]),
    ],
)
def test_a_response_outside_the_support(likelihood, y, parts):
    values = np.ones(12)
    values[7] = y
    with refused(
        DataError, "the response of row 7 (from 0)", *parts, "1 of 12 responses are", "Change the likelihood or"
    ):
        sample(with_likelihood(likelihood), schools(values))


def test_responses_of_each_chain_are_looked_at():
    y = np.ones((3, 12))
    y[2, 5] = -1.0
    with refused(DataError, "the response of row 5 (from 0) is -1", "Poisson", "1 of 36 responses"):
        sample(with_likelihood(lambda v, d: Poisson(v.alpha[:, d.school].exp())), schools(y), chains=3)


def test_a_support_that_depends_on_latents_may_exclude_rows_in_some_chains():
    model = with_likelihood(lambda v, d: Uniform(v.alpha[:, d.school] - 3.0, v.alpha[:, d.school] + 3.0))
    assert model.check(schools(np.linspace(-2.5, 2.5, 12))) == []


class Watching(Intercepts):
    """Notes for how many rows its likelihood is made."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def likelihood(self, v, data):
        self.rows.append(data.n_rows)
        return Normal(v.alpha[:, data.school], 1.0)


def test_some_rows_serve_for_many(looked_at, monkeypatch):
    data, model, small = schools(), Watching(), min(looked_at, 12)
    some, none = checks.inspect(model, data)
    assert set(model.rows) == {small}
    monkeypatch.setattr(rowchecks, "ROWS", 12)
    whole, same = checks.inspect(model, data)
    assert none == same == []
    assert (some.priors, some.likelihood, some.columns) == (whole.priors, whole.likelihood, whole.columns)
    assert all(value.equal(whole.values[name]) for name, value in some.values.items())
    assert some.response.loc.equal(whole.response.loc[:, [i * 12 // small for i in range(small)]])


def with_support(support, y, **columns):
    """A model whose responses must lie in `support(data)`, and such data."""
    model = with_likelihood(lambda v, d: Uniform(*(x + 0.0 * v.alpha[:, d.school] for x in support(d))))
    return model, schools(y, **columns)


@pytest.mark.parametrize(
    ("size", "row"), [(4, 0), (4, 3), (4, 4), (4, 11), (5, 4), (5, 9), (5, 10), (5, 11), (12, 0), (12, 5), (12, 11)]
)
def test_every_response_is_looked_at(row, size, monkeypatch):
    monkeypatch.setattr(rowchecks, "ROWS", size)
    y = np.arange(12.0)
    y[row] = 12.5
    for model, data in (
        (with_likelihood(lambda v, d: Poisson(v.alpha[:, d.school].exp())), schools(y)),
        (with_likelihood(lambda v, d: Binomial(d.n, logits=v.alpha[:, d.school])), schools(y, n=np.arange(12))),
        with_support(lambda d: (d.low, d.low + 1.0), y, low=np.arange(12) - 0.5),
    ):
        with refused(DataError, f"the response of row {row} (from 0) is 12.5, outside", "1 of 12 responses are"):
            model.check(data)


def test_likelihoods_that_need_all_rows():
    class Buffered(Intercepts):
        def __init__(self, n):
            super().__init__()
            self.register_buffer("offset", torch.zeros(n, dtype=torch.float64))

        def likelihood(self, v, data):
            return Poisson((v.alpha[:, data.school] + self.offset).exp())

    model = Buffered(12)
    assert model.check(schools(np.ones(12))) == []
    assert checks.inspect(model, schools(np.ones(12)))[0].response.batch_shape == (4, 12)
    with refused(DataError, "the response of row 11 (from 0) is -1"):
        model.check(schools(np.append(np.ones(11), -1.0)))
    with refused(ModelError, "the likelihood of Buffered failed", "size of tensor a (12)", "size of tensor b (7)"):
        Buffered(7).check(schools())


def test_rows_that_are_read_together_are_looked_at_together():
    """Each response lies near the one before it, the first near the last; in a part of the rows this is not so."""
    y = np.abs(np.arange(12.0) - 6.0)
    model, data = with_support(lambda d: (d.y.roll(1) - 1.5, d.y.roll(1) + 1.5), y)
    assert checks.inspect(model, data)[0].response.batch_shape == (4, 12)


def test_priors_are_given_all_rows():
    """A school without a row among those that the likelihood is looked at for has rows."""

    class Weighed(Intercepts):
        alpha = ht.Latent(lambda v, data: Normal(v.mu, v.tau / data.counts("school")), plate="school")

    data = schools(groups={"school": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3]})
    assert Weighed().check(data) == []
    reads = checks.inspect(Weighed(), data)[0]
    expected = reads.values["tau"] / torch.tensor([9.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(reads.distributions["alpha"].scale, expected)


def test_densities_are_looked_at_for_some_rows(looked_at):
    rows = []

    class Own(Intercepts):
        def log_likelihood(self, v, data):
            rows.append(data.n_rows)
            return -(data.y - v.alpha[:, data.school]).square()

    class Opaque(Own):
        def log_prob(self, v, data):
            return super().log_likelihood(v, data).sum(1) + self.log_prior(v)

    for model in (Own(), Opaque()):
        assert model.check(schools()) == []
    assert set(rows) == {min(looked_at, 12)}


# Notes


def notes(model, data):
    with pytest.warns(SamplingWarning) as caught, pytest.raises(AssertionError, match="sampling began"):
        sample(model, data)
    texts = [str(warning.message) for warning in caught]
    checked, findings = model.check(data), data.check(model)
    assert texts[: len(checked)] == checked
    assert texts[len(checked) :] == [f"{row.about}: {row.finding} {row.advice}" for row in findings.itertuples()]
    return texts


@pytest.mark.parametrize("rows", [1, 2])
def test_one_group(rows):
    """Said once, and with how many rows there are."""
    texts = notes(Intercepts(), ht.Data(np.arange(1.0 * rows), groups={"school": [3] * rows}))
    assert [text[:30] for text in texts if text.startswith("school: ")] == ["school: only 1 group, too few "]
    assert any(text.startswith(f"y: {rows} row") for text in texts)


def test_latents_that_nothing_reads():
    class Unused(Intercepts):
        beta = ht.Latent(Normal(0.0, 1.0))
        gamma = ht.Latent(Normal(0.0, 1.0))

    text = "neither the likelihood nor any prior reads 'beta', 'gamma': the data say nothing about it."
    assert notes(Unused(), schools())[0] == text
    assert Unused().check(schools(), prior_only=True) == []


def test_groupings_that_nothing_reads():
    data = schools(groups={"school": np.arange(12) % 4, "rater": np.arange(12) % 3, "term": np.arange(12) % 2})
    model = with_likelihood(lambda v, d: Normal(v.alpha[:, d.school] + v.mu * d.term, 1.0))
    assert notes(model, data)[:1] == [
        "grouping 'rater' is never read: no latent varies over it and nothing uses its codes."
    ]


@pytest.mark.parametrize(
    "read",
    [
        lambda d: d.rater,
        lambda d: d["rater"],
        lambda d: d.codes["rater"],
        lambda d: d.counts("rater")[:1],
        lambda d: torch.tensor(d.size(plate="rater")),
    ],
)
def test_groupings_that_are_read_in_some_way(read):
    data = schools(groups={"school": np.arange(12) % 4, "rater": np.arange(12) % 3})
    model = with_likelihood(lambda v, d: Normal(v.alpha[:, d.school] + 0.1 * read(d), 1.0))
    assert model.check(data) == []


# Priors


@pytest.mark.parametrize(
    "prior",
    [
        Bernoulli(0.5),
        lambda v: Poisson(v.tau),
        Categorical(torch.ones(3)),
        Independent(Bernoulli(torch.ones(2) / 2), 1),
    ],
)
def test_discrete_priors(prior):
    with refused(ModelError, "the prior of 'extra'", "is discrete", "sum it out in the likelihood"):
        sample(with_prior(prior))


@pytest.mark.parametrize(
    ("prior", "found"),
    [(lambda v: v.mu, "Tensor"), (lambda v: None, "NoneType"), (lambda v: Normal, "type"), (lambda v: [v.mu], "list")],
)
def test_priors_that_are_no_distribution(prior, found):
    with refused(ModelError, f"the prior of 'extra' returned {found}", "expected a torch.distributions object"):
        sample(with_prior(prior))


@pytest.mark.parametrize(
    "prior",
    [
        Normal(torch.zeros(3), 1.0),
        lambda v: Normal(v.mu.squeeze(1), 1.0),
        lambda v: Normal(torch.zeros(4, 1, 2).double(), 1.0),
        lambda v: MultivariateNormal(torch.zeros(4, 3, 2).double(), torch.eye(2).double()),
    ],
)
def test_priors_of_a_wrong_shape(prior):
    with refused(ModelError, "the prior of 'extra' has batch shape", "broadcasts to (chains, size) = (4, 1)", "event="):
        sample(with_prior(prior))


def test_priors_of_a_wrong_shape_for_their_plate():
    with refused(ModelError, "the prior of 'extra' has batch shape (3,)", "(chains, size) = (4, 4)"):
        sample(with_prior(Normal(torch.zeros(3), 1.0), plate="school"))


def test_priors_of_a_wrong_precision_or_device():
    with refused(ModelError, "the prior of 'extra' gives values of torch.float32 on cpu; the data are torch.float64"):
        sample(with_prior(lambda v: Normal(v.mu.float(), 1.0)))
    with refused(ModelError, "the prior of 'extra' gives values of torch.float64 on meta", "or plain numbers"):
        sample(with_prior(lambda v: Normal(v.mu.to("meta"), 1.0, validate_args=False)))


def test_priors_in_which_precisions_meet():
    mixed = with_prior(lambda v: MultivariateNormal(torch.zeros(2), v.tau[..., None, None] * torch.eye(2)))
    parts = ["the prior of 'extra'", "can't be", "the data are torch.float64 on cpu; make its tensors from the latents"]
    with refused(ModelError, *parts):
        sample(mixed)


class Bounded(Uniform):
    """Uniform on (0, high), which an object says of itself and its class does not."""

    support = constraints.positive

    def __init__(self, high, **options):
        super().__init__(0.0, high, **options)
        self.support = constraints.interval(0.0, high)

    def expand(self, batch_shape, _instance=None):
        return Bounded(self.high.expand(batch_shape), validate_args=False)


class Flat(Distribution):
    """p(x) = 1: no distribution, since it can't be drawn from."""

    support, arg_constraints = constraints.real, {}

    def expand(self, batch_shape, _instance=None):
        return Flat(batch_shape)

    def log_prob(self, value):
        return torch.zeros_like(value)


class Undrawable(Flat):
    """p(x) = 1, with draws that pretend."""

    def expand(self, batch_shape, _instance=None):
        return Undrawable(batch_shape)

    def sample(self, sample_shape=()):
        return torch.full(self.batch_shape, torch.inf, dtype=torch.float64)


def test_improper_priors():
    with refused(ModelError, "the prior of 'extra', Flat, can't be drawn from", "it must be proper"):
        sample(with_prior(Flat()))
    with refused(ModelError, "the prior of 'extra' draws values that are not finite"):
        sample(with_prior(Undrawable()))
    with refused(ModelError, "the prior of 'extra' draws values that are not finite"):
        sample(with_prior(Normal(0.0, torch.inf)))


def test_nan_priors():
    with refused(ModelError, "the prior of 'extra' draws values that are not finite; check its parameters"):
        sample(with_prior(lambda v: Normal(v.mu * torch.nan, 1.0)))
    with refused(ModelError, "the prior of 'extra' draws values that are not finite; check its parameters"):
        sample(with_prior(Normal(torch.nan, 1.0, validate_args=False)))
    with refused(
        ModelError, "the prior of 'extra' is impossible at 4 of 4 draws", "scale of Normal must be positive and finite"
    ):
        sample(with_prior(lambda v: Normal(0.0, -v.tau)))


class NanDensity(Normal):
    def log_prob(self, value):
        return super().log_prob(value) * torch.nan


def test_priors_whose_density_is_nan():
    with refused(
        ModelError, "the log density of the prior of 'extra' is not finite at its own draws", "improper or degen"
    ):
        sample(with_prior(lambda v: NanDensity(v.mu, 1.0)))


@pytest.mark.parametrize(
    "prior", [InverseGamma(0.001, 0.001), lambda v: InverseGamma(v.tau.new_full((1, 1), 0.001), 0.001)]
)
def test_vague_priors_that_overflow_at_most_of_their_draws(prior):
    """Seven of ten draws of the classical vague prior for variances have a density that is not finite in float64."""
    with validation(False):
        terms = cast(InverseGamma(0.001, 0.001), torch.device("cpu"), torch.float64)
        assert not torch.isfinite(terms.log_prob(terms.sample((1000,)))).all()
    assert with_prior(prior).check(schools()) == []


class Overflowing(Normal):
    """A normal distribution of which seven of ten draws overflow."""

    def sample(self, sample_shape=()):
        draws = super().sample(sample_shape)
        return torch.where(torch.rand_like(draws) < 0.7, torch.inf, draws)


@pytest.mark.parametrize("prior", [InverseGamma(0.001, 0.001), Overflowing(0.0, 1.0)])
@pytest.mark.parametrize("numbers", [1, 40, 2_000_000])
def test_a_prior_is_drawn_from_until_every_group_is_finite(prior, numbers, monkeypatch):
    """Of 40 groups some overflow in all of 4 chains, but none in 32 draws of each: 0.7^128 = 1e-20."""
    monkeypatch.setattr(checks, "NUMBERS", numbers)
    data = ht.Data(np.zeros(40), groups={"school": np.arange(40)})
    reads = checks.inspect(with_prior(prior, plate="school"), data)[0]
    assert not torch.isfinite(reads.distributions["extra"].log_prob(reads.values["extra"])).any(0).all()
    scales = torch.ones(40, dtype=torch.float64)
    scales[7] = torch.inf
    with refused(ModelError, "the prior of 'extra' draws values that are not finite"):
        with_prior(lambda v: Normal(0.0, scales), plate="school").check(data)


def test_priors_that_read_too_early():
    class Early(ht.Model):
        alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="school")
        mu = ht.Latent(Normal(0.0, 1.0))

    with refused(ModelError, "the prior of 'alpha' can't be built: it reads latent 'mu', which is declared later"):
        sample(Early())
    with refused(
        ModelError, "the prior of 'extra' can't be built: it reads latent 'nu', which the model does not declare"
    ):
        sample(with_prior(lambda v: Normal(v.nu, 1.0)))


@pytest.mark.parametrize(
    "prior",
    [
        lambda v: Uniform(0.0, v.tau),
        lambda v: Uniform(v.mu - 1.0, v.mu + 1.0),
        lambda v: Pareto(v.tau, 2.0),
        lambda v: Independent(Uniform(v.tau.new_zeros(()), v.tau[..., None].expand(-1, -1, 2)), 1),
        lambda v: Bounded(v.tau),
    ],
)
def test_supports_that_depend_on_latents(prior):
    with refused(ModelError, "the support of the prior of 'extra' moves with the latents", "give it a fixed support"):
        sample(with_prior(prior))


def test_supports_without_a_bijection():
    class Odd(Normal):
        support = constraints.Constraint()

    class Silent(Normal):
        @property
        def support(self):
            raise NotImplementedError

    for prior in (Odd, Silent):
        with refused(
            ModelError, f"the prior of 'extra', {prior.__name__}, has no support or one that can't be made uncon"
        ):
            sample(with_prior(lambda v, prior=prior: prior(v.mu, 1.0)))


def test_labels_that_do_not_fit_the_event():
    with refused(ModelError, "latent 'extra' has labels for an event of shape (2,), but its event shape is (3,)"):
        sample(with_prior(Normal(0.0, 1.0), event=3, labels=["a", "b"]))
    with refused(ModelError, "its event shape is ()"):
        sample(with_prior(Normal(0.0, 1.0), labels=["a"]))


def test_names():
    with refused(ModelError, "latent 'mu' is declared twice in one class body"):

        class Twice(ht.Model):
            mu = ht.Latent(Normal(0.0, 1.0))
            mu = ht.Latent(Normal(0.0, 2.0))

    class Shadow(Intercepts):
        train = ht.Latent(Normal(0.0, 1.0))

    with refused(ModelError, "'train' is both a latent and another attribute of the model"):
        sample(Shadow())


# Likelihoods


@pytest.mark.filterwarnings("ignore:grouping 'school' is never read")
def test_a_missing_likelihood():
    class NoLikelihood(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))

    with refused(ModelError, "NoLikelihood has no likelihood", "or sample with prior_only=True"):
        sample(NoLikelihood())
    with pytest.raises(AssertionError, match="sampling began"):
        sample(NoLikelihood(), prior_only=True)


@pytest.mark.parametrize(
    ("returned", "found"),
    [(lambda v, d: v.mu, "Tensor"), (lambda v, d: None, "NoneType"), (lambda v, d: Normal, "type")],
)
def test_likelihoods_that_are_no_distribution(returned, found):
    with refused(ModelError, f"likelihood returned {found}; expected a torch.distributions object of batch shape"):
        sample(with_likelihood(returned))


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (lambda v, d: Normal(v.alpha, 1.0), "(4, 4)"),
        (lambda v, d: Normal(v.alpha[:, d.school].T, 1.0), "(12, 4)"),
        (lambda v, d: Normal(v.alpha[:, d.school, None] + d.x, 1.0), "(4, 12, 12)"),
        (lambda v, d: Normal(v.mu.squeeze(1), 1.0), "(4,)"),
    ],
)
def test_likelihoods_of_a_wrong_shape(returned, found):
    with refused(
        ModelError, f"likelihood returned batch shape {found}; expected (chains, rows) = (4, 12)", "v.alpha[:, data"
    ):
        sample(with_likelihood(returned))


def test_likelihoods_with_an_event():
    with refused(ModelError, "a distribution with event shape (12,); expected one response a row"):
        sample(with_likelihood(lambda v, d: Independent(Normal(v.alpha[:, d.school], 1.0), 1)))


def test_likelihoods_of_a_wrong_precision_or_device():
    with refused(ModelError, "likelihood gives torch.float32 on cpu; the data are torch.float64 on cpu", "buffers"):
        sample(with_likelihood(lambda v, d: Single(v.alpha[:, d.school], 1.0)))
    with refused(ModelError, "the log density of the likelihood can't be computed", "meta"):
        sample(with_likelihood(lambda v, d: Normal(v.alpha[:, d.school].to("meta"), 1.0, validate_args=False)))


class Single(Normal):
    def log_prob(self, value):
        return super().log_prob(value).float()


class Summed(Normal):
    def log_prob(self, value):
        return super().log_prob(value).sum(-1)


def test_likelihoods_whose_density_has_a_wrong_shape():
    with refused(
        ModelError, "the log density of the likelihood, Summed, has shape (4,); expected (chains, rows) = (4, 12)"
    ):
        sample(with_likelihood(lambda v, d: Summed(v.alpha[:, d.school], 1.0)))


def test_likelihoods_that_fail():
    with refused(ModelError, "the likelihood of OneLikelihood failed: ZeroDivisionError: division by zero"):
        sample(with_likelihood(lambda v, d: Normal(v.mu, 1 / 0)))
    with refused(ModelError, "the likelihood of OneLikelihood failed: ", "'nu'", "which the model does not declare"):
        sample(with_likelihood(lambda v, d: Normal(v.nu, 1.0)))


def test_likelihoods_that_read_no_latent():
    class Ignores(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))

        def likelihood(self, v, data):
            return Normal(data.x, 1.0)

    with refused(ModelError, "the likelihood of Ignores reads no latent", "prior_only=True"):
        sample(Ignores())


def test_a_distribution_without_support_is_taken_at_its_word():
    class Unsupported(Normal):
        @property
        def support(self):
            raise NotImplementedError

    assert (
        with_likelihood(lambda v, d: Unsupported(v.alpha[:, d.school], 1.0, validate_args=False)).check(schools()) == []
    )


# Densities


@pytest.mark.parametrize(
    "model",
    [
        with_likelihood(lambda v, d: Normal(v.alpha[:, d.school] - v.mu.mean(), 1.0)),
        with_likelihood(lambda v, d: Normal(v.alpha[:1, d.school], 1.0).expand((4, 12))),
        with_prior(lambda v: Normal(v.mu.mean(0, keepdim=True).expand_as(v.mu), 1.0)),
    ],
)
def test_chains_that_are_mixed(model):
    with refused(
        ModelError, "mixes chains: moving one chain changed the log density of another", "Keep axis 0 (chains)"
    ):
        sample(model)


def test_chains_that_are_mixed_by_a_prior_alone():
    model = with_prior(lambda v: Normal(v.mu.roll(1, 0), 1.0))
    with refused(ModelError, "the prior of OnePrior mixes chains: moving one chain changed the log prior of another"):
        sample(model, prior_only=True)


@pytest.mark.parametrize(
    ("density", "found"),
    [
        (lambda v: v.mu, "(4, 1)"),
        (lambda v: v.mu.sum(), "()"),
        (lambda v: v.mu[:2, 0], "(2,)"),
        (lambda v: 1.0, "float"),
        (lambda v: None, "NoneType"),
    ],
)
def test_log_probs_of_a_wrong_shape(density, found):
    class Opaque(Intercepts):
        def log_prob(self, v, data):
            return density(v)

    with refused(ModelError, f"log_prob returned {found}; expected a tensor of shape (chains,) = (4,)"):
        sample(Opaque())


def test_log_probs_that_mix_chains():
    class Opaque(Intercepts):
        def log_prob(self, v, data):
            return super().log_prob(v, data) + v.mu.sum()

    with refused(ModelError, "the density of Opaque mixes chains"):
        sample(Opaque())


def test_log_likelihoods_of_a_wrong_shape():
    class Own(Intercepts):
        def log_likelihood(self, v, data):
            return -(v.alpha.square())

    with refused(ModelError, "log_likelihood gives shape (4, 4); expected a tensor (chains, rows) = (4, 12)"):
        sample(Own())


@pytest.mark.parametrize("method", ["log_prior", "log_prior_terms"])
def test_overriding_what_sampling_does_not_call(method):
    model = type(Intercepts)("Own", (Intercepts,), {method: lambda self, v, data=None: torch.zeros(4)})()
    with refused(ModelError, f"Own overrides {method}, which sampling does not call", "log_prior_term", "log_prob"):
        sample(model)


# Settings


@pytest.mark.parametrize("name", ["chains", "warmup", "draws", "thin"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "3", True])
def test_numbers_below_one_or_no_numbers(name, value):
    with refused(SamplingError, f"{name}= is a whole number from 1, or None for a default; found {value!r}."):
        sample(**{name: value})


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"seed": -1}, ["seed= is a whole number from 0 to 2^63 - 1; found -1"]),
        ({"seed": 2**63}, ["seed= is a whole number"]),
        ({"seed": 1.5}, ["seed= is a whole number", "1.5"]),
        ({"seed": True}, ["seed= is a whole number", "True"]),
        ({"dtype": torch.float16}, ["dtype must be torch.float64 or torch.float32, found torch.float16"]),
        ({"dtype": "float32"}, ["dtype must be torch.float64 or torch.float32, found 'float32'"]),
        ({"dtype": torch.int64}, ["dtype must be"]),
        ({"compile": "yes"}, ["compile must be True, False or \"auto\", found 'yes'"]),
        ({"compile": None}, ["compile must be"]),
        ({"keep": ["nu"]}, ["keep names ['nu']", "the model's latents are mu, tau, alpha"]),
        ({"keep": "alph"}, ["keep names ['alph']"]),
        ({"keep": []}, ["keep is empty"]),
        ({"init": {"nu": 1.0}}, ["init names 'nu'"]),
        ({"init": {"tau": -1.0}}, ["init['tau'] is not inside the support of its prior"]),
        ({"init": {"alpha": np.zeros(5)}}, ["init['alpha'] must broadcast to (chains, size, *event) = (2, 4)"]),
        ({"init": [1.0]}, ["init must be a mapping"]),
    ],
)
@pytest.mark.parametrize("collapse", [True, False])
def test_settings_that_can_not_work(collapse, options, parts):
    with refused(SamplingError, *parts):
        sample(**options, collapse=collapse)


def test_draws_that_do_not_fit_into_memory():
    with refused(SamplingError, "the draws need", "GiB", "keep fewer latents (keep=)"):
        sample(draws=10**13, keep_all=True)


def test_a_log_dir_that_can_not_be_written(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with refused(RunFolderError, "taken"):
        sample(log_dir=tmp_path / "taken" / "run")


def test_a_plan_that_does_not_fit():
    with refused(ModelError, "no move of the plan touches 'alpha'"):
        sample(plan=[("joint", ["mu", "tau"])])


# No finite start


def test_a_likelihood_that_overflows_everywhere():
    model = with_likelihood(lambda v, d: Poisson((v.alpha[:, d.school].square() + 1e5).exp(), validate_args=False))
    with refused(
        ModelError, "every prior draw is impossible: rate of Poisson must be at least 0 and finite, found", "inf"
    ):
        sample(model, schools(np.ones(12)))


def test_a_likelihood_that_is_nan_everywhere():
    model = with_likelihood(
        lambda v, d: Normal(v.alpha[:, d.school], (v.mu - 1e3 - v.mu.abs()).sqrt(), validate_args=False)
    )
    with refused(SamplingError, "no finite log density", "the log likelihood is NaN because of", "'mu'"):
        sample(model)


def test_a_gaussian_model_of_a_response_beyond_all_numbers():
    """Its squares are infinite to the computer, so that nothing can be integrated out, nor sampled otherwise."""
    data = schools(np.linspace(1e200, 2e200, 12))
    why = "not collapsed: the mean and the scales of the model are not finite even near the medians of its priors"
    assert why in str(ht.plan(Intercepts(), data))
    with refused(
        SamplingError, "no finite log density for 2 of 2 chains", "log likelihood is -inf", "because of 'alpha'"
    ):
        sample(data=data)


def test_nothing_is_left_behind():
    """A refusal leaves torch's random state and its argument validation as they were, and the model too."""
    before = torch.get_rng_state(), Distribution._validate_args, torch.is_grad_enabled()
    model = with_prior(Bernoulli(0.5))
    state = dict(vars(model))
    with pytest.raises(ModelError):
        sample(model)
    with pytest.raises(AssertionError, match="sampling began"):
        sample()
    Intercepts().check(schools())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (Distribution._validate_args, torch.is_grad_enabled()) == before[1:]
    assert vars(model) == state
