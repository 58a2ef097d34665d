"""The contract of a move: one Metropolis-Hastings step on part of the state, for all chains at once.

docs/decisions.md: A move is a class, an engine is handed over as a class.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import Self

import torch
from torch import Tensor

from hiertorch.density.state import State
from hiertorch.density.structure import Structure
from hiertorch.density.target import Target
from hiertorch.errors import ModelError
from hiertorch.moves.adaptation import Adaptation, Learning, acceptance_target
from hiertorch.moves.guesses import Guess
from hiertorch.moves.metropolis import Info, Noise, Tuning, decide, propose, settled


class Move(ABC):
    """u' ~ q(. | u), accepted with min(1, p(u') q(u | u') / (p(u) q(u' | u))), for the latents of a block.

    A plan takes moves beside the names of built-in ones: `plan=[MyMove(["mu", "tau"]), ("groupwise", ["alpha"])]`, or
    `(MyMove(["mu"]), 3)` for three steps a sweep. `on` makes a copy that knows the density, and it is the copy that
    runs. A class of your own needs `step`; all else here has a default that it may override.

    What `step` has to keep to:

    - It leaves exp(log density) invariant, whatever the tuning.
    - It is a function of its arguments: it writes into no tensor that it is given, and keeps nothing for the next call.
      All randomness is in `noise`, all that is learnt in `tuning`.
    - Chains do not meet: what becomes of one depends on its own state and noise, and on the tuning.
    - Tensors are made on the device and in the dtype of the state, and nothing asks for a value, as `.item()` does and
      `if x > 0`, since that would wait for the device.
    - A `State` holds the pieces of its log density beside the latents, and the moves that follow take them as they are.
      `self.target.update(state, {name: u})` gives the state at other unconstrained values, with those pieces evaluated
      again that read them, and `accept` puts the pieces of this state and of the old one together.

    The moves of a sweep run in the order of the plan, each from the state that the one before it gave. After the last,
    and in warm-up only, `learning` is told of every step. Tuning is frozen when warm-up ends.

    Args:
        block: names of the latents that it proposes for.

    Attributes:
        by_group: whether each group of the plate that its latents share decides apart. Then what a proposal for one
            group is made of must not depend on what the move changes in others.
        uniforms: uniform random numbers for each decision, beside the two that every move has.
        guess: what proposes beside the walk, if anything does.
        carried: latents that follow the block so that their priors cancel against the Jacobian.
        target: the density, once the move is `on` one; as all that follows.
        plate: the grouping whose groups decide apart; None if the chain decides.
        size: decisions of each chain: the groups of the plate, or 1.
        width: unconstrained dimensions of each decision.
        moved: the latents that a step may change: the block, and what follows it.
        touched: those whose prior terms then change.
        inside: those of them that vary over a finer plate than `plate` -> the group in which each of their groups lies.
        ends: those of the block whose values may be rounded to an end of their support, where the density is 0.
        passes: passes over the rows that a step costs.
    """

    by_group = False
    uniforms = 0
    guess: Guess | None = None
    carried: tuple[str, ...] = ()

    target: Target
    plate: str | None
    size: int
    width: int
    moved: tuple[str, ...]
    touched: tuple[str, ...]
    inside: dict[str, Tensor]
    ends: tuple[str, ...]
    passes: int

    def __init__(self, block: Sequence[str]) -> None:
        self.block = (block,) if isinstance(block, str) else tuple(block)

    @property
    def kind(self) -> str:
        """What the plan calls moves of this class."""
        return type(self).__name__

    @property
    def name(self) -> str:
        """Kind and block, by which its tuning and its acceptance are kept."""
        return f"{self.kind}({', '.join(self.block)})"

    @property
    def normals(self) -> int:
        """Standard normal numbers for each decision; a walk that is learnt takes the first `width`."""
        return self.width

    @property
    def rate(self) -> float:
        """The acceptance rate that walks are tuned to."""
        return acceptance_target(self.width)

    def on(self, structure: Structure) -> Self:
        """A copy that moves the density of this structure.

        Raises:
            ModelError: for a block that can't be moved so; it says why.
        """
        target = structure.target
        coordinates = target.space.coordinates
        if unknown := [name for name in self.block if name not in coordinates]:
            raise ModelError(
                f"move {self.kind!r} names {unknown!r}; the model's latents are {', '.join(target.names)}."
            )
        if len(set(self.block)) < len(self.block):
            raise ModelError(f"move {self.kind!r} names a latent twice: {self.block!r}.")
        new = copy.copy(self)
        new.target, new.plate, new.size, new.inside = target, None, 1, {}
        new.ends = tuple(name for name in self.block if not coordinates[name].is_identity)
        new.moving(self.block)
        if self.by_group:
            plates = {coordinates[name].plate for name in self.block}
            plate = plates.pop() if len(plates) == 1 else None
            if plate is None or plate in structure.mixed:
                why = structure.mixed.get(plate or "", "its latents must share one plate")
                raise ModelError(f"a {self.kind} move on {self.block!r} is not possible: {why}.")
            new.plate, new.size = plate, target.data.size(plate)
            finer = {name: q for name in new.touched if (q := coordinates[name].plate) is not None and q != plate}
            new.inside = {name: target.data.parents(q, plate) for name, q in finer.items()}
        new.width = sum(coordinates[name].size * coordinates[name].width for name in self.block) // new.size
        return new

    def moving(self, latents: tuple[str, ...]) -> None:
        """Notes which latents a step changes, and what that touches."""
        self.moved = latents
        self.touched = self.target.priors_touched(latents)
        self.passes = int(self.target.reads_rows(latents))

    def learning(self, state: State) -> Learning:
        """What warm-up begins with where chains start: a walk in the block's own coordinates, and the guess.

        A move that has a walk finds its root `(size, width, width)` as `tuning["root"]`. One that has none to learn
        returns `Learning(tuning)` with what tuning it has.
        """
        return Adaptation.begin(state, self.block, self.size, self.width, self.rate, self.guess)

    def begun(self, state: State, learning: Learning) -> tuple[State, Learning]:
        """What warm-up begins with after a look at the density, which comes before the first sweep and may be long, and
        the state in which the next move is to look.

        Args:
            state: of a few of the chains.
            learning: of `learning`.
        """
        return state, learning

    @abstractmethod
    def step(self, state: State, tuning: Tuning, noise: Noise) -> tuple[State, Info]:
        """The state after one proposal and its decision, and the decision's probability."""

    def proposal(
        self, state: State, tuning: Tuning, noise: Noise, limit: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Unconstrained values of the block, by a walk or a guess; log q(u) - log q(u'), and which are guesses. See
        `propose`.
        """
        normal = None if self.guess is None else self.guess.normal(state, tuning)
        parts, log_q, guessed = propose([state.free[name] for name in self.block], tuning, noise, limit, normal)
        return dict(zip(self.block, parts, strict=True)), log_q, guessed

    def accept(
        self,
        new: State,
        old: State,
        noise: Noise,
        log_q: Tensor,
        guessed: Tensor | None = None,
    ) -> tuple[State, Info]:
        """`new` with probability min(1, exp(log density(new) - log density(old) + log_q)), decided for each chain, or
        for each chain and group.

        Args:
            new: the proposal, `self.target.update(old, ...)`, in which nothing but `moved` is changed.
            old: the state.
            noise: its `log_uniform` decides.
            log_q: log q(old | new) - log q(new | old), `(chains, size)` or `()`; with the log Jacobian of a proposal
                that is a function of `old` and of fewer numbers than it moves.
            guessed: where the proposal is a guess, `(chains, size)`.
        """
        accepted, info = decide(self.log_ratio(new, old), noise.log_uniform, guessed, log_q)
        return self._chosen(accepted, new, old), info

    def placed(self, state: State, free: dict[str, Tensor]) -> State:
        """The state with the block at these unconstrained values, and with what follows it."""
        return self.target.update(state, free)

    def log_ratio(self, new: State, old: State) -> Tensor:
        """log density(new) - log density(old) by decision, `(chains, size)`; what is carried has its Jacobian in it."""
        carried = self.carried
        log_ratio = self._change(new, old, (name for name in self.touched if name not in carried))
        if self.passes:
            log_ratio = settled(log_ratio + self._change_of_rows(new, old), log_ratio)
        if self.ends:
            log_ratio = settled(log_ratio, self._change(new, old, self.ends))
        if carried:  # whose priors cancel, where they are not 0
            log_ratio = settled(log_ratio, self._change(new, old, carried))
        for name in carried:  # which may have been carried beyond all numbers
            there = new.free[name].flatten(1).sum(1, keepdim=True)
            log_ratio = torch.where(there - there == 0, log_ratio, -torch.inf)
        return log_ratio

    def _change(self, new: State, old: State, names: Iterable[str]) -> Tensor:
        """New minus old prior terms of these latents (one at least), by decision."""
        terms = {name: new.prior[name] - old.prior[name] for name in names}
        if self.plate is None:
            return reduce(add, [term.sum(-1, keepdim=True) for term in terms.values()])
        change = reduce(add, [term for name, term in terms.items() if name not in self.inside])
        for name, term in terms.items():
            if name in self.inside:
                change = change.index_add(1, self.inside[name], term)
        return change

    def _change_of_rows(self, new: State, old: State) -> Tensor:
        """New minus old log likelihood, by decision."""
        change = new.cells - old.cells
        return change.sum(-1, keepdim=True) if self.plate is None else self.target.rows.by_group(change, self.plate)

    def _chosen(self, accepted: Tensor, new: State, old: State) -> State:
        """The pieces of the new state where it was accepted, `(chains, size)`, and of the old one elsewhere."""
        free, values, prior, cells = dict(old.free), dict(old.values), dict(old.prior), old.cells
        for name in self.moved:
            free[name] = values[name] = _choose(accepted, new.free[name], old.free[name])
            if new.values[name] is not new.free[name] or old.values[name] is not old.free[name]:
                values[name] = _choose(accepted, new.values[name], old.values[name])
        for name in self.touched:
            where = accepted[:, self.inside[name]] if name in self.inside else accepted
            prior[name] = _choose(where, new.prior[name], old.prior[name])
        if self.passes:
            where = accepted if self.plate is None else self.target.rows.of_group(accepted, self.plate)
            cells = _choose(where, new.cells, old.cells)
        return State(free, values, prior, cells)


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where accepted, else `old`; `accepted` `(chains, size)` gains event axes at the right."""
    return torch.where(accepted.reshape(accepted.shape + (1,) * (new.dim() - accepted.dim())), new, old)
