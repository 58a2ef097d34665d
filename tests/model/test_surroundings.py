"""In a program that has set anything in torch, draws are what they are elsewhere, and the settings stay."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Distribution, HalfNormal, Normal, Poisson

import hiertorch as ht
from hiertorch.model.copies import exact
from hiertorch.randomness import seeded
from hiertorch.runtime.validating import validation

pytestmark = pytest.mark.filterwarnings("ignore::hiertorch.SamplingWarning")  # these runs are short

FRAME = pd.DataFrame({"g": np.repeat(np.arange(6), 10), "x": np.linspace(-1, 1, 60)})
FRAME["y"] = 0.3 * FRAME["x"] + np.random.default_rng(0).normal(size=60)
SHORT = {"seed": 1, "chains": 4, "draws": 40, "warmup": 60, "thin": 1, "progress": False}


class Counts(ht.Model):
    """By ordinary moves, with plain numbers in priors that are no decimals of single precision."""

    mu = ht.Latent(Normal(0.1, 0.7))
    tau = ht.Latent(lambda v: HalfNormal(0.3))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.tau), plate="g")

    def likelihood(self, v, data):
        return Poisson((v.alpha[:, data.g] + 0.1).exp())


def use(collapse=True, frame=FRAME):
    """Everything that a posterior is asked, as numbers."""
    if collapse:
        model, data = ht.models.VaryingIntercepts("g", ["x"]), ht.Data.from_frame(frame, "y", ["g"], ["x"])
    else:
        counts = frame.assign(y=(frame["y"].abs() * 3).round())
        model, data = Counts(), ht.Data.from_frame(counts, "y", ["g"], ["x"])
    posterior = ht.sample(model, data, **SHORT)
    new = pd.DataFrame({"g": [0, 99], "x": [0.5, 0.5]})
    assert not any(x.is_inference() for x in posterior.draws.values())
    found = {name: posterior[name] for name in posterior}
    found |= {kind: posterior.predict(new, kind, "sample", seed=2).draws for kind in ("mean", "response")}
    found["loo"] = torch.from_numpy(posterior.criterion(draws=100).pointwise["elpd"].to_numpy(copy=True))
    found["group"] = torch.tensor(posterior.criterion(by="g", draws=100).elpd, dtype=torch.float64, device="cpu")
    found["check"] = torch.from_numpy(posterior.predictive_check(draws=30, seed=3).table["p"].to_numpy(copy=True))
    found["condition"] = posterior.condition(new.tail(1).assign(y=1.0), prior_draws=200, seed=4).effects["alpha"]
    found["prior"] = torch.from_numpy(ht.prior_check(model, data, draws=20, seed=5).table["p"].to_numpy(copy=True))
    return found


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "validation": lambda: validation(False),
}


@pytest.fixture(
    scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["collapsed", "ordinary"]
)
def plain(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return request.param, use(request.param)


def same(found, expected):
    return [name for name in expected if not torch.equal(found[name], expected[name])]


MILD = ("no_grad", "grad", "float64", "autocast", "deterministic", "validation")


@pytest.mark.parametrize(
    "surroundings", [pytest.param(name, marks=[pytest.mark.slow] * (name in MILD)) for name in SURROUNDINGS]
)
def test_draws_are_the_same_in_any_surroundings(surroundings, plain):
    collapse, expected = plain
    with SURROUNDINGS[surroundings]():
        found = use(collapse)
    assert same(found, expected) == []


def state():
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        Distribution.__dict__["_validate_args"],
        list(warnings.filters),
    )


def test_the_callers_settings_are_left_as_they_were():
    class Failing(Counts):
        def likelihood(self, v, data):
            if len(v.mu) == SHORT["chains"] + 1:
                raise RuntimeError("on purpose")
            return super().likelihood(v, data)

    data = ht.Data.from_frame(FRAME.assign(y=1.0), "y", ["g"], ["x"])
    before = state()
    use()
    assert state() == before
    use(collapse=False)
    assert state() == before
    with pytest.raises(Exception, match="on purpose"):
        ht.sample(Failing(), data, **{**SHORT, "chains": SHORT["chains"] + 1})
    assert state() == before


@pytest.mark.parametrize("collapse", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_eight_threads_sample_as_one_does(collapse):
    data = ht.Data.from_frame(FRAME.assign(y=(3 * FRAME["y"].abs()).round()), "y", ["g"], ["x"])
    model = ht.models.VaryingIntercepts("g") if collapse else Counts()

    def run(seed):
        posterior = ht.sample(model, data, **{**SHORT, "seed": seed, "draws": 15, "warmup": 15})
        replicated = posterior.predictive_check(draws=20).table["p"].to_numpy(copy=True)
        return {**{name: posterior[name] for name in posterior}, "p": torch.from_numpy(replicated)}

    alone, before = [run(seed) for seed in range(2)], state()
    stop, seen = threading.Event(), set()

    def bystander():  # a thread that knows nothing of hiertorch
        while not stop.wait(0.001):
            seen.add((Normal(0.0, 1.0)._validate_args, torch.get_rng_state().sum().item()))

    watcher = threading.Thread(target=bystander)
    watcher.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(run, [0, 1] * 4))
    finally:
        stop.set()
        watcher.join()
    assert all(not same(found, alone[k % 2]) for k, found in enumerate(together))
    assert state() == before
    assert len(seen) == 1 and next(iter(seen))[0] is True


def test_a_models_own_generator_is_not_needed_for_any_distribution():
    shape = torch.tensor([1.5, 2.0, 0.5], dtype=torch.float64)
    for make in (torch.distributions.Gamma, torch.distributions.Beta, torch.distributions.VonMises, Normal):
        torch.manual_seed(11)
        before = torch.get_rng_state()
        draws = []
        for _ in range(2):
            with seeded(torch.Generator().manual_seed(3), torch.device("cpu")):
                draws.append(make(shape, shape).sample((5,)))
        assert torch.equal(*draws) and torch.equal(torch.get_rng_state(), before)
        number = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(3)))
        torch.manual_seed(number)
        assert torch.equal(make(shape, shape).sample((5,)), draws[0])  # what torch's own generator gives


def test_validation_is_of_one_thread():
    found = {}

    def look():
        found["elsewhere"] = Normal(0.0, 1.0)._validate_args
        with validation(True):
            found["there"] = Normal(0.0, 1.0)._validate_args

    with validation(False):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert Normal(0.0, 1.0)._validate_args is False
        Distribution.set_default_validate_args(False)  # by the caller, meanwhile
    assert Distribution.__dict__["_validate_args"] is False
    Distribution.set_default_validate_args(True)
    assert found == {"elsewhere": True, "there": True}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_plain_numbers_of_priors_are_those_that_were_written(dtype):
    with default_dtype(dtype):
        priors = [Normal(0.1, 2.5), HalfNormal(0.3), torch.distributions.LogNormal(-1.7, 0.01), Normal(0.0, 0.0072)]
        found = [exact(prior) for prior in priors]
    assert [float(x) for x in (found[0].loc, found[0].scale, found[1].scale, found[2].loc)] == [0.1, 2.5, 0.3, -1.7]
    x = torch.tensor(0.37, dtype=torch.float64)
    expected = torch.distributions.LogNormal(x.new_tensor(-1.7), x.new_tensor(0.01)).log_prob(x)
    assert torch.equal(found[2].log_prob(x), expected)


@pytest.mark.parametrize("surroundings", ["meta", "bfloat16", "inference"])
def test_ready_structures_are_made_in_any_surroundings(surroundings):
    with SURROUNDINGS[surroundings]():
        model = ht.models.CorrelatedEffects("g", ["x"], priors={"sigma_y": "HalfNormal(0.3)"})
        nested = ht.models.Nested(["h", "g"], group_predictors={"g": ["u"]}, priors="tutorial")
    assert str(model) == str(ht.models.CorrelatedEffects("g", ["x"], priors={"sigma_y": "HalfNormal(0.3)"}))
    assert float(model.latents["sigma_y"].prior.scale) == 0.3
    assert nested.latents["gamma_g"].prior.base_dist.scale.tolist() == [2.0]


def test_a_prior_without_numbers_is_refused():
    with torch.device("meta"), pytest.raises(ht.ModelError, match="meta device"):
        ht.Latent(Normal(0.0, 1.0, validate_args=False))


def test_runs_compiled_in_threads_wait_for_one_another(monkeypatch):
    from hiertorch.density import recording

    calls = []

    class Refusing:
        def __call__(self, *args):
            calls.append(args)
            if len(calls) == 1:
                raise RuntimeError("torch says that another thread records")
            return args[0] + 1.0

    fused = recording._Fused.__new__(recording._Fused)
    torch.nn.Module.__init__(fused)
    fused._fused, fused._strides = Refusing(), []
    assert fused(torch.zeros(2)).tolist() == [1.0, 1.0] and len(calls) == 2
