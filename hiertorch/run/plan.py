"""Which moves run, on which latents, in which order, and why."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch

from hiertorch.advice.requirements import chosen_priors
from hiertorch.density.structure import Structure
from hiertorch.errors import ModelError
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.moves.base import Move
from hiertorch.moves.groupwise import Groupwise
from hiertorch.moves.joint import Joint
from hiertorch.moves.noncentred import NonCentred
from hiertorch.run.collapsed import CollapsedMove

__all__ = ["MoveSpec", "Plan", "Step", "collapsed_plan", "make_plan"]

MoveSpec = tuple[str, Sequence[str]] | tuple[str, Sequence[str], int]
"""What a user may ask for: a kind of move, the latents of its block, and how often it runs in a sweep (1 if left out).
"""

REPEATS = 2
"""Of centred and joint moves beside group effects: the first need no pass over the rows, and what rows read mixes
slowest (measured).
"""

COLUMNS, BLOCK_COLUMN = 140, 36
"""Widths of a printed plan and of its first column; longer lists of latents go on in the next line."""


@dataclass(frozen=True)
class Step:
    """One move of a sweep, run `repeats` times, and the reason for it."""

    move: Move | CollapsedMove
    repeats: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The steps of a sweep. `print(plan)` shows blocks, moves, cost in passes over the rows, and reasons."""

    structure: Structure
    steps: tuple[Step, ...]
    note: str = ""  # why the model is not collapsed

    @property
    def collapsed(self) -> CollapsedMove | None:
        """The one move of a model whose effects and coefficients are integrated out, None for others."""
        move = self.steps[0].move
        return move if isinstance(move, CollapsedMove) else None

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves of a sweep; none in a collapsed plan."""
        return tuple(step.move for step in self.steps if not isinstance(step.move, CollapsedMove))

    @property
    def passes(self) -> int:
        """Passes over the rows in each sweep."""
        return sum(step.move.passes * step.repeats for step in self.steps)

    @property
    def spec(self) -> list[MoveSpec]:
        """The plan as what `hiertorch.run.plan(..., moves=)` takes, to edit and hand back."""
        return [(step.move.kind, step.move.block, step.repeats) for step in self.steps]

    def to(self, device: torch.device | str) -> "Plan":
        """The same moves on another device; what probing found out is not found out again."""
        if self.collapsed is not None:
            raise ModelError("a collapsed plan stays on its device; make it again from data that are on the other one.")
        there = make_plan(self.structure.to(device), self.spec)
        steps = (replace(new, reason=old.reason) for new, old in zip(there.steps, self.steps, strict=True))
        return Plan(there.structure, tuple(steps), self.note)

    def __str__(self) -> str:
        target = self.structure.target
        head = ("block", "move", "decides per", "dims", "passes", "why")
        table = [head]
        for step in self.steps:
            if isinstance(step.move, CollapsedMove):
                rest, linear = step.move.rest, step.move.collapsed.linear
                exact = str(target.space.dim - step.move.width)
                table.append((", ".join(rest), step.move.kind, "chain", str(step.move.width), "0", step.reason))
                outright = f"Gaussian given {', '.join(rest) or 'nothing'}: drawn outright"
                table.append((", ".join(linear), "exact", "", exact, "0", outright))
                continue
            per = "chain" if step.move.plate is None else f"chain and {step.move.plate} ({step.move.size:,})"
            passes = str(step.move.passes * step.repeats)
            kind = step.move.kind + (f" x{step.repeats}" if step.repeats > 1 else "")
            table.append((", ".join(step.move.block), kind, per, str(step.move.width), passes, step.reason))
        widths = [max(len(row[i]) for row in table) for i in range(len(head) - 1)]
        widths[0] = min(widths[0], BLOCK_COLUMN)
        reason = max(30, COLUMNS - sum(widths) - 2 * len(widths))
        lines = []
        for block, *cells, why in table:
            folded = zip_longest(textwrap.wrap(block, widths[0]), textwrap.wrap(why, reason), fillvalue="")
            for i, (names, words) in enumerate(folded):
                row = (names, *(cells if i == 0 else [""] * len(cells)))
                lines.append("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=True)), words]).rstrip())
        chosen = [f"{name} ~ {text}" for name, text in chosen_priors(target.model, self.structure.reads).items()]
        priors = textwrap.wrap(f"priors by the data's scale: {', '.join(chosen)}", COLUMNS) if chosen else []
        if self.collapsed is not None:
            summed = f"no passes over the {target.data.n_rows:,} rows, which are summed up once"
            return "\n".join([*lines, summed, *priors])
        lines.append(
            f"{self.passes} passes over {target.rows.data.n_rows:,} held rows ({target.data.n_rows:,} in the data) a "
            "sweep; "
            f"{target.space.dim:,} unconstrained dimensions"
        )
        lines += [f"no groupwise move for {plate!r}: {why}" for plate, why in self.structure.mixed.items()]
        lines += [f"not collapsed: {self.note}"] if self.note else []
        return "\n".join([*lines, *priors])


def collapsed_plan(structure: Structure, found: Collapsed) -> Plan:
    """The plan of a model that `hiertorch.gaussian.collapse` integrates effects and coefficients out of."""
    move = CollapsedMove(structure.target, found)
    why = "all others are integrated out" if found.rest else "nothing is left to sample"
    return Plan(structure, (Step(move, 1, why),))


def make_plan(structure: Structure, moves: Sequence[MoveSpec] | None = None, note: str = "") -> Plan:
    """The default plan of a model, or the moves that a user names.

    Raises:
        ModelError: if a named move is unknown, does not fit its block, or leaves a latent without any move.
    """
    if moves is not None and (isinstance(moves, str) or not isinstance(moves, Sequence)):
        raise ModelError(f"a plan is a list of moves such as [('joint', ['mu', 'beta'])], found {moves!r}.")
    steps = _default(structure) if moves is None else tuple(_named(structure, spec) for spec in moves)
    # Effects that a non-centred move carries need a move of their own too: it keeps their place in their prior.
    moved = {name for step in steps for name in step.move.block}
    if left := [name for name in structure.target.names if name not in moved]:
        raise ModelError(
            f"no move of the plan touches {', '.join(map(repr, left))}; add one, for example ('joint', {left!r})."
        )
    return Plan(structure, steps, note)


def _default(structure: Structure) -> tuple[Step, ...]:
    target, reads = structure.target, structure.reads
    coordinates = target.space.coordinates
    if target.opaque:
        return (
            Step(Joint(target, target.names), 1, "the model overrides log_prob, so nothing is known of its pieces"),
        )
    steps = []
    population = tuple(name for name in target.names if coordinates[name].plate is None)
    grouped = [plate for plate in structure.plates if plate not in structure.mixed]
    loose = tuple(name for name in target.names if coordinates[name].plate in structure.mixed)
    for plate in grouped:
        block = tuple(name for name in target.names if coordinates[name].plate == plate)
        steps.append(Step(_groupwise(structure, block, plate), 1, f"groups of {plate} are independent given the rest"))
    unseen = tuple(name for name in population if not target.reads_rows([name]))
    seen = tuple(name for name in population if target.reads_rows([name]))
    if unseen:
        why = "no row reads them" if not target.prior_only else "the likelihood is left out"
        steps.append(Step(Joint(target, unseen, "centred" if grouped else "joint"), REPEATS if grouped else 1, why))
    if seen or loose:
        why = "rows read them" if not loose else "rows read them, or their groups are not independent"
        steps.append(Step(Joint(target, (*seen, *loose)), REPEATS if grouped else 1, why))
    for plate in structure.plates:
        effects = [name for name in target.names if coordinates[name].plate == plate]
        parents = tuple(name for name in population if any(name in reads.priors[effect] for effect in effects))
        if parents and not any(step.move.kind == "non-centred" and step.move.block == parents for step in steps):
            carried = _carried(structure, parents)
            if not [name for name in carried if name in structure.uncarried]:
                steps.append(
                    Step(
                        NonCentred(target, parents, carried, structure.standard),
                        1,
                        f"parents of {', '.join(carried)}, which keep their place in them",
                    )
                )
    return tuple(steps)


def _carried(structure: Structure, block: Sequence[str]) -> tuple[str, ...]:
    """The group-level latents that descend from the block through group-level latents, in order."""
    coordinates, moved, carried = structure.target.space.coordinates, set(block), []
    for name in structure.target.names:
        if coordinates[name].plate is not None and name not in moved and structure.reads.priors[name] & moved:
            moved.add(name)
            carried.append(name)
    return tuple(carried)


def _groupwise(structure: Structure, block: tuple[str, ...], plate: str) -> Groupwise:
    target = structure.target
    finer = {target.space.coordinates[name].plate for name in target.priors_touched(block)} - {plate}
    parents = {q: target.data.parents(q, plate) for q in finer if q is not None}
    located = (name for name in block if not target.reads[name] & set(block) and name in structure.located)
    return Groupwise(target, block, plate, parents, frozenset(located))


def _named(structure: Structure, spec: MoveSpec) -> Step:
    listed = isinstance(spec, list | tuple) and len(spec) in (2, 3) and isinstance(spec[1], list | tuple)
    if not listed:
        raise ModelError(
            f"a move is a kind, a list of latents and perhaps repeats, as in ('joint', ['mu'], 2); found {spec!r}."
        )
    kind, block, repeats = spec[0], tuple(spec[1]), spec[2] if len(spec) > 2 else 1
    target = structure.target
    coordinates = target.space.coordinates
    if unknown := [name for name in block if name not in coordinates]:
        raise ModelError(f"move {kind!r} names {unknown!r}; the model's latents are {', '.join(target.names)}.")
    if len(set(block)) < len(block):
        raise ModelError(f"move {kind!r} names a latent twice: {block!r}.")
    if not block or isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ModelError(f"move {kind!r} needs at least one latent and one repeat, found {block!r} and {repeats!r}.")
    plates = {coordinates[name].plate for name in block}
    move: Move
    if kind in ("joint", "centred"):
        if kind == "centred" and target.reads_rows(block):
            raise ModelError(
                f"a centred move needs latents that no row reads; rows read some of {block!r}: use 'joint'."
            )
        move = Joint(target, block, kind)
    elif kind == "groupwise":
        plate = plates.pop() if len(plates) == 1 else None
        if plate is None or plate in structure.mixed:
            why = structure.mixed.get(plate or "", "its latents must share one plate")
            raise ModelError(f"a groupwise move on {block!r} is not possible: {why}.")
        move = _groupwise(structure, block, plate)
    elif kind == "non-centred":
        carried = _carried(structure, block)
        stuck = [f"{name}: {structure.uncarried[name]}" for name in carried if name in structure.uncarried]
        if plates != {None} or not carried or stuck:
            why = "; ".join(stuck) or "it takes population-level latents that the priors of group effects read"
            raise ModelError(f"a non-centred move on {block!r} is not possible: {why}.")
        move = NonCentred(target, block, carried, structure.standard)
    else:
        raise ModelError(
            f"unknown move {kind!r}; there are 'joint', 'groupwise', 'centred', 'non-centred', and 'collapsed' alone."
        )
    return Step(move, repeats, "named by the user")
