"""Rows that read several groups of one plate, against covariances that NumPy builds row by row."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Gamma, MultivariateNormal, Normal

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.gaussian import affine, slots
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.discovery import collapse
from hiertorch.gaussian.ladder import Ladder
from hiertorch.gaussian.sites import RowDerivatives
from hiertorch.gaussian.slots import Slots
from hiertorch.gaussian.surrogate import Sites, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.model.latent import Values
from hiertorch.runtime.validating import validation

ROWS, TUTORS, CLASSES = 50, 6, 9


class Tutors(ht.Model):
    """Pupils of two tutors each, with parts and slopes of their own; the last rows have one alone."""

    mu = ht.Latent(Normal(0.5, 2.0))
    tau = ht.Latent(Gamma(2.0, 2.0), event=2)
    sigma = ht.Latent(Gamma(2.0, 2.0))
    u = ht.Latent(
        lambda v: MultivariateNormal(
            torch.zeros(2, dtype=torch.float64),
            scale_tril=v.tau[..., None] * torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64),
        ),
        plate="tutor",
    )

    def mean(self, v: Values, data: ht.Data) -> Tensor:
        first, second = v.u[:, data.tutor], v.u[:, data.other]
        own = data.part * first + (1.0 - data.part) * second  # (chains, rows, 2)
        return v.mu + own[..., 0] + own[..., 1] * data.x

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Normal(self.mean(v, data), v.sigma)


class TutorsAndClasses(Tutors):
    """The largest plate is read as ever."""

    omega = ht.Latent(Gamma(2.0, 2.0))
    room = ht.Latent(lambda v: Normal(0.0, v.omega), plate="room")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Normal(self.mean(v, data) + v.room[:, data.room], v.sigma)


def pupils(weighted: bool = True) -> ht.Data:
    rng = np.random.default_rng(1)
    tutor, other = rng.integers(0, TUTORS, (2, ROWS))
    part = rng.uniform(0.2, 0.8, (ROWS, 1))
    part[-8:] = 1.0
    other[:3] = tutor[:3]
    groups = {"tutor": tutor, "other": other, "room": np.arange(ROWS) % CLASSES}
    labels = {"tutor": range(TUTORS), "other": range(TUTORS)}
    weights = rng.choice([0.5, 1.0, 2.0], ROWS) if weighted else None
    return ht.Data(rng.normal(0.0, 2.0, ROWS), groups=groups, labels=labels, weights=weights, part=part,
                   x=rng.normal(30.0, 4.0, ROWS))  # fmt: skip


def design(data: ht.Data) -> tuple[np.ndarray, np.ndarray]:
    """Columns of tutors, number by number, and of rooms."""
    z, rooms = np.zeros((ROWS, TUTORS, 2)), np.zeros((ROWS, CLASSES))
    part, x = data.part[:, 0].numpy(), data.x.numpy()
    for i in range(ROWS):
        for group, p in ((data.tutor[i], part[i]), (data.other[i], 1.0 - part[i])):
            z[i, group] += p * np.array([1.0, x[i]])
        rooms[i, data.room[i]] = 1.0
    return z.reshape(ROWS, -1), rooms


def known(model: ht.Model, data: ht.Data, v: dict[str, Tensor], c: int) -> tuple[float, np.ndarray, np.ndarray]:
    """log p(y | rest), and mean and covariance of (u, mu, rooms) given y, at one value of the rest."""
    z, rooms = design(data)
    tau, sigma = v["tau"][c, 0].numpy(), float(v["sigma"][c])
    root = tau[:, None] * np.array([[1.0, 0.0], [-0.6, 0.8]])
    blocks, columns = [np.kron(np.eye(TUTORS), root @ root.T), np.diag([4.0])], [z, np.ones((ROWS, 1))]
    if isinstance(model, TutorsAndClasses):
        blocks.append(float(v["omega"][c]) ** 2 * np.eye(CLASSES))
        columns.append(rooms)
    x = np.concatenate(columns, 1)
    prior = np.zeros((x.shape[1], x.shape[1]))
    at = 0
    for block in blocks:
        prior[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    w = np.ones(ROWS) if data.weights is None else data.weights.numpy()
    noise = np.diag(sigma**2 / w)
    centre = np.zeros(x.shape[1])
    centre[2 * TUTORS] = 0.5
    covariance = x @ prior @ x.T + noise
    left = data.y.numpy() - x @ centre
    density = stats.multivariate_normal(np.zeros(ROWS), covariance).logpdf(left)
    density += float((-0.5 * (w - 1.0) * np.log(2.0 * np.pi * sigma**2) - 0.5 * np.log(w)).sum())
    gain = prior @ x.T @ np.linalg.inv(covariance)
    return density, centre + gain @ left, prior - gain @ x @ prior


def collapsed(model: ht.Model, data: ht.Data) -> Collapsed:
    with torch.no_grad(), validation(False):
        found = collapse(model, data, inspect(model, data)[0])
    assert isinstance(found, Collapsed), found
    return found


def drawn(found: Collapsed, data: ht.Data, chains: int) -> dict[str, Tensor]:
    prior = found.composed.model.sample_prior(data, chains, torch.Generator().manual_seed(2))
    return {name: prior[name] for name in found.rest}


@pytest.mark.parametrize("model", [Tutors(), TutorsAndClasses()])
def test_densities_and_draws_are_those_of_dense_covariances(model: ht.Model) -> None:
    data = pupils()
    found = collapsed(model, data)
    rest = drawn(found, data, 3)
    density = found.log_marginal(rest)
    for c in range(3):
        expected, mean, covariance = known(model, data, rest, c)
        assert float(density[c]) == pytest.approx(expected, rel=1e-9)
        noise = torch.cat([torch.zeros(found.n_noise, 1), torch.eye(found.n_noise)], 1).double()
        one = {name: x[c : c + 1].expand(noise.shape[1], *x.shape[1:]) for name, x in rest.items()}
        draws = found.draw(one, noise)
        every = torch.cat([draws[name].flatten(1) for name in ("u", "mu", "room") if name in draws], 1).numpy()
        np.testing.assert_allclose(every[0], mean, rtol=1e-7, atol=1e-8)
        moved = every[1:] - every[0]
        np.testing.assert_allclose(moved.T @ moved, covariance, rtol=1e-6, atol=1e-8)


class Centred(Tutors):
    """Effects that add up to 0: rows read those of all tutors."""

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        u = v.u - v.u.mean(1, keepdim=True)
        return Normal(v.mu + u[:, data.tutor, 0], v.sigma)


def test_effects_that_add_up_to_0() -> None:
    """Given all else, it makes no difference what their mean is."""
    data, model = pupils(weighted=False), Centred()
    found = collapsed(model, data)
    assert found.affine.slots["tutor"].number == TUTORS
    rest = drawn(found, data, 2)
    for c, density in enumerate(found.log_marginal(rest)):
        own = np.eye(TUTORS)[data.tutor.numpy()] - 1.0 / TUTORS
        covariance = float(rest["tau"][c, 0, 0]) ** 2 * own @ own.T + 4.0
        covariance += float(rest["sigma"][c]) ** 2 * np.eye(ROWS)
        expected = stats.multivariate_normal(np.full(ROWS, 0.5), covariance).logpdf(data.y.numpy())
        assert float(density) == pytest.approx(expected, rel=1e-9)


def test_data_sets_of_several_chains_have_their_own() -> None:
    data, model = pupils(weighted=False), TutorsAndClasses()
    weights = torch.ones(2, ROWS, dtype=torch.float64)
    weights[1, :10] = 0.0
    found = collapsed(model, data.replace(weights=weights))
    rest = drawn(found, data, 2)
    alone = [collapsed(model, data.replace(weights=w)).log_marginal(rest)[c] for c, w in enumerate(weights)]
    torch.testing.assert_close(found.log_marginal(rest), torch.stack(alone), rtol=1e-10, atol=1e-9)


def test_a_slot_that_is_missed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Slots.of.__func__  # type: ignore[attr-defined]

    def first_alone(cls: type[Slots], dense: Tensor) -> Slots:
        found = right(cls, dense)
        return Slots(found.group[:, :1], found.weight[:, :1])

    monkeypatch.setattr(Slots, "of", classmethod(first_alone))
    data = pupils()
    with torch.no_grad(), validation(False):
        assert isinstance(collapse(Tutors(), data, inspect(Tutors(), data)[0]), str)


class Shares(Tutors):
    """How much the second tutor counts is to be found out."""

    share = ht.Latent(Gamma(2.0, 2.0))

    def mean(self, v: Values, data: ht.Data) -> Tensor:
        return v.mu + v.u[:, data.tutor, 0] - v.share * v.u[:, data.other, 0]


def test_what_can_not_be_integrated_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pupils()

    def refused(model: ht.Model) -> str:
        with torch.no_grad(), validation(False):
            found = collapse(model, data, inspect(model, data)[0])
        assert isinstance(found, str)
        return found

    assert "with coefficients of 'u' that change" in refused(Shares())
    with pytest.raises(NotAffine, match="rows read several groups of 'tutor'"):
        assert collapsed(Tutors(), data).marginals
    monkeypatch.setattr(affine, "MOST_SLOTS", 1)
    assert refused(Tutors()) == "rows read 2 groups of 'tutor', more than 1"
    monkeypatch.setattr(affine, "MOST_NUMBERS", 10)
    assert "50 rows times 12 numbers of these are more than 10" in refused(Tutors())


class Matches(ht.Model):
    """Players win by the difference of their skills (Bradley & Terry 1952)."""

    tau = ht.Latent(Gamma(2.0, 2.0))
    skill = ht.Latent(lambda v: Normal(0.0, v.tau), plate="tutor")

    def eta(self, v: Values, data: ht.Data) -> Tensor:
        return v.skill[:, data.tutor] - v.skill[:, data.other]

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Bernoulli(logits=self.eta(v, data))


class Draws(Matches):
    """With a third outcome: a likelihood of the user's own, of which densities alone are known."""

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        low, high = (-self.eta(v, data) - 0.5).sigmoid(), (0.5 - self.eta(v, data)).sigmoid()
        return Categorical(probs=torch.stack([low, high - low, 1.0 - high], -1))


@pytest.mark.parametrize("model", [Matches(), Draws()])
def test_the_predictor_and_derivatives_of_rows(model: Matches) -> None:
    """Rows of one player against himself say nothing."""
    with torch.no_grad(), validation(False):
        data = pupils(weighted=False)
        data = data.replace(y=(data.y > 0).to(data.dtype))
        reads = inspect(model, data)[0]
        structure = analyse(model, data, reads)
        surrogate = find_surrogate(model, data, reads, structure.mixed)
        values = model.sample_prior(data, 7, torch.Generator().manual_seed(1))
        eta, own = model.eta(values, data), surrogate.model.eta(values, surrogate.data)
        sign = torch.where((eta * own).sum(0) < 0, -1.0, 1.0)  # of rows of which densities alone are known
        torch.testing.assert_close(own * sign, eta, rtol=1e-6, atol=1e-9)
        assert isinstance(model, Draws) or bool((sign == 1.0).all())
        moments = RowDerivatives(lambda v: structure.target.row_terms(v, data), surrogate)(dict(values))
        if isinstance(model, Draws):
            return
        p = special.expit(eta.numpy())
        others = (data.tutor != data.other).numpy()
        np.testing.assert_allclose(moments.first, ((data.y.numpy() - p) * others).sum(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.second, ((p - p**2) * others).sum(0), rtol=1e-4, atol=1e-5)


def test_effects_follow_from_standard_normal_numbers_and_lead_back() -> None:
    """As those that the Gaussian model itself draws."""
    with torch.no_grad(), validation(False):
        data = pupils(weighted=False)
        data = data.replace(y=(data.y > 0).to(data.dtype))
        reads = inspect(Matches(), data)[0]
        source = torch.Generator().manual_seed(3)
        z, w = torch.randn(2, ROWS, generator=source, dtype=torch.float64)
        found = find_surrogate(Matches(), data, reads, analyse(Matches(), data, reads).mixed).given(
            Sites(z, w.exp(), {})
        )
        rest, noise = drawn(found, data, 4), torch.randn(TUTORS, 4, generator=source, dtype=torch.float64)
        ladder = Ladder(found)
        rungs = ladder.rungs(rest, noise)
        torch.testing.assert_close(rungs.tail.mT, found.draw(rest, noise)["skill"])
        torch.testing.assert_close(rungs.log_marginal, found.log_marginal(rest))
        again, root = ladder.at(rest, rungs.tail)
        torch.testing.assert_close(root, noise, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(again.log_volume, rungs.log_volume)


def test_plans_say_who_reads_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pupils(weighted=False)
    assert ht.plan(TutorsAndClasses(), data).collapsed is not None
    plan = ht.plan(Matches(), data.replace(y=(data.y > 0).to(data.dtype)))
    assert plan.surrogate is not None and plan.surrogate.plates == []
    assert "rows read several groups of tutor, whose effects depend on each other" in " ".join(str(plan).split())
    monkeypatch.setattr("hiertorch.gaussian.surrogate.MANY_CROSSED", 1)
    assert not plan.surrogate.crosswise  # plate by plate would be wrong


def test_slots_that_are_not_there_have_no_weight() -> None:
    dense = torch.tensor([[[0.0], [2.0], [0.0]], [[1.0], [0.0], [-3.0]], [[0.0], [0.0], [0.0]]], dtype=torch.float64)
    found = slots.Slots.of(dense)
    assert found.group.tolist() == [[1, 0], [0, 2], [0, 0]]
    assert found.weight[..., 0].tolist() == [[2.0, 0.0], [1.0, -3.0], [0.0, 0.0]]
    effects = torch.tensor([[10.0, 20.0, 40.0]], dtype=torch.float64)
    assert found.read(effects).tolist() == [[40.0, -110.0, 0.0]]
