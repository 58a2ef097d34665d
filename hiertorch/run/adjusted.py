"""Standard normal numbers of groups, adjusted to theta: for posteriors in which they depend on it.

    e_g = a_g + B_g t + exp(c_g + G_g t) eps_g,     t: theta, standardised, within +-3.5

Under the surrogate e and theta are independent. Under the posterior of groups that are all 0 they are not, and a move
of theta that keeps e is refused; eps, which is kept instead, is nearly independent of theta. For any coefficients this
is a change of variables: with N(eps) in place of N(e) a group's log weight gains

    h_g = (|eps_g|^2 - |e_g|^2) / 2 + sum of c_g + G_g t

Coefficients are least squares of e, and of half the relative square of its residual, on t. Each column is shrunk to a
regression on where a group stands and how much its rows say, if there are groups enough (an empirical Bayes estimate:
Efron & Morris 1975); else to 0 by its standard error. docs/decisions.md: Effects in the coordinates of a surrogate.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiertorch.gaussian.ladder import Rung

POOR = 0.7
"""Share of proposals of the population that are accepted, below which numbers of groups are adjusted to theta."""

MOST = 1_000_000
"""Numbers of groups of all chains, above which they are not."""

LEAST = 0.05
"""Of the largest coefficient: an adjustment by less is none."""

FARTHEST = 3.5
"""Bound of standardised theta."""

EFFECTIVE = 0.3
"""Independent draws, as a part of those that are fitted to."""

SLOPE = 0.3
"""Bound of slopes of log scales."""

POOLED = 50
"""Groups from which on coefficients are shrunk to a regression."""

SURE = 4.0
"""Mean square, in standard errors, of a regression's values that is believed."""

ALONE = 6.0
"""Squared standard errors that a coefficient by itself is shrunk by."""


class Adjusted(NamedTuple):
    """The map from eps to e, of the finest level."""

    middle: Tensor  # of theta, (d,)
    spread: Tensor  # (d,)
    location: Tensor  # a, (K, groups, 1)
    slopes: Tensor  # B, (K, groups, d)
    log_scale: Tensor  # c, (K, groups, 1)
    scale_slopes: Tensor  # G, (K, groups, d)

    def at(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """a + B t and c + G t, `(K, groups, chains)` each, at theta `(chains, d)`."""
        t = self.standardised(position)
        return self.location + self.slopes @ t, self.log_scale + self.scale_slopes @ t

    def numbers(self, position: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e `(K, groups, chains)`, h `(groups, chains)`, and log |de / d eps| `(chains,)`."""
        location, log_scale = self.at(position)
        e = location + log_scale.exp() * eps
        return e, (0.5 * (eps.square() - e.square()) + log_scale).sum(0), log_scale.sum((0, 1))

    def standardised(self, position: Tensor) -> Tensor:
        """t, `(d, chains)`."""
        return ((position - self.middle) / self.spread).clamp(-FARTHEST, FARTHEST).mT

    def volume(self, position: Tensor) -> Tensor:
        """log |de / d eps| alone, `(chains,)`."""
        return self.log_scale.sum() + self.scale_slopes.sum((0, 1)) @ self.standardised(position)

    def back(self, position: Tensor, e: Tensor) -> Tensor:
        """eps of e."""
        location, log_scale = self.at(position)
        return (e - location) * log_scale.neg().exp()

    def tensors(self) -> dict[str, Tensor]:
        """The same as named tensors, which `of` takes."""
        return self._asdict()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Adjusted":
        """What such tensors hold."""
        return cls(**tensors)


def wanted(rate: float, noise: Sequence[Tensor], chains: int) -> bool:
    """Whether numbers of groups `(K, groups, some chains)`, those of the finest level first, are to be adjusted, of so
    many chains.
    """
    return len(noise) > 0 and rate < POOR and noise[0][..., 0].numel() * chains <= MOST


def fitted(position: Tensor, noise: Tensor, rung: Rung) -> Adjusted | None:
    """The adjustment that fits draws; None if there is nothing to adjust, or if there are too few draws.

    Args:
        position: theta, `(n, d)`.
        noise: e, `(K, groups, n)`.
        rung: of the finest level, at some of the draws.
    """
    if len(position) <= 1 + position.shape[1]:
        return None
    middle, spread = position.mean(0), position.std(0).clamp(min=1e-9)
    t = ((position - middle) / spread).clamp(-FARTHEST, FARTHEST)
    t = t - t.mean(0)
    number, (_, groups, n) = EFFECTIVE * len(t), noise.shape
    inverse = torch.linalg.pinv(t.mT @ t / n)
    features = _features(rung) if groups >= POOLED else None

    def shrunk(found: Tensor, error: Tensor) -> Tensor:
        return _alone(found, error) if features is None else _pooled(found, error, features)

    mean, sd = noise.mean(2, keepdim=True), noise.std(2, keepdim=True)
    slopes = shrunk((noise - mean) @ t / n @ inverse, sd / number**0.5)
    residual = noise - mean - slopes @ t.mT
    variance = residual.square().mean(2, keepdim=True)
    relative = residual.square() / variance
    error = 0.5 * (relative.square().mean(2, keepdim=True) - 1.0).clamp(min=0.0).sqrt() / number**0.5
    scale_slopes = shrunk(0.5 * (relative - 1.0) @ t / n @ inverse, error).clamp(-SLOPE, SLOPE)
    log_scale = shrunk(0.5 * variance.log(), error) - scale_slopes.square().sum(2, keepdim=True)
    found = Adjusted(middle, spread, shrunk(mean, sd / number**0.5), slopes, log_scale, scale_slopes)
    return found if max(float(x.abs().amax()) for x in found[2:]) > LEAST else None


def _features(rung: Rung) -> Tensor:
    """Of groups: powers of their standardised conditional means, and of how little their rows say, `(K, groups, 8)`."""
    own = torch.arange(len(rung.middle))
    y, k = rung.middle.mean(2), rung.half[own, own].mean(2)
    y = y / y.std(1, keepdim=True).clamp(min=1e-6)
    k = (k - k.mean(1, keepdim=True)) / k.std(1, keepdim=True).clamp(min=1e-6)
    return torch.stack([torch.ones_like(y), y, y**2, y**3, k, k * y, k * y**2, k**2], 2)


def _pooled(found: Tensor, error: Tensor, features: Tensor) -> Tensor:
    """Columns `(K, groups, c)`, shrunk to their weighted regressions on features by what these leave unexplained."""
    weight = error.square().clamp(min=1e-12).reciprocal()  # (K, groups, 1)
    gram = features.mT @ (weight * features)
    ridge = 1e-6 * weight.sum(1, keepdim=True) * torch.eye(features.shape[2], dtype=found.dtype, device=found.device)
    expected = features @ torch.linalg.solve(gram + ridge, features.mT @ (weight * found))
    sure = (expected.square() * weight).sum(1, keepdim=True) > SURE * features.shape[2]
    left = ((found - expected).square() - error.square()).mean(1, keepdim=True).clamp(min=0.0)
    expected = torch.where(sure, expected, 0.0)
    return expected + (found - expected) * left / (left + error.square()).clamp(min=1e-12)


def _alone(found: Tensor, error: Tensor) -> Tensor:
    """Coefficients, shrunk to 0 by their standard errors."""
    return found * (1.0 - ALONE * (error / found.abs().clamp(min=1e-9)).square()).clamp(min=0.0)
