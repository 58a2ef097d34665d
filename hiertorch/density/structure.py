"""What reads what: the dependency graph of a model, found by recording; the independence of groups, by probing.

Note [Proof by probing]
A groupwise decision is exact only if no term of the density reads two groups of the plate. So the effects of a random
half of the groups are moved, near by and to other draws from the prior, and every term that belongs to the other half
must stay the same, bit for bit, in several such trials. A term that mixes groups (`v.alpha - v.alpha.mean(1,
keepdim=True)`) changes and is found; then the plate has no groupwise move, and the plan says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hiertorch.data.table import Data
from hiertorch.density.rows import Rows
from hiertorch.density.space import Coordinate, Space
from hiertorch.density.target import Target
from hiertorch.model.declared import overrides
from hiertorch.model.model import Model
from hiertorch.model.reads import Reads
from hiertorch.model.transport import is_standard, location_scale, untransportable
from hiertorch.runtime.validating import validation

TRIALS = 3
"""Of a proof by probing: near by, and to two other draws from the prior."""


@dataclass(frozen=True)
class Structure:
    """The target, and what is known about its plates."""

    target: Target
    reads: Reads
    plates: tuple[str, ...]  # those with latents, finest first
    mixed: dict[str, str] = field(default_factory=dict)  # plate -> why its groups are not independent
    located: frozenset[str] = frozenset()  # group-level latents whose prior has a location and a scale
    standard: frozenset[str] = frozenset()  # those of them that are location + scale z, element by element
    uncarried: dict[str, str] = field(default_factory=dict)  # group-level latent -> why it can't follow its parents
    probed: Mapping[str, Tensor] = field(default_factory=dict, compare=False)  # what `probe` gives, if it was asked

    def to(self, device: torch.device | str) -> "Structure":
        """The same for the target on another device."""
        return replace(
            self, target=self.target.to(device), probed={name: x.to(device) for name, x in self.probed.items()}
        )


def coordinates_of(model: Model, reads: Reads) -> dict[str, Coordinate]:
    """Plate, shape and bijection of every latent."""
    return {
        name: Coordinate.make(latent.plate, reads.values[name].shape[1:], reads.distributions[name].support)
        for name, latent in model.latents.items()
    }


def priors_alone(model: Model, data: Data, reads: Reads) -> Structure:
    """The structure of a model whose rows are held elsewhere, as `hiertorch.gaussian.grams` does: its target is the
    prior.
    """
    space = Space(coordinates_of(model, reads)).to(data.device, data.dtype)
    row = Rows(data.take(torch.zeros(1, dtype=torch.long, device=data.device)), (), blocked=False)
    target = Target(model, data, space, reads.priors, (), row, prior_only=True)
    return Structure(target, reads, _finest_first(data, {c.plate for c in space.coordinates.values() if c.plate}))


def analyse(model: Model, data: Data, reads: Reads, *, prior_only: bool = False) -> Structure:
    """The target of a model that `hiertorch.model.checks.inspect` found sound, with what its plates allow."""
    coordinates = coordinates_of(model, reads)
    space = Space(coordinates)
    opaque = overrides(model, "log_prob") and not prior_only
    plates = _finest_first(data, {c.plate for c in coordinates.values() if c.plate is not None})

    def target(rows: Rows) -> Target:
        return Target(model, data, space, reads.priors, reads.likelihood, rows, prior_only=prior_only, opaque=opaque)

    read = {c.plate for name, c in coordinates.items() if name in reads.likelihood}
    summed = () if opaque or prior_only else tuple(plate for plate in plates if plate in read)
    built = target(Rows(data, summed, blocked=False))
    if opaque:
        return Structure(built, reads, plates, {plate: "the model overrides log_prob" for plate in plates})
    with validation(False), torch.no_grad():
        free = probe(built, reads)
        mixed = {plate: why for plate in plates if (why := _mixes(built, plate, free))}
        uncarried = {
            name: why
            for name, c in coordinates.items()
            if c.plate is not None and (why := _uncarried(built, name, free))
        }
        if not prior_only:
            apart = tuple(plate for plate in summed if plate not in mixed)
            blocked = Rows(data, apart)
            built = target(blocked if agrees(built, blocked, free) else Rows(data, apart, blocked=False))
    located = frozenset(
        name for name, c in coordinates.items() if c.plate and location_scale(reads.distributions[name]) is not None
    )
    standard = frozenset(name for name in located if is_standard(reads.distributions[name]))
    return Structure(built, reads, plates, mixed, located, standard, uncarried, free)


def probe(target: Target, reads: Reads) -> dict[str, Tensor]:
    """A draw from the prior for each of a few chains, unconstrained. One whose density is not finite moves towards the
    others, and then towards 0, until it is.
    """
    drawn = target.space.unconstrain(reads.values)
    middle = {name: u.nanmedian(0, keepdim=True).values for name, u in drawn.items()}
    free = drawn
    for inwards, centred in ((0.3, 1.0), (0.1, 1.0), *((f, 0.0) for f in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001))):
        bad = ~torch.isfinite(target.state(free).log_density())
        if not bool(bad.any()):
            break
        nearer = {name: centred * middle[name] + inwards * (u - centred * middle[name]) for name, u in drawn.items()}
        free = {name: torch.where(bad.reshape(-1, *(1,) * (u.dim() - 1)), nearer[name], u) for name, u in free.items()}
    return free


def agrees(target: Target, rows: Rows, free: Mapping[str, Tensor]) -> bool:
    """Whether the likelihood gives each row the same density when rows are sorted and repeated, as `Rows` does."""
    values = target.space.constrain(free)
    user = target.row_terms(values, target.data)
    try:
        held = target.row_terms(values, rows.data)
    except Exception:  # such as a buffer of the model with one entry for each of the user's rows
        return False
    close = torch.finfo(user.dtype).eps ** 0.5
    return torch.allclose(user[:, rows.source], held, rtol=close, atol=close, equal_nan=True)


def _finest_first(data: Data, plates: set[str]) -> tuple[str, ...]:
    """Children before parents; otherwise the larger plate first."""
    rest = sorted(plates, key=lambda p: (-data.size(p), p))
    order: list[str] = []
    while rest:
        finest = next(
            (p for p in rest if not any(q != p and data.nests(q, p) and not data.nests(p, q) for q in rest)), rest[0]
        )
        order.append(finest)
        rest.remove(finest)
    return tuple(order)


def _mixes(target: Target, plate: str, free: Mapping[str, Tensor]) -> str | None:
    """Why the groups of a plate are not independent given the rest, or None. See Note [Proof by probing]."""
    coordinates, data = target.space.coordinates, target.data
    block = [name for name, c in coordinates.items() if c.plate == plate]
    size = data.size(plate)
    rows = bool(target.likelihood_reads & set(block))
    values = target.space.constrain(free)
    before = {name: target.prior_term(name, free[name], values) for name in target.priors_touched(block)}
    row_before = target.row_terms(values, data) if rows else None
    if not all(_finite_somewhere(part) for part in (*before.values(), row_before) if part is not None):
        return "the log density is not finite at the places where the model was probed"
    generator = torch.Generator("cpu").manual_seed(0)
    for trial in range(TRIALS):
        moves = (torch.rand(size, generator=generator, dtype=torch.float32, device="cpu") < 0.5).to(data.device)
        jump = {
            name: torch.where(
                moves.reshape(-1, *(1,) * len(coordinates[name].free_event)), _elsewhere(free[name], trial), free[name]
            )
            for name in block
        }
        moved_free = {**free, **jump}
        moved_values = {**values, **target.space.constrain(jump)}
        for name, term in before.items():
            other = coordinates[name].plate
            if other != plate and (other is None or not data.nests(other, plate)):
                return f"the prior of {name!r} reads several groups of {plate!r}"
            may_change = moves if other == plate else moves[data.parents(other, plate)]
            after = target.prior_term(name, moved_free[name], moved_values)
            if _changed(after, term, ~may_change):
                return f"the prior of {name!r} mixes groups of {plate!r}"
        if row_before is not None:
            after = target.row_terms(moved_values, data)
            if _changed(after, row_before, ~moves[data.codes[plate]]):
                return f"the likelihood of a row reads effects of other groups of {plate!r} than its own"
    return None


def _elsewhere(u: Tensor, trial: int) -> Tensor:
    """Near by at first, then where the other chains are, since what has kinks or steps may not change near by."""
    return u.roll(trial, 0) if trial and len(u) > trial else u + 0.1


def _finite_somewhere(terms: Tensor) -> bool:
    """Whether every group, or row, has a finite term in some chain: others can't be seen to change."""
    return bool(torch.isfinite(terms).any(0).all())


def _changed(after: Tensor, before: Tensor, still: Tensor) -> bool:
    same = (after == before) | (torch.isnan(after) & torch.isnan(before))
    return bool((~same & still).any())


def _uncarried(target: Target, name: str, free: Mapping[str, Tensor]) -> str | None:
    """Why a group-level latent can't follow its parents, or None. Its prior has to cancel against the Jacobian."""
    if overrides(target.model, "log_prior_term"):
        return "the model overrides log_prior_term, so that its prior need not be the one that is declared"
    here = target.prior(name, target.space.constrain(free))
    for trial in range(TRIALS):
        other = target.space.constrain({k: _elsewhere(u, trial) for k, u in free.items()})
        if (why := untransportable(here, target.prior(name, other))) is not None:
            return why
    return None
