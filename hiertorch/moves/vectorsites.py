"""Groups' own normal approximations for effects of several dimensions, which follow the population.

    u_j | rest ~ prior(u_j; m, P) x site exp(h_j' u_j - u_j' Lambda_j u_j / 2)

Given the rest the guess is Normal((Lambda_j + P)^-1 (h_j + P m), (Lambda_j + P)^-1), P the precision of the prior. The
site stands for the group's rows and finer groups. It solves Stein's identity

    E[w (Lambda u - h + P (u - m)) g(u)'] = E[w g'(u)']    for g = 1 and g = u,

with a weight w(P) that keeps P bounded; for a normal conditional it is exact. In one dimension it is
`hiertorch.moves.guesses.Site`.

docs/decisions.md: Sites of several dimensions.
"""

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.moves.guesses import SMALLEST, WIDEN
from hiertorch.moves.metropolis import Tuning

LEAST = 1e-6
"""Precision of a site, over that of what was seen."""


class VectorSite:
    """See the module.

    Args:
        target: the density.
        block: group-level latents of one plate, whose priors have locations and precisions that none of them decides.
        size: its groups.
        width: unconstrained dimensions of the block for each group.
    """

    def __init__(self, target: Target, block: tuple[str, ...], size: int, width: int) -> None:
        self.target, self.block, self.size, self.width = target, block, size, width

    def tuning(self, like: Tensor) -> Tuning:
        """See `Guess.tuning`."""
        eye = torch.eye(self.width, dtype=like.dtype, device=like.device).repeat(self.size, 1, 1)
        pull = like.new_zeros(self.size, self.width)
        return {"precision": eye, "pull": pull, "log_share": like.new_full((), -torch.inf)}

    def normal(self, state: State, tuning: Tuning) -> tuple[Tensor, Tensor, Tensor]:
        """See `Guess.normal`."""
        location, precision = self._place(state)
        lower = torch.linalg.cholesky_ex(tuning["precision"] + precision)[0]
        eye = torch.eye(self.width, dtype=lower.dtype, device=lower.device)
        back = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
        right = tuning["pull"] + (precision * location.unsqueeze(-2)).sum(-1)
        half = (back * right.unsqueeze(-2)).sum(-1)
        mean = (back * half.unsqueeze(-1)).sum(-2)
        return mean, WIDEN * back.mT, lower.mT / WIDEN

    def observe(self, state: State) -> Tensor:
        """Weighted moments by group, `(size, 1 + 2 width + 2 width^2)`."""
        location, precision = self._place(state)
        parts = [state.free[name].reshape(len(state.cells), self.size, -1) for name in self.block]
        u = torch.cat(parts, -1)
        typical = u.var(0) if len(u) > 1 else torch.ones_like(u[0])
        w = 1.0 / (1.0 + (precision.diagonal(dim1=-2, dim2=-1) * typical).sum(-1))  # any function of P would do
        score = w.unsqueeze(-1) * (precision * (u - location).unsqueeze(-2)).sum(-1)
        w, row = w.expand(u.shape[:2]).unsqueeze(-1), u.unsqueeze(-2)
        squares = ((w * u).unsqueeze(-1) * row).flatten(2), (score.unsqueeze(-1) * row).flatten(2)
        terms = torch.cat([w, w * u, score, *squares], -1)
        sound = terms.isfinite().all(-1, keepdim=True)  # a chain whose P overflows teaches nothing
        return torch.where(sound, terms, 0.0).sum(0)

    def fit(self, sums: Tensor, count: int) -> Tuning:
        """Solves the equations of Stein's identity for each group, in units of what was seen."""
        k = self.width
        u, score, uu, score_u = (sums[:, 1:] / sums[:, :1]).split([k, k, k * k, k * k], -1)
        eye = torch.eye(k, dtype=sums.dtype, device=sums.device)
        seen = uu.unflatten(-1, (k, k)) - u.unsqueeze(-1) * u.unsqueeze(-2)
        scale = seen.diagonal(dim1=-2, dim2=-1).clamp(min=SMALLEST).sqrt()
        root, failed = torch.linalg.cholesky_ex(seen / (scale.unsqueeze(-1) * scale.unsqueeze(-2)) + LEAST * eye)
        root = torch.where((failed > 0)[:, None, None], eye, root) * scale.unsqueeze(-1)
        back = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
        left = eye - score_u.unflatten(-1, (k, k)) + score.unsqueeze(-1) * u.unsqueeze(-2)  # Lambda times what was seen
        inner = root.mT @ left @ back.mT  # root' Lambda root
        inner = ((inner + inner.mT) / 2).nan_to_num(0.0, 0.0, 0.0)
        sizes, axes = torch.linalg.eigh(inner)
        inner = (axes * sizes.clamp(min=LEAST).unsqueeze(-2)) @ axes.mT
        precision = back.mT @ inner @ back
        return {"precision": precision, "pull": (precision * u.unsqueeze(-2)).sum(-1) + score}

    def _place(self, state: State) -> tuple[Tensor, Tensor]:
        """Locations `(chains or 1, size or 1, width)` and precisions `(chains or 1, size or 1, width, width)`."""
        places = [self.target.location_precision(name, state.values) for name in self.block]
        whole = [place for place in places if place is not None]
        if len(whole) == 1:
            return whole[0][..., 0], whole[0][..., 1:]
        batch = torch.broadcast_shapes(*(place.shape[:-2] for place in whole))
        locations = torch.cat([place[..., 0].expand(*batch, -1) for place in whole], -1)
        precision = locations.new_zeros(*batch, self.width, self.width)
        start = 0
        for place in whole:
            end = start + place.shape[-2]
            precision[..., start:end, start:end] = place[..., 1:]
            start = end
        return locations, precision
