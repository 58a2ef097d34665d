"""When a whitened warm-up ends: the rule, and runs whose warm-up is no longer than it has to be."""

from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, HalfNormal, Normal

import hiertorch as ht
from hiertorch.model.latent import Values
from hiertorch.monitors import Monitor, Window
from hiertorch.run.rounds import Course, Round, ends, unfit
from hiertorch.run.whitened import Whitened

SMALL: dict[str, Any] = {"chains": 16, "seed": 1, "progress": False}


class Intercepts(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.5))
    sigma = ht.Latent(HalfNormal(1.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, v.sigma), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=v.alpha[:, data.group])


class Told(Monitor):
    def start(self, run: Any) -> None:
        self.windows: list[Window] = []

    def window(self, window: Window) -> None:
        self.windows.append(window)


@pytest.fixture(scope="module")
def data() -> ht.Data:
    generator = torch.Generator().manual_seed(1)
    group = torch.arange(30).repeat_interleave(12)
    eta = torch.randn(30, generator=generator, dtype=torch.float64)[group]
    return ht.Data(y=torch.bernoulli(eta.sigmoid(), generator=generator), groups={"group": group})


@pytest.mark.parametrize(
    ("rate", "before", "longest", "over"),
    [
        (0.9, None, 1, False),  # nothing to compare with
        (0.9, 0.5, 1, True),  # hardly more to gain
        (0.6, 0.5, 1, False),  # learning goes on
        (0.6, 0.58, 1, True),  # learning adds nothing any more
        (0.5, 0.6, 1, True),
        (0.9, 0.9, 13, True),
        (0.9, 0.9, 14, False),  # somebody stays
    ],
)
def test_the_rule(rate: float, before: float | None, longest: int, over: bool) -> None:
    now = Round(accepted=[torch.tensor(rate)] * 27)
    assert now.settled(before, longest) is over


def test_warm_up_ends_with_a_round(data: ht.Data) -> None:
    """Everything that counts sweeps counts those that there were."""
    told = Told()
    posterior = ht.sample(Intercepts(), data, **SMALL, draws=31, thin=3, monitors=[told])
    warmup = posterior.run["warmup"]
    assert warmup in ends(200)[1:3]
    warm, *later = (w for w in told.windows if w.sweep >= warmup)
    assert (warm.phase, warm.sweep, warm.warmup) == ("warmup", warmup, None)
    assert {(w.phase, w.warmup, w.foreseen) for w in later} == {("sampling", warmup, warmup + 93)}
    assert posterior.run["sweeps"] == later[-1].sweep == warmup + 93 and posterior.n_draws == 31
    again = ht.sample(Intercepts(), data, **SMALL, draws=31, thin=3)
    assert torch.equal(posterior["sigma"], again["sigma"])


def test_a_warm_up_that_is_given_has_its_length(data: ht.Data) -> None:
    assert ht.sample(Intercepts(), data, **SMALL, draws=5, warmup=150).run["warmup"] == 150


def test_a_warm_up_that_does_not_settle_has_an_end(data: ht.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Round, "settled", lambda *_: False)
    assert ht.sample(Intercepts(), data, **SMALL, draws=5).run["warmup"] == 200


def test_a_restored_engine_settles_alike(data: ht.Data) -> None:
    """What it compares with, and where its round ends, are part of its state."""
    plan = ht.plan(Intercepts(), data)
    assert plan.surrogate is not None
    engines = [Whitened(plan.structure, plan.surrogate, 8, torch.Generator().manual_seed(1)) for _ in range(2)]
    engines[0].course = Course(ahead=7, rate=0.5, settled=True)
    with torch.no_grad():
        for engine in engines:
            engine.begin({}, None)
        engines[1].restore(engines[0].state())
    assert engines[1].course == engines[0].course == Course(ahead=7, rate=0.5, settled=True)
    assert engines[1].settled() and engines[1].window(warming=True) == 7
    assert Course.of(Course().tensors()) == Course()


@pytest.mark.parametrize(
    ("rate", "bent", "what"), [(0.04, (), "fit"), (0.69, ("sigma_y",), "sigma_y"), (0.01, ("s",), "fit")]
)
def test_a_surrogate_that_does_not_serve_says_why(rate, bent, what):
    assert what in unfit(rate, bent)


@pytest.mark.parametrize(("rate", "bent"), [(0.06, ()), (0.71, ("sigma_y",))])
def test_a_surrogate_that_serves_goes_on(rate, bent):
    assert unfit(rate, bent) is None
