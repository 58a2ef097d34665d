"""What moves of covariances offer: scales with their effect integrated out, against SciPy's normal densities; and
compiled loops, against torch's own way.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from hiertorch.run import oneeffect
from hiertorch.run.oneeffect import Offered, Sides, offered_row, offered_scale

WIDTH, GROUPS, CHAINS = 5, 37, 6
MINE = torch.tensor([3, 1, 2])
"""Three of five effects, of which the last has a scale to be moved."""

UNIT = 0.6


POWER = 7


@pytest.fixture
def sides() -> Sides:
    """Sums of rows, effects, and a root, as moves take them; of one group there are no rows."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    columns = normal(GROUPS, 6, WIDTH)
    columns[4] = 0.0
    root = 0.3 * normal(CHAINS, 3, 3).tril(-1) + normal(CHAINS, 3).abs().add(0.2).diag_embed()
    right = torch.einsum("gra,grc->agc", columns, normal(GROUPS, 6, CHAINS))
    return Sides(MINE, torch.einsum("gra,grb->abg", columns, columns), right, root, normal(WIDTH, GROUPS, CHAINS))


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(oneeffect, "can_compile", lambda device: False)
    else:
        pytest.importorskip("numba")


class Known:
    """What SciPy says of one chain: the effect moves given its group's others."""

    def __init__(self, sides: Sides, chain: int) -> None:
        self.x, right = (z[:, :, chain].numpy() for z in (sides.level, sides.right))
        gram, effect, self.seen = sides.gram.numpy(), 2, np.arange(GROUPS) != 4
        others = [m for m in range(WIDTH) if m != effect]
        self.left, self.own = right[effect] - (gram[effect, others] * self.x[others]).sum(0), gram[effect, effect]
        self.root = sides.root[chain].numpy()

    def moments(self, row: np.ndarray) -> tuple[np.ndarray, float]:
        """Prior mean by group and sd of the effect, given its others, of a last row of the root."""
        covariance = np.vstack([self.root[:2], row]) @ np.vstack([self.root[:2], row]).T
        slope = np.linalg.solve(covariance[:2, :2], covariance[:2, 2])
        return slope @ self.x[[3, 1]], float(np.sqrt(covariance[2, 2] - covariance[2, :2] @ slope))

    def height(self, row: np.ndarray) -> float:
        """log density of what rows say of the effect, this integrated out, but for a constant."""
        (mean, sd), seen = self.moments(row), self.seen
        spread = np.sqrt(sd**2 + 1.0 / self.own[seen])
        return float(stats.norm.logpdf(self.left[seen] / self.own[seen], mean[seen], spread).sum())

    def numbers(self, row: np.ndarray, effect: np.ndarray) -> np.ndarray:
        """Of an effect, given rows."""
        mean, sd = self.moments(row)
        precision = self.own + 1.0 / sd**2
        return (effect - (self.left + mean / sd**2) / precision) * np.sqrt(precision)

    def check_effects(self, offered: Offered, chain: int) -> None:
        """Numbers are kept."""
        before, after = self.root[-1], offered.row[chain].numpy()
        mine = self.numbers(before, self.x[2])
        np.testing.assert_allclose(self.numbers(after, offered.effect[:, chain].numpy()), mine, rtol=1e-7, atol=1e-8)


@pytest.mark.usefixtures("way")
def test_scales_are_offered_as_scipy_has_them(sides: Sides) -> None:
    uniform = torch.rand(2, CHAINS, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    offered, bins = offered_scale(sides, UNIT, uniform), (np.arange(oneeffect.BINS) + 0.5) / oneeffect.BINS
    for chain in range(CHAINS):
        known = Known(sides, chain)
        before, after = known.root[-1], offered.row[chain].numpy()
        old, new = np.linalg.norm(before), np.linalg.norm(after)
        np.testing.assert_allclose(after / new, before / old, rtol=1e-12)
        heights = [known.height(UNIT * y / (1.0 - y) * before / old) - 2.0 * np.log1p(-y) for y in bins]
        weight = np.exp(np.array(heights) - max(heights)) + oneeffect.LEAST
        below, above = (np.cumsum(weight) - np.array([weight, 0.0 * weight])) / weight.sum()
        place = int(new / (new + UNIT) * oneeffect.BINS)
        assert below[place] <= float(uniform[0, chain]) <= above[place]

        def log_q(s: float, weight: np.ndarray = weight) -> float:
            return float(np.log(weight[int(s / (s + UNIT) * oneeffect.BINS)]) - 2.0 * np.log(s + UNIT))

        beyond = known.height(after) - log_q(new) - known.height(before) + log_q(old)
        assert float(offered.beyond[chain]) == pytest.approx(beyond, rel=1e-8, abs=1e-8)
        known.check_effects(offered, chain)


@pytest.mark.usefixtures("way")
def test_correlations_are_drawn_from_the_normal_distribution_of_scipy(sides: Sides) -> None:
    """At the mean, and 1 sd along each axis of the root of the covariance: heights and the mixture's normal prior."""
    square, noise = torch.full((CHAINS,), 5.0).double(), torch.zeros(2, CHAINS).double()
    noise[0, 1], noise[1, 2] = 1.0, -2.0
    offered = offered_row(sides, POWER, square, noise)
    for chain in range(CHAINS):
        known = Known(sides, chain)
        before, t = known.root[-1], known.root[-1, -1]
        slack = 5.0 / (before @ before)

        def log_p(r: np.ndarray, known: Known = known, t: float = t, slack: float = slack) -> float:
            return known.height(np.append(r, t)) - 0.5 * slack * float(r @ r)

        found, step = offered.row[chain].numpy(), 1e-3
        assert found[-1] == t
        eye = step * np.eye(2)
        bend = np.array([
            [-log_p(found[:2] + a + b) + log_p(found[:2] + a - b) + log_p(found[:2] - a + b) - log_p(found[:2] - a - b)
             for b in eye] for a in eye
        ]) / (4.0 * step**2)  # fmt: skip
        slope = np.array([log_p(found[:2] + a) - log_p(found[:2] - a) for a in eye]) / (2.0 * step)
        lower = np.linalg.cholesky(bend)
        mean = found[:2] + np.linalg.solve(bend, slope)
        np.testing.assert_allclose(lower.T @ (found[:2] - mean), noise[:, chain].numpy(), atol=1e-4)
        after = np.linalg.norm(found) / np.linalg.norm(before)
        assert float(offered.beyond[chain]) == pytest.approx(POWER * np.log(after), rel=1e-9)
        known.check_effects(offered, chain)


def test_compiled_loops_offer_what_torch_does(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(6)
    uniform, noise = (torch.rand(2, CHAINS, generator=generator, dtype=torch.float64) for _ in range(2))
    moves = [lambda: offered_scale(sides, UNIT, uniform), lambda: offered_row(sides, POWER, 3.0 * uniform[0], noise)]
    mine = [move() for move in moves]
    monkeypatch.setattr(oneeffect, "can_compile", lambda device: False)
    for own, move in zip(mine, moves, strict=True):
        for x, y in zip(own, move(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
