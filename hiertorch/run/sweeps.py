"""One sweep: every move of the plan once (or as often as its step says), as one pure function of tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.errors import ModelError
from hiertorch.moves.adaptation import Learning
from hiertorch.moves.base import Move
from hiertorch.moves.metropolis import Info, Noise, Tuning
from hiertorch.randomness import normal
from hiertorch.run.plan import Plan


class Sweep:
    """The moves of a plan in order. `sweep(state, tuning, noises)` gives the next state and an `Info` for each step.

    Args:
        plan: the moves.
        chains: how many run side by side.
    """

    def __init__(self, plan: Plan, chains: int) -> None:
        self.plan, self.chains, self.moves = plan, chains, plan.moves
        self.order = tuple(i for i, step in enumerate(plan.steps) for _ in range(step.repeats))
        self.n_normal = sum(self.moves[i].size * self.moves[i].normals for i in self.order)
        self.n_uniform = sum(self.moves[i].size * (2 + self.moves[i].uniforms) for i in self.order)

    def numbers(self, uniform: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The random numbers of a window of sweeps: standard normal `(window, n_normal, chains)`, log uniform `(window,
        n_uniform, chains)`, of the dtype of another tensor.

        Args:
            uniform: on (0, 1), `(window x (n_normal + n_uniform), chains)`, those of a sweep one after the other.
            like: the other tensor.
        """
        each = uniform.unflatten(0, (-1, self.n_normal + self.n_uniform))
        z, log_uniform = normal(each[:, : self.n_normal]), each[:, self.n_normal :].log()
        return z.to(like.dtype), log_uniform.to(like.dtype)

    def noises(self, normals: Tensor, log_uniform: Tensor) -> list[Noise]:
        """One sweep's numbers, `(n_normal, chains)` and `(n_uniform, chains)`, cut up for its moves as they run."""
        parts, i, j = [], 0, 0
        for move in (self.moves[k] for k in self.order):
            n, m = move.size * move.normals, move.size
            z = normals[i : i + n].unflatten(0, (m, move.normals)).permute(2, 0, 1)
            end = j + m * (2 + move.uniforms)
            decides, picks, *more = (log_uniform[at : at + m].transpose(0, 1) for at in range(j, end, m))
            parts.append(Noise(z, decides, picks, tuple(more)))
            i, j = i + n, end
        return parts

    def __call__(self, state: State, tuning: Sequence[Tuning], noises: Sequence[Noise]) -> tuple[State, list[Info]]:
        """One sweep; tuning by move, noises and infos in running order."""
        infos = []
        for k, noise in zip(self.order, noises, strict=True):
            state, info = self.moves[k].step(state, tuning[k], noise)
            infos.append(info)
        return state, infos

    def adapt(
        self,
        learning: Sequence[Learning],
        state: State,
        infos: Sequence[Info],
        noises: Sequence[Noise],
        t: int,
        warmup: int,
        before: int = 0,
    ) -> list[Learning]:
        """What is learnt after warm-up sweep `t` (from 1) of `warmup`, from what its moves met and where it ended; with
        the small steps of later sweeps if an earlier run has learnt for some `before`.
        """
        learning = list(learning)
        for k, info, noise in zip(self.order, infos, noises, strict=True):
            learning[k] = learning[k].step(noise, info, t + before)
        return [part.observe(state, t, warmup) for part in learning]

    def rehearse(self, state: State, tuning: Sequence[Tuning], *, compiled: bool) -> None:
        """Runs one sweep, whose outcome is thrown away, so that every piece of the density is recorded (and compiled)
        before the run.

        Raises:
            ModelError: for a move whose step gives something else than it should.
        """
        self.plan.target.record(compiled=compiled)
        device = state.cells.device
        some = torch.rand(
            self.n_normal + self.n_uniform,
            self.chains,
            generator=torch.Generator(device),
            dtype=torch.float64,
            device=device,
        )
        for k, noise in zip(self.order, self.noises(*(x[0] for x in self.numbers(some, state.cells))), strict=True):
            before, (state, info) = state, self.moves[k].step(state, tuning[k], noise)
            _check(self.moves[k], before, state, info)


def _check(move: Move, before: State, after: State, info: Info) -> None:
    """Raises a ModelError where what a step gave would be broadcast, or kept, as something else than it is."""
    accept = before.cells.new_empty(before.cells.shape[0], move.size)
    parts = [("cells", before.cells, after.cells), ("the acceptance probability", accept, info.accept)]
    for name in before.free:
        parts.append((f"free[{name!r}]", before.free[name], after.free[name]))
        parts.append((f"values[{name!r}]", before.values[name], after.values[name]))
        parts.append((f"prior[{name!r}]", before.prior[name], after.prior[name]))
    for what, wanted, found in parts:
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            has, needs = (f"{x.dtype} {tuple(x.shape)}" for x in (found, wanted))
            raise ModelError(f"after a step of move {move.name!r} {what} is {has}; it has to be {needs}.")
