"""What moves beside whole proposals of a collapsed model whose rest has many covariances.

Effects are drawn outright given the rest, and covariances moved given these (`hiertorch.run.giveneffects`): so the rest
is left in p(rest | y), without a pass over the rows, and whether proposals for all of it fit or not. What belongs to no
covariance has a proposal by itself, all else being as it is.

docs/decisions.md: Covariances of many effects are moved given these.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiertorch.moves.metropolis import Tuning
from hiertorch.randomness import ChainStreams, normal, stream
from hiertorch.run import proposals
from hiertorch.run.collapsed import CollapsedMove
from hiertorch.run.engine import filed, inside
from hiertorch.run.giveneffects import GivenEffects
from hiertorch.run.standing import Standing


class Beside:
    """See the module.

    Args:
        move: what is sampled, with covariances.
        seed: names the streams of random numbers.
        chains: how many there are.
    """

    def __init__(self, move: CollapsedMove, seed: int, chains: int) -> None:
        self.move, device = move, move.collapsed.grams.packed.device
        self.given = GivenEffects(Standing(move.target, move.rest), move.collapsed.affine, move.covariances)
        self.streams = {
            name: ChainStreams(stream(seed, name, device=device), chains) for name in ("given effects", "others")
        }
        self.own: Tuning = {}  # the proposal of what belongs to no covariance, once there is one

    def step(self, at: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places `(chains, d + m)` and log densities after both, and how many densities were NaN."""
        collapsed, d = self.move.collapsed, self.move.width
        at, _, nan = self._others(at, height)
        numbers = self.streams["given effects"].uniform(collapsed.n_noise + self.given.numbers)
        noise, uniform = normal(numbers[: collapsed.n_noise]).to(at.dtype), numbers[collapsed.n_noise :]
        effects = collapsed.draw_innovations(self.move.values(at[:, :d]), noise, at[:, d:])
        position, info = self.given.step(at[:, :d], effects, uniform)
        return *self.move.evaluate(position), nan + info.nan

    def _others(self, at: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of one proposal for what belongs to no covariance."""
        if not self.own:
            return at, height, torch.zeros((), dtype=torch.long, device=at.device)
        d, some = self.move.width, torch.tensor(self.given.others, device=at.device)
        numbers = self.streams["others"].uniform(len(some) + proposals.UNIFORMS + 1)
        own, spread = proposals.propose_and_weigh(self.own, numbers[:-1])
        there, density = self.move.evaluate(at[:, :d].index_copy(1, some, own))
        ratio = density - spread - height + proposals.density(self.own, at[:, some])
        sound = torch.where(torch.isfinite(ratio), ratio, -torch.inf)
        accepted = numbers[-1].log() < sound
        height = torch.where(accepted, density, height)
        return torch.where(accepted.unsqueeze(1), there, at), height, (sound != ratio).sum()

    def fit(self, seen: Sequence[Tensor]) -> None:
        """Fits proposals to positions `(n, d)` of windows of warm-up."""
        self.given.fit(seen[-1])
        if not self.given.others:
            return
        every = torch.cat([x[:, self.given.others] for x in seen])
        start = proposals.normal_start(every.mean(0), every.std(0).clamp(min=1e-9).diag_embed())
        self.own, _ = proposals.refitted([every], self.own or start)

    def tensors(self) -> dict[str, Tensor]:
        """What was fitted, as named tensors, which `take` takes."""
        return filed("own", self.own) | filed("given", self.given.tensors())

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """What such tensors hold is what was fitted."""
        self.own = inside("own", tensors)
        self.given.take(inside("given", tensors))
