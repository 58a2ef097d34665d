"""Numbers of groups that are adjusted to theta: against derivatives, and against coefficients that are known."""

import torch

from hiertorch.gaussian.ladder import Rung
from hiertorch.run.adjusted import Adjusted, fitted

GROUPS, NUMBER = 80, 4_000


def known(generator, size):
    """An adjustment whose slopes follow where groups stand, to two numbers of theta, and that rung."""
    middle = torch.linspace(-2.0, 2.0, GROUPS, dtype=torch.float64)
    half = torch.rand(GROUPS, generator=generator, dtype=torch.float64)
    rung = Rung(half[None, None, :, None], middle[None, :, None], ())
    column = middle[None, :, None]
    zero = torch.zeros_like(column)
    slopes = torch.cat([size * column, zero], 2)
    return rung, Adjusted(
        torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64),
        0.5 * size * column, slopes, zero, 0.2 * slopes,
    )  # fmt: skip


def drawn(adjusted, generator):
    position = adjusted.middle + adjusted.spread * torch.randn(NUMBER, 2, generator=generator, dtype=torch.float64)
    eps = torch.randn(1, GROUPS, NUMBER, generator=generator, dtype=torch.float64)
    return position, eps, *adjusted.numbers(position, eps)


def test_the_change_of_variables():
    """log N(e) + log |de / d eps| = log N(eps) + h, and the way back."""
    generator = torch.Generator().manual_seed(1)
    _, adjusted = known(generator, 0.4)
    position, eps, e, more, volume = drawn(adjusted, generator)
    torch.testing.assert_close(adjusted.back(position, e), eps)
    one = position[:1]
    slope = torch.func.jacrev(lambda x: adjusted.numbers(one, x)[0].flatten())(eps[..., :1]).reshape(GROUPS, GROUPS)
    torch.testing.assert_close(torch.linalg.slogdet(slope).logabsdet, volume[0])
    normal = [-0.5 * x.square().sum((0, 1)) for x in (e, eps)]
    torch.testing.assert_close(normal[0] + volume, normal[1] + more.sum(0))


def test_coefficients_are_found():
    """Within a few standard errors, of some 1 / sqrt(0.3 NUMBER)."""
    generator = torch.Generator().manual_seed(2)
    rung, adjusted = known(generator, 0.4)
    position, _, e, *_ = drawn(adjusted, generator)
    found = fitted(position, e, rung)
    assert found is not None
    torch.testing.assert_close(found.slopes, adjusted.slopes, rtol=0.0, atol=0.1)
    torch.testing.assert_close(found.scale_slopes, adjusted.scale_slopes, rtol=0.0, atol=0.1)
    few = fitted(position, e[:, :20], Rung(rung.half[:, :, :20], rung.middle[:, :20], ()))
    assert few is not None
    torch.testing.assert_close(few.slopes, adjusted.slopes[:, :20], rtol=0.0, atol=0.15)


def test_nothing_is_found_where_nothing_is():
    generator = torch.Generator().manual_seed(3)
    rung, adjusted = known(generator, 0.0)
    position, _, e, *_ = drawn(adjusted, generator)
    assert fitted(position, e, rung) is None
