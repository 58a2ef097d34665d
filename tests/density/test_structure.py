"""What reads what, which plates mix their groups, and in which order plates stand."""

import numpy as np
import pytest
import torch
from torch.distributions import (
    Beta,
    Dirichlet,
    Gamma,
    HalfNormal,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.model.checks import inspect
from hiertorch.model.declared import overrides
from hiertorch.model.reads import watched


def school_data(rows=120, seed=0, **options):
    rng = np.random.default_rng(seed)
    school = np.append(np.arange(12), rng.integers(12, size=rows - 12))
    groups = {"school": school, "district": school // 4, "rater": rng.integers(5, size=rows)}
    return ht.Data(rng.normal(size=rows), groups=groups, x=rng.normal(size=rows), z=rng.normal(size=rows), **options)


def structure(model, data=None, **options):
    data = school_data() if data is None else data
    with torch.no_grad():
        return analyse(model, data, inspect(model, data, **options)[0], **options)


class ThreeLevels(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    scales = ht.Latent(Gamma(2.0, 1.0), event=2)
    sigma = ht.Latent(HalfNormal(1.0))
    beta = ht.Latent(Normal(0.0, 1.0))
    district = ht.Latent(lambda v: Normal(v.mu, v.scales[..., 0]), plate="district")
    school = ht.Latent(
        lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.scales[..., 1]), plate="school"
    )

    def likelihood(self, v, data):
        return Normal(v.school[:, data.school] + v.beta * data.x, v.sigma)


# What reads what


def test_reads_are_found():
    reads = structure(ThreeLevels()).reads
    assert reads.priors == {
        "mu": set(),
        "scales": set(),
        "sigma": set(),
        "beta": set(),
        "district": {"mu", "scales"},
        "school": {"district", "scales"},
    }
    assert reads.likelihood == {"school", "beta", "sigma"}
    assert {"x", "school", "district"} <= reads.columns
    assert not {"z", "rater"} & reads.columns


def test_columns_are_noted_however_they_are_read():
    class Reads(ThreeLevels):
        slope = ht.Latent(lambda v, data: Normal(data.group_values("income", "school"), 1.0), plate="school")

        def likelihood(self, v, data):
            assert "x" in data
            assert "nothing" not in data
            return Normal(v.school[:, data["school"]] + getattr(data, "z"), v.sigma)  # noqa: B009

    data = school_data()
    data = ht.Data(data.y, groups=dict(data.codes), x=data.x, z=data.z, income=data.school * 1.0)
    reads = structure(Reads(), data).reads
    assert {"z", "income", "school", "district"} <= reads.columns
    assert "x" not in reads.columns


def test_values_are_a_draw_from_the_prior_with_its_distributions():
    reads = structure(ThreeLevels()).reads
    assert {name: tuple(x.shape[1:]) for name, x in reads.values.items()} == {
        "mu": (1,),
        "scales": (1, 2),
        "sigma": (1,),
        "beta": (1,),
        "district": (3,),
        "school": (12,),
    }
    assert isinstance(reads.distributions["school"], Normal)
    assert isinstance(reads.response, Normal)
    assert reads.response.batch_shape == (len(reads.values["mu"]), 120)


def test_the_likelihood_is_recorded_for_some_rows():
    """What is read is the same, and priors are given all rows: here the mean of a column."""

    class Centred(ThreeLevels):
        beta = ht.Latent(lambda v, data: Normal(data.z.mean(), 1.0).expand((1, 1)))

    data, model = school_data(), Centred()
    some, whole = (
        watched(model, data, torch.Generator().manual_seed(1), rows=rows) for rows in (data.rows(5, 12), None)
    )
    assert (some.priors, some.likelihood, some.columns) == (whole.priors, whole.likelihood, whole.columns)
    assert all(some.values[name].equal(value) for name, value in whole.values.items())
    assert some.distributions["beta"].mean.equal(data.z.mean().expand(1, 1))
    assert some.response.loc.equal(whole.response.loc[:, 5:12])


def test_chains_follow_the_data():
    y = torch.randn(7, 120)
    for data in (school_data().replace(y=y), school_data().replace(weights=y.square())):
        assert len(structure(ThreeLevels(), data).reads.values["mu"]) == 7
    one = school_data().replace(y=y[:1])
    assert len(structure(ThreeLevels(), one).reads.values["mu"]) > 1


def test_the_same_draws_every_time():
    one, two = (structure(ThreeLevels()).reads.values for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("method", "expected"), [("log_prob", True), ("log_likelihood", True), ("log_prior", False), ("likelihood", True)]
)
def test_overridden_methods(method, expected):
    class Own(ThreeLevels):
        def log_prob(self, v, data):
            return super().log_prob(v, data)

        def log_likelihood(self, v, data):
            return super().log_likelihood(v, data)

    assert overrides(Own(), method) == expected


# Plates


def test_plates_stand_finest_first():
    class Plates(ht.Model):
        tau = ht.Latent(Gamma(2.0, 1.0))
        region = ht.Latent(lambda v: Normal(0.0, v.tau), plate="region")
        pupil = ht.Latent(lambda v: Normal(0.0, v.tau), plate="pupil")
        rater = ht.Latent(lambda v: Normal(0.0, v.tau), plate="rater")
        school = ht.Latent(lambda v: Normal(0.0, v.tau), plate="school")

        def likelihood(self, v, data):
            effects = [v[name][:, data[name]] for name in ("region", "pupil", "rater", "school")]
            return Normal(sum(effects), v.tau)

    pupil = np.arange(96) // 2
    groups = {"region": pupil // 16, "pupil": pupil, "rater": np.arange(96) % 30, "school": pupil // 4}
    found = structure(Plates(), ht.Data(np.zeros(96), groups=groups))
    assert found.plates == ("pupil", "rater", "school", "region")
    assert found.mixed == {}
    assert structure(ThreeLevels()).plates == ("school", "district")


def test_a_plate_with_the_same_groups_as_another():
    class Twins(ht.Model):
        a = ht.Latent(Normal(0.0, 1.0), plate="a")
        b = ht.Latent(lambda v, data: Normal(v.a[:, data.parents("b", "a")], 1.0), plate="b")

        def likelihood(self, v, data):
            return Normal(v.b[:, data.b], 1.0)

    codes = np.arange(30) % 6
    found = structure(Twins(), ht.Data(np.zeros(30), groups={"a": codes, "b": (codes + 2) % 6}))
    assert set(found.plates) == {"a", "b"}
    assert found.mixed == {}


# Mixing of groups


class Effects(ht.Model):
    tau = ht.Latent(Gamma(2.0, 1.0))
    sigma = ht.Latent(HalfNormal(1.0))
    alpha = ht.Latent(lambda v: Normal(0.0, v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], v.sigma)


class SumToZero(Effects):
    def likelihood(self, v, data):
        return Normal((v.alpha - v.alpha.mean(1, keepdim=True))[:, data.school], v.sigma)


class SlightlyMixed(Effects):
    """By a part in a million."""

    def likelihood(self, v, data):
        return Normal((v.alpha + 1e-6 * v.alpha.mean(1, keepdim=True))[:, data.school], v.sigma)


class Neighbours(Effects):
    def likelihood(self, v, data):
        return Normal(v.alpha[:, (data.school + 1) % 12], v.sigma)


class OneOther(Effects):
    """Rows of one school alone read another school's effect."""

    def likelihood(self, v, data):
        return Normal(v.alpha[:, torch.where(data.school == 3, 7, data.school)], v.sigma)


class Markov(Effects):
    """alpha_j ~ Normal(gamma_(j-1), tau) by another latent of the plate."""

    gamma = ht.Latent(Normal(0.0, 1.0), plate="school")
    alpha = ht.Latent(lambda v: Normal(v.gamma.roll(1, 1), v.tau), plate="school")


class ReadByPopulation(Effects):
    """A population-level latent whose prior reads every effect."""

    total = ht.Latent(lambda v: Normal(v.alpha.sum(1, keepdim=True), 1.0))


class ReadByOtherPlate(Effects):
    """Rater effects whose prior reads school effects."""

    rater = ht.Latent(lambda v: Normal(v.alpha[:, :1], 1.0), plate="rater")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (SumToZero, "the likelihood of a row reads effects of other groups of 'school' than its own"),
        (SlightlyMixed, "the likelihood of a row reads effects of other groups of 'school' than its own"),
        (Neighbours, "the likelihood of a row reads effects of other groups of 'school' than its own"),
        (OneOther, "the likelihood of a row reads effects of other groups of 'school' than its own"),
        (Markov, "the prior of 'alpha' mixes groups of 'school'"),
        (ReadByPopulation, "the prior of 'total' reads several groups of 'school'"),
        (ReadByOtherPlate, "the prior of 'rater' reads several groups of 'school'"),
    ],
)
def test_mixed_groups_are_found(model, reason):
    assert structure(model()).mixed == {"school": reason}


def test_mixing_in_the_prior_is_found_without_the_likelihood():
    assert "school" in structure(Markov(), prior_only=True).mixed
    assert structure(SumToZero(), prior_only=True).mixed == {}


def test_independent_groups_are_not_called_mixed():
    class Fine(Effects):
        """Own group in two ways, a nested parent, a group-level scale and another latent of the same group."""

        omega = ht.Latent(Gamma(2.0, 1.0), plate="school")
        district = ht.Latent(Normal(0.0, 1.0), plate="district")
        alpha = ht.Latent(
            lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.omega * v.tau), plate="school"
        )
        rater = ht.Latent(lambda v: Normal(0.0, v.tau), plate="rater")

        def likelihood(self, v, data):
            alpha = v.alpha[:, data.school]
            return StudentT(4.0, alpha * alpha.abs() + v.rater[:, data.rater], v.omega[:, data.school])

    found = structure(Fine())
    assert found.mixed == {}
    assert set(found.target.rows.cell_groups) == {"school", "rater"}


def test_parents_that_are_read_through_a_wrong_map_are_mixed():
    """A school whose prior reads another district's effect."""

    class Wrong(ThreeLevels):
        school = ht.Latent(
            lambda v, data: Normal(v.district[:, (data.parents("school", "district") + 1) % 3], v.scales[..., 1]),
            plate="school",
        )

    assert structure(Wrong()).mixed == {"district": "the prior of 'school' mixes groups of 'district'"}


def test_rows_are_sorted_by_plates_that_rows_read_and_do_not_mix():
    assert set(structure(ThreeLevels()).target.rows.cell_groups) == {"school"}
    assert set(structure(SumToZero()).target.rows.cell_groups) == set()


class Bounded(Effects):
    mu = ht.Latent(Normal(0.0, 1.0))

    def likelihood(self, v, data):
        middle = v.alpha[:, data.school] + v.mu * 100.0
        return Uniform(middle - 150.0, middle + 150.0, validate_args=False)


class BoundedSumToZero(Bounded):
    def likelihood(self, v, data):
        middle = (v.alpha - v.alpha.mean(1, keepdim=True))[:, data.school] + v.mu * 100.0
        return Uniform(middle - 150.0, middle + 150.0, validate_args=False)


def test_rows_that_are_impossible_in_some_chains_are_no_sign_of_mixing():
    assert structure(Bounded()).mixed == {}


def test_nothing_is_known_of_rows_that_are_impossible_in_all_chains():
    y = school_data().y.clone()
    y[5] = 1e6
    with torch.no_grad():
        reads = inspect(Bounded(), school_data())[0]
        mixed = analyse(Bounded(), school_data().replace(y=y), reads).mixed
    assert mixed == {"school": "the log density is not finite at the places where the model was probed"}


def test_predictors_that_are_not_scaled_do_not_hide_mixing():
    """exp(beta x) overflows at most draws from the prior: probes move inwards."""

    class Counts(Effects):
        beta = ht.Latent(Normal(0.0, 1.0))

        def likelihood(self, v, data):
            return Poisson((v.alpha[:, data.school] + v.beta * data.x).exp())

    class Mixed(Counts):
        def likelihood(self, v, data):
            return Poisson((v.alpha.roll(1, 1)[:, data.school] + v.beta * data.x).exp())

    data = school_data()
    data = ht.Data(data.y.abs().round(), groups=dict(data.codes), x=1e4 * data.x)
    assert structure(Counts(), data).mixed == {}
    assert "other groups of 'school'" in structure(Mixed(), data).mixed["school"]


def test_parameters_that_overflow_at_draws_from_the_prior():
    """probs = 1 in float64 is no probability to torch, but no reason to refuse the model."""

    class Overdispersed(Effects):
        def likelihood(self, v, data):
            rate = (30.0 * v.alpha[:, data.school]).exp()
            return NegativeBinomial(v.sigma, probs=rate / (rate + v.sigma))

    data = school_data().replace(y=school_data().y.abs().round())
    assert structure(Overdispersed(), data).reads.likelihood == {"alpha", "sigma"}


# Opaque models


def test_an_overridden_log_prob_is_opaque():
    class Opaque(Effects):
        def log_prob(self, v, data):
            return super().log_prob(v, data) - v.alpha.sum(1).square()

    found = structure(Opaque())
    assert found.mixed == {"school": "the model overrides log_prob"}
    assert found.target.opaque
    assert found.reads.likelihood == {"tau", "sigma", "alpha"}
    assert found.reads.response is None
    assert found.reads.density.shape == (len(found.reads.values["tau"]),)
    without = structure(Opaque(), prior_only=True)
    assert not without.target.opaque
    assert without.mixed == {}


# What can't follow its parents


def test_what_can_be_carried_and_what_not():
    class Kinds(ht.Model):
        a = ht.Latent(Gamma(2.0, 1.0))
        normal = ht.Latent(lambda v: Normal(v.a, v.a), plate="school")
        gamma_rate = ht.Latent(lambda v: Gamma(2.0, v.a), plate="school")
        gamma_shape = ht.Latent(lambda v: Gamma(v.a, 1.0), plate="school")
        beta = ht.Latent(lambda v: Beta(v.a, 1.0), plate="school")
        student = ht.Latent(lambda v: StudentT(v.a, 0.0, 1.0), plate="school")
        simplex = ht.Latent(lambda v: Dirichlet(v.a.unsqueeze(-1).expand(-1, -1, 3)), plate="school")
        vector = ht.Latent(
            lambda v: MultivariateNormal(torch.zeros(2).double(), v.a[..., None, None] * torch.eye(2).double()),
            plate="school",
        )

        def likelihood(self, v, data):
            return Normal(v.normal[:, data.school], v.a)

    assert structure(Kinds()).uncarried == {
        "gamma_shape": "the concentration of Gamma depends on a latent",
        "beta": "Beta is not a location-scale family",
        "student": "the df of StudentT depends on a latent",
        "simplex": "Dirichlet is not a location-scale family",
    }


def test_a_structure_on_another_device():
    found = structure(SumToZero())
    there = found.to("meta")
    assert there.target.data.device.type == "meta"
    assert (there.mixed, there.plates, there.reads) == (found.mixed, found.plates, found.reads)
    assert found.target.data.device.type == "cpu"


class RareMix(ht.Model):
    """Groups whose effects are read together where they are above 240 only, as half of their prior is."""

    tau = ht.Latent(HalfNormal(1.0))
    a = ht.Latent(Normal(250.0, 60.0), plate="school")

    def likelihood(self, v, data):
        above = torch.relu(v.a - 240.0)
        return Normal(v.a[:, data.school] + above.sum(1, keepdim=True), v.tau)


def test_groups_that_are_mixed_where_the_prior_lies_are_found():
    """Not only within [-2, 2], where nothing is above 240."""
    data = ht.Data(torch.zeros(12), groups={"school": [0, 1, 2] * 4})
    assert "school" in ht.plan(RareMix(), data, collapse=False).structure.mixed
