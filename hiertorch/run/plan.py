"""Which moves run, on which latents, in which order, and why.

docs/decisions.md: A plan belongs to its model and data.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch

from hiertorch import wording
from hiertorch.advice.requirements import chosen_priors
from hiertorch.data.table import Data
from hiertorch.density.space import Space
from hiertorch.density.structure import Structure
from hiertorch.density.target import Target
from hiertorch.errors import DataError, ModelError
from hiertorch.gaussian.collapse import Collapsed
from hiertorch.gaussian.covariances import covariances_of
from hiertorch.gaussian.surrogate import Surrogate
from hiertorch.markup import shown
from hiertorch.model.model import Model
from hiertorch.moves.base import Move
from hiertorch.moves.groupwise import Groupwise
from hiertorch.moves.guesses import WIDEST
from hiertorch.moves.joint import Centred, Joint
from hiertorch.moves.noncentred import NonCentred, descendants
from hiertorch.moves.shift import Shift, ridges
from hiertorch.run.blocks import BLOCK, MOST_TOGETHER
from hiertorch.run.collapsed import CollapsedMove
from hiertorch.run.engine import EngineMaker, named
from hiertorch.run.whitenedstart import blocks_of

MoveSpec = Move | tuple[Move, int] | tuple[str, Sequence[str]] | tuple[str, Sequence[str], int]
"""What a user may ask for: a move, or the kind of one and the latents of its block; and how often it runs in a sweep (1
if left out).
"""

NAMED = (Joint, Groupwise, Centred, NonCentred, Shift)
"""The moves that may be asked for by their kind."""

REPEATS = 2
"""Of centred and joint moves beside group effects: the first need no pass over the rows, and what rows read mixes
slowest (measured).
"""

COLUMNS = 140
"""Width of a printed plan."""

BLOCK_COLUMN = 36
"""Width of its first column; longer lists of latents go on in the next line."""

ADVICE = "Make it of these, by ht.plan(model, data), or hand over its moves by name, plan=plan.spec."
"""What to do about a plan of something else."""


@dataclass(frozen=True)
class Step:
    """One move of a sweep, run `repeats` times, and the reason for it."""

    move: Move | CollapsedMove
    repeats: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The steps of a sweep. `print(plan)` shows blocks, moves, cost in passes over the rows, and reasons.

    A plan is of one model and of one set of data, which its moves hold.
    """

    structure: Structure
    steps: tuple[Step, ...]
    note: str = ""  # why the model is not collapsed
    maker: EngineMaker | None = None  # of an engine of the user's own, in place of steps
    surrogate: Surrogate | None = None  # of a model that is whitened, in place of steps
    not_whitened: str = ""  # why it is not

    @property
    def target(self) -> Target:
        """The density that is moved; of a collapsed plan the prior alone."""
        return self.structure.target

    @property
    def space(self) -> Space:
        """Where the latents live."""
        return self.target.space

    @property
    def data(self) -> Data:
        """What the model is fitted to."""
        return self.target.data if self.collapsed is None else self.collapsed.collapsed.data

    @property
    def held_rows(self) -> int:
        """Rows that a pass reads: those of the data, sorted by group and filled up to whole blocks."""
        return self.target.rows.data.n_rows

    @property
    def collapsed(self) -> CollapsedMove | None:
        """The one move of a model whose effects and coefficients are integrated out, None for others."""
        move = self.steps[0].move if self.steps else None
        return move if isinstance(move, CollapsedMove) else None

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves of a sweep; none in a plan that is collapsed or whitened, or of an engine of the user's own."""
        return tuple(step.move for step in self.steps if isinstance(step.move, Move))

    @property
    def passes(self) -> int:
        """Passes over the rows in each sweep."""
        if self.surrogate is not None:
            return sum(self.surrogate.passes)
        return sum(step.move.passes * step.repeats for step in self.steps)

    @property
    def spec(self) -> list[MoveSpec]:
        """The plan as what `hiertorch.plan(..., moves=)` takes, to edit and hand back."""
        if self.surrogate is not None:
            return [("whitened", self.target.names, 1)]
        return [
            (step.move, step.repeats)
            if isinstance(step.move, Move) and type(step.move) not in NAMED
            else (step.move.kind, step.move.block, step.repeats)
            for step in self.steps
        ]

    def on(self, structure: Structure) -> "Plan":
        """The same steps, for the same reasons, on another structure.

        Raises:
            ModelError: if a move does not fit there.
        """
        steps = (replace(step, move=move.on(structure)) for step, move in zip(self.steps, self.moves, strict=True))
        return replace(self, structure=structure, steps=tuple(steps))

    def to(self, device: torch.device | str) -> "Plan":
        """The same moves on another device; what probing found out is not found out again."""
        if self.collapsed is not None or self.surrogate is not None:
            kind = "whitened" if self.collapsed is None else "collapsed"
            raise ModelError(f"a {kind} plan stays on its device; make it again from data that are on the other one.")
        return self.on(self.structure.to(device))

    def check_fits(self, model: Model, data: Data, *, prior_only: bool) -> None:
        """Raises a ModelError or DataError if the plan is of another model, of other data, or of the prior alone."""
        own = self.target.model
        if type(own) is not type(model) or str(own) != str(model):
            raise ModelError(
                f"the plan is of another model, {type(own).__name__}, which prints as\n{own}\nand not as\n{model}\n"
                f"{ADVICE}"
            )
        if found := self.data.fingerprint.differences(data.fingerprint):
            raise DataError(f"the plan is of other data: {'; '.join(found)}. {ADVICE}")
        if self.collapsed is None and self.target.prior_only != prior_only:
            alone = "of the prior alone, without the likelihood"
            what = alone if self.target.prior_only else "of prior and likelihood"
            raise ModelError(f"the plan is {what}, and prior_only={prior_only} asks for another one. {ADVICE}")

    def _whitened_rows(self, surrogate: Surrogate) -> list[tuple[str, ...]]:
        """What the table says of the moves of a whitened plan."""
        coordinates, found = self.space.coordinates, list[tuple[str, ...]]()
        every = zip(blocks_of(surrogate), surrogate.members, surrogate.passes, surrogate.why, strict=True)
        for block, names, passes, why in every:
            per = "chain" if block.plate is None else f"chain and {block.plate} ({self.data.size(block.plate):,})"
            dims = sum(coordinates[n].width * (1 if block.plate else coordinates[n].size) for n in names)
            found.append((", ".join(names), block.name.partition("(")[0], per, str(dims), str(passes), why))
        return found

    _repr_html_ = shown

    def __str__(self) -> str:
        target = self.target
        chosen = [f"{name} ~ {text}" for name, text in chosen_priors(target.model, self.structure.reads).items()]
        priors = textwrap.wrap(f"priors by the data's scale: {', '.join(chosen)}", COLUMNS) if chosen else []
        if self.maker is not None:
            return "\n".join([named(self.maker), *priors])
        head = ("block", "move", "decides per", "dims", "passes", "why")
        table = [head, *([] if self.surrogate is None else self._whitened_rows(self.surrogate))]
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
        if self.collapsed is not None:
            summed = f"no passes over the {target.data.n_rows:,} rows, which are summed up once"
            return "\n".join([*lines, summed, *priors])
        lines.append(
            f"{self.passes} passes over {self.held_rows:,} held rows ({target.data.n_rows:,} in the data) a sweep; "
            f"{target.space.dim:,} unconstrained dimensions"
        )
        lines += [f"no groupwise move for {plate!r}: {why}" for plate, why in self.structure.mixed.items()]
        lines += [f"not collapsed: {self.note}"] if self.note else []
        lines += [f"not whitened: {self.not_whitened}"] if self.not_whitened else []
        return "\n".join([*lines, *priors])


def whitened_plan(structure: Structure, surrogate: Surrogate, note: str) -> Plan:
    """The plan of a model whose effects and coefficients move in the coordinates of a Gaussian surrogate."""
    return Plan(structure, (), note, surrogate=surrogate)


def collapsed_plan(structure: Structure, found: Collapsed) -> Plan:
    """The plan of a model that `hiertorch.gaussian.collapse` integrates effects and coefficients out of."""
    move, why = CollapsedMove(structure.target, found), "all others are integrated out"
    if not found.rest:
        why = "nothing is left to sample"
    why += f", all at once and in blocks of {BLOCK}" if move.width > MOST_TOGETHER else ""
    if move.width > MOST_TOGETHER and found.sets == 1:
        covariances = covariances_of(found.affine, structure.reads, structure.target.space.coordinates)
        if move.width - sum(one.dimensions for one in covariances) > MOST_TOGETHER:
            covariances = ()  # what belongs to none has a proposal by itself beside them, for all of it at once
        move = CollapsedMove(structure.target, found, covariances)
        given = wording.listed(list(dict.fromkeys(name for one in covariances for name in one.latents)))
        why += f"; {given} given effects as well" if given else ""
    return Plan(structure, (Step(move, 1, why),))


def make_plan(
    structure: Structure, moves: Sequence[MoveSpec] | None = None, note: str = "", not_whitened: str = ""
) -> Plan:
    """The default plan of a model, or the moves that a user names.

    Raises:
        ModelError: if a named move is unknown, does not fit its block, or leaves a latent without any move.
    """
    if moves is None:
        asked = _default(structure)
    elif isinstance(moves, str) or not isinstance(moves, Sequence):
        raise ModelError(f"a plan is a list of moves such as [('joint', ['mu', 'beta'])], found {moves!r}.")
    else:
        asked = [Step(*_asked(spec), "named by the user") for spec in moves]
    plan = Plan(structure, tuple(asked), note, not_whitened=not_whitened).on(structure)
    # Effects that a non-centred move carries need a move of their own too: it keeps their place in their prior.
    moved = {name for move in plan.moves for name in move.block}
    if left := [name for name in structure.target.names if name not in moved]:
        raise ModelError(
            f"no move of the plan touches {', '.join(map(repr, left))}; add one, for example ('joint', {left!r})."
        )
    return plan


def _default(structure: Structure) -> list[Step]:
    """The moves that fit, on no density yet."""
    target, reads = structure.target, structure.reads
    coordinates = target.space.coordinates
    if target.opaque:
        return [Step(Joint(target.names), 1, "the model overrides log_prob, so nothing is known of its pieces")]
    steps = []
    population = tuple(name for name in target.names if coordinates[name].plate is None)
    grouped = [plate for plate in structure.plates if plate not in structure.mixed]
    loose = tuple(name for name in target.names if coordinates[name].plate in structure.mixed)
    effects = {p: [name for name in target.names if coordinates[name].plate == p] for p in structure.plates}
    for plate in grouped:
        steps.append(Step(Groupwise(effects[plate]), 1, f"groups of {plate} are independent given the rest"))
    unseen = tuple(name for name in population if not target.reads_rows([name]))
    seen = tuple(name for name in population if target.reads_rows([name]))
    repeats = REPEATS if grouped else 1
    if unseen:
        why = "no row reads them" if not target.prior_only else "the likelihood is left out"
        steps.append(Step(Centred(unseen) if grouped else Joint(unseen), repeats, why))
    if seen or loose:
        why = "rows read them" if not loose else "rows read them, or their groups are not independent"
        steps.append(Step(Joint((*seen, *loose)), repeats, why))
    parents = [
        tuple(name for name in population if any(name in reads.priors[effect] for effect in effects[plate]))
        for plate in structure.plates
    ]
    for block in filter(None, dict.fromkeys(parents)):
        carried = descendants(structure, block)
        if not structure.uncarried.keys() & carried:
            why = f"parents of {', '.join(carried)}, which keep their place in them"
            beside = tuple(name for name in seen if name not in block) if target.reads_rows(carried) else ()
            whole = tuple(name for name in population if name in (*block, *beside))
            if beside and sum(coordinates[name].size * coordinates[name].width for name in whole) <= WIDEST:
                block, why = whole, f"{why}, with what rows read beside them"
            steps.append(Step(NonCentred(block), 1, why))
    for block in ridges(structure):
        steps.append(Step(Shift(block), 1, f"rows read the sum of {block[0]} and each of the others"))
    return steps


def _asked(spec: object) -> tuple[Move, int]:
    """The move that an entry of a plan asks for, on no density yet, and how often it is to run in a sweep."""
    parts = spec if isinstance(spec, list | tuple) else (spec,)
    if parts and isinstance(parts[0], Move) and len(parts) <= 2:
        move, repeats = parts[0], parts[1:]
        if not isinstance(getattr(move, "block", None), tuple):
            raise ModelError(f"move {move!r} has no block of latents: its __init__ calls super().__init__(block).")
    elif len(parts) in (2, 3) and isinstance(parts[1], list | tuple):
        kinds = [of.kind for of in NAMED]
        if parts[0] not in kinds:
            names = ", ".join(map(repr, kinds))
            raise ModelError(f"unknown move {parts[0]!r}; there are {names}, and 'collapsed' or 'whitened' alone.")
        move, repeats = NAMED[kinds.index(parts[0])](parts[1]), parts[2:]
    else:
        what = f"found {spec!r}" + (", a class: call it" if isinstance(spec, type) and issubclass(spec, Move) else "")
        raise ModelError(
            "a move is a kind, a list of latents and perhaps repeats, as in ('joint', ['mu'], 2), or a "
            f"hiertorch.moves.base.Move; {what}."
        )
    often = repeats[0] if repeats else 1
    if not move.block or isinstance(often, bool) or not isinstance(often, int) or often < 1:
        raise ModelError(
            f"move {move.kind!r} needs at least one latent and one repeat, found {move.block!r} and {often!r}."
        )
    return move, often
