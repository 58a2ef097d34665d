"""Joint sites: their moments against automatic derivatives, their curvature and slope, and what they leave of rows."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Gamma, Independent, LogNormal, Normal

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.gaussian.affine import NotAffine
from hiertorch.gaussian.carriedsites import CarriedDerivatives, derivatives_of
from hiertorch.gaussian.jointnumbers import check_whole, find_joint
from hiertorch.gaussian.jointsites import JointDerivatives, JointMoments
from hiertorch.gaussian.predictor import find_predictor
from hiertorch.gaussian.surrogate import Surrogate, find_surrogate
from hiertorch.model.checks import inspect
from hiertorch.model.latent import Values
from hiertorch.run.rowweights import RowWeights
from hiertorch.runtime.validating import validation


@pytest.fixture(autouse=True)
def as_in_sampling() -> Iterator[None]:
    with torch.no_grad(), validation(False):
        yield


class LocationScale(ht.Model):
    beta = ht.Latent(Normal(0.0, 1.0), event=2)
    sd = ht.Latent(Gamma(2.0, 2.0), event=2)
    shape = ht.Latent(LogNormal(0.0, 0.3))
    b = ht.Latent(lambda v: Independent(Normal(0.0, v.sd), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.b[:, data.group]
        mean = v.beta[..., 0] + v.beta[..., 1] * data.x + (v.shape * own[..., 0]).exp()
        return Normal(mean, (own[..., 1] + 0.5 * data.x).exp())


class Plain(ht.Model):
    """Quadratic in all that rows read."""

    beta = ht.Latent(Normal(0.0, 1.0))
    sd = ht.Latent(Gamma(2.0, 2.0), event=2)
    b = ht.Latent(lambda v: Independent(Normal(0.0, v.sd), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.b[:, data.group]
        return Normal(v.beta + own[..., 0] + own[..., 1] * data.x, 0.7)


class Classes(ht.Model):
    sd = ht.Latent(Gamma(2.0, 2.0))
    b = ht.Latent(lambda v: Independent(Normal(torch.zeros(3, dtype=v.sd.dtype), v.sd.unsqueeze(-1)), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        return Categorical(logits=v.b[:, data.group])


def rows() -> ht.Data:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    return ht.Data(y, groups={"group": torch.arange(40) % 5, "other": torch.arange(40) % 3}, x=x)


def made(model: ht.Model, data: ht.Data) -> tuple[Surrogate, RowWeights, dict[str, Tensor]]:
    """Joint sites of a model, and draws from its prior."""
    reads, _ = inspect(model, data)
    surrogate = Surrogate(model, data, reads, find_joint(model, data, reads))
    structure = analyse(model, data, reads)
    return (
        surrogate,
        RowWeights(structure, surrogate, "group"),
        model.sample_prior(data, 6, torch.Generator().manual_seed(1)),
    )


def by_torch(model: ht.Model, data: ht.Data, v: Mapping[str, Tensor], names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Slopes and curvatures of the groups' log densities, summed over chains, by automatic differentiation."""
    slopes, curvatures = [], []
    for c in range(len(v["sd"])):
        for g in range(data.size("group")):
            at = [v[name][c, g if model.latents[name].plate else 0].flatten() for name in names]

            lengths = [len(x) for x in at]

            def density(flat: Tensor, c: int = c, g: int = g, lengths: list[int] = lengths) -> Tensor:
                values = {name: x[c : c + 1].clone() for name, x in v.items()}
                for name, part in zip(names, flat.split(lengths), strict=True):
                    values[name] = part.view(1, 1, *v[name].shape[2:]).expand_as(values[name])
                return model.log_likelihood(Values(values), data)[0][data["group"] == g].sum()

            with torch.enable_grad():
                slopes.append(torch.autograd.functional.jacobian(density, torch.cat(at)))
                curvatures.append(-torch.autograd.functional.hessian(density, torch.cat(at)))
    groups = (len(v["sd"]), data.size("group"))
    return torch.stack(slopes).unflatten(0, groups).sum(0), torch.stack(curvatures).unflatten(0, groups).sum(0)


def test_moments_are_those_of_automatic_derivatives() -> None:
    model, data = LocationScale(), rows()
    surrogate, weigh, v = made(model, data)
    v = {name: x[:1] for name, x in v.items()}
    moments = JointDerivatives(weigh.terms, surrogate)(v)
    slopes, curvatures = by_torch(model, data, v, tuple(moments.widths))
    torch.testing.assert_close(moments.first, slopes, rtol=1e-4, atol=1e-4 * float(slopes.abs().max()))
    torch.testing.assert_close(moments.curvature, curvatures, rtol=1e-3, atol=1e-4 * float(curvatures.abs().max()))
    again = JointMoments.of(moments.tensors())
    assert all(torch.equal(a, b) for a, b in zip(again[1:4], moments[1:4], strict=True)) and again[4:] == moments[4:]


class Choices(ht.Model):
    """Two linear predictors of a row, one of them without the column x."""

    beta = ht.Latent(Normal(0.0, 1.0), event=3)
    sd = ht.Latent(Gamma(2.0, 2.0), event=2)
    b = ht.Latent(lambda v: Independent(Normal(0.0, v.sd), 1), plate="group")

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.b[:, data.group]
        first = v.beta[..., 0] + v.beta[..., 1] * data.x + own[..., 0]
        second = v.beta[..., 2] + own[..., 1]
        return Categorical(logits=torch.stack(torch.broadcast_tensors(0.0 * first, first, second), -1))


class Apart(Choices):
    """Rows above 0 have the numbers of one predictor, those below 0 of another: no number is in all rows."""

    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own, up, down = v.b[:, data.group], data.x.clamp(min=0.0), data.x.clamp(max=0.0)
        first, second = (v.beta[..., 0] + own[..., 0]) * up, (v.beta[..., 2] + own[..., 1]) * down
        return Categorical(logits=torch.stack(torch.broadcast_tensors(0.0 * first, first, second), -1))


def test_a_few_numbers_carry_the_derivatives_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiertorch.gaussian.jointnumbers.MOST_NUMBERS", 4)
    model, data = Choices(), rows().replace(y=torch.arange(40.0).double() % 3)
    surrogate, weigh, v = made(model, data)
    assert surrogate.predictor.carried is not None and surrogate.predictor.carried[1].shape == (40, 2, 5)
    found = derivatives_of(weigh.terms, surrogate)
    assert isinstance(found, CarriedDerivatives)
    moments = found(v)
    slopes, curvatures = by_torch(model, data, v, tuple(moments.widths))
    torch.testing.assert_close(moments.first, slopes, rtol=1e-4, atol=1e-4 * float(slopes.abs().max()))
    torch.testing.assert_close(moments.curvature, curvatures, rtol=1e-4, atol=1e-4 * float(curvatures.abs().max()))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(Apart(), "no few numbers of the rows"), (LocationScale(), "not all of them with normal priors")],
)
def test_derivatives_that_no_few_numbers_carry(model: ht.Model, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiertorch.gaussian.jointnumbers.MOST_NUMBERS", 3)
    data = rows().replace(y=torch.arange(40.0).double() % 3)
    reads, _ = inspect(model, data)
    with pytest.raises(NotAffine, match=sentence):
        find_joint(model, data, reads)


def test_sites_have_the_curvature_and_the_slope_of_their_moments() -> None:
    """Where the curvature is positive definite: that of numbers with a normal prior, and mixed with others."""
    generator = torch.Generator().manual_seed(2)
    half = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)
    curvature, x = half @ half.mT + torch.eye(4), torch.randn(5, 4, generator=generator, dtype=torch.float64)
    slope = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    moments = JointMoments(2.0, 2.0 * x, 2.0 * slope, 2.0 * curvature, {"b": 3, "shape": 1}, 3, 3)
    sites = moments.sites()
    z, w = (s.unflatten(0, (5, 3)) for s in (sites.z, sites.w))
    columns = torch.cat([sites.shifts["b"], sites.shifts["shape"]], 1).unflatten(0, (5, 3))
    torch.testing.assert_close((columns.mT * w.unsqueeze(1) @ columns)[:, :3], curvature[:, :3])
    left = z - (columns @ x.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close((columns.mT @ (w * left).unsqueeze(2)).squeeze(2)[:, :3], slope[:, :3])


def test_a_density_that_is_quadratic_leaves_nothing() -> None:
    """Sites from any place are then the density itself; those of another place are not that of a curved one."""
    left = {}
    for model in (Plain(), LocationScale()):
        surrogate, weigh, v = made(model, rows())
        weigh.set_sites(JointDerivatives(weigh.terms, surrogate)({name: x[:1] for name, x in v.items()}).sites())
        left[type(model)] = weigh(v)
    torch.testing.assert_close(left[Plain], left[Plain][:, :1].expand_as(left[Plain]), rtol=1e-4, atol=1e-3)
    assert float(left[LocationScale].std(1).min()) > 0.1


def test_rows_of_the_same_groups_have_one_site() -> None:
    surrogate, _, _ = made(LocationScale(), rows())
    assert surrogate.cells is not None
    assert (surrogate.cells.rows.n_rows, surrogate.cells.directions) == (5, 4)
    assert torch.equal(surrogate.cells.rows["group"][surrogate.cells.of_row], rows()["group"])


def test_plain_predictors_are_found_first() -> None:
    """And those that miss something are none: a scale that reads effects, which the mean does not."""
    data = rows()
    reads, _ = inspect(LocationScale(), data)
    with pytest.raises(NotAffine, match="not linear in 'b'"):
        find_predictor(LocationScale(), data, reads)
    classes = data.replace(y=torch.arange(40.0, dtype=torch.float64) % 3)
    found = find_surrogate(Classes(), classes, inspect(Classes(), classes)[0])
    assert found.cells is not None and found.predictor.rank == 2  # three logits, of which a constant is free


class Scales(LocationScale):
    def likelihood(self, v: Values, data: ht.Data) -> Any:
        own = v.b[:, data.group]
        return Normal(v.beta[..., 0] + own[..., 0], (v.beta[..., 1] + own[..., 1]).exp())


def test_effects_beside_the_predictor_are_noticed() -> None:
    """But not by what has a linear predictor."""
    data = rows()
    reads, plain = inspect(Scales(), data)[0], inspect(Plain(), data)[0]
    with pytest.raises(NotAffine, match="more ways than by one linear predictor"):
        check_whole(Scales(), data, reads, find_predictor(Scales(), data, reads))
    check_whole(Plain(), data, plain, find_predictor(Plain(), data, plain))


def test_too_many_numbers_are_refused() -> None:
    class Wide(LocationScale):
        more = ht.Latent(Normal(0.0, 1.0), event=30)

        def likelihood(self, v: Values, data: ht.Data) -> Any:
            first = super().likelihood(v, data)
            return Normal(first.loc + v.more.sum(-1), first.scale)

    with pytest.raises(NotAffine, match="more than 24 numbers"):
        find_joint(Wide(), rows(), inspect(Wide(), rows())[0])
