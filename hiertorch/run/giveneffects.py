"""Scales and correlations of effects given these, by inverse Wishart proposals: without a pass over the rows.

    p(s, L | e) is proportional to  p(s, L) prod_g N(e_g; 0, D L L' D),     D = diag(s)

Given the effects, rows say no more of s and L: only J, the number of groups, and the matrix sum_g e_g e_g' count.
Under a prior of Sigma = D L L' D that is inverse Wishart so is what is drawn (the Gibbs sampler of Gelfand & Smith
1990); here that is the proposal for any prior, accepted with the ratio of

    w = p(s, L) prod_g N(e_g; 0, Sigma) / q(s, L)

there and here (Tierney 1994, section 2.3.3). q = IW(nu, A S A) depends on the effects alone. In warm-up log w, which
then depends on s and L alone, is regressed on log s and log |L L'|: the slope of the latter becomes part of nu, and
those of the former, times the covariance of log s, part of A.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from hiertorch.gaussian.affine import Affine, Part
from hiertorch.gaussian.covariances import SAME, Covariance
from hiertorch.gaussian.wishart import InverseWishart, log_normal, log_polar_volume, polar
from hiertorch.model.latent import Values
from hiertorch.moves.metropolis import Info
from hiertorch.randomness import normal
from hiertorch.run.standing import Standing

TRIES = 4
"""Proposals for each covariance in a sweep: they are made in one batch."""

FEWEST = 5
"""Draws for each slope that is fitted."""

LEAST = 3.0
"""Degrees of freedom above K, at least."""


TURNS = 2
"""Of the diagonal of a proposal's scale."""


class Fitted(NamedTuple):
    """What proposals for one covariance know of its prior.

    Attributes:
        slopes: of log w on log s, `(K,)`,
        bend: and on log |L L'|, `()`.
    """

    slopes: Tensor
    bend: Tensor


class Touched(NamedTuple):
    """Latents of the rest whose prior densities are others with another R.

    Attributes:
        known: of those that hang on no latent, the prior and the end of its support,
        others: and all others.
    """

    known: Mapping[str, tuple[Distribution, float]]
    others: Sequence[str]


class GivenEffects:
    """See the module.

    Args:
        standing: what positions of the rest mean.
        affine: the model.
        covariances: those that are moved.
    """

    def __init__(self, standing: Standing, affine: Affine, covariances: Sequence[Covariance]) -> None:
        self.standing, self.affine, self.covariances = standing, affine, tuple(covariances)
        like = affine.composed.data.y
        # Under flat priors of scales and of correlation matrices.
        self.fitted = [Fitted(like.new_full((c.width,), -c.width), like.new_zeros(())) for c in self.covariances]
        slices = standing.space.slices
        scales = [slices[name].start + i for c in self.covariances for name, i in c.scales]
        roots = [slices[c.correlation] for c in self.covariances if c.correlation is not None]
        self.touched = [self._touched(one) for one in self.covariances]
        self.correlations = [i for at in roots for i in range(at.start, at.stop)]
        self.others = [i for i in range(standing.width) if i not in (*scales, *self.correlations)]

    @property
    def numbers(self) -> int:
        """Uniform numbers that a step takes of each chain."""
        return sum(TRIES * (c.width * (c.width + 1) // 2 + 1) for c in self.covariances)

    def step(self, position: Tensor, effects: Mapping[Part, Tensor], uniform: Tensor) -> tuple[Tensor, Info]:
        """The position `(chains, d)` after a step, and the mean probability of being accepted.

        Args:
            position: of the rest.
            effects: innovations of each part, `(K, groups, chains)`.
            uniform: numbers on (0, 1), `(numbers, chains)`.
        """
        accepts, nan = [], torch.zeros((), dtype=torch.long, device=position.device)  # the prior's are -inf
        for k, covariance in enumerate(self.covariances):
            own = TRIES * (covariance.width * (covariance.width + 1) // 2 + 1)
            mine, uniform = uniform.tensor_split([own])
            x = effects[covariance.part][covariance.at]
            position, accept = self._moved(k, position, x, mine.unflatten(0, (TRIES, -1)))
            accepts.append(accept)
        return position, Info(torch.stack(accepts).mean(0).unsqueeze(1), nan, None)

    def log_prior(self, k: int, values: Mapping[str, Tensor], root: Tensor) -> Tensor:
        """log density of the rest with R `(n, K, K)` in place of the numbers of a covariance, the k-th, as a density of
        R and up to what R does not move, `(n,)`; given values `(n, 1, *event)` of the others.
        """
        covariance, (known, others) = self.covariances[k], self.touched[k]
        scales, unit = polar(root)
        own = covariance.values(values, scales, unit)
        found = -log_polar_volume(scales, unit)
        for name, (prior, most) in known.items():
            x = own[name]
            found = found + prior.log_prob(x).flatten(1).sum(1)
            if most < torch.inf:
                found = torch.where((x < most).flatten(1).all(1), found, -torch.inf)
        if others:
            target, there = self.standing.target, {**values, **own}
            for name, u in self.standing.space.unconstrain({name: there[name] for name in others}).items():
                volume = target.log_jacobian(self.standing.space.coordinates[name], u, there[name])
                found = found + (target.prior_term(name, u, there) - volume).sum(-1)
        return found

    def _touched(self, covariance: Covariance) -> "Touched":
        """See `Touched`."""
        target, moved = self.standing.target, frozenset(covariance.latents)
        like = Values({name: x[:1] for name, x in self.affine.probes.items()}, target.names)
        ends = {name: target.space.coordinates[name].bounds or (0.0, torch.inf) for name in covariance.latents}
        alone = [name for name in covariance.latents if not target.parents[name]]
        known = {name: (target.model.prior(name, like, target.data), ends[name][1]) for name in alone}
        others = [n for n in self.standing.rest if n not in known and (n in moved or moved & set(target.parents[n]))]
        return Touched(known, others)

    def at_root(self, covariance: Covariance, position: Tensor, root: Tensor) -> Tensor:
        """Positions `(n, d)` with the numbers of one covariance of which R `(n, K, K)` is the root."""
        standing, there = self.standing, position.clone()
        scales, unit = polar(root)
        free = standing.space.unconstrain(covariance.values(standing.constrained(position), scales, unit))
        for name, u in free.items():
            there[:, standing.space.slices[name]] = u.flatten(1)
        return there

    def root_and_volume(self, covariance: Covariance, position: Tensor) -> tuple[Tensor, Tensor]:
        """R `(n, K, K)`, and log |d R / d unconstrained| `(n,)`."""
        standing = self.standing
        free = standing.space.split(position)
        values = standing.space.constrain(free)
        root = covariance.root(values)
        volume = log_polar_volume(*polar(root))
        for name in covariance.latents:
            jacobian = standing.target.log_jacobian(standing.space.coordinates[name], free[name], values[name])
            volume = volume + jacobian.sum(-1)
        return root, volume

    def _moved(self, k: int, position: Tensor, x: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """After the proposals for one covariance; uniform numbers `(TRIES, numbers, chains)`."""
        covariance, chains, values = self.covariances[k], len(position), self.standing.constrained(position)
        scatter = torch.einsum("igc,jgc->cij", x, x)
        proposal = self._proposal(k, scatter, x.shape[1])
        numbers = normal(uniform[:, :-1]).to(position.dtype).movedim(1, 2)  # (TRIES, chains, numbers)
        every = InverseWishart(proposal.scale.repeat(TRIES, 1, 1), proposal.freedom)
        here = covariance.root(values)
        both = torch.cat([here, every.placed(numbers.flatten(0, 1))])
        again = InverseWishart(proposal.scale.repeat(1 + TRIES, 1, 1), proposal.freedom)
        values = {name: v.repeat(1 + TRIES, *[1] * (v.dim() - 1)) for name, v in values.items()}
        weight = self._log_weight(k, values, both, again, scatter.repeat(1 + TRIES, 1, 1), x.shape[1])
        sound = torch.where(weight.isfinite(), weight, -torch.inf)
        at, *offered = sound.unflatten(0, (1 + TRIES, chains))
        accepts, root, moved = [], here, torch.zeros_like(at, dtype=torch.bool)
        for candidate, own, decides in zip(both[chains:].split(chains), offered, uniform[:, -1], strict=True):
            ratio = torch.where(at.isfinite(), own - at, -torch.inf)
            accepts.append(ratio.clamp(max=0.0).exp())
            accepted = decides.log() < ratio
            at, moved = torch.where(accepted, own, at), moved | accepted
            root = torch.where(accepted[:, None, None], candidate, root)
        there = self.at_root(covariance, position, root)
        return torch.where(moved.unsqueeze(1), there, position), torch.stack(accepts).mean(0)

    def _log_weight(
        self, k: int, values: Mapping[str, Tensor], root: Tensor, q: InverseWishart, scatter: Tensor, groups: int
    ) -> Tensor:
        """log w `(batch,)` with R in place of a covariance's numbers; -inf where the model's own root is not what is
        taken for it.
        """
        covariance = self.covariances[k]
        weight = self.log_prior(k, values, root) + log_normal(root, scatter, groups) - q.log_density(root)
        there = {**values, **covariance.values(values, *polar(root))}
        own = self.affine.roots(covariance.part, there, len(root))
        own = own[covariance.at, covariance.at, 0].movedim(2, 0)
        size = root.abs().amax((1, 2))
        same = (own - root).abs().amax((1, 2)) <= SAME * size
        return torch.where(same, weight, -torch.inf)

    def _prior(self, covariance: Covariance, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(rest) on unconstrained space, R, and log |d R / d unconstrained|."""
        free = self.standing.space.split(position)
        values = self.standing.space.constrain(free)
        density = self.standing.with_prior(free, values, position.new_zeros(len(position)))
        root, volume = self.root_and_volume(covariance, position)
        return density, root, volume

    def _proposal(self, k: int, scatter: Tensor, groups: int) -> InverseWishart:
        """q given sum_g e_g e_g' `(chains, K, K)`."""
        width, (slopes, bend) = self.covariances[k].width, self.fitted[k]
        middle, before = slopes.mean(), groups + first(width)
        freedom = (before - 2.0 * ((width - 1) * (middle - bend) + middle) / (width + 1)).clamp(min=width + LEAST)
        share, pull = (before - 2.0 * bend) / freedom, (2.0 * bend - slopes).clamp(min=1e-3) / freedom
        own = scatter.diagonal(dim1=1, dim2=2)
        diagonal, whole = own / (share.clamp(min=0.2) + pull), scatter
        for _ in range(TURNS):
            unit = (pull / diagonal).sqrt()
            sizes, axes = torch.linalg.eigh(unit.unsqueeze(1) * scatter * unit.unsqueeze(2))
            solved = 0.5 * ((share.square() + 4.0 * sizes.clamp(min=0.0)).sqrt() - share)
            whole = (axes * solved.unsqueeze(1)) @ axes.mT / (unit.unsqueeze(1) * unit.unsqueeze(2))
            diagonal = whole.diagonal(dim1=1, dim2=2)
        lower, bad = torch.linalg.cholesky_ex(whole)
        return InverseWishart(torch.where((bad != 0)[:, None, None], torch.nan, lower), freedom)

    def fit(self, positions: Tensor) -> None:
        """Fits proposals to positions of the rest `(n, d)`, if these are enough."""
        for k, covariance in enumerate(self.covariances):
            width = covariance.width
            density, root, volume = self._prior(covariance, positions)
            scales, unit = polar(root)
            of_unit = unit.diagonal(dim1=1, dim2=2).log()
            # log w under IW(J + first, S), of which J and S fall out.
            powers = first(width) + torch.arange(1, width + 1, dtype=positions.dtype, device=positions.device)
            height = density - volume + (powers * (scales.log() + of_unit)).sum(1)
            design = torch.cat([scales.log(), 2.0 * of_unit.sum(1, keepdim=True)], 1)
            if width == 1:
                design = design[:, :1]
            sound = height.isfinite() & design.isfinite().all(1)
            design, height = design[sound], height[sound]
            if len(height) < FEWEST * (1 + design.shape[1]):
                continue
            design, height = design - design.mean(0), height - height.mean()
            gram = design.mT @ design
            ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            found = torch.linalg.solve(gram + ridge, design.mT @ height)
            bend = found[width] if width > 1 else found.new_zeros(())
            self.fitted[k] = Fitted(found[:width], bend)

    def tensors(self) -> dict[str, Tensor]:
        """What was fitted, as named tensors, which `take` takes."""
        return {f"{what}{k}": x for k, fit in enumerate(self.fitted) for what, x in fit._asdict().items()}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """What such tensors hold is what was fitted."""
        self.fitted = [Fitted(tensors[f"slopes{k}"], tensors[f"bend{k}"]) for k in range(len(self.covariances))]


def first(width: int) -> int:
    """Degrees of freedom beyond the number of groups, before anything is known of the prior: then q without its data is
    flat in L L'.
    """
    return -width - 1
