"""What structures say of their columns: the ready ones, and two from outside of the package."""

import numpy as np
import pytest
from contracts.structures import StructureContract
from torch.distributions import HalfNormal, Normal

import hiertorch as ht
from hiertorch.errors import ModelError
from hiertorch.models.design import Design, Designed, design_of, family_of
from hiertorch.models.grouped import Grouped

TIMES = {"school": 5, "year": [1, 2, 5]}
LEVELS = {"school": 3, "class": 2}
READY = {
    "no pooling": (ht.models.NoPooling("school", ["x"]), 5),
    "varying intercepts": (ht.models.VaryingIntercepts("school", ["x", "z"], group_predictors=["u"], offset="o"), 5),
    "varying slopes": (ht.models.VaryingSlopes("school", ["x", "z"], varying=["z"]), 5),
    "mixed effects": (ht.models.MixedEffects("school", ["x"], family=ht.families.Binomial("n")), 5),
    "correlated effects": (ht.models.CorrelatedEffects("school", ["x"], group_predictors=["u"]), 5),
    "hierarchical priors": (ht.models.HierarchicalPriors("school", family=ht.families.Poisson("days")), 5),
    "eight schools": (ht.models.EightSchools(), 5),
    "in time": (ht.models.TimeVarying("school", "year", ["x"], group_predictors=["u"]), TIMES),
    "nested": (ht.models.Nested(["school", "class"], ["x"], group_predictors={"school": ["u"], "class": []}), LEVELS),
    "crossed": (ht.models.Crossed(["school", "class"], ["x"], group_predictors={"class": ["u"]}), LEVELS),
}


class TestReady(StructureContract):
    @pytest.fixture(params=READY)
    def case(self, request):
        return READY[request.param]


class Growth(Designed):
    """From outside, all its own: y_ij ~ Normal(eta_ij, sigma_y), eta_ij = a_j + b x_ij + c x_ij^2 + d u_j."""

    a_mean = ht.Latent(Normal(0.0, 2.0))
    a_sd = ht.Latent(HalfNormal(1.0))
    b, c, d = (ht.Latent(Normal(0.0, 1.0)) for _ in "bcd")
    sigma_y = ht.Latent(HalfNormal(1.0))

    def __init__(self, plate):
        super().__init__()
        self.plate = plate
        self.a = ht.Latent(lambda v: Normal(v.a_mean, v.a_sd), plate=plate)

    def linear_predictor(self, v, data):
        level = v.a + v.d * data.group_values("u", self.plate)
        return level[:, data[self.plate]] + v.b * data.x + v.c * data.x**2

    def likelihood(self, v, data):
        return Normal(self.linear_predictor(v, data), v.sigma_y)

    def design(self):
        return Design(ht.families.Gaussian(), predictors=("x",), group_predictors={self.plate: ("u",)})


class Quadratic(Grouped):
    """From outside, in the way of the ready ones, for any family: eta_ij = alpha_j + x_ij beta + x_ij^2 gamma."""

    mu_alpha = ht.Latent(Normal(0.0, 5.0))
    sigma_alpha = ht.Latent(HalfNormal(1.0))
    beta = ht.Latent(Normal(0.0, 2.0))
    bend = ht.Latent(Normal(0.0, 2.0))

    def build(self):
        self.shape("beta", self.predictors)
        self.shape("bend", self.predictors)
        self.add("alpha", lambda v: Normal(v.mu_alpha, v.sigma_alpha), self.plate)

    def eta(self, v, data):
        squares = sum(v.bend[..., k] * data[name] ** 2 for k, name in enumerate(self.predictors))
        return v.alpha[:, data[self.plate]] + self.shared(v, data) + squares


class TestOutside(StructureContract):
    @pytest.fixture(params=["growth", "quadratic"])
    def case(self, request):
        quadratic = Quadratic("school", ["x", "z"], family="student_t", offset="o")
        return {"growth": (Growth("school"), 8), "quadratic": (quadratic, 8)}[request.param]


@pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")  # the run is short
def test_one_from_outside_is_integrated_out_and_predicts_as_any_other():
    model = Growth("school")
    made = ht.simulate_grouped(8, 12, model=model, values={"sigma_y": 0.3}, seed=3)
    assert ht.plan(model, made.data).collapsed is not None
    posterior = ht.sample(model, made.data, chains=4, draws=50, warmup=100, seed=1, progress=False)
    new = made.frame.head(3)[["school", "x", "u"]].assign(school=["s1", "s1", "new"], u=[*made.frame["u"][:2], 0.5])
    predicted = posterior.predict(new, kind="mean", new_groups="sample", seed=1)
    at = made.frame["school"].eq("s1").to_numpy()[:2]
    truth = model.values({name: x.unsqueeze(0) for name, x in made.values.items()})
    eta = model.linear_predictor(truth, made.data)[0, :2]
    assert at.all() and predicted.new["school"].tolist() == ["new"]
    np.testing.assert_allclose(predicted.summary["mean"][:2], eta, atol=4 * 0.3)
    assert set(posterior.pooling().variance.index.get_level_values("level")) == {"school", "rows"}


def test_what_is_not_known():
    class Plain(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))

        def likelihood(self, v, data):
            return Normal(v.mu, 1.0)

    class Shifted(ht.models.VaryingIntercepts):
        def likelihood(self, v, data):
            return Normal(self.linear_predictor(v, data) + 1.0, v.sigma_y)

    assert design_of(Plain()) is None and family_of(Plain()) is None
    assert family_of(Shifted("g")) is None and isinstance(design_of(Shifted("g")).family, ht.families.Gaussian)
    assert isinstance(family_of(ht.models.EightSchools()), ht.families.Gaussian)
    with pytest.raises(ModelError, match=r"found Plain.*Designed"):
        ht.simulate_grouped(model=Plain())
